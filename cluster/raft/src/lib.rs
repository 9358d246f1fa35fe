//! A raft group as the rest of Docent sees it: propose bytes, read behind a barrier, change replicas, watch.
//!
//! openraft (an exactly pinned alpha) is named in this crate alone and in none of its public signatures; its generics
//! are instantiated once, here. The journal keeps the log, the caller's [`Machine`] keeps the state, the caller's
//! [`Transport`] carries opaque messages.
//!
//! # Modules
//! - [`host`](Host): all groups of a process; opens them and takes in what other hosts send.
//! - [`group`](Group): the handle of one group. `read`: the barrier before a linearizable read.
//! - [`machine`](Machine), [`transport`](Transport): the two seams. [`options`](Options), `error`, [`status`](Status).
//! - `raft`: openraft's type parameters and settings. `record`: bytes on disk. `wire`: bytes between hosts.
//! - `runtime`: tokio, with ticks that share their wake-ups.
//! - `log`: openraft's log store over the journal. `state`: openraft's state machine over [`Machine`].
//! - `network`: openraft's network over [`Transport`]. `snapshot`: the file of the last snapshot.
//! - `compaction`: when snapshots are made and the journal is purged. `contact`: how fresh a follower is.

mod compaction;
mod contact;
mod error;
mod group;
mod host;
mod log;
mod machine;
mod meters;
mod network;
mod options;
mod raft;
mod read;
mod record;
mod recovery;
mod runtime;
mod snapshot;
mod state;
mod status;
#[cfg(test)]
mod suite;
mod transport;
mod wire;

pub use error::{Error, ProposeError, ReadError};
pub use group::{Committed, Group};
pub use host::Host;
pub use machine::{Applied, Command, LogMark, Machine, MachineError, SnapshotSource};
pub use options::Options;
pub use read::ReadGuard;
pub use status::{MemberStatus, Role, Status};
pub use transport::{Member, MessageKind, Transport, TransportError};
