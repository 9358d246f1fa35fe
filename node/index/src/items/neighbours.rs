//! [`NeighbourIndex`]: a shard's items under the lists of a graph filter, searchable while items are taken down and restored.
//!
//! A query is a history: the fingerprints of its items, the *sources*. A *target*, an item of this shard, scores the sum of the weights
//! that the sources have for it. Weights are added in the order of the sources' fingerprints, so a score has the same bits however items are
//! spread over shards. Items that came after the model was trained have no place here; popularity finds them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::ScoredItem;
use super::delta::Delta;
use crate::bitmap::Bitmap;
use crate::error::Error;
use crate::ids::{Ids, allowed};
use crate::segment::ROWS_MAX;
use crate::top::{Hit, TopK};

/// A weight that a source has for an item: `at` counts the ids as they are given to [`NeighbourIndex::build`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// The source's fingerprint.
    pub source: u64,
    /// The target.
    pub at: u32,
    /// Above 0 and finite.
    pub weight: f32,
}

/// The searchable items of one shard under one graph model.
pub struct NeighbourIndex {
    ids: Ids,
    /// Fingerprints, ascending.
    sources: Vec<u64>,
    /// Where each source's entries end.
    ends: Vec<usize>,
    /// Positions, ascending within a source, and their weights.
    targets: Vec<u32>,
    weights: Vec<f32>,
    delta: RwLock<Arc<Delta>>,
}

impl NeighbourIndex {
    /// Builds the index of `ids` (in any order, each once, 1..=256 bytes) with their neighbours. Of several weights of one source for one item
    /// (two sources of one fingerprint) the largest stays.
    ///
    /// # Errors
    /// Bad or repeated ids; more than [`ROWS_MAX`] of them; a weight that is not above 0 and finite; a neighbour of no item.
    pub fn build(ids: &[&str], mut neighbours: Vec<Neighbour>) -> Result<Self, Error> {
        if ids.len() > ROWS_MAX {
            return Err(Error::TooManyRows { rows: ids.len(), id_bytes: 0 });
        }
        let mut order: Vec<u32> = (0..).take(ids.len()).collect();
        order.sort_unstable_by_key(|at| ids[*at as usize]);
        let sorted = Ids::new(order.iter().map(|at| ids[*at as usize]))?;
        let mut positions = vec![0u32; ids.len()];
        (0u32..).zip(&order).for_each(|(position, at)| positions[*at as usize] = position);
        for neighbour in &mut neighbours {
            let position = positions.get(neighbour.at as usize).copied();
            neighbour.at =
                position.ok_or(Error::Neighbour { fingerprint: neighbour.source, reason: "it is of no item" })?;
            if !(neighbour.weight > 0.0 && neighbour.weight.is_finite()) {
                return Err(Error::Neighbour { fingerprint: neighbour.source, reason: "it is not above 0 and finite" });
            }
        }
        neighbours.sort_unstable_by(|a, b| (a.source, a.at).cmp(&(b.source, b.at)).then(b.weight.total_cmp(&a.weight)));
        neighbours.dedup_by_key(|neighbour| (neighbour.source, neighbour.at));
        let (mut sources, mut ends) = (Vec::new(), Vec::new());
        for (at, neighbour) in neighbours.iter().enumerate() {
            if sources.last() != Some(&neighbour.source) {
                sources.push(neighbour.source);
                ends.push(at);
            }
            if let Some(end) = ends.last_mut() {
                *end = at + 1;
            }
        }
        let delta = RwLock::new(Arc::new(Delta::new(sorted.len())));
        Ok(Self {
            ids: sorted,
            sources,
            ends,
            targets: neighbours.iter().map(|neighbour| neighbour.at).collect(),
            weights: neighbours.iter().map(|neighbour| neighbour.weight).collect(),
            delta,
        })
    }

    /// The `min(k, reached)` best items outside `exclude` that any of `sources` has a weight for: score descending, id bytes ascending. Sources
    /// count once each, in any order; unknown ones are ignored.
    #[must_use]
    pub fn search(&self, sources: &[u64], k: usize, exclude: &[&str]) -> Vec<ScoredItem> {
        let delta = self.snapshot();
        let excluded: BTreeSet<&str> = exclude.iter().copied().collect();
        let allowed: Cow<'_, Bitmap> = allowed(&self.ids, delta.live(), &excluded);
        let (scores, mut reached) = self.added_up(sources);
        reached.retain(|position| allowed.contains(*position));
        let mut top = TopK::new(k.min(reached.len()));
        reached.into_iter().for_each(|position| top.offer(Hit { position, score: scores[position as usize] }));
        let item = |hit: Hit| ScoredItem { id: Arc::from(self.ids.get(hit.position as usize)), score: hit.score };
        top.into_hits().into_iter().map(item).collect()
    }

    /// The scores of `ids`, those that [`Self::search`] ranks by: 0 for an item that no source reaches, or without a place here.
    #[must_use]
    pub fn scores(&self, sources: &[u64], ids: &[&str]) -> Vec<f32> {
        let (scores, _) = self.added_up(sources);
        ids.iter().map(|id| self.ids.position(id).map_or(0.0, |position| scores[position as usize])).collect()
    }

    /// The score of every position, and which are above 0.
    fn added_up(&self, sources: &[u64]) -> (Vec<f32>, Vec<u32>) {
        let (mut scores, mut reached) = (vec![0.0f32; self.ids.len()], Vec::new());
        for source in in_order(sources) {
            let (targets, weights) = self.list(source);
            for (target, weight) in targets.iter().zip(weights) {
                let score = &mut scores[*target as usize];
                if *score == 0.0 {
                    reached.push(*target);
                }
                *score += weight;
            }
        }
        (scores, reached)
    }

    /// The weight that each of `sources` has for an item, 0 for none; `None` for an item without a place here. Also of items that are taken
    /// down.
    #[must_use]
    pub fn weights(&self, id: &str, sources: &[u64]) -> Option<Vec<f32>> {
        let position = self.ids.position(id)?;
        let weight = |source: &u64| {
            let (targets, weights) = self.list(*source);
            targets.binary_search(&position).map_or(0.0, |at| weights[at])
        };
        Some(sources.iter().map(weight).collect())
    }

    /// The entries of a source; none for an unknown one.
    fn list(&self, source: u64) -> (&[u32], &[f32]) {
        let Ok(at) = self.sources.binary_search(&source) else { return (&[], &[]) };
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        (&self.targets[start..self.ends[at]], &self.weights[start..self.ends[at]])
    }

    /// Hides an item. Returns whether it could be found until now.
    pub fn remove(&self, id: &str) -> bool {
        crate::ids::check_id(id).is_ok() && self.write(|delta, ids| delta.remove(ids, id))
    }

    /// Shows a hidden item again. Returns whether it can be found from now on.
    pub fn restore(&self, id: &str) -> bool {
        self.write(|delta, ids| delta.restore(ids, id))
    }

    /// How many items can be found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.snapshot().visible()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every id, hidden ones included, ascending by bytes.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        (0..self.ids.len()).map(|position| self.ids.get(position))
    }

    /// A source with a weight for an item, where there is any: what a probe asks for.
    #[must_use]
    pub fn any_source(&self) -> Option<u64> {
        self.sources.first().copied()
    }

    fn snapshot(&self) -> Arc<Delta> {
        // A panic while writing leaves a delta that is whole or lacks its last change; serving goes on.
        Arc::clone(&self.delta.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, edit: impl FnOnce(&mut Delta, &Ids) -> T) -> T {
        let mut delta = self.delta.write().unwrap_or_else(PoisonError::into_inner);
        edit(Arc::make_mut(&mut delta), &self.ids)
    }
}

impl std::fmt::Debug for NeighbourIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut index = f.debug_struct("NeighbourIndex");
        index.field("len", &self.len()).field("neighbours", &self.targets.len()).finish_non_exhaustive()
    }
}

fn in_order(sources: &[u64]) -> Vec<u64> {
    let mut sources = sources.to_vec();
    sources.sort_unstable();
    sources.dedup();
    sources
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const ITEMS: u32 = 12;

    fn id(at: u32) -> String {
        // Not in the order of the numbers.
        format!("{}-{at}", (at * 7) % 5)
    }

    fn index(weights: &BTreeMap<(u64, u32), f32>) -> NeighbourIndex {
        let ids: Vec<String> = (0..ITEMS).map(id).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let neighbour = |(&(source, at), &weight): (&(u64, u32), &f32)| Neighbour { source, at, weight };
        NeighbourIndex::build(&ids, weights.iter().map(neighbour).collect()).unwrap()
    }

    fn weights() -> impl Strategy<Value = BTreeMap<(u64, u32), f32>> {
        prop::collection::btree_map((0u64..9, 0..ITEMS), prop::sample::select(vec![0.25f32, 0.5, 1.0, 3.0]), 0..60)
    }

    proptest! {
        #[test]
        fn answers_are_brute_force_over_what_is_shown(
            weights in weights(), sources in prop::collection::vec(0u64..12, 0..12), k in 0usize..15,
            hidden in prop::collection::btree_set(0..ITEMS, 0..5), excluded in prop::collection::btree_set(0..ITEMS, 0..5),
        ) {
            let index = index(&weights);
            hidden.iter().for_each(|at| _ = index.remove(&id(*at)));
            let distinct: BTreeSet<u64> = sources.iter().copied().collect();
            let mut brute: Vec<(String, f32)> = (0..ITEMS)
                .filter(|at| !hidden.contains(at) && !excluded.contains(at))
                .map(|at| (id(at), distinct.iter().filter_map(|source| weights.get(&(*source, at))).sum::<f32>()))
                .filter(|(_, score)| *score > 0.0)
                .collect();
            brute.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            brute.truncate(k);
            let exclude: Vec<String> = excluded.iter().map(|at| id(*at)).collect();
            let exclude: Vec<&str> = exclude.iter().map(String::as_str).collect();
            let found = index.search(&sources, k, &exclude);
            prop_assert_eq!(found.iter().map(|item| (item.id.to_string(), item.score)).collect::<Vec<_>>(), brute);
            prop_assert_eq!(index.len(), ITEMS as usize - hidden.len());
            for at in 0..ITEMS {
                let of: Vec<f32> = (0..12).map(|source| weights.get(&(source, at)).copied().unwrap_or(0.0)).collect();
                prop_assert_eq!(index.weights(&id(at), &(0..12).collect::<Vec<u64>>()), Some(of));
            }
        }
    }

    #[test]
    fn a_hidden_item_comes_back_with_its_weights() {
        let index = index(&BTreeMap::from([((4, 3), 2.0)]));
        assert!(index.remove(&id(3)) && index.search(&[4], 5, &[]).is_empty());
        assert!(index.restore(&id(3)));
        assert_eq!(index.search(&[4], 5, &[]), [ScoredItem { id: id(3).into(), score: 2.0 }]);
        assert_eq!(index.weights("nobody", &[4]), None);
        assert!(!index.remove("nobody") && !index.restore("nobody"));
    }

    #[test]
    fn neighbours_that_make_no_sense_are_refused() {
        for (at, weight) in [(1, 1.0), (0, 0.0), (0, f32::NAN), (0, f32::INFINITY)] {
            let built = NeighbourIndex::build(&["a"], vec![Neighbour { source: 1, at, weight }]);
            assert!(matches!(built, Err(Error::Neighbour { .. })), "{at} {weight}");
        }
        assert!(matches!(NeighbourIndex::build(&["a", "a"], Vec::new()), Err(Error::DuplicateId { .. })));
        // Two sources of one fingerprint.
        let twice = [1.0, 2.0].map(|weight| Neighbour { source: 1, at: 0, weight });
        let index = NeighbourIndex::build(&["a"], twice.into()).unwrap();
        assert_eq!(index.weights("a", &[1]), Some(vec![2.0]));
    }
}
