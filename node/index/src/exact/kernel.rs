//! The inner loop for three instruction sets, chosen at run time.
//!
//! Lanes are rows: no sum crosses lanes, and within a lane each kernel multiplies, rounds, adds and rounds in the order of
//! [`crate::score`], so all kernels give the same bits. Intrinsics rather than auto-vectorisation, which spilled the sums as soon as
//! the comparison was added (measured: 93 us instead of 50 at 10 k x 64 on Zen 3).

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows in a block: 64 running sums fill 8 of AVX2's 16 registers, and a block's filter is one `u64`.
pub(super) const LANES: usize = 64;

/// One component of the 64 rows of a block.
pub(super) type Lanes = [f32; LANES];

/// An instruction set that the scan can be compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    Avx512,
    Avx2,
    /// Whatever the build targets: SSE2 on plain x86-64.
    Portable,
}

impl Kernel {
    /// Best first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether this processor (and its operating system) can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Those of this processor, best first; never empty.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kernel| kernel.is_available())
    }
}

/// A kernel that was found on this processor. The field is private to this module and `new` is the only way in: that is what makes
/// the calls below sound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded(Kernel);

impl Loaded {
    pub(super) fn new(kernel: Kernel) -> Option<Self> {
        kernel.is_available().then_some(Self(kernel))
    }

    pub(super) fn best() -> Self {
        Kernel::available().next().map_or(Self(Kernel::Portable), Self)
    }

    pub(super) fn kernel(self) -> Kernel {
        self.0
    }

    /// Writes the scores of a block's 64 rows and returns which of them are above `floor` (bit = lane).
    /// `query` and `block` have `dim` entries each.
    #[cfg_attr(
        target_arch = "x86_64",
        allow(unsafe_code, reason = "calls of functions compiled for a detected instruction set")
    )]
    pub(super) fn score_block(self, query: &[f32], block: &[Lanes], floor: f32, scores: &mut Lanes) -> u64 {
        match self.0 {
            // SAFETY: `avx512` needs AVX-512F and nothing else; `Loaded` is made only after `is_available` saw it on this processor.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => unsafe { avx512(query, block, floor, scores) },
            // SAFETY: as above, for AVX2.
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { avx2(query, block, floor, scores) },
            _ => portable(query, block, floor, scores),
        }
    }
}

/// A kernel as one program over registers of `$width` lanes: running sums stay in `64 / $width` registers.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    (
        $name:ident, $feature:literal, $width:literal, $zero:ident, $splat:ident, $load:ident, $multiply:ident, $add:ident, $store:ident, $above:expr
    ) => {
        #[target_feature(enable = $feature)]
        #[allow(unsafe_code, reason = "vector loads and stores through pointers")]
        #[allow(clippy::needless_range_loop, reason = "the index is a register number and an offset as well")]
        fn $name(query: &[f32], block: &[Lanes], floor: f32, scores: &mut Lanes) -> u64 {
            const REGISTERS: usize = LANES / $width;
            let dim = query.len().min(block.len());
            let (query, block) = (&query[..dim], &block[..dim]);
            let mut sums = [$zero(); REGISTERS];
            for d in 0..dim {
                let (q, values) = ($splat(query[d]), &block[d]);
                for register in 0..REGISTERS {
                    // SAFETY: reads `$width` floats from `register * $width` on; `register < 64 / $width`, so they end within the 64 of
                    // `values`. The load is an unaligned one.
                    let value = unsafe { $load(values.as_ptr().add(register * $width)) };
                    sums[register] = $add(sums[register], $multiply(q, value));
                }
            }
            let floor = $splat(floor);
            let mut above = 0u64;
            for register in 0..REGISTERS {
                // SAFETY: writes `$width` floats from `register * $width` on, within the 64 of `scores` as above. The store is unaligned.
                unsafe { $store(scores.as_mut_ptr().add(register * $width), sums[register]) };
                above |= $above(sums[register], floor) << (register * $width);
            }
            above
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(
    avx2,
    "avx2",
    8,
    _mm256_setzero_ps,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_mul_ps,
    _mm256_add_ps,
    _mm256_storeu_ps,
    // The sign bits of the lanes' comparison; 8 of them, so the cast adds zeros.
    |sums, floor| u64::from(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(sums, floor)) as u8)
);

#[cfg(target_arch = "x86_64")]
kernel!(
    avx512,
    "avx512f",
    16,
    _mm512_setzero_ps,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_mul_ps,
    _mm512_add_ps,
    _mm512_storeu_ps,
    |sums, floor| u64::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(sums, floor))
);

/// The same in plain loops, for whatever the build targets; the compiler vectorises it as far as that goes.
#[allow(
    clippy::needless_range_loop,
    reason = "zip is not always inlined across codegen units without LTO: four times slower"
)]
fn portable(query: &[f32], block: &[Lanes], floor: f32, scores: &mut Lanes) -> u64 {
    let dim = query.len().min(block.len());
    let (query, block) = (&query[..dim], &block[..dim]);
    // A local array, not `scores`: the compiler keeps it in registers.
    let mut sums = [0.0f32; LANES];
    for d in 0..dim {
        let (q, values) = (query[d], &block[d]);
        for lane in 0..LANES {
            sums[lane] += q * values[lane];
        }
    }
    *scores = sums;
    let mut above = 0u64;
    for lane in 0..LANES {
        above |= u64::from(sums[lane] > floor) << lane;
    }
    above
}
