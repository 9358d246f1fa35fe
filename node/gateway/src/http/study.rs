//! Studies: searches for settings.

use super::body::Json;
use super::problem::Problem;
use super::view::Done;
use super::{Answer, App, Segment, segment};
use axum::extract::State;
use docent_proto::convert::study::{METRIC, TRIALS};
use docent_types::study::{Dimension, Studied, Study, Trial, Values};
use docent_types::training::{GivenSettings, TrainSettings};
use docent_types::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `PUT /v1/studies/{name}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    #[serde(default)]
    settings: GivenSettings,
    space: BTreeMap<String, Space>,
    trials: Option<u32>,
    metric: Option<String>,
}

/// Where a setting is searched: `low` to `high`, by the logarithm or not, or `one_of`.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Space {
    #[serde(skip_serializing_if = "Option::is_none")]
    low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    high: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    one_of: Option<Vec<f64>>,
}

impl Space {
    fn values(self, setting: &str) -> Result<Values> {
        match (self.low.zip(self.high), self.one_of) {
            (Some((low, high)), None) => Ok(Values::Between { low, high, is_log: self.log.unwrap_or(false) }),
            (None, Some(values)) if self.log.is_none() && self.low.is_none() && self.high.is_none() => {
                Ok(Values::OneOf(values))
            }
            _ => {
                Err(Error::invalid("space", format!("{setting} needs low and high (and log, if you like), or one_of")))
            }
        }
    }
}

impl From<&Values> for Space {
    fn from(values: &Values) -> Space {
        match values {
            Values::Between { low, high, is_log } => {
                Space { low: Some(*low), high: Some(*high), log: Some(*is_log), one_of: None }
            }
            Values::OneOf(values) => Space { one_of: Some(values.clone()), ..Space::default() },
        }
    }
}

/// A study as clients see it.
#[derive(Serialize)]
pub(super) struct View {
    name: String,
    settings: TrainSettings,
    space: BTreeMap<String, Space>,
    trials: u32,
    metric: String,
    tried: Vec<Tried>,
    #[serde(skip_serializing_if = "Option::is_none")]
    best_job: Option<u64>,
    is_over: bool,
    created_ms: i64,
}

#[derive(Serialize)]
struct Tried {
    job: u64,
    values: BTreeMap<String, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    is_over: bool,
}

#[derive(Serialize)]
pub(super) struct Views {
    studies: Vec<View>,
}

impl From<Studied> for View {
    fn from(studied: Studied) -> View {
        let is_over = studied.is_over();
        let Studied { study, trials, best_job, created_ms } = studied;
        let names = || study.space.iter().map(|dimension| dimension.setting.clone());
        let tried = |trial: Trial| Tried {
            job: trial.job,
            values: names().zip(trial.values).collect(),
            score: trial.score,
            is_over: trial.is_over,
        };
        View {
            tried: trials.into_iter().map(tried).collect(),
            space: names().zip(study.space.iter().map(|dimension| (&dimension.values).into())).collect(),
            name: study.name,
            settings: study.settings,
            trials: study.trials,
            metric: study.metric,
            best_job,
            is_over,
            created_ms,
        }
    }
}

pub(super) async fn start(State(app): State<App>, name: Segment, Json(body): Json<Body>) -> Answer<View> {
    let dimension = |(setting, space): (String, Space)| {
        let values = space.values(&setting)?;
        Ok(Dimension { setting, values })
    };
    let study = Study {
        name: segment(name)?,
        settings: body.settings.settings()?,
        space: body.space.into_iter().map(dimension).collect::<Result<_>>()?,
        trials: body.trials.unwrap_or(TRIALS),
        metric: body.metric.unwrap_or_else(|| METRIC.to_owned()),
    };
    Ok(axum::Json(app.gateway.start_study(study).await?.into()))
}

pub(super) async fn list(State(app): State<App>) -> Answer<Views> {
    Ok(axum::Json(Views { studies: app.gateway.studies().await?.into_iter().map(Into::into).collect() }))
}

pub(super) async fn remove(State(app): State<App>, name: Segment) -> Result<axum::Json<Done>, Problem> {
    app.gateway.remove_study(segment(name)?).await?;
    Ok(axum::Json(Done {}))
}
