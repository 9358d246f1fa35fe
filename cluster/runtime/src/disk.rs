//! The disk seam: the few file operations that durability is built from, the real disk behind them, and a fake one
//! ([`MemDisk`]) that loses power, tears writes, refuses to sync and runs full on command.
//!
//! A write is durable when [`DiskFile::sync`] has returned, a name (created, renamed, removed) when
//! [`Disk::sync_dir`] of its directory has. Nothing else is promised, and the fake takes back all the rest.

#[cfg(test)]
mod conformance;
mod mem;
mod real;
mod reserve;
pub mod whole;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use mem::{Crash, MemDisk};
pub use real::RealDisk;
pub use reserve::{Reserve, Room};

/// A place for files. All calls block; async callers go through a thread of their own.
pub trait Disk: Send + Sync + 'static {
    /// Creates `dir` and its parents; the names are synced in their directories. No error if it is there already.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// As [`Disk::create_dir_all`], and nobody but the owner may look into `dir` afterwards, where the disk knows owners.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_private_dir(&self, dir: &Path) -> io::Result<()> {
        self.create_dir_all(dir)
    }

    /// Names of the plain files directly in `dir`, sorted.
    ///
    /// # Errors
    /// What the operating system says; names that are not UTF-8 are `InvalidData`.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a new, empty file for reading and writing. The name is durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing what had the new name. Durable after [`Disk::sync_dir`] of both directories.
    ///
    /// # Errors
    /// `NotFound` if there is no `from`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes the file's name; open handles go on working. Durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes every earlier create, rename and remove in `dir` durable.
    ///
    /// # Errors
    /// What the operating system says. After an error the state of the names is unknown.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock file `path` (created if missing), until the guard is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` if another holder, in this process or another, has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;

    /// Size of the file system that holds `dir`, and what of it this process may still write.
    ///
    /// # Errors
    /// What the operating system says.
    fn space(&self, dir: &Path) -> io::Result<Space>;
}

/// A file system's size and what is left of it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What this process may still write.
    pub free_bytes: u64,
}

/// An open file. Shared freely: every operation names its offset.
pub trait DiskFile: Send + Sync {
    /// Reads at `offset` until `buf` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`; a gap reads as zeros.
    ///
    /// # Errors
    /// `StorageFull` when there is no room; a part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes every earlier write of this file durable (`fdatasync`: data and length). Returns how long the device took,
    /// for telemetry alone; fakes say zero.
    ///
    /// # Errors
    /// What the operating system says. **After an error the file's content is unknown; never retry.**
    fn sync(&self) -> io::Result<Duration>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn size(&self) -> io::Result<u64>;

    /// Takes room on the disk for the first `bytes` of the file, which read as zeros where nothing was written.
    ///
    /// # Errors
    /// `StorageFull` when there is no room; a part may have been taken.
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let zeros = vec![0; 1 << 20];
        let mut at = self.size()?;
        while at < bytes {
            let step = usize::try_from(bytes - at).unwrap_or(zeros.len()).min(zeros.len());
            self.write_at(&zeros[..step], at)?;
            at += step as u64;
        }
        Ok(())
    }
}

/// A held lock; dropping it lets go.
pub trait DiskLock: Send + Sync {}
