//! Which replica should lead each shard, so that no node leads more than its share.
//!
//! A semi-matching of shards and eligible nodes (see `even`), found by augmenting paths: where a node that leads too much cannot
//! hand a shard to one that leads too little, it hands one to a third, which hands on another.

use crate::even::{CHANGED, Even};
use crate::flow::FREE;
use crate::moves::Placed;
use docent_types::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// The node that should lead each shard: of its eligible replicas, so that leaderships are even (per keyspace, and in total as
/// far as that allows), changing as few as possible from each shard's first eligible replica in the order given. Shards without
/// an eligible replica are absent.
///
/// Even is the least sum of squares, per keyspace and then in total: it is 1 between the nodes that lead most and least
/// wherever some choice of leaders is, and then as level as the placement lets it be.
pub fn wished(shards: &[Placed], eligible: &BTreeSet<NodeId>) -> BTreeMap<ShardId, NodeId> {
    let mut even = Even::new(eligible.iter().copied());
    let mut choosers = Vec::new();
    for placed in shards {
        let chooser = even.chooser();
        let nodes = placed.nodes.iter().filter(|&node| eligible.contains(node));
        for (rank, &node) in nodes.enumerate() {
            even.offer(chooser, placed.shard, node, if rank == 0 { FREE } else { CHANGED });
        }
        choosers.push(chooser);
    }
    for chooser in choosers {
        // False without an eligible replica: the shard stays absent.
        even.choose(chooser);
    }
    even.chosen().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::Keyspace;
    use proptest::prelude::*;

    type Leaders = BTreeMap<ShardId, NodeId>;

    fn placed(keyspace: Keyspace, index: u16, nodes: &[u64]) -> Placed {
        Placed { shard: ShardId { keyspace, index }, nodes: nodes.iter().copied().map(NodeId).collect() }
    }

    fn users(nodes: &[&[u64]]) -> Vec<Placed> {
        (0..).zip(nodes).map(|(index, nodes)| placed(Keyspace::Users, index, nodes)).collect()
    }

    fn eligible(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        nodes.into_iter().map(NodeId).collect()
    }

    fn counts(leaders: &Leaders, keyspaces: &[Keyspace], eligible: &BTreeSet<NodeId>) -> Vec<i64> {
        let led = |node: &NodeId| leaders.iter().filter(|(s, n)| keyspaces.contains(&s.keyspace) && *n == node).count();
        eligible.iter().map(|node| led(node) as i64).collect()
    }

    fn range(counts: &[i64]) -> i64 {
        counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
    }

    const BOTH: [Keyspace; 2] = [Keyspace::Users, Keyspace::Items];

    /// Squares per keyspace, squares of totals, changes: what `wished` makes least, counted afresh.
    fn weight(leaders: &Leaders, shards: &[Placed], eligible: &BTreeSet<NodeId>) -> [i64; 3] {
        let squares = |keyspaces| counts(leaders, keyspaces, eligible).into_iter().map(|n| n * n).sum::<i64>();
        let first = first(shards, eligible);
        let changes = leaders.iter().filter(|(shard, node)| first[shard] != **node).count();
        [squares(&BOTH[..1]) + squares(&BOTH[1..]), squares(&BOTH), changes as i64]
    }

    fn first(shards: &[Placed], eligible: &BTreeSet<NodeId>) -> Leaders {
        let first = |placed: &Placed| placed.nodes.iter().copied().find(|node| eligible.contains(node));
        shards.iter().filter_map(|placed| Some((placed.shard, first(placed)?))).collect()
    }

    fn all_choices(shards: &[Placed], eligible: &BTreeSet<NodeId>) -> Vec<Leaders> {
        shards.iter().fold(vec![Leaders::new()], |choices, placed| {
            let nodes: Vec<NodeId> = placed.nodes.iter().copied().filter(|node| eligible.contains(node)).collect();
            if nodes.is_empty() {
                return choices;
            }
            let with = |leaders: &Leaders, node| {
                let mut leaders = leaders.clone();
                leaders.insert(placed.shard, node);
                leaders
            };
            choices.iter().flat_map(|leaders| nodes.iter().map(move |&node| with(leaders, node))).collect()
        })
    }

    fn any_shards(shards: usize, nodes: u64) -> impl Strategy<Value = Vec<Placed>> {
        let nodes: Vec<u64> = (1..=nodes).collect();
        let replicas = (1..=3usize.min(nodes.len()))
            .prop_flat_map(move |replicas| proptest::sample::subsequence(nodes.clone(), replicas).prop_shuffle());
        proptest::collection::vec((any::<bool>(), replicas), 1..=shards).prop_map(|shards| {
            let keyspace = |users| if users { Keyspace::Users } else { Keyspace::Items };
            (0..).zip(shards).map(|(index, (users, nodes))| placed(keyspace(users), index, &nodes)).collect()
        })
    }

    #[test]
    fn a_chain_of_handovers_is_found_where_no_single_one_helps() {
        // 1 leads three, 2 leads two, 3 none, and no shard of 1 is on 3.
        let shards = users(&[&[1, 2], &[1, 2], &[1], &[2, 3], &[2]]);
        let leaders = wished(&shards, &eligible(1..=3));
        assert_eq!(counts(&leaders, &BOTH, &eligible(1..=3)), [2, 2, 1]);
    }

    #[test]
    fn a_shard_without_an_eligible_replica_has_no_wished_leader() {
        let shards = users(&[&[1, 2], &[3]]);
        let leaders = wished(&shards, &eligible([2]));
        assert_eq!(leaders, BTreeMap::from([(shards[0].shard, NodeId(2))]));
        assert!(wished(&shards, &eligible([])).is_empty());
    }

    #[test]
    fn the_leaders_of_a_fresh_cluster_stay() {
        for (nodes, replication) in [(1, 1), (3, 3), (4, 3), (5, 2), (7, 3)] {
            let candidates: Vec<_> =
                (1..=nodes).map(|n| crate::initial::Candidate { node: NodeId(n), zone: "z".into() }).collect();
            let shards: Vec<_> = crate::initial::place(8, 4, replication, &candidates, 1).unwrap();
            let shards: Vec<_> = shards
                .iter()
                .map(|shard| Placed { shard: shard.id, nodes: shard.replicas.iter().map(|r| r.node).collect() })
                .collect();
            let nodes = eligible(1..=nodes);
            let leaders = wished(&shards, &nodes);
            assert!(range(&counts(&leaders, &BOTH, &nodes)) <= 1, "{nodes:?}");
            let fresh = first(&shards, &nodes);
            if BOTH.iter().all(|keyspace| range(&counts(&fresh, &[*keyspace], &nodes)) <= 1) {
                assert_eq!(leaders, fresh, "{nodes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_other_choice_of_leaders_is_more_even_or_equal_with_fewer_changes(
            shards in any_shards(7, 4), out in proptest::option::of(1u64..=4),
        ) {
            let eligible = eligible((1..=4).filter(|node| Some(*node) != out));
            let leaders = wished(&shards, &eligible);
            let best = all_choices(&shards, &eligible).into_iter().map(|l| weight(&l, &shards, &eligible)).min();
            prop_assert_eq!(Some(weight(&leaders, &shards, &eligible)), best);
        }

        #[test]
        fn leaders_of_one_keyspace_differ_by_at_most_one_wherever_a_choice_does(
            shards in any_shards(7, 4),
        ) {
            let eligible = eligible(1..=4);
            let leaders = wished(&shards, &eligible);
            for keyspace in BOTH {
                let of = |l: &Leaders| range(&counts(l, &[keyspace], &eligible));
                let possible = all_choices(&shards, &eligible).iter().any(|l| of(l) <= 1);
                prop_assert!(!possible || of(&leaders) <= 1, "{:?}", leaders);
            }
        }

        #[test]
        fn leaders_are_eligible_replicas_and_even_ones_stay(shards in any_shards(40, 9), out in 1u64..=9) {
            let eligible = eligible((1..=9).filter(|node| *node != out));
            let leaders = wished(&shards, &eligible);
            let first = first(&shards, &eligible);
            prop_assert_eq!(leaders.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
            for placed in &shards {
                let led = leaders.get(&placed.shard);
                prop_assert!(led.is_none_or(|node| placed.nodes.contains(node) && eligible.contains(node)));
            }
            // Put the wished leaders first: the same wish comes back.
            let mut settled = shards.clone();
            for placed in &mut settled {
                let led = leaders.get(&placed.shard).copied();
                placed.nodes.sort_by_key(|node| Some(*node) != led);
            }
            prop_assert_eq!(wished(&settled, &eligible), leaders);
        }
    }
}
