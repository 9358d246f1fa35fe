//! Pure: the exact top-n of several ranked lists.

use docent_types::query::{ScoredItem, rank};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// The head of one list.
struct Head {
    item: ScoredItem,
    list: usize,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        rank(&self.item, &other.item).then(self.list.cmp(&other.list))
    }
}

/// The best `n` of all lists by [`rank`], which is total: the result does not depend on how items were spread over lists. Lists that
/// are not ranked (a defect elsewhere) are ranked first. `O((k + n) log k)` for `k` ranked lists.
pub(crate) fn top(n: usize, lists: Vec<Vec<ScoredItem>>) -> Vec<ScoredItem> {
    let ranked = lists.into_iter().map(|mut list| {
        if !list.is_sorted_by(|a, b| rank(a, b).is_le()) {
            list.sort_by(rank);
        }
        list.into_iter()
    });
    let mut lists: Vec<_> = ranked.collect();
    let mut heads: BinaryHeap<Reverse<Head>> = lists
        .iter_mut()
        .enumerate()
        .filter_map(|(list, rest)| rest.next().map(|item| Reverse(Head { item, list })))
        .collect();
    let mut merged = Vec::with_capacity(n.min(1_024));
    while merged.len() < n
        && let Some(Reverse(Head { item, list })) = heads.pop()
    {
        merged.push(item);
        heads.extend(lists[list].next().map(|item| Reverse(Head { item, list })));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::ItemId;
    use proptest::prelude::*;

    proptest! {
        /// Few distinct scores and ids of several lengths: ties everywhere.
        #[test]
        fn the_merge_equals_brute_force_ties_included(
            items in proptest::collection::btree_map("[ab]{1,6}", (-3i8..3, 0usize..5), 0..60), n in 0usize..80, shuffled: bool
        ) {
            let mut lists = vec![Vec::new(); 5];
            for (id, (score, list)) in &items {
                // -0.0 and 0.0 differ in the total order, and must do so on one machine as on many.
                let score = if *score == -1 { -0.0 } else { f32::from(*score) };
                lists[*list].push(ScoredItem { item_id: ItemId::new(id).unwrap(), score });
            }
            let mut brute: Vec<ScoredItem> = lists.iter().flatten().cloned().collect();
            brute.sort_by(rank);
            brute.truncate(n);
            if !shuffled {
                lists.iter_mut().for_each(|list| list.sort_by(rank));
            }
            let merged = top(n, lists);
            let bits = |items: &[ScoredItem]| items.iter().map(|i| (i.item_id.clone(), i.score.to_bits())).collect::<Vec<_>>();
            prop_assert_eq!(bits(&merged), bits(&brute));
        }
    }
}
