//! A whole cluster in one process, on simulated time, network and disks: the same seed gives the same run.
//!
//! Nodes and coordinators are the real code, on [turmoil](https://docs.rs/turmoil): one thread, one runtime a host, time that stands still
//! while work is done. What is simulated lies behind the seams of `docent_runtime::Platform`; what of a process still depends on chance
//! (hash keys, generators, addresses) is taken away by [`ground`].
//!
//! | module | what it does |
//! |---|---|
//! | [`ground`] | runs the process again with randomness seeded and clocks standing still |
//! | [`chance`] | the run's own dice |
//! | [`trace`] | what happened, as a digest and as text |
//! | [`log`] | what members say and apply, by host |
//! | [`links`], [`net`] | the network and what it does to bytes |
//! | [`shape`] | the size of a cluster and the settings of its members |
//! | [`member`] | disk, clock and software of a host |
//! | [`cluster`], [`faults`], [`moves`] | all hosts, what can be done to them, and replicas on their way |
//! | [`space`] | the schedule of a seed |
//! | [`http`], [`reading`], [`workload`], [`operator`] | clients |
//! | [`recorder`], [`audit`], [`run`] | one run and its history |
//! | [`judge`] | its verdict |
//! | [`batch`] | many runs, each in a process of its own; shrinking |

pub mod audit;
pub mod batch;
pub mod chance;
pub mod cluster;
pub mod faults;
pub mod ground;
pub mod http;
pub mod judge;
pub mod links;
pub mod log;
pub mod member;
pub mod moves;
pub mod net;
pub mod operator;
pub mod reading;
pub mod recorder;
pub mod run;
pub mod shape;
pub mod space;
pub mod trace;
pub mod workload;
