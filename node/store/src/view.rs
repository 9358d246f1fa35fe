//! A shard's state at one moment, as its state machine reads it.

use crate::error::Result;
use crate::store::Database;
use bytes::Bytes;
use docent_shard::view::{View, Visit};
use fjall::Readable;
use std::ops::Bound;
use std::sync::Arc;

/// From and to, as fjall takes them.
pub(crate) type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

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
    pub(crate) snapshot: fjall::Snapshot,
    pub(crate) store_id: StoreId,
}

impl ShardView {
    /// The applied mark committed with this state; `None` before the first commit.
    pub fn applied(&self) -> Result<Option<Bytes>> {
        self.read(b"")
    }

    fn read(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.snapshot.get(&self.database.state, self.store_id.key(key));
        Ok(found.map_err(|error| self.database.error(error))?.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Everything, in order, without the mark.
    pub(crate) fn iter(&self) -> fjall::Iter {
        let range = self.store_id.within(b"", None).unwrap_or((Bound::Unbounded, Bound::Unbounded));
        self.snapshot.range(&self.database.state, range)
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
                let found = self.snapshot.contains_key(&self.database.state, self.store_id.key(key));
                found.map_err(|error| self.fail(error))
            }
        }
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> docent_types::Result<()> {
        let Some(range) = self.store_id.within(from, to) else { return Ok(()) };
        for guard in self.snapshot.range(&self.database.state, range) {
            let (key, value) = guard.into_inner().map_err(|error| self.fail(error))?;
            if visit(&key[4..], &value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
