//! One ranking from the scores of several models.
//!
//! What models score by are different quantities: a cosine, a sum of neighbours' weights, an estimated preference, a number of positives. A blend adds
//! up what each says *in nats*:
//!
//! `score(u, j) = sum_m (w_m + v_m L_u) f_m(s_m(u, j))`, `L_u = ln(h_u / 20)` for a user with h_u entries of history
//!
//! - `f(s) = s / unit` for a score that is a logarithm already: softmax trains `cosine / temperature` to be one ([`Scale::Linear`]).
//! - `f(s) = ln(1 + s / unit)` for a score that is proportional to a probability ([`Scale::Logarithm`]); scores below 0 count as 0, which says
//!   nothing. A sum over the history is divided by its length first ([`Channel::is_sum`]), so that a unit is the same for everybody.
//!
//! This is a logarithmic opinion pool (Genest and Zidek, *Combining probability distributions*, Statistical Science 1986): a user's
//! own factor on a model's scores is one more summand for all items and changes no order. So nothing has to be calibrated for a user: every number
//! above is a constant of the version or known where the query is made, an item's score needs no other item, and **any split of the items over shards
//! gives the same ranking**. A shard scans once, with a vector and a history, and answers with its best; the gateway merges by score as ever.
//!
//! The slopes v are there because long histories want other models and fewer popular items than short ones.
//!
//! [`search`] finds the weights on held-out data.
pub mod search;

use crate::{
    Error,
    arithmetic::{ln, power},
    shape,
    tree::Sum,
};
use serde::{Deserialize, Serialize};

/// Most channels of a blend.
pub const CHANNELS_MAX: usize = 16;
/// Largest weight and slope, either sign.
pub const WEIGHT_MAX: f32 = 4.0;
/// The length of history that slopes do not move.
const ENTRIES_USUAL: f64 = 20.0;

/// How a score becomes nats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// `s / unit`.
    Linear,
    /// `ln(1 + max(s, 0) / unit)`.
    Logarithm,
}

/// One model of a blend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// How its score becomes nats.
    pub scale: Scale,
    /// Unit of its score, finite and above 0. For softmax its temperature; for a sum of weights see [`Bests`].
    pub unit: f32,
    /// Whether its score is a sum over the entries of the history.
    pub is_sum: bool,
    /// Weight w and slope v, -4 to 4 each.
    pub weights: Weights,
}

/// What a channel counts for a user: `base + slope ln(h / 20)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// For a history of 20 entries.
    pub base: f32,
    /// More for each factor e in its length.
    pub slope: f32,
}

/// A blend of models: constants of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blend {
    /// 1..=16 of them; scores come in this order.
    pub channels: Vec<Channel>,
}

impl Blend {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        if !(1..=CHANNELS_MAX).contains(&self.channels.len()) {
            return Err(Error::Setting { name: "channels", reason: "1 to 16" });
        }
        for channel in &self.channels {
            if !(channel.unit.is_normal() && channel.unit > 0.0) {
                return Err(Error::Setting { name: "unit", reason: "finite and above 0" });
            }
            let is_weight = |value: f32| (-WEIGHT_MAX..=WEIGHT_MAX).contains(&value);
            if !is_weight(channel.weights.base) || !is_weight(channel.weights.slope) {
                return Err(Error::Setting { name: "weights", reason: "-4 to 4" });
            }
        }
        Ok(())
    }

    /// What scores a user with so many entries of history (positives that models are given, not events).
    #[must_use]
    pub fn for_user(&self, entries: usize) -> ForUser<'_> {
        let log_entries = log_entries(entries);
        let weight = |channel: &Channel| channel.weights.at(log_entries);
        ForUser { blend: self, entries, weights: self.channels.iter().map(weight).collect() }
    }
}

impl Weights {
    /// For a user of this [`log_entries`].
    fn at(self, log_entries: f64) -> f64 {
        f64::from(self.base) + f64::from(self.slope) * log_entries
    }
}

impl Channel {
    /// A score in nats. One that is no finite number says nothing: 0.
    #[must_use]
    pub fn nats(&self, score: f32, entries: usize) -> f64 {
        if !score.is_finite() {
            return 0.0;
        }
        let share = if self.is_sum { entries.max(1) as f64 } else { 1.0 };
        let units = f64::from(score) / (share * f64::from(self.unit));
        match self.scale {
            Scale::Linear => units,
            Scale::Logarithm => ln(1.0 + units.max(0.0)),
        }
    }
}

/// `ln(h / 20)`; no history counts as one entry.
fn log_entries(entries: usize) -> f64 {
    ln(entries.max(1) as f64 / ENTRIES_USUAL)
}

/// A blend with one user's weights.
#[derive(Debug, Clone)]
pub struct ForUser<'a> {
    blend: &'a Blend,
    entries: usize,
    weights: Vec<f64>,
}

impl ForUser<'_> {
    /// One item's score from those of the channels, in their order.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many scores as channels.
    pub fn score(&self, scores: &[f32]) -> Result<f32, Error> {
        Ok(self.parts(scores)?.iter().sum::<f64>() as f32)
    }

    /// What each channel adds to the score, in nats: the reasons for it.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn parts(&self, scores: &[f32]) -> Result<Vec<f64>, Error> {
        shape("scores of channels", self.weights.len(), scores.len())?;
        let part = |((channel, weight), score): ((&Channel, &f64), &f32)| weight * channel.nats(*score, self.entries);
        Ok(self.blend.channels.iter().zip(&self.weights).zip(scores).map(part).collect())
    }

    /// The `n` best of `items`, best first, ties by lower item: of each its scores by the channels.
    ///
    /// # Errors
    /// As [`Self::score`].
    pub fn top<'a>(
        &self,
        items: impl IntoIterator<Item = (u32, &'a [f32])>,
        n: usize,
    ) -> Result<Vec<(u32, f32)>, Error> {
        let scored = items.into_iter().map(|(item, scores)| Ok((item, self.score(scores)?)));
        Ok(merge(scored.collect::<Result<_, Error>>()?, n))
    }
}

/// The `n` best of all shards' best, best first, ties by lower item.
#[must_use]
pub fn merge(mut scored: Vec<(u32, f32)>, n: usize) -> Vec<(u32, f32)> {
    let best = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if scored.len() > n {
        scored.select_nth_unstable_by(n, best);
        scored.truncate(n);
    }
    scored.sort_unstable_by(best);
    scored
}

/// How high the best scores of users are, to choose the unit of a channel by: to be added up over users, along [`crate::tree`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bests {
    users: f64,
    logarithms: f64,
}

impl Bests {
    /// Adds a user's best score; one of no positive number is not counted.
    pub fn add(&mut self, best: f32, entries: usize) {
        if best.is_normal() && best > 0.0 {
            self.users += 1.0;
            self.logarithms += ln(f64::from(best) / entries.max(1) as f64);
        }
    }

    /// To be sent: users, and the sum of logarithms.
    #[must_use]
    pub fn to_array(self) -> [f64; 2] {
        [self.users, self.logarithms]
    }

    /// From [`Self::to_array`].
    #[must_use]
    pub fn from_array([users, logarithms]: [f64; 2]) -> Self {
        Self { users, logarithms }
    }

    /// The unit of a channel that [is a sum](Channel::is_sum): the power of two nearest to a thousandth of the geometric mean of best scores
    /// per entry. It only has to lie far below what is shown: anything between a hundredth and a millionth is as good (decision 0020).
    #[must_use]
    pub fn unit(&self) -> f32 {
        let mean = self.logarithms / self.users.max(1.0) - ln(1000.0);
        // Within what a normal f32 holds, whatever the scores were.
        let exponent = (mean / std::f64::consts::LN_2).round().clamp(-120.0, 120.0);
        let size = power(2.0, exponent.abs());
        (if exponent < 0.0 { 1.0 / size } else { size }) as f32
    }
}

impl Sum for Bests {
    fn add(&mut self, right: Self) {
        self.users += right.users;
        self.logarithms += right.logarithms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blend() -> Blend {
        let channel =
            |scale, unit, is_sum, base, slope| Channel { scale, unit, is_sum, weights: Weights { base, slope } };
        Blend {
            channels: vec![
                channel(Scale::Logarithm, 1e-5, true, 1.0, 0.0),
                channel(Scale::Linear, 0.07, false, 0.5, 0.125),
                channel(Scale::Logarithm, 1.0, false, 0.0, -0.125),
            ],
        }
    }

    fn items() -> impl Strategy<Value = Vec<[f32; 3]>> {
        let score = (0u8..4, -3i8..4, 0u16..300);
        prop::collection::vec(
            score.prop_map(|(a, b, c)| [f32::from(a) / 50.0, f32::from(b) / 7.0, f32::from(c)]),
            1..60,
        )
    }

    proptest! {
        #[test]
        fn any_split_over_shards_gives_the_same_ranking(
            items in items(), shards in prop::collection::vec(0usize..4, 60), entries in 0usize..300, n in 1usize..25,
        ) {
            let blend = blend();
            let user = blend.for_user(entries);
            let all = || (0u32..).zip(items.iter().map(|scores| &scores[..]));
            let whole = user.top(all(), n).unwrap();
            let mut of_shards = Vec::new();
            for shard in [2, 0, 3, 1] {
                of_shards.extend(user.top(all().filter(|(item, _)| shards[*item as usize] == shard), n).unwrap());
            }
            prop_assert_eq!(merge(of_shards, n), whole);
        }

        #[test]
        fn a_score_is_that_of_the_formula(items in items(), entries in 1usize..300) {
            let blend = blend();
            let long = (entries as f64 / 20.0).ln();
            for [a, b, c] in items {
                let expected = (1.0 + f64::from(a) / (entries as f64 * 1e-5)).ln()
                    + (0.5 + 0.125 * long) * f64::from(b) / 0.07 - 0.125 * long * (1.0 + f64::from(c)).ln();
                let score = blend.for_user(entries).score(&[a, b, c]).unwrap();
                prop_assert!((f64::from(score) - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{} {}", score, expected);
            }
        }

        #[test]
        fn a_users_own_factor_changes_no_order(items in items(), factor in 1u8..100) {
            // Far above the unit, where the logarithm is one.
            let mut blend = blend();
            blend.channels[0].unit = 1e-30;
            let user = blend.for_user(20);
            let scores = |factor: f32| -> Vec<f32> {
                items.iter().map(|[a, b, c]| user.score(&[factor * (a + 0.5), *b, *c]).unwrap()).collect()
            };
            let (own, scaled) = (scores(1.0), scores(f32::from(factor)));
            for (left, right) in (0..items.len()).flat_map(|left| (0..items.len()).map(move |right| (left, right))) {
                // Beyond rounding.
                if own[left] > own[right] + 1e-4 {
                    prop_assert!(scaled[left] > scaled[right]);
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_says_nothing() {
        let blend = blend();
        let user = blend.for_user(0);
        let nothing = user.score(&[0.0, 0.0, 0.0]).unwrap();
        assert_eq!(user.score(&[f32::NAN, f32::INFINITY, -1.0]).unwrap(), nothing);
        assert_eq!(nothing, 0.0);
        assert!(matches!(user.score(&[1.0]), Err(Error::Shape { .. })));
        assert_eq!(user.parts(&[0.0, 0.14, 0.0]).unwrap().len(), 3);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        assert_eq!(blend().validate(), Ok(()));
        assert!(matches!(Blend { channels: vec![] }.validate(), Err(Error::Setting { name: "channels", .. })));
        let mut bad = blend();
        bad.channels[1].unit = 0.0;
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "unit", .. })));
        let mut bad = blend();
        bad.channels[2].weights.slope = f32::NAN;
        assert!(matches!(bad.validate(), Err(Error::Setting { name: "weights", .. })));
    }

    #[test]
    fn a_unit_lies_a_thousandth_below_the_best_scores_of_an_entry() {
        let (mut left, mut right) = (Bests::default(), Bests::default());
        left.add(8.0, 2);
        left.add(0.0, 7);
        right.add(9.0, 1);
        Sum::add(&mut left, right);
        assert_eq!(left.unit(), 1.0 / 128.0, "of .006");
        assert!(Bests::default().unit().is_normal());
    }
}
