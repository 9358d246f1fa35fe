//! Search for settings: training jobs that are tried on held-out training data, one after the other, and the best of them.

use crate::error::{Error, Result};
use crate::schedule::check_name;
use crate::training::{GivenSettings, TrainSettings};
use serde::{Deserialize, Serialize};

/// Studies of a cluster.
pub const STUDIES_MAX: usize = 20;
/// Trials of a study.
pub const TRIALS_MAX: u32 = 100;
/// Settings that a study searches.
const DIMENSIONS_MAX: usize = 16;
/// Values of a choice.
const CHOICES_MAX: usize = 32;
/// The format that came with studies.
const FORMAT: u32 = 6;
/// What a study may go by, each the larger the better.
pub const METRICS: [&str; 10] =
    ["ndcg@20", "ndcg@10", "recall@20", "recall@10", "hr@20", "hr@10", "mrr@20", "mrr@10", "map@20", "map@10"];
/// Trials with a score from which on every second one stays near the best.
const KNOWN_MIN: usize = 4;
/// How near: the share of a dimension's width to either side.
const NEAR: f64 = 0.15;

/// A search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// Names it, as a schedule.
    pub name: String,
    /// What is not searched, and the first trial. `refit` and `activate` say what becomes of the best settings in the end.
    pub settings: TrainSettings,
    /// What is searched.
    pub space: Vec<Dimension>,
    /// How many are tried, 1 to [`TRIALS_MAX`].
    pub trials: u32,
    /// One of [`METRICS`], on what `settings.holdout` holds out.
    pub metric: String,
}

/// A setting that is searched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dimension {
    /// Its name, of a number in [`GivenSettings`].
    pub setting: String,
    /// Where.
    pub values: Values,
}

/// Where a setting is searched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Values {
    /// Uniformly from `low` to `high`; by the logarithm where `is_log`. Whole numbers are rounded.
    Between {
        /// The lowest.
        low: f64,
        /// The highest, above `low`.
        high: f64,
        /// Whether the logarithm is uniform; `low` must be above 0.
        is_log: bool,
    },
    /// Among these.
    OneOf(Vec<f64>),
}

/// A study as the catalog has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Studied {
    /// What is searched.
    pub study: Study,
    /// What was tried, in order.
    pub trials: Vec<Trial>,
    /// The job with the best settings, which does what `settings` says beside them.
    pub best_job: Option<u64>,
    /// When it was asked for, by the proposer's clock.
    pub created_ms: i64,
}

/// A job of a study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Its job.
    pub job: u64,
    /// The values of the space's dimensions, in their order; empty for the settings as they were given.
    pub values: Vec<f64>,
    /// Whether its job is over.
    pub is_over: bool,
    /// The metric, where its job made a model.
    pub score: Option<f64>,
}

impl Study {
    /// Checks the name, the settings with every end of the space, and the metric.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub fn validate(&self) -> Result<()> {
        check_name(&self.name)?;
        self.settings.validate()?;
        if self.settings.algorithm.warm().is_some() {
            return Err(Error::invalid("warm_epochs", "trials train from nothing: leave warm_epochs out"));
        }
        if self.settings.holdout == 0.0 {
            return Err(Error::invalid("holdout", "holdout must be above 0: trials are compared on what is held out"));
        }
        if !(1..=TRIALS_MAX).contains(&self.trials) {
            return Err(Error::invalid("trials", format!("trials must be 1 to {TRIALS_MAX}")));
        }
        if !METRICS.contains(&self.metric.as_str()) {
            return Err(Error::invalid(
                "metric",
                format!("unknown metric {:?}; known: {}", self.metric, METRICS.join(", ")),
            ));
        }
        if !(1..=DIMENSIONS_MAX).contains(&self.space.len()) {
            return Err(Error::invalid("space", format!("a study searches 1 to {DIMENSIONS_MAX} settings")));
        }
        for (at, dimension) in self.space.iter().enumerate() {
            if self.space[..at].iter().any(|other| other.setting == dimension.setting) {
                return Err(Error::invalid("space", format!("{} is there twice", dimension.setting)));
            }
            dimension.check(&self.settings)?;
        }
        Ok(())
    }

    /// The lowest format that can express it (decision 0012).
    pub fn format(&self) -> u32 {
        self.settings.format().max(FORMAT)
    }

    /// The settings of a trial.
    ///
    /// # Errors
    /// `Invalid`, naming the setting, for values that are none of the space's.
    pub fn settings_of(&self, values: &[f64]) -> Result<TrainSettings> {
        let mut given = GivenSettings::from(&self.settings);
        for (dimension, value) in self.space.iter().zip(values) {
            given.set_number(&dimension.setting, *value)?;
        }
        given.settings()
    }
}

impl Dimension {
    fn check(&self, settings: &TrainSettings) -> Result<()> {
        let refuse = |why: &str| Err(Error::invalid("space", format!("{}: {why}", self.setting)));
        let ends = match &self.values {
            Values::Between { low, high, is_log } => {
                if !(low.is_finite() && high.is_finite() && low < high) {
                    return refuse("low must be below high");
                }
                if *is_log && *low <= 0.0 {
                    return refuse("a logarithmic range begins above 0");
                }
                if ["user_hidden", "item_hidden"].contains(&self.setting.as_str()) {
                    return refuse("not every number is allowed: give a choice of them");
                }
                vec![*low, *high]
            }
            Values::OneOf(values) if !(1..=CHOICES_MAX).contains(&values.len()) => {
                return refuse(&format!("a choice has 1 to {CHOICES_MAX} values"));
            }
            Values::OneOf(values) => values.clone(),
        };
        ends.into_iter().try_for_each(|end| {
            let mut given = GivenSettings::from(settings);
            given.set_number(&self.setting, end)?;
            given.settings().map(drop)
        })
    }

    /// The value at a share of the dimension, 0 to 1.
    fn at(&self, share: f64) -> f64 {
        match &self.values {
            Values::Between { low, high, is_log: false } => low + (high - low) * share,
            Values::Between { low, high, is_log: true } => {
                (low.ln() + (high / low).ln() * share).exp().clamp(*low, *high)
            }
            Values::OneOf(values) => {
                let at = (share * values.len() as f64) as usize;
                values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
            }
        }
    }

    /// Where in the dimension a value is.
    fn share(&self, value: f64) -> f64 {
        match &self.values {
            Values::Between { low, high, is_log: false } => (value - low) / (high - low),
            Values::Between { low, high, is_log: true } => (value / low).ln() / (high / low).ln(),
            Values::OneOf(values) => {
                let at = values.iter().position(|known| *known == value).unwrap_or(0);
                (at as f64 + 0.5) / values.len() as f64
            }
        }
    }
}

impl Studied {
    /// The trial with the highest score, the first of equals.
    pub fn best(&self) -> Option<&Trial> {
        let scored = self.trials.iter().filter(|trial| trial.score.is_some_and(f64::is_finite));
        scored.reduce(|best, trial| if trial.score > best.score { trial } else { best })
    }

    /// Whether every trial is over, and the job with the best settings is queued where one was wanted.
    pub fn is_over(&self) -> bool {
        let is_tried = self.trials.len() >= self.study.trials as usize && self.trials.iter().all(|trial| trial.is_over);
        is_tried && (self.best_job.is_some() || !self.wants_best())
    }

    /// Whether a job with the best settings is to follow.
    pub fn wants_best(&self) -> bool {
        (self.study.settings.refit || self.study.settings.activate) && self.best().is_some()
    }

    /// The values of the next trial: first the settings as given, then drawn at random from the space, and once some are known every
    /// second one near the best. A function of the study, its scores and its seed, but not to the last bit on every machine: whoever
    /// proposes a trial says its values.
    pub fn draw(&self) -> Vec<f64> {
        let trial = self.trials.len() as u64;
        if trial == 0 {
            return Vec::new();
        }
        let scored = self.trials.iter().filter(|trial| trial.score.is_some()).count();
        let near = self.best().filter(|best| trial % 2 == 1 && scored >= KNOWN_MIN && !best.values.is_empty());
        let value = |(at, dimension): (u64, &Dimension)| {
            let random = unit(self.study.settings.seed, trial, at);
            let share = near
                .and_then(|best| best.values.get(at as usize))
                .map_or(random, |value| (dimension.share(*value) + (2.0 * random - 1.0) * NEAR).clamp(0.0, 1.0));
            dimension.at(share)
        };
        (0..).zip(&self.study.space).map(value).collect()
    }
}

/// A number of [0, 1) that depends on its three coordinates alone.
fn unit(seed: u64, trial: u64, dimension: u64) -> f64 {
    let mix = |x: u64| {
        // The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let step = |state: u64, with: u64| mix(state.wrapping_add(with).wrapping_add(0x9e37_79b9_7f4a_7c15));
    let bits = [seed, trial, dimension].into_iter().fold(0, step);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study() -> Study {
        let between = |setting: &str, low, high, is_log| Dimension {
            setting: setting.into(),
            values: Values::Between { low, high, is_log },
        };
        Study {
            name: "s".into(),
            settings: TrainSettings::default(),
            space: vec![
                between("regularization", 1e-4, 1e-1, true),
                between("epochs", 2.0, 9.0, false),
                Dimension { setting: "dim".into(), values: Values::OneOf(vec![16.0, 32.0]) },
            ],
            trials: 60,
            metric: "ndcg@20".into(),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |study: Study| study.validate().unwrap_err().field.unwrap();
        assert!(study().validate().is_ok());
        assert_eq!(field(Study { name: "S".into(), ..study() }), "name");
        assert_eq!(field(Study { trials: 0, ..study() }), "trials");
        assert_eq!(field(Study { trials: 101, ..study() }), "trials");
        assert_eq!(field(Study { metric: "loss".into(), ..study() }), "metric");
        assert_eq!(field(Study { space: Vec::new(), ..study() }), "space");
        let unmeasured = TrainSettings { holdout: 0.0, ..TrainSettings::default() };
        assert_eq!(field(Study { settings: unmeasured, ..study() }), "holdout");
        let warm = GivenSettings { warm_epochs: Some(1), ..GivenSettings::default() }.settings().unwrap();
        assert_eq!(field(Study { settings: warm, ..study() }), "warm_epochs");
        let with = |setting: &str, values: Values| Study {
            space: vec![Dimension { setting: setting.into(), values }],
            ..study()
        };
        let between = |low, high, is_log| Values::Between { low, high, is_log };
        assert_eq!(field(with("dim", between(0.0, 9.0, false))), "dim", "an end out of the setting's range");
        assert_eq!(field(with("neighbours", between(5.0, 9.0, false))), "neighbours", "of another family");
        assert_eq!(field(with("algorithm", Values::OneOf(vec![1.0]))), "algorithm");
        assert_eq!(field(with("warm_epochs", Values::OneOf(vec![1.0]))), "warm_epochs");
        for values in
            [between(1.0, 1.0, false), between(0.0, 1.0, true), between(f64::NAN, 1.0, false), Values::OneOf(vec![])]
        {
            assert_eq!(field(with("regularization", values.clone())), "space", "{values:?}");
        }
        let twice = Study { space: [study().space, study().space].concat(), ..study() };
        assert_eq!(field(twice), "space");
    }

    #[test]
    fn trials_begin_as_given_then_cover_the_space_and_come_close_to_the_best() {
        // The best lies at regularization 0.01 and 6 epochs.
        let score = |values: &[f64]| match values {
            [regularization, epochs, _] => {
                1.0 - (regularization / 0.01).ln().abs() / 10.0 - (epochs - 6.0).abs() / 10.0
            }
            _ => 0.0,
        };
        let mut studied = Studied { study: study(), trials: Vec::new(), best_job: None, created_ms: 0 };
        assert!(studied.draw().is_empty());
        for job in 0..60 {
            assert!(!studied.is_over());
            let values = studied.draw();
            assert!(studied.study.settings_of(&values).is_ok(), "{values:?}");
            studied.trials.push(Trial { job, score: Some(score(&values)), values, is_over: true });
        }
        let share = |at: usize, below: f64| {
            let random = studied.trials.iter().skip(2).step_by(2);
            random.clone().filter(|trial| trial.values[at] < below).count() as f64 / random.count() as f64
        };
        assert!(
            (0.3..0.7).contains(&share(0, 10f64.powf(-2.5))),
            "half of the draws lie below the middle of the logarithms"
        );
        assert!((0.3..0.7).contains(&share(1, 5.5)) && (0.3..0.7).contains(&share(2, 20.0)));
        let best = studied.best().unwrap();
        assert!(best.score.unwrap() > 0.9, "{best:?}");
        assert!(studied.wants_best() && !studied.is_over());
        studied.best_job = Some(60);
        assert!(studied.is_over());
    }

    #[test]
    fn a_trial_that_failed_counts_as_tried_and_is_never_the_best() {
        let failed = Trial { job: 1, values: Vec::new(), is_over: true, score: None };
        let study = Study { trials: 1, ..study() };
        let studied = Studied { study, trials: vec![failed], best_job: None, created_ms: 0 };
        assert!(studied.best().is_none() && !studied.wants_best() && studied.is_over());
    }
}
