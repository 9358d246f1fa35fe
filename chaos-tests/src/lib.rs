//! Real clusters under test: separate processes, real sockets, real disks.
//!
//! | module | owns |
//! |---|---|
//! | [`lab`] | a cluster of processes, on loopback or each in a network, on a disk and by a clock of its own; every fault of them |
//! | [`client`] | a client of one node's query port, and the wire's answers |
//! | [`data`], [`datasets`], [`lists`] | data sets where they are and by their protocols, the generator where they are not |
//! | [`docs`] | the commands of a document, which tests run |
//! | [`ledger`] | what was acked, kept by the test itself |
//! | [`jobs`] | training jobs as an operator follows them |
//! | [`judge`], [`tuned`] | our metrics beside the independent judge's; the settings that they are measured with |
//! | [`load`], [`cost`], [`spread`] | open-loop load, CPU time by process, percentiles |
//! | [`gateways`], [`traffic`] | the nodes that clients may use now; events and queries through them, every event accounted for |
//! | [`leaders`], [`failover`], [`drain`] | who leads which shard; a node's death, and its planned drain, as clients see them |
//! | [`scenarios`], [`run`], [`workload`] | a scenario on a cluster: phases, clients, watchers, history, verdicts |
//! | [`report`] | a run as a page that a person reads |
//! | [`drill`], [`logs`] | a cluster that an engineer named, as a world; its logs |
//! | [`faults`] | a node's disk: syncs that fail, a file system that runs full, bytes that change |
//! | [`etcd`], [`timers`] | the yardstick beside it, with timers that find a dead leader as late as ours |
//! | [`prove`] | a build with known bugs before the worlds: each must be caught |
#![allow(clippy::disallowed_methods, reason = "the lab drives and measures real processes in real time")]

pub mod client;
pub mod cost;
pub mod data;
pub mod datasets;
pub mod docs;
pub mod drain;
pub mod drill;
pub mod etcd;
pub mod failover;
pub mod faults;
pub mod gateways;
pub mod jobs;
pub mod judge;
pub mod lab;
pub mod leaders;
pub mod ledger;
pub mod lists;
pub mod load;
pub mod logs;
pub mod prove;
pub mod report;
pub mod run;
pub mod scenarios;
pub mod spread;
pub mod timers;
pub mod traffic;
pub mod tuned;
pub mod workload;
