//! Reproducible numbers for the recall self-test and for tests: no ambient randomness in a pure crate.

#[cfg(feature = "faiss")]
use crate::{score::COMPONENT_MAX, segment::Segment};

/// SplitMix64 (Steele, Lea, Flood 2014): the whole state is one counter.
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform enough below `bound` (which is over 0): the bias is below 2^-32 for any row count.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    #[cfg(any(test, feature = "testing"))]
    /// Roughly normal with deviation 1: the sum of four uniforms.
    pub(crate) fn normal(&mut self) -> f32 {
        let uniform = |bits: u64| (bits >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        (0..4).map(|_| uniform(self.next_u64())).sum::<f32>() * 1.732
    }
}

#[cfg(feature = "faiss")]
/// Queries like those that users make, without users: each the sum of four rows drawn by a fixed seed, as a user's vector lies among
/// the items of their history.
pub(crate) fn history_queries(segment: &dyn Segment, count: usize) -> Vec<Vec<f32>> {
    if segment.is_empty() {
        return Vec::new();
    }
    let mut random = SplitMix64(0x00D0_CE17);
    let mut row = vec![0.0; segment.dim()];
    let mut query = || {
        let mut sum = vec![0.0f32; segment.dim()];
        for _ in 0..4 {
            // The position is below the segment's length, which fits u32.
            segment.row(random.below(segment.len()) as u32, &mut row);
            sum.iter_mut().zip(&row).for_each(|(s, r)| *s += r / 4.0);
        }
        // Rounding could lift a mean of four limits over the limit.
        sum.iter_mut().for_each(|s| *s = s.clamp(-COMPONENT_MAX, COMPONENT_MAX));
        sum
    };
    (0..count).map(|_| query()).collect()
}
