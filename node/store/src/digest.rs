//! A shard's state at chosen log indexes: the same on every replica, to be hashed or read.
//!
//! Whoever applies *pins* the state as of an entry: a view of what is committed and the writes of the batch at work up to that entry.
//! That costs a moment; reading every record comes later, on a thread that may block, when somebody asks. A pin holds back the space of
//! what is overwritten meanwhile, so it goes when the log has moved on, asked for or not; who needs it for longer takes it along ([`Pin`]).

use crate::error::Result;
use crate::store::lock;
use crate::view::ShardView;
use bytes::Bytes;
use docent_shard::digest::digest;
use docent_shard::view::{Overlay, View, Visit};
use docent_shard::{Batch, Digest};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Pins and results kept of a shard: as many as askers that overlap.
const KEPT: usize = 4;
/// Entries after which a pin goes.
const PIN_ENTRIES: u64 = 20_000;

/// What is known of the state at one index.
#[derive(Clone)]
enum At {
    Pinned(Arc<Pin>),
    Taken(Digest),
}

/// The state as of one entry. Holds back the space of what is overwritten meanwhile.
pub struct Pin {
    view: Arc<ShardView>,
    batch: Batch,
}

impl Pin {
    fn overlay(&self) -> Overlay<'_> {
        Overlay { base: &*self.view, batch: &self.batch }
    }
}

impl View for Pin {
    fn get(&self, key: &[u8]) -> docent_types::Result<Option<Bytes>> {
        self.overlay().get(key)
    }

    fn contains(&self, key: &[u8]) -> docent_types::Result<bool> {
        self.overlay().contains(key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> docent_types::Result<()> {
        self.overlay().scan(from, to, visit)
    }
}

/// The digests of one shard, newest last.
#[derive(Default)]
pub struct Digests {
    by_index: Mutex<BTreeMap<u64, At>>,
}

impl Digests {
    /// Keeps the state as of log index `index`: `view` with the writes of `batch`.
    pub fn pin(&self, index: u64, view: Arc<ShardView>, batch: Batch) {
        let mut by_index = lock(&self.by_index);
        by_index.insert(index, At::Pinned(Arc::new(Pin { view, batch })));
        while by_index.len() > KEPT {
            by_index.pop_first();
        }
    }

    /// Drops pins that are far behind `applied`.
    pub fn expire(&self, applied: u64) {
        let is_late = |index: &u64| index.saturating_add(PIN_ENTRIES) < applied;
        lock(&self.by_index).retain(|index, at| !(is_late(index) && matches!(at, At::Pinned(_))));
    }

    /// Drops everything: the shard goes.
    pub(crate) fn clear(&self) {
        lock(&self.by_index).clear();
    }

    /// The state at `index`; `None` where it was never seen here or is gone.
    pub fn pinned(&self, index: u64) -> Option<Arc<Pin>> {
        match lock(&self.by_index).get(&index) {
            Some(At::Pinned(pin)) => Some(pin.clone()),
            _ => None,
        }
    }

    /// The digest at `index`, taken now if it was not yet: reads every record. `None` where the state at `index` was never seen here,
    /// is gone, or `is_over` said so before the end.
    ///
    /// # Errors
    /// The store's.
    pub fn take(&self, index: u64, is_over: &dyn Fn() -> bool) -> Result<Option<Digest>> {
        let found = lock(&self.by_index).get(&index).cloned();
        let pin = match found {
            None => return Ok(None),
            Some(At::Taken(digest)) => return Ok(Some(digest)),
            Some(At::Pinned(pin)) => pin,
        };
        let taken = digest(&*pin, is_over).map_err(crate::error::Error::Source)?;
        if let (Some(digest), Some(at)) = (taken, lock(&self.by_index).get_mut(&index)) {
            *at = At::Taken(digest);
        }
        Ok(taken)
    }
}
