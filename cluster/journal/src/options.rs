//! Settings of the journal.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Below this a segment cannot hold its header and a useful record.
const SEGMENT_BYTES_LEAST: u64 = 4 * 1024;
/// Recovery reads a segment at once.
const SEGMENT_BYTES_MOST: u64 = 512 * 1024 * 1024;

/// Settings of one node's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Directory of the segments; created if missing; one process at a time.
    pub dir: PathBuf,
    /// A segment is closed once it is this long (soft: the last batch may pass it). 4 KiB to 512 MiB.
    #[serde(default = "segment_bytes_max")]
    pub segment_bytes_max: u64,
    /// Calls that may wait for the writer; a caller beyond that blocks. At least 1.
    #[serde(default = "queue_records_max")]
    pub queue_records_max: usize,
    /// Payload bytes of recent entries kept in memory, all groups together. Entries still queued are kept beyond it.
    #[serde(default = "cache_bytes_max")]
    pub cache_bytes_max: u64,
}

fn segment_bytes_max() -> u64 {
    64 * 1024 * 1024
}

fn queue_records_max() -> usize {
    4096
}

fn cache_bytes_max() -> u64 {
    64 * 1024 * 1024
}

impl Options {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes_max: segment_bytes_max(),
            queue_records_max: queue_records_max(),
            cache_bytes_max: cache_bytes_max(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if !(SEGMENT_BYTES_LEAST..=SEGMENT_BYTES_MOST).contains(&self.segment_bytes_max) {
            return Err(Error::Setting { name: "segment_bytes_max", need: "4 KiB to 512 MiB" });
        }
        if self.queue_records_max == 0 {
            return Err(Error::Setting { name: "queue_records_max", need: "at least 1" });
        }
        Ok(())
    }
}
