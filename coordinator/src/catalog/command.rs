//! The entries of the coordinator's log and what they answer.
//!
//! Whatever a clock, a random number or a setting decides is in the command: the proposer put it there.

use docent_proto::internal::coordinator::TrainedModel;
use docent_types::catalog::{Activation, Catalog, Cluster, Job, JobProgress, Replica, Step};
use docent_types::placement::{Cause, NodeState};
use docent_types::schedule::Schedule;
use docent_types::study::Study;
use docent_types::training::TrainSettings;
use docent_types::{ClusterId, NodeId, ReplicaId, ShardId};
use serde::{Deserialize, Serialize};

/// One entry of the coordinator's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// The cluster is born with this identity; the first one counts, every later one answers the first.
    Birth(Cluster),
    /// Where the coordinators are, and what the proposing one understands.
    RegisterCoordinators {
        /// Every coordinator and its internal address.
        members: Vec<(NodeId, String)>,
        /// The one that proposes.
        by: NodeId,
        /// Its highest record format.
        format: u32,
    },
    /// A node comes in or comes back.
    Join(Join),
    /// Members whose liveness changed.
    SetAlive(Vec<(NodeId, bool)>),
    /// The initial placement over the nodes that are alive in the catalog; once.
    PlaceShards,
    /// A training job.
    QueueJob {
        /// What it does.
        settings: TrainSettings,
        /// The proposer's clock.
        now_ms: i64,
    },
    /// The next attempt of a job.
    AssignJob {
        /// Which job.
        job: u64,
        /// The new attempt, one more than the last.
        epoch: u64,
        /// Who drives it.
        driver: NodeId,
    },
    /// The current attempt goes on.
    JobProgress {
        /// Which attempt of which job, by whom.
        attempt: Attempt,
        /// How far it is.
        progress: JobProgress,
    },
    /// The current attempt failed.
    JobFailed {
        /// Which attempt of which job, by whom.
        attempt: Attempt,
        /// Why.
        error: String,
        /// Whether another attempt may succeed.
        is_retryable: bool,
    },
    /// Ends a queued or running job.
    CancelJob(u64),
    /// The current attempt made a model.
    RegisterModel {
        /// Which attempt of which job, by whom.
        attempt: Attempt,
        /// What it made.
        trained: TrainedModel,
        /// The proposer's clock.
        now_ms: i64,
    },
    /// A node's replicas of these shards hold, verified and probed a version.
    MarkStaged {
        /// Which node.
        node: NodeId,
        /// Which version.
        version: u64,
        /// Its replicas of which shards.
        shards: Vec<ShardId>,
    },
    /// A node cannot stage a version.
    RefuseVersion {
        /// Which node.
        node: NodeId,
        /// Which version.
        version: u64,
        /// Why.
        error: String,
    },
    /// Enough replicas staged a validated version.
    Stage(u64),
    /// A version that is not live cannot be used.
    FailModel {
        /// Which version.
        version: u64,
        /// Why.
        error: String,
    },
    /// Makes a version live everywhere.
    Activate(u64),
    /// Makes the version before the live one live again.
    Rollback,
    /// Retires staged versions beyond a number and forgets records beyond another, oldest first; never the live version
    /// nor its rollback target.
    RetireOld {
        /// Staged versions that stay.
        staged_max: u32,
        /// Retired and failed records that stay.
        records_max: u32,
    },
    /// A node's replicas of these shards no longer hold a version: it restarted, or gave the version up.
    Unstage {
        /// Which node.
        node: NodeId,
        /// Which version.
        version: u64,
        /// Its replicas of which shards.
        shards: Vec<ShardId>,
    },
    /// What a node may hold from now on.
    SetNodeState {
        /// Which node.
        node: NodeId,
        /// What.
        state: NodeState,
    },
    /// A replica of a shard moves, or one is added. The new replica's id is made of this entry's index.
    BeginChange {
        /// Of which shard.
        shard: ShardId,
        /// The replica that goes.
        old: Option<ReplicaId>,
        /// Where the new one comes.
        to: NodeId,
        /// Why.
        cause: Cause,
    },
    /// A shard's change is given up.
    CancelChange(ShardId),
    /// A group's committed membership, as its leader reported it.
    ObserveMembership {
        /// Whose.
        shard: ShardId,
        /// The log index of the membership.
        index: u64,
        /// Who votes.
        replicas: Vec<Replica>,
    },
    /// Replicas that a node has destroyed.
    Bury {
        /// Which node.
        node: NodeId,
        /// Which replicas.
        replicas: Vec<ReplicaId>,
    },
    /// A removed node has nothing any more and is no member from now on.
    ForgetNode(NodeId),
    /// Every member understands this format: from now on it is the cluster's, and no member may know less. Written in that format.
    Finalize(u32),
    /// Training that begins by itself from now on; one of the same name does this instead.
    SetSchedule {
        /// What, and when.
        schedule: Schedule,
        /// The proposer's clock.
        now_ms: i64,
    },
    /// It no longer begins by itself.
    RemoveSchedule(String),
    /// The next job of a schedule that is due.
    QueueScheduled {
        /// Which schedule.
        name: String,
        /// The number of this run, one more than the last.
        run: u64,
        /// The proposer's clock.
        now_ms: i64,
        /// The items' events, where the proposer knows them.
        events: Option<u64>,
    },
    /// The current attempt goes on: `JobProgress` with what a course has besides.
    JobStep {
        /// Which attempt of which job, by whom.
        attempt: Attempt,
        /// How far it is.
        step: Step,
    },
    /// A search for settings.
    SetStudy {
        /// What is searched.
        study: Study,
        /// The proposer's clock.
        now_ms: i64,
    },
    /// Forgets a search and ends its trial.
    RemoveStudy(String),
    /// The next trial of a study, or when all are over the job with the best settings.
    BeginTrial {
        /// Which study.
        name: String,
        /// The number of the trial, from 0.
        trial: u32,
        /// The values of the space's dimensions; empty for the settings as they were given.
        values: Vec<f64>,
        /// The proposer's clock.
        now_ms: i64,
    },
    /// The job of a trial is over.
    EndTrial {
        /// Which study.
        name: String,
        /// Which trial.
        trial: u32,
    },
}

impl Command {
    /// The lowest format whose binaries know this command. A new variant has the format that came with it.
    pub fn format(&self) -> u32 {
        match self {
            Command::Birth(_)
            | Command::RegisterCoordinators { .. }
            | Command::Join(_)
            | Command::SetAlive(_)
            | Command::PlaceShards
            | Command::AssignJob { .. }
            | Command::JobProgress { .. }
            | Command::JobFailed { .. }
            | Command::CancelJob(_)
            | Command::RegisterModel { .. }
            | Command::MarkStaged { .. }
            | Command::RefuseVersion { .. }
            | Command::Stage(_)
            | Command::FailModel { .. }
            | Command::Activate(_)
            | Command::Rollback
            | Command::RetireOld { .. }
            | Command::Unstage { .. }
            | Command::SetNodeState { .. }
            | Command::BeginChange { .. }
            | Command::CancelChange(_)
            | Command::ObserveMembership { .. }
            | Command::Bury { .. }
            | Command::ForgetNode(_) => 2,
            Command::QueueJob { settings, .. } => settings.format(),
            Command::SetSchedule { schedule, .. } => schedule.format(),
            Command::SetStudy { study, .. } => study.format(),
            Command::RemoveSchedule(_)
            | Command::QueueScheduled { .. }
            | Command::JobStep { .. }
            | Command::RemoveStudy(_)
            | Command::BeginTrial { .. }
            | Command::EndTrial { .. } => 6,
            Command::Finalize(format) => *format,
        }
    }

    /// Whether it may be proposed to the coordinators of `catalog`: whether all of them know it.
    ///
    /// # Errors
    /// As [`Catalog::require`].
    pub fn check(&self, catalog: &Catalog) -> docent_types::Result<()> {
        match self {
            // What raises the format is looked at by itself, when it is applied.
            Command::Finalize(_) => Ok(()),
            _ => catalog.require(self.format()),
        }
    }
}

/// See [`Command::Join`]. The proposer has verified the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The token's id.
    pub token: u128,
    /// Drawn once by the node and kept in its data directory.
    pub nonce: u128,
    /// Who it was, from its data directory.
    pub previous: Option<(ClusterId, NodeId)>,
    /// Its internal address.
    pub internal_addr: String,
    /// Its query address.
    pub query_addr: String,
    /// Its failure zone.
    pub zone: String,
    /// The highest record format it understands.
    pub format: u32,
}

/// An attempt of a job: the fence against drivers of older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The job.
    pub job: u64,
    /// The attempt.
    pub epoch: u64,
    /// Who drives it.
    pub driver: NodeId,
}

/// What a command answers when it was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing to say.
    Done,
    /// To `Birth`: the identity that counts.
    Born(Cluster),
    /// To `Join`.
    Joined {
        /// The cluster.
        cluster: ClusterId,
        /// The node's id.
        node: NodeId,
    },
    /// To commands about jobs.
    Job(Box<Job>),
    /// To `RegisterModel`.
    Version(u64),
    /// To `Activate` and `Rollback`.
    Activated(Activation),
}

/// Accepted, or refused with a reason for a person; the same on every coordinator.
pub type Outcome = Result<Answer, docent_types::Error>;
