//! Sixteen f32 and eight f64 side by side: what the loops are written over.
//!
//! A loop says which values share a vector, so the compiler cannot choose another direction; that is what made the same loops over plain
//! arrays six times slower for AVX-512 (decision 0017).

/// Values of a vector of f32: width of a tile, lanes of a dot product and the unit of strides.
pub(super) const LANES: usize = 16;
/// Values of a vector of f64.
pub(super) const WIDE: usize = 8;

/// An instruction set that is there: whoever has a value may run it.
pub(super) trait Set: Copy {
    /// [`LANES`] values.
    type Lanes: Copy;
    /// [`WIDE`] values in f64.
    type Wide: Copy;

    /// Says that `values` will be read soon; on arrays, nothing.
    #[inline(always)]
    fn prefetch(self, _values: &[f32]) {}

    fn splat(self, value: f32) -> Self::Lanes;
    fn load(self, from: &[f32; LANES]) -> Self::Lanes;
    fn store(self, lanes: Self::Lanes, to: &mut [f32; LANES]);
    fn add(self, left: Self::Lanes, right: Self::Lanes) -> Self::Lanes;
    fn multiply(self, left: Self::Lanes, right: Self::Lanes) -> Self::Lanes;
    /// `left right + sum`, rounded once.
    fn fused(self, left: Self::Lanes, right: Self::Lanes, sum: Self::Lanes) -> Self::Lanes;
    /// The larger; `right` where one is not a number.
    fn larger(self, left: Self::Lanes, right: Self::Lanes) -> Self::Lanes;
    /// The smaller; `right` where one is not a number.
    fn smaller(self, left: Self::Lanes, right: Self::Lanes) -> Self::Lanes;
    /// `2^n` for the n in the low bits of each lane, -126 to 127.
    fn power_of_two(self, bits: Self::Lanes) -> Self::Lanes;

    fn splat_wide(self, value: f64) -> Self::Wide;
    fn load_wide(self, from: &[f64; WIDE]) -> Self::Wide;
    fn store_wide(self, wide: Self::Wide, to: &mut [f64; WIDE]);
    fn fused_wide(self, left: Self::Wide, right: Self::Wide, sum: Self::Wide) -> Self::Wide;
}

/// Plain arrays, compiled for whatever the caller is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrays;

/// An array of `$value` for each `$lane`.
macro_rules! each {
    ($lane:ident => $value:expr) => {{
        let mut out = [0f32; LANES];
        for $lane in 0..LANES {
            out[$lane] = $value;
        }
        out
    }};
}

impl Set for Arrays {
    type Lanes = [f32; LANES];
    type Wide = [f64; WIDE];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Lanes {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::Lanes {
        *from
    }
    #[inline(always)]
    fn store(self, lanes: Self::Lanes, to: &mut [f32; LANES]) {
        *to = lanes;
    }
    #[inline(always)]
    fn add(self, left: Self::Lanes, right: Self::Lanes) -> Self::Lanes {
        each!(lane => left[lane] + right[lane])
    }
    #[inline(always)]
    fn multiply(self, left: Self::Lanes, right: Self::Lanes) -> Self::Lanes {
        each!(lane => left[lane] * right[lane])
    }
    #[inline(always)]
    fn fused(self, left: Self::Lanes, right: Self::Lanes, sum: Self::Lanes) -> Self::Lanes {
        each!(lane => left[lane].mul_add(right[lane], sum[lane]))
    }
    #[inline(always)]
    fn larger(self, left: Self::Lanes, right: Self::Lanes) -> Self::Lanes {
        each!(lane => if left[lane] > right[lane] { left[lane] } else { right[lane] })
    }
    #[inline(always)]
    fn smaller(self, left: Self::Lanes, right: Self::Lanes) -> Self::Lanes {
        each!(lane => if left[lane] < right[lane] { left[lane] } else { right[lane] })
    }
    #[inline(always)]
    fn power_of_two(self, bits: Self::Lanes) -> Self::Lanes {
        each!(lane => f32::from_bits((bits[lane].to_bits() << 23).wrapping_add(1.0f32.to_bits())))
    }

    #[inline(always)]
    fn splat_wide(self, value: f64) -> Self::Wide {
        [value; WIDE]
    }
    #[inline(always)]
    fn load_wide(self, from: &[f64; WIDE]) -> Self::Wide {
        *from
    }
    #[inline(always)]
    fn store_wide(self, wide: Self::Wide, to: &mut [f64; WIDE]) {
        *to = wide;
    }
    #[inline(always)]
    fn fused_wide(self, left: Self::Wide, right: Self::Wide, sum: Self::Wide) -> Self::Wide {
        let mut out = sum;
        for lane in 0..WIDE {
            out[lane] = left[lane].mul_add(right[lane], sum[lane]);
        }
        out
    }
}
