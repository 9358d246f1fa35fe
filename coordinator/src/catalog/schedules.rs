//! Training that begins by itself. Whether a job is due is the plan's to say; here it is queued once a run, whoever asks.

use super::jobs::{has_room, name as state_name};
use super::studies::is_job_over;
use super::{Answer, Applied, State, Step, conflict, not_found, unborn};
use docent_types::Error;
use docent_types::catalog::Catalog;
use docent_types::schedule::{SCHEDULES_MAX, Schedule, Scheduled};

impl State {
    /// Sets a schedule, or replaces what it does; one that was there goes on counting from its last job.
    pub(super) fn set_schedule(&mut self, schedule: Schedule, now_ms: i64) -> Applied {
        schedule.validate()?;
        if self.catalog.cluster.is_none() {
            return Err(unborn());
        }
        // Catalogs of an older format have no place for it.
        self.catalog.require(schedule.format())?;
        let known = self.catalog.schedules.get(&schedule.name);
        if known.is_some_and(|known| known.schedule == schedule) {
            return Ok(Step::Same(Answer::Done));
        }
        if known.is_none() && self.catalog.schedules.len() >= SCHEDULES_MAX {
            return Err(conflict(format!("there are {SCHEDULES_MAX} schedules already; remove one first")));
        }
        let new = Scheduled { schedule, runs: 0, since_ms: now_ms, since_events: 0, last_job: None };
        self.catalog_mut()
            .schedules
            .entry(new.schedule.name.clone())
            .and_modify(|known| known.schedule = new.schedule.clone())
            .or_insert(new);
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn remove_schedule(&mut self, name: &str) -> Applied {
        if !self.catalog.schedules.contains_key(name) {
            return Err(no_schedule(name));
        }
        self.catalog_mut().schedules.remove(name);
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn queue_scheduled(&mut self, name: &str, run: u64, now_ms: i64, events: Option<u64>) -> Applied {
        let scheduled = self.catalog.schedules.get(name).ok_or_else(|| no_schedule(name))?;
        if run != scheduled.runs + 1 {
            return Err(conflict(format!("run {run} of schedule {name} is not the next one")));
        }
        if let Some(job) = scheduled.last_job.filter(|job| !is_job_over(&self.catalog, *job)) {
            let state = state_name(self.find(job)?.state);
            return Err(conflict(format!("job {job} of schedule {name} is {state}; the next one waits for its end")));
        }
        let step = self.queue_job(scheduled.schedule.settings.clone(), now_ms)?;
        let job = self.book.last_job;
        if let Some(scheduled) = self.catalog_mut().schedules.get_mut(name) {
            scheduled.runs = run;
            scheduled.since_ms = now_ms;
            scheduled.since_events = events.unwrap_or(scheduled.since_events);
            scheduled.last_job = Some(job);
        }
        Ok(step)
    }
}

/// Whether a schedule's next job may be queued, as far as the catalog knows.
pub(crate) fn may_queue(catalog: &Catalog, scheduled: &Scheduled) -> bool {
    has_room(catalog) && scheduled.last_job.is_none_or(|job| is_job_over(catalog, job))
}

fn no_schedule(name: &str) -> Error {
    not_found(format!("there is no schedule {name:?}"))
}
