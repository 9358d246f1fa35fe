//! Real clusters under test: separate processes, real sockets, real disks.
//!
//! | module | owns |
//! |---|---|
//! | [`lab`] | a cluster of processes on loopback: start, kill, pause, restart, clean up |
//! | [`client`] | a client of one node's query port, and the wire's answers |
//! | [`data`] | data sets where they are, the generator where they are not |
//! | [`ledger`] | what was acked, kept by the test itself |

pub mod client;
pub mod data;
pub mod lab;
pub mod ledger;
