//! The inner loop, once in safe Rust, compiled for three instruction sets and chosen at run time.
//!
//! There are no intrinsics: the loop over 64 lanes has no dependency between lanes, and the compiler turns it into 8 (AVX2) or 4
//! (AVX-512) registers of running sums, checked in the assembly. So all kernels are the same program and the same bits, which is
//! [`crate::score`]'s promise: the compiler may not reorder or fuse float additions.

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
    #[cfg_attr(target_arch = "x86_64", allow(unsafe_code, reason = "calls of functions compiled for a detected instruction set"))]
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(query: &[f32], block: &[Lanes], floor: f32, scores: &mut Lanes) -> u64 {
    portable(query, block, floor, scores)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(query: &[f32], block: &[Lanes], floor: f32, scores: &mut Lanes) -> u64 {
    portable(query, block, floor, scores)
}

/// The loop itself; inlined into each of the above and compiled there for its instruction set.
#[inline(always)]
fn portable(query: &[f32], block: &[Lanes], floor: f32, scores: &mut Lanes) -> u64 {
    // A local array, not `scores`: the compiler keeps it in registers.
    let mut sums = [0.0f32; LANES];
    for (&q, values) in query.iter().zip(block) {
        for (sum, &value) in sums.iter_mut().zip(values) {
            *sum += q * value;
        }
    }
    *scores = sums;
    // Nearly always no lane is above, and this asks only that.
    let is_any_above = sums.iter().fold(0u32, |any, &sum| any | u32::from(sum > floor)) != 0;
    if !is_any_above {
        return 0;
    }
    sums.iter().enumerate().fold(0u64, |mask, (lane, &sum)| mask | (u64::from(sum > floor) << lane))
}
