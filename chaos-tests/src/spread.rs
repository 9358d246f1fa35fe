//! How figures spread: percentiles of a sample, with its size.

use std::fmt;

/// A sample, ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    sorted: Vec<f64>,
}

impl Spread {
    /// Of these figures, in any order.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Spread { sorted }
    }

    /// The figure that `share` of the sample do not exceed (nearest rank); not a number where there is none.
    pub fn at(&self, share: f64) -> f64 {
        let rank = (share * self.sorted.len() as f64).ceil() as usize;
        self.sorted.get(rank.saturating_sub(1).min(self.sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    /// The middle.
    pub fn p50(&self) -> f64 {
        self.at(0.5)
    }

    /// The arithmetic mean; not a number where there is no figure.
    pub fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }

    /// How many figures there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99, max) = (self.p50(), self.at(0.99), self.at(1.0));
        write!(f, "p50 {p50:>6.3}  p99 {p99:>6.3}  max {max:>6.3}  mean {:>6.3}  (n {})", self.mean(), self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_of_the_sample() {
        let spread = Spread::of((1..=200).rev().map(f64::from));
        assert_eq!((spread.p50(), spread.at(0.99), spread.at(1.0), spread.mean()), (100.0, 198.0, 200.0, 100.5));
        assert_eq!(Spread::of([7.0]).at(0.0), 7.0);
        assert!(Spread::default().p50().is_nan());
    }
}
