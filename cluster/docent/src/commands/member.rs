//! `docent coordinator` and `docent node`: one member of a cluster, until a signal or a fatal error ends it.

use crate::failure::{Exit, Failure, Result};
use docent_coordinator::Coordinator;
use docent_node::Node;
use docent_runtime::{Platform, Supervisor, telemetry};
use docent_types::sabotage::{self, Bug};
use docent_types::{Error, Kind};
use serde::de::DeserializeOwned;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use toml::{Table, Value};

/// What a coordinator's shutdown may take: it has little to flush.
const COORDINATOR_SHUTDOWN: Duration = Duration::from_secs(10);

/// Flags of a member.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The member's settings
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override one setting of the file, e.g. --set raft.heartbeat_interval_ms=100; the environment does the same:
    /// DOCENT_NODE__RAFT__HEARTBEAT_INTERVAL_MS=100 (DOCENT_COORDINATOR__... for a coordinator)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs a coordinator.
pub async fn coordinator(args: &Args) -> Result<()> {
    let settings: docent_coordinator::Settings = settings(args, "DOCENT_COORDINATOR__")?;
    telemetry::start(&settings.telemetry).map_err(Failure::usage)?;
    sabotaged()?;
    let supervisor = Supervisor::new();
    let start = Coordinator::start(settings, Platform::real(), supervisor.clone());
    live("coordinator", start, supervisor, |coordinator| coordinator.shutdown(COORDINATOR_SHUTDOWN)).await
}

/// Runs a node.
pub async fn node(args: &Args) -> Result<()> {
    let settings: docent_node::Settings = settings(args, "DOCENT_NODE__")?;
    let metrics = telemetry::start(&settings.telemetry).map_err(Failure::usage)?;
    sabotaged()?;
    let supervisor = Supervisor::new();
    let start = Node::start(settings, Platform::real(), supervisor.clone(), Some(metrics));
    live("node", start, supervisor, Node::shutdown).await
}

/// Takes on the planted bug that the environment names. An ordinary build has none and refuses, so that no proof is made with it.
fn sabotaged() -> Result<()> {
    let name = std::env::var("DOCENT_SABOTAGE").ok().filter(|name| !name.is_empty());
    let bug = name.map(|name| sabotage::choose(&name)).transpose().map_err(Failure::usage)?;
    if sabotage::IS_BUILT_IN {
        let bug = bug.map_or("none", Bug::name);
        tracing::info!(bug, "SABOTAGE: this build breaks its promises on purpose; never give it data that matters");
    }
    Ok(())
}

/// From start to end: a signal ends it in order, a fatal task with a failure.
async fn live<M, F: Future<Output = bool>>(
    what: &str,
    start: impl Future<Output = Result<M, Error>>,
    supervisor: Supervisor,
    stop: impl FnOnce(M) -> F,
) -> Result<()> {
    let mut signals = Signals::listen()?;
    let member = tokio::select! {
        started = start => started.map_err(refused)?,
        fatal = supervisor.wait_fatal() => return Err(Failure::failed(fatal)),
        name = signals.next() => {
            tracing::info!(signal = name, "{what} ends before it has started");
            return Ok(());
        }
    };
    tracing::info!("{what} started");
    tokio::select! {
        // At once: what its disk holds may not be known any more, and nothing that an orderly end would write is needed.
        fatal = supervisor.wait_fatal() => return Err(Failure::failed(fatal)),
        name = signals.next() => tracing::info!(signal = name, "{what} ends"),
    }
    // Further signals change nothing: the kernel sends several when a parent with threads dies, and the end is bounded anyway.
    if !stop(member).await {
        tracing::warn!("{what} did not end in order; nothing acknowledged is lost");
    }
    Ok(())
}

/// A member that cannot start: a bad setting is the operator's to change.
fn refused(error: Error) -> Failure {
    let exit = if error.kind == Kind::Invalid { Exit::Usage } else { Exit::Failed };
    Failure { exit, error: Box::new(error), advice: None }
}

/// SIGINT, SIGTERM and SIGHUP.
pub struct Signals([(&'static str, Signal); 3]);

impl Signals {
    /// From here on the signals do not kill the process.
    pub fn listen() -> Result<Signals> {
        let on = |name, kind| match signal(kind) {
            Ok(signal) => Ok((name, signal)),
            Err(error) => Err(Failure::failed(format!("cannot listen to {name}: {error}"))),
        };
        Ok(Signals([
            on("SIGINT", SignalKind::interrupt())?,
            on("SIGTERM", SignalKind::terminate())?,
            on("SIGHUP", SignalKind::hangup())?,
        ]))
    }

    /// The name of the next signal.
    pub async fn next(&mut self) -> &'static str {
        let [(int, on_int), (term, on_term), (hup, on_hup)] = &mut self.0;
        tokio::select! {
            _ = on_int.recv() => int,
            _ = on_term.recv() => term,
            _ = on_hup.recv() => hup,
        }
    }
}

/// The file's settings, then the environment's, then the flags'.
fn settings<T: DeserializeOwned>(args: &Args, prefix: &str) -> Result<T> {
    let environment = std::env::vars().filter_map(|(name, value)| {
        let key = name.strip_prefix(prefix)?.to_ascii_lowercase().replace("__", ".");
        Some((key, value))
    });
    let mut overrides: Vec<(String, String)> = environment.collect();
    for pair in &args.set {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| Failure::usage(format!("--set {pair}: must be KEY=VALUE")))?;
        overrides.push((key.trim().to_owned(), value.trim().to_owned()));
    }
    if overrides.is_empty() {
        // Keeps the line in its errors, which a merged tree has lost.
        return docent_runtime::settings::load(&args.config).map_err(|error| Failure::usage(error.to_string()));
    }
    let mut table: Table =
        docent_runtime::settings::load(&args.config).map_err(|error| Failure::usage(error.to_string()))?;
    for (key, value) in overrides {
        set(&mut table, &key, &value).map_err(|why| Failure::usage(format!("setting {key}={value}: {why}")))?;
    }
    table.try_into().map_err(|error| bad_settings(&args.config, &error))
}

fn bad_settings(path: &Path, error: &toml::de::Error) -> Failure {
    Failure::usage(format!("settings of {} and its overrides: {error}", path.display()))
}

/// Sets `a.b.c` to a TOML value, or to a string where it is none.
fn set(table: &mut Table, key: &str, text: &str) -> Result<(), String> {
    let (table, key) = match key.rsplit_once('.') {
        None => (table, key),
        Some((path, key)) => {
            let mut at = table;
            for part in path.split('.') {
                let inner = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
                at = inner.as_table_mut().ok_or_else(|| format!("{part} is not a section"))?;
            }
            (at, key)
        }
    };
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    let parsed = format!("v = {text}").parse::<Table>().ok().filter(|parsed| parsed.len() == 1);
    let value = parsed.and_then(|mut parsed| parsed.remove("v")).unwrap_or_else(|| Value::from(text));
    table.insert(key.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_reaches_its_section_and_keeps_its_type() {
        let mut table: Table = "zone = \"a\"\n[raft]\nx = 1\n".parse().unwrap();
        for (key, value) in [("raft.y_ms", "250"), ("zone", "b"), ("new.deep.flag", "true"), ("addr", "127.0.0.1:1")] {
            set(&mut table, key, value).unwrap();
        }
        let want: Table = "zone = \"b\"\naddr = \"127.0.0.1:1\"\n[raft]\nx = 1\ny_ms = 250\n[new.deep]\nflag = true\n"
            .parse()
            .unwrap();
        assert_eq!(table, want);
        assert!(set(&mut table, "zone.x", "1").is_err());
    }

    #[test]
    fn an_unknown_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("node.toml");
        std::fs::write(&config, "zone = \"a\"\n").unwrap();
        let args = Args { config, set: vec!["colour=1".to_owned()] };
        let failure = settings::<docent_node::Settings>(&args, "DOCENT_TEST__").unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.to_string().contains("colour"), "{failure}");
    }

    #[test]
    fn what_up_writes_is_what_members_read() {
        let dir = tempfile::tempdir().unwrap();
        let key = Some("0123456789abcdef0123456789abcdef".to_owned());
        let wanted = crate::local::layout::Wanted { placement_key: key, ..Default::default() };
        let layout = crate::local::layout::Layout::prepare(dir.path(), &wanted).unwrap();
        for member in layout.members() {
            let args = Args { config: layout.config(member), set: Vec::new() };
            match member.kind {
                crate::local::layout::Kind::Node => {
                    settings::<docent_node::Settings>(&args, "DOCENT_TEST__").unwrap().validate().unwrap();
                }
                crate::local::layout::Kind::Coordinator => {
                    settings::<docent_coordinator::Settings>(&args, "DOCENT_TEST__").unwrap().validate().unwrap();
                }
            }
        }
    }
}
