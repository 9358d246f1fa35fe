//! Schedules: training that begins by itself.

use super::body::Json;
use super::problem::Problem;
use super::view::Done;
use super::{Answer, App, Segment, segment};
use axum::extract::State;
use docent_types::schedule::{Schedule, Scheduled};
use docent_types::training::{GivenSettings, TrainSettings};
use docent_types::{Error, Result};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// `PUT /v1/schedules/{name}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    #[serde(default)]
    settings: GivenSettings,
    /// `6h`, `90m`, `1d12h`.
    every: Option<String>,
    after_events: Option<u64>,
}

/// A schedule as clients see it.
#[derive(Serialize)]
pub(super) struct View {
    name: String,
    settings: TrainSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_events: Option<u64>,
    runs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_job: Option<u64>,
    since_ms: i64,
}

#[derive(Serialize)]
pub(super) struct Views {
    schedules: Vec<View>,
}

impl From<Scheduled> for View {
    fn from(Scheduled { schedule, runs, since_ms, last_job, .. }: Scheduled) -> View {
        let every = schedule.every_ms.and_then(|ms| i64::try_from(ms).ok());
        View {
            name: schedule.name,
            settings: schedule.settings,
            every: every.map(|ms| format!("{:#}", SignedDuration::from_millis(ms))),
            after_events: schedule.after_events,
            runs,
            last_job,
            since_ms,
        }
    }
}

/// Milliseconds of a time such as `6h`.
fn milliseconds(text: &str) -> Result<u64> {
    let refuse = || Error::invalid("every", format!("{text:?} is no time; write it as 6h, 90m or 36h30m"));
    let time: SignedDuration = text.parse().map_err(|_| refuse())?;
    u64::try_from(time.as_millis()).map_err(|_| refuse())
}

pub(super) async fn set(State(app): State<App>, name: Segment, Json(body): Json<Body>) -> Answer<View> {
    let every_ms = body.every.as_deref().map(milliseconds).transpose()?;
    let settings = body.settings.settings()?;
    let schedule = Schedule { name: segment(name)?, settings, every_ms, after_events: body.after_events };
    Ok(axum::Json(app.gateway.set_schedule(schedule).await?.into()))
}

pub(super) async fn list(State(app): State<App>) -> Answer<Views> {
    let schedules = app.gateway.schedules().await?.into_iter().map(Into::into).collect();
    Ok(axum::Json(Views { schedules }))
}

pub(super) async fn remove(State(app): State<App>, name: Segment) -> Result<axum::Json<Done>, Problem> {
    app.gateway.remove_schedule(segment(name)?).await?;
    Ok(axum::Json(Done {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_people_write_them() {
        assert_eq!(milliseconds("6h").unwrap(), 6 * 3_600_000);
        assert_eq!(milliseconds("1h 30m").unwrap(), 5_400_000);
        for wrong in ["", "6", "soon", "-6h", "1mo", "99999999999999999999h"] {
            assert_eq!(milliseconds(wrong).unwrap_err().field.as_deref(), Some("every"), "{wrong}");
        }
        assert_eq!(format!("{:#}", SignedDuration::from_hours(6)), "6h");
    }
}
