//! What the owner of items does with a step's sums: row-wise Adagrad on the sphere.
//!
//! One number of state a row (Duchi, Hazan, Singer, JMLR 2011, per row as in DLRM): `s += |g|^2`, `y -= rate g / sqrt(s)`, where g is the gradient's
//! part that is tangent to the sphere at y; afterwards y is made a unit vector again. So a row's first step has the length `rate`, whatever the
//! scale of the loss.
use super::{gradients::Gradients, normalise};
use crate::{Error, Kernel, shape};

/// Rows of items and their optimiser's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    dim: usize,
    rows: Vec<f32>,
    squares: Vec<f32>,
}

impl Table {
    /// Takes unit rows of `dim` values each, without any history.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn new(dim: usize, rows: Vec<f32>) -> Result<Self, Error> {
        let items = rows.len() / dim.max(1);
        shape("item rows", items * dim, rows.len())?;
        Ok(Self { dim, squares: vec![0.0; items], rows })
    }

    /// Takes up rows and squares from a checkpoint.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn from_parts(dim: usize, rows: Vec<f32>, squares: Vec<f32>) -> Result<Self, Error> {
        shape("item rows", squares.len() * dim, rows.len())?;
        Ok(Self { dim, rows, squares })
    }

    /// The rows, unit vectors.
    #[must_use]
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// By row: the sum of the squared lengths of its gradients.
    #[must_use]
    pub fn squares(&self) -> &[f32] {
        &self.squares
    }

    /// Applies a step's sums once; `rate` is [`super::Settings::rate`].
    ///
    /// # Errors
    /// [`Error::Shape`] for gradients of another dimension or of items that are not here.
    pub fn apply(&mut self, kernel: Kernel, rate: f32, gradients: &Gradients) -> Result<(), Error> {
        let dim = self.dim;
        shape("gradients", gradients.items().len() * dim, gradients.rows().len())?;
        let last = gradients.items().last().map_or(0, |item| *item as usize + 1);
        shape("items with gradients", last.min(self.squares.len()), last)?;
        let mut tangent = vec![0.0; dim];
        for (item, gradient) in gradients.items().iter().zip(gradients.rows().chunks_exact(dim)) {
            let row = &mut self.rows[*item as usize * dim..][..dim];
            tangent.copy_from_slice(gradient);
            kernel.add_scaled(&mut tangent, -kernel.dot(gradient, row), row);
            let square = kernel.dot(&tangent, &tangent);
            let sum = &mut self.squares[*item as usize];
            *sum += square;
            // A gradient of nothing, or so small that its square is, moves nothing.
            if square > 0.0 && sum.is_finite() {
                kernel.add_scaled(row, -rate / sum.sqrt(), &tangent);
                normalise(kernel, row);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_the_formula_and_rows_stay_unit_vectors() {
        let kernel = Kernel::detect();
        let mut table = Table::new(2, vec![1.0, 0.0, 0.0, 1.0]).unwrap();
        let gradients = Gradients::from_parts(2, vec![1], vec![3.0, 7.0]).unwrap();
        table.apply(kernel, 0.5, &gradients).unwrap();
        // The tangent at (0, 1) is (3, 0), the step (-0.5, 0).
        let length = 1.25f32.sqrt();
        assert_eq!(table.rows()[..2], [1.0, 0.0], "nobody's row stays");
        assert!((table.rows()[2] + 0.5 / length).abs() < 1e-6 && (table.rows()[3] - 1.0 / length).abs() < 1e-6);
        assert_eq!(table.squares(), [0.0, 9.0]);
        table.apply(kernel, 0.5, &Gradients::from_parts(2, vec![0], vec![5.0, 0.0]).unwrap()).unwrap();
        assert_eq!(table.rows()[..2], [1.0, 0.0], "a gradient along the row moves nothing");
        assert!(table.apply(kernel, 0.5, &Gradients::from_parts(2, vec![2], vec![1.0, 0.0]).unwrap()).is_err());
        assert!(table.apply(kernel, 0.5, &Gradients::from_parts(1, vec![0], vec![1.0]).unwrap()).is_err());
    }
}
