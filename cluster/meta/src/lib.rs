//! Small precious metadata of one process: who it is, which replicas it holds, the catalog as it last saw it.
//!
//! sled 0.34 behind four rules (`docs/decisions/0002-sled-and-fjall.md`): one database, under 100,000 keys, values under
//! 64 KiB, and `flush` plus our own sync, because sled's flush alone (`sync_file_range`) does not survive power loss. Larger values are
//! split; every write is one atomic batch and is durable when it returns. For simulations there is a twin without threads
//! ([`Meta::open_twin`]): a map with its image in one file on the injected disk.

mod table;

use docent_runtime::disk::Disk;
use docent_types::codec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use table::{Sled, Table, Twin, Write};

/// Bytes of one stored piece.
const PIECE_BYTES: usize = 32 << 10;
/// Bytes of one value, all its pieces together.
const VALUE_BYTES_MAX: usize = 64 << 20;

/// Why metadata could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database cannot be opened.
    #[error("cannot open metadata in {}: {message}; is another docent running on this directory?", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// What sled said.
        message: String,
    },
    /// Reading or writing failed.
    #[error("metadata in {} failed: {message}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What failed.
        message: String,
    },
    /// A record cannot be decoded, or is newer than this binary.
    #[error("metadata record {key:?}: {source}")]
    Record {
        /// Which.
        key: String,
        /// Why.
        source: docent_types::Error,
    },
    /// A value is over the limit.
    #[error("metadata record {key:?} has {bytes} bytes; at most {VALUE_BYTES_MAX}")]
    TooLarge {
        /// Which.
        key: String,
        /// Its size.
        bytes: usize,
    },
}

/// The metadata of one process. Clones share the database.
#[derive(Clone)]
pub struct Meta {
    table: Arc<dyn Table>,
    path: PathBuf,
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meta").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Meta {
    /// Opens or creates the database in `path`.
    pub fn open(path: &Path) -> Result<Meta, Error> {
        let table = Sled::open(path).map_err(|message| Error::Open { path: path.to_owned(), message })?;
        Ok(Meta { table: Arc::new(table), path: path.to_owned() })
    }

    /// The twin of [`Meta::open`] for simulations and tests: in memory, its durable image in `path` of `disk`.
    pub fn open_twin(disk: Arc<dyn Disk>, path: &Path) -> Result<Meta, Error> {
        let table = Twin::open(disk, path).map_err(|message| Error::Open { path: path.to_owned(), message })?;
        Ok(Meta { table: Arc::new(table), path: path.to_owned() })
    }

    /// The value of `key`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let mut bytes = Vec::new();
        for (_, piece) in self.table.scan(&prefix(key)).map_err(|message| self.io(message))? {
            if bytes.len() + piece.len() > VALUE_BYTES_MAX {
                return Err(Error::TooLarge { key: key.to_owned(), bytes: bytes.len() + piece.len() });
            }
            bytes.extend_from_slice(&piece);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        codec::decode(key, &bytes).map(Some).map_err(|source| Error::Record { key: key.to_owned(), source })
    }

    /// Stores `value` under `key`, atomically; durable when it returns.
    pub fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), Error> {
        let bytes = codec::encode(value);
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(Error::TooLarge { key: key.to_owned(), bytes: bytes.len() });
        }
        let mut batch = self.removal(key)?;
        for (number, piece) in (0u32..).zip(bytes.chunks(PIECE_BYTES)) {
            let mut name = prefix(key);
            name.extend_from_slice(&number.to_be_bytes());
            batch.push((name, Some(piece.to_vec())));
        }
        self.commit(batch)
    }

    /// Removes `key`; durable when it returns.
    pub fn remove(&self, key: &str) -> Result<(), Error> {
        let batch = self.removal(key)?;
        self.commit(batch)
    }

    fn removal(&self, key: &str) -> Result<Vec<Write>, Error> {
        let old = self.table.scan(&prefix(key)).map_err(|message| self.io(message))?;
        Ok(old.into_iter().map(|(name, _)| (name, None)).collect())
    }

    fn commit(&self, batch: Vec<Write>) -> Result<(), Error> {
        self.table.commit(batch).map_err(|message| self.io(message))
    }

    fn io(&self, message: String) -> Error {
        Error::Io { path: self.path.clone(), message }
    }
}

/// `key 0x00`: no key of ours contains a zero byte, so that no key is another's prefix.
fn prefix(key: &str) -> Vec<u8> {
    let mut bytes = key.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_runtime::disk::{Crash, MemDisk};

    /// Opens the metadata again and again: on real files, and on the twin's disk, which loses its power in between.
    fn grounds() -> [Box<dyn Fn() -> Meta>; 2] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), MemDisk::default());
        let twin = move || {
            disk.crash(Crash::DropUnsynced);
            Meta::open_twin(Arc::new(disk.process()), Path::new("/data/meta")).unwrap()
        };
        [Box::new(move || Meta::open(dir.path()).unwrap()), Box::new(twin)]
    }

    #[test]
    fn values_of_any_size_survive_a_reopen() {
        let large: Vec<u32> = (0..200_000).collect();
        for open in grounds() {
            {
                let meta = open();
                meta.put("small", &"a".to_owned()).unwrap();
                meta.put("smaller", &"b".to_owned()).unwrap();
                meta.put("large", &vec![1u32; 500_000]).unwrap();
                meta.put("large", &large).unwrap();
            }
            let meta = open();
            assert_eq!(meta.get::<String>("small").unwrap().as_deref(), Some("a"));
            assert_eq!(meta.get::<Vec<u32>>("large").unwrap().as_ref(), Some(&large));
            meta.remove("small").unwrap();
            assert_eq!(meta.get::<String>("small").unwrap(), None);
            assert_eq!(meta.get::<String>("smaller").unwrap().as_deref(), Some("b"));
        }
    }

    #[test]
    fn a_second_process_on_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Meta::open(dir.path()).unwrap();
        let error = Meta::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another docent"), "{error}");
    }

    #[test]
    fn a_record_that_is_not_ours_is_named() {
        for open in grounds() {
            let meta = open();
            meta.put("key", &1u8).unwrap();
            assert!(meta.get::<String>("key").unwrap_err().to_string().contains("\"key\""));
        }
    }
}
