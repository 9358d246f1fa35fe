//! The tables on fjall.

use super::{Engine, Frozen, KeyRange, Result, Table, Visit, Write};
use crate::options::StoreOptions;
use crate::{Usage, damage};
use bytes::Bytes;
use fjall::{KeyspaceCreateOptions, PersistMode, Readable};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

#[derive(Clone)]
struct Tables {
    meta: fjall::Keyspace,
    state: fjall::Keyspace,
}

impl Tables {
    fn of(&self, table: Table) -> &fjall::Keyspace {
        match table {
            Table::Meta => &self.meta,
            Table::State => &self.state,
        }
    }
}

/// fjall's handles and where they live.
pub(crate) struct FjallEngine {
    dir: PathBuf,
    database: fjall::Database,
    tables: Tables,
}

impl FjallEngine {
    pub(crate) fn open(dir: &Path, options: &StoreOptions) -> Result<FjallEngine> {
        let database = fjall::Database::builder(dir)
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes_max)
            .worker_threads(options.worker_threads)
            .max_cached_files(Some(options.files_max))
            .open()?;
        let meta = database.keyspace("meta", || KeyspaceCreateOptions::default().max_memtable_size(1 << 20))?;
        let state = database
            .keyspace("state", || KeyspaceCreateOptions::default().max_memtable_size(options.memtable_bytes))?;
        Ok(FjallEngine { dir: dir.to_owned(), database, tables: Tables { meta, state } })
    }
}

impl Engine for FjallEngine {
    fn view(&self) -> Box<dyn Frozen> {
        Box::new(FjallView { snapshot: self.database.snapshot(), tables: self.tables.clone() })
    }

    fn commit(&self, table: Table, writes: Vec<Write>) -> Result<()> {
        let table = self.tables.of(table);
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), writes.len())
            .durability(Some(PersistMode::Buffer));
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(table, key, &value[..]),
                None => batch.remove(table, key),
            }
        }
        batch.commit()
    }

    fn sync(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncAll)
    }

    fn note_damage(&self, reason: &str) {
        damage::note(&self.dir, reason);
    }

    fn usage(&self) -> Result<Usage> {
        Ok(Usage {
            disk_bytes: self.database.disk_space()?,
            memtable_bytes: self.database.write_buffer_size(),
            cache_bytes: self.database.cache_size(),
        })
    }
}

struct FjallView {
    snapshot: fjall::Snapshot,
    tables: Tables,
}

impl Frozen for FjallView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.snapshot.get(self.tables.of(table), key)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn contains(&self, table: Table, key: &[u8]) -> Result<bool> {
        self.snapshot.contains_key(self.tables.of(table), key)
    }

    fn scan(&self, table: Table, range: KeyRange, visit: Visit<'_>) -> Result<()> {
        for guard in self.snapshot.range(self.tables.of(table), range) {
            let (key, value) = guard.into_inner()?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn keys(&self, table: Table, range: KeyRange, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<()> {
        for guard in self.snapshot.range(self.tables.of(table), range) {
            if visit(&guard.key()?).is_break() {
                break;
            }
        }
        Ok(())
    }
}
