//! The seam between a search engine and the rest: an immutable set of rows that can be asked for its best k.

use crate::bitmap::Bitmap;
use crate::error::Error;
use crate::score::check_vector;
use crate::top::Hit;

/// The most rows of a segment: faiss numbers its nodes with an i32.
pub const ROWS_MAX: usize = i32::MAX as usize;

/// One query of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// `dim` components.
    pub query: &'a [f32],
    /// As long as the segment.
    pub allowed: &'a Bitmap,
}

/// An immutable set of `len` rows of `dim` components, at positions `0..len`.
///
/// Every engine holds to this, and `conformance` tests it:
/// - an answer has exactly `min(k, allowed.count())` hits, none forbidden, none twice, sorted by score descending then position ascending;
/// - each score equals [`dot`](crate::score::dot) bit for bit;
/// - an exact engine's answer is the true top k (the caller orders rows by item id, so ties fall to the smaller id);
/// - a query of another length, with a bad component, or with a filter of another length is refused.
pub trait Segment: Send + Sync {
    /// For logs and metrics: `exact`, `hnsw`.
    fn name(&self) -> &'static str;

    /// Whether answers are the true top k.
    fn is_exact(&self) -> bool;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn dim(&self) -> usize;

    /// Writes a row, as it was given, into `out` (of length `dim`). False, and `out` untouched, where there is no such row.
    fn row(&self, position: u32, out: &mut [f32]) -> bool;

    /// The best `k` rows by inner product with `query` among those allowed.
    fn search(&self, query: &[f32], k: usize, allowed: &Bitmap) -> Result<Vec<Hit>, Error>;

    /// Many queries at once, for exports: the same answers as one by one, one list per probe.
    fn search_batch(&self, probes: &[Probe<'_>], k: usize) -> Result<Vec<Vec<Hit>>, Error> {
        probes.iter().map(|probe| self.search(probe.query, k, probe.allowed)).collect()
    }

    /// Heap memory held, roughly.
    fn memory_bytes(&self) -> u64;
}

/// The checks every engine makes before it searches.
pub(crate) fn check_search(segment: &dyn Segment, query: &[f32], allowed: &Bitmap) -> Result<(), Error> {
    check_vector(segment.dim(), query)?;
    if allowed.len() != segment.len() {
        return Err(Error::FilterLength { expected: segment.len(), found: allowed.len() });
    }
    Ok(())
}
