//! Probes of replicas and of the catalog: one state at one index, moves that end, versions that do not go back.

use super::ground::{event, options, put, seed, under_writes};
use super::{Finding, Outcome, Subject};
use crate::client::Client;
use crate::lab::{Lab, Options};
use anyhow::{Context, Result, ensure};
use docent_trial::check::Checker;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between polls of another process.
const POLL: Duration = Duration::from_millis(100);
/// What a move of a small shard takes at most, many times over.
const MOVE: Duration = Duration::from_secs(40);

/// What `docent verify` says of replicas that differ. One that gives no digest is asked again.
fn disagreements(lab: &Lab) -> Outcome {
    let start = Instant::now();
    loop {
        let output = lab.docent_output(&["verify", "--output", "json"])?;
        let told: Value = serde_json::from_slice(&output.stdout).context("verify printed no JSON")?;
        let shards = told["shards"].as_array().context("verify has no shards")?;
        let replicas = || {
            let of = |shard: &'_ Value| shard["replicas"].as_array().cloned().unwrap_or_default();
            shards.iter().flat_map(move |shard| of(shard).into_iter().map(|replica| (shard["shard"].clone(), replica)))
        };
        let differ = replicas().filter(|(_, replica)| replica["differs"] == true);
        let found: Vec<Finding> = differ
            .map(|(shard, replica)| {
                let what = format!("shard {shard}: the replica on node {} differs from the others", replica["node"]);
                Finding::new(Checker::Replicas, what)
            })
            .collect();
        let is_told = !shards.is_empty() && replicas().all(|(_, replica)| replica["error"].is_null());
        if !found.is_empty() || is_told {
            return Ok(found);
        }
        ensure!(start.elapsed() < MOVE, "the replicas cannot be compared: {told}");
        std::thread::sleep(POLL);
    }
}

/// Under writes of many clients every replica comes to the same state.
pub(super) fn digests(subject: &Subject) -> Outcome {
    let mut lab = Lab::start(&options(&subject.binary))?;
    under_writes(&mut lab, "digest", 16, |_| {
        std::thread::sleep(Duration::from_secs(3)); // some load
        Ok(())
    })?;
    disagreements(&lab)
}

/// A replica that comes back by a snapshot has all that the others have, and knows which events it has seen.
pub(super) fn snapshot(subject: &Subject) -> Outcome {
    let node_settings = "raft.snapshot_entries = 60\nraft.purge_margin_entries = 0\nraft.compaction_interval_ms = 300";
    let mut lab =
        Lab::start(&Options { node_settings: node_settings.to_owned(), user_shards: 2, ..options(&subject.binary) })?;
    lab.nodes[2].kill()?;
    let first: Vec<Value> = (0..60).map(|n| event(&format!("first-{n}"), &format!("u{n}"), "i0")).collect();
    let client = Client::with_timeout(&lab.nodes[0].query_addr, MOVE);
    seed(&client, &first)?;
    for n in 0..60 {
        put(&client, &format!("/v1/users/u{n}/blocks"), &json!({ "item_ids": ["i1", format!("i{n}")] }))?;
    }
    under_writes(&mut lab, "snapshot", 12, |_| {
        std::thread::sleep(Duration::from_secs(4)); // enough for a purge beyond what the dead node has
        Ok(())
    })?;
    lab.nodes[2].start()?;
    lab.wait_ready(Duration::from_secs(60))?;
    disagreements(&lab)
}

fn cluster(client: &Client) -> Result<Value> {
    let (status, body) = client.get("/v1/cluster")?;
    ensure!(status == 200, "/v1/cluster answered {status}");
    Ok(body)
}

fn shard<'a>(state: &'a Value, id: &str) -> Result<&'a Value> {
    let shards = state["shards"].as_array().context("no shards")?;
    shards.iter().find(|shard| shard["id"] == id).with_context(|| format!("no shard {id}"))
}

fn replica_ids(shard: &Value) -> BTreeSet<u64> {
    let replicas = shard["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    replicas.iter().filter_map(|replica| replica["id"].as_u64()).collect()
}

/// A replica moves away and back: each move ends, and each new replica has an id that was never there.
pub(super) fn moves(subject: &Subject) -> Outcome {
    let options =
        Options { nodes: 4, coordinator_settings: "auto_balance = false".to_owned(), ..options(&subject.binary) };
    let lab = Lab::start(&options)?;
    let (client, id) = (lab.client(0), "users/1");
    seed(&client, &(0..60).map(|n| event(&format!("e-{n}"), &format!("u{n}"), "i0")).collect::<Vec<_>>())?;
    let state = cluster(&client)?;
    let at = |state: &Value| -> Result<BTreeSet<u64>> {
        let nodes = shard(state, id)?["nodes"].as_array().context("no nodes")?.clone();
        Ok(nodes.iter().filter_map(Value::as_u64).collect())
    };
    let taken = at(&state)?;
    let all = state["nodes"].as_array().context("no nodes")?.iter().filter_map(|node| node["id"].as_u64());
    let to = all.into_iter().find(|node| !taken.contains(node)).context("the shard is everywhere")?;
    let from = *taken.iter().next().context("the shard is nowhere")?;
    let mut known = replica_ids(shard(&state, id)?);
    for (from, to) in [(from, to), (to, from), (from, to)] {
        lab.docent(&["shards", "move", id, "--from", &from.to_string(), "--to", &to.to_string()])?;
        let start = Instant::now();
        let state = loop {
            let state = cluster(&client)?;
            let nodes = at(&state)?;
            if shard(&state, id)?["move"].is_null() && nodes.contains(&to) && !nodes.contains(&from) {
                break state;
            }
            if start.elapsed() > MOVE {
                let what = format!("the move of {id} from node {from} to {to} has not ended after {MOVE:?}");
                return Ok(vec![Finding::new(Checker::Liveness, what)]);
            }
            std::thread::sleep(POLL);
        };
        let now = replica_ids(shard(&state, id)?);
        let fresh = now.iter().filter(|id| !known.contains(id)).count();
        if fresh != 1 {
            let what = format!("after a move of {id} there are {fresh} replicas with ids that were never there");
            return Ok(vec![Finding::new(Checker::Raft, what)]);
        }
        known.extend(now);
    }
    Ok(Vec::new())
}

/// Nodes that have only a coordinator which missed an activation keep what they know.
pub(super) fn lagging_coordinator(subject: &Subject) -> Outcome {
    use nix::sys::signal::Signal;
    let mut lab = Lab::start(&options(&subject.binary))?;
    lab.docent(&["import", "generated", "--users", "300", "--items", "200", "--events", "8000", "--seed", "11"])?;
    let train = |lab: &Lab, seed: &str| {
        lab.docent(&["train", "--dim", "8", "--epochs", "2", "--seed", seed, "--wait"]).map(drop)
    };
    train(&lab, "1")?;
    let lagging = (subject.round as usize) % 3;
    lab.coordinators[lagging].signal(Signal::SIGSTOP)?;
    // Where it led, another has to be elected first.
    let start = Instant::now();
    while train(&lab, "2").is_err() {
        ensure!(start.elapsed() < MOVE, "no training without one of three coordinators");
    }
    let version = |lab: &Lab, node: usize| -> Result<u64> {
        lab.client(node).recommend("1", 3)?["model"]["version"].as_u64().context("an answer without a version")
    };
    let newest = (0..3).map(|node| version(&lab, node)).collect::<Result<Vec<_>>>()?;
    for other in (0..3).filter(|other| *other != lagging) {
        lab.coordinators[other].kill()?;
    }
    lab.coordinators[lagging].signal(Signal::SIGCONT)?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(8) {
        for (node, newest) in newest.iter().enumerate() {
            let now = version(&lab, node)?;
            if now < *newest {
                let what = format!("node {} answered with version {newest} and then with version {now}", node + 1);
                return Ok(vec![Finding::new(Checker::Sessions, what)]);
            }
        }
        std::thread::sleep(POLL);
    }
    Ok(Vec::new())
}
