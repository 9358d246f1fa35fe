//! The inner loops, compiled for several instruction sets and chosen at run time.
//!
//! **Every instruction set gives the same bytes.** Sums run along the rows of a panel, one fused multiply-add per step
//! and output element, in order; vector lanes only ever hold *different* output elements, so lane width, tile size and
//! blocking do not touch a result. The one sum across lanes, [`generic::dot`], has 16 lanes and a fixed tree of its own, which
//! [`conjugate`] keeps to where it takes several at once.
//! A machine without FMA computes the same fused operations in software: slow, and equal. Loops are written over the vectors of a
//! [`lanes::Set`]: plain arrays, which the compiler turns into AVX2, and one register of AVX-512 by intrinsics. AVX-512 takes 10 %
//! less CPU time to refine rows at d = 64, 128 and 256, which waits for memory, and 10 to 33 % less for the other products (figures: decision 0017).
#[cfg(target_arch = "x86_64")]
mod avx512;
mod conjugate;
mod gemm;
mod generic;
mod lanes;

pub(crate) use conjugate::{Tile, blocks};
pub(crate) use gemm::{LEAVES_MAX, ROWS_UNIT, Shares, pitch};
pub(crate) use generic::{Normal, RankTask, RowsTask};
use lanes::{Arrays, LANES};

/// The instruction set the kernels run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Isa);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

/// Name of the arithmetic (not of the instruction set), for a job's fingerprint: results with equal names are bitwise comparable.
pub const NUMERICS: &str = "fma-f32-v2";

impl Kernel {
    /// The fastest that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self(Isa::Portable))
    }

    /// Every kernel that this machine can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self(Isa::Portable)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            found.push(Self(Isa::Avx2));
            found.extend(avx512::Avx512::detect().map(|set| Self(Isa::Avx512(set))));
        }
        found
    }

    /// Its name, for logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
        }
    }
}

/// Compiles each generic function once per instruction set and gives [`Kernel`] a method that picks one. In brackets: the height of its
/// register tiles, and that on AVX-512, which has twice the registers of twice the width.
macro_rules! dispatched {
    ($($(#[$doc:meta])* $([$low:literal, $high:literal])? fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        #[cfg(target_arch = "x86_64")]
        mod for_avx2 {
            use super::{Arrays, Tile, gemm::Shares, generic::{self, *}};
            $(#[target_feature(enable = "avx2,fma")]
            pub(super) fn $name($($arg: $type),*) $(-> $result)? { generic::$name::<_ $(, $low)?>(Arrays, $($arg),*) })*
        }
        #[cfg(target_arch = "x86_64")]
        mod for_avx512 {
            use super::{Tile, avx512::Avx512, gemm::Shares, generic::{self, *}};
            $(#[target_feature(enable = "avx512f")]
            pub(super) fn $name(set: Avx512, $($arg: $type),*) $(-> $result)? {
                generic::$name::<_ $(, $high)?>(set, $($arg),*)
            })*
        }
        impl Kernel {
            $($(#[$doc])*
            #[allow(unsafe_code, reason = "calls code compiled for an instruction set that was detected")]
            pub(crate) fn $name(self, $($arg: $type),*) $(-> $result)? {
                match self.0 {
                    Isa::Portable => generic::$name::<_ $(, $low)?>(Arrays, $($arg),*),
                    // SAFETY: a `Kernel` with this set is made by `available` alone, after it detected avx2 and fma.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => unsafe { for_avx2::$name($($arg),*) },
                    // SAFETY: there is an `Avx512`, so avx512f was detected.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512(set) => unsafe { for_avx512::$name(set, $($arg),*) },
                }
            })*
        }
    };
}

dispatched! {
    /// Solves a run of rows.
    [4, 16] fn solve_rows(normal: &mut Normal, task: &RowsTask<'_>, out: &mut [f32]);
    /// Moves a run of rows towards their optimum. Taller than the others, as its tiles load nothing but the base: more chains hide more of the
    /// latency of a multiply-add.
    [6, 12] fn refine_rows(tile: &mut Tile, task: &RowsTask<'_>, out: &mut [f32]);
    /// Weighted squared error of a run of rows.
    fn error_rows(task: &RowsTask<'_>, solved: &[f32]) -> f64;
    /// Regularisation of a run of rows.
    fn penalty_rows(task: &RowsTask<'_>, solved: &[f32]) -> f64;
    /// Adds `rows` (each `dim` values) to the Gramian `sum` (stride x stride, upper triangle).
    [4, 8] fn gramian_rows(dim: usize, rows: &[f32], sum: &mut [f64]);
    /// Factors the matrix of one normal equation and solves it.
    [4, 16] fn solve_one(normal: &mut Normal, weighted: &[(&[f32], f32)]);
    /// Solves a factored normal equation for `rhs` (one stride long).
    fn solve_factored(normal: &Normal, rhs: &mut [f32]);
    /// Scores users against items and keeps the best of each.
    [4, 16] fn rank_users(task: &RankTask<'_>) -> Vec<Vec<u32>>;
    /// Shares of rows with negatives, `weight exp(scale score - shift)`.
    [2, 8] fn shares(task: &Shares<'_>, out: &mut [f32]);
    /// `out = shares negatives`; rows of shares are `pitch` apart.
    [2, 8] fn pull(stride: usize, pitch: usize, shares: &[f32], negatives: &[f32], out: &mut [f32]);
    /// `out = shares^T rows`, the sum of leaves with those ends; one leaf goes on from `out`. Rows of shares are `pitch` apart, a multiple of 16.
    [2, 8] fn push(stride: usize, pitch: usize, shares: &[f32], rows: &[f32], ends: &[usize], out: &mut [f32]);
    /// `e^x`, as shares have it.
    fn exp(x: f32) -> f32;
    /// Inner product.
    fn dot(left: &[f32], right: &[f32]) -> f32;
    /// The sum of a multiple of 16 values, in the order of `dot`.
    fn sum(values: &[f32]) -> f32;
    /// `to += factor from`, each product rounded before it is added.
    fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]);
}

/// Row stride of matrices and panels for vectors of `dim` values.
#[must_use]
pub(crate) fn stride(dim: usize) -> usize {
    dim.next_multiple_of(LANES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut row = vec![0.0; n];
        crate::init::fill(seed, "noise", (n as f32).sqrt(), &mut row);
        row
    }

    #[test]
    fn every_instruction_set_gives_the_same_bytes() {
        for dim in [1usize, 5, 16, 33, 64, 100] {
            let rows: Vec<Vec<f32>> = (0..40).map(|seed| noise(dim, seed)).collect();
            let weighted: Vec<_> = rows.iter().zip(1u8..).map(|(row, w)| (&row[..], f32::from(w) / 7.0)).collect();
            let solved: Vec<_> = Kernel::available()
                .into_iter()
                .map(|kernel| {
                    let mut normal = Normal::new(dim);
                    normal.begin(&vec![0.0; stride(dim) * stride(dim)], 0.5);
                    kernel.solve_one(&mut normal, &weighted);
                    let mut sum = vec![0.0; stride(dim) * stride(dim)];
                    kernel.gramian_rows(dim, &rows.concat(), &mut sum);
                    let bits: Vec<u32> = normal.solution().iter().map(|v| v.to_bits()).collect();
                    let users = rows[..37].concat();
                    let (items, seen) = (noise(dim * 16 * 9, 3), vec![&[2, 7][..]; 37]);
                    let task = RankTask { dim, users: &users, items: &items, items_total: 140, seen: &seen, n: 50 };
                    (
                        bits,
                        sum.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
                        kernel.dot(&rows[0], &rows[1]).to_bits(),
                        kernel.rank_users(&task),
                    )
                })
                .collect();
            assert!(solved.windows(2).all(|pair| pair[0] == pair[1]), "dim {dim}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_exponentials() {
        let edges = [f32::NEG_INFINITY, -87.5, -87.0, -0.0, f32::MIN_POSITIVE, 88.0, 1e30, f32::INFINITY];
        for x in edges.into_iter().chain((0..30_000).map(|at| at as f32 * 0.006 - 90.0)) {
            let bits = Kernel::available().into_iter().map(|kernel| kernel.exp(x).to_bits());
            assert_eq!(bits.collect::<std::collections::BTreeSet<_>>().len(), 1, "{x}");
        }
        assert!(Kernel::available().into_iter().all(|kernel| kernel.exp(f32::NAN).is_nan()));
    }

    #[test]
    fn the_solution_satisfies_its_equation() {
        for dim in [1usize, 7, 16, 40, 64, 130] {
            let rows: Vec<Vec<f32>> = (0..20).map(|seed| noise(dim, seed + 9)).collect();
            let weighted: Vec<_> = rows.iter().zip(1u8..).map(|(row, w)| (&row[..], f32::from(w) / 9.0)).collect();
            let mut normal = Normal::new(dim);
            normal.begin(&vec![0.0; stride(dim) * stride(dim)], 0.8);
            Kernel::detect().solve_one(&mut normal, &weighted);
            let x: Vec<f64> = normal.solution().iter().map(|&v| f64::from(v)).collect();
            for i in 0..dim {
                let (mut left, mut right) = (0.8 * x[i], 0.0);
                for (row, weight) in &weighted {
                    let product: f64 = row.iter().zip(&x).map(|(&a, b)| f64::from(a) * b).sum();
                    left += f64::from(*weight) * f64::from(row[i]) * product;
                    right += f64::from(*weight) * f64::from(row[i]);
                }
                assert!((left - right).abs() < 2e-4 * right.abs().max(1.0), "dim {dim} row {i}: {left} {right}");
            }
        }
    }
}
