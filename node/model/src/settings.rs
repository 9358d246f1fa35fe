//! The numbers of an iALS model.
use crate::{Error, arithmetic::power};
use serde::{Deserialize, Serialize};

/// Largest dimension of a model; bounds every buffer derived from it.
pub const DIM_MAX: u16 = 512;

/// Settings of iALS in the formulation of Rendle, Krichene, Zhang, Koren, "Revisiting the Performance of iALS on Item
/// Recommendation Benchmarks" (RecSys 2022), eq. 1-4 (they build on Hu, Koren, Volinsky, ICDM 2008):
///
/// `L = sum_{(u,i) in S} c_ui (1 - x_u.y_i)^2 + alpha0 sum_{all u,i} (x_u.y_i)^2 + sum_u reg_u |x_u|^2 + sum_i reg_i |y_i|^2`
///
/// The unobserved weight alpha0 counts for *all* pairs, observed ones included, so the weight of an observed pair is
/// `c_ui + alpha0` and its optimum lies at `c/(c + alpha0)`. A row solves
/// `(alpha0 G + sum_i c_ui y_i y_i^T + reg_u I) x_u = sum_i c_ui y_i` with `reg_u = reg (|I_u| + alpha0 |I|)^nu`.
///
/// Training takes a few steps of conjugate gradients towards that row from the last pass's ([`crate::rows::HalfPass::refine`]); fold-in
/// solves it exactly. How many steps is no setting: it follows from the row (decision 0017).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Dimension of the vectors, 1..=512.
    pub dim: u16,
    /// Weight of every pair, observed or not: (0, 1000].
    pub alpha0: f32,
    /// Regularisation `reg`, (0, 1000].
    pub regularization: f32,
    /// Exponent nu of the frequency scaling, [0, 2]; 1 is best in the paper. Used to the nearest 2^-20.
    pub frequency_exponent: f32,
    /// Standard deviation of a first item vector's length: each element has `init_deviation / sqrt(dim)`; (0, 10].
    pub init_deviation: f32,
    /// Passes over users and items, 1..=1000.
    pub epochs: u16,
    /// Seed of the first item rows.
    pub seed: u64,
}

impl Default for Settings {
    /// Held-out training data of gowalla (`examples/gowalla`) prefers alpha0 .01 and is flat in `regularization` from
    /// .002 to .006; 4 passes are best at d = 64 and 6 to 12 at d = 128. The default stays near the middle, as other data
    /// are smaller and converge later.
    fn default() -> Self {
        Self {
            dim: 64,
            alpha0: 0.01,
            regularization: 0.004,
            frequency_exponent: 1.0,
            init_deviation: 0.1,
            epochs: 8,
            seed: 1,
        }
    }
}

impl Settings {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let within = |name, value: f32, max: f32, reason| {
            if value.is_finite() && value > 0.0 && value <= max { Ok(()) } else { Err(Error::Setting { name, reason }) }
        };
        if !(1..=DIM_MAX).contains(&self.dim) {
            return Err(Error::Setting { name: "dim", reason: "1 to 512" });
        }
        if !(1..=1000).contains(&self.epochs) {
            return Err(Error::Setting { name: "epochs", reason: "1 to 1000" });
        }
        within("alpha0", self.alpha0, 1000.0, "above 0, at most 1000")?;
        within("regularization", self.regularization, 1000.0, "above 0, at most 1000")?;
        within("init_deviation", self.init_deviation, 10.0, "above 0, at most 10")?;
        if !(0.0..=2.0).contains(&self.frequency_exponent) {
            return Err(Error::Setting { name: "frequency_exponent", reason: "0 to 2" });
        }
        Ok(())
    }

    /// `reg (positives + alpha0 others)^nu` for a row with that many positives, where the other side has `others` rows.
    #[must_use]
    pub fn row_regularization(&self, positives: usize, others: u64) -> f32 {
        let base = positives as f64 + f64::from(self.alpha0) * others as f64;
        (f64::from(self.regularization) * power(base, f64::from(self.frequency_exponent))) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = Settings { alpha0: f32::NAN, ..Settings::default() };
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "alpha0", .. })));
        let bad = Settings { dim: 0, ..Settings::default() };
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "dim", .. })));
        assert_eq!(Settings::default().validate(), Ok(()));
    }
}
