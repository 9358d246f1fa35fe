//! Training that begins by itself: every so often, or after so many new events.

use crate::error::{Error, Result};
use crate::training::TrainSettings;
use serde::{Deserialize, Serialize};

/// Schedules of a cluster.
pub const SCHEDULES_MAX: usize = 100;
/// Bytes of a schedule's name.
const NAME_BYTES_MAX: usize = 64;
/// The shortest interval.
const EVERY_MS_MIN: u64 = 1_000;
/// The longest interval: a year.
const EVERY_MS_MAX: u64 = 366 * 24 * 3_600_000;
/// The format that came with schedules.
const FORMAT: u32 = 6;

/// A training job that is queued again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Names it: 1 to 64 bytes of `a-z`, `0-9`, `-` and `_`.
    pub name: String,
    /// What each job does.
    pub settings: TrainSettings,
    /// Time from one job's queueing to the next, in milliseconds: a second to a year.
    pub every_ms: Option<u64>,
    /// Events that the items have more than when the last job was queued, at least 1. Those of erased users and of deleted items count no more.
    pub after_events: Option<u64>,
}

/// A schedule as the catalog has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scheduled {
    /// What it does, and when.
    pub schedule: Schedule,
    /// Jobs that it has queued. The next one's number is the fence against queueing it twice.
    pub runs: u64,
    /// When the last job was queued, or before the first one the schedule was set; by the proposer's clock.
    pub since_ms: i64,
    /// The items' events then, 0 before the first job.
    pub since_events: u64,
    /// The last job.
    pub last_job: Option<u64>,
}

impl Schedule {
    /// Checks the name, the settings and when it is due.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub fn validate(&self) -> Result<()> {
        check_name(&self.name)?;
        self.settings.validate()?;
        self.settings.outlast_versions()?;
        if self.every_ms.is_none() && self.after_events.is_none() {
            return Err(Error::invalid("every", "a schedule needs every (a time), after_events, or both"));
        }
        if self.every_ms.is_some_and(|ms| !(EVERY_MS_MIN..=EVERY_MS_MAX).contains(&ms)) {
            return Err(Error::invalid("every", "every must be a second to 366 days"));
        }
        match self.after_events {
            Some(0) => Err(Error::invalid("after_events", "after_events must be at least 1")),
            _ => Ok(()),
        }
    }

    /// The lowest format that can express it (decision 0012).
    pub fn format(&self) -> u32 {
        self.settings.format().max(FORMAT)
    }
}

/// Checks a schedule's name.
///
/// # Errors
/// `Invalid` for a name that no schedule can have.
pub fn check_name(name: &str) -> Result<()> {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    match (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_known) {
        true => Ok(()),
        false => Err(Error::invalid(
            "name",
            format!("a schedule's name has 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _; this one is {name:?}"),
        )),
    }
}

impl Scheduled {
    /// Whether the next job is due at `now_ms` with `events` events on the items, where that is known.
    pub fn is_due(&self, now_ms: i64, events: Option<u64>) -> bool {
        let passed = u64::try_from(now_ms.saturating_sub(self.since_ms)).unwrap_or(0);
        let new = events.map_or(0, |events| events.saturating_sub(self.since_events));
        self.schedule.every_ms.is_some_and(|every| passed >= every)
            || self.schedule.after_events.is_some_and(|wanted| new >= wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::GivenSettings;

    fn schedule() -> Schedule {
        Schedule {
            name: "nightly".into(),
            settings: TrainSettings::default(),
            every_ms: Some(10_000),
            after_events: Some(500),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |schedule: Schedule| schedule.validate().unwrap_err().field.unwrap();
        assert!(schedule().validate().is_ok());
        for name in ["", "Nightly", "a b", "ü", &"n".repeat(65)] {
            assert_eq!(field(Schedule { name: name.into(), ..schedule() }), "name", "{name}");
        }
        for every_ms in [0, 999, EVERY_MS_MAX + 1, u64::MAX] {
            assert_eq!(field(Schedule { every_ms: Some(every_ms), ..schedule() }), "every", "{every_ms}");
        }
        assert_eq!(field(Schedule { every_ms: None, after_events: None, ..schedule() }), "every");
        assert_eq!(field(Schedule { after_events: Some(0), ..schedule() }), "after_events");
        let settings = TrainSettings { holdout: 2.0, ..TrainSettings::default() };
        assert_eq!(field(Schedule { settings, ..schedule() }), "holdout");
        let warm = |warm_from| GivenSettings { warm_epochs: Some(1), warm_from, ..GivenSettings::default() }.settings();
        assert!(Schedule { settings: warm(None).unwrap(), ..schedule() }.validate().is_ok());
        assert_eq!(field(Schedule { settings: warm(Some(1)).unwrap(), ..schedule() }), "warm_from");
    }

    #[test]
    fn a_job_is_due_after_the_time_or_the_events_whichever_comes_first() {
        let scheduled =
            Scheduled { schedule: schedule(), runs: 1, since_ms: 50_000, since_events: 1_000, last_job: Some(1) };
        for (now_ms, events, is_due) in [
            (59_999, Some(1_499), false),
            (60_000, Some(1_000), true),
            (60_000, None, true),
            (50_000, Some(1_500), true),
            (59_999, None, false),
            // A clock that was set back, and events that were erased.
            (0, Some(0), false),
        ] {
            assert_eq!(scheduled.is_due(now_ms, events), is_due, "{now_ms} {events:?}");
        }
    }
}
