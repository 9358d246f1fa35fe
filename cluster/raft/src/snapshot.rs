//! The file of a group's last snapshot: written beside, synced, renamed; one a replica; always kept once there is one.
//!
//! Format 1: `"docentsn" | version u8 | header length u32 | header | (chunk length u32 | chunk)* | 0 u32 | blake3`.
//! Integers are little-endian; the header is `(group, snapshot meta)` as a [`record`]; the hash covers all before it.
//! The same bytes go over the wire, cut anywhere, so that sender and receiver hold identical files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use docent_runtime::disk::{Disk, DiskFile};
use docent_runtime::sabotage::{self, Bug};

use crate::raft::SnapshotMeta;
use crate::record::malformed;
use crate::{Error, MachineError, SnapshotSource, record};

const MAGIC: &[u8; 8] = b"docentsn";
const VERSION: u8 = 1;
const HASH_BYTES: usize = 32;
/// A header is a membership and two log ids; a file that says more is not ours.
const HEADER_BYTES_MAX: usize = 1 << 20;
/// Larger than any `chunk_bytes` setting, so that a damaged length cannot ask for all memory.
const CHUNK_BYTES_MAX: usize = 64 << 20;
const COPY_BYTES: usize = 1 << 20;
const TEMPORARY: &str = ".tmp";

/// A complete, verified snapshot file.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: u64,
    file: Arc<dyn DiskFile>,
    /// Set while the file has not got its final name; removes the file when dropped.
    temporary: Option<Arc<Temporary>>,
}

struct Temporary {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed (the usual case) or left over; what stays is swept at the next start.
        self.disk.remove(&self.path).ok();
    }
}

/// Where one replica's snapshots live.
pub(crate) struct Snapshots {
    group: u64,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    name: String,
    next_temporary: AtomicU64,
    current: Mutex<Option<Snapshot>>,
}

/// Makes the directory and removes what a crash left half written.
pub(crate) fn prepare(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.create_dir_all(dir)?;
    for name in disk.list(dir)?.iter().filter(|name| name.ends_with(TEMPORARY)) {
        disk.remove(&dir.join(name))?;
    }
    disk.sync_dir(dir)
}

impl Snapshots {
    /// Opens the replica's last snapshot, if there is one, and verifies all of it. A damaged one is removed: the state or the log may
    /// still have what it held, and where they do not the group is quarantined.
    pub(crate) fn open(group: u64, replica: u64, disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Snapshots, Error> {
        let name = format!("{group:016x}-{replica:016x}.snap");
        let current = match disk.open(&dir.join(&name)) {
            Ok(file) => match verify(group, file) {
                Ok(snapshot) => Some(snapshot),
                // Not damaged, but newer: refused by its version.
                Err(error) if is_newer(&*disk.open(&dir.join(&name)).map_err(|error| failed(group, &error))?) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(group, file = %dir.join(&name).display(), %error, "removing a damaged snapshot");
                    let removed = disk.remove(&dir.join(&name)).and_then(|()| disk.sync_dir(&dir));
                    removed.map_err(|error| failed(group, &error))?;
                    None
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(group, &error)),
        };
        let current = Mutex::new(current);
        Ok(Snapshots { group, disk, dir, name, next_temporary: AtomicU64::new(0), current })
    }

    /// The last snapshot.
    pub(crate) fn current(&self) -> Option<Snapshot> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a state machine's view into a new file, without making it the current one. Blocks.
    pub(crate) fn write(&self, source: &mut dyn SnapshotSource, chunk_bytes: usize) -> Result<Snapshot, Error> {
        let (last_log_id, last_membership) = record::decode_applied(source.applied())?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        let header = record::encode(&(self.group, &meta));
        let mut writer = Writer { receiver: self.receive(u64::MAX)?, hash: blake3::Hasher::new() };
        writer.put(MAGIC)?;
        writer.put(&[VERSION])?;
        writer.put_block(&header)?;
        while let Some(chunk) = source.next_chunk(chunk_bytes).map_err(|source| self.machine(source))? {
            if chunk.is_empty() || chunk.len() > CHUNK_BYTES_MAX {
                let message = format!("snapshot chunk of {} bytes, need 1 to {CHUNK_BYTES_MAX}", chunk.len());
                return Err(self.machine(MachineError::corrupt(message)));
            }
            writer.put_block(&chunk)?;
        }
        writer.put(&0_u32.to_le_bytes())?;
        let hash = writer.hash.finalize();
        let mut receiver = writer.receiver;
        receiver.push(hash.as_bytes())?;
        if !sabotage::is(Bug::PurgeBeforeDurable) {
            receiver.file.sync().map_err(|error| failed(self.group, &error))?;
        }
        Ok(Snapshot { meta, bytes: receiver.bytes, file: receiver.file, temporary: Some(receiver.temporary) })
    }

    /// A new file to put a snapshot of at most `bytes_max` into, as it comes from another host.
    pub(crate) fn receive(&self, bytes_max: u64) -> Result<Receiver, Error> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}.{number}{TEMPORARY}", self.name));
        let file = self.disk.create(&path).map_err(|error| failed(self.group, &error))?;
        let temporary = Arc::new(Temporary { disk: Arc::clone(&self.disk), path });
        Ok(Receiver { group: self.group, file, temporary, bytes: 0, bytes_max })
    }

    /// Makes a snapshot the current one, durably, unless a newer one is. Blocks.
    pub(crate) fn publish(&self, snapshot: Snapshot) -> Result<(), Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|old| old.meta.last_log_id >= snapshot.meta.last_log_id) {
            return Ok(());
        }
        let Snapshot { meta, bytes, file, temporary } = match snapshot.temporary {
            Some(_) => snapshot,
            // It has its name elsewhere already, so it belongs to another replica: this one takes a copy.
            None => self.copy(&snapshot)?,
        };
        if let Some(temporary) = temporary {
            let renamed = self.disk.rename(&temporary.path, &self.dir.join(&self.name));
            renamed.and_then(|()| self.disk.sync_dir(&self.dir)).map_err(|error| failed(self.group, &error))?;
        }
        *current = Some(Snapshot { meta, bytes, file, temporary: None });
        Ok(())
    }

    fn copy(&self, snapshot: &Snapshot) -> Result<Snapshot, Error> {
        let mut receiver = self.receive(snapshot.bytes)?;
        while let Some(bytes) = snapshot.read(receiver.bytes, COPY_BYTES).map_err(|error| failed(self.group, &error))? {
            receiver.push(&bytes)?;
        }
        receiver.finish()
    }

    /// Removes the replica's snapshot for good.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.take().is_some() {
            let removed = self.disk.remove(&self.dir.join(&self.name));
            removed.and_then(|()| self.disk.sync_dir(&self.dir)).map_err(|error| failed(self.group, &error))?;
        }
        Ok(())
    }

    fn machine(&self, source: MachineError) -> Error {
        Error::Machine { group: self.group, source }
    }
}

fn failed(group: u64, error: &io::Error) -> Error {
    Error::Storage { group, message: format!("snapshot file: {error}") }
}

/// A snapshot file on its way in.
pub(crate) struct Receiver {
    group: u64,
    file: Arc<dyn DiskFile>,
    temporary: Arc<Temporary>,
    bytes: u64,
    bytes_max: u64,
}

impl Receiver {
    /// Adds bytes. Blocks.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let after = self.bytes.saturating_add(bytes.len() as u64);
        if after > self.bytes_max {
            return Err(malformed("snapshot", format!("more than the {} bytes allowed", self.bytes_max)));
        }
        self.file.write_at(bytes, self.bytes).map_err(|error| failed(self.group, &error))?;
        self.bytes = after;
        Ok(())
    }

    /// Syncs and verifies the whole file. Blocks.
    pub(crate) fn finish(self) -> Result<Snapshot, Error> {
        self.file.sync().map_err(|error| failed(self.group, &error))?;
        let snapshot = verify(self.group, self.file)?;
        Ok(Snapshot { temporary: Some(self.temporary), ..snapshot })
    }
}

struct Writer {
    receiver: Receiver,
    hash: blake3::Hasher,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.receiver.push(bytes)
    }

    fn put_block(&mut self, block: &[u8]) -> Result<(), Error> {
        let length = u32::try_from(block.len()).map_err(|error| malformed("snapshot", error))?;
        self.put(&length.to_le_bytes())?;
        self.put(block)
    }
}

fn is_newer(file: &dyn DiskFile) -> bool {
    let mut start = [0; MAGIC.len() + 1];
    file.read_at(&mut start, 0).is_ok() && start.starts_with(MAGIC) && start[MAGIC.len()] > VERSION
}

/// Walks the whole file: structure, group, hash, nothing behind the end.
fn verify(group: u64, file: Arc<dyn DiskFile>) -> Result<Snapshot, Error> {
    let mut reader = Reader { file: Arc::clone(&file), offset: 0, hash: Some(blake3::Hasher::new()) };
    let header = reader.header()?;
    let (found, meta): (u64, SnapshotMeta) = record::decode("snapshot header", &header)?;
    if found != group {
        return Err(malformed("snapshot", format!("it belongs to group {found}, not {group}")));
    }
    while reader.block(CHUNK_BYTES_MAX)?.is_some() {}
    let hash = reader.hash.take().map(|hasher| hasher.finalize());
    let stored = reader.take(HASH_BYTES)?;
    if hash.is_none_or(|hash| hash.as_bytes() != stored.as_ref()) {
        return Err(malformed("snapshot", "its hash does not match its content"));
    }
    let bytes = file.size().map_err(|error| malformed("snapshot", error))?;
    if bytes != reader.offset {
        return Err(malformed("snapshot", format!("{bytes} bytes where {} were expected", reader.offset)));
    }
    Ok(Snapshot { meta, bytes, file, temporary: None })
}

impl Snapshot {
    /// The chunks, as the state machine gave them. Blocks at each.
    pub(crate) fn chunks(&self) -> Result<Box<dyn Iterator<Item = Result<Bytes, MachineError>> + Send>, Error> {
        let mut reader = Reader { file: Arc::clone(&self.file), offset: 0, hash: None };
        reader.header()?;
        Ok(Box::new(std::iter::from_fn(move || {
            reader.block(CHUNK_BYTES_MAX).map_err(MachineError::corrupt).transpose()
        })))
    }

    /// Raw bytes of the file from `offset`, at most `bytes_max`; `None` at the end. Blocks.
    pub(crate) fn read(&self, offset: u64, bytes_max: usize) -> io::Result<Option<Bytes>> {
        let left = self.bytes.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(bytes_max).min(bytes_max)];
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.file.read_at(&mut bytes, offset)? < bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(bytes.into()))
    }
}

struct Reader {
    file: Arc<dyn DiskFile>,
    offset: u64,
    hash: Option<blake3::Hasher>,
}

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, Error> {
        let mut bytes = vec![0; length];
        let read = self.file.read_at(&mut bytes, self.offset).map_err(|error| malformed("snapshot", error))?;
        if read < length {
            return Err(malformed("snapshot", format!("it ends at byte {}", self.offset + read as u64)));
        }
        self.offset += length as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&bytes);
        }
        Ok(bytes.into())
    }

    fn header(&mut self) -> Result<Bytes, Error> {
        if self.take(MAGIC.len())?.as_ref() != MAGIC {
            return Err(malformed("snapshot", "it does not start as one"));
        }
        let version = self.take(1)?[0];
        if version != VERSION {
            return Err(malformed("snapshot", format!("format version {version}, this binary knows {VERSION}")));
        }
        self.block(HEADER_BYTES_MAX)?.ok_or_else(|| malformed("snapshot", "no header"))
    }

    /// The next block; `None` at the end mark.
    fn block(&mut self, bytes_max: usize) -> Result<Option<Bytes>, Error> {
        let mut length = [0; 4];
        length.copy_from_slice(&self.take(4)?);
        let length = u32::from_le_bytes(length) as usize;
        if length > bytes_max {
            return Err(malformed("snapshot", format!("block of {length} bytes, at most {bytes_max} can be")));
        }
        if length == 0 { Ok(None) } else { self.take(length).map(Some) }
    }
}
