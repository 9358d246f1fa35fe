//! What can go wrong in the journal, and what a caller may do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::GroupId;

/// A failure of the journal. Cheap to clone: one failed sync answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another handle in this one, has the directory.
    #[error("journal directory {} is in use by another process: stop that one or choose another data directory", dir.display())]
    Locked { dir: PathBuf },
    /// The file was written by a newer version.
    #[error("journal file {} has format {found}, this binary reads up to {supported}: start the newer version", file.display())]
    TooNew { file: PathBuf, found: u8, supported: u8 },
    /// No room left; nothing more was accepted, what is there stays readable.
    #[error("no disk space for the journal at {}: free space and start the node again", path.display())]
    Full { path: PathBuf },
    /// An operation of the operating system failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    /// An earlier write or sync failed, so that what the disk holds is unknown; the process must end.
    #[error("the journal stopped after a failure ({reason}): end the process, the next start recovers")]
    Poisoned { reason: String },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// Synced records of the group are damaged or gone: re-create the replica under a new id, then remove the group.
    #[error("journal group {group} is quarantined: {reason}; re-create the replica under a new id")]
    Quarantined { group: GroupId, reason: String },
    /// The entry was never written, was truncated, or was purged.
    #[error("journal group {group} has no entry {index}")]
    Missing { group: GroupId, index: u64 },
    /// The call breaks the log's rules; nothing was changed.
    #[error("journal group {group} refuses the call: {reason}")]
    Refused { group: GroupId, reason: String },
    /// A setting is out of range.
    #[error("journal setting {name} is out of range: need {need}")]
    Setting { name: &'static str, need: &'static str },
}

/// What a failure means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The caller's mistake.
    Invalid,
    /// Not now: no room, or somebody else has it.
    Unavailable,
    /// Data is damaged; the replica must be re-created.
    Corrupt,
    /// The process must end.
    Fatal,
}

impl Error {
    /// What the failure means to the caller.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } | Self::Refused { .. } | Self::Setting { .. } => Kind::Invalid,
            Self::Locked { .. } | Self::TooNew { .. } | Self::Closed => Kind::Unavailable,
            Self::Quarantined { .. } => Kind::Corrupt,
            Self::Full { .. } | Self::Io { .. } | Self::Poisoned { .. } => Kind::Fatal,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io { action, path, source: Arc::new(source) },
        }
    }
}
