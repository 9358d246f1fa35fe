//! The life of a training job: `queued -> running -> succeeded | failed | cancelled`, one running at a time, each attempt
//! under a higher epoch so that a driver that was given up cannot speak for it.

use super::{Answer, Applied, Attempt, State, Step, conflict, not_found, unborn};
use docent_types::catalog::{self, Catalog, Job, JobProgress, JobState, ModelState};
use docent_types::training::TrainSettings;
use docent_types::{Error, Kind, NodeId};

/// Attempts that may report a failure before the job is given up.
pub const ATTEMPTS_MAX: u32 = 3;
/// Attempts in all, those included whose driver died: a job that kills its drivers must end too.
pub const EPOCHS_MAX: u64 = 10;
/// Jobs that may wait.
const QUEUED_MAX: usize = 100;
/// Finished jobs that are remembered.
const FINISHED_MAX: usize = 100;
/// The format whose catalogs have courses.
const COURSES: u32 = 6;
/// Jobs whose course is kept: everybody watches whole catalogs.
const COURSES_MAX: usize = 10;
/// Steps of a course.
const STEPS_MAX: usize = 128;

impl State {
    pub(super) fn queue_job(&mut self, mut settings: TrainSettings, now_ms: i64) -> Applied {
        settings.validate()?;
        if self.catalog.cluster.is_none() {
            return Err(unborn());
        }
        if self.catalog.shards.is_empty() {
            return Err(unplaced(&self.catalog));
        }
        if !has_room(&self.catalog) {
            return Err(Error::overloaded(format!("{QUEUED_MAX} jobs wait already; cancel one or wait"), 10_000));
        }
        self.settle_warm(&mut settings)?;
        self.book.last_job += 1;
        let job = Job {
            id: self.book.last_job,
            state: JobState::Queued,
            settings,
            epoch: 0,
            driver: None,
            progress: None,
            error: None,
            version: None,
            created_ms: now_ms,
        };
        self.catalog_mut().jobs.insert(job.id, job.clone());
        self.forget_finished();
        Ok(Step::Changed(Answer::Job(Box::new(job))))
    }

    /// Names the version that a job goes on from, once for all of its attempts: the one that is asked for, or the live one if it can be.
    fn settle_warm(&self, settings: &mut TrainSettings) -> Result<(), Error> {
        let Some(warm) = settings.algorithm.warm() else { return Ok(()) };
        let live = self.catalog.live;
        let Some(version) = warm.from else {
            let live = live.and_then(|live| self.catalog.models.get(&live.version));
            let live = live.filter(|model| settings.algorithm.continues(&model.settings.algorithm));
            settings.algorithm.settle_warm(live.map(|model| model.version));
            return Ok(());
        };
        let model = self.catalog.models.get(&version);
        let model = model.ok_or_else(|| not_found(format!("there is no model version {version} to go on from")))?;
        let is_kept = matches!(model.state, ModelState::Staged | ModelState::Live)
            || live.and_then(|live| live.previous) == Some(version);
        if !is_kept {
            let message = format!(
                "version {version} is not kept; go on from a staged one, the live one or the one that was live before it"
            );
            return Err(conflict(message));
        }
        if !settings.algorithm.continues(&model.settings.algorithm) {
            let message = format!("version {version} is not of the same family and dimension as the job");
            return Err(Error::invalid("warm_from", message));
        }
        Ok(())
    }

    pub(super) fn assign_job(&mut self, id: u64, epoch: u64, driver: NodeId) -> Applied {
        let job = self.find(id)?;
        if job.state.is_over() || epoch != job.epoch + 1 {
            return Err(conflict(format!(
                "job {id} is {} at epoch {}; it cannot start epoch {epoch}",
                name(job.state),
                job.epoch
            )));
        }
        if let Some(other) = self.catalog.jobs.values().find(|other| other.state == JobState::Running && other.id != id)
        {
            return Err(conflict(format!("job {} runs; job {id} has to wait", other.id)));
        }
        if !self.catalog.nodes.contains_key(&driver) {
            return Err(not_found(format!("node {driver} does not exist; it cannot drive job {id}")));
        }
        self.catalog_mut().courses.remove(&id);
        let job = self.job_mut(id)?;
        job.progress = None;
        if epoch > EPOCHS_MAX {
            job.state = JobState::Failed;
            job.driver = None;
            let last = job.error.take().unwrap_or_else(|| "its drivers were lost".to_owned());
            job.error = Some(format!("given up after {EPOCHS_MAX} attempts: {last}"));
        } else {
            job.state = JobState::Running;
            job.epoch = epoch;
            job.driver = Some(driver);
        }
        let job = job.clone();
        Ok(Step::Changed(Answer::Job(Box::new(job))))
    }

    pub(super) fn job_progress(&mut self, attempt: Attempt, progress: JobProgress) -> Applied {
        self.current(attempt)?;
        self.job_mut(attempt.job)?.progress = Some(progress);
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn job_step(&mut self, attempt: Attempt, step: catalog::Step) -> Applied {
        // Catalogs of an older format have no place for it.
        self.catalog.require(COURSES)?;
        let applied = self.job_progress(attempt, step.progress.clone())?;
        let courses = &mut self.catalog_mut().courses;
        enter(courses.entry(attempt.job).or_default(), step);
        while courses.len() > COURSES_MAX {
            courses.pop_first();
        }
        Ok(applied)
    }

    pub(super) fn job_failed(&mut self, attempt: Attempt, error: String, is_retryable: bool) -> Applied {
        self.current(attempt)?;
        let failures = self.book.failures.entry(attempt.job).or_default();
        *failures += 1;
        let goes_on = is_retryable && *failures < ATTEMPTS_MAX;
        let job = self.job_mut(attempt.job)?;
        job.state = if goes_on { JobState::Queued } else { JobState::Failed };
        job.driver = None;
        job.progress = None;
        job.error = Some(error);
        let job = job.clone();
        Ok(Step::Changed(Answer::Job(Box::new(job))))
    }

    pub(super) fn cancel_job(&mut self, id: u64) -> Applied {
        let job = self.find(id)?;
        match job.state {
            JobState::Cancelled => Ok(Step::Same(Answer::Job(Box::new(job.clone())))),
            JobState::Succeeded | JobState::Failed => {
                Err(conflict(format!("job {id} has {} already; there is nothing to cancel", name(job.state))))
            }
            JobState::Queued | JobState::Running => {
                let job = self.job_mut(id)?;
                job.state = JobState::Cancelled;
                job.driver = None;
                let job = job.clone();
                Ok(Step::Changed(Answer::Job(Box::new(job))))
            }
        }
    }

    /// The running job that `attempt` speaks for; the driver of any other must stop.
    pub(super) fn current(&self, attempt: Attempt) -> Result<&Job, Error> {
        let job = self.find(attempt.job)?;
        if job.state == JobState::Running && job.epoch == attempt.epoch && job.driver == Some(attempt.driver) {
            return Ok(job);
        }
        Err(conflict(format!(
            "job {} is {} at epoch {}; node {} no longer drives it at epoch {}",
            job.id,
            name(job.state),
            job.epoch,
            attempt.driver,
            attempt.epoch
        )))
    }

    pub(super) fn find(&self, id: u64) -> Result<&Job, Error> {
        self.catalog.jobs.get(&id).ok_or_else(|| not_found(format!("there is no job {id}")))
    }

    pub(super) fn job_mut(&mut self, id: u64) -> Result<&mut Job, Error> {
        self.catalog_mut().jobs.get_mut(&id).ok_or_else(|| not_found(format!("there is no job {id}")))
    }

    fn forget_finished(&mut self) {
        let finished = self.catalog.jobs.values().filter(|job| job.state.is_over());
        let finished: Vec<u64> = finished.map(|job| job.id).collect();
        for id in finished.iter().take(finished.len().saturating_sub(FINISHED_MAX)) {
            self.catalog_mut().jobs.remove(id);
            self.catalog_mut().courses.remove(id);
            self.book.failures.remove(id);
        }
    }
}

/// Enters a step into a course. One that has grown too long keeps every second epoch: each phase still has its first and its last.
fn enter(course: &mut Vec<catalog::Step>, step: catalog::Step) {
    let key = |step: &catalog::Step| (step.progress.phase.clone(), step.progress.epoch);
    match course.last_mut().filter(|last| key(last) == key(&step)) {
        Some(last) => *last = step,
        None => course.push(step),
    }
    if course.len() <= STEPS_MAX {
        return;
    }
    let stays = |at: usize| {
        let phase = |at: usize| course.get(at).map(|step| &step.progress.phase);
        at.is_multiple_of(2) || phase(at - 1) != phase(at) || phase(at + 1) != phase(at)
    };
    let kept: Vec<bool> = (0..course.len()).map(stays).collect();
    let mut kept = kept.into_iter();
    course.retain(|_| kept.next().unwrap_or(true));
    // Of more phases than that, the first go.
    course.drain(..course.len().saturating_sub(STEPS_MAX));
}

/// Whether one more job may wait.
pub(crate) fn has_room(catalog: &Catalog) -> bool {
    let waiting = catalog.jobs.values().filter(|job| job.state == JobState::Queued).count();
    !catalog.shards.is_empty() && waiting < QUEUED_MAX
}

/// Before the initial placement there is nowhere to keep or train anything.
pub(super) fn unplaced(catalog: &Catalog) -> Error {
    let expected = catalog.cluster.as_ref().map_or(0, |cluster| cluster.expect_nodes);
    let alive = catalog.nodes.values().filter(|node| node.is_alive).count();
    Error::new(
        Kind::Unavailable,
        format!("the cluster has no shards yet: {alive} of {expected} nodes are there; start the others"),
    )
}

pub(super) fn name(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Command;
    use crate::catalog::properties::Log;
    use docent_types::training::{Algorithm, Graph, Ials, Warm};

    fn warm(dim: u32, from: Option<u64>) -> TrainSettings {
        let ials = Ials { dim, warm: Some(Warm { epochs: 1, from }), ..Ials::default() };
        TrainSettings { algorithm: Algorithm::Ials(ials), ..TrainSettings::default() }
    }

    /// The version that a job of these settings goes on from.
    fn base(log: &mut Log, settings: TrainSettings) -> Result<Option<u64>, Kind> {
        let Answer::Job(job) = log.apply(Command::QueueJob { settings, now_ms: 0 }).map_err(|error| error.kind)? else {
            panic!("no job")
        };
        Ok(job.settings.algorithm.warm().and_then(|warm| warm.from))
    }

    #[test]
    fn a_job_goes_on_from_the_version_that_was_live_when_it_was_queued() {
        let mut log = Log::placed(2);
        assert_eq!(base(&mut log, warm(64, None)), Ok(None), "nothing is live");
        for _ in 0..4 {
            log.train(TrainSettings::default());
        }
        (1..=3).for_each(|version| {
            log.must(Command::Stage(version));
            log.must(Command::Activate(version));
        });
        assert_eq!(base(&mut log, warm(64, None)), Ok(Some(3)));
        assert_eq!(base(&mut log, warm(64, Some(2))), Ok(Some(2)), "the rollback target is kept");
        assert_eq!(base(&mut log, warm(32, None)), Ok(None), "of another dimension");
        assert_eq!(base(&mut log, TrainSettings::default()), Ok(None));
        let refused =
            [(64, 1, Kind::Conflict), (64, 4, Kind::Conflict), (64, 9, Kind::NotFound), (32, 3, Kind::Invalid)];
        for (dim, from, kind) in refused {
            assert_eq!(base(&mut log, warm(dim, Some(from))), Err(kind), "{dim} {from}");
        }
        let graph = TrainSettings { algorithm: Algorithm::Graph(Graph::default()), ..TrainSettings::default() };
        let version = log.train(graph);
        log.must(Command::Stage(version));
        log.must(Command::Activate(version));
        assert_eq!(base(&mut log, warm(64, None)), Ok(None), "of another family");
    }

    fn at(phase: &str, epoch: u32) -> catalog::Step {
        let progress = JobProgress { phase: phase.into(), epoch, ..JobProgress::default() };
        catalog::Step { progress, ..Default::default() }
    }

    #[test]
    fn a_course_has_the_last_step_of_each_epoch_and_stays_short() {
        let mut course = Vec::new();
        let early = catalog::Step { waited_seconds: 1.0, ..at("train", 1) };
        [at("load", 0), early, at("train", 1), at("train", 2)].into_iter().for_each(|step| enter(&mut course, step));
        assert_eq!(course, [at("load", 0), at("train", 1), at("train", 2)]);
        (3..=1_000).for_each(|epoch| enter(&mut course, at("train", epoch)));
        enter(&mut course, at("publish", 0));
        assert!((STEPS_MAX / 2..=STEPS_MAX).contains(&course.len()), "{}", course.len());
        let is_there = |phase: &str, epoch| course.contains(&at(phase, epoch));
        assert!(is_there("load", 0) && is_there("train", 1) && is_there("train", 1_000) && is_there("publish", 0));
        assert!(
            course.windows(2).all(|pair| pair[0].progress.phase != pair[1].progress.phase
                || pair[0].progress.epoch < pair[1].progress.epoch)
        );
        (0..1_000).for_each(|n| enter(&mut course, at(&n.to_string(), 0)));
        assert_eq!(course.len(), STEPS_MAX);
    }
}
