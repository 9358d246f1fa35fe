//! What the cluster has when everything is over: events, replicas' digests, every user's and item's state.

use crate::run::stage::Stage;
use crate::run::tape::Tape;
use crate::run::view::View;
use crate::workload::Clients;
use anyhow::{Context, Result, ensure};
use docent_trial::history::{Call, Observed};
use docent_trial::{Group, Member, Workload};
use serde::Deserialize;
use std::process::{Command, Output};

/// Runs the tool against these nodes, whatever its exit status.
///
/// # Errors
/// It does not start.
pub fn tool(stage: &dyn Stage, arguments: &[&str]) -> Result<Output> {
    let nodes: Vec<String> = stage.gateways().into_iter().map(|(_, addr)| addr).collect();
    let tool = stage.tool();
    let output = Command::new(&tool).args(arguments).env("DOCENT_NODES", nodes.join(",")).output();
    output.with_context(|| format!("{} does not start", tool.display()))
}

/// As [`tool`]; what it printed.
///
/// # Errors
/// It did not end with 0.
pub fn printed(stage: &dyn Stage, arguments: &[&str]) -> Result<String> {
    let output = tool(stage, arguments)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docent {} ended with {}: {}", arguments.join(" "), output.status, error.trim());
    Ok(String::from_utf8(output.stdout)?)
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    event_id: String,
    user_id: String,
    item_id: String,
}

/// Writes down every event of the run that the cluster exports; those of others are left out by their prefix.
///
/// # Errors
/// The export failed: then nothing is said of its end, and no event is taken for lost.
pub fn events(stage: &dyn Stage, tape: &Tape, prefix: &str) -> Result<()> {
    let exported = printed(stage, &["export", "events"])?;
    let mut events = 0;
    for (number, line) in exported.lines().enumerate() {
        let event: Event = serde_json::from_str(line).with_context(|| format!("line {} of the export", number + 1))?;
        if event.user_id.starts_with(prefix) {
            events += 1;
            tape.see(Observed::Exported { event_id: event.event_id, user: event.user_id, item: event.item_id });
        }
    }
    tape.see(Observed::ExportEnd { events });
    Ok(())
}

#[derive(Deserialize)]
struct Verified {
    shards: Vec<Shard>,
}

#[derive(Deserialize)]
struct Shard {
    shard: Group,
    #[serde(default)]
    index: Option<u64>,
    error: Option<String>,
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    node: u64,
    replica: u64,
    state: Option<String>,
    error: Option<String>,
}

/// Lets every replica of every shard digest its state at one index, and writes the digests down.
///
/// # Errors
/// The tool gives no digests. Replicas that differ are no error here: the checker finds them.
pub fn digests(stage: &dyn Stage, tape: &Tape, view: &View) -> Result<()> {
    let output = tool(stage, &["verify", "--output", "json"])?;
    let verified: Verified = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("docent verify: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    let gateways = stage.gateways();
    for shard in verified.shards {
        if let Some(error) = shard.error {
            tape.see(Observed::Note { text: format!("{} could not be verified: {error}", shard.shard) });
        }
        for replica in shard.replicas {
            let member = view.member(replica.node, &gateways).unwrap_or_else(|| Member::node(0));
            match (replica.state, shard.index) {
                (Some(digest), Some(index)) => {
                    let (group, replica) = (shard.shard, replica.replica);
                    tape.see(Observed::Digest { group, member, replica, index, digest });
                }
                _ => {
                    let why = replica.error.unwrap_or_else(|| "it gave none".to_owned());
                    tape.see(Observed::Note { text: format!("no digest of {} from {member}: {why}", shard.shard) });
                }
            }
        }
    }
    Ok(())
}

/// Reads every log to its end.
pub fn logs(stage: &mut dyn Stage, tape: &Tape) {
    let ends: Vec<(Member, usize)> = stage
        .logs()
        .into_iter()
        .filter_map(|(member, path)| Some((member, std::fs::read_to_string(path).ok()?.lines().count())))
        .collect();
    stage.observe().into_iter().for_each(|seen| tape.see(seen));
    ends.into_iter().for_each(|(member, lines)| tape.see(Observed::LogEnd { member, lines: lines as u64 }));
}

/// Reads every user and every item of the run, each through the next node.
pub fn states(clients: &Clients<'_>, workload: &Workload) {
    let users = (0..workload.users).map(|user| Call::ReadUser { user: format!("u{user}") });
    let items = (0..workload.items).map(|item| Call::ReadItem { item: format!("i{item}") });
    for (number, call) in users.chain(items).enumerate() {
        clients.one(number, &clients.named(call));
    }
}
