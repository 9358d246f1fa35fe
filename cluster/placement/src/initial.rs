//! The first placement of a cluster: equal slot ranges, replicas on distinct nodes and, where there are enough, distinct zones.

use docent_types::catalog::{Replica, Shard};
use docent_types::{Keyspace, NodeId, ReplicaId, SLOTS, ShardId, SlotRange};

/// Virtual workers of a keyspace; shard boundaries fall on theirs, so that a worker's input never spans two shards.
pub const VIRTUAL_WORKERS: u16 = 64;
/// Slots of one virtual worker.
pub const WORKER_SLOTS: u16 = SLOTS / VIRTUAL_WORKERS;

/// A node that can hold replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub node: NodeId,
    /// Its failure zone.
    pub zone: String,
}

/// Why no placement exists.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Shards must divide evenly into virtual workers.
    #[error("{0} shards of a keyspace: must be 1 to {VIRTUAL_WORKERS}")]
    Shards(u16),
    /// Fewer nodes than replicas.
    #[error("replication {replication} needs as many nodes; there are {nodes}")]
    TooFewNodes {
        /// Wanted replicas of each shard.
        replication: u8,
        /// Nodes there are.
        nodes: usize,
    },
}

/// The slot ranges of `shards` shards: contiguous, on virtual-worker boundaries, sizes differ by at most one worker.
pub fn ranges(shards: u16) -> Result<Vec<SlotRange>, Error> {
    if shards == 0 || shards > VIRTUAL_WORKERS {
        return Err(Error::Shards(shards));
    }
    let boundary = |i: u16| (u32::from(i) * u32::from(VIRTUAL_WORKERS) / u32::from(shards)) as u16 * WORKER_SLOTS;
    Ok((0..shards).map(|i| SlotRange { first: boundary(i), end: boundary(i + 1) }).collect())
}

/// Places both keyspaces. Replica ids count up from `first_replica`, which the caller makes unique for ever (the index of the
/// catalog entry times the most replicas an entry can make). The first replica of each shard is the wished leader: those are
/// spread evenly too.
pub fn place(
    user_shards: u16,
    item_shards: u16,
    replication: u8,
    candidates: &[Candidate],
    first_replica: u64,
) -> Result<Vec<Shard>, Error> {
    if candidates.len() < usize::from(replication) || replication == 0 {
        return Err(Error::TooFewNodes { replication, nodes: candidates.len() });
    }
    let mut load = Load::new(candidates);
    let mut next = first_replica;
    let mut shards = Vec::new();
    for (keyspace, count) in [(Keyspace::Users, user_shards), (Keyspace::Items, item_shards)] {
        for (index, slots) in (0u16..).zip(ranges(count)?) {
            let replicas = load.choose(replication).into_iter().map(|node| {
                next += 1;
                Replica { id: ReplicaId(next - 1), node }
            });
            let replicas = replicas.collect();
            shards.push(Shard { id: ShardId { keyspace, index }, slots, replicas, membership: 0, change: None });
        }
    }
    Ok(shards)
}

/// Replicas and wished leaders each candidate has so far.
struct Load {
    nodes: Vec<(Candidate, u32, u32)>,
    zones: usize,
}

impl Load {
    fn new(candidates: &[Candidate]) -> Load {
        let mut nodes: Vec<_> = candidates.iter().map(|candidate| (candidate.clone(), 0, 0)).collect();
        nodes.sort_by_key(|(candidate, ..)| candidate.node);
        let zones: std::collections::BTreeSet<&str> = candidates.iter().map(|c| c.zone.as_str()).collect();
        Load { zones: zones.len(), nodes }
    }

    /// The least loaded nodes, one a zone while zones last; the one that leads least comes first.
    fn choose(&mut self, replication: u8) -> Vec<NodeId> {
        let mut chosen: Vec<usize> = Vec::new();
        for _ in 0..replication {
            let uses = |zone: &str| chosen.iter().filter(|&&i| self.nodes[i].0.zone == zone).count();
            let best = (0..self.nodes.len()).filter(|i| !chosen.contains(i)).min_by_key(|&i| {
                (if self.zones > 1 { uses(&self.nodes[i].0.zone) } else { 0 }, self.nodes[i].1, self.nodes[i].0.node)
            });
            // `place` has checked that there are at least `replication` nodes.
            let Some(best) = best else { break };
            chosen.push(best);
        }
        chosen.sort_by_key(|&i| (self.nodes[i].2, self.nodes[i].0.node));
        for (rank, &i) in chosen.iter().enumerate() {
            self.nodes[i].1 += 1;
            self.nodes[i].2 += u32::from(rank == 0);
        }
        chosen.into_iter().map(|i| self.nodes[i].0.node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn candidates(nodes: u64, zones: u64) -> Vec<Candidate> {
        (1..=nodes).map(|node| Candidate { node: NodeId(node), zone: format!("z{}", node % zones.max(1)) }).collect()
    }

    #[test]
    fn three_nodes_share_three_replicas_evenly() {
        let shards = place(8, 4, 3, &candidates(3, 1), 100).unwrap();
        assert_eq!(shards.len(), 12);
        let mut leaders = BTreeMap::<NodeId, u32>::new();
        shards.iter().for_each(|shard| *leaders.entry(shard.replicas[0].node).or_default() += 1);
        assert_eq!(leaders.into_values().collect::<Vec<_>>(), [4, 4, 4]);
    }

    #[test]
    fn too_few_nodes_are_refused() {
        assert_eq!(place(8, 4, 3, &candidates(2, 1), 0), Err(Error::TooFewNodes { replication: 3, nodes: 2 }));
        assert_eq!(ranges(65), Err(Error::Shards(65)));
        assert_eq!(ranges(0), Err(Error::Shards(0)));
    }

    proptest! {
        #[test]
        fn ranges_cover_every_slot_once_on_worker_boundaries(shards in 1u16..=64) {
            let ranges = ranges(shards).unwrap();
            prop_assert_eq!(ranges[0].first, 0);
            prop_assert_eq!(ranges[ranges.len() - 1].end, SLOTS);
            for pair in ranges.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].first);
            }
            prop_assert!(ranges.iter().all(|r| r.first % WORKER_SLOTS == 0 && r.first < r.end));
        }

        #[test]
        fn replicas_sit_apart_and_even(nodes in 1u64..12, zones in 1u64..5, users in 1u16..32, items in 1u16..16, wanted in 1u8..5) {
            let replication = wanted.min(nodes as u8);
            let candidates = candidates(nodes, zones);
            let shards = place(users, items, replication, &candidates, 1).unwrap();
            let zone_of: BTreeMap<NodeId, &str> = candidates.iter().map(|c| (c.node, c.zone.as_str())).collect();
            let zone_count = zone_of.values().collect::<BTreeSet<_>>().len();
            let mut ids = BTreeSet::new();
            let mut load = BTreeMap::<NodeId, u32>::new();
            for shard in &shards {
                let on: BTreeSet<NodeId> = shard.replicas.iter().map(|r| r.node).collect();
                prop_assert_eq!(on.len(), usize::from(replication));
                let zones: BTreeSet<&str> = on.iter().map(|n| zone_of[n]).collect();
                prop_assert_eq!(zones.len(), zone_count.min(usize::from(replication)));
                shard.replicas.iter().for_each(|r| { ids.insert(r.id); *load.entry(r.node).or_default() += 1; });
            }
            prop_assert_eq!(ids.len(), shards.len() * usize::from(replication), "replica ids are unique");
            if zone_count == 1 {
                let loads: Vec<u32> = candidates.iter().map(|c| load.get(&c.node).copied().unwrap_or(0)).collect();
                let (min, max) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
                prop_assert!(max - min <= 1, "{:?}", loads);
            }
        }
    }
}
