//! AVX-512: a vector is one register. The only intrinsics of training.
#![allow(unsafe_code, reason = "intrinsics of an instruction set that was detected")]
use super::lanes::{LANES, Set, WIDE};
use std::arch::x86_64::*;

/// Proof that this processor and its operating system have AVX-512F: the field is private, and `detect` the only way to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx512f").then_some(Self(()))
    }
}

/// An intrinsic that touches no memory.
macro_rules! detected {
    ($call:expr) => {
        // SAFETY: every use is in a method of `Avx512`, of which there is a value only where avx512f was detected; the intrinsics ask for
        // nothing else.
        unsafe { $call }
    };
}

impl Set for Avx512 {
    type Lanes = __m512;
    type Wide = __m512d;

    #[inline(always)]
    fn prefetch(self, values: &[f32]) {
        for line in values.chunks(LANES) {
            // SAFETY: reads nothing; any address may be given.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        detected!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        // SAFETY: avx512f as in `detected`; reads the 16 values of `from`, at any alignment.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, lanes: __m512, to: &mut [f32; LANES]) {
        // SAFETY: avx512f as in `detected`; writes the 16 values of `to`, at any alignment.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), lanes) }
    }
    #[inline(always)]
    fn add(self, left: __m512, right: __m512) -> __m512 {
        detected!(_mm512_add_ps(left, right))
    }
    #[inline(always)]
    fn multiply(self, left: __m512, right: __m512) -> __m512 {
        detected!(_mm512_mul_ps(left, right))
    }
    #[inline(always)]
    fn fused(self, left: __m512, right: __m512, sum: __m512) -> __m512 {
        detected!(_mm512_fmadd_ps(left, right, sum))
    }
    #[inline(always)]
    fn larger(self, left: __m512, right: __m512) -> __m512 {
        detected!(_mm512_max_ps(left, right))
    }
    #[inline(always)]
    fn smaller(self, left: __m512, right: __m512) -> __m512 {
        detected!(_mm512_min_ps(left, right))
    }
    #[inline(always)]
    fn power_of_two(self, bits: __m512) -> __m512 {
        detected!({
            let exponents = _mm512_slli_epi32::<23>(_mm512_castps_si512(bits));
            _mm512_castsi512_ps(_mm512_add_epi32(exponents, _mm512_castps_si512(_mm512_set1_ps(1.0))))
        })
    }

    #[inline(always)]
    fn splat_wide(self, value: f64) -> __m512d {
        detected!(_mm512_set1_pd(value))
    }
    #[inline(always)]
    fn load_wide(self, from: &[f64; WIDE]) -> __m512d {
        // SAFETY: avx512f as in `detected`; reads the 8 values of `from`, at any alignment.
        unsafe { _mm512_loadu_pd(from.as_ptr()) }
    }
    #[inline(always)]
    fn store_wide(self, wide: __m512d, to: &mut [f64; WIDE]) {
        // SAFETY: avx512f as in `detected`; writes the 8 values of `to`, at any alignment.
        unsafe { _mm512_storeu_pd(to.as_mut_ptr(), wide) }
    }
    #[inline(always)]
    fn fused_wide(self, left: __m512d, right: __m512d, sum: __m512d) -> __m512d {
        detected!(_mm512_fmadd_pd(left, right, sum))
    }
}
