//! The seam below the metadata: an ordered table whose batches are atomic and durable. sled, and its twin for simulations.

use docent_runtime::disk::{Disk, whole};
use docent_types::codec;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A record to set, or to remove.
pub(crate) type Write = (Vec<u8>, Option<Vec<u8>>);
/// What failed, in words.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// See the module.
pub(crate) trait Table: Send + Sync {
    /// The records whose keys begin with `prefix`, in order.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Writes all or nothing; durable when it returns.
    fn commit(&self, batch: Vec<Write>) -> Result<()>;
}

/// The product's table.
pub(crate) struct Sled {
    db: sled::Db,
    path: PathBuf,
}

impl Sled {
    pub(crate) fn open(path: &Path) -> Result<Sled> {
        let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(8 << 20);
        Ok(Sled { db: config.open().map_err(text)?, path: path.to_owned() })
    }
}

impl Table for Sled {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let records = self.db.scan_prefix(prefix);
        records.map(|record| record.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(text)).collect()
    }

    fn commit(&self, batch: Vec<Write>) -> Result<()> {
        let mut writes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.db.apply_batch(writes).map_err(text)?;
        self.db.flush().map_err(text)?;
        // sled's flush alone (`sync_file_range`) does not survive power loss.
        File::open(self.path.join("db")).and_then(|file| file.sync_all()).map_err(text)
    }
}

/// The twin: everything in memory, replaced whole on the disk by every batch.
pub(crate) struct Twin {
    disk: Arc<dyn Disk>,
    image: PathBuf,
    records: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Twin {
    pub(crate) fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Twin> {
        disk.create_dir_all(path).map_err(text)?;
        let image = path.join("image");
        let bytes = whole::read(disk.as_ref(), &image, u64::MAX).map_err(text)?;
        let records = bytes.map(|bytes| codec::decode("the metadata", &bytes)).transpose().map_err(text)?;
        Ok(Twin { disk, image, records: Mutex::new(records.unwrap_or_default()) })
    }
}

impl Table for Twin {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let from = records.range(prefix.to_vec()..);
        Ok(from
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: Vec<Write>) -> Result<()> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut after = records.clone();
        for (key, value) in batch {
            match value {
                Some(value) => after.insert(key, value),
                None => after.remove(&key),
            };
        }
        whole::replace(self.disk.as_ref(), &self.image, &codec::encode(&after)).map_err(text)?;
        *records = after;
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
