//! The promises of `plan`, against brute force on tiny clusters and against counting on larger ones.

use super::*;
use crate::initial::place;
use docent_types::Keyspace;
use proptest::prelude::*;
use proptest::sample::subsequence;

const USERS: Keyspace = Keyspace::Users;
const ITEMS: Keyspace = Keyspace::Items;

/// A placement and who may hold it.
#[derive(Clone, Debug)]
struct Cluster {
    shards: Vec<Placed>,
    candidates: Vec<Candidate>,
    replication: u8,
}

impl Cluster {
    fn plan(&self) -> Vec<Change> {
        plan(&self.shards, &self.candidates, self.replication)
    }

    /// Carries a change out as a coordinator would, and checks that it can be.
    fn carry_out(&mut self, change: Change) {
        assert!(self.zone(change.to).is_some(), "{change:?} goes to a candidate");
        let placed = self.shards.iter_mut().find(|placed| placed.shard == change.shard).unwrap();
        assert!(!placed.nodes.contains(&change.to), "{change:?}: two replicas on a node");
        match change.from {
            Some(from) => {
                let place = placed.nodes.iter().position(|&node| node == from).unwrap();
                placed.nodes[place] = change.to;
            }
            None => placed.nodes.push(change.to),
        }
    }

    fn after(&self, changes: &[Change]) -> Cluster {
        let mut cluster = self.clone();
        changes.iter().for_each(|&change| cluster.carry_out(change));
        cluster
    }

    fn zone(&self, node: NodeId) -> Option<&str> {
        self.candidates.iter().find(|c| c.node == node).map(|c| c.zone.as_str())
    }

    /// Replicas on each candidate.
    fn loads(&self, keyspaces: &[Keyspace]) -> Vec<i64> {
        let of = |node| {
            let holds = |placed: &&Placed| keyspaces.contains(&placed.shard.keyspace) && placed.nodes.contains(&node);
            self.shards.iter().filter(holds).count() as i64
        };
        self.candidates.iter().map(|candidate| of(candidate.node)).collect()
    }

    /// Pairs of a shard's replicas on candidates that share a zone.
    fn pairs(&self, placed: &Placed) -> i64 {
        let mut zones = BTreeMap::<&str, i64>::new();
        placed.nodes.iter().filter_map(|&node| self.zone(node)).for_each(|zone| *zones.entry(zone).or_default() += 1);
        zones.values().map(|n| n * (n - 1) / 2).sum()
    }

    /// What a placement at rest makes least: shared zones, squares of loads per keyspace, squares of totals.
    fn unrest(&self) -> [i64; 3] {
        let squares = |keyspaces: &[Keyspace]| self.loads(keyspaces).into_iter().map(|n| n * n).sum::<i64>();
        let pairs = self.shards.iter().map(|placed| self.pairs(placed)).sum();
        [pairs, squares(&[USERS]) + squares(&[ITEMS]), squares(&[USERS, ITEMS])]
    }

    /// Replicas each shard should end with on candidates.
    fn wanted(&self, placed: &Placed) -> usize {
        placed.nodes.len().max(usize::from(self.replication)).min(self.candidates.len())
    }

    fn drain(&mut self, node: u64) {
        self.candidates.retain(|candidate| candidate.node != NodeId(node));
    }

    fn join(&mut self, node: u64, zone: &str) {
        self.candidates.push(Candidate { node: NodeId(node), zone: zone.into() });
    }
}

fn candidates(nodes: u64, zones: u64) -> Vec<Candidate> {
    (1..=nodes).map(|node| Candidate { node: NodeId(node), zone: format!("z{}", node % zones) }).collect()
}

fn fresh(users: u16, items: u16, replication: u8, candidates: Vec<Candidate>) -> Cluster {
    let shards = place(users, items, replication, &candidates, 1).unwrap();
    let placed = |nodes: Vec<NodeId>, shard| Placed { shard, nodes };
    let shards = shards.iter().map(|s| placed(s.replicas.iter().map(|r| r.node).collect(), s.id)).collect();
    Cluster { shards, candidates, replication }
}

fn cluster(shards: &[(Keyspace, &[u64])], candidates: Vec<Candidate>, replication: u8) -> Cluster {
    let placed = |(index, (keyspace, nodes)): (u16, &(Keyspace, &[u64]))| Placed {
        shard: ShardId { keyspace: *keyspace, index },
        nodes: nodes.iter().copied().map(NodeId).collect(),
    };
    Cluster { shards: (0..).zip(shards).map(placed).collect(), candidates, replication }
}

fn spread(loads: &[i64]) -> i64 {
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0)
}

/// Fewest changes to a placement at rest, by looking at every placement there is.
fn fewest_by_brute_force(cluster: &Cluster) -> usize {
    let nodes: Vec<NodeId> = cluster.candidates.iter().map(|c| c.node).collect();
    let mut ends = vec![(cluster.clone(), 0)];
    for i in 0..cluster.shards.len() {
        let (placed, wanted) = (&cluster.shards[i], cluster.wanted(&cluster.shards[i]));
        let subsets = (0u32..1 << nodes.len()).filter(|bits| bits.count_ones() as usize == wanted);
        let choices = subsets.map(|bits| (0..nodes.len()).filter(|n| bits & (1 << n) != 0).map(|n| nodes[n]).collect());
        let choices: Vec<Vec<NodeId>> = choices.collect();
        let with = |(end, changes): &(Cluster, usize), choice: &Vec<NodeId>| {
            let mut end = end.clone();
            end.shards[i].nodes = choice.clone();
            (end, changes + choice.iter().filter(|node| !placed.nodes.contains(node)).count())
        };
        ends = ends.iter().flat_map(|end| choices.iter().map(move |choice| with(end, choice))).collect();
    }
    ends.iter().map(|(end, changes)| (end.unrest(), *changes)).min().unwrap().1
}

/// No plan can do with less: evacuated and missing replicas come anew, and so does all that a node is short of; what a node
/// has too much goes.
fn fewest_by_counting(cluster: &Cluster) -> i64 {
    let nodes = cluster.candidates.len() as i64;
    let live = |placed: &Placed| placed.nodes.iter().filter(|node| cluster.zone(**node).is_some()).count();
    let bound = |keyspaces: &[Keyspace]| {
        let of = || cluster.shards.iter().filter(|placed| keyspaces.contains(&placed.shard.keyspace));
        let anew: i64 = of().map(|placed| cluster.wanted(placed) as i64 - live(placed) as i64).sum();
        let all: i64 = of().map(|placed| cluster.wanted(placed) as i64).sum();
        let (floor, ceil) = (all / nodes, (all + nodes - 1) / nodes);
        let loads = cluster.loads(keyspaces);
        let surplus: i64 = loads.iter().map(|load| (load - ceil).max(0)).sum();
        let short: i64 = loads.iter().map(|load| (floor - load).max(0)).sum();
        (anew + surplus).max(short)
    };
    bound(&[USERS, ITEMS]).max(bound(&[USERS]) + bound(&[ITEMS]))
}

/// Clusters in any state: dead and draining nodes (not candidates), joins (candidates without replicas), missing and too many
/// replicas.
fn any_cluster(shards: usize, nodes: u64, zones: u64, replication: u8) -> impl Strategy<Value = Cluster> {
    let all: Vec<u64> = (1..=nodes).collect();
    let held = subsequence(all.clone(), 1..=usize::from(replication).min(all.len()));
    let candidates = subsequence(candidates(nodes, zones), 1..=all.len());
    (proptest::collection::vec((any::<bool>(), held), 1..=shards), candidates, 1..=replication).prop_map(
        |(shards, candidates, replication)| {
            let shards: Vec<_> =
                shards.iter().map(|(users, nodes)| (if *users { USERS } else { ITEMS }, nodes.as_slice())).collect();
            cluster(&shards, candidates, replication)
        },
    )
}

#[test]
fn nothing_to_plan_is_an_empty_plan() {
    assert_eq!(plan(&[], &candidates(3, 1), 3), []);
    assert_eq!(fresh(8, 4, 3, candidates(3, 1)).after(&[]).plan(), []);
    let mut nowhere = fresh(8, 4, 3, candidates(3, 1));
    nowhere.candidates.clear();
    assert_eq!(nowhere.plan(), []);
}

#[test]
fn a_replica_without_an_eligible_destination_stays() {
    let mut cluster = fresh(8, 4, 3, candidates(3, 1));
    cluster.drain(2);
    assert_eq!(cluster.plan(), []);
    cluster.join(4, "z0");
    let plan = cluster.plan();
    assert_eq!(plan.len(), 12);
    assert!(plan.iter().all(|change| change.from == Some(NodeId(2)) && change.to == NodeId(4)));
}

#[test]
fn the_most_urgent_come_first() {
    // 9 is dead. Shard 1 has no live replica, shard 0 one, shard 2 lacks one, and node 1 holds most.
    let cluster = cluster(
        &[(USERS, &[1, 9]), (USERS, &[8, 9]), (USERS, &[1]), (USERS, &[1, 2]), (USERS, &[1, 2]), (USERS, &[1, 2])],
        candidates(4, 1),
        2,
    );
    let plan = cluster.plan();
    let indices: Vec<u16> = plan.iter().map(|change| change.shard.index).collect();
    assert_eq!(indices[..4], [1, 0, 1, 2], "{plan:?}");
    assert!(plan[..3].iter().all(|change| change.from.is_some_and(|from| from.0 >= 8)), "{plan:?}");
    assert_eq!(plan[3].from, None);
    assert!(plan[4..].iter().all(|change| change.from == Some(NodeId(1))), "{plan:?}");
}

#[test]
fn a_replica_makes_way_where_the_only_room_is_on_a_holder() {
    // 9 is dead; shard 0 can only go to 2, which is full, so that shard 1 moves on to 1.
    let cluster = cluster(&[(USERS, &[1, 9]), (USERS, &[2]), (USERS, &[2])], candidates(2, 1), 1);
    let plan = cluster.plan();
    assert_eq!(plan.len(), 2, "{plan:?}");
    assert_eq!(cluster.after(&plan).loads(&[USERS]), [2, 2]);
}

#[test]
fn a_planner_for_the_largest_cluster_comes_to_rest() {
    let mut cluster = fresh(64, 64, 5, candidates(50, 5));
    (1..=5).for_each(|node| cluster.drain(node));
    (51..=60).for_each(|node| cluster.join(node, &format!("z{}", node % 5)));
    let plan = cluster.plan();
    assert_eq!(plan.len() as i64, fewest_by_counting(&cluster));
    let after = cluster.after(&plan);
    assert_eq!(after.plan(), []);
    assert!(spread(&after.loads(&[USERS, ITEMS])) <= 1);
    assert_eq!(after.unrest()[0], 0, "five zones, five replicas");
}

proptest! {
    #[test]
    fn no_plan_has_fewer_changes(cluster in any_cluster(4, 5, 1, 3)) {
        prop_assert_eq!(cluster.plan().len(), fewest_by_brute_force(&cluster));
    }

    #[test]
    fn no_plan_with_zones_has_fewer_changes(cluster in any_cluster(4, 5, 3, 3)) {
        prop_assert_eq!(cluster.plan().len(), fewest_by_brute_force(&cluster));
    }

    #[test]
    fn after_any_prefix_the_rest_of_the_plan_remains(cluster in any_cluster(14, 9, 1, 4)) {
        let plan = cluster.plan();
        prop_assert!(plan.len() as i64 >= fewest_by_counting(&cluster));
        for done in 0..=plan.len() {
            prop_assert_eq!(cluster.after(&plan[..done]).plan().len(), plan.len() - done);
        }
    }

    #[test]
    fn with_zones_too_the_rest_of_the_plan_remains(cluster in any_cluster(14, 9, 3, 5)) {
        let plan = cluster.plan();
        for done in 0..=plan.len() {
            prop_assert_eq!(cluster.after(&plan[..done]).plan().len(), plan.len() - done);
        }
    }

    #[test]
    fn at_rest_every_shard_is_whole_and_every_node_has_its_share(cluster in any_cluster(20, 9, 1, 4)) {
        let after = cluster.after(&cluster.plan());
        for (placed, before) in after.shards.iter().zip(&cluster.shards) {
            let live = placed.nodes.iter().filter(|node| after.zone(**node).is_some()).count();
            prop_assert_eq!(live, cluster.wanted(before));
            prop_assert!(placed.nodes.len() <= before.nodes.len().max(usize::from(cluster.replication)));
        }
        for keyspaces in [&[USERS][..], &[ITEMS], &[USERS, ITEMS]] {
            prop_assert!(spread(&after.loads(keyspaces)) <= 1, "{:?}: {:?}", keyspaces, after.loads(keyspaces));
        }
    }

    #[test]
    fn no_replica_moves_twice_and_none_moves_back(cluster in any_cluster(20, 9, 2, 4)) {
        let plan = cluster.plan();
        let from: Vec<_> = plan.iter().filter_map(|change| Some((change.shard, change.from?))).collect();
        prop_assert!(plan.iter().all(|change| !from.contains(&(change.shard, change.to))));
        prop_assert_eq!(from.iter().collect::<BTreeSet<_>>().len(), from.len());
    }

    #[test]
    fn no_balancing_move_worsens_a_shards_zone_spread(mut cluster in any_cluster(20, 9, 4, 5)) {
        for change in cluster.plan() {
            let i = cluster.shards.iter().position(|placed| placed.shard == change.shard).unwrap();
            let before = cluster.pairs(&cluster.shards[i]);
            let balances = change.from.is_some_and(|from| cluster.zone(from).is_some());
            let nodes = cluster.shards[i].nodes.clone();
            cluster.carry_out(change);
            let after = cluster.pairs(&cluster.shards[i]);
            if balances {
                prop_assert!(after <= before, "{:?}: {} pairs, then {}", change, before, after);
            } else {
                let least = cluster.candidates.iter().filter(|c| !nodes.contains(&c.node)).map(|c| {
                    let with = nodes.iter().copied().filter(|n| Some(*n) != change.from).chain([c.node]);
                    cluster.pairs(&Placed { shard: change.shard, nodes: with.collect() })
                });
                prop_assert_eq!(Some(after), least.min(), "{:?} goes where it shares least", change);
            }
        }
    }

    #[test]
    fn a_fresh_cluster_is_at_rest(users in 1u16..=64, items in 1u16..=64, replication in 1u8..=5, more in 0u64..=8) {
        let cluster = fresh(users, items, replication, candidates(u64::from(replication) + more, 1));
        prop_assert_eq!(cluster.plan(), []);
    }

    #[test]
    fn a_join_moves_the_new_nodes_share_and_no_more(
        users in 1u16..=64, items in 1u16..=64, replication in 1u8..=5, more in 0u64..=8,
    ) {
        let mut cluster = fresh(users, items, replication, candidates(u64::from(replication) + more, 1));
        cluster.join(100, "z0");
        let plan = cluster.plan();
        let share = usize::from(users + items) * usize::from(replication) / cluster.candidates.len();
        prop_assert_eq!(plan.len(), share);
        prop_assert!(plan.iter().all(|change| change.to == NodeId(100) && change.from.is_some()));
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(cluster in any_cluster(10, 7, 2, 3)) {
        let mut turned = cluster.clone();
        turned.shards.reverse();
        turned.candidates.reverse();
        turned.shards.iter_mut().for_each(|placed| placed.nodes.reverse());
        prop_assert_eq!(cluster.plan(), turned.plan());
    }
}
