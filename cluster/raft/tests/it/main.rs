//! Groups of real replicas: real journals, an in-process network with partitions, a machine that can lose power.

mod cluster;
mod durability;
mod leadership;
mod limits;
mod machine;
mod membership;
mod network;
mod replication;
mod snapshots;
