//! The life of a model version: `validated -> staged -> live -> retired`, or `failed`; in the end its record is forgotten.
//!
//! Nodes keep the parts of staged and live versions and of the rollback target ([`Activation::previous`]); another retired version
//! can therefore not come back.

use super::{Answer, Applied, Attempt, State, Step, conflict, not_found};
use docent_proto::internal::coordinator::TrainedModel;
use docent_types::catalog::{Activation, Catalog, JobState, Model, ModelState};
use docent_types::sabotage::{Bug, is};
use docent_types::{Error, NodeId, ShardId};

impl State {
    /// Once a job and epoch: a repeated one (its answer was lost) gets the same version.
    pub(super) fn register_model(&mut self, attempt: Attempt, trained: TrainedModel, now_ms: i64) -> Applied {
        let job = self.find(attempt.job)?;
        if let (JobState::Succeeded, true, Some(version)) = (job.state, job.epoch == attempt.epoch, job.version) {
            return Ok(Step::Same(Answer::Version(version)));
        }
        let settings = self.current(attempt)?.settings.clone();
        self.book.last_version += 1;
        self.book.failures.remove(&attempt.job);
        let version = self.book.last_version;
        let model = Model {
            version,
            state: ModelState::Validated,
            job: attempt.job,
            activate: settings.activate,
            settings,
            cut: trained.cut,
            parts: trained.parts,
            global: trained.global,
            metrics: trained.metrics,
            parent: self.catalog.live.map(|live| live.version),
            created_ms: now_ms,
            staged: Default::default(),
            error: None,
        };
        let job = self.job_mut(attempt.job)?;
        job.state = JobState::Succeeded;
        job.version = Some(version);
        job.error = None;
        self.catalog_mut().models.insert(version, model);
        if is(Bug::ActivationBeforeReady) {
            self.make_live(version);
        }
        Ok(Step::Changed(Answer::Version(version)))
    }

    /// Counts only replicas of the map: a node cannot vouch for a shard that it does not host.
    pub(super) fn mark_staged(&mut self, node: NodeId, version: u64, shards: &[ShardId]) -> Applied {
        let model = self.model(version)?;
        if model.state == ModelState::Failed {
            return Ok(Step::Same(Answer::Done));
        }
        let hosts = |id: &ShardId| self.catalog.shards.get(id).is_some_and(|shard| shard.is_on(node));
        let new = shards.iter().filter(|id| hosts(id) && !model.staged.contains(&(**id, node)));
        let new: Vec<_> = new.map(|id| (*id, node)).collect();
        if let Some(refused) = self.book.refused.get_mut(&version) {
            refused.remove(&node);
        }
        if new.is_empty() {
            return Ok(Step::Same(Answer::Done));
        }
        self.model_mut(version)?.staged.extend(new);
        Ok(Step::Changed(Answer::Done))
    }

    /// Where a version is staged decides only whether it may become staged, and who is asked first: its state stays.
    pub(super) fn unstage(&mut self, node: NodeId, version: u64, shards: &[ShardId]) -> Applied {
        let is_gone = |(shard, holder): &(ShardId, NodeId)| *holder == node && shards.contains(shard);
        if !self.model(version)?.staged.iter().any(is_gone) {
            return Ok(Step::Same(Answer::Done));
        }
        self.model_mut(version)?.staged.retain(|staged| !is_gone(staged));
        Ok(Step::Changed(Answer::Done))
    }

    /// Kept aside: the catalog shows it only when the version fails by it.
    pub(super) fn refuse_version(&mut self, node: NodeId, version: u64, error: String) -> Applied {
        self.model(version)?;
        self.book.refused.entry(version).or_default().insert(node, error);
        Ok(Step::Same(Answer::Done))
    }

    pub(super) fn stage(&mut self, version: u64) -> Applied {
        match self.model(version)?.state {
            ModelState::Validated => {}
            ModelState::Staged => return Ok(Step::Same(Answer::Done)),
            state => {
                return Err(conflict(format!("version {version} is {}; only a validated one is staged", name(state))));
            }
        }
        self.model_mut(version)?.state = ModelState::Staged;
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn fail_model(&mut self, version: u64, error: String) -> Applied {
        match self.model(version)?.state {
            ModelState::Validated | ModelState::Staged => {}
            ModelState::Failed => return Ok(Step::Same(Answer::Done)),
            state => return Err(conflict(format!("version {version} is {}; it cannot fail any more", name(state)))),
        }
        self.book.refused.remove(&version);
        let model = self.model_mut(version)?;
        model.state = ModelState::Failed;
        model.error = Some(error);
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn activate(&mut self, version: u64) -> Applied {
        let state = self.model(version)?.state;
        let previous = self.catalog.live.and_then(|live| live.previous);
        match state {
            ModelState::Staged => Ok(self.make_live(version)),
            ModelState::Retired if previous == Some(version) => Ok(self.make_live(version)),
            ModelState::Live => match self.catalog.live {
                Some(live) => Ok(Step::Same(Answer::Activated(live))),
                None => Ok(self.make_live(version)),
            },
            ModelState::Retired => Err(conflict(format!(
                "version {version} is retired and its parts are given up; train again, or roll back to {}",
                previous.map_or("none".to_owned(), |version| format!("version {version}"))
            ))),
            ModelState::Validated => {
                Err(conflict(format!("version {version} is not staged on its replicas yet; wait for that")))
            }
            ModelState::Failed => {
                let error = self.model(version)?.error.as_deref().unwrap_or("unknown");
                Err(conflict(format!("version {version} failed and cannot be used: {error}")))
            }
        }
    }

    pub(super) fn rollback(&mut self) -> Applied {
        let live = self.catalog.live.ok_or_else(|| conflict("no version is live; there is nothing to roll back"))?;
        let previous = live.previous.ok_or_else(|| {
            conflict(format!(
                "version {} is the first that was live; there is none before it to roll back to",
                live.version
            ))
        })?;
        self.activate(previous)
    }

    fn make_live(&mut self, version: u64) -> Step {
        let before = self.catalog.live;
        let activation = Activation {
            version,
            epoch: before.map_or(1, |live| live.epoch + 1),
            previous: before.map(|live| live.version).filter(|&live| live != version),
        };
        let catalog = self.catalog_mut();
        for (number, model) in &mut catalog.models {
            if *number == version {
                model.state = ModelState::Live;
            } else if model.state == ModelState::Live {
                model.state = ModelState::Retired;
            }
        }
        catalog.live = Some(activation);
        Step::Changed(Answer::Activated(activation))
    }

    pub(super) fn retire_old(&mut self, staged_max: u32, records_max: u32) -> Step {
        let old = old(&self.catalog, staged_max, records_max);
        if old.is_empty() {
            return Step::Same(Answer::Done);
        }
        for version in &old.forget {
            self.book.refused.remove(version);
        }
        let catalog = self.catalog_mut();
        for version in old.retire {
            if let Some(model) = catalog.models.get_mut(&version) {
                model.state = ModelState::Retired;
            }
        }
        catalog.models.retain(|version, _| !old.forget.contains(version));
        Step::Changed(Answer::Done)
    }

    fn model(&self, version: u64) -> Result<&Model, Error> {
        self.catalog.models.get(&version).ok_or_else(|| not_found(format!("there is no model version {version}")))
    }

    fn model_mut(&mut self, version: u64) -> Result<&mut Model, Error> {
        let model = self.catalog_mut().models.get_mut(&version);
        model.ok_or_else(|| not_found(format!("there is no model version {version}")))
    }
}

/// What [`super::Command::RetireOld`] would do.
pub(crate) struct Old {
    retire: Vec<u64>,
    forget: Vec<u64>,
}

impl Old {
    pub(crate) fn is_empty(&self) -> bool {
        self.retire.is_empty() && self.forget.is_empty()
    }
}

/// Staged versions beyond `staged_max` and records beyond `records_max`, oldest first.
pub(crate) fn old(catalog: &Catalog, staged_max: u32, records_max: u32) -> Old {
    let previous = catalog.live.and_then(|live| live.previous);
    let of = |states: &[ModelState]| -> Vec<u64> {
        let models =
            catalog.models.values().filter(|model| states.contains(&model.state) && Some(model.version) != previous);
        models.map(|model| model.version).collect()
    };
    let beyond = |mut versions: Vec<u64>, max: u32| {
        versions.truncate(versions.len().saturating_sub(max as usize));
        versions
    };
    Old {
        retire: beyond(of(&[ModelState::Staged]), staged_max),
        forget: beyond(of(&[ModelState::Retired, ModelState::Failed]), records_max),
    }
}

pub(super) fn name(state: ModelState) -> &'static str {
    match state {
        ModelState::Validated => "validated",
        ModelState::Staged => "staged",
        ModelState::Live => "live",
        ModelState::Retired => "retired",
        ModelState::Failed => "failed",
    }
}
