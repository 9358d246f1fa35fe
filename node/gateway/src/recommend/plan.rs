//! Pure: which node is asked about which shards.

use docent_types::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// Assigns each shard to one of its candidates: to `me` where possible, the others to few nodes (greedily the one that covers most of what is
/// left; ties go to the node with fewer calls in flight, then by `salt`). A shard without candidates is left out.
pub(crate) fn assign(
    wanted: &BTreeMap<ShardId, Vec<NodeId>>,
    me: NodeId,
    load: &BTreeMap<NodeId, u32>,
    salt: u64,
) -> BTreeMap<NodeId, Vec<ShardId>> {
    let mut plan: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
    let (mine, others): (Vec<_>, Vec<_>) = wanted.iter().partition(|(_, candidates)| candidates.contains(&me));
    if !mine.is_empty() {
        plan.insert(me, mine.into_iter().map(|(shard, _)| *shard).collect());
    }
    let mut left: BTreeMap<ShardId, &Vec<NodeId>> =
        others.into_iter().map(|(shard, candidates)| (*shard, candidates)).collect();
    loop {
        let mut covers: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
        for (shard, candidates) in &left {
            let distinct: BTreeSet<NodeId> = candidates.iter().copied().collect();
            distinct.into_iter().for_each(|node| covers.entry(node).or_default().push(*shard));
        }
        let rank = |node: NodeId, count: usize| {
            let calls = load.get(&node).copied().unwrap_or(0);
            // Any odd multiplier spreads the ties; this one is the golden ratio's.
            (std::cmp::Reverse(count), calls, (node.0 ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        };
        let Some((node, shards)) = covers.into_iter().min_by_key(|(node, shards)| rank(*node, shards.len())) else {
            return plan;
        };
        left.retain(|shard, _| !shards.contains(shard));
        plan.insert(node, shards);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::Keyspace;
    use proptest::prelude::*;

    fn shard(index: u16) -> ShardId {
        ShardId { keyspace: Keyspace::Items, index }
    }

    fn wanted(candidates: &[&[u64]]) -> BTreeMap<ShardId, Vec<NodeId>> {
        let nodes = |nodes: &&[u64]| nodes.iter().copied().map(NodeId).collect();
        (0..).map(shard).zip(candidates.iter().map(nodes)).collect()
    }

    #[test]
    fn what_this_node_holds_is_asked_of_itself() {
        let plan = assign(&wanted(&[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]]), NodeId(2), &BTreeMap::new(), 7);
        assert_eq!(plan, BTreeMap::from([(NodeId(2), vec![shard(0), shard(1), shard(2)])]));
    }

    #[test]
    fn a_gateway_without_replicas_asks_few_nodes() {
        let plan = assign(&wanted(&[&[1, 2], &[2, 3], &[2, 4]]), NodeId(9), &BTreeMap::new(), 7);
        assert_eq!(plan.keys().collect::<Vec<_>>(), [&NodeId(2)]);
    }

    #[test]
    fn equal_nodes_are_chosen_by_load_then_by_salt() {
        let load = BTreeMap::from([(NodeId(1), 5), (NodeId(3), 5)]);
        for salt in 0..20 {
            let plan = assign(&wanted(&[&[1, 2, 3]]), NodeId(9), &load, salt);
            assert_eq!(plan.keys().collect::<Vec<_>>(), [&NodeId(2)]);
        }
        let chosen: BTreeSet<NodeId> = (0..50)
            .flat_map(|salt| assign(&wanted(&[&[1, 2, 3]]), NodeId(9), &BTreeMap::new(), salt).into_keys())
            .collect();
        assert_eq!(chosen.len(), 3, "ties spread over all");
    }

    proptest! {
        #[test]
        fn every_shard_goes_to_one_of_its_candidates(
            candidates in proptest::collection::vec(proptest::collection::vec(1u64..6, 0..4), 0..12), me in 1u64..8, salt: u64
        ) {
            let slices: Vec<&[u64]> = candidates.iter().map(Vec::as_slice).collect();
            let wanted = wanted(&slices);
            let plan = assign(&wanted, NodeId(me), &BTreeMap::new(), salt);
            let mut placed = BTreeSet::new();
            for (node, shards) in &plan {
                for shard in shards {
                    prop_assert!(wanted[shard].contains(node));
                    prop_assert!(placed.insert(*shard), "asked once");
                    prop_assert!(*node == NodeId(me) || !wanted[shard].contains(&NodeId(me)));
                }
            }
            let coverable = wanted.values().filter(|nodes| !nodes.is_empty()).count();
            prop_assert_eq!(placed.len(), coverable);
        }
    }
}
