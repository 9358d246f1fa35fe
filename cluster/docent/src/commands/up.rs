//! `docent up`: a local cluster of separate processes in the foreground.

use crate::backup::manifest;
use crate::cli::Shared;
use crate::commands::member::Signals;
use crate::failure::{Failure, Result};
use crate::local::children::{Children, log_tail};
use crate::local::layout::{Layout, Wanted};
use crate::local::ready;
use crate::show;
use docent_proto::v1;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// What members get to end in order; a node takes 10 s at most.
pub const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Flags of `docent up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Nodes, 1 to 99 [default: 3, or what the directory has]
    #[arg(long = "nodes", id = "node_count")]
    nodes: Option<u16>,
    /// Coordinators, 1 to 9; odd numbers make sense [default: 3, or what the directory has]
    #[arg(long)]
    coordinators: Option<u16>,
    /// Where everything is kept; a cluster that is there is started again
    #[arg(long, value_name = "DIR", default_value = "docent-data")]
    data_dir: PathBuf,
    /// Nodes answer at 127.0.0.1, ports P+1, P+2, ...; members talk at P+101..., P-99... [default: 7500]
    #[arg(long, value_name = "P")]
    base_port: Option<u16>,
    /// Replicas of each shard [default: 3, at most the number of nodes]
    #[arg(long)]
    replication: Option<u16>,
    /// The key of the slot hash, 32 hexadecimal digits: the same key places the same ids alike [default: drawn]
    #[arg(long, value_name = "HEX")]
    placement_key: Option<String>,
    /// Take the placement key and the shards of a backup, to restore it: then run `docent backup restore DIR`
    #[arg(long, value_name = "DIR", conflicts_with = "placement_key")]
    from_backup: Option<PathBuf>,
    /// How long the cluster may take to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait_timeout: u64,
}

/// Runs a cluster until a signal; fails at the end if a member died.
pub async fn run(shared: &Shared, args: &Args) -> Result<()> {
    let mut wanted = Wanted {
        nodes: args.nodes,
        coordinators: args.coordinators,
        base_port: args.base_port,
        replication: args.replication,
        placement_key: args.placement_key.clone(),
        ..Wanted::default()
    };
    if let Some(dir) = &args.from_backup {
        let (manifest, _) = manifest::read(&manifest::locate(dir)?)?;
        let (users, items) = manifest.shard_counts();
        // At most 64 each, by the coordinator's settings.
        (wanted.user_shards, wanted.item_shards) = (u16::try_from(users).ok(), u16::try_from(items).ok());
        wanted.placement_key = Some(manifest.placement_key);
    }
    let mut signals = Signals::listen()?;
    let layout = Layout::prepare(&args.data_dir, &wanted)?;
    let how = if layout.is_new { "a new cluster" } else { "the cluster" };
    show::note(format!("starting {how} in {}", layout.dir.display()));
    let mut children = Children::start(&layout)?;
    let outcome = tokio::select! {
        state = ready::wait(&layout, &mut children, Duration::from_secs(args.wait_timeout)) => Some(state),
        _ = signals.next() => None,
    };
    let outcome = match outcome {
        None => Ok(()),
        Some(Err(failure)) => Err(failure),
        Some(Ok(state)) => {
            announce(shared, &layout, &children, &state);
            watch(&layout, &mut children, &mut signals).await
        }
    };
    show::note("stopping");
    children.stop(STOP_WITHIN).await;
    outcome
}

/// Reports members that die until a signal comes or none is left.
pub async fn watch(layout: &Layout, children: &mut Children, signals: &mut Signals) -> Result<()> {
    let mut died = Vec::new();
    loop {
        tokio::select! {
            // A Ctrl-C reaches the members too: their end is then no death.
            biased;
            _ = signals.next() => break,
            ended = children.next_ended() => match ended {
                None => break,
                Some(ended) => {
                    // The same Ctrl-C may be seen here a moment later than by the member.
                    let is_signal = tokio::time::timeout(Duration::from_millis(200), signals.next()).await.is_ok();
                    if is_signal {
                        break;
                    }
                    show::note(format!("{}\n{}", ended.describe(), log_tail(layout, ended.member).trim_end()));
                    let left = children.alive().len();
                    show::note(format!("  {} still run; stop all with Ctrl-C and start again to get it back", left));
                    died.push(ended.member.name());
                }
            }
        }
    }
    match died.as_slice() {
        [] => Ok(()),
        names => Err(Failure::failed(format!("{} died while the cluster ran", names.join(", ")))),
    }
}

fn announce(shared: &Shared, layout: &Layout, children: &Children, state: &v1::Cluster) {
    let members: Vec<_> = layout
        .members()
        .into_iter()
        .map(|member| {
            let (internal, query) = layout.addrs(member);
            let pid = children.alive().get(&member).map_or(0, |pid| pid.as_raw());
            (member.name(), query, internal, pid, layout.log(member).display().to_string())
        })
        .collect();
    if shared.is_json() {
        let member = |(name, query, internal, pid, log): &(String, String, String, i32, String)| json!({ "name": name, "query": query, "internal": internal, "pid": pid, "log": log });
        let members: Vec<_> = members.iter().map(member).collect();
        show::json(
            &json!({ "cluster_id": state.cluster_id, "dir": layout.dir.display().to_string(), "members": members }),
        );
        return;
    }
    let rows =
        members.into_iter().map(|(name, query, internal, pid, log)| vec![name, query, internal, pid.to_string(), log]);
    show::say(show::table(&["member", "query", "internal", "pid", "log"], &["pid"], rows).to_string());
    let node = layout.query_addr(1);
    show::say("ready: gRPC and HTTP at every query address; Ctrl-C stops everything, `docent up` starts it again\n");
    show::say(format!(
        "try    docent import generated --node {node}\n       docent train --wait --node {node}\n       \
         docent recommend u1 --explain --node {node}\n       curl -s http://{node}/v1/popular"
    ));
}
