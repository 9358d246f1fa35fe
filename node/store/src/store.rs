//! The one database of a node: which shard has which key range, flushing, garbage.
//!
//! Keyspace `state`: `[store_id u32 BE][key]`, the bare `store_id` holds the applied mark. Keyspace `meta`: `format`, `next`
//! (the next store id) and `shard` + group number -> store id. What no `shard` record names is garbage of an interrupted
//! installation or removal and is deleted when the store is opened.

use crate::damage;
use crate::error::{Error, Result};
use crate::options::StoreOptions;
use crate::shard::{Live, ShardStore};
use crate::view::StoreId;
use docent_runtime::disk::Reserve;
use docent_types::ShardId;
use fjall::{KeyspaceCreateOptions, PersistMode, Readable};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The layout described above.
const FORMAT: u32 = 1;
/// Keys deleted in one batch.
const DELETE_KEYS: usize = 4_096;

const FORMAT_KEY: &[u8] = b"format";
const NEXT_KEY: &[u8] = b"next";
const SHARD_KEYS: &[u8] = b"shard";

/// The materialised state of all shards of a node. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    shards: Arc<Mutex<BTreeMap<ShardId, ShardStore>>>,
    /// One flush at a time: their marks must not overtake each other.
    flushing: Arc<Mutex<()>>,
}

/// How much memory and disk the state takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Tables and journals on disk.
    pub disk_bytes: u64,
    /// Write buffers in memory.
    pub memtable_bytes: u64,
    /// Cached blocks in memory.
    pub cache_bytes: u64,
}

/// fjall's handles and where they live.
pub(crate) struct Database {
    pub(crate) dir: PathBuf,
    pub(crate) fjall: fjall::Database,
    pub(crate) state: fjall::Keyspace,
    meta: fjall::Keyspace,
    /// The next store id, as on disk.
    next: Mutex<u32>,
    /// The first error after which the disk is not believed any more.
    failure: OnceLock<String>,
    reserve: OnceLock<Reserve>,
}

/// A lock whose holders never panic half-way: what they protect is written in one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens or makes the store in `dir`. What is found is made durable first, so that every mark it then reports is. A store that is
    /// damaged, or that failed in its last life, is removed and begun anew: all of it is rebuilt from snapshots and logs.
    pub fn open(dir: impl AsRef<Path>, options: &StoreOptions) -> Result<Store> {
        options.validate()?;
        let dir = dir.as_ref();
        if let Some(reason) = damage::noted(dir) {
            damage::begin_anew(dir, &reason)?;
        }
        match Store::open_as_it_is(dir, options) {
            Err(error @ Error::Corrupt { .. }) => {
                damage::note(dir, &error.to_string());
                damage::begin_anew(dir, &error.to_string())?;
                Store::open_as_it_is(dir, options)
            }
            opened => opened,
        }
    }

    fn open_as_it_is(dir: &Path, options: &StoreOptions) -> Result<Store> {
        let database = Arc::new(Database::open(dir, options)?);
        let shards = Arc::default();
        let store = Store { database, shards, flushing: Arc::default() };
        store.database.sync()?;
        store.collect_garbage()?;
        Ok(store)
    }

    /// From now on a write first waits until it fits: a database that met a full disk takes no more writes.
    pub fn keep_within(&self, reserve: Reserve) {
        // The first one stays.
        let _second = self.database.reserve.set(reserve);
    }

    /// Why the store is not to be used any more, if so: the process has to end, and its next start begins the store anew.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.database.failure.get().map(String::as_str)
    }

    #[cfg(test)]
    pub(crate) fn fail(&self, error: fjall::Error) -> Error {
        self.database.error(error)
    }

    /// The shards with a state on this node.
    pub fn shards(&self) -> Result<Vec<ShardId>> {
        Ok(self.database.shards()?.into_keys().collect())
    }

    /// The state of a shard, empty where there was none. All handles to a shard are one.
    pub fn shard(&self, id: ShardId) -> Result<ShardStore> {
        let mut shards = lock(&self.shards);
        if let Some(shard) = shards.get(&id) {
            return Ok(shard.clone());
        }
        let known = self.database.shards()?.get(&id).copied();
        let store_id = match known {
            Some(store_id) => store_id,
            None => {
                let store_id = self.database.allocate()?;
                self.database.point(id, Some(store_id))?;
                store_id
            }
        };
        let shard = ShardStore::open(self.database.clone(), self.flushing.clone(), id, store_id)?;
        shards.insert(id, shard.clone());
        Ok(shard)
    }

    /// Removes a shard's state for good. Handles to it fail from now on.
    pub fn destroy(&self, id: ShardId) -> Result<()> {
        let mut shards = lock(&self.shards);
        let Some(store_id) = self.database.shards()?.get(&id).copied() else { return Ok(()) };
        let closed = shards.remove(&id);
        let _writing = closed.as_ref().map(ShardStore::close);
        self.database.point(id, None)?;
        self.database.delete_range(store_id)
    }

    /// Makes everything committed so far durable, on every shard.
    pub fn flush(&self) -> Result<()> {
        let shards: Vec<ShardStore> = lock(&self.shards).values().cloned().collect();
        let _flushing = lock(&self.flushing);
        let marks: Vec<Option<Live>> = shards.iter().map(ShardStore::live).collect();
        self.database.sync()?;
        shards.iter().zip(marks).for_each(|(shard, mark)| shard.flushed(mark));
        Ok(())
    }

    /// How much memory and disk the state takes.
    pub fn usage(&self) -> Result<Usage> {
        let fjall = &self.database.fjall;
        Ok(Usage {
            disk_bytes: fjall.disk_space().map_err(|error| self.database.error(error))?,
            memtable_bytes: fjall.write_buffer_size(),
            cache_bytes: fjall.cache_size(),
        })
    }

    /// How many records there are in all, marks included, by a scan. For tests and diagnosis.
    pub fn records(&self) -> Result<usize> {
        let database = &self.database;
        database.fjall.snapshot().len(&database.state).map_err(|error| database.error(error))
    }

    /// Deletes every range that no shard owns.
    fn collect_garbage(&self) -> Result<()> {
        let owned: BTreeSet<StoreId> = self.database.shards()?.into_values().collect();
        let mut next = Some(StoreId(0));
        while let Some(from) = next {
            let range = (Bound::Included(from.key(b"")), Bound::Unbounded);
            let Some(first) = self.database.fjall.snapshot().range(&self.database.state, range).next() else { break };
            let key = first.key().map_err(|error| self.database.error(error))?;
            let id: [u8; 4] = key.get(..4).and_then(|id| id.try_into().ok()).ok_or_else(|| Error::Corrupt {
                what: format!("the state in {}", self.database.dir.display()),
                message: "a key is too short".to_owned(),
            })?;
            let id = StoreId(u32::from_be_bytes(id));
            if !owned.contains(&id) {
                tracing::info!(store_id = id.0, "removing the remains of an interrupted installation or removal");
                self.database.delete_range(id)?;
            }
            next = id.0.checked_add(1).map(StoreId);
        }
        Ok(())
    }
}

impl Database {
    fn open(dir: &Path, options: &StoreOptions) -> Result<Database> {
        let fail = |error| Error::of(dir, error);
        let fjall = fjall::Database::builder(dir)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes_max)
            .worker_threads(options.worker_threads)
            .max_cached_files(Some(options.files_max))
            .open()
            .map_err(fail)?;
        let meta =
            fjall.keyspace("meta", || KeyspaceCreateOptions::default().max_memtable_size(1 << 20)).map_err(fail)?;
        let state = fjall
            .keyspace("state", || KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes))
            .map_err(fail)?;
        let mut database = Database {
            dir: dir.to_owned(),
            fjall,
            state,
            meta,
            next: Mutex::new(0),
            failure: OnceLock::new(),
            reserve: OnceLock::new(),
        };
        match database.number(FORMAT_KEY)? {
            Some(FORMAT) => {}
            Some(found) => {
                let what = format!("the state in {}", dir.display());
                return Err(Error::TooNew { what, found, known: FORMAT });
            }
            None => database.meta.insert(FORMAT_KEY, FORMAT.to_be_bytes()).map_err(fail)?,
        }
        let next = database.number(NEXT_KEY)?.unwrap_or(1);
        database.next = Mutex::new(next);
        Ok(database)
    }

    /// What fjall said; where it means damage, that is noted for the next start.
    pub(crate) fn error(&self, error: fjall::Error) -> Error {
        let error = Error::of(&self.dir, error);
        if error.is_damage() && self.failure.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the state store has failed; it is rebuilt from snapshots and logs at the next start");
            damage::note(&self.dir, &error.to_string());
        }
        error
    }

    /// Waits until `bytes` may be written without filling the disk.
    pub(crate) fn wait_for_room(&self, bytes: u64) -> Result<()> {
        let Some(reserve) = self.reserve.get() else { return Ok(()) };
        reserve.wait_for(bytes).map_err(|error| self.error(fjall::Error::Io(error)))
    }

    /// Returns once everything written so far is on disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.fjall.persist(PersistMode::SyncAll).map_err(|error| self.error(error))
    }

    /// A store id that was never used; durable before it is.
    pub(crate) fn allocate(&self) -> Result<StoreId> {
        let mut next = lock(&self.next);
        let id = StoreId(*next);
        let after = next.checked_add(1).ok_or_else(|| Error::Corrupt {
            what: format!("the state in {}", self.dir.display()),
            message: "all store ids are used up".to_owned(),
        })?;
        self.wait_for_room(0)?;
        self.meta.insert(NEXT_KEY, after.to_be_bytes()).map_err(|error| self.error(error))?;
        self.sync()?;
        *next = after;
        Ok(id)
    }

    /// Makes `store_id` the state of `shard`, durably: the one step that flips an installation.
    pub(crate) fn point(&self, shard: ShardId, store_id: Option<StoreId>) -> Result<()> {
        self.wait_for_room(0)?;
        let key = [SHARD_KEYS, &shard.group().to_be_bytes()].concat();
        let done = match store_id {
            Some(StoreId(id)) => self.meta.insert(key, id.to_be_bytes()),
            None => self.meta.remove(key),
        };
        done.map_err(|error| self.error(error))?;
        self.sync()
    }

    /// Deletes all keys of a range that nobody owns any more.
    pub(crate) fn delete_range(&self, store_id: StoreId) -> Result<()> {
        let mut keys = self.fjall.snapshot().range(&self.state, store_id.range());
        loop {
            let mut batch = self.fjall.batch();
            for guard in keys.by_ref().take(DELETE_KEYS) {
                batch.remove(&self.state, guard.key().map_err(|error| self.error(error))?);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.wait_for_room(batch.len() as u64 * 64)?;
            batch.commit().map_err(|error| self.error(error))?;
        }
    }

    fn shards(&self) -> Result<BTreeMap<ShardId, StoreId>> {
        let broken = || Error::Corrupt {
            what: format!("the shard table in {}", self.dir.display()),
            message: "a record is malformed".to_owned(),
        };
        let mut shards = BTreeMap::new();
        for guard in self.meta.prefix(SHARD_KEYS) {
            let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
            let group: [u8; 8] = key[SHARD_KEYS.len()..].try_into().map_err(|_| broken())?;
            let id: [u8; 4] = value.as_ref().try_into().map_err(|_| broken())?;
            let shard = ShardId::from_group(u64::from_be_bytes(group)).ok_or_else(broken)?;
            shards.insert(shard, StoreId(u32::from_be_bytes(id)));
        }
        Ok(shards)
    }

    fn number(&self, key: &[u8]) -> Result<Option<u32>> {
        let found = self.meta.get(key).map_err(|error| self.error(error))?;
        found
            .map(|value| {
                let bytes: [u8; 4] = value.as_ref().try_into().map_err(|_| Error::Corrupt {
                    what: format!("the state in {}", self.dir.display()),
                    message: format!("record {:?} is malformed", String::from_utf8_lossy(key)),
                })?;
                Ok(u32::from_be_bytes(bytes))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_store_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions::default();
        let store = Store::open(dir.path(), &options).unwrap();
        store.database.meta.insert(FORMAT_KEY, 2u32.to_be_bytes()).unwrap();
        drop(store);
        let error = Store::open(dir.path(), &options).err().unwrap();
        assert!(matches!(error, Error::TooNew { found: 2, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("has format 2"), "{error}");
    }

    #[test]
    fn a_store_id_is_never_used_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = None;
        for _ in 0..3 {
            let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
            let (a, b) = (store.database.allocate().unwrap(), store.database.allocate().unwrap());
            assert!(Some(a) > last && b > a);
            last = Some(b);
        }
    }
}
