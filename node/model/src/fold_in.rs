//! One user's vector at read time, from history and the version's item rows alone.
//!
//! It is the optimum that the user's row of the next half pass moves towards (see [`crate::Settings`]), solved exactly, so a click counts
//! at once and a trained user needs no stored vector. Since `x = M^-1 sum_h c_h y_h`, a score splits over the history exactly (Hu, Koren, Volinsky
//! 2008, section 5): `x.y_i = sum_h c_h y_i^T M^-1 y_h`. Those terms are the reasons.
use crate::kernel::Normal;
use crate::{Error, Kernel, Settings, gramian, kernel, shape};

/// The fixed side of a version: its Gramian and settings.
#[derive(Debug, Clone)]
pub struct FoldIn {
    settings: Settings,
    kernel: Kernel,
    base: Vec<f32>,
    items_total: u64,
}

impl FoldIn {
    /// Takes a version's item Gramian (packed) and number of trained items.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Shape`], [`Error::Value`].
    pub fn new(settings: Settings, kernel: Kernel, item_gramian: &[f64], items_total: u64) -> Result<Self, Error> {
        settings.validate()?;
        let base = gramian::scaled(usize::from(settings.dim), item_gramian, settings.alpha0)?;
        Ok(Self { settings, kernel, base, items_total })
    }

    /// Solves a user's vector. `history`: row (`dim` values) and confidence of each positive, one entry per item, in an order
    /// that is the same everywhere (by slot and id), for the same bytes. An empty history gives the zero vector.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Value`] for rows and confidences that are not usable.
    pub fn solve(&self, history: &[(&[f32], f32)]) -> Result<Folded, Error> {
        let dim = usize::from(self.settings.dim);
        for (row, confidence) in history {
            shape("item row", dim, row.len())?;
            if !(confidence.is_finite() && *confidence > 0.0) || row.iter().any(|value| !value.is_finite()) {
                return Err(Error::Value { what: "history" });
            }
        }
        let mut normal = Normal::new(dim);
        normal.begin(&self.base, self.settings.row_regularization(history.len(), self.items_total));
        self.kernel.solve_one(&mut normal, history);
        Ok(Folded { vector: normal.solution().to_vec(), normal, kernel: self.kernel })
    }
}

/// A solved user.
pub struct Folded {
    vector: Vec<f32>,
    normal: Normal,
    kernel: Kernel,
}

impl Folded {
    /// The user's vector, `dim` values.
    #[must_use]
    pub fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// What each entry of `history` (the one given to [`FoldIn::solve`]) adds to the score of `item`:
    /// `c_h y_item^T M^-1 y_h`. They sum to the score, up to rounding.
    ///
    /// # Errors
    /// [`Error::Shape`] when a row has not `dim` values.
    pub fn contributions(&self, item: &[f32], history: &[(&[f32], f32)]) -> Result<Vec<f32>, Error> {
        let dim = self.vector.len();
        shape("item row", dim, item.len())?;
        let mut solved = vec![0.0; kernel::stride(dim)];
        solved[..dim].copy_from_slice(item);
        self.kernel.solve_factored(&self.normal, &mut solved);
        history
            .iter()
            .map(|(row, confidence)| {
                shape("item row", dim, row.len())?;
                Ok(confidence * self.kernel.dot(&solved[..dim], row))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adjacency, rows::HalfPass};
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_user_gets_the_exact_row_of_half_a_pass_and_reasons_sum_to_the_score() {
        let settings = Settings { dim: 20, ..Settings::default() };
        let mut table = vec![0.0; 20 * 12];
        crate::init::fill(1, "t", 15.0, &mut table);
        let kernel = Kernel::detect();
        let gramian = gramian::packed(kernel, 20, &table);
        let mut adjacency = Adjacency::new();
        adjacency.push_row([(1, 1.0), (4, 2.0), (7, 1.0)]);
        let (mut trained, stop) = (vec![0.0; 20], AtomicBool::new(false));
        HalfPass::new(&settings, kernel, 1, &gramian, &table, 12, &stop)
            .unwrap()
            .solve(&adjacency, &mut trained)
            .unwrap();

        let row = |i: usize| &table[i * 20..][..20];
        let history = [(row(1), 1.0), (row(4), 2.0), (row(7), 1.0)];
        let folded = FoldIn::new(settings, kernel, &gramian, 12).unwrap().solve(&history).unwrap();
        assert_eq!(folded.vector(), trained);
        let reasons = folded.contributions(row(5), &history).unwrap();
        let score = kernel.dot(folded.vector(), row(5));
        assert!((reasons.iter().sum::<f32>() - score).abs() < 1e-4, "{reasons:?} {score}");
    }

    #[test]
    fn an_empty_history_gives_zero_and_bad_rows_are_refused() {
        let settings = Settings { dim: 2, ..Settings::default() };
        let fold = FoldIn::new(settings, Kernel::detect(), &[1.0, 0.0, 1.0], 3).unwrap();
        assert_eq!(fold.solve(&[]).unwrap().vector(), [0.0, 0.0]);
        assert!(fold.solve(&[(&[1.0], 1.0)]).is_err());
        assert!(fold.solve(&[(&[1.0, f32::NAN], 1.0)]).is_err());
        assert!(fold.solve(&[(&[1.0, 0.0], -1.0)]).is_err());
    }
}
