//! A store that is damaged is not repaired: it is derived, and begun anew. The note that says so outlives the process.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of a note that are read.
const REASON_BYTES: usize = 4_096;

/// Beside the store, not in it: the store goes first.
fn note_of(dir: &Path) -> PathBuf {
    dir.with_extension("damaged")
}

/// Notes that the store in `dir` is not to be believed any more.
pub(crate) fn note(dir: &Path, reason: &str) {
    let written = fs::write(note_of(dir), reason).and_then(|()| fs::File::open(note_of(dir))?.sync_all());
    if let Err(error) = written {
        tracing::warn!(dir = %dir.display(), %error, "cannot note that the store is damaged; its next use may fail again");
    }
}

/// Why the store in `dir` is not to be believed, if so.
pub(crate) fn noted(dir: &Path) -> Option<String> {
    let bytes = fs::read(note_of(dir)).ok()?;
    let reason = bytes.get(..REASON_BYTES).unwrap_or(&bytes);
    Some(String::from_utf8_lossy(reason).into_owned())
}

/// Removes the store; the note goes last, so that a crash in between changes nothing.
pub(crate) fn begin_anew(dir: &Path, reason: &str) -> Result<()> {
    tracing::error!(dir = %dir.display(), reason, "the state store was damaged: it is removed and rebuilt from snapshots and logs");
    metrics::counter!("docent_store_rebuilds_total").increment(1);
    let failed = |error: std::io::Error| Error::Io {
        dir: dir.to_owned(),
        message: format!("cannot remove the damaged store: {error}"),
    };
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(failed)?;
    }
    if let Some(parent) = dir.parent() {
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    match fs::remove_file(note_of(dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Error, Store, StoreOptions};
    use docent_shard::Batch;
    use docent_types::{Keyspace, ShardId};
    use std::fs;

    const SHARD: ShardId = ShardId { keyspace: Keyspace::Users, index: 1 };

    fn written(dir: &std::path::Path) {
        let store = Store::open(dir, &StoreOptions::default()).unwrap();
        let mut batch = Batch::default();
        batch.put(b"key".to_vec(), b"value".to_vec().into());
        store.shard(SHARD).unwrap().commit(batch, b"mark").unwrap();
        store.flush().unwrap();
    }

    #[test]
    fn a_damaged_store_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        written(&state);
        let manifest = state.join("keyspaces").join("1").join("v0");
        fs::write(&manifest, b"noise").unwrap();
        let store = Store::open(&state, &StoreOptions::default()).unwrap();
        assert_eq!((store.shard(SHARD).unwrap().applied(), store.failure()), (None, None));
    }

    #[test]
    fn a_store_that_failed_in_its_last_life_is_begun_anew_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        written(&state);
        {
            let store = Store::open(&state, &StoreOptions::default()).unwrap();
            let error = store.fail(fjall::Error::Poisoned);
            assert!(matches!(error, Error::Poisoned { .. }) && store.failure().is_some());
        }
        assert_eq!(Store::open(&state, &StoreOptions::default()).unwrap().shard(SHARD).unwrap().applied(), None);
        written(&state);
        let store = Store::open(&state, &StoreOptions::default()).unwrap();
        assert_eq!(store.shard(SHARD).unwrap().applied().as_deref(), Some(&b"mark"[..]));
    }
}
