//! What can go wrong with stored state, and what to do about it.

use docent_types::Kind;
use docent_types::ShardId;
use std::path::{Path, PathBuf};

/// Result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the store. After a failed write every later write fails too: the process has to end and recover.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option is out of range.
    #[error("{0}")]
    Option(String),
    /// No space left.
    #[error("no disk space left for the state in {}: free some, then restart the node", .dir.display())]
    Full {
        /// The store's directory.
        dir: PathBuf,
    },
    /// Reading or writing failed.
    #[error("state in {} cannot be read or written: {message}", .dir.display())]
    Io {
        /// The store's directory.
        dir: PathBuf,
        /// What the system said.
        message: String,
    },
    /// An earlier write failed.
    #[error("an earlier write to the state in {} failed: see the log for its cause, then restart the node", .dir.display())]
    Poisoned {
        /// The store's directory.
        dir: PathBuf,
    },
    /// Another process has it open.
    #[error("the state in {} is in use by another process", .dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// Written by a newer binary.
    #[error("{what} has format {found}; this binary reads up to {known}: run a newer docent")]
    TooNew {
        /// What was read.
        what: String,
        /// Its format.
        found: u32,
        /// The highest known.
        known: u32,
    },
    /// Written by a version of fjall that this binary does not read.
    #[error("the state in {} was written as fjall's format {found}, which this binary does not read: run the docent that wrote it", .dir.display())]
    Foreign {
        /// The store's directory.
        dir: PathBuf,
        /// What fjall said.
        found: String,
    },
    /// Bytes that are not as they were written.
    #[error("{what} is corrupt: {message}")]
    Corrupt {
        /// What was read.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// The source of an installation failed; the old state stands.
    #[error("{0}")]
    Source(docent_types::Error),
    /// The shard was destroyed while a handle to it was kept.
    #[error("the state of shard {0} was removed from this node")]
    Destroyed(ShardId),
}

impl Error {
    /// What a caller can do.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Option(_) => Kind::Invalid,
            Error::Full { .. } | Error::Poisoned { .. } => Kind::Unavailable,
            Error::Locked { .. } => Kind::Conflict,
            Error::TooNew { .. } | Error::Foreign { .. } => Kind::Unsupported,
            Error::Corrupt { .. } => Kind::Corrupt,
            Error::Source(error) => error.kind,
            Error::Destroyed(_) => Kind::WrongShard,
            Error::Io { .. } => Kind::Internal,
        }
    }

    /// Whether what the disk holds is not to be believed after this.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Error::Corrupt { .. } | Error::Io { .. } | Error::Poisoned { .. })
    }

    /// What fjall said about the database in `dir`.
    pub(crate) fn of(dir: &Path, error: fjall::Error) -> Error {
        let dir = dir.to_owned();
        let corrupt = |message: String| Error::Corrupt { what: format!("the state in {}", dir.display()), message };
        match &error {
            fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => match io.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::Full { dir },
                // A file that is missing, cut short or not what it should be.
                std::io::ErrorKind::NotFound
                | std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::InvalidData
                | std::io::ErrorKind::InvalidInput => corrupt(io.to_string()),
                _ => Error::Io { dir, message: io.to_string() },
            },
            fjall::Error::Poisoned => Error::Poisoned { dir },
            fjall::Error::Locked => Error::Locked { dir },
            fjall::Error::InvalidVersion(Some(version)) => Error::Foreign { dir, found: format!("{version:?}") },
            _ => corrupt(error.to_string()),
        }
    }
}

impl From<Error> for docent_types::Error {
    fn from(error: Error) -> docent_types::Error {
        match error {
            Error::Source(error) => error,
            error => docent_types::Error::new(error.kind(), error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named() {
        let dir = Path::new("/data/state");
        for error in [
            fjall::Error::Io(std::io::ErrorKind::StorageFull.into()),
            fjall::Error::Storage(fjall::LsmError::Io(std::io::ErrorKind::StorageFull.into())),
        ] {
            let error = Error::of(dir, error);
            assert!(matches!(error, Error::Full { .. }));
            assert_eq!(
                error.to_string(),
                "no disk space left for the state in /data/state: free some, then restart the node"
            );
        }
    }
}
