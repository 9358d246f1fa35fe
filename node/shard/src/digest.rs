//! Digests of a shard's state: replicas that applied the same log have the same, and so does a shard restored from a backup.
//!
//! There are two in one pass:
//!
//! * **state**: blake3 of every record as it is stored. Equal on replicas at one log index, whatever they went through.
//! * **content**: what a client put in, independent of the log that carried it. A chain over records in key order,
//!   `next = blake3(previous, key length, key, value)`, so that a restore can compute it part by part. In it are users, block lists,
//!   events and items. Left out is what depends on the lineage: an event's place in the log (its *stamp*); the counts of a user shard,
//!   which follow from its events; the counts of an item shard, which its user shards publish anew; the lineage itself.

use crate::key::{self, Kind};
use crate::record::{Sequence, corrupt, decode_head};
use crate::view::View;
use docent_types::error::Result;
use std::ops::ControlFlow;

/// A digest of a shard's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Records of content.
    pub records: u64,
    /// Of the content.
    pub content: [u8; 32],
    /// Of every stored byte.
    pub state: [u8; 32],
}

/// The content's digest as far as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) records: u64,
    pub(crate) digest: [u8; 32],
}

impl Chain {
    /// Takes in the next record. Keys must ascend.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let parts = key::parts(key).ok_or_else(|| corrupt("a stored key is malformed, or of a newer docent"))?;
        match parts.kind {
            Kind::User | Kind::Blocks | Kind::Item => self.link(key, &[value]),
            Kind::Event => {
                let (version, rest) = decode_head::<Sequence>("event", value)?;
                self.link(key, &[&[version], rest]);
            }
            Kind::Delta | Kind::Count | Kind::Fold | Kind::ItemCounts | Kind::UserLineage | Kind::ItemLineage => {}
        }
        Ok(())
    }

    fn link(&mut self, key: &[u8], value: &[&[u8]]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest).update(&(key.len() as u32).to_le_bytes()).update(key);
        value.iter().for_each(|part| {
            hasher.update(part);
        });
        self.digest = *hasher.finalize().as_bytes();
        self.records += 1;
    }
}

/// Takes a digest record by record.
#[derive(Clone, Debug, Default)]
pub struct Digester {
    content: Chain,
    state: blake3::Hasher,
}

impl Digester {
    /// Takes in the next record. Keys must ascend.
    ///
    /// # Errors
    /// `Corrupt` for a record that cannot be one.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.state.update(&(key.len() as u32).to_le_bytes()).update(key);
        self.state.update(&(value.len() as u32).to_le_bytes()).update(value);
        self.content.add(key, value)
    }

    /// The digest of all records so far.
    pub fn finish(&self) -> Digest {
        let Chain { records, digest } = self.content;
        Digest { records, content: digest, state: *self.state.finalize().as_bytes() }
    }
}

/// The digest of a whole state; `None` where `is_over` said so before the end. Reads every record.
///
/// # Errors
/// The store's; `Corrupt` for a record that cannot be one.
pub fn digest(view: &dyn View, is_over: &dyn Fn() -> bool) -> Result<Option<Digest>> {
    let mut digester = Digester::default();
    let mut broke_off = false;
    view.scan(b"", None, &mut |key, value| {
        broke_off = is_over();
        if broke_off {
            return Ok(ControlFlow::Break(()));
        }
        digester.add(key, value)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((!broke_off).then(|| digester.finish()))
}
