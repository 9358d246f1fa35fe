//! Finds the weights of a blend on held-out data: a pattern search that asks for proof.
//!
//! The first channel counts 1 for everybody, as only ratios matter; every other weight and slope begins at 0, so a model has to earn its place. In
//! each round every free number is tried a step up and a step down ([`Search::proposals`]). The users' hosts tell by how much each proposal's NDCG
//! is ahead of the present weights' ([`Gain`], paired by user); the one with the largest mean gain is taken if that is more than
//! [`PROOF`] standard errors above 0, and otherwise the step is halved, from 1/2 to 1/16 (Hooke and Jeeves, *Direct search*, JACM 1961, without
//! its pattern moves). So noise does not move weights, least of all where there are few users, and the same gains give the same weights.
use super::{Blend, WEIGHT_MAX, Weights, log_entries, merge};
use crate::{Error, metrics::Metrics, shape, tree::Sum};

/// Standard errors that a gain must have.
pub const PROOF: f64 = 2.0;
/// The first step, and the last one.
const STEPS: [f32; 2] = [0.5, 1.0 / 16.0];

/// One user's candidates beside what was held out.
#[derive(Debug, Clone)]
pub struct Example {
    log_entries: f64,
    /// Nats of each candidate by channel: `[candidates][channels]`.
    nats: Vec<f32>,
    hits: Vec<bool>,
    truths: usize,
}

impl Example {
    /// A user with so many entries of history and held-out items (of which the candidates may lack some). `scores`: those of each candidate by
    /// the channels, `[candidates][channels]`; `hits`: whether each candidate was held out. Of equal scores the earlier candidate is ranked first.
    ///
    /// # Errors
    /// [`Error::Shape`] when scores and hits do not fit.
    pub fn new(blend: &Blend, entries: usize, scores: &[f32], hits: Vec<bool>, truths: usize) -> Result<Self, Error> {
        let channels = blend.channels.len();
        shape("scores of candidates", hits.len() * channels, scores.len())?;
        let nats = scores.iter().zip(blend.channels.iter().cycle());
        let nats = nats.map(|(score, channel)| channel.nats(*score, entries) as f32).collect();
        Ok(Self { log_entries: log_entries(entries), nats, hits, truths })
    }

    /// The user's NDCG@k by these weights, one a channel.
    #[must_use]
    pub fn ndcg(&self, weights: &[Weights], k: usize) -> f64 {
        let of_user: Vec<f32> = weights.iter().map(|weights| weights.at(self.log_entries) as f32).collect();
        let score = |nats: &[f32]| nats.iter().zip(&of_user).map(|(nats, weight)| nats * weight).sum::<f32>();
        let scores = self.nats.chunks_exact(weights.len().max(1)).map(score);
        let ranked = merge((0u32..).zip(scores).collect(), k);
        Metrics::of_hits(ranked.iter().map(|(at, _)| self.hits[*at as usize]), self.truths, k).ndcg
    }

    /// By how much each of `proposals` is ahead of `present`.
    #[must_use]
    pub fn gains(&self, present: &[Weights], proposals: &[Vec<Weights>], k: usize) -> Vec<Gain> {
        if self.truths == 0 {
            return vec![Gain::default(); proposals.len()];
        }
        let now = self.ndcg(present, k);
        let gain = |proposal: &Vec<Weights>| {
            let gain = self.ndcg(proposal, k) - now;
            Gain { users: 1.0, sum: gain, squares: gain * gain }
        };
        proposals.iter().map(gain).collect()
    }
}

/// Differences of NDCG between a proposal and the present weights, added up over users, along [`crate::tree`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gain {
    /// Users with something held out.
    pub users: f64,
    /// Sum of their differences.
    pub sum: f64,
    /// Sum of their squares.
    pub squares: f64,
}

impl Gain {
    /// The mean difference.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.users.max(1.0)
    }

    /// Its standard error.
    #[must_use]
    pub fn error(&self) -> f64 {
        let users = self.users.max(1.0);
        ((self.squares / users - self.mean() * self.mean()).max(0.0) / users).sqrt()
    }

    fn is_proven(&self) -> bool {
        self.sum > 0.0 && self.mean() > PROOF * self.error()
    }
}

impl Sum for Gain {
    fn add(&mut self, right: Self) {
        self.users += right.users;
        self.sum += right.sum;
        self.squares += right.squares;
    }
}

impl Sum for Vec<Gain> {
    fn add(&mut self, right: Self) {
        self.iter_mut().zip(right).for_each(|(left, right)| left.add(right));
    }
}

/// A search under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    weights: Vec<Weights>,
    step: f32,
}

impl Search {
    /// For a blend of so many channels, at least one.
    #[must_use]
    pub fn new(channels: usize) -> Self {
        let mut weights = vec![Weights::default(); channels.max(1)];
        weights[0].base = 1.0;
        Self { weights, step: STEPS[0] }
    }

    /// The present weights, one a channel.
    #[must_use]
    pub fn weights(&self) -> &[Weights] {
        &self.weights
    }

    /// What to try against them; none when the search is over.
    #[must_use]
    pub fn proposals(&self) -> Vec<Vec<Weights>> {
        if self.step < STEPS[1] {
            return Vec::new();
        }
        let moved = |channel: usize, by: Weights| {
            let mut weights = self.weights.clone();
            weights[channel].base += by.base;
            weights[channel].slope += by.slope;
            weights
        };
        let steps = [self.step, -self.step];
        let moves = steps.map(|base| Weights { base, slope: 0.0 }).into_iter();
        let moves: Vec<Weights> = moves.chain(steps.map(|slope| Weights { base: 0.0, slope })).collect();
        let all = (1..self.weights.len()).flat_map(|channel| moves.iter().map(move |by| (channel, *by)));
        let is_inside = |weights: &Weights| weights.base.abs() <= WEIGHT_MAX && weights.slope.abs() <= WEIGHT_MAX;
        all.map(|(channel, by)| moved(channel, by)).filter(|weights| weights.iter().all(is_inside)).collect()
    }

    /// Takes the gains of [`Self::proposals`], in their order.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of gains.
    pub fn advance(&mut self, gains: &[Gain]) -> Result<(), Error> {
        let proposals = self.proposals();
        shape("gains of proposals", proposals.len(), gains.len())?;
        let proven = proposals.into_iter().zip(gains).filter(|(_, gain)| gain.is_proven());
        // Of equal gains the last: any rule, but one.
        match proven.max_by(|a, b| a.1.mean().total_cmp(&b.1.mean())) {
            Some((proposal, _)) => self.weights = proposal,
            None => self.step /= 2.0,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blend::{Channel, Scale};

    const K: usize = 5;

    /// Users of 30 candidates, 3 of them held out; the second channel knows them better than the first, the third is noise.
    fn examples(users: u32) -> Vec<Example> {
        let channel =
            Channel { scale: Scale::Linear, unit: 1.0, is_sum: false, weights: Weights { base: 1.0, slope: 0.0 } };
        let blend = Blend { channels: vec![channel; 3] };
        let example = |user: u32| {
            let mut noise = vec![0.0; 30 * 3];
            crate::init::fill(5, &user.to_string(), (90f32).sqrt(), &mut noise);
            let hits: Vec<bool> = (0..30u32).map(|at| at % 10 == user % 10).collect();
            for (scores, is_hit) in noise.chunks_mut(3).zip(&hits) {
                let hit = f32::from(u8::from(*is_hit));
                scores[0] += hit;
                scores[1] += 2.0 * hit;
            }
            Example::new(&blend, user as usize % 70, &noise, hits, 3).unwrap()
        };
        (0..users).map(example).collect()
    }

    fn found(examples: &[Example]) -> Search {
        let mut search = Search::new(3);
        for _ in 0..200 {
            let proposals = search.proposals();
            if proposals.is_empty() {
                return search;
            }
            let mut gains = vec![Gain::default(); proposals.len()];
            for example in examples {
                gains.add(example.gains(search.weights(), &proposals, K));
            }
            search.advance(&gains).unwrap();
        }
        panic!("the search does not end");
    }

    #[test]
    fn the_better_model_earns_the_larger_weight_and_noise_earns_none() {
        let examples = examples(2_000);
        let search = found(&examples);
        let [first, second, third] = search.weights() else { panic!("three channels") };
        assert_eq!(*first, Weights { base: 1.0, slope: 0.0 });
        // Equal noise on both and twice the signal: the best weight is 2.
        assert!((1.0..=3.5).contains(&second.base) && second.slope.abs() <= 0.25, "{second:?}");
        assert!(third.base.abs() <= 0.25 && third.slope.abs() <= 0.25, "{third:?}");
        let mean = |weights: &[Weights]| examples.iter().map(|e| e.ndcg(weights, K)).sum::<f64>() / 2_000.0;
        assert!(mean(search.weights()) > mean(Search::new(3).weights()) + 0.05);
    }

    #[test]
    fn a_few_users_prove_little() {
        let search = found(&examples(4));
        assert!(search.weights()[2] == Weights::default(), "{:?}", search.weights());
    }

    #[test]
    fn a_gain_needs_proof() {
        let gain = |sum: f64, squares: f64| Gain { users: 100.0, sum, squares };
        let mut search = Search::new(2);
        let none = [gain(1.0, 100.0), Gain::default(), Gain::default(), Gain::default()];
        search.advance(&none).unwrap();
        assert_eq!((search.step, search.weights()[1]), (0.25, Weights::default()), "one error is no proof");
        let some = [gain(1.0, 0.1), gain(2.0, 0.1), Gain::default(), Gain::default()];
        search.advance(&some).unwrap();
        assert_eq!(search.weights()[1], Weights { base: -0.25, slope: 0.0 });
        assert!(matches!(search.advance(&[]), Err(Error::Shape { .. })));
        assert!(Search::new(1).proposals().is_empty(), "one channel has nothing to find");
    }

    #[test]
    fn an_example_is_judged_as_a_list_is() {
        let channel =
            Channel { scale: Scale::Linear, unit: 1.0, is_sum: false, weights: Weights { base: 1.0, slope: 0.0 } };
        let blend = Blend { channels: vec![channel] };
        let example = Example::new(&blend, 3, &[0.5, 3.0, 1.0, 1.0], vec![true, false, true, false], 3).unwrap();
        let expected = Metrics::of_list(&[1, 2, 3], &[0, 2, 9], 3).ndcg;
        assert_eq!(example.ndcg(&[Weights { base: 1.0, slope: 0.0 }], 3), expected);
        assert!(Example::new(&blend, 3, &[0.5], vec![], 3).is_err());
    }
}
