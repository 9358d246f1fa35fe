//! Searches for settings. What is tried next is the plan's to say; here each trial is queued once, and its score read off its model.

use super::{Answer, Applied, State, Step, conflict, not_found, unborn};
use docent_types::Error;
use docent_types::catalog::Catalog;
use docent_types::study::{STUDIES_MAX, Studied, Study, Trial};
use docent_types::training::TrainSettings;

impl State {
    pub(super) fn set_study(&mut self, study: Study, now_ms: i64) -> Applied {
        study.validate()?;
        if self.catalog.cluster.is_none() {
            return Err(unborn());
        }
        // Catalogs of an older format have no place for it.
        self.catalog.require(study.format())?;
        match self.catalog.studies.get(&study.name) {
            // Asked for again, because the answer was lost.
            Some(known) if known.study == study => return Ok(Step::Same(Answer::Done)),
            Some(_) => {
                return Err(conflict(format!(
                    "there is another study {:?} already; remove it or take another name",
                    study.name
                )));
            }
            None if self.catalog.studies.len() >= STUDIES_MAX => {
                return Err(conflict(format!("there are {STUDIES_MAX} studies already; remove one first")));
            }
            None => {}
        }
        let studied = Studied { trials: Vec::new(), best_job: None, created_ms: now_ms, study };
        self.catalog_mut().studies.insert(studied.study.name.clone(), studied);
        Ok(Step::Changed(Answer::Done))
    }

    /// With a study goes the trial that is under way; the job with its best settings stays.
    pub(super) fn remove_study(&mut self, name: &str) -> Applied {
        let open = self.study(name)?.trials.iter().find(|trial| !trial.is_over).map(|trial| trial.job);
        if let Some(job) = open.filter(|job| self.catalog.jobs.get(job).is_some_and(|job| !job.state.is_over())) {
            self.cancel_job(job)?;
        }
        self.catalog_mut().studies.remove(name);
        Ok(Step::Changed(Answer::Done))
    }

    /// The trial of this number, or behind the last one the job with the best settings.
    pub(super) fn begin_trial(&mut self, name: &str, trial: u32, values: Vec<f64>, now_ms: i64) -> Applied {
        let studied = self.study(name)?;
        let is_best = trial == studied.study.trials;
        if studied.is_over() || trial as usize != studied.trials.len() {
            return Err(conflict(format!("trial {trial} of study {name} is not the next one")));
        }
        if let Some(open) = studied.trials.iter().find(|trial| !trial.is_over) {
            return Err(conflict(format!("job {} of study {name} is not over", open.job)));
        }
        let settings = studied.study.settings_of(&values)?;
        let settings = if is_best { settings } else { TrainSettings { refit: false, activate: false, ..settings } };
        let step = self.queue_job(settings, now_ms)?;
        let job = self.book.last_job;
        if let Some(studied) = self.catalog_mut().studies.get_mut(name) {
            match is_best {
                true => studied.best_job = Some(job),
                false => studied.trials.push(Trial { job, values, is_over: false, score: None }),
            }
        }
        Ok(step)
    }

    pub(super) fn end_trial(&mut self, name: &str, trial: u32) -> Applied {
        let studied = self.study(name)?;
        let known = studied.trials.get(trial as usize).filter(|trial| !trial.is_over);
        let known = known.ok_or_else(|| conflict(format!("trial {trial} of study {name} is not under way")))?;
        if !is_job_over(&self.catalog, known.job) {
            return Err(conflict(format!("job {} of study {name} is not over", known.job)));
        }
        let model = self.catalog.jobs.get(&known.job).and_then(|job| self.catalog.models.get(&job.version?));
        let score = model.and_then(|model| model.metrics.get(&studied.study.metric).copied());
        if let Some(trial) = self.catalog_mut().studies.get_mut(name).and_then(|s| s.trials.get_mut(trial as usize)) {
            (trial.is_over, trial.score) = (true, score);
        }
        Ok(Step::Changed(Answer::Done))
    }

    fn study(&self, name: &str) -> Result<&Studied, Error> {
        self.catalog.studies.get(name).ok_or_else(|| not_found(format!("there is no study {name:?}")))
    }
}

/// Whether nothing more comes of a job; one that was forgotten is over.
pub(crate) fn is_job_over(catalog: &Catalog, job: u64) -> bool {
    catalog.jobs.get(&job).is_none_or(|job| job.state.is_over())
}
