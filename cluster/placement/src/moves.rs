//! Which replicas move, and where, when nodes come, go or die: the fewest changes that bring the placement to rest.
//!
//! At rest every shard has its replicas on candidates and, in this order of weight,
//! 1. as few pairs of a shard's replicas as possible share a zone (spread wins over balance);
//! 2. the replicas of each keyspace are as even over the nodes as that allows: floor or ceil of the average with one zone;
//! 3. the totals over both keyspaces are as even as that allows: floor or ceil of their average with one zone.
//!
//! With one zone that rest always exists: `x[shard][node] = replicas / nodes` meets every bound, and the bounds of a keyspace lie
//! inside those of the total, so that this is a network flow and has a whole-numbered solution too. Of all placements at rest
//! the flow takes one that keeps the most replicas where they are, and each change makes one kept replica more: hence the
//! fewest changes, and one fewer after each that is carried out, whatever the order.
//!
//! A counting bound alone (evacuated + missing + surplus) is not always reached: where every node with room holds the shard
//! already, another replica has to make way.

use crate::even::{CHANGED, Even};
use crate::flow::FREE;
use crate::initial::Candidate;
use docent_types::{NodeId, ShardId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A shard's replicas by node (as they will be once the moves under way are done).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The shard.
    pub shard: ShardId,
    /// The nodes that hold a replica of it.
    pub nodes: Vec<NodeId>,
}

/// One step: a replica moves from a node to another, or (`from: None`) one more replica is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The shard.
    pub shard: ShardId,
    /// The node that gives its replica up.
    pub from: Option<NodeId>,
    /// The node that gets one; it holds none of this shard.
    pub to: NodeId,
}

type Nodes = BTreeSet<NodeId>;
type Zones<'a> = BTreeMap<NodeId, &'a str>;

/// All changes that bring the placement to rest, most urgent first: evacuations, then replicas that are missing (both: shards
/// with the fewest replicas on candidates first), then moves for zone spread and balance.
///
/// `candidates` are the nodes that may hold replicas; a replica on any other node is evacuated, or stays where it is if each
/// candidate holds the shard. A shard grows to `replication` replicas or one on each candidate; one that has more keeps its
/// number. Every change can be carried out at once or in any order among different shards; changes of one shard in the order given.
pub fn plan(shards: &[Placed], candidates: &[Candidate], replication: u8) -> Vec<Change> {
    let zones: Zones<'_> = candidates.iter().map(|candidate| (candidate.node, candidate.zone.as_str())).collect();
    let mut held = BTreeMap::<ShardId, Nodes>::new();
    for placed in shards {
        held.entry(placed.shard).or_default().extend(&placed.nodes);
    }
    let rest = at_rest(&held, &zones, replication);
    let none = Nodes::new();
    let steps = held.iter().map(|(shard, nodes)| Steps::new(*shard, nodes, rest.get(shard).unwrap_or(&none), &zones));
    in_order(steps.collect(), &held, &zones)
}

/// The candidates that hold each shard once the plan is done.
fn at_rest(held: &BTreeMap<ShardId, Nodes>, zones: &Zones<'_>, replication: u8) -> BTreeMap<ShardId, Nodes> {
    let mut even = Even::new(zones.keys().copied());
    let mut choosers = Vec::new();
    for (&shard, nodes) in held {
        let chooser = even.chooser();
        let mut of_zone = BTreeMap::new();
        for (&node, &zone) in zones {
            let zone = *of_zone.entry(zone).or_insert_with(|| even.zone(chooser));
            even.offer(zone, shard, node, if nodes.contains(&node) { FREE } else { CHANGED });
        }
        let replicas = nodes.len().max(usize::from(replication)).min(zones.len());
        choosers.push((chooser, replicas));
    }
    for (chooser, replicas) in choosers {
        // There are at least as many offers as replicas, so that each finds its place.
        (0..replicas).all(|_| even.choose(chooser));
    }
    let mut rest = BTreeMap::<ShardId, Nodes>::new();
    for (shard, node) in even.chosen() {
        rest.entry(shard).or_default().insert(node);
    }
    rest
}

/// The changes of one shard. Each queue is carried out in its order, `evacuate` before `grow` before `balance`.
struct Steps {
    /// Replicas on candidates before any change.
    live: usize,
    evacuate: Vec<Change>,
    grow: Vec<Change>,
    /// With the pairs of replicas that cease to share a zone; never negative, see [`Steps::balance`].
    balance: VecDeque<(Change, i64)>,
}

impl Steps {
    fn new(shard: ShardId, held: &Nodes, rest: &Nodes, zones: &Zones<'_>) -> Steps {
        let (mut live, lost): (Nodes, Nodes) = held.iter().partition(|node| zones.contains_key(node));
        let leaving: Nodes = live.difference(rest).copied().collect();
        let mut arriving: Nodes = rest.difference(held).copied().collect();
        let mut steps = Steps { live: live.len(), evacuate: Vec::new(), grow: Vec::new(), balance: VecDeque::new() };
        // Each that leaves has an arrival of its own; the others replace lost replicas, then are new.
        let mut sources = lost.into_iter();
        for _ in leaving.len()..arriving.len() {
            let best = arriving.iter().copied().min_by_key(|&to| (pairs_with(to, &live, zones), to));
            let Some(to) = best else { break };
            arriving.remove(&to);
            live.insert(to);
            match sources.next() {
                Some(from) => steps.evacuate.push(Change { shard, from: Some(from), to }),
                None => steps.grow.push(Change { shard, from: None, to }),
            }
        }
        steps.balance(shard, live, leaving, arriving, zones);
        steps
    }

    /// Pairs those that leave with those that arrive, the best for the zone spread first. No step worsens the spread: pairs are
    /// convex in the replicas of each zone and the end has the fewest, so that from any placement some exchange towards the
    /// end adds none (the exchange property of M-convex functions: Murota, "Discrete Convex Analysis", 2003).
    fn balance(&mut self, shard: ShardId, mut live: Nodes, mut leaving: Nodes, mut arriving: Nodes, zones: &Zones<'_>) {
        while !leaving.is_empty() {
            let exchanges = leaving.iter().flat_map(|&from| arriving.iter().map(move |&to| (from, to)));
            let gains = exchanges.map(|(from, to)| {
                let shared = u8::from(zones.get(&from) == zones.get(&to));
                let gain = pairs_with(from, &live, zones) - (pairs_with(to, &live, zones) - i64::from(shared));
                (Reverse(gain), from, to)
            });
            let Some((Reverse(gain), from, to)) = gains.min() else { break };
            live.remove(&from);
            live.insert(to);
            leaving.remove(&from);
            arriving.remove(&to);
            self.balance.push_back((Change { shard, from: Some(from), to }, gain));
        }
    }
}

/// Others among `nodes` in the zone of `node`.
fn pairs_with(node: NodeId, nodes: &Nodes, zones: &Zones<'_>) -> i64 {
    let zone = zones.get(&node);
    nodes.iter().filter(|&&other| other != node && zones.get(&other) == zone).map(|_| 1).sum()
}

/// All steps, most urgent first.
fn in_order(mut shards: Vec<Steps>, held: &BTreeMap<ShardId, Nodes>, zones: &Zones<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut urgent: Vec<(bool, usize, Change)> = Vec::new();
    for steps in &shards {
        // Each step adds a live replica, which makes the shard's next less urgent.
        let (evacuated, grown) = (steps.evacuate.iter(), steps.grow.iter());
        urgent.extend(evacuated.zip(steps.live..).map(|(change, live)| (false, live, *change)));
        urgent.extend(grown.zip(steps.live + steps.evacuate.len()..).map(|(change, live)| (true, live, *change)));
    }
    urgent.sort_by_key(|&(grows, live, change)| (grows, live, change.shard));
    changes.extend(urgent.into_iter().map(|(.., change)| change));

    let mut loads = BTreeMap::<NodeId, i64>::new();
    held.values()
        .flatten()
        .filter(|node| zones.contains_key(node))
        .for_each(|&node| *loads.entry(node).or_default() += 1);
    changes.iter().for_each(|change| *loads.entry(change.to).or_default() += 1);
    let load = |loads: &BTreeMap<NodeId, i64>, node: NodeId| loads.get(&node).copied().unwrap_or(0);
    loop {
        let heads = shards.iter_mut().filter_map(|steps| {
            let &(change, gain) = steps.balance.front()?;
            let given = change.from.map_or(0, |from| load(&loads, from));
            Some(((Reverse(gain), Reverse(given - load(&loads, change.to)), change.shard), steps))
        });
        let next = heads.min_by_key(|(key, _)| *key).and_then(|(_, steps)| steps.balance.pop_front());
        let Some((change, _)) = next else { return changes };
        change.from.into_iter().for_each(|from| *loads.entry(from).or_default() -= 1);
        *loads.entry(change.to).or_default() += 1;
        changes.push(change);
    }
}

#[cfg(test)]
mod tests;
