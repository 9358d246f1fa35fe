//! The seam to the replicated state machine: what `docent-node` and `docent-coordinator` implement.
//!
//! Contract, in short:
//! * [`Machine::apply`] is a pure function of (state, batch): no clock, no randomness, no settings, no network.
//! * One batch is one atomic unit: its effects and the [`Applied`] that comes with it are stored together, so that a
//!   restart finds either all of it or none of it. `apply` need not be durable when it returns: the journal replays
//!   from whatever [`Machine::applied`] says after a restart, and is purged only below [`Machine::flushed`].
//! * Calls come from one task a group, in log order, on a thread that may block. `snapshot`, `flush` and `flushed` may
//!   come at the same time from another thread.

use bytes::Bytes;

/// Position in a group's log. Indexes start at 0 (the first membership), terms at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LogMark {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Log index of the entry.
    pub index: u64,
}

/// How far a state machine is, as it must be stored atomically with the state itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last applied entry; `None` before the first.
    pub last: Option<LogMark>,
    /// Opaque to the machine (the full log id and the last membership, with a version byte); store it, give it back.
    /// Empty before the first entry. At most a few hundred bytes.
    pub mark: Bytes,
}

/// One committed entry to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Log index, consecutive inside a batch and over batches.
    pub index: u64,
    /// Term of the entry.
    pub term: u64,
    /// What was proposed; `None` for entries of raft itself (a leader's blank, a membership), which change no state.
    pub payload: Option<Bytes>,
}

/// Why a machine could not do its work. Any of these stops the group for good (the process then ends).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// Storage failed under the machine.
    #[error("state storage failed: {message}")]
    Storage {
        /// What failed, with the file or keyspace.
        message: String,
    },
    /// Bytes that the machine cannot read (a snapshot chunk, a stored record).
    #[error("state is corrupt: {message}")]
    Corrupt {
        /// What was being read.
        message: String,
    },
    /// A command or format newer than this binary; refused by name.
    #[error("format is newer than this binary: {message}")]
    TooNew {
        /// Which format, found and known version.
        message: String,
    },
}

impl MachineError {
    /// A storage failure with its description.
    pub fn storage(error: impl std::fmt::Display) -> Self {
        MachineError::Storage { message: error.to_string() }
    }

    /// Corrupt bytes with a description of what was read.
    pub fn corrupt(error: impl std::fmt::Display) -> Self {
        MachineError::Corrupt { message: error.to_string() }
    }
}

/// The replicated state machine of one group.
pub trait Machine: Send + Sync + 'static {
    /// What was stored with the state; asked once when the group is opened.
    fn applied(&self) -> Result<Applied, MachineError>;

    /// Applies consecutive entries and stores `applied` (the position after the last of them) atomically with their
    /// effects. Returns exactly one response a command (empty for those without payload).
    /// A *rejected* command is a response, never an error: an error stops the group.
    fn apply(&self, batch: Vec<Command>, applied: Applied) -> Result<Vec<Bytes>, MachineError>;

    /// A consistent read view of the state as it is now; later batches must not show in it.
    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError>;

    /// Replaces the whole state by a snapshot: build beside the old state, store `applied` with it, flip atomically,
    /// **durably** (the journal below it is purged right after). `chunks` come as [`SnapshotSource`] gave them.
    fn install(
        &self,
        applied: Applied,
        chunks: Box<dyn Iterator<Item = Result<Bytes, MachineError>> + Send>,
    ) -> Result<(), MachineError>;

    /// Highest applied index whose effects survive power loss; `None` when nothing is durable yet.
    fn flushed(&self) -> Result<Option<u64>, MachineError>;

    /// Makes everything applied so far durable; called before a purge, may take long.
    fn flush(&self) -> Result<(), MachineError>;
}

/// A consistent view of a machine's state, read in chunks.
pub trait SnapshotSource: Send {
    /// The position the view was taken at.
    fn applied(&self) -> &Applied;

    /// The next chunk, of about `bytes_max` bytes and never empty; `None` at the end.
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError>;
}
