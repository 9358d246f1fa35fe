//! Sampled-softmax matrix factorisation whose users are their histories.
//!
//! There is one table: a unit vector y_i for each item. A user is the direction of the sum of what it has, `x = sum_h y_h / |sum_h y_h|`
//! ([`user`]), so a user's vector is derived by construction: none is trained, stored or folded in, and the first click counts at once.
//! (The history as the user is FISM's and the asymmetric models' idea: Kabbur, Ning, Karypis, KDD 2013; Koren, KDD 2008, section 4.1.)
//!
//! **Loss.** A history is cut at random into `folds` parts. For each part F, x is made of the *other* parts and every item t of F is told from the
//! step's negatives N by
//!
//! `-ln e_t / (e_t + sum_{j in N, j not in the history} n_j e_j / (S q_j))`, `e_i = exp(x.y_i / temperature)`
//!
//! with S draws, n_j of them j, from the distribution q. The factor 1 / (S q_j) is the logQ correction (Bengio and Senécal 2008; Yi et al.,
//! RecSys 2019, section 3); the target is there with probability 1 and has none. So the sum over N is an unbiased estimate of that over
//! all items that the user has not, whichever q. That both sides are unit vectors is what Wu et al., *On the effectiveness of sampled softmax
//! loss for item recommendation* (TOIS 2024), find best, too.
//!
//! **BPR** ([`Loss::Bpr`]; Rendle et al., *BPR: Bayesian personalized ranking from implicit feedback*, UAI 2009) tells t from each negative by
//! itself instead, `sum_j m_j / M ln(1 + e_j / e_t)` with `m_j = n_j / (S q_j)` and M their sum: the mean over all items that the user has not.
//! Sharing negatives makes it three matrix products as well. It is there for comparison; softmax is the better loss (decision 0018).
//!
//! # The contract with a parameter server
//!
//! Users belong to 64 virtual workers and items to 64 of their own, both ranges of slots; hosts merely host them. Item rows and their
//! optimiser's state live with the items' owner; nothing of a user but its history exists, and that stays where it is.
//!
//! 1. *Once a job.* Owners tell everybody two numbers of each virtual worker of items ([`sample::mass`]), user hosts how many positives they have. All
//!    know then the number of steps an epoch ([`plan::steps`]) and how many negatives each virtual worker of items draws in each step
//!    ([`sample::Masses::counts`]); the owner alone knows which ([`sample::Draw::draw`]).
//! 2. *Each epoch* a virtual worker of users puts its users in a random order and parts them among the steps ([`plan::batches`]), in
//!    proportion: a small one has small parts, or empty ones, and the number of steps is everybody's.
//! 3. *Each step* a user host pulls the rows of the items in its batches' histories and, from every owner, the negatives with their weights
//!    ([`negatives::Negatives`], the same for all virtual workers). Each of its virtual workers computes a [`negatives::Push`], which are added up along
//!    [`crate::tree`] as far as the host has whole subtrees ([`step::Step::pushes`]). It sends each owner that owner's rows of the roots.
//! 4. An owner waits for all 64 leaves, [finishes](crate::tree::finish) the tree and [applies](adagrad::Table::apply) the sum once.
//!
//! **The bytes do not depend on the hosting.** The sum of one item is a tree over virtual workers, in which a worker without that item is left out
//! (not a zero), so that rows of one owner can be cut out of a node before or after adding; inside a virtual worker it runs in the order of its batch.
//! Random numbers are a function of (seed, purpose, epoch, step, virtual worker) ([`random`]). Everything else is a function of rows at the step's
//! beginning. So a step can be computed again anywhere, from a checkpoint of rows and squares, to the same bits.
//!
//! **What travels**, a step: to each user host the distinct rows of its batches and S negatives, and back the same rows once per root
//! (one root where a host has all, at most 2 log2 64 for a contiguous range). Larger batches have fewer distinct rows per positive; see decision 0018.
pub mod adagrad;
pub mod gradients;
mod judge;
pub mod negatives;
pub mod plan;
pub mod random;
mod rows;
pub mod sample;
pub mod step;
pub mod user;

use crate::{
    Error, Kernel,
    arithmetic::{ln, power},
    init,
    settings::DIM_MAX,
};
use serde::{Deserialize, Serialize};

/// Virtual workers of users, and of items.
pub const VWORKERS: u16 = 64;

/// Settings of sampled softmax.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Dimension of the vectors, 1..=512.
    pub dim: u16,
    /// Passes over all positives, 1..=1000.
    pub epochs: u16,
    /// Positives of a step, over all virtual workers, about and at most: 64..=16,777,216. An epoch has 12 steps or more.
    pub batch: u32,
    /// Negatives drawn a step, with repetition: 16..=65,536.
    pub negatives: u32,
    /// Divides scores: [0.02, 1].
    pub temperature: f32,
    /// Parts that a history is cut into, 2..=64; a user is trained on all but one of them at a time.
    pub folds: u16,
    /// Length of a row's first step, (0, 10]; it falls to 0 in a line over the job.
    pub learning_rate: f32,
    /// Exponent of an item's positives in the distribution of negatives, [0, 2].
    pub popularity_exponent: f32,
    /// Share of the negatives that are drawn uniformly from all items, [0.01, 1]: keeps every correction finite.
    pub uniform_share: f32,
    /// Seed of first rows, orders, parts and negatives.
    pub seed: u64,
}

/// What tells a user's items from negatives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// An item against all negatives at once.
    #[default]
    Softmax,
    /// An item against each negative by itself.
    Bpr,
}

impl Default for Settings {
    /// Chosen on held-out training data (decision 0018): gowalla prefers a temperature of .07, citeulike and MovieLens .1. The negatives go with the
    /// batch: a quarter of it.
    fn default() -> Self {
        Self {
            dim: 64,
            epochs: 10,
            batch: 65_536,
            negatives: 16_384,
            temperature: 0.08,
            folds: 2,
            learning_rate: 2.0,
            popularity_exponent: 1.0,
            uniform_share: 0.5,
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
        let checks = [
            ("dim", (1..=DIM_MAX).contains(&self.dim), "1 to 512"),
            ("epochs", (1..=1000).contains(&self.epochs), "1 to 1000"),
            ("batch", (64..=1 << 24).contains(&self.batch), "64 to 16,777,216"),
            ("negatives", (16..=65_536).contains(&self.negatives), "16 to 65,536"),
            // Below .02 the exponentials of 32-bit numbers no longer tell far scores apart.
            ("temperature", (0.02..=1.0).contains(&self.temperature), "0.02 to 1"),
            ("folds", (2..=64).contains(&self.folds), "2 to 64"),
            ("learning_rate", self.learning_rate > 0.0 && self.learning_rate <= 10.0, "above 0, at most 10"),
            ("popularity_exponent", (0.0..=2.0).contains(&self.popularity_exponent), "0 to 2"),
            ("uniform_share", (0.01..=1.0).contains(&self.uniform_share), "0.01 to 1"),
        ];
        match checks.into_iter().find(|(_, is_valid, _)| !is_valid) {
            Some((name, _, reason)) => Err(Error::Setting { name, reason }),
            None => Ok(()),
        }
    }

    /// Length of a row's first step if it came in this step of the job (epochs count from 0).
    #[must_use]
    pub fn rate(&self, steps: u32, epoch: u32, step: u32) -> f32 {
        let (done, all) =
            (f64::from(epoch) * f64::from(steps) + f64::from(step), f64::from(self.epochs) * f64::from(steps));
        (f64::from(self.learning_rate) * (1.0 - done / all.max(1.0)).max(0.0)) as f32
    }
}

/// What an item with so many positives counts beside its row: `(positives + 1)^exponent`. In a score it is a bias, the temperature times its
/// logarithm. Unit vectors alone say too little of how much an item is liked by everybody (decision 0018).
#[must_use]
pub fn odds(exponent: f32, positives: u32) -> f32 {
    power(f64::from(positives) + 1.0, f64::from(exponent)) as f32
}

/// Rows of items with what their odds add to a cosine, the bias, behind each: a user has a 1 there, so that a score is an inner product still.
#[must_use]
pub fn biased(settings: &Settings, rows: &[f32], odds: impl IntoIterator<Item = f32>) -> Vec<f32> {
    let bias = |odds: f32| (f64::from(settings.temperature) * ln(f64::from(odds))) as f32;
    let each = rows.chunks_exact(usize::from(settings.dim)).zip(odds);
    each.flat_map(|(row, odds)| row.iter().copied().chain([bias(odds)])).collect()
}

/// An item's first row: a random direction, a function of (seed, id).
pub fn first_row(kernel: Kernel, seed: u64, id: &str, row: &mut [f32]) {
    init::fill(seed, id, 1.0, row);
    normalise(kernel, row);
}

/// Makes `row` a unit vector and returns what it was multiplied by; zero stays zero.
pub(crate) fn normalise(kernel: Kernel, row: &mut [f32]) -> f32 {
    let length = kernel.dot(row, row).sqrt();
    // A sum of opposite rows has no direction; a length that small is rounding.
    let inverse = if length > 1e-6 { 1.0 / length } else { 0.0 };
    row.iter_mut().for_each(|value| *value *= inverse);
    inverse
}

#[cfg(test)]
pub(crate) mod tests;
