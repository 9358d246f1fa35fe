//! What changed since the segment was built: new and replaced vectors, and items taken down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::bitmap::Bitmap;
use crate::ids::Ids;
use crate::score::dot;
use crate::top::{Hit, TopK};

use super::ScoredItem;

/// Cheap to clone but for its bookkeeping: vectors and ids are shared.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    /// By id; an entry hides the segment's row of the same id.
    overlay: BTreeMap<Arc<str>, Arc<[f32]>>,
    /// Taken down, whether or not there is a vector (yet).
    removed: BTreeSet<Arc<str>>,
    /// Segment positions that are neither hidden by the overlay nor taken down.
    live: Bitmap,
    /// How many items can be found: live rows and overlay items not taken down.
    visible: usize,
}

impl Delta {
    pub(super) fn new(rows: usize) -> Self {
        Self { overlay: BTreeMap::new(), removed: BTreeSet::new(), live: Bitmap::all(rows), visible: rows }
    }

    pub(super) fn upsert(&mut self, ids: &Ids, id: &str, vector: &[f32]) {
        self.change(ids, id, |delta| {
            delta.overlay.insert(Arc::from(id), Arc::from(vector));
        });
    }

    /// Whether the item could be found until now.
    pub(super) fn remove(&mut self, ids: &Ids, id: &str) -> bool {
        self.change(ids, id, |delta| {
            delta.removed.insert(Arc::from(id));
        })
        .0
    }

    /// Whether the item can be found from now on.
    pub(super) fn restore(&mut self, ids: &Ids, id: &str) -> bool {
        self.change(ids, id, |delta| {
            delta.removed.remove(id);
        })
        .1
    }

    /// Makes one change to one item and brings `live` and `visible` in line; whether the item was and is visible.
    fn change(&mut self, ids: &Ids, id: &str, edit: impl FnOnce(&mut Self)) -> (bool, bool) {
        let position = ids.position(id);
        let was_visible = self.is_visible(position, id);
        edit(self);
        if let Some(position) = position {
            if self.overlay.contains_key(id) || self.removed.contains(id) {
                self.live.clear(position);
            } else {
                self.live.set(position);
            }
        }
        let is_visible = self.is_visible(position, id);
        self.visible = self.visible + usize::from(is_visible) - usize::from(was_visible);
        (was_visible, is_visible)
    }

    fn is_visible(&self, position: Option<u32>, id: &str) -> bool {
        let has_vector = position.is_some() || self.overlay.contains_key(id);
        has_vector && !self.removed.contains(id)
    }

    /// An item's vector in the overlay, unless it is taken down.
    pub(super) fn vector(&self, id: &str) -> Option<&Arc<[f32]>> {
        self.overlay.get(id).filter(|_| !self.removed.contains(id))
    }

    /// An item's vector in the overlay, also of one that is taken down.
    pub(super) fn last_vector(&self, id: &str) -> Option<&Arc<[f32]>> {
        self.overlay.get(id)
    }

    pub(super) fn holds(&self, id: &str) -> bool {
        self.overlay.contains_key(id)
    }

    /// Overlay items that are not taken down, ascending by id.
    pub(super) fn items(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<[f32]>)> {
        self.overlay.iter().filter(|(id, _)| !self.removed.contains(&***id))
    }

    /// The first visible overlay item whose id is above `after` (`None`: the first of all).
    pub(super) fn next_item(&self, after: Option<&str>) -> Option<(&Arc<str>, &Arc<[f32]>)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.overlay.range::<str, _>((from, Unbounded)).find(|(id, _)| !self.removed.contains(&***id))
    }

    /// The best k overlay items outside `excluded`, by score then id. `query` has the index's dimension.
    pub(super) fn search(&self, query: &[f32], k: usize, excluded: &BTreeSet<&str>) -> Vec<ScoredItem> {
        let candidates: Vec<(&Arc<str>, &Arc<[f32]>)> =
            self.items().filter(|(id, _)| !excluded.contains(&***id)).collect();
        let mut top = TopK::new(k.min(candidates.len()));
        // Ids ascend, so the order of positions is the order of ids.
        for (position, (_, vector)) in (0u32..).zip(&candidates) {
            top.offer(Hit { position, score: dot(query, vector) });
        }
        let item = |hit: Hit| ScoredItem { id: Arc::clone(candidates[hit.position as usize].0), score: hit.score };
        top.into_hits().into_iter().map(item).collect()
    }

    pub(super) fn live(&self) -> &Bitmap {
        &self.live
    }

    pub(super) fn visible(&self) -> usize {
        self.visible
    }

    pub(super) fn overlay_len(&self) -> usize {
        self.overlay.len()
    }

    pub(super) fn removed_len(&self) -> usize {
        self.removed.len()
    }

    pub(super) fn memory_bytes(&self, dim: usize) -> u64 {
        /// Two counted allocations, two fat pointers and a B-tree's slack.
        const ENTRY_BYTES: usize = 96;
        let overlay: usize = self.overlay.keys().map(|id| ENTRY_BYTES + id.len() + dim * size_of::<f32>()).sum();
        let removed: usize = self.removed.iter().map(|id| ENTRY_BYTES / 2 + id.len()).sum();
        (overlay + removed + size_of_val(self.live.words())) as u64
    }
}
