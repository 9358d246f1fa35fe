//! Where this node's worker keeps checkpoints.

use crate::parts::name;
use docent_runtime::Platform;
use docent_runtime::disk::{Disk, whole};
use docent_train::{CheckpointStore, Error};
use docent_types::Kind;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Checkpoints go to a directory of their own, which is emptied when the node starts: the input that they are of is pinned in memory. So nothing
/// here is synced, and what a dying process left half written is never read.
pub struct DiskCheckpoints {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

/// Bytes of the largest state: 16 million rows of 64 values.
const STATE_BYTES_MAX: u64 = 4 << 30;

impl DiskCheckpoints {
    /// Opens or creates the directory and removes what an earlier process left.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(platform: &Platform, dir: &Path) -> docent_types::Result<DiskCheckpoints> {
        let checkpoints = DiskCheckpoints { disk: platform.disk.clone(), dir: dir.to_owned() };
        let opened = checkpoints.disk.create_dir_all(dir).and_then(|()| checkpoints.remove(&|_| false));
        opened.map_err(|error| {
            docent_types::Error::new(Kind::Internal, format!("cannot empty {}: {error}", dir.display()))
        })?;
        Ok(checkpoints)
    }

    fn remove(&self, is_kept: &dyn Fn(&str) -> bool) -> io::Result<()> {
        let names = self.disk.list(&self.dir)?;
        names.iter().filter(|name| !is_kept(name)).try_for_each(|name| self.disk.remove(&self.dir.join(name)))
    }

    fn path(&self, hash: &[u8; 32]) -> PathBuf {
        self.dir.join(name(hash))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        Error::Sink(format!("cannot {what} a checkpoint in {}: {error}", self.dir.display()))
    }
}

impl CheckpointStore for DiskCheckpoints {
    fn put(&self, bytes: &[u8]) -> Result<[u8; 32], Error> {
        let hash = *blake3::hash(bytes).as_bytes();
        let path = self.path(&hash);
        let written = match self.disk.create(&path) {
            Ok(file) => file.write_at(bytes, 0).or_else(|error| self.disk.remove(&path).and(Err(error))),
            // Equal states have one name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        };
        written.map(|()| hash).map_err(|error| self.failed("write", &error))
    }

    fn get(&self, hash: &[u8; 32]) -> Result<Vec<u8>, Error> {
        let read = whole::read(&*self.disk, &self.path(hash), STATE_BYTES_MAX);
        let bytes = read.map_err(|error| self.failed("read", &error))?;
        let bytes = bytes.filter(|bytes| blake3::hash(bytes).as_bytes() == hash);
        bytes.ok_or_else(|| Error::Sink(format!("checkpoint {} is not here as it was written", name(hash))))
    }

    fn retain(&self, is_kept: &dyn Fn(&[u8; 32]) -> bool) -> Result<(), Error> {
        let is_kept = |name: &str| blake3::Hash::from_hex(name).is_ok_and(|hash| is_kept(hash.as_bytes()));
        self.remove(&is_kept).map_err(|error| self.failed("remove", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_runtime::disk::MemDisk;

    #[test]
    fn checkpoints_are_read_as_they_were_written_and_none_outlives_the_process() {
        let platform = Platform { disk: Arc::new(MemDisk::default()), ..Platform::real() };
        let dir = Path::new("/data/checkpoints");
        let checkpoints = DiskCheckpoints::open(&platform, dir).unwrap();
        let (kept, dropped) = (checkpoints.put(b"rows").unwrap(), checkpoints.put(b"old").unwrap());
        assert_eq!(checkpoints.put(b"rows"), Ok(kept), "once more");
        checkpoints.retain(&|hash| *hash == kept).unwrap();
        assert_eq!(checkpoints.get(&kept).unwrap(), b"rows");
        assert!(checkpoints.get(&dropped).is_err());
        platform.disk.open(&checkpoints.path(&kept)).unwrap().write_at(b"r0ws", 0).unwrap();
        assert!(checkpoints.get(&kept).is_err(), "changed on the disk");
        assert!(DiskCheckpoints::open(&platform, dir).unwrap().get(&kept).is_err(), "another process");
        assert_eq!(platform.disk.list(dir).unwrap(), Vec::<String>::new());
    }
}
