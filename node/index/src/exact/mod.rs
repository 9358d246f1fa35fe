//! The exact engine: every allowed row is scored, in blocks of 64 rows.
//!
//! Layout `[block][dim][64]`: component d of 64 rows lies side by side, so 64 scores grow at once without horizontal sums, memory
//! is one sequential stream, and a block's filter is one `u64`. Measured on one core (`examples/bench.rs`, Zen 3, AVX2): 50 us at
//! 10 k x 64 and 0.9 ms at 100 k, in batches of 64 queries 28 us and 0.27 ms; study/vector-search.md has 12.5 ms at 1 M, the RAM limit.

mod kernel;

pub use kernel::Kernel;
use kernel::{LANES, Lanes, Loaded};

use crate::bitmap::{Bitmap, Bits};
use crate::error::Error;
use crate::score::{check_dim, check_vector};
use crate::segment::{Probe, ROWS_MAX, Segment, check_search};
use crate::top::{Hit, TopK};

/// Up to this many allowed rows in a block are scored one by one. A single row touches a cache line per component; measured at 64
/// components (Zen 3, AVX2): 100 ns a row against 330 ns a block from L3, 140 ns against 590 ns from RAM.
const GATHER_ROWS_MAX: u32 = 3;

/// All rows in the blocked layout, 4 bytes a component; the last block is padded with zeros, which no filter allows.
#[derive(Debug)]
pub struct Exact {
    dim: usize,
    len: usize,
    /// `dim` entries a block.
    components: Vec<Lanes>,
    kernel: Loaded,
}

impl Exact {
    /// Takes rows at positions 0, 1, ... Refuses a row of another length than `dim` or with a bad component (see [`check_vector`]).
    pub fn build<R: AsRef<[f32]>>(dim: usize, rows: impl IntoIterator<Item = R>) -> Result<Self, Error> {
        check_dim(dim)?;
        let rows = rows.into_iter();
        let mut exact = Self { dim, len: 0, components: Vec::new(), kernel: Loaded::best() };
        exact.components.reserve_exact(rows.size_hint().0.min(ROWS_MAX).div_ceil(LANES) * dim);
        for row in rows {
            exact.push(row.as_ref())?;
        }
        Ok(exact)
    }

    /// The same rows, scanned by a kernel of choice (tests and benchmarks; [`Exact::build`] takes the best).
    pub fn with_kernel(mut self, kernel: Kernel) -> Result<Self, Error> {
        self.kernel = Loaded::new(kernel).ok_or(Error::KernelMissing { kernel: kernel.name() })?;
        Ok(self)
    }

    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel.kernel()
    }

    /// The score of one row, which exists.
    pub(crate) fn score(&self, query: &[f32], position: u32) -> f32 {
        let (block, lane) = split(position);
        // The documented order of `score::dot`, over a column of the block.
        let mut sum = 0.0f32;
        for (q, values) in query.iter().zip(self.block(block)) {
            sum += q * values[lane];
        }
        sum
    }

    fn push(&mut self, row: &[f32]) -> Result<(), Error> {
        check_vector(self.dim, row)?;
        if self.len == ROWS_MAX {
            return Err(Error::TooManyRows { rows: self.len + 1, id_bytes: 0 });
        }
        let (block, lane) = (self.len / LANES, self.len % LANES);
        if lane == 0 {
            self.components.resize(self.components.len() + self.dim, [0.0; LANES]);
        }
        for (values, &value) in self.components[block * self.dim..].iter_mut().zip(row) {
            values[lane] = value;
        }
        self.len += 1;
        Ok(())
    }

    fn block(&self, block: usize) -> &[Lanes] {
        &self.components[block * self.dim..][..self.dim]
    }

    fn scan_block(&self, block: usize, query: &[f32], allowed: u64, top: &mut TopK) {
        if allowed == 0 {
            return;
        }
        let first = (block * LANES) as u32;
        if allowed.count_ones() <= GATHER_ROWS_MAX {
            for lane in Bits(allowed) {
                top.offer(Hit { position: first + lane, score: self.score(query, first + lane) });
            }
            return;
        }
        let mut scores = [0.0; LANES];
        let above = self.kernel.score_block(query, self.block(block), top.floor(), &mut scores);
        for lane in Bits(above & allowed) {
            top.offer(Hit { position: first + lane, score: scores[lane as usize] });
        }
    }
}

impl Segment for Exact {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn len(&self) -> usize {
        self.len
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn row(&self, position: u32, out: &mut [f32]) -> bool {
        let (block, lane) = split(position);
        if position as usize >= self.len || out.len() != self.dim {
            return false;
        }
        for (out, values) in out.iter_mut().zip(self.block(block)) {
            *out = values[lane];
        }
        true
    }

    fn search(&self, query: &[f32], k: usize, allowed: &Bitmap) -> Result<Vec<Hit>, Error> {
        check_search(self, query, allowed)?;
        let mut top = TopK::new(k.min(allowed.count()));
        for (block, &word) in allowed.words().iter().enumerate() {
            self.scan_block(block, query, word, &mut top);
        }
        Ok(top.into_hits())
    }

    /// Block by block over all queries: a block (16 KiB at 64 components) comes from memory once for the whole batch.
    fn search_batch(&self, probes: &[Probe<'_>], k: usize) -> Result<Vec<Vec<Hit>>, Error> {
        let mut tops = Vec::with_capacity(probes.len());
        for probe in probes {
            check_search(self, probe.query, probe.allowed)?;
            tops.push(TopK::new(k.min(probe.allowed.count())));
        }
        for block in 0..self.len.div_ceil(LANES) {
            for (probe, top) in probes.iter().zip(&mut tops) {
                self.scan_block(block, probe.query, probe.allowed.words()[block], top);
            }
        }
        Ok(tops.into_iter().map(TopK::into_hits).collect())
    }

    fn memory_bytes(&self) -> u64 {
        (self.components.capacity() * size_of::<Lanes>()) as u64
    }
}

fn split(position: u32) -> (usize, usize) {
    (position as usize / LANES, position as usize % LANES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::score::dot;
    use proptest::prelude::*;

    #[test]
    fn every_kernel_of_this_processor_conforms() {
        for kernel in Kernel::available() {
            conformance::check(&|dim, rows| Ok(Box::new(Exact::build(dim, rows)?.with_kernel(kernel)?)));
        }
    }

    #[test]
    fn a_kernel_that_the_processor_lacks_is_refused() {
        for kernel in Kernel::ALL.into_iter().filter(|kernel| !kernel.is_available()) {
            let exact = Exact::build(1, [[1.0f32]]).expect("a valid row");
            assert!(matches!(exact.with_kernel(kernel), Err(Error::KernelMissing { .. })), "{kernel:?}");
        }
        assert!(Kernel::Portable.is_available());
    }

    /// Magnitudes from subnormal to huge, so that a different order or a fused multiply-add would show in the bits.
    fn component() -> impl Strategy<Value = f32> {
        prop_oneof![4 => -2.0f32..2.0, 1 => -1e15f32..1e15, 1 => -1e-38f32..1e-38, 1 => Just(0.0), 1 => Just(-0.0)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_kernel_scores_like_dot_bit_for_bit(dim in 1usize..=512, flat in prop::collection::vec(component(), 512 * 5), len in 3usize..140) {
            let query = &flat[..dim];
            // Rows are windows into the random values: cheap to make, all different.
            let rows: Vec<&[f32]> = (0..len).map(|row| &flat[512 + row * 7..][..dim]).collect();
            for kernel in Kernel::available() {
                let exact = Exact::build(dim, &rows).and_then(|exact| exact.with_kernel(kernel)).expect("valid rows");
                let hits = exact.search(query, len, &Bitmap::all(len)).expect("a valid query");
                prop_assert_eq!(hits.len(), len);
                for hit in hits {
                    let expected = dot(query, rows[hit.position as usize]);
                    prop_assert_eq!(hit.score.to_bits(), expected.to_bits(), "{:?} dim {} position {}", kernel, dim, hit.position);
                    prop_assert_eq!(exact.score(query, hit.position).to_bits(), expected.to_bits());
                }
            }
        }
    }

    #[test]
    fn every_dimension_up_to_512_is_bit_identical() {
        let values: Vec<f32> = (0..512 * 70).map(|i: u32| (i.wrapping_mul(2_654_435_761) as f32 / 2e9) - 1.0).collect();
        for dim in 1..=512 {
            let rows: Vec<&[f32]> = (1..68).map(|row| &values[row * dim..][..dim]).collect();
            for kernel in Kernel::available() {
                let exact = Exact::build(dim, &rows).and_then(|exact| exact.with_kernel(kernel)).expect("valid rows");
                for hit in exact.search(&values[..dim], 67, &Bitmap::all(67)).expect("a valid query") {
                    assert_eq!(
                        hit.score.to_bits(),
                        dot(&values[..dim], rows[hit.position as usize]).to_bits(),
                        "{kernel:?} {dim}"
                    );
                }
            }
        }
    }
}
