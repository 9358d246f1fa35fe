//! The vocabulary of Docent: what every crate means by a user, an item, an event, a slot, a shard, a version.
//!
//! Pure data: no I/O, no clocks, no async. Constructors validate, so that a value of these types is always within
//! the limits that the documentation states; nothing downstream checks an id again.
//!
//! | module | owns |
//! |---|---|
//! | [`id`] | external ids (tenant, user, item, event), internal ids (node, replica, cluster) |
//! | [`shard`] | keyspaces, slots, shards, log positions |
//! | [`event`] | events and their limits |
//! | [`user`] | profiles, consent, blocks |
//! | [`item`] | item metadata |
//! | [`catalog`] | what the coordinator replicates: members, shard map, model registry, jobs |
//! | [`training`] | settings of a training job, family by family |
//! | [`schedule`] | training that begins by itself |
//! | [`study`] | search for settings |
//! | [`quality`] | how model versions compare |
//! | [`query`] | queries and answers: coverage, scored items, reasons |
//! | [`placement`] | how replicas come and go |
//! | [`command`] | the commands of the shards' logs |
//! | [`error`] | the one error that crosses process boundaries |
//! | [`codec`] | version byte + postcard, for records and messages |
//! | [`limits`] | every size limit a client can meet |
//! | [`sabotage`] | known bugs for the proof of the checkers; absent from every ordinary build |

pub mod catalog;
pub mod codec;
pub mod command;
pub mod error;
pub mod event;
pub mod id;
pub mod item;
pub mod limits;
pub mod placement;
pub mod quality;
pub mod query;
pub mod sabotage;
pub mod schedule;
pub mod shard;
pub mod study;
pub mod training;
pub mod user;

pub use error::{Error, Kind, Result};
pub use id::{ClusterId, EventId, ItemId, NodeId, ReplicaId, TenantId, UserId};
pub use shard::{Keyspace, Position, SLOTS, ShardId, Slot, SlotRange};
