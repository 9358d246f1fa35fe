//! Adam (Kingma and Ba, ICLR 2015, algorithm 1) for the dense weights.
use crate::{Error, shape};
use serde::{Deserialize, Serialize};

/// Decay of the moments, and what keeps quotients finite: the paper's.
const DECAYS: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-8;

/// Weights and their moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adam {
    weights: Vec<f32>,
    /// By weight: the decayed means of its gradients and of their squares.
    moments: [Vec<f32>; 2],
    /// Powers of the decays: a product for each step, as library powers differ between machines.
    powers: [f64; 2],
}

impl Adam {
    /// Takes weights, without any history.
    #[must_use]
    pub fn new(weights: Vec<f32>) -> Self {
        Self { moments: [vec![0.0; weights.len()], vec![0.0; weights.len()]], powers: [1.0; 2], weights }
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Applies a step's gradient once. An empty one, as a step without users has it, changes nothing.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Value`] for a gradient that is not finite.
    pub fn apply(&mut self, rate: f32, gradient: &[f64]) -> Result<(), Error> {
        if gradient.is_empty() {
            return Ok(());
        }
        shape("gradient of dense weights", self.weights.len(), gradient.len())?;
        // Those of a checkpoint may be of anything.
        self.moments.iter().try_for_each(|moments| shape("moments", self.weights.len(), moments.len()))?;
        if gradient.iter().any(|value| !(*value as f32).is_finite()) {
            return Err(Error::Value { what: "gradient of dense weights" });
        }
        self.powers = [self.powers[0] * f64::from(DECAYS[0]), self.powers[1] * f64::from(DECAYS[1])];
        let [unbias, unbias_squares] = self.powers.map(|power| (1.0 / (1.0 - power)) as f32);
        let [means, squares] = &mut self.moments;
        for (((weight, mean), square), value) in self.weights.iter_mut().zip(means).zip(squares).zip(gradient) {
            let value = *value as f32;
            *mean = DECAYS[0] * *mean + (1.0 - DECAYS[0]) * value;
            *square = DECAYS[1] * *square + (1.0 - DECAYS[1]) * (value * value);
            // A square beyond 32 bits leaves its weight where it is, for good.
            *weight -= rate * (*mean * unbias) / ((*square * unbias_squares).sqrt() + EPSILON);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_the_formula() {
        let mut adam = Adam::new(vec![1.0, 2.0, 3.0]);
        adam.apply(0.1, &[4.0, -0.001, 0.0]).unwrap();
        // The first step has the length of the rate, whatever the gradient, and what has none stays.
        for (weight, expected) in adam.weights().iter().zip([0.9, 2.1, 3.0]) {
            assert!((weight - expected).abs() < 1e-4, "{weight}");
        }
        adam.apply(0.1, &[-4.0, 0.0, 0.0]).unwrap();
        let (mean, square) = ((0.9 * 0.4 - 0.4) / (1.0 - 0.81), (0.999 * 0.016 + 0.016) / (1.0 - 0.999f32.powi(2)));
        assert!((adam.weights()[0] - (0.9 - 0.1 * mean / square.sqrt())).abs() < 1e-4, "{:?}", adam.weights());
        let before = adam.clone();
        adam.apply(0.1, &[]).unwrap();
        assert_eq!(adam, before);
        assert!(adam.apply(0.1, &[0.0; 2]).is_err());
        assert!(adam.apply(0.1, &[0.0, f64::NAN, 0.0]).is_err());
    }
}
