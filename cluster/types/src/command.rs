//! The commands of the shards' replicated logs and their outcomes.
//!
//! Everything that `apply` needs is in the command: the proposer puts clocks and settings in. A variant is never changed, only added
//! at the end; the codec's version says which variants a binary knows.

use crate::event::{Event, EventOutcome};
use crate::id::{ItemId, TenantId, UserId};
use crate::item::Item;
use crate::shard::ShardId;
use crate::user::{Consent, Profile};
use serde::{Deserialize, Serialize};

/// A command of a user shard's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum UserCommand {
    /// Append events, each at most once per `(user, event_id)`, where the user's consent allows.
    Append {
        /// Whose.
        tenant: TenantId,
        /// In the client's order.
        events: Vec<Event>,
        /// The proposer's clock.
        received_ms: i64,
    },
    /// Create users or replace their attributes.
    PutProfiles {
        /// Whose.
        tenant: TenantId,
        /// At most 10,000.
        profiles: Vec<Profile>,
    },
    /// Set all three flags; creates the user.
    SetConsent {
        /// Whose.
        tenant: TenantId,
        /// Who.
        user_id: UserId,
        /// The flags.
        consent: Consent,
    },
    /// Replace the block list; creates the user.
    SetBlocks {
        /// Whose.
        tenant: TenantId,
        /// Who.
        user_id: UserId,
        /// At most 10,000.
        blocks: Vec<ItemId>,
    },
    /// Erase everything of the user, counts and dedupe included: as if never seen.
    DeleteUser {
        /// Whose.
        tenant: TenantId,
        /// Who.
        user_id: UserId,
    },
    /// Changes nothing: every replica takes a digest of its state as of this entry, for the replicas to be compared.
    Digest,
    /// A part of a backup, into an empty shard.
    Restore(RestorePart),
    /// The end of a backup's parts: from here on the shard is alive.
    RestoreDone(RestoreEnd),
}

/// What `apply` answers to a [`UserCommand`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserOutcome {
    /// One outcome an event, in order.
    Events(Vec<EventOutcome>),
    /// Done.
    Done,
    /// There is no such user; nothing was done.
    NotFound,
    /// To `Restore` and `RestoreDone`.
    Restore(RestoreOutcome),
    /// The shard is being restored from a backup and takes no other writes; nothing was done.
    Restoring,
}

/// A command of an item shard's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ItemCommand {
    /// Create stubs for items that are not there; leaves others alone.
    Ensure {
        /// Whose.
        tenant: TenantId,
        /// At most 10,000.
        item_ids: Vec<ItemId>,
    },
    /// Create items or replace their metadata; leaves take-down and counts alone.
    Put {
        /// Whose.
        tenant: TenantId,
        /// At most 10,000.
        items: Vec<Item>,
    },
    /// Take an item down, or show it again.
    SetTakenDown {
        /// Whose.
        tenant: TenantId,
        /// Which.
        item_id: ItemId,
        /// Down or up.
        is_taken_down: bool,
    },
    /// Remove the item: metadata, take-down and counts. Users' events with it stay; an event with it makes a new stub.
    Delete {
        /// Whose.
        tenant: TenantId,
        /// Which.
        item_id: ItemId,
    },
    /// Absolute counts from a user shard. The newest `at` of each `(item, from)` is kept, so that repeats and reordering do nothing.
    Counts {
        /// Whose.
        tenant: TenantId,
        /// The counting user shard.
        from: ShardId,
        /// Its applied index when it counted.
        at: u64,
        /// Kept events with each item on that shard.
        counts: Vec<(ItemId, u64)>,
    },
    /// As [`UserCommand::Digest`].
    Digest,
    /// As [`UserCommand::Restore`].
    Restore(RestorePart),
    /// As [`UserCommand::RestoreDone`].
    RestoreDone(RestoreEnd),
}

/// What `apply` answers to an [`ItemCommand`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemOutcome {
    /// Done.
    Done,
    /// There is no such item; nothing was done.
    NotFound,
    /// To `Restore` and `RestoreDone`.
    Restore(RestoreOutcome),
    /// The shard is being restored from a backup and takes no other writes; nothing was done.
    Restoring,
}

/// Names a backup: the first bytes of its manifest's hash.
pub type BackupId = [u8; 16];

/// Records of a shard's backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePart {
    /// Of which backup.
    pub backup: BackupId,
    /// From 0, each once and in order; a part that was applied before does nothing.
    pub seq: u64,
    /// Records in key order, as `docent-shard` frames them: at most 1 MiB, or one record. May be empty: the first part of a restore
    /// only closes the shard to every other write.
    pub records: Vec<u8>,
}

/// What a shard has to be when all parts are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreEnd {
    /// Of which backup.
    pub backup: BackupId,
    /// The number of parts.
    pub seq: u64,
    /// The newest stamp that a restored record may have; what is written from now on is stamped above it.
    pub stamp: u64,
    /// How many records of content there have to be.
    pub records: u64,
    /// The digest of the content.
    pub content: [u8; 32],
}

/// What became of a step of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreOutcome {
    /// Applied, now or before: this part is next.
    Next(u64),
    /// The shard is whole, now or before.
    Whole,
    /// Refused: the shard has records that are not of this backup.
    NotEmpty,
    /// Refused: the shard is being restored from another backup.
    OtherBackup,
    /// Refused: this part is next.
    OutOfOrder(u64),
    /// Refused: the record at this place in the part cannot be a record of this shard.
    Damaged(u32),
    /// Refused: the content is not what the backup says; the shard stays closed.
    WrongDigest,
}

impl UserCommand {
    /// The lowest format whose binaries know this command. A new variant has the format that came with it.
    pub fn format(&self) -> u32 {
        match self {
            UserCommand::Append { .. }
            | UserCommand::PutProfiles { .. }
            | UserCommand::SetConsent { .. }
            | UserCommand::SetBlocks { .. }
            | UserCommand::DeleteUser { .. }
            | UserCommand::Digest
            | UserCommand::Restore(_)
            | UserCommand::RestoreDone(_) => 2,
        }
    }
}

impl ItemCommand {
    /// As [`UserCommand::format`].
    pub fn format(&self) -> u32 {
        match self {
            ItemCommand::Ensure { .. }
            | ItemCommand::Put { .. }
            | ItemCommand::SetTakenDown { .. }
            | ItemCommand::Delete { .. }
            | ItemCommand::Counts { .. }
            | ItemCommand::Digest
            | ItemCommand::Restore(_)
            | ItemCommand::RestoreDone(_) => 2,
        }
    }
}
