//! Searches for settings.

use crate::v1;
use docent_types::study::{Dimension, Studied, Study, Trial, Values};
use docent_types::training::GivenSettings;
use docent_types::{Error, Result};

/// Trials when their number is not given.
pub const TRIALS: u32 = 20;
/// The metric when it is not given.
pub const METRIC: &str = "ndcg@20";

impl TryFrom<v1::Study> for Study {
    type Error = Error;

    fn try_from(given: v1::Study) -> Result<Study> {
        Ok(Study {
            name: given.name,
            settings: GivenSettings::from(given.settings.unwrap_or_default()).settings()?,
            space: given.space.into_iter().map(Into::into).collect(),
            trials: if given.trials == 0 { TRIALS } else { given.trials },
            metric: if given.metric.is_empty() { METRIC.to_owned() } else { given.metric },
        })
    }
}

impl From<v1::Dimension> for Dimension {
    fn from(given: v1::Dimension) -> Dimension {
        let values = match given.one_of.is_empty() {
            true => Values::Between { low: given.low, high: given.high, is_log: given.log },
            false => Values::OneOf(given.one_of),
        };
        Dimension { setting: given.setting, values }
    }
}

impl From<&Dimension> for v1::Dimension {
    fn from(dimension: &Dimension) -> v1::Dimension {
        let (mut view, setting) = (v1::Dimension::default(), dimension.setting.clone());
        match &dimension.values {
            Values::Between { low, high, is_log } => (view.low, view.high, view.log) = (*low, *high, *is_log),
            Values::OneOf(values) => view.one_of.clone_from(values),
        }
        v1::Dimension { setting, ..view }
    }
}

impl From<&Studied> for v1::Study {
    fn from(studied: &Studied) -> v1::Study {
        let study = &studied.study;
        let trial = |trial: &Trial| v1::Trial {
            job: trial.job,
            values: study.space.iter().map(|dimension| dimension.setting.clone()).zip(trial.values.clone()).collect(),
            score: trial.score,
            is_over: trial.is_over,
        };
        v1::Study {
            name: study.name.clone(),
            settings: Some((&study.settings).into()),
            space: study.space.iter().map(Into::into).collect(),
            trials: study.trials,
            metric: study.metric.clone(),
            tried: studied.trials.iter().map(trial).collect(),
            best_job: studied.best_job.unwrap_or_default(),
            is_over: studied.is_over(),
            created_ms: studied.created_ms,
        }
    }
}
