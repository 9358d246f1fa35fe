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
