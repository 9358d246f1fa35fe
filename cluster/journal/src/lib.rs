//! One segmented, checksummed, group-commit log per node, shared by all raft groups of that node.
//!
//! Promise: when a [`Done`] fires `Ok`, the record and everything given to the same group before it survive `kill -9`
//! and power loss. A batch of the queue costs one write and one `fdatasync`, whatever the number of groups in it.
//!
//! The rooms:
//! - `options`, `error`: what can be set, what can go wrong.
//! - `record`: the bytes of a record and of a segment's header; pure.
//! - `written`: what the log holds, as written: where each live record lies; pure. Recovery and the writer share it.
//! - `segment`: the files: names, room ahead of the writer, checked reads.
//! - `recover`: from segments back to `written`; decides between a torn tail and corruption.
//! - `visible`: what callers see, ahead of the disk, and the cache of recent entries.
//! - `writer`, `collect`: the thread that writes, and how old segments go away.
//! - `queue`, `steps`: the way to the writer; the writer driven from a task instead of a thread.
//! - `journal`: the handles, [`Journal`] and [`GroupLog`].

mod collect;
mod error;
mod journal;
mod options;
mod queue;
mod record;
mod recover;
mod segment;
mod steps;
mod visible;
mod writer;
mod written;

pub use error::{Error, Kind};
pub use journal::{Done, Entry, GroupId, GroupLog, GroupState, Journal, Purged};
pub use options::Options;
pub use steps::Steps;
