//! Gramians: `G = sum_i y_i y_i^T` in f64, packed as the upper triangle row by row (`dim (dim + 1) / 2` values).
use crate::{Error, Kernel, kernel, parallel, shape};
use std::ops::Range;

/// Length of a packed Gramian.
#[must_use]
pub const fn packed_len(dim: usize) -> usize {
    dim * (dim + 1) / 2
}

/// The Gramian of `rows` (each `dim` values), added up in the order of the rows.
#[must_use]
pub fn packed(kernel: Kernel, dim: usize, rows: &[f32]) -> Vec<f64> {
    let stride = kernel::stride(dim);
    let mut sum = vec![0.0; stride * stride];
    kernel.gramian_rows(dim, rows, &mut sum);
    (0..dim).flat_map(|i| sum[i * stride + i..i * stride + dim].iter().copied()).collect()
}

/// The Gramian of each range of rows, on up to `threads` threads; a range outside of `rows` counts as empty.
#[must_use]
pub fn of_ranges(kernel: Kernel, threads: usize, dim: usize, rows: &[f32], ranges: &[Range<usize>]) -> Vec<Vec<f64>> {
    let mut gramians = vec![Vec::new(); ranges.len()];
    let tasks = gramians.iter_mut().zip(ranges).collect();
    parallel::for_each(
        threads,
        tasks,
        || (),
        |(), (gramian, range): (&mut Vec<f64>, &Range<usize>)| {
            *gramian = packed(kernel, dim, rows.get(range.start * dim..range.end * dim).unwrap_or(&[]));
        },
    );
    gramians
}

/// `alpha0 G` in f32, as the square with padded stride that the kernels take; below the diagonal it is zero.
pub(crate) fn scaled(dim: usize, packed: &[f64], alpha0: f32) -> Result<Vec<f32>, Error> {
    shape("gramian", packed_len(dim), packed.len())?;
    if packed.iter().any(|value| !value.is_finite()) {
        return Err(Error::Value { what: "gramian" });
    }
    let stride = kernel::stride(dim);
    let mut square = vec![0.0f32; stride * stride];
    let mut rest = packed;
    for i in 0..dim {
        let (row, after) = rest.split_at(dim - i);
        for (out, value) in square[i * stride + i..].iter_mut().zip(row) {
            *out = (f64::from(alpha0) * value) as f32;
        }
        rest = after;
    }
    Ok(square)
}

/// `sum_ij A_ij B_ij` of two packed symmetric matrices: `sum_{u,i} (x_u.y_i)^2` when they are the two sides' Gramians.
#[must_use]
pub fn product(dim: usize, left: &[f64], right: &[f64]) -> f64 {
    let mut at = 0;
    let mut sum = 0.0;
    for i in 0..dim {
        for j in i..dim {
            let term = left.get(at).copied().unwrap_or(0.0) * right.get(at).copied().unwrap_or(0.0);
            sum += if i == j { term } else { 2.0 * term };
            at += 1;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gramian_is_the_plain_sum_in_the_order_of_the_rows() {
        for dim in [1usize, 9, 16, 40] {
            let mut rows = vec![0.0; dim * 150];
            crate::init::fill(5, "rows", 9.0, &mut rows);
            let mut expected = Vec::new();
            for i in 0..dim {
                for j in i..dim {
                    let terms = rows.chunks(dim).map(|row| f64::from(row[i]) * f64::from(row[j]));
                    expected.push(terms.fold(0.0f64, |sum, term| sum + term).to_bits());
                }
            }
            for kernel in Kernel::available() {
                let found: Vec<_> = packed(kernel, dim, &rows).into_iter().map(f64::to_bits).collect();
                assert_eq!(found, expected, "dim {dim} {}", kernel.name());
            }
            let halves = of_ranges(Kernel::detect(), 2, dim, &rows, &[0..70, 70..150]);
            assert_eq!(
                halves,
                [packed(Kernel::detect(), dim, &rows[..70 * dim]), packed(Kernel::detect(), dim, &rows[70 * dim..])]
            );
        }
    }

    #[test]
    fn the_product_of_gramians_is_the_sum_of_squared_scores() {
        let (x, y) = ([1.0f32, 2.0, -1.0, 0.5], [0.5f32, 1.0, 2.0, -3.0, 1.0, 1.0]);
        let mut expected = 0.0;
        for x in x.chunks(2) {
            for y in y.chunks(2) {
                expected += f64::from(x[0] * y[0] + x[1] * y[1]).powi(2);
            }
        }
        let kernel = Kernel::detect();
        assert_eq!(product(2, &packed(kernel, 2, &x), &packed(kernel, 2, &y)), expected);
    }
}
