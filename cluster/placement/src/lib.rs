//! Pure placement: key -> slot -> shard, and the initial table of replicas.
//!
//! | module | owns |
//! |---|---|
//! | [`hash`] | the slot of an id, with frozen vectors |
//! | [`initial`] | shards and replicas of a cluster's first placement |

pub mod hash;
pub mod initial;

pub use hash::SlotHasher;
