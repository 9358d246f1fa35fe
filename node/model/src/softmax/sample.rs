//! Negatives: how many each virtual worker of items draws in a step, which, and with which weight.
//!
//! The distribution is `q_i = (1 - u) n_i^beta / sum_j n_j^beta + u / items` for items with n_i positives. A step draws S times from it in two
//! levels: first the virtual worker of items, by its mass, then the item inside it. The first needs two numbers a worker and is everybody's, the second
//! is the owner's alone, so no host has to know the catalogue.
use super::{
    Settings,
    random::{Purpose, Random},
};
use crate::{Error, arithmetic::power, shape};

/// Draws from a discrete distribution in constant time (Walker, ACM TOMS 1977; the tables as Vose, IEEE TSE 1991, fills them).
#[derive(Debug, Clone)]
pub struct Alias {
    /// By cell: the part of 2^32 that is its own, and who has the rest.
    cells: Vec<(u64, u32)>,
}

impl Alias {
    /// For weights of at least 0, one of them above 0.
    #[must_use]
    pub fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let scaled = |weight: &f64| weight * weights.len() as f64 / total;
        let mut rest: Vec<f64> = weights.iter().map(scaled).collect();
        let mut cells: Vec<(u64, u32)> = (0..weights.len() as u32).map(|at| (1 << 32, at)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..weights.len()).partition(|at| rest[*at] < 1.0);
        while let (Some(under), Some(over)) = (small.pop(), large.pop()) {
            cells[under] = ((rest[under] * (1u64 << 32) as f64) as u64, over as u32);
            rest[over] -= 1.0 - rest[under];
            if rest[over] < 1.0 { small.push(over) } else { large.push(over) }
        }
        Self { cells }
    }

    /// Draws one, with two numbers of the stream.
    pub fn draw(&self, random: &mut Random) -> u32 {
        let cell = random.below(self.cells.len() as u32);
        let (own, other) = self.cells[cell as usize];
        if u64::from(random.bits()) < own { cell } else { other }
    }
}

/// `[sum of n_i^beta, number]` of the items of a virtual worker with so many positives.
#[must_use]
pub fn mass(settings: &Settings, positives: &[u32]) -> [f64; 2] {
    [positives.iter().map(|count| popularity(settings, *count)).sum(), positives.len() as f64]
}

fn popularity(settings: &Settings, positives: u32) -> f64 {
    if positives == 0 { 0.0 } else { power(f64::from(positives), f64::from(settings.popularity_exponent)) }
}

/// The first level: what all know.
#[derive(Debug, Clone)]
pub struct Masses {
    settings: Settings,
    total: [f64; 2],
    workers: usize,
    alias: Alias,
}

impl Masses {
    /// From [`mass`] of every virtual worker of items, in order.
    ///
    /// # Errors
    /// [`Error::Value`] when there are no items with positives.
    pub fn new(settings: &Settings, masses: &[[f64; 2]]) -> Result<Self, Error> {
        let total = masses.iter().fold([0.0; 2], |sum, mass| [sum[0] + mass[0], sum[1] + mass[1]]);
        if !(total[0].is_finite() && total[0] > 0.0 && total[1].is_finite() && total[1] > 0.0) {
            return Err(Error::Value { what: "masses of items" });
        }
        let shares: Vec<f64> = masses.iter().map(|mass| share(settings, total, *mass)).collect();
        Ok(Self { settings: *settings, total, workers: masses.len(), alias: Alias::new(&shares) })
    }

    /// How many negatives each virtual worker of items draws in a step; they sum to `settings.negatives`.
    #[must_use]
    pub fn counts(&self, epoch: u32, step: u32) -> Vec<u32> {
        let mut random = Random::new(self.settings.seed, Purpose::Counts, epoch, step, 0);
        let mut counts = vec![0; self.workers];
        (0..self.settings.negatives).for_each(|_| counts[self.alias.draw(&mut random) as usize] += 1);
        counts
    }
}

fn share(settings: &Settings, total: [f64; 2], mass: [f64; 2]) -> f64 {
    let uniform = f64::from(settings.uniform_share);
    (1.0 - uniform) * mass[0] / total[0] + uniform * mass[1] / total[1]
}

/// The second level: the items of one virtual worker.
#[derive(Debug, Clone)]
pub struct Draw {
    settings: Settings,
    vworker: u16,
    alias: Alias,
    /// By item: 1 / (S q).
    corrections: Vec<f32>,
}

impl Draw {
    /// For a virtual worker of items with so many positives, at least one item.
    ///
    /// # Errors
    /// [`Error::Shape`] without items.
    pub fn new(masses: &Masses, vworker: u16, positives: &[u32]) -> Result<Self, Error> {
        shape("items of a virtual worker", positives.len().max(1), positives.len())?;
        let settings = masses.settings;
        let shares: Vec<f64> = positives
            .iter()
            .map(|count| share(&settings, masses.total, [popularity(&settings, *count), 1.0]))
            .collect();
        let correction = |share: &f64| (1.0 / (f64::from(settings.negatives) * share)) as f32;
        Ok(Self { settings, vworker, corrections: shares.iter().map(correction).collect(), alias: Alias::new(&shares) })
    }

    /// The worker's `count` draws of a step: distinct items (by their number inside the worker), ascending, each with its weight: how
    /// often it was drawn over how often that is to be expected.
    #[must_use]
    pub fn draw(&self, epoch: u32, step: u32, count: u32) -> Vec<(u32, f32)> {
        let mut random = Random::new(self.settings.seed, Purpose::Negatives, epoch, step, self.vworker);
        let mut drawn: Vec<u32> = (0..count).map(|_| self.alias.draw(&mut random)).collect();
        drawn.sort_unstable();
        drawn
            .chunk_by(|left, right| left == right)
            .map(|same| (same[0], same.len() as f32 * self.corrections[same[0] as usize]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_cells_of_an_alias_table_hold_the_weights(weights in prop::collection::vec(0.0f64..9.0, 1..60)) {
            prop_assume!(weights.iter().sum::<f64>() > 0.01);
            let alias = Alias::new(&weights);
            let cell = 1.0 / weights.len() as f64;
            let mut shares = vec![0.0; weights.len()];
            for (at, (own, other)) in alias.cells.iter().enumerate() {
                let own = *own as f64 / (1u64 << 32) as f64;
                shares[at] += own * cell;
                shares[*other as usize] += (1.0 - own) * cell;
            }
            let total: f64 = weights.iter().sum();
            for (share, weight) in shares.iter().zip(&weights) {
                prop_assert!((share - weight / total).abs() < 1e-8, "{} {}", share, weight / total);
            }
        }
    }

    #[test]
    fn weights_of_negatives_sum_to_what_they_stand_for() {
        let settings = Settings { negatives: 64, popularity_exponent: 0.5, uniform_share: 0.3, ..Settings::default() };
        let positives = [vec![9, 0, 4], vec![1], vec![100, 1, 1, 16]];
        let masses: Vec<_> = positives.iter().map(|counts| mass(&settings, counts)).collect();
        let masses = Masses::new(&settings, &masses).unwrap();
        let draws: Vec<_> =
            positives.iter().zip(0..).map(|(counts, vworker)| Draw::new(&masses, vworker, counts).unwrap()).collect();
        let mut sums = [[0.0f64; 4]; 3];
        let steps = 4000;
        for step in 0..steps {
            let counts = masses.counts(1, step);
            assert_eq!(counts.iter().sum::<u32>(), 64);
            for (worker, draw) in draws.iter().enumerate() {
                for (item, weight) in draw.draw(1, step, counts[worker]) {
                    sums[worker][item as usize] += f64::from(weight) / f64::from(steps);
                }
            }
        }
        // In expectation each item counts once: the estimate of a sum over all items is unbiased.
        for (sums, positives) in sums.iter().zip(&positives) {
            assert!(sums[..positives.len()].iter().all(|sum| (sum - 1.0).abs() < 0.05), "{sums:?}");
        }
    }

    #[test]
    fn masses_of_nothing_are_refused() {
        assert!(Masses::new(&Settings::default(), &[[0.0, 0.0]; 64]).is_err());
        let masses = Masses::new(&Settings::default(), &[[2.0, 1.0]]).unwrap();
        assert!(Draw::new(&masses, 0, &[]).is_err());
    }
}
