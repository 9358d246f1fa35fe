//! Memory and disk limits of a node's state.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Limits of the one database of a node, shared by all its shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreOptions {
    /// Blocks kept in memory.
    pub cache_bytes: u64,
    /// A write buffer; there are at most five (one active, four on their way to disk) before writes wait.
    pub memtable_bytes: u64,
    /// The database's own journals, from 64 MiB. They are what a start replays: about 2 s of CPU for 128 MiB.
    pub journal_bytes_max: u64,
    /// Threads that write buffers out and compact.
    pub worker_threads: usize,
    /// File descriptors kept open.
    pub files_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            cache_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            journal_bytes_max: 64 << 20,
            worker_threads: 2,
            files_max: 256,
        }
    }
}

impl StoreOptions {
    /// Checks every range; the error names the setting.
    pub fn validate(&self) -> Result<()> {
        for (name, value, min) in [
            ("memtable_bytes", self.memtable_bytes, 1 << 20),
            ("journal_bytes_max", self.journal_bytes_max, 64 << 20),
            ("worker_threads", self.worker_threads as u64, 1),
            ("files_max", self.files_max as u64, 16),
        ] {
            if value < min {
                return Err(Error::Option(format!("store.{name} is {value}; must be at least {min}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_range_is_refused_by_name() {
        assert!(StoreOptions::default().validate().is_ok());
        let error = StoreOptions { journal_bytes_max: 1, ..StoreOptions::default() }.validate().unwrap_err();
        assert!(error.to_string().starts_with("store.journal_bytes_max is 1"), "{error}");
    }
}
