//! Keyspaces, slots, shards and positions in their logs.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Slots of each keyspace, fixed for ever: `slot = hash >> 52`.
pub const SLOTS: u16 = 4_096;

/// The two keyspaces, sharded apart because a query visits one user shard and every item shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keyspace {
    /// Profiles, consent, blocks, events, dedupe.
    Users,
    /// Metadata, take-downs, counters, vectors.
    Items,
}

/// One of [`SLOTS`] hash slots of a keyspace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

/// A contiguous range of slots, `first..end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SlotRange {
    /// The first slot.
    pub first: u16,
    /// One past the last slot, at most [`SLOTS`].
    pub end: u16,
}

impl SlotRange {
    /// Whether `slot` lies in the range.
    pub fn contains(self, slot: Slot) -> bool {
        (self.first..self.end).contains(&slot.0)
    }

    /// Whether both ranges share a slot.
    pub fn overlaps(self, other: SlotRange) -> bool {
        self.first < other.end && other.first < self.end
    }
}

/// A shard: one raft group that owns a slot range of one keyspace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShardId {
    /// Which keyspace.
    pub keyspace: Keyspace,
    /// Its number, from 0, never reused.
    pub index: u16,
}

impl ShardId {
    /// The raft group: 0 is the coordinator's, user shards follow from `1 << 16`, item shards from `2 << 16`.
    pub fn group(self) -> u64 {
        let space = match self.keyspace {
            Keyspace::Users => 1u64,
            Keyspace::Items => 2,
        };
        space << 16 | u64::from(self.index)
    }

    /// The inverse of [`ShardId::group`].
    pub fn from_group(group: u64) -> Option<ShardId> {
        let keyspace = match group >> 16 {
            1 => Keyspace::Users,
            2 => Keyspace::Items,
            _ => return None,
        };
        Some(ShardId { keyspace, index: (group & 0xffff) as u16 })
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = match self.keyspace {
            Keyspace::Users => "users",
            Keyspace::Items => "items",
        };
        write!(f, "{space}/{}", self.index)
    }
}

impl FromStr for ShardId {
    type Err = Error;

    fn from_str(text: &str) -> Result<ShardId> {
        let parsed = text.split_once('/').and_then(|(space, index)| {
            let keyspace = match space {
                "users" => Keyspace::Users,
                "items" => Keyspace::Items,
                _ => return None,
            };
            Some(ShardId { keyspace, index: index.parse().ok()? })
        });
        parsed.ok_or_else(|| {
            Error::invalid("shard", "shard must be users/N or items/N, as `docent shards list` shows it")
        })
    }
}

/// A place in a shard's log. The spine of the system: whatever is derived says from which positions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Position {
    /// Whose log.
    pub shard: ShardId,
    /// The log index.
    pub index: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_survives_its_group_number() {
        for keyspace in [Keyspace::Users, Keyspace::Items] {
            for index in [0, 7, u16::MAX] {
                let shard = ShardId { keyspace, index };
                assert_eq!(ShardId::from_group(shard.group()), Some(shard));
                assert_eq!(shard.to_string().parse(), Ok(shard));
            }
        }
        for text in ["", "users", "users/", "users/65536", "items/-1", "nodes/1", "users/1/2"] {
            assert_eq!(text.parse::<ShardId>().unwrap_err().field.as_deref(), Some("shard"));
        }
        assert_eq!(ShardId::from_group(0), None);
        assert_eq!(ShardId::from_group(3 << 16), None);
    }
}
