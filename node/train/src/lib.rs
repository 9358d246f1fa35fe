//! The distributed trainer: models over the nodes that hold the events (design.md section 5, study distributed.md 3).
//!
//! A [`Driver`] leads a job; a [`Worker`] on every host does the work. They speak [`TrainRequest`] and [`TrainResponse`]
//! through the [`Peers`] seam, and read users and items through [`UserInput`] and [`ItemInput`].
//!
//! **Invariants.** Work is split over 64 virtual workers (64 slots each) of users and of items, and hosts only *host*
//! them: the same input, settings and seed give the same parts, byte for byte, on any number of hosts and for any
//! assignment. A user's history never leaves its host: what travels is item ids that somebody touched, anonymous row numbers, rows
//! and small matrices. Every request may be repeated; one of an older job epoch is refused.
//!
//! | module | holds |
//! |---|---|
//! | [`plan`] | what a job is: settings, hosts; progress and outcome |
//! | [`input`] | the seams to the node: users, items, where parts go |
//! | [`numbers`] | numbers for item ids while users are read |
//! | [`message`] | requests and responses between hosts |
//! | [`part`] | the files of a finished model |
//! | [`driver`] | the phases of a job |
//! | [`worker`] | one host's sessions |
//! | `blob` | streams of bytes between hosts: what they are read from, and how they are read |
//! | `load`, `link`, `pairs`, `wire` | pure: building sorted input, exchanging adjacency and what is liked together, numbers as bytes |

mod blob;
pub mod driver;
pub mod error;
pub mod input;
mod link;
mod load;
pub mod message;
pub mod numbers;
pub mod packed;
mod pairs;
pub mod part;
pub mod plan;
pub mod precision;
mod wire;
pub mod worker;

pub use driver::Driver;
pub use error::Error;
pub use input::{CheckpointStore, ItemInfo, ItemInput, PartSink, PartSource, Positive, UserHistory, UserInput};
pub use message::{Peers, ReadRequest, Reading, TrainRequest, TrainResponse};
pub use numbers::ItemNumbers;
pub use plan::{
    Algorithm, Base, Checkpoints, Earlier, Evaluate, HoldOut, Hosts, JobPlan, JobSettings, Outcome, PartInfo, Progress,
};
pub use precision::Precision;
pub use worker::Worker;

/// Virtual workers of each keyspace.
pub const VWORKERS: u16 = 64;
/// Slots of each keyspace (design.md section 3).
pub const SLOTS: u16 = 4096;
/// Slots of one virtual worker, a contiguous range.
pub const SLOTS_OF_VWORKER: u16 = SLOTS / VWORKERS;
/// Longest external id in bytes.
pub const ID_BYTES_MAX: usize = 256;
