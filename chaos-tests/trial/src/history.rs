//! What happened in a run: everything that was called, answered, done and observed, in the order in which it was written down.
//!
//! Times are microseconds from the beginning of the run, of one clock for all clients. The JSON form, a line a record, is described in
//! `docs/histories.md`, so that a checker outside of this house can judge.

mod lines;
mod observed;
mod operation;

pub use lines::{FORMAT, LineError, Reader, write};
pub use observed::{Level, Observed, Sight};
pub use operation::{
    Answer, Call, Consent, Coverage, Degraded, EventOutcome, Listing, Missing, Operation, Outcome, Refusal, Scored,
    Source,
};

use crate::fault::Fault;
use crate::target::Scene;
use crate::world::{Applied, Phase, WorldKind};
use serde::{Deserialize, Serialize};

/// What a run was: the first record of a history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// Where it ran.
    pub world: WorldKind,
    /// The scenario's name.
    pub scenario: String,
    /// Of the schedule and the load.
    pub seed: u64,
    /// The schedule's text; empty where none was planned.
    #[serde(default)]
    pub schedule: String,
    /// Nodes at the start.
    pub nodes: u32,
    /// Coordinators at the start.
    pub coordinators: u32,
    /// Replicas of a shard.
    pub replication: u32,
    /// User shards.
    pub user_shards: u32,
    /// Item shards: what a query asks.
    pub item_shards: u32,
    /// The longest time that a member waits before it wants an election.
    pub election_timeout_max_ms: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The run; first, and once.
    Header(Header),
    /// A client called.
    Operation(Operation),
    /// Something was done to the cluster.
    Fault(FaultMark),
    /// A phase began.
    Phase(PhaseMark),
    /// Something was seen.
    Observed(Sighting),
}

/// A fault, or the end of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultMark {
    /// When it began to be done.
    pub from_us: u64,
    /// When it was done.
    pub at_us: u64,
    /// Which step of the schedule; `None` for what is of none, such as healing everything.
    #[serde(default)]
    pub step: Option<usize>,
    /// What.
    pub fault: Fault,
    /// Whether it ends what an earlier mark of the same step began.
    #[serde(default)]
    pub is_end: bool,
    /// What came of it.
    #[serde(flatten)]
    pub applied: Applied,
}

/// A phase began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseMark {
    /// When.
    pub at_us: u64,
    /// Which.
    pub phase: Phase,
}

/// Something seen at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sighting {
    /// When.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub what: Observed,
}

/// Everything of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// What it was.
    pub header: Header,
    /// What clients did, in the order in which they called or were written down.
    pub operations: Vec<Operation>,
    /// What was done to the cluster.
    pub faults: Vec<FaultMark>,
    /// When which phase began.
    pub phases: Vec<PhaseMark>,
    /// What was seen.
    pub observed: Vec<Sighting>,
}

impl History {
    /// With nothing in it.
    pub fn new(header: Header) -> History {
        History { header, operations: Vec::new(), faults: Vec::new(), phases: Vec::new(), observed: Vec::new() }
    }

    /// Adds a record; another header replaces the first.
    pub fn push(&mut self, record: Record) {
        match record {
            Record::Header(header) => self.header = header,
            Record::Operation(operation) => self.operations.push(operation),
            Record::Fault(mark) => self.faults.push(mark),
            Record::Phase(mark) => self.phases.push(mark),
            Record::Observed(sighting) => self.observed.push(sighting),
        }
    }

    /// Adds an observation.
    pub fn see(&mut self, at_us: u64, what: Observed) {
        self.observed.push(Sighting { at_us, what });
    }

    /// When a phase began, if it did.
    pub fn began_us(&self, phase: Phase) -> Option<u64> {
        self.phases.iter().find(|mark| mark.phase == phase).map(|mark| mark.at_us)
    }

    /// The phase at a time; [`Phase::Baseline`] before the first mark.
    pub fn phase_at(&self, at_us: u64) -> Phase {
        let begun = self.phases.iter().filter(|mark| mark.at_us <= at_us);
        begun.max_by_key(|mark| mark.at_us).map_or(Phase::Baseline, |mark| mark.phase)
    }

    /// What was seen of the cluster's roles, for reports.
    pub fn scenes(&self) -> impl Iterator<Item = (u64, &Scene)> {
        self.observed.iter().filter_map(|sighting| match &sighting.what {
            Observed::Scene { scene } => Some((sighting.at_us, scene)),
            _ => None,
        })
    }
}
