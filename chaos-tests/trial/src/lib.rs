//! What a trial of a cluster is made of: faults, schedules, histories, and the checkers that judge them.
//!
//! Pure: no clock, no I/O, no threads, no hash order. Two worlds (the simulation and the lab of real processes) and the drills of an
//! operator carry out what is described here, write down what they saw as a [`history::History`], and have it judged by [`check`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`name`] | members, raft groups, positions: what things are called |
//! | [`target`] | whom a fault hits, by name or by the role played when it happens |
//! | [`fault`] | everything that may be done to a cluster, and its text form |
//! | [`schedule`] | faults in time: generated from a seed, printed, replayed, shrunk |
//! | [`world`] | what carries a schedule out, phases, and what came of a fault |
//! | [`scenario`] | a trial as a file that an operator can write |
//! | [`workload`] | what clients do meanwhile, from a seed |
//! | [`matrix`] | every scenario that we owe, and whether it exists |
//! | [`history`] | what was called, answered, done and observed, and its JSON lines |
//! | [`check`] | the judges |

pub mod check;
pub mod fault;
pub mod history;
pub mod matrix;
pub mod name;
pub mod scenario;
pub mod schedule;
pub mod target;
pub mod text;
pub mod workload;
pub mod world;

pub use fault::{Fault, Kind, Layer};
pub use history::History;
pub use name::{Group, Member, Position, Role};
pub use scenario::Scenario;
pub use schedule::{Schedule, Step, Trigger};
pub use target::{Scene, Target};
pub use workload::Workload;
pub use world::{Applied, Phase, World, WorldKind};
