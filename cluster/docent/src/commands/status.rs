//! `docent status`: members, shards, live model, readiness.

use crate::cli::Shared;
use crate::client::{self, Cluster};
use crate::failure::{Failure, Result};
use crate::json;
use crate::local::ready;
use crate::show::{self, Progress};
use docent_proto::v1;
use std::time::Duration;
use tokio::time::Instant;

/// Flags of `docent status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Wait until the cluster is ready
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait_timeout: u64,
}

/// Shows the state; exit code 3 where the cluster is not ready.
pub async fn run(shared: &Shared, args: &Args) -> Result<()> {
    let cluster = shared.cluster()?;
    let state = match args.wait {
        true => wait(&cluster, Duration::from_secs(args.wait_timeout)).await?,
        false => ready::look(&cluster).await.map_err(client::failure)?,
    };
    match shared.is_json() {
        true => show::json(&json::write::cluster(&state)),
        false => print(&state),
    }
    match state.is_ready {
        true => Ok(()),
        false => Err(not_ready(&state)),
    }
}

fn not_ready(state: &v1::Cluster) -> Failure {
    Failure::unreachable(format!("the cluster is not ready: {}", ready::missing(state)))
        .advise("wait for it with `docent status --wait`; the logs of the members say what they wait for")
}

async fn wait(cluster: &Cluster, within: Duration) -> Result<v1::Cluster> {
    let deadline = Instant::now() + within;
    let mut progress = Progress::new("waiting", 0);
    loop {
        let look = ready::look(cluster).await;
        let is_over = Instant::now() >= deadline;
        match look {
            Ok(state) if state.is_ready => return Ok(state),
            Ok(state) if is_over => return Err(not_ready(&state)),
            Ok(state) => progress.at(0, ready::missing(&state)),
            Err(error) if is_over => return Err(client::failure(error)),
            Err(error) => progress.at(0, error.message),
        }
        tokio::time::sleep(Duration::from_millis(300)).await; // between polls of another process
    }
}

fn print(state: &v1::Cluster) {
    let live = match state.live_version {
        0 => "none yet; train one with `docent train --wait`".to_owned(),
        version => format!("version {version}"),
    };
    let is_ready = if state.is_ready { "ready".to_owned() } else { format!("not ready: {}", ready::missing(state)) };
    show::say(format!("cluster  {}  ({is_ready})", state.cluster_id));
    show::say(format!("model    {live}"));
    show::say(format!("format   {}", state.format));
    show::say(format!("answered by node {}, catalog index {}\n", state.node, state.catalog_index));
    print_members(state);
    print_shards(state);
}

/// The members, with what each node holds.
pub fn print_members(state: &v1::Cluster) {
    let rows = |kind: &'static str, members: &[v1::Member]| -> Vec<Vec<String>> {
        let row = |m: &v1::Member| {
            vec![
                format!("{kind} {}", m.id),
                m.query_addr.clone(),
                m.internal_addr.clone(),
                m.zone.clone(),
                condition(m),
                m.format.to_string(),
                state.shards.iter().filter(|s| s.nodes.contains(&m.id) && kind == "node").count().to_string(),
                state.shards.iter().filter(|s| s.leader == m.id && kind == "node").count().to_string(),
            ]
        };
        members.iter().map(row).collect()
    };
    let mut members = rows("coordinator", &state.coordinators);
    members.extend(rows("node", &state.nodes));
    let header = ["member", "query", "internal", "zone", "state", "format", "replicas", "leads"];
    show::say(show::table(&header, &["format", "replicas", "leads"], members).to_string());
}

/// The shards, with where they live and what is on its way.
pub fn print_shards(state: &v1::Cluster) {
    let shards = state.shards.iter().map(|s| {
        let nodes: Vec<String> = s.nodes.iter().map(u64::to_string).collect();
        let leader = if s.leader == 0 { "none known".to_owned() } else { format!("node {}", s.leader) };
        let moving = s.r#move.as_ref().map(|m| {
            let (from, given_up) = (m.from, if m.is_cancelled { ", given up" } else { "" });
            let from = if from == 0 { String::new() } else { format!("{from} ") };
            format!("{from}-> {} ({}{given_up})", m.to, m.cause)
        });
        vec![
            s.id.clone(),
            format!("{}..{}", s.slot_first, s.slot_end),
            nodes.join(", "),
            leader,
            moving.unwrap_or_default(),
        ]
    });
    show::say(show::table(&["shard", "slots", "nodes", "leader", "moving"], &["slots"], shards).to_string());
}

fn condition(member: &v1::Member) -> String {
    let alive = if member.is_alive { "alive" } else { "silent" };
    match member.state.as_str() {
        "" | "active" => alive.to_owned(),
        state => format!("{alive}, {state}"),
    }
}
