//! The manifest of a backup. Pure but for [`read`] and [`Manifest::verify`], which read the backup's directory.

use crate::backup::{hex, part, unhex};
use crate::failure::{Failure, Result};
use docent_types::command::BackupId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The manifest's file.
pub const FILE: &str = "manifest.json";
/// The file with its hash.
pub const HASH_FILE: &str = "manifest.blake3";
/// The layout that this binary writes, and the highest that it reads.
pub const FORMAT: u32 = 1;
/// A manifest has a few hundred bytes a shard.
const BYTES_MAX: u64 = 16 << 20;

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this layout.
    pub format: u32,
    /// The backup's name.
    pub name: String,
    /// The cluster that it is of.
    pub cluster_id: String,
    /// When it was begun, milliseconds since 1970.
    pub created_ms: i64,
    /// The key of the slot hash, hexadecimal: only a cluster with this key can take the records.
    pub placement_key: String,
    /// By which clusters tell whether they have the same key.
    pub placement_proof: String,
    /// The model that was live. Its parts are not in the backup: train after a restore.
    pub live_model: Option<Model>,
    /// Every shard.
    pub shards: Vec<Part>,
}

/// A model as the registry had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its version.
    pub version: u64,
    /// How it was trained.
    pub algorithm: String,
    /// blake3 of each part, hexadecimal; the last one is of no slots.
    pub parts: Vec<String>,
    /// Bytes of all parts.
    pub bytes: u64,
}

/// The file of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Which shard: `users/3`.
    pub shard: String,
    /// Its slots.
    pub slot_first: u32,
    /// One past the last.
    pub slot_end: u32,
    /// The file's name.
    pub file: String,
    /// The log index that the state is of.
    pub position: u64,
    /// The newest stamp that a record can have.
    pub stamp: u64,
    /// Records of content.
    pub records: u64,
    /// Pages of the file.
    pub pages: u64,
    /// The file's length.
    pub bytes: u64,
    /// blake3 of the file, hexadecimal.
    pub blake3: String,
    /// The digest of the content, as `docent verify` tells it.
    pub content: String,
}

impl Part {
    /// Whether it is of a user shard.
    pub fn is_users(&self) -> bool {
        self.shard.starts_with("users/")
    }
}

impl Manifest {
    /// User and item shards.
    pub fn shard_counts(&self) -> (usize, usize) {
        let users = self.shards.iter().filter(|part| part.is_users()).count();
        (users, self.shards.len() - users)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|part| part.bytes).sum()
    }

    /// Records of content of all shards.
    pub fn records(&self) -> u64 {
        self.shards.iter().map(|part| part.records).sum()
    }

    /// The text of `manifest.json` and the backup's identity.
    pub fn encode(&self) -> Result<(String, BackupId)> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Failure::failed(error.to_string()))?;
        let text = format!("{text}\n");
        let id = identity(text.as_bytes());
        Ok((text, id))
    }

    /// Checks what serde cannot; the failure names the field.
    fn check(&self, path: &Path) -> Result<()> {
        let bad = |what: String| Err(damaged(path, &what));
        if unhex::<16>(&self.placement_key).is_none() {
            return bad("its placement_key is not 32 hexadecimal digits".to_owned());
        }
        let mut shards = BTreeSet::new();
        for part in &self.shards {
            let name = file_name(&part.shard);
            if name.as_deref() != Some(part.file.as_str()) || !shards.insert(&part.shard) {
                return bad(format!("shard {:?} is named twice or has the wrong file", part.shard));
            }
            if unhex::<32>(&part.content).is_none() || unhex::<32>(&part.blake3).is_none() {
                return bad(format!("a hash of shard {} is not 64 hexadecimal digits", part.shard));
            }
        }
        match shards.is_empty() {
            true => bad("it names no shard".to_owned()),
            false => Ok(()),
        }
    }

    /// Reads every file and compares it with what is said here; the failure names the file. `progress` is told the bytes read.
    pub fn verify(&self, dir: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.shards.iter().try_for_each(|part| part::verify(dir, part, progress))
    }
}

/// The file of a shard, by its name; `None` where that is no shard's.
pub fn file_name(shard: &str) -> Option<String> {
    let shard = docent_proto::convert::shard_id(shard).ok()?;
    Some(format!("{}.part", shard.to_string().replace('/', "-")))
}

fn identity(manifest: &[u8]) -> BackupId {
    let mut id = BackupId::default();
    id.copy_from_slice(&blake3::hash(manifest).as_bytes()[..16]);
    id
}

fn damaged(path: &Path, what: &str) -> Failure {
    Failure::failed(format!("{} is damaged: {what}", path.display())).advise("use another backup; nothing was sent")
}

/// The one backup in `dir`: it is the backup, or a directory that holds exactly one.
pub fn locate(dir: &Path) -> Result<PathBuf> {
    if dir.join(FILE).is_file() {
        return Ok(dir.to_owned());
    }
    let found = all(dir)?;
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::usage(format!("{} holds no backup (no {FILE})", dir.display()))),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            let message = format!("{} holds {} backups", dir.display(), several.len());
            Err(Failure::usage(message).advise(format!("name one: {}", names.join(", "))))
        }
    }
}

/// The backups in `dir`, by name; itself where it is one.
pub fn all(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.join(FILE).is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).map_err(|error| Failure::io("read", dir, &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::io("read", dir, &error))?;
        // What is being written has a dot before its name.
        if !entry.file_name().to_string_lossy().starts_with('.') && entry.path().join(FILE).is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The manifest of the backup in `dir`, as its hash says it has to be.
pub fn read(dir: &Path) -> Result<(Manifest, BackupId)> {
    let path = dir.join(FILE);
    let bytes = bounded(&path)?;
    let hash_path = dir.join(HASH_FILE);
    let expected = bounded(&hash_path)?;
    let expected = String::from_utf8_lossy(&expected);
    let found = hex(blake3::hash(&bytes).as_bytes());
    if expected.split_whitespace().next() != Some(found.as_str()) {
        return Err(damaged(&path, &format!("its hash is not the one in {HASH_FILE}")));
    }
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, &error.to_string()))?;
    if head.format != FORMAT {
        let message = format!("{} has format {}; this docent reads {FORMAT}", path.display(), head.format);
        return Err(Failure::usage(message).advise("run a newer docent"));
    }
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, &error.to_string()))?;
    manifest.check(&path)?;
    Ok((manifest, identity(&bytes)))
}

fn bounded(path: &Path) -> Result<Vec<u8>> {
    let io = |error: std::io::Error| Failure::io("read", path, &error).advise("use another backup; nothing was sent");
    if std::fs::metadata(path).map_err(io)?.len() > BYTES_MAX {
        return Err(damaged(path, "it is too large"));
    }
    std::fs::read(path).map_err(io)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A manifest of one empty shard.
    pub(crate) fn sample() -> Manifest {
        let shard = Part {
            shard: "users/0".into(),
            slot_first: 0,
            slot_end: 4_096,
            file: "users-0.part".into(),
            position: 7,
            stamp: 7,
            records: 0,
            pages: 0,
            bytes: 0,
            blake3: "0".repeat(64),
            content: "0".repeat(64),
        };
        Manifest {
            format: FORMAT,
            name: "monday".into(),
            cluster_id: "c".into(),
            created_ms: 1,
            placement_key: "00".repeat(16),
            placement_proof: "p".into(),
            live_model: None,
            shards: vec![shard],
        }
    }

    fn write(dir: &Path, manifest: &Manifest) -> BackupId {
        let (text, id) = manifest.encode().unwrap();
        std::fs::write(dir.join(HASH_FILE), hex(blake3::hash(text.as_bytes()).as_bytes())).unwrap();
        std::fs::write(dir.join(FILE), text).unwrap();
        id
    }

    #[test]
    fn a_manifest_is_read_back_and_an_altered_one_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = sample();
        let id = write(dir.path(), &manifest);
        assert_eq!(read(dir.path()).unwrap(), (manifest.clone(), id));
        assert_eq!(locate(dir.path()).unwrap(), dir.path());
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"position\": 7", "\"position\": 8")).unwrap();
        let refused = read(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("manifest.json is damaged") && refused.contains("manifest.blake3"), "{refused}");
        write(dir.path(), &Manifest { format: FORMAT + 1, ..manifest.clone() });
        assert!(read(dir.path()).unwrap_err().to_string().contains("has format 2"));
        let mut escaping = manifest;
        escaping.shards[0].file = "../secret".into();
        write(dir.path(), &escaping);
        assert!(read(dir.path()).unwrap_err().to_string().contains("wrong file"));
    }

    #[test]
    fn one_backup_of_several_has_to_be_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(locate(dir.path()).unwrap_err().to_string().contains("holds no backup"));
        for name in ["b", "a", ".c.partial"] {
            let backup = dir.path().join(name);
            std::fs::create_dir(&backup).unwrap();
            write(&backup, &sample());
        }
        assert_eq!(all(dir.path()).unwrap(), [dir.path().join("a"), dir.path().join("b")]);
        assert!(locate(dir.path()).unwrap_err().to_string().contains("holds 2 backups"));
    }
}
