//! Pure placement: key -> slot -> shard, the initial table of replicas, and the fewest moves that keep it even.
//!
//! | module | owns |
//! |---|---|
//! | [`hash`] | the slot of an id, with frozen vectors |
//! | [`initial`] | shards and replicas of a cluster's first placement |
//! | [`moves`] | the fewest changes that bring replicas to rest after a join, a drain or a death |
//! | [`leaders`] | the replica that should lead each shard |
//! | `even` | the network of shards and nodes that both solve |
//! | `flow` | cheapest flow by augmenting paths |

mod even;
mod flow;
pub mod hash;
pub mod initial;
pub mod leaders;
pub mod moves;

pub use hash::SlotHasher;
