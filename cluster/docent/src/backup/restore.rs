//! A directory into an empty cluster: every file is verified and every shard asked before the first record is sent.

use crate::backup::manifest::{Manifest, Part};
use crate::backup::{part, unhex};
use crate::client::{self, Client, Cluster, Repeat};
use crate::failure::{Failure, Result};
use crate::show::{self, Progress};
use docent_proto::v1;
use docent_types::command::BackupId;
use docent_types::{Error, Kind};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Shards at once.
const AT_ONCE: usize = 3;
/// How long a step is tried again while the cluster does not take it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(300);

/// What a restore did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The cluster is whole now.
    Now,
    /// It was before; nothing was sent.
    Before,
}

/// Where each shard of the target stands.
type Standings = BTreeMap<String, v1::Standing>;

/// A restore under way.
struct Restore<'a> {
    cluster: &'a Cluster,
    dir: &'a Path,
    backup: BackupId,
    progress: Mutex<(Progress, u64)>,
}

/// Restores the backup in `dir`, or goes on with a restore that was interrupted.
pub async fn restore(cluster: &Cluster, dir: &Path, manifest: &Manifest, backup: BackupId) -> Result<Restored> {
    let mut progress = Progress::new("verifying", manifest.bytes());
    let mut read = 0;
    manifest.verify(dir, &mut |bytes| {
        read += bytes;
        progress.at(read, show::bytes(read));
    })?;
    drop(progress);
    check_target(cluster, manifest).await?;
    let standings = standings(cluster, manifest).await?;
    check_empty(manifest, backup, &standings)?;
    if standings.values().all(|standing| standing.standing == "restored") {
        return Ok(Restored::Before);
    }
    let progress = Mutex::new((Progress::new("restoring", manifest.bytes()), 0));
    let restore = Restore { cluster, dir, backup, progress };
    // Every shard is closed before the first record: a write to the others would see half a cluster.
    for part in &manifest.shards {
        let is_begun = standings.get(&part.shard).is_some_and(|standing| *standing.backup == backup);
        if !is_begun {
            restore.step(&part.shard, 0, Vec::new(), None).await?;
        }
    }
    show::note("every file is verified and every shard is closed to other writes: sending");
    // Items first: user shards publish their items' counts as soon as they are whole.
    let (users, items): (Vec<&Part>, Vec<&Part>) = manifest.shards.iter().partition(|part| part.is_users());
    for group in [items, users] {
        let shards = futures::stream::iter(group).map(|part| restore.shard(part, standings.get(&part.shard)));
        shards.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    Ok(Restored::Now)
}

/// The target must have the backup's placement key and layout.
async fn check_target(cluster: &Cluster, manifest: &Manifest) -> Result<()> {
    let call = |mut client: Client| async move {
        client.describe_placement(v1::DescribePlacementRequest { with_key: false }).await
    };
    let target = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
    let advice = "start a new cluster with what `docent backup show DIR --settings` prints in its coordinators' settings, or a local \
                  one with `docent up --from-backup DIR`";
    if target.placement_proof != manifest.placement_proof {
        return Err(Failure::failed("the cluster has another placement key than the backup").advise(advice));
    }
    let of_target: BTreeMap<&str, (u32, u32)> =
        target.shards.iter().map(|shard| (shard.id.as_str(), (shard.slot_first, shard.slot_end))).collect();
    let of_backup: BTreeMap<&str, (u32, u32)> =
        manifest.shards.iter().map(|part| (part.shard.as_str(), (part.slot_first, part.slot_end))).collect();
    if of_target != of_backup {
        let (users, items) = manifest.shard_counts();
        let message = format!(
            "the cluster's {} shards are not the backup's: {users} of users and {items} of items",
            target.shards.len()
        );
        return Err(Failure::failed(message).advise(advice));
    }
    Ok(())
}

async fn standings(cluster: &Cluster, manifest: &Manifest) -> Result<Standings> {
    let mut standings = Standings::new();
    for part in &manifest.shards {
        let call = |mut client: Client| {
            let request = v1::GetStandingRequest { shard: part.shard.clone() };
            async move { client.get_standing(request).await }
        };
        let standing = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
        standings.insert(part.shard.clone(), standing);
    }
    Ok(standings)
}

/// A restore never overwrites.
fn check_empty(manifest: &Manifest, backup: BackupId, standings: &Standings) -> Result<()> {
    let advice = "a restore never overwrites: start a new, empty cluster for it";
    for part in &manifest.shards {
        let Some(standing) = standings.get(&part.shard) else { continue };
        let is_ours = *standing.backup == backup;
        let why = match standing.standing.as_str() {
            "empty" => continue,
            "restoring" | "restored" if is_ours => continue,
            // Closed, with nothing put in yet: the shard decides.
            "restoring" if standing.next <= 1 => continue,
            "restoring" => "is being restored from another backup",
            "restored" => "was restored from another backup",
            _ => "has data of its own",
        };
        let message = format!("the cluster is not empty: shard {} {why}; nothing was sent", part.shard);
        return Err(Failure::failed(message).advise(advice));
    }
    Ok(())
}

impl Restore<'_> {
    fn passed(&self, bytes: u64) {
        let mut progress = self.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        progress.1 += bytes;
        let at = progress.1;
        progress.0.at(at, show::bytes(at));
    }

    /// All of one shard, from where it stands.
    async fn shard(&self, part: &Part, standing: Option<&v1::Standing>) -> Result<()> {
        let standing = standing.cloned().unwrap_or_default();
        let is_ours = *standing.backup == self.backup;
        if standing.standing == "restored" && is_ours {
            self.passed(part.bytes);
            return Ok(());
        }
        // Part 0 closed the shard; page n of the file is part n + 1.
        let mut next = if is_ours { standing.next.max(1) } else { 1 };
        let mut reader = part::Reader::open(&self.dir.join(&part.file))?;
        for _ in 1..next {
            reader.skip()?;
        }
        while let Some(records) = reader.page()? {
            let bytes = records.len() as u64;
            self.step(&part.shard, next, records, None).await?;
            next += 1;
            self.passed(bytes);
        }
        let content = unhex::<32>(&part.content).unwrap_or_default().to_vec().into();
        let end = v1::BackupEnd { position: part.position, stamp: part.stamp, records: part.records, content };
        self.step(&part.shard, next, Vec::new(), Some(end)).await
    }

    /// One step, until the cluster takes it: repeats do nothing.
    async fn step(&self, shard: &str, seq: u64, records: Vec<u8>, end: Option<v1::BackupEnd>) -> Result<()> {
        let request = v1::RestoreShardRequest {
            shard: shard.to_owned(),
            backup: self.backup.to_vec().into(),
            seq,
            records: records.into(),
            end,
        };
        let until = Instant::now() + PATIENCE;
        loop {
            let call = |mut client: Client| {
                let request = request.clone();
                async move { client.restore_shard(request).await }
            };
            match self.cluster.call(Repeat::Safe, call).await {
                Ok(_) => return Ok(()),
                Err(error) if may_pass(&error) && Instant::now() < until => {
                    tokio::time::sleep(TRY_AGAIN).await; // an election, or a busy node
                }
                Err(error) => {
                    let advice =
                        "shards that are not whole stay closed; run the same restore again to go on where it stopped";
                    let failure = client::failure(error);
                    return Err(if failure.error.kind == Kind::Corrupt { failure } else { failure.advise(advice) });
                }
            }
        }
    }
}

fn may_pass(error: &Error) -> bool {
    error.kind.is_retryable() || matches!(error.kind, Kind::Unknown | Kind::DeadlineExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::tests::sample;

    #[test]
    fn only_an_empty_cluster_or_one_of_the_same_restore_is_taken() {
        let ours: BackupId = [1; 16];
        let check = |name: &str, backup: BackupId, next: u64| {
            let standing = v1::Standing { standing: name.to_owned(), backup: backup.to_vec().into(), next };
            let standings = Standings::from([("users/0".to_owned(), standing)]);
            check_empty(&sample(), ours, &standings).map_err(|failure| failure.to_string())
        };
        for (name, backup, next) in
            [("empty", [0; 16], 0), ("restoring", ours, 9), ("restored", ours, 0), ("restoring", [2; 16], 1)]
        {
            assert!(check(name, backup, next).is_ok(), "{name}");
        }
        for (name, backup, next, why) in [
            ("live", [0; 16], 0, "users/0 has data of its own"),
            ("restored", [2; 16], 0, "from another backup"),
            ("restoring", [2; 16], 2, "from another backup"),
        ] {
            let refused = check(name, backup, next).unwrap_err();
            assert!(refused.contains(why) && refused.contains("never overwrites"), "{refused}");
        }
    }
}
