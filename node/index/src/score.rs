//! The one definition of a score, and of the vectors that may have one.
//!
//! **The documented order (promise 5: sharding does not change the answer).** For every engine, kernel and processor
//!
//! ```text
//! score(q, v) = (((+0.0 + q[0]*v[0]) + q[1]*v[1]) + ...) + q[dim-1]*v[dim-1]
//! ```
//!
//! in f32, components ascending, each product rounded and then each sum rounded (IEEE 754 round to nearest, ties to even;
//! never a fused multiply-add, which not every processor has). Rust never contracts `a * b + c`, so any code that adds in
//! this order gives the same bits; the kernels of [`crate::exact`] put 64 *items* side by side and keep the order within each.
//!
//! With components bounded by [`COMPONENT_MAX`] a score is always finite, and a sum that starts at +0.0 is never -0.0: scores
//! are totally ordered by `<`, and equal scores have equal bits.

use crate::error::Error;

/// The largest dimension of an index.
pub const DIM_MAX: usize = 4096;

/// The largest magnitude of a vector component: 2^50. Then a score stays below 2^12 * 2^100 = 2^112, far from f32's 2^128.
/// Trained factors are around 1.
pub const COMPONENT_MAX: f32 = (1u64 << 50) as f32;

/// Inner product in the documented order; the reference that every engine equals bit for bit.
///
/// Both slices have the same length (the shorter one decides otherwise).
#[must_use]
pub fn dot(query: &[f32], vector: &[f32]) -> f32 {
    let dim = query.len().min(vector.len());
    let (query, vector) = (&query[..dim], &vector[..dim]);
    let mut sum = 0.0f32;
    for d in 0..dim {
        sum += query[d] * vector[d];
    }
    sum
}

/// Refuses a dimension outside `1..=DIM_MAX`.
pub fn check_dim(dim: usize) -> Result<(), Error> {
    if (1..=DIM_MAX).contains(&dim) { Ok(()) } else { Err(Error::Dim { dim }) }
}

/// Refuses a vector of another length than `dim`, or with a component that is NaN, infinite or beyond [`COMPONENT_MAX`].
pub fn check_vector(dim: usize, vector: &[f32]) -> Result<(), Error> {
    if vector.len() != dim {
        return Err(Error::VectorLength { expected: dim, found: vector.len() });
    }
    // NaN fails every comparison, so it is refused here too.
    match vector
        .iter()
        .position(|value| !matches!(value.abs().partial_cmp(&COMPONENT_MAX), Some(order) if order.is_le()))
    {
        Some(component) => Err(Error::Component { component, value: vector[component] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_sums_are_rounded_one_by_one_from_the_left() {
        // (1e8 + 1) rounds to 1e8, so the order decides: left to right gives 0, any other order 1.
        assert_eq!(dot(&[1e8, 1.0, -1e8], &[1.0, 1.0, 1.0]), 0.0);
        assert_eq!(dot(&[1e8, -1e8, 1.0], &[1.0, 1.0, 1.0]), 1.0);
        // A fused multiply-add would keep the low bits of the product.
        let x = 1.0 + f32::EPSILON;
        assert_eq!(dot(&[-1.0, x], &[x * x, x]).to_bits(), 0.0f32.to_bits());
    }

    #[test]
    fn a_score_is_never_negative_zero() {
        assert_eq!(dot(&[-1.0], &[0.0]).to_bits(), 0);
        assert_eq!(dot(&[f32::MIN_POSITIVE], &[-f32::MIN_POSITIVE]).to_bits(), 0);
        assert_eq!(dot(&[], &[]).to_bits(), 0);
    }

    #[test]
    fn the_largest_allowed_vectors_have_a_finite_score() {
        let largest = vec![COMPONENT_MAX; DIM_MAX];
        assert!(dot(&largest, &largest).is_finite());
    }

    #[test]
    fn vectors_that_could_break_the_order_are_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, COMPONENT_MAX * 2.0] {
            assert!(matches!(check_vector(2, &[0.0, bad]), Err(Error::Component { component: 1, .. })), "{bad}");
        }
        assert!(matches!(check_vector(2, &[0.0]), Err(Error::VectorLength { expected: 2, found: 1 })));
        assert!(check_vector(2, &[-COMPONENT_MAX, f32::MIN_POSITIVE]).is_ok());
        assert!(matches!(check_dim(0), Err(Error::Dim { dim: 0 })));
        assert!(matches!(check_dim(DIM_MAX + 1), Err(Error::Dim { .. })));
    }
}
