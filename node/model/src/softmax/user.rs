//! A user's vector at read time, and what its history adds to a score.
use super::normalise;
use crate::{Error, Kernel, shape};

/// The direction of the sum of a history: row (`dim` values) and confidence of each positive, one entry per item, in an order that is the
/// same everywhere (by slot and id), for the same bytes. An empty history gives the zero vector.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Value`] for rows and confidences that are not usable.
pub fn vector(kernel: Kernel, dim: usize, history: &[(&[f32], f32)]) -> Result<Vec<f32>, Error> {
    Ok(direction(kernel, dim, history)?.0)
}

/// What each entry of the history adds to the score of `item`: `c_h y_h.y_i / |sum_h c_h y_h|`. They sum to the score, up to rounding.
///
/// # Errors
/// As [`vector`].
pub fn contributions(kernel: Kernel, item: &[f32], history: &[(&[f32], f32)]) -> Result<Vec<f32>, Error> {
    let (_, inverse) = direction(kernel, item.len(), history)?;
    Ok(history.iter().map(|(row, confidence)| inverse * confidence * kernel.dot(item, row)).collect())
}

/// The vector, and what it was multiplied by to be one of length 1.
fn direction(kernel: Kernel, dim: usize, history: &[(&[f32], f32)]) -> Result<(Vec<f32>, f32), Error> {
    let mut sum = vec![0.0; dim];
    for (row, confidence) in history {
        shape("item row", dim, row.len())?;
        if !(confidence.is_finite() && *confidence > 0.0) || row.iter().any(|value| !value.is_finite()) {
            return Err(Error::Value { what: "history" });
        }
        kernel.add_scaled(&mut sum, *confidence, row);
    }
    let inverse = normalise(kernel, &mut sum);
    Ok((sum, inverse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_sum_to_the_score() {
        let kernel = Kernel::detect();
        let rows: Vec<Vec<f32>> = (0..5)
            .map(|at| {
                let mut row = vec![0.0; 19];
                crate::softmax::first_row(kernel, 3, &at.to_string(), &mut row);
                row
            })
            .collect();
        let history: Vec<(&[f32], f32)> =
            rows[..4].iter().zip([1.0, 0.5, 2.0, 1.0]).map(|(row, c)| (&row[..], c)).collect();
        let user = vector(kernel, 19, &history).unwrap();
        assert!((kernel.dot(&user, &user) - 1.0).abs() < 1e-6);
        let reasons = contributions(kernel, &rows[4], &history).unwrap();
        assert!((reasons.iter().sum::<f32>() - kernel.dot(&user, &rows[4])).abs() < 1e-6);
        assert_eq!(vector(kernel, 19, &[]).unwrap(), vec![0.0; 19]);
        assert!(vector(kernel, 3, &history).is_err());
        assert!(vector(kernel, 1, &[(&[1.0], 0.0)]).is_err());
        assert!(vector(kernel, 1, &[(&[f32::NAN], 1.0)]).is_err());
    }
}
