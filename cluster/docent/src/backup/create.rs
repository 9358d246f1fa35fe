//! A cluster into a directory: written beside, synced, and renamed when it is complete.

use crate::backup::manifest::{self, Manifest, Model, Part};
use crate::backup::{hex, part, sync_dir};
use crate::client::{self, Client, Cluster, Repeat};
use crate::failure::{Failure, Result};
use crate::show::{self, Progress};
use docent_proto::v1;
use docent_types::{Error, Kind};
use futures::{StreamExt, TryStreamExt};
use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Shards at once; a node streams four.
const AT_ONCE: usize = 3;
/// A page is a scan of at most 1 MiB.
const PAGE_WITHIN: Duration = Duration::from_secs(60);
/// A shard is begun anew when its leader goes away under it.
const TRIES: u32 = 5;
/// Before a shard is begun anew: an election takes about two seconds.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// A directory that goes unless it is kept.
struct Partial(Option<PathBuf>);

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            // The failure that brings us here is the one to tell.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Backs up everything into `dir/name`; the backup's directory and its manifest.
pub async fn create(cluster: &Cluster, dir: &Path, name: &str, created_ms: i64) -> Result<(PathBuf, Manifest)> {
    check_name(name)?;
    let io = |error: std::io::Error| Failure::io("use", dir, &error);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let target = dir.join(name);
    if target.exists() {
        let message = format!("{} is there already", target.display());
        return Err(Failure::usage(message).advise("choose another --name; a backup is never overwritten"));
    }
    let call = |mut client: Client| async move {
        client.describe_placement(v1::DescribePlacementRequest { with_key: true }).await
    };
    let placement = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
    let mut partial = Partial(Some(dir.join(format!(".{name}.{}.partial", std::process::id()))));
    let beside = partial.0.clone().unwrap_or_default();
    DirBuilder::new().mode(0o700).create(&beside).map_err(|error| Failure::io("create", &beside, &error))?;

    let progress = Mutex::new(Bytes { progress: Progress::new("backing up", 0), bytes: 0, shards: 0 });
    let (users, items): (Vec<_>, Vec<_>) =
        placement.shards.iter().cloned().partition(|shard| shard.id.starts_with("users/"));
    let mut shards = Vec::new();
    // Items last: an item is there before the first event with it.
    for group in [users, items] {
        let parts = futures::stream::iter(group).map(|shard| one(cluster, &beside, shard, &progress));
        let mut parts: Vec<Part> = parts.buffered(AT_ONCE).try_collect().await?;
        shards.append(&mut parts);
    }
    drop(progress);
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: name.to_owned(),
        cluster_id: placement.cluster_id,
        created_ms,
        placement_key: placement.placement_key,
        placement_proof: placement.placement_proof,
        live_model: placement.live_model.map(model),
        shards,
    };
    write_manifest(&beside, &manifest)?;
    sync_dir(&beside)?;
    std::fs::rename(&beside, &target).map_err(|error| Failure::io("write", &target, &error))?;
    partial.0 = None;
    sync_dir(dir)?;
    Ok((target, manifest))
}

/// A name is one plain component of a path, and no hidden one.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !name.is_empty() && name.len() <= 100 && name.chars().all(is_plain) && !name.starts_with('.') {
        true => Ok(()),
        false => {
            Err(Failure::usage(format!("--name {name:?}: must be 1 to 100 of a-z A-Z 0-9 - _ . and not begin with .")))
        }
    }
}

fn model(model: v1::Model) -> Model {
    let parts: Vec<&v1::ModelPart> = model.parts.iter().chain(&model.global).collect();
    Model {
        version: model.version,
        algorithm: model.settings.as_ref().and_then(|settings| settings.algorithm.clone()).unwrap_or_default(),
        bytes: parts.iter().map(|part| part.bytes).sum(),
        parts: parts.into_iter().map(|part| part.hash.clone()).collect(),
    }
}

fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<()> {
    let (text, _) = manifest.encode()?;
    let hash = format!("{}  {}\n", hex(blake3::hash(text.as_bytes()).as_bytes()), manifest::FILE);
    for (name, text) in [(manifest::FILE, &text), (manifest::HASH_FILE, &hash)] {
        let path = dir.join(name);
        let open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = open.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| Failure::io("write", &path, &error))?;
    }
    Ok(())
}

/// Progress of all shards.
struct Bytes {
    progress: Progress,
    bytes: u64,
    shards: u64,
}

impl Bytes {
    fn add(&mut self, bytes: u64, shards: u64) {
        self.bytes += bytes;
        self.shards += shards;
        let message = format!("{}, {}", show::bytes(self.bytes), show::plural(self.shards, "shard"));
        self.progress.at(self.bytes, message);
    }
}

fn told(progress: &Mutex<Bytes>, bytes: u64, shards: u64) {
    progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(bytes, shards);
}

/// One shard into its file, anew when its leader changes meanwhile.
async fn one(cluster: &Cluster, dir: &Path, shard: v1::Shard, progress: &Mutex<Bytes>) -> Result<Part> {
    let bad = || Failure::failed(format!("the cluster has a shard of an unknown kind: {}", shard.id));
    let file = manifest::file_name(&shard.id).ok_or_else(bad)?;
    let mut tries = 0;
    let (written, end) = loop {
        tries += 1;
        let mut writer = part::Writer::create(&dir.join(&file))?;
        match stream(cluster, &shard.id, &mut writer, progress).await {
            Ok(end) => break (writer.finish()?, end),
            Err(Broken::Stream(error)) if tries < TRIES && may_pass(&error) => {
                show::note(format!("{}: {}; once more", shard.id, error.message));
                tokio::time::sleep(TRY_AGAIN).await; // an election, or a busy node
            }
            Err(Broken::Stream(error)) => {
                return Err(client::failure(error).advise("nothing was kept; create the backup again"));
            }
            Err(Broken::File(failure)) => return Err(failure),
        }
    };
    told(progress, 0, 1);
    Ok(Part {
        shard: shard.id,
        slot_first: shard.slot_first,
        slot_end: shard.slot_end,
        file,
        position: end.position,
        stamp: end.stamp,
        records: end.records,
        pages: written.pages,
        bytes: written.bytes,
        blake3: hex(&written.blake3),
        content: hex(&end.content),
    })
}

fn may_pass(error: &Error) -> bool {
    error.kind.is_retryable() || matches!(error.kind, Kind::Unknown | Kind::DeadlineExceeded)
}

/// Why a shard's stream did not reach its file's end.
enum Broken {
    Stream(Error),
    File(Failure),
}

async fn stream(
    cluster: &Cluster,
    shard: &str,
    writer: &mut part::Writer,
    progress: &Mutex<Bytes>,
) -> Result<v1::BackupEnd, Broken> {
    let call = |mut client: Client| {
        let request = v1::BackupShardRequest { shard: shard.to_owned() };
        async move { client.backup_shard(request).await }
    };
    let mut pages = cluster.call(Repeat::Safe, call).await.map_err(Broken::Stream)?;
    loop {
        let next = tokio::time::timeout(PAGE_WITHIN, pages.message()).await;
        let late = || Error::new(Kind::DeadlineExceeded, format!("no page of shard {shard} came in time"));
        let next = next.map_err(|_| Broken::Stream(late()))?;
        let status = |status| Broken::Stream(docent_proto::convert::error::from_status(&status));
        let short = || Error::new(Kind::Unavailable, format!("the stream of shard {shard} ended before its last page"));
        let page = next.map_err(status)?.ok_or_else(|| Broken::Stream(short()))?;
        writer.page(&page.records).map_err(Broken::File)?;
        told(progress, page.records.len() as u64, 0);
        if let Some(end) = page.end {
            return Ok(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_plain_component() {
        for good in ["monday", "2026-11-22T10-00-00Z", "a.b_c"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "\u{e9}"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
