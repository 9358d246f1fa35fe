//! Backups: a directory each, with a file a shard and a manifest that names and hashes them all.
//!
//! ```text
//! D/NAME/manifest.json     format, cluster, placement key, layout; of each shard: position, records, bytes, hashes
//! D/NAME/manifest.blake3   the hash of manifest.json: the backup's identity
//! D/NAME/users-0.part ...  raw records of one shard
//! ```
//! Each shard is exactly its state at one position of its log. Across shards there is no common moment: user shards are taken first and
//! item shards after them, so that every event's item is there. Directories have mode 0700 and files 0600: they hold personal data
//! and the placement key.
//!
//! | module | owns |
//! |---|---|
//! | [`manifest`] | the manifest, and its verification against the files |
//! | [`part`] | the file of one shard |
//! | [`create`] | a cluster into a directory |
//! | [`restore`] | a directory into an empty cluster |

pub mod create;
pub mod manifest;
pub mod part;
pub mod restore;

use crate::failure::{Failure, Result};
use std::path::Path;

/// Makes the names in a directory durable.
fn sync_dir(dir: &Path) -> Result<()> {
    let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Failure::io("sync", dir, &error))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The inverse of [`hex`].
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
