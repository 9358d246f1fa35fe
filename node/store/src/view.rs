//! A shard's state at one moment, as its state machine reads it.

use crate::engine::{self, Frozen, KeyRange, Table};
use crate::error::Result;
use crate::store::Database;
use bytes::Bytes;
use docent_shard::view::{View, Visit};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Names a shard's key range; never reused, so that a new state never sees what an old one left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoreId(pub(crate) u32);

impl StoreId {
    /// A state's key on disk. The empty key is the applied mark.
    pub(crate) fn key(self, key: &[u8]) -> Vec<u8> {
        let mut full = Vec::with_capacity(4 + key.len());
        full.extend_from_slice(&self.0.to_be_bytes());
        full.extend_from_slice(key);
        full
    }

    /// All keys of the range.
    pub(crate) fn range(self) -> KeyRange {
        let end = self.0.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded(StoreId(next).key(b"")));
        (Bound::Included(self.key(b"")), end)
    }

    /// Keys of the range from `from` to before `to`, without the mark; `None` where there can be none.
    fn within(self, from: &[u8], to: Option<&[u8]>) -> Option<KeyRange> {
        let from = from.max(b"\0");
        match to {
            Some(to) if from >= to => None,
            Some(to) => Some((Bound::Included(self.key(from)), Bound::Excluded(self.key(to)))),
            None => Some((Bound::Included(self.key(from)), self.range().1)),
        }
    }
}

/// A consistent view of one shard. Cheap to take; holds back the space of what is overwritten meanwhile, so drop it in time.
pub struct ShardView {
    pub(crate) database: Arc<Database>,
    pub(crate) frozen: Box<dyn Frozen>,
    pub(crate) store_id: StoreId,
}

impl ShardView {
    /// The applied mark committed with this state; `None` before the first commit.
    pub fn applied(&self) -> Result<Option<Bytes>> {
        self.read(b"")
    }

    fn read(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.frozen.get(Table::State, &self.store_id.key(key)).map_err(|error| self.database.error(error))
    }

    /// Visits everything behind the key `after` in order, without the mark.
    pub(crate) fn records(&self, after: &[u8], visit: engine::Visit<'_>) -> Result<()> {
        let range = (Bound::Excluded(self.store_id.key(after)), self.store_id.range().1);
        let scanned = self.frozen.scan(Table::State, range, &mut |key, value| visit(&key[4..], value));
        scanned.map_err(|error| self.database.error(error))
    }

    fn fail(&self, error: fjall::Error) -> docent_types::Error {
        self.database.error(error).into()
    }
}

impl View for ShardView {
    fn get(&self, key: &[u8]) -> docent_types::Result<Option<Bytes>> {
        match key.is_empty() {
            true => Ok(None),
            false => Ok(self.read(key)?),
        }
    }

    fn contains(&self, key: &[u8]) -> docent_types::Result<bool> {
        match key.is_empty() {
            true => Ok(false),
            false => {
                let found = self.frozen.contains(Table::State, &self.store_id.key(key));
                found.map_err(|error| self.fail(error))
            }
        }
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> docent_types::Result<()> {
        let Some(range) = self.store_id.within(from, to) else { return Ok(()) };
        let mut outcome = Ok(());
        let mut seen = |key: &[u8], value: &[u8]| match visit(&key[4..], value) {
            Ok(flow) => flow,
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        };
        self.frozen.scan(Table::State, range, &mut seen).map_err(|error| self.fail(error))?;
        outcome
    }
}
