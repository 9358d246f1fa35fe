//! `docent backup create|list|show|restore`.

use crate::backup::restore::Restored;
use crate::backup::{create, hex, manifest, restore};
use crate::cli::Shared;
use crate::failure::{Failure, Result};
use crate::show;
use docent_runtime::{Clock, SystemClock};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Backups in directories: each shard exact at a position of its own log. Models are not in them: train after a restore.
#[derive(Debug, clap::Subcommand)]
pub enum Backup {
    /// Back up every shard into DIR/NAME. User data and the placement key are in it: keep it as you keep the cluster
    Create {
        /// Where backups are kept; created with mode 0700
        dir: PathBuf,
        /// The backup's name [default: the time in UTC]
        #[arg(long)]
        name: Option<String>,
    },
    /// Verify every backup in DIR against its manifest and list them
    List {
        /// Where backups are kept, or one backup
        dir: PathBuf,
    },
    /// Show a backup's manifest
    Show {
        /// The backup
        dir: PathBuf,
        /// Print the settings of the coordinators that a cluster for this backup needs
        #[arg(long)]
        settings: bool,
    },
    /// Restore into a new, empty cluster of any number of nodes with the backup's placement key and shards. Run it again after an
    /// interruption: it goes on. Erasures and opt-outs made after the backup are not in it: make them again
    Restore {
        /// The backup
        dir: PathBuf,
    },
}

/// Runs a command on backups.
pub async fn run(shared: &Shared, command: &Backup) -> Result<()> {
    match command {
        Backup::Create { dir, name } => create(shared, dir, name.as_deref()).await,
        Backup::List { dir } => list(shared, dir),
        Backup::Show { dir, settings } => show_one(dir, *settings),
        Backup::Restore { dir } => restore(shared, dir).await,
    }
}

async fn create(shared: &Shared, dir: &Path, name: Option<&str>) -> Result<()> {
    let cluster = shared.cluster()?;
    let now_ms = SystemClock::default().now_ms();
    let name = name.map_or_else(|| show::time(now_ms).replace(':', "-"), str::to_owned);
    let (path, manifest) = create::create(&cluster, dir, &name, now_ms).await?;
    match shared.is_json() {
        true => show::json(&describe(&path, &manifest, None)),
        false => {
            show::say(format!(
                "backed up {} of {} into {} ({})",
                show::plural(manifest.records(), "record"),
                show::plural(manifest.shards.len() as u64, "shard"),
                path.display(),
                show::bytes(manifest.bytes())
            ));
            if let Some(model) = &manifest.live_model {
                show::note(format!("model version {} is not in it: train after a restore", model.version));
            }
        }
    }
    Ok(())
}

fn describe(path: &Path, manifest: &manifest::Manifest, damage: Option<&Failure>) -> Value {
    let parts = manifest.shards.iter().map(|part| {
        json!({ "shard": part.shard, "position": part.position, "records": part.records, "bytes": part.bytes, "digest": part.content })
    });
    json!({
        "path": path.display().to_string(), "name": manifest.name, "cluster_id": manifest.cluster_id,
        "created_ms": manifest.created_ms, "records": manifest.records(), "bytes": manifest.bytes(),
        "live_model": manifest.live_model.as_ref().map(|model| model.version),
        "shards": parts.collect::<Vec<_>>(), "error": damage.map(ToString::to_string),
    })
}

fn list(shared: &Shared, dir: &Path) -> Result<()> {
    let (mut rows, mut values, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for path in manifest::all(dir)? {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let read = manifest::read(&path);
        let checked = match &read {
            Ok((manifest, _)) => manifest.verify(&path, &mut |_| ()),
            Err(_) => Ok(()),
        };
        let damage = read.as_ref().err().or(checked.as_ref().err());
        if let Some(failure) = damage {
            damaged.push(failure.error.message.clone());
        }
        let state = if damage.is_some() { "damaged" } else { "verified" };
        match &read {
            Ok((manifest, _)) => {
                values.push(describe(&path, manifest, damage));
                let [records, bytes] = [show::count(manifest.records()), show::bytes(manifest.bytes())];
                let shards = manifest.shards.len().to_string();
                rows.push(vec![name, show::time(manifest.created_ms), shards, records, bytes, state.to_owned()]);
            }
            Err(failure) => {
                values.push(json!({ "path": path.display().to_string(), "error": failure.to_string() }));
                rows.push(vec![name, String::new(), String::new(), String::new(), String::new(), state.to_owned()]);
            }
        }
    }
    match shared.is_json() {
        true => show::json(&json!({ "backups": values })),
        false => {
            let header = ["backup", "created", "shards", "records", "bytes", "state"];
            show::say(show::table(&header, &["shards", "records", "bytes"], rows).to_string());
        }
    }
    match damaged.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(damaged.join("\n")).advise("a damaged backup cannot be restored")),
    }
}

fn show_one(dir: &Path, settings: bool) -> Result<()> {
    let path = manifest::locate(dir)?;
    let (manifest, backup) = manifest::read(&path)?;
    if settings {
        let (users, items) = manifest.shard_counts();
        let key = &manifest.placement_key;
        show::say(format!("placement_key = \"{key}\"\nuser_shards = {users}\nitem_shards = {items}"));
        return Ok(());
    }
    let mut value = describe(&path, &manifest, None);
    value["id"] = Value::from(hex(&backup));
    show::json(&value);
    Ok(())
}

async fn restore(shared: &Shared, dir: &Path) -> Result<()> {
    let path = manifest::locate(dir)?;
    let (manifest, backup) = manifest::read(&path)?;
    let cluster = shared.cluster()?;
    let done = restore::restore(&cluster, &path, &manifest, backup).await?;
    if shared.is_json() {
        let mut value = describe(&path, &manifest, None);
        value["restored"] = Value::from(match done {
            Restored::Now => "now",
            Restored::Before => "before",
        });
        show::json(&value);
        return Ok(());
    }
    let what = format!(
        "{} of {}",
        show::plural(manifest.records(), "record"),
        show::plural(manifest.shards.len() as u64, "shard")
    );
    match done {
        Restored::Now => {
            show::say(format!("restored {what} from {}; every digest is the backup's", path.display()));
            if let Some(model) = &manifest.live_model {
                show::note(format!(
                    "model version {} was live and is not in the backup: `docent train --wait`",
                    model.version
                ));
            }
        }
        Restored::Before => {
            show::say(format!("this cluster was restored from {} before; nothing was done", path.display()));
        }
    }
    Ok(())
}
