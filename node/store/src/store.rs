//! The one database of a node: which shard has which key range, flushing, garbage.
//!
//! Keyspace `state`: `[store_id u32 BE][key]`, the bare `store_id` holds the applied mark. Keyspace `meta`: `format`, `next`
//! (the next store id) and `shard` + group number -> store id. What no `shard` record names is garbage of an interrupted
//! installation or removal and is deleted when the store is opened.

use crate::damage;
use crate::engine::{Engine, FjallEngine, KeyRange, Table, TwinEngine, Write};
use crate::error::{Error, Result};
use crate::options::StoreOptions;
use crate::shard::{Live, ShardStore};
use crate::view::StoreId;
use bytes::Bytes;
use docent_runtime::disk::{Disk, Reserve};
use docent_types::ShardId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
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

/// The tables, and what is known of them.
pub(crate) struct Database {
    dir: PathBuf,
    pub(crate) engine: Box<dyn Engine>,
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

    /// A store in memory with its durable image in `dir` of `disk`: the twin of [`Store::open`] for simulations and tests. What was committed
    /// and not flushed is gone with it.
    pub fn open_twin(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<Store> {
        let dir = dir.as_ref();
        let engine = TwinEngine::open(disk, dir).map_err(|error| Error::of(dir, error))?;
        Store::over(dir, Box::new(engine))
    }

    fn open_as_it_is(dir: &Path, options: &StoreOptions) -> Result<Store> {
        let engine = FjallEngine::open(dir, options).map_err(|error| Error::of(dir, error))?;
        Store::over(dir, Box::new(engine))
    }

    fn over(dir: &Path, engine: Box<dyn Engine>) -> Result<Store> {
        let database = Arc::new(Database::open(dir, engine)?);
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
        self.database.engine.usage().map_err(|error| self.database.error(error))
    }

    /// How many records there are in all, marks included, by a scan. For tests and diagnosis.
    pub fn records(&self) -> Result<usize> {
        let mut count = 0;
        self.database.keys(Table::State, (Bound::Unbounded, Bound::Unbounded), &mut |_| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// Deletes every range that no shard owns.
    fn collect_garbage(&self) -> Result<()> {
        let owned: BTreeSet<StoreId> = self.database.shards()?.into_values().collect();
        let mut next = Some(StoreId(0));
        while let Some(from) = next {
            let mut first = None;
            self.database.keys(Table::State, (Bound::Included(from.key(b"")), Bound::Unbounded), &mut |key| {
                first = Some(key.to_vec());
                ControlFlow::Break(())
            })?;
            let Some(key) = first else { break };
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
    fn open(dir: &Path, engine: Box<dyn Engine>) -> Result<Database> {
        let mut database = Database {
            dir: dir.to_owned(),
            engine,
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
            None => database.record(FORMAT_KEY, Some(FORMAT))?,
        }
        let next = database.number(NEXT_KEY)?.unwrap_or(1);
        database.next = Mutex::new(next);
        Ok(database)
    }

    /// What the engine said; where it means damage, that is noted for the next start.
    pub(crate) fn error(&self, error: fjall::Error) -> Error {
        let error = Error::of(&self.dir, error);
        if error.is_damage() && self.failure.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the state store has failed; it is rebuilt from snapshots and logs at the next start");
            self.engine.note_damage(&error.to_string());
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
        self.engine.sync().map_err(|error| self.error(error))
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
        self.record(NEXT_KEY, Some(after))?;
        self.sync()?;
        *next = after;
        Ok(id)
    }

    /// Makes `store_id` the state of `shard`, durably: the one step that flips an installation.
    pub(crate) fn point(&self, shard: ShardId, store_id: Option<StoreId>) -> Result<()> {
        self.wait_for_room(0)?;
        let key = [SHARD_KEYS, &shard.group().to_be_bytes()].concat();
        self.record(&key, store_id.map(|StoreId(id)| id))?;
        self.sync()
    }

    /// Commits writes of the state.
    pub(crate) fn commit(&self, writes: Vec<Write>) -> Result<()> {
        self.engine.commit(Table::State, writes).map_err(|error| self.error(error))
    }

    /// Sets or removes a number of the table of shards.
    fn record(&self, key: &[u8], number: Option<u32>) -> Result<()> {
        let value = number.map(|number| Bytes::copy_from_slice(&number.to_be_bytes()));
        self.engine.commit(Table::Meta, vec![(key.to_vec(), value)]).map_err(|error| self.error(error))
    }

    fn keys(&self, table: Table, range: KeyRange, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<()> {
        self.engine.view().keys(table, range, visit).map_err(|error| self.error(error))
    }

    /// Deletes all keys of a range that nobody owns any more.
    pub(crate) fn delete_range(&self, store_id: StoreId) -> Result<()> {
        let (view, (mut from, to)) = (self.engine.view(), store_id.range());
        loop {
            let mut keys = Vec::new();
            let mut visit = |key: &[u8]| {
                keys.push(key.to_vec());
                if keys.len() < DELETE_KEYS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            view.keys(Table::State, (from, to.clone()), &mut visit).map_err(|error| self.error(error))?;
            let Some(last) = keys.last() else { return Ok(()) };
            from = Bound::Excluded(last.clone());
            self.wait_for_room(keys.len() as u64 * 64)?;
            self.commit(keys.into_iter().map(|key| (key, None)).collect())?;
        }
    }

    fn shards(&self) -> Result<BTreeMap<ShardId, StoreId>> {
        let broken = || Error::Corrupt {
            what: format!("the shard table in {}", self.dir.display()),
            message: "a record is malformed".to_owned(),
        };
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let range = (Bound::Included(SHARD_KEYS.to_vec()), Bound::Unbounded);
        let mut visit = |key: &[u8], value: &[u8]| {
            if !key.starts_with(SHARD_KEYS) {
                return ControlFlow::Break(());
            }
            records.push((key[SHARD_KEYS.len()..].to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        self.engine.view().scan(Table::Meta, range, &mut visit).map_err(|error| self.error(error))?;
        let parse = |(group, id): (Vec<u8>, Vec<u8>)| {
            let shard = ShardId::from_group(u64::from_be_bytes(group.try_into().ok()?))?;
            Some((shard, StoreId(u32::from_be_bytes(id.try_into().ok()?))))
        };
        records.into_iter().map(|record| parse(record).ok_or_else(broken)).collect()
    }

    fn number(&self, key: &[u8]) -> Result<Option<u32>> {
        let found = self.engine.view().get(Table::Meta, key).map_err(|error| self.error(error))?;
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
        store.database.record(FORMAT_KEY, Some(2)).unwrap();
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
