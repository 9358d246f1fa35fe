//! The materialised state of a node's shards: one database (fjall), every shard a key range of its own.
//!
//! State here is derived: the raft journal is the truth. A commit is atomic (writes and the *applied mark* together) but not
//! durable until [`Store::flush`]; after a crash a shard is where some earlier mark says, and the journal replays from there.
//! A database that is damaged, or that failed a write, is removed at the next start and begun anew: snapshots and journal hold it all.
//! All calls may block on the disk; call them from threads that may.
//!
//! | module | owns |
//! |---|---|
//! | [`options`] | memory and disk limits |
//! | [`store`] | [`Store`]: the database, store ids, flush, garbage of crashed installs |
//! | [`shard`] | [`ShardStore`]: views, commits, installs of one shard |
//! | [`view`] | [`ShardView`]: the `docent-shard` seam over one moment of the database |
//! | [`snapshot`] | [`Snapshot`]: a view as checksummed chunks, and back |
//! | [`digest`] | [`Digests`]: the state at chosen log indexes, hashed or kept ([`Pin`]) |
//! | `engine` | the tables below: fjall, and its twin for simulations |
//! | `damage` | the note that a store is to be begun anew |
//! | [`error`] | what can go wrong |

mod damage;
pub mod digest;
mod engine;
pub mod error;
pub mod options;
pub mod shard;
pub mod snapshot;
pub mod store;
pub mod view;

pub use digest::{Digests, Pin};
pub use error::{Error, Result};
pub use options::StoreOptions;
pub use shard::ShardStore;
pub use snapshot::Snapshot;
pub use store::{Store, Usage};
pub use view::ShardView;
