//! Gramians: `G = sum_i y_i y_i^T` in f64, packed as the upper triangle row by row (`dim (dim + 1) / 2` values).
use crate::{Error, Kernel, kernel, shape};

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
