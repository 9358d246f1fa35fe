//! The catalog's state machine. Pure: [`State::apply`] is a function of (state, log index, command) and nothing else.
//!
//! | module | owns |
//! |---|---|
//! | [`command`] | the log's entries and their answers |
//! | `members` | birth, coordinators, joining, liveness, the finalised format, the initial placement |
//! | `placement` | nodes that drain or go, replicas that move |
//! | `jobs` | the life of a training job |
//! | `schedules` | training that begins by itself |
//! | `studies` | searches for settings |
//! | `models` | the life of a model version |

pub mod command;
#[cfg(test)]
mod frozen;
mod jobs;
mod members;
mod models;
mod placement;
#[cfg(test)]
pub(crate) mod properties;
mod schedules;
mod studies;

pub use command::{Answer, Attempt, Command, Join, Outcome};
pub(crate) use jobs::has_room;
pub use jobs::{ATTEMPTS_MAX, EPOCHS_MAX};
pub use members::{FIRST_NODE, LAST_COORDINATOR};
pub(crate) use models::old;
pub(crate) use placement::holds;
pub(crate) use schedules::may_queue;
pub(crate) use studies::is_job_over;

use docent_types::catalog::Catalog;
use docent_types::{Error, Kind, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The catalog that everybody sees and the bookkeeping that only the coordinators need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    catalog: Arc<Catalog>,
    book: Book,
}

/// What keeps numbers from being given out twice, and why things were given up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Book {
    /// Numbers given out so far.
    last_node: u64,
    last_job: u64,
    last_version: u64,
    /// Token id -> the node it admitted.
    tokens: BTreeMap<u128, NodeId>,
    /// Node -> the nonce of its data directory.
    nonces: BTreeMap<NodeId, u128>,
    /// Job -> attempts that reported a failure.
    failures: BTreeMap<u64, u32>,
    /// Version -> nodes that cannot stage it, and why.
    refused: BTreeMap<u64, BTreeMap<NodeId, String>>,
}

/// An accepted command's answer, and whether the catalog changed by it (else its index stays and no watcher wakes).
enum Step {
    Changed(Answer),
    Same(Answer),
}

type Applied = Result<Step, Error>;

impl State {
    /// The catalog as it is.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Nodes that cannot stage `version`, and why.
    pub fn refused(&self, version: u64) -> impl Iterator<Item = (NodeId, &str)> {
        self.book.refused.get(&version).into_iter().flatten().map(|(&node, error)| (node, error.as_str()))
    }

    /// Applies the entry at `index`. A refused command changes nothing.
    pub fn apply(&mut self, index: u64, command: Command) -> Outcome {
        // Watchers may hold the old catalog: it is copied only then, and only once an entry.
        let step = self.step(index, command)?;
        Ok(match step {
            Step::Same(answer) => answer,
            Step::Changed(answer) => {
                Arc::make_mut(&mut self.catalog).index = index;
                answer
            }
        })
    }

    fn step(&mut self, index: u64, command: Command) -> Applied {
        match command {
            Command::Birth(cluster) => self.birth(cluster),
            Command::RegisterCoordinators { members, by, format } => self.register_coordinators(&members, by, format),
            Command::Join(join) => self.join(join),
            Command::SetAlive(changes) => Ok(self.set_alive(&changes)),
            Command::PlaceShards => self.place_shards(index),
            Command::QueueJob { settings, now_ms } => self.queue_job(settings, now_ms),
            Command::AssignJob { job, epoch, driver } => self.assign_job(job, epoch, driver),
            Command::JobProgress { attempt, progress } => self.job_progress(attempt, progress),
            Command::JobFailed { attempt, error, is_retryable } => self.job_failed(attempt, error, is_retryable),
            Command::CancelJob(job) => self.cancel_job(job),
            Command::RegisterModel { attempt, trained, now_ms } => self.register_model(attempt, trained, now_ms),
            Command::MarkStaged { node, version, shards } => self.mark_staged(node, version, &shards),
            Command::RefuseVersion { node, version, error } => self.refuse_version(node, version, error),
            Command::Stage(version) => self.stage(version),
            Command::FailModel { version, error } => self.fail_model(version, error),
            Command::Activate(version) => self.activate(version),
            Command::Rollback => self.rollback(),
            Command::RetireOld { staged_max, records_max } => Ok(self.retire_old(staged_max, records_max)),
            Command::Unstage { node, version, shards } => self.unstage(node, version, &shards),
            Command::SetNodeState { node, state } => self.set_node_state(node, state),
            Command::BeginChange { shard, old, to, cause } => self.begin_change(index, shard, old, to, cause),
            Command::CancelChange(shard) => self.cancel_change(shard),
            Command::ObserveMembership { shard, index, replicas } => self.observe_membership(shard, index, replicas),
            Command::Bury { node, replicas } => Ok(self.bury(node, &replicas)),
            Command::ForgetNode(node) => self.forget_node(node),
            Command::Finalize(format) => self.finalize(format),
            Command::JobStep { attempt, step } => self.job_step(attempt, step),
            Command::SetStudy { study, now_ms } => self.set_study(study, now_ms),
            Command::RemoveStudy(name) => self.remove_study(&name),
            Command::BeginTrial { name, trial, values, now_ms } => self.begin_trial(&name, trial, values, now_ms),
            Command::EndTrial { name, trial } => self.end_trial(&name, trial),
            Command::SetSchedule { schedule, now_ms } => self.set_schedule(schedule, now_ms),
            Command::RemoveSchedule(name) => self.remove_schedule(&name),
            Command::QueueScheduled { name, run, now_ms, events } => self.queue_scheduled(&name, run, now_ms, events),
        }
    }

    fn catalog_mut(&mut self) -> &mut Catalog {
        Arc::make_mut(&mut self.catalog)
    }
}

fn conflict(message: impl Into<String>) -> Error {
    Error::new(Kind::Conflict, message)
}

fn not_found(message: impl Into<String>) -> Error {
    Error::new(Kind::NotFound, message)
}

/// The cluster was not born yet: the leader does that by itself as soon as there is one.
fn unborn() -> Error {
    Error::new(Kind::Unavailable, "the cluster is not initialised yet; try again in a moment")
}
