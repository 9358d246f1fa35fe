//! fjall's twin for simulations: ordered maps in memory and one image file on the injected disk. No threads, no clock, no files of its own.
//!
//! It promises less than fjall on purpose: what is committed and not synced is gone with the process, not only with the power. Views are
//! copies on write, and a sync writes everything: right for thousands of records, not for millions.
//!
//! Image: records `[table u8][key length u32 LE][value length u32 LE][key][value]` in order, then `[crc32c u32 LE]` of all of them.

use super::{Engine, Frozen, KeyRange, Result, Table, Visit, Write};
use crate::Usage;
use crate::store::lock;
use bytes::Bytes;
use docent_runtime::disk::{Disk, whole};
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

type Records = BTreeMap<Vec<u8>, Bytes>;

const RECORD_BYTES: usize = 9;
const CHECKSUM_BYTES: usize = 4;

#[derive(Clone, Default)]
struct Tables {
    meta: Arc<Records>,
    state: Arc<Records>,
}

impl Tables {
    fn of(&self, table: Table) -> &Records {
        match table {
            Table::Meta => &self.meta,
            Table::State => &self.state,
        }
    }

    fn of_mut(&mut self, table: Table) -> &mut Records {
        Arc::make_mut(match table {
            Table::Meta => &mut self.meta,
            Table::State => &mut self.state,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, records) in [(0, &self.meta), (1, &self.state)] {
            for (key, value) in records.iter() {
                bytes.push(number);
                bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
                bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
                bytes.extend_from_slice(key);
                bytes.extend_from_slice(value);
            }
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Tables> {
        let (mut rest, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
        if checksum != crc32c::crc32c(rest).to_le_bytes() {
            return None;
        }
        let mut tables = Tables::default();
        while !rest.is_empty() {
            let (header, body) = rest.split_at_checked(RECORD_BYTES)?;
            let table = if header[0] == 0 { Table::Meta } else { Table::State };
            let (key, body) = body.split_at_checked(u32::from_le_bytes(header[1..5].try_into().ok()?) as usize)?;
            let (value, body) = body.split_at_checked(u32::from_le_bytes(header[5..].try_into().ok()?) as usize)?;
            tables.of_mut(table).insert(key.to_vec(), Bytes::copy_from_slice(value));
            rest = body;
        }
        Some(tables)
    }
}

/// See the module.
pub(crate) struct TwinEngine {
    disk: Arc<dyn Disk>,
    image: PathBuf,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    tables: Tables,
    /// Whether the image has everything.
    is_synced: bool,
}

impl TwinEngine {
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<TwinEngine> {
        disk.create_dir_all(dir)?;
        let image = dir.join("image");
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", image.display()));
        let now = match whole::read(disk.as_ref(), &image, u64::MAX)? {
            Some(bytes) => Now { tables: Tables::decode(&bytes).ok_or_else(damaged)?, is_synced: true },
            None => Now::default(),
        };
        Ok(TwinEngine { disk, image, now: Mutex::new(now) })
    }
}

impl Engine for TwinEngine {
    fn view(&self) -> Box<dyn Frozen> {
        Box::new(lock(&self.now).tables.clone())
    }

    fn commit(&self, table: Table, writes: Vec<Write>) -> Result<()> {
        let mut now = lock(&self.now);
        now.is_synced = false;
        let records = now.tables.of_mut(table);
        for (key, value) in writes {
            match value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let mut now = lock(&self.now);
        if !now.is_synced {
            whole::replace(self.disk.as_ref(), &self.image, &now.tables.encode())?;
            now.is_synced = true;
        }
        Ok(())
    }

    fn note_damage(&self, _reason: &str) {
        // The image is replaced whole, so what lies there is always to be believed.
    }

    fn usage(&self) -> Result<Usage> {
        let tables = lock(&self.now).tables.clone();
        let bytes =
            |records: &Records| records.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>();
        Ok(Usage { disk_bytes: 0, memtable_bytes: bytes(&tables.meta) + bytes(&tables.state), cache_bytes: 0 })
    }
}

impl Frozen for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.of(table).get(key).cloned())
    }

    fn contains(&self, table: Table, key: &[u8]) -> Result<bool> {
        Ok(self.of(table).contains_key(key))
    }

    fn scan(&self, table: Table, range: KeyRange, visit: Visit<'_>) -> Result<()> {
        for (key, value) in self.of(table).range(range) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn keys(&self, table: Table, range: KeyRange, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<()> {
        self.scan(table, range, &mut |key, _| visit(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_runtime::disk::{Crash, MemDisk};

    #[test]
    fn a_power_loss_takes_back_what_was_not_synced_and_nothing_else() {
        let disk = MemDisk::default();
        let open = || TwinEngine::open(Arc::new(disk.process()), Path::new("/d/state")).unwrap();
        let write = |engine: &TwinEngine, key: &[u8]| {
            engine.commit(Table::State, vec![(key.to_vec(), Some(Bytes::from_static(b"v")))]).unwrap();
        };
        let engine = open();
        write(&engine, b"kept");
        engine.sync().unwrap();
        write(&engine, b"lost");
        assert!(engine.view().contains(Table::State, b"lost").unwrap());
        disk.crash(Crash::DropUnsynced);
        let view = open().view();
        assert!(view.contains(Table::State, b"kept").unwrap() && !view.contains(Table::State, b"lost").unwrap());
    }

    #[test]
    fn a_damaged_image_is_told() {
        let mut tables = Tables::default();
        tables.of_mut(Table::Meta).insert(b"k".to_vec(), Bytes::from_static(b"value"));
        let good = tables.encode();
        assert_eq!(Tables::decode(&good).unwrap().of(Table::Meta).len(), 1);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Tables::decode(&bad).is_none(), "byte {at}");
        }
        assert!((0..good.len()).all(|length| Tables::decode(&good[..length]).is_none()));
    }
}
