//! Integration tests: the walls of the house, and promises proven over real processes.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits by the machine's clock"
)]

mod answers;
mod backup;
mod blend;
mod drills;
mod durability;
mod graph;
mod immediate;
mod input;
mod lab_local;
mod lab_network;
mod lab_power;
mod membership;
mod moves;
mod operations;
mod proof;
mod quorum;
mod readme;
mod recovery;
mod rounds;
mod schedule;
mod storage;
mod tidy;
mod training;
mod up;
mod upgrade;
