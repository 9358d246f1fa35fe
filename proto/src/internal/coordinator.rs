//! What members ask of the coordinator. Any coordinator takes a request; one that does not lead answers `NotLeader` with a hint.

use docent_types::catalog::{Activation, Job, JobProgress, ModelPart, Replica, Step};
use docent_types::placement::{PlacementChange, PlannedMove};
use docent_types::schedule::Schedule;
use docent_types::study::Study;
use docent_types::training::TrainSettings;
use docent_types::{ClusterId, NodeId, Position, ReplicaId, ShardId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request to the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// A new node asks in with the cluster's token, or a known one returns.
    Join(Join),
    /// A node is alive, and what it has staged.
    Heartbeat(Heartbeat),
    /// What a job's driver reports.
    ReportJob(JobReport),
    /// Queue a training job.
    StartTraining(TrainSettings),
    /// End a job.
    CancelJob(u64),
    /// Make a staged or retired version live.
    Activate(u64),
    /// Make the previous version live.
    Rollback,
    /// Change where replicas live.
    Place {
        /// What to change.
        change: PlacementChange,
        /// Only tell what it would lead to.
        is_dry_run: bool,
    },
    /// A coordinator tells the leader what it understands; since format 3, an older leader refuses it by number.
    TellFormat {
        /// Who.
        coordinator: NodeId,
        /// The highest format.
        format: u32,
    },
    /// Training that begins by itself from now on.
    SetSchedule(Schedule),
    /// It no longer does.
    RemoveSchedule(String),
    /// The events of the items on the shards that a node leads, told while a schedule waits for events.
    TellEvents {
        /// Who.
        node: NodeId,
        /// Of each shard of items.
        events: Vec<(ShardId, u64)>,
    },
    /// Search for settings.
    SetStudy(Study),
    /// Forget a search and end its trial.
    RemoveStudy(String),
}

impl Request {
    /// The lowest format whose binaries know this request.
    pub fn format(&self) -> u32 {
        match self {
            Request::Join(_)
            | Request::Heartbeat(_)
            | Request::CancelJob(_)
            | Request::Activate(_)
            | Request::Rollback
            | Request::Place { .. } => 2,
            Request::StartTraining(settings) => settings.format(),
            Request::TellFormat { .. } => 3,
            Request::ReportJob(JobReport { update: JobUpdate::Step(_), .. }) => 6,
            Request::ReportJob(_) => 2,
            Request::SetSchedule(schedule) => schedule.format(),
            Request::SetStudy(study) => study.format(),
            Request::RemoveSchedule(_) | Request::TellEvents { .. } | Request::RemoveStudy(_) => 6,
        }
    }
}

/// See [`Request::Join`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// The cluster's join token.
    pub token: String,
    /// A random number that a node draws once and keeps: a repeated join (its first answer was lost) gets the same id.
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

/// See [`Request::Heartbeat`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub node: NodeId,
    /// Versions that this node's replicas hold, verified and probed.
    pub staged: Vec<(u64, Vec<ShardId>)>,
    /// Versions that it cannot stage, and why.
    pub refused: Vec<(u64, String)>,
    /// The replicas that it has, each as it is.
    pub replicas: Vec<ReplicaReport>,
    /// Replicas of the catalog's graves that are gone from its disk.
    pub buried: Vec<ReplicaId>,
}

/// A replica as its node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// Of which shard.
    pub shard: ShardId,
    /// Which.
    pub replica: ReplicaId,
    /// How it is.
    pub condition: Condition,
}

/// How a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Takes part.
    Follows,
    /// Leads its group.
    Leads(Membership),
    /// Can never take part again, and why: its log or its state is damaged or gone.
    Lost(String),
}

/// A group's membership as its leader has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The leader's term.
    pub term: u64,
    /// The log index of the membership.
    pub index: u64,
    /// Whether that entry is committed, and no change of voters is half done: only then the rest is a fact.
    pub is_settled: bool,
    /// Who votes.
    pub voters: Vec<Replica>,
}

/// See [`Request::ReportJob`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// The job.
    pub job: u64,
    /// The attempt; a report of an older one is dropped.
    pub epoch: u64,
    /// Who drives it.
    pub driver: NodeId,
    /// What happened.
    pub update: JobUpdate,
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum JobUpdate {
    /// It goes on.
    Progress(JobProgress),
    /// This attempt failed.
    Failed {
        /// Why.
        error: String,
        /// Whether another attempt may succeed.
        is_retryable: bool,
    },
    /// It made a model.
    Finished(TrainedModel),
    /// It goes on: `Progress` with what a course has besides.
    Step(Step),
}

/// What a job made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainedModel {
    /// What it was trained on.
    pub cut: Vec<Position>,
    /// Item rows.
    pub parts: Vec<ModelPart>,
    /// Gramian and the rest.
    pub global: ModelPart,
    /// Held-out metrics and counts.
    pub metrics: BTreeMap<String, f64>,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// To `Join`.
    Joined {
        /// The cluster.
        cluster: ClusterId,
        /// The node's id.
        node: NodeId,
    },
    /// To `Heartbeat`, `ReportJob`, `TellEvents` and changes of schedules and studies: the catalog's index, so that a watcher knows when it lags.
    Index(u64),
    /// To `StartTraining` and `CancelJob`.
    Job(Box<Job>),
    /// To `Activate` and `Rollback`.
    Activated(Activation),
    /// To `Place`: the moves that it leads to.
    Moves(Vec<PlannedMove>),
}

/// A catalog watch: the stream opens with the catalog as it is and goes on with each newer one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// The index that the watcher has.
    pub after: u64,
}
