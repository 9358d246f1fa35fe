//! One shard's state: views for reading, atomic commits, installation of a snapshot beside the old state.

use crate::digest::Digests;
use crate::error::{Error, Result};
use crate::snapshot::{Snapshot, Unpacker};
use crate::store::{Database, lock};
use crate::view::{ShardView, StoreId};
use bytes::Bytes;
use docent_shard::Batch;
use docent_types::ShardId;
use std::sync::{Arc, Mutex, MutexGuard};

/// About what a record takes in the database's journal beside its key and value.
const RECORD_BYTES: usize = 64;

/// A shard's state. Cheap to clone; all clones are one shard.
#[derive(Clone)]
pub struct ShardStore {
    inner: Arc<Inner>,
}

struct Inner {
    database: Arc<Database>,
    id: ShardId,
    /// Held by whoever changes the state, while it does.
    writing: Mutex<()>,
    /// Shared with the whole store: one flush at a time.
    flushing: Arc<Mutex<()>>,
    /// `None` once destroyed. Held for moments only, so that a view never waits for a commit.
    live: Mutex<Option<Live>>,
    digests: Digests,
}

/// What is current.
#[derive(Clone)]
pub(crate) struct Live {
    store_id: StoreId,
    applied: Option<Bytes>,
    flushed: Option<Bytes>,
}

impl ShardStore {
    /// Everything found must be durable by now.
    pub(crate) fn open(
        database: Arc<Database>,
        flushing: Arc<Mutex<()>>,
        id: ShardId,
        store_id: StoreId,
    ) -> Result<ShardStore> {
        let view = ShardView { database: database.clone(), frozen: database.engine.view(), store_id };
        let applied = view.applied()?;
        let live = Live { store_id, flushed: applied.clone(), applied };
        let inner = Inner {
            database,
            id,
            writing: Mutex::default(),
            flushing,
            live: Mutex::new(Some(live)),
            digests: Digests::default(),
        };
        Ok(ShardStore { inner: Arc::new(inner) })
    }

    /// Which shard.
    pub fn id(&self) -> ShardId {
        self.inner.id
    }

    /// The state as it is now, whatever is committed or installed later.
    pub fn view(&self) -> Result<ShardView> {
        let live = lock(&self.inner.live);
        let store_id = live.as_ref().ok_or(Error::Destroyed(self.inner.id))?.store_id;
        // Under the lock: an installation deletes the old range only after it changed `live`.
        let frozen = self.inner.database.engine.view();
        Ok(ShardView { database: self.inner.database.clone(), frozen, store_id })
    }

    /// Applies the writes and the opaque mark that says up to where the log is applied, both or neither. Survives the process,
    /// not a power loss: that takes [`ShardStore::flush`].
    pub fn commit(&self, batch: Batch, applied: &[u8]) -> Result<()> {
        let _writing = lock(&self.inner.writing);
        let store_id = self.live().ok_or(Error::Destroyed(self.inner.id))?.store_id;
        self.write(store_id, batch, Some(applied))?;
        if let Some(live) = lock(&self.inner.live).as_mut() {
            live.applied = Some(Bytes::copy_from_slice(applied));
        }
        Ok(())
    }

    /// The mark of the last commit or installation; `None` before the first.
    pub fn applied(&self) -> Option<Bytes> {
        self.live().and_then(|live| live.applied)
    }

    /// A mark whose state survives a power loss; `None` while none does.
    pub fn flushed_mark(&self) -> Option<Bytes> {
        self.live().and_then(|live| live.flushed)
    }

    /// Makes everything committed so far durable.
    pub fn flush(&self) -> Result<()> {
        let _flushing = lock(&self.inner.flushing);
        let mark = self.live();
        if mark.as_ref().is_some_and(|live| live.applied != live.flushed) {
            self.inner.database.sync()?;
            self.flushed(mark);
        }
        Ok(())
    }

    /// Digests of the state at chosen log indexes.
    pub fn digests(&self) -> &Digests {
        &self.inner.digests
    }

    /// The state as it is now, as chunks to send to another replica.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::of(self.view()?)
    }

    /// Replaces the state by that of a snapshot taken at `applied`: built beside the old one and flipped in one durable step. On an
    /// error, and after a crash at any moment, the old state stands.
    pub fn install(&self, applied: &[u8], chunks: impl IntoIterator<Item = docent_types::Result<Bytes>>) -> Result<()> {
        let _writing = lock(&self.inner.writing);
        let old = self.live().ok_or(Error::Destroyed(self.inner.id))?.store_id;
        let new = self.inner.database.allocate()?;
        if let Err(error) = self.build(new, applied, chunks) {
            // Best effort: what stays is deleted at the next start.
            let _ = self.inner.database.delete_range(new);
            return Err(error);
        }
        self.inner.database.point(self.inner.id, Some(new))?;
        let applied = Some(Bytes::copy_from_slice(applied));
        *lock(&self.inner.live) = Some(Live { store_id: new, flushed: applied.clone(), applied });
        tracing::info!(shard = %self.inner.id, store_id = new.0, "installed a snapshot");
        self.inner.database.delete_range(old)
    }

    fn build(
        &self,
        store_id: StoreId,
        applied: &[u8],
        chunks: impl IntoIterator<Item = docent_types::Result<Bytes>>,
    ) -> Result<()> {
        let mut unpacker = Unpacker::default();
        for chunk in chunks {
            let batch = unpacker.unpack(&chunk.map_err(Error::Source)?)?;
            self.write(store_id, batch, None)?;
        }
        unpacker.finish()?;
        self.write(store_id, Batch::default(), Some(applied))?;
        // Before the flip: it must never be the only thing that survives.
        self.inner.database.sync()
    }

    fn write(&self, store_id: StoreId, batch: Batch, applied: Option<&[u8]>) -> Result<()> {
        let database = &self.inner.database;
        let mut writes = Vec::with_capacity(batch.len() + 1);
        let mut bytes = 0;
        for (key, value) in batch {
            bytes += RECORD_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
            writes.push((store_id.key(&key), value));
        }
        writes.extend(applied.map(|applied| (store_id.key(b""), Some(Bytes::copy_from_slice(applied)))));
        database.wait_for_room(bytes as u64)?;
        database.commit(writes)
    }

    pub(crate) fn live(&self) -> Option<Live> {
        lock(&self.inner.live).clone()
    }

    /// Notes that what `mark` says is durable, unless another state was installed meanwhile.
    pub(crate) fn flushed(&self, mark: Option<Live>) {
        if let (Some(live), Some(mark)) = (lock(&self.inner.live).as_mut(), mark)
            && live.store_id == mark.store_id
        {
            live.flushed = mark.applied;
        }
    }

    /// Waits for a running commit, then fails all later calls.
    pub(crate) fn close(&self) -> MutexGuard<'_, ()> {
        let writing = lock(&self.inner.writing);
        *lock(&self.inner.live) = None;
        self.inner.digests.clear();
        writing
    }
}
