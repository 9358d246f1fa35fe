//! The errors of this crate, one enum a boundary: opening and talking to groups, proposing, reading.

use crate::{MachineError, Member};

/// Why a host or a group could not do something other than proposing and reading.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Settings that cannot work.
    #[error("raft settings are invalid: {message}")]
    Options {
        /// Which, and what they must be.
        message: String,
    },
    /// The process hosts no such group.
    #[error("no raft group {group} on this node")]
    NoGroup {
        /// Group id.
        group: u64,
    },
    /// The group is open already.
    #[error("raft group {group} is open already")]
    Open {
        /// Group id.
        group: u64,
    },
    /// A message or an `open` names another replica than the one that lives here: an old life, fenced.
    #[error("raft group {group} is replica {ours} here, not {theirs}")]
    WrongReplica {
        /// Group id.
        group: u64,
        /// Replica that lives here.
        ours: u64,
        /// Replica that was named.
        theirs: u64,
    },
    /// The journal found damage in this group; it must be made anew under a new replica id.
    #[error("raft group {group} is quarantined: {reason}; create a new replica of it under a new id")]
    Quarantined {
        /// Group id.
        group: u64,
        /// What the journal found.
        reason: String,
    },
    /// Bytes from the wire or the disk that do not decode, or of a newer version.
    #[error("{what} does not decode: {message}")]
    Malformed {
        /// Which message or record.
        what: &'static str,
        /// Why.
        message: String,
    },
    /// This node has no room for more; ask again later.
    #[error("raft group {group} takes no data here: the disk of this node is full")]
    NoRoom {
        /// Group id.
        group: u64,
    },
    /// A file or the journal failed.
    #[error("storage of raft group {group} failed: {message}")]
    Storage {
        /// Group id.
        group: u64,
        /// What failed.
        message: String,
    },
    /// The state machine failed.
    #[error("state machine of raft group {group} failed")]
    Machine {
        /// Group id.
        group: u64,
        /// The machine's error.
        #[source]
        source: MachineError,
    },
    /// The group has stopped for good; the process must end.
    #[error("raft group {group} has stopped: {message}")]
    Fatal {
        /// Group id.
        group: u64,
        /// Why.
        message: String,
    },
    /// Only the leader can do this.
    #[error("raft group {group} is not led from here")]
    NotLeader {
        /// Group id.
        group: u64,
        /// Who leads, if known.
        hint: Option<Member>,
    },
    /// The membership forbids it (not a member, unknown learner, change in progress, ...).
    #[error("membership of raft group {group} does not allow this: {message}")]
    Membership {
        /// Group id.
        group: u64,
        /// Why.
        message: String,
    },
    /// Not done within the deadline; it may still happen.
    #[error("raft group {group} did not {what} in time; it may still happen")]
    TimedOut {
        /// Group id.
        group: u64,
        /// What was waited for.
        what: &'static str,
    },
}

/// How a proposal ended, other than committed. Only [`ProposeError::outcome_is_unknown`] ones may have taken effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Certainly not accepted: this replica does not lead (or is not yet sure that it does). Try the hint.
    #[error("raft group {group} is not led from here")]
    NotLeader {
        /// Group id.
        group: u64,
        /// Who leads, if known.
        hint: Option<Member>,
    },
    /// Certainly not accepted: too much is in flight, or this node's disk is full.
    #[error("raft group {group} takes no more proposals now: too many are in flight, or the disk is full")]
    Overloaded {
        /// Group id.
        group: u64,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// Certainly not accepted: larger than `payload_bytes_max`.
    #[error("proposal of {bytes} bytes to raft group {group} is over the limit of {bytes_max}")]
    TooLarge {
        /// Group id.
        group: u64,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Submitted, and then no answer within the deadline, or leadership was lost: it may or may not be committed.
    #[error("outcome of a proposal to raft group {group} is unknown: {reason}")]
    Unknown {
        /// Group id.
        group: u64,
        /// Why.
        reason: &'static str,
    },
    /// The group has stopped for good; the process must end. The outcome is unknown.
    #[error("raft group {group} has stopped: {message}")]
    Fatal {
        /// Group id.
        group: u64,
        /// Why.
        message: String,
    },
}

impl ProposeError {
    /// Whether the proposal may have been, or may yet be, committed.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, ProposeError::Unknown { .. } | ProposeError::Fatal { .. })
    }
}

/// Why a linearizable read is not possible here and now. A read has no effect, so any may be tried again elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// This replica does not lead. Try the hint.
    #[error("raft group {group} is not led from here")]
    NotLeader {
        /// Group id.
        group: u64,
        /// Who leads, if known.
        hint: Option<Member>,
    },
    /// No quorum confirmed the leadership within the deadline, or the state machine did not get there.
    #[error("raft group {group} could not confirm its leadership in time")]
    TimedOut {
        /// Group id.
        group: u64,
    },
    /// The group has stopped for good; the process must end.
    #[error("raft group {group} has stopped: {message}")]
    Fatal {
        /// Group id.
        group: u64,
        /// Why.
        message: String,
    },
}
