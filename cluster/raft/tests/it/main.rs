//! Groups of real replicas: real journals, an in-process network with partitions, a machine that can lose power.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

mod cluster;
mod durability;
mod freshness;
mod leadership;
mod limits;
mod machine;
mod membership;
mod network;
mod replication;
mod snapshots;
