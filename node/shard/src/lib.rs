//! The state machines of user shards and item shards, and the one codec of what they keep.
//!
//! Pure: a command, a view of the state and a log index go in, writes, an outcome and [`Effects`] come out. No clock, no
//! settings, no files; whoever applies the same log has the same bytes (`docent-store` keeps them, snapshots carry them).
//!
//! | module | owns |
//! |---|---|
//! | [`view`] | the seam to the store: [`View`], [`Batch`], [`Tx`], the in-memory fake |
//! | [`conformance`] | what every [`View`] must do |
//! | [`key`] | the layout of keys; frozen |
//! | [`record`] | the layout of values; versioned |
//! | [`user`] | [`UserShard`]: profiles, consent, blocks, events, dedupe |
//! | [`counts`] | a user shard's partial counts of each item, and what changed since an index |
//! | [`history`] | reads of a user shard: users, histories, exports |
//! | [`training`] | reads of a user shard: the training input of many users |
//! | [`item`] | [`ItemShard`]: metadata, take-down, counters |
//! | [`digest`] | digests of a state, to compare replicas and backups |
//! | [`restore`] | a state out of a backup |
//! | [`features`] | which events are positives and how much they weigh |

pub mod conformance;
pub mod counts;
pub mod digest;
pub mod features;
pub mod history;
pub mod item;
pub mod key;
pub mod record;
pub mod restore;
pub mod training;
pub mod user;
pub mod view;

pub use digest::Digest;
pub use features::Positives;
pub use history::{History, Positive};
pub use item::ItemShard;
pub use user::UserShard;
pub use view::{Batch, MemView, Tx, View};

use docent_types::command::RestoreOutcome;
use docent_types::item::ItemState;
use docent_types::{ItemId, TenantId, UserId};

/// What one command changed, for caches and indexes outside the state machine. Valid once the batch is committed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// Whose.
    pub tenant: TenantId,
    /// Users whose profile, consent, blocks or events changed, erased ones included; sorted.
    pub users_changed: Vec<UserId>,
    /// Items that are new or have new metadata, as they are now.
    pub items_upserted: Vec<ItemState>,
    /// Items taken down.
    pub items_taken_down: Vec<ItemId>,
    /// Items shown again.
    pub items_restored: Vec<ItemId>,
    /// Items removed.
    pub items_deleted: Vec<ItemId>,
    /// Items whose count of events over all user shards changed, with the new count.
    pub counts_changed: Vec<(ItemId, u64)>,
    /// The state came out of a backup and is whole now: whatever was derived from it starts anew.
    pub is_restored: bool,
}

impl Effects {
    fn of(tenant: TenantId) -> Effects {
        Effects { tenant, ..Effects::default() }
    }

    fn restored(outcome: RestoreOutcome) -> Effects {
        Effects { is_restored: outcome == RestoreOutcome::Whole, ..Effects::default() }
    }
}
