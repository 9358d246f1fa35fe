//! Real clusters under test: separate processes, real sockets, real disks.
//!
//! | module | owns |
//! |---|---|
//! | [`lab`] | a cluster of processes on loopback: start, kill, pause, restart, clean up |
//! | [`client`] | a client of one node's query port, and the wire's answers |
//! | [`data`], [`lists`] | data sets where they are, the generator where they are not |
//! | [`ledger`] | what was acked, kept by the test itself |
//! | [`judge`] | our metrics beside the independent judge's |
//! | [`load`], [`cost`] | open-loop load, CPU time by process |
#![allow(clippy::disallowed_methods, reason = "the lab drives and measures real processes in real time")]

pub mod client;
pub mod cost;
pub mod data;
pub mod judge;
pub mod lab;
pub mod ledger;
pub mod lists;
pub mod load;
