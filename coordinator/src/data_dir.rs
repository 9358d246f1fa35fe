//! A coordinator's data directory: whose it is, and that only one process has it.

use crate::state_file;
use docent_runtime::disk::{Disk, DiskLock};
use docent_types::{ClusterId, Error, Kind, Result, codec};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// An open data directory; closed when it is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: Box<dyn DiskLock>,
}

/// Whose directory it is, written at the first start.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    cluster: ClusterId,
    coordinator: u64,
}

impl DataDir {
    /// Opens or creates the directory of this coordinator of this cluster, its owner's alone; refuses one in use and one of another owner.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, cluster: ClusterId, coordinator: u64) -> Result<DataDir> {
        let failed = |error: io::Error| refuse(Kind::Invalid, format!("data directory {}: {error}", path.display()));
        disk.create_private_dir(path).map_err(failed)?;
        let lock = disk.lock(&path.join("lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                let message =
                    format!("data directory {} is in use by another process; stop that one first", path.display());
                refuse(Kind::Conflict, message)
            }
            _ => failed(error),
        })?;
        let dir = DataDir { path: path.to_owned(), _lock: lock };
        dir.claim(disk, Owner { cluster, coordinator })?;
        Ok(dir)
    }

    fn claim(&self, disk: &dyn Disk, ours: Owner) -> Result<()> {
        let file = self.path.join("coordinator.bin");
        let theirs = state_file::read::<Owner>(disk, &file, "the data directory's owner")?;
        let shown = self.path.display();
        match theirs {
            None => state_file::write(disk, &file, codec::OLDEST.into(), &ours),
            Some(theirs) if theirs == ours => Ok(()),
            Some(Owner { cluster, .. }) if cluster != ours.cluster => Err(refuse(
                Kind::Conflict,
                format!(
                    "data directory {shown} belongs to cluster {cluster}, the secret file to cluster {}; \
                     give each cluster its own data_dir and secret_file",
                    ours.cluster
                ),
            )),
            Some(Owner { coordinator, .. }) => Err(refuse(
                Kind::Conflict,
                format!(
                    "data directory {shown} belongs to coordinator {coordinator}, this is coordinator {}; \
                     correct id or data_dir",
                    ours.coordinator
                ),
            )),
        }
    }

    pub(crate) fn catalog_file(&self) -> PathBuf {
        self.path.join("catalog.bin")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

fn refuse(kind: Kind, message: String) -> Error {
    Error { field: Some("data_dir".to_owned()), ..Error::new(kind, message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_runtime::disk::RealDisk;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_has_one_owner_and_one_user() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let open = |cluster, id| DataDir::open(&RealDisk, &path, ClusterId(cluster), id).map(drop);
        let held = DataDir::open(&RealDisk, &path, ClusterId(1), 1).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(open(1, 1).unwrap_err().message.contains("in use"));
        drop(held);
        open(1, 1).unwrap();
        let error = open(1, 2).unwrap_err();
        assert!(error.message.contains("coordinator 1, this is coordinator 2"), "{error}");
        let error = open(2, 1).unwrap_err();
        assert!(error.message.contains(&ClusterId(1).to_string()) && error.message.contains(&ClusterId(2).to_string()));
        assert_eq!(error.field.as_deref(), Some("data_dir"));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_refused_by_path() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = DataDir::open(&RealDisk, &path.join("below"), ClusterId(1), 1).err().unwrap();
        assert!(error.message.contains("file/below"), "{error}");
    }
}
