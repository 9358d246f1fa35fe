//! The coordinator: what the cluster agrees on, and the loop that takes it to the next step.
//!
//! Three (or one) of them hold the catalog in raft group 0: members, shard map, model registry, jobs. Queries and events never need
//! them; joining, training, activating do. A pure core (`catalog`, `health`, `plan`) decides, a thin shell carries it out.
//!
//! | module | owns |
//! |---|---|
//! | [`catalog`] | the replicated state and its commands; pure |
//! | [`health`] | who spoke when, as the leader saw it; pure |
//! | [`plan`] | catalog + health + moment -> what is due; pure |
//! | [`machine`] | the catalog as raft's state machine, and its file |
//! | [`proposer`] | commands into the log, outcomes out of it |
//! | [`handler`] | what members ask: join, heartbeat, jobs, activation |
//! | [`watching`] | the catalog's watch stream |
//! | `reconcile` | the leader's loop, the others' heartbeat |
//! | [`secret`] | the cluster's secret and the join tokens |
//! | [`settings`] | one coordinator's settings |
//! | `data_dir`, `state_file` | whose directory it is; one value in one file |
//! | [`coordinator`] | the composition of it all |
//!
//! Member ids: coordinators have 1 to 99 (their position in the settings), nodes count up from 101 and are never given twice.

pub mod catalog;
pub mod coordinator;
mod data_dir;
pub mod handler;
pub mod health;
pub mod machine;
mod moves;
pub mod plan;
pub mod proposer;
mod reconcile;
pub mod secret;
pub mod settings;
mod state_file;
pub mod watching;

pub use coordinator::Coordinator;
pub use secret::{Secret, Token};
pub use settings::Settings;
