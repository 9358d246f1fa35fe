//! [`ItemIndex`]: a shard's items under their ids, searchable while they change.
//!
//! An immutable segment holds the rows of a model version, ordered by id bytes, so that a segment position *is* the rank of an id and
//! ties fall to the smaller id. New and replaced vectors wait in a small overlay that is scanned exactly; take-downs are a set of ids that
//! also clears bits of the filter. When [`ItemIndex::overlay_len`] passes about 5 % of [`ItemIndex::segment_len`], or
//! [`ItemIndex::removed_len`] 10 %, the owner builds a new index in the background and swaps it in.
//!
//! **Concurrency.** Everything takes `&self`. A reader holds the lock only to copy an `Arc` and searches that snapshot, so writers never
//! wait for a search and a search sees all of a change or nothing of it. A writer changes the state in place where no search holds it,
//! else it copies the bookkeeping (not the vectors): microseconds per thousand overlay items.

mod delta;
pub mod neighbours;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::bitmap::Bitmap;
use crate::error::Error;
use crate::exact::Exact;
use crate::ids::{Ids, allowed, check_id};
use crate::score::{check_dim, check_vector};
use crate::segment::{Probe, ROWS_MAX, Segment};
use crate::settings::{EngineChoice, Settings};
use crate::top::Hit;
use delta::Delta;

/// Queries of a batch that are scanned together: bounds the filters in memory (N/8 bytes each).
const BATCH_QUERIES: usize = 64;

/// An item of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredItem {
    pub id: Arc<str>,
    /// [`dot`](crate::score::dot) of the query and the item's vector.
    pub score: f32,
}

/// One query of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// `dim` components.
    pub vector: &'a [f32],
    /// Ids that the answer must not hold; unknown ones are ignored.
    pub exclude: &'a [&'a str],
}

/// The searchable items of one shard under one model version.
pub struct ItemIndex {
    base: Arc<Base>,
    delta: RwLock<Arc<Delta>>,
    overlay_items_max: usize,
}

/// What never changes.
struct Base {
    ids: Ids,
    segment: Box<dyn Segment>,
    /// Why `auto` did not take HNSW though it wanted to.
    refused: Option<Error>,
}

impl ItemIndex {
    /// Builds the segment from rows in any order: each id once (1..=256 bytes), each vector of `dim` components (1..=4096) within
    /// [`COMPONENT_MAX`](crate::COMPONENT_MAX). [`EngineChoice::Hnsw`] fails where HNSW is not in the build or misses its recall floor;
    /// [`EngineChoice::Auto`] falls back to exact and keeps the reason in [`ItemIndex::refused`].
    pub fn build(
        choice: EngineChoice,
        settings: &Settings,
        dim: usize,
        mut rows: Vec<(String, Vec<f32>)>,
    ) -> Result<Self, Error> {
        check_dim(dim)?;
        if rows.len() > ROWS_MAX {
            return Err(Error::TooManyRows { rows: rows.len(), id_bytes: 0 });
        }
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let ids = Ids::new(rows.iter().map(|(id, _)| id.as_str()))?;
        for (id, vector) in &rows {
            check_vector(dim, vector).map_err(|error| Error::Item { id: id.clone(), source: Box::new(error) })?;
        }
        // Each vector is freed as soon as it is in its block.
        let exact = Exact::build(dim, rows.into_iter().map(|(_, vector)| vector))?;
        let (segment, refused) = choose(choice, settings, exact)?;
        let delta = RwLock::new(Arc::new(Delta::new(ids.len())));
        Ok(Self {
            base: Arc::new(Base { ids, segment, refused }),
            delta,
            overlay_items_max: settings.overlay_items_max,
        })
    }

    /// Gives an item a vector, in place of any it had; it is in the next search. A taken-down item stays hidden until [`ItemIndex::restore`].
    /// Refuses bad ids and vectors, and a new id when the overlay is full.
    pub fn upsert(&self, id: &str, vector: &[f32]) -> Result<(), Error> {
        check_id(id)?;
        check_vector(self.dim(), vector).map_err(|error| Error::Item { id: id.to_owned(), source: Box::new(error) })?;
        self.write(|delta, ids| {
            if delta.overlay_len() >= self.overlay_items_max && !delta.holds(id) {
                return Err(Error::OverlayFull { max: self.overlay_items_max });
            }
            delta.upsert(ids, id, vector);
            Ok(())
        })
    }

    /// Takes an item down, also one that has no vector yet: no later search shows it. Returns whether it could be found until now.
    /// Ids that no item can have (empty, over 256 bytes) are never shown anyway and are not kept.
    pub fn remove(&self, id: &str) -> bool {
        check_id(id).is_ok() && self.write(|delta, ids| delta.remove(ids, id))
    }

    /// Ends a take-down; the item has its last vector again. Returns whether it can be found from now on.
    pub fn restore(&self, id: &str) -> bool {
        self.write(|delta, ids| delta.restore(ids, id))
    }

    /// The `min(k, available)` best items outside `exclude`, score descending, id bytes ascending. Exact engines give the true top k.
    /// Refuses a query of another dimension or with a bad component.
    pub fn search(&self, query: &[f32], k: usize, exclude: &[&str]) -> Result<Vec<ScoredItem>, Error> {
        let delta = self.snapshot();
        let excluded: BTreeSet<&str> = exclude.iter().copied().collect();
        let allowed = allowed(&self.base.ids, delta.live(), &excluded);
        let hits = self.base.segment.search(query, k, &allowed)?;
        Ok(self.merge(hits, delta.search(query, k, &excluded), k))
    }

    /// Many queries over one snapshot, for exports: the same answers as one by one, for less memory traffic.
    pub fn search_batch(&self, queries: &[Query<'_>], k: usize) -> Result<Vec<Vec<ScoredItem>>, Error> {
        let delta = self.snapshot();
        let mut answers = Vec::with_capacity(queries.len());
        for chunk in queries.chunks(BATCH_QUERIES) {
            let excluded: Vec<BTreeSet<&str>> =
                chunk.iter().map(|query| query.exclude.iter().copied().collect()).collect();
            let allowed: Vec<Cow<'_, Bitmap>> =
                excluded.iter().map(|excluded| allowed(&self.base.ids, delta.live(), excluded)).collect();
            let probes: Vec<Probe<'_>> =
                chunk.iter().zip(&allowed).map(|(query, allowed)| Probe { query: query.vector, allowed }).collect();
            let hits = self.base.segment.search_batch(&probes, k)?;
            for ((query, excluded), hits) in chunk.iter().zip(&excluded).zip(hits) {
                answers.push(self.merge(hits, delta.search(query.vector, k, excluded), k));
            }
        }
        Ok(answers)
    }

    /// The vector of an item that can be found.
    #[must_use]
    pub fn vector(&self, id: &str) -> Option<Vec<f32>> {
        let delta = self.snapshot();
        if let Some(vector) = delta.vector(id) {
            return Some(vector.to_vec());
        }
        let position = self.base.ids.position(id).filter(|&position| delta.live().contains(position))?;
        Some(self.base.row(position))
    }

    /// The vector of an item, taken down or not: what is hidden from searches is still part of the histories that it is in.
    #[must_use]
    pub fn row(&self, id: &str) -> Option<Vec<f32>> {
        let overlaid = self.snapshot().last_vector(id).map(|vector| vector.to_vec());
        overlaid.or_else(|| self.base.ids.position(id).map(|position| self.base.row(position)))
    }

    /// Every item that can be found, with its vector, ascending by id bytes: what brute force over this index would score. A snapshot;
    /// later changes do not show.
    #[must_use]
    pub fn iter(&self) -> Iter {
        Iter {
            base: Arc::clone(&self.base),
            delta: self.snapshot(),
            position: 0,
            overlay_after: None,
            is_overlay_done: false,
        }
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

    #[must_use]
    pub fn dim(&self) -> usize {
        self.base.segment.dim()
    }

    /// Rows of the segment, hidden ones included.
    #[must_use]
    pub fn segment_len(&self) -> usize {
        self.base.segment.len()
    }

    /// Items in the overlay, taken-down ones included.
    #[must_use]
    pub fn overlay_len(&self) -> usize {
        self.snapshot().overlay_len()
    }

    /// Take-downs that are in force.
    #[must_use]
    pub fn removed_len(&self) -> usize {
        self.snapshot().removed_len()
    }

    /// The engine of the segment, for status and metrics: `exact` or `hnsw`.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.base.segment.name()
    }

    /// Whether answers are the true top k (promise 5 speaks of these).
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.base.segment.is_exact()
    }

    /// Why [`EngineChoice::Auto`] fell back to exact, for the owner to log.
    #[must_use]
    pub fn refused(&self) -> Option<&Error> {
        self.base.refused.as_ref()
    }

    /// Heap memory held, roughly.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.base.segment.memory_bytes() + self.base.ids.memory_bytes() + self.snapshot().memory_bytes(self.dim())
    }

    fn snapshot(&self) -> Arc<Delta> {
        // A panic while writing leaves a delta that is whole or lacks its last change; serving goes on.
        Arc::clone(&self.delta.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, edit: impl FnOnce(&mut Delta, &Ids) -> T) -> T {
        let mut delta = self.delta.write().unwrap_or_else(PoisonError::into_inner);
        edit(Arc::make_mut(&mut delta), &self.base.ids)
    }

    /// Both lists are sorted and hold different ids.
    fn merge(&self, hits: Vec<Hit>, overlay: Vec<ScoredItem>, k: usize) -> Vec<ScoredItem> {
        let mut merged = Vec::with_capacity(k.min(hits.len() + overlay.len()));
        let mut hits = hits.into_iter().map(|hit| (hit.score, self.base.ids.get(hit.position as usize))).peekable();
        let mut overlay = overlay.into_iter().peekable();
        while merged.len() < k {
            let is_segment_next = match (hits.peek(), overlay.peek()) {
                (Some((score, id)), Some(item)) => item.score.total_cmp(score).then((*id).cmp(&item.id)).is_lt(),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let next = if is_segment_next {
                hits.next().map(|(score, id)| ScoredItem { id: Arc::from(id), score })
            } else {
                overlay.next()
            };
            merged.extend(next);
        }
        merged
    }
}

impl fmt::Debug for ItemIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut index = f.debug_struct("ItemIndex");
        index
            .field("engine", &self.engine())
            .field("dim", &self.dim())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Base {
    /// A row that exists.
    fn row(&self, position: u32) -> Vec<f32> {
        let mut row = vec![0.0; self.segment.dim()];
        self.segment.row(position, &mut row);
        row
    }
}

fn choose(choice: EngineChoice, settings: &Settings, exact: Exact) -> Result<(Box<dyn Segment>, Option<Error>), Error> {
    let wants_hnsw = match choice {
        EngineChoice::Exact => false,
        EngineChoice::Hnsw => true,
        EngineChoice::Auto => cfg!(feature = "faiss") && exact.len() >= settings.hnsw_rows_min,
    };
    if !wants_hnsw {
        return Ok((Box::new(exact), None));
    }
    match build_hnsw(settings, exact) {
        Ok(hnsw) => Ok((hnsw, None)),
        Err((exact, refusal)) if choice == EngineChoice::Auto => Ok((Box::new(exact), Some(refusal))),
        Err((_, refusal)) => Err(refusal),
    }
}

/// Gives the rows back where HNSW is refused.
#[cfg(feature = "faiss")]
fn build_hnsw(settings: &Settings, exact: Exact) -> Result<Box<dyn Segment>, (Exact, Error)> {
    crate::hnsw::Hnsw::build(&settings.hnsw, exact).map(|hnsw| Box::new(hnsw) as Box<dyn Segment>)
}

#[cfg(not(feature = "faiss"))]
fn build_hnsw(_settings: &Settings, exact: Exact) -> Result<Box<dyn Segment>, (Exact, Error)> {
    Err((exact, Error::EngineMissing { engine: "hnsw" }))
}

/// See [`ItemIndex::iter`].
pub struct Iter {
    base: Arc<Base>,
    delta: Arc<Delta>,
    /// The next segment position to look at.
    position: u32,
    /// The last overlay id that was given.
    overlay_after: Option<Arc<str>>,
    is_overlay_done: bool,
}

impl Iterator for Iter {
    type Item = (Arc<str>, Vec<f32>);

    fn next(&mut self) -> Option<Self::Item> {
        while (self.position as usize) < self.base.ids.len() && !self.delta.live().contains(self.position) {
            self.position += 1;
        }
        let row_id =
            ((self.position as usize) < self.base.ids.len()).then(|| self.base.ids.get(self.position as usize));
        let waiting = if self.is_overlay_done { None } else { self.delta.next_item(self.overlay_after.as_deref()) };
        if let Some((id, vector)) = waiting.filter(|(id, _)| row_id.is_none_or(|row_id| ***id < *row_id)) {
            let item = (Arc::clone(id), vector.to_vec());
            self.overlay_after = Some(Arc::clone(id));
            return Some(item);
        }
        self.is_overlay_done = waiting.is_none();
        let item = (Arc::from(row_id?), self.base.row(self.position));
        self.position += 1;
        Some(item)
    }
}

#[cfg(test)]
mod tests;
