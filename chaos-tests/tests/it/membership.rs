//! Nodes come and go while clients go on: nothing acked is lost, no query fails, as few replicas move as must. What waits for a state
//! of a cluster under load, for the other tests of moves too.

use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::traffic::{Load, Report, Traffic};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

const LOAD: Load = Load { events: 120.0, batch: 3, queries: 40.0, n: 10, users: 400, items: 400 };
/// Far above what a change takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn options(coordinator_settings: &str) -> Options {
    Options { coordinator_settings: coordinator_settings.to_owned(), ..Options::default() }
}

/// The cluster as the first living node that answers knows it.
pub(crate) fn cluster(lab: &Lab) -> Value {
    let mut living = lab.nodes.iter().enumerate().filter(|(_, node)| node.pid().is_some()).map(|(index, _)| index);
    let answer = |index| lab.client(index).get("/v1/cluster").ok().filter(|(status, _)| *status == 200);
    living.find_map(answer).expect("a living node answers").1
}

pub(crate) fn shards(cluster: &Value) -> impl Iterator<Item = &Value> {
    cluster["shards"].as_array().unwrap().iter()
}

/// Replicas of each node, per keyspace.
fn load(cluster: &Value) -> BTreeMap<(u64, String), u64> {
    let mut load = BTreeMap::new();
    for shard in shards(cluster) {
        let space = shard["id"].as_str().unwrap().split('/').next().unwrap().to_owned();
        for node in shard["nodes"].as_array().unwrap() {
            *load.entry((node.as_u64().unwrap(), space.clone())).or_default() += 1;
        }
    }
    load
}

/// Every node has its share of each keyspace, give or take a tenth of it.
fn assert_even(cluster: &Value, nodes: std::ops::RangeInclusive<u64>) {
    let load = load(cluster);
    for space in ["users", "items"] {
        let of = |node: u64| load.get(&(node, space.to_owned())).copied().unwrap_or(0);
        let share = nodes.clone().map(of).sum::<u64>() as f64 / nodes.clone().count() as f64;
        for node in nodes.clone() {
            assert!(
                (of(node) as f64 - share).abs() <= share / 10.0,
                "node {node} has {} of {space}: {load:?}",
                of(node)
            );
        }
    }
}

pub(crate) fn replica_ids(cluster: &Value) -> BTreeSet<u64> {
    shards(cluster).flat_map(|shard| shard["replicas"].as_array().unwrap()).map(|r| r["id"].as_u64().unwrap()).collect()
}

/// The id of the lab's node `index`: nodes are numbered as they join.
pub(crate) fn id_of(lab: &Lab, index: usize) -> u64 {
    let state = cluster(lab);
    let mut nodes = state["nodes"].as_array().unwrap().iter();
    let node = nodes.find(|node| node["query_addr"] == lab.nodes[index].query_addr.as_str());
    node.unwrap_or_else(|| panic!("node {index} is not in {state:#}"))["id"].as_u64().unwrap()
}

/// Waits for a state of the cluster.
pub(crate) fn wait_for(lab: &Lab, what: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let state = cluster(lab);
        if is_there(&state) {
            return state;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not happen: {state:#}\n{}", lab.logs(15));
        std::thread::sleep(Duration::from_millis(100)); // between polls of another process
    }
}

pub(crate) fn is_dead(cluster: &Value, node: u64) -> bool {
    cluster["nodes"].as_array().unwrap().iter().any(|member| member["id"] == node && member["is_alive"] == false)
}

pub(crate) fn is_at_rest(cluster: &Value) -> bool {
    shards(cluster).all(|shard| shard["move"].is_null())
}

/// Runs `change` under load through the first `nodes` nodes; no query and no event may fail, and everything acked is there afterwards.
pub(crate) fn under_load(lab: &mut Lab, name: &str, nodes: usize, change: impl FnOnce(&mut Lab, &Gateways)) -> Report {
    let gateways = Gateways::new(&lab.addresses()[..nodes]);
    let traffic = Traffic::new(name, &gateways, LOAD);
    let report = std::thread::scope(|scope| {
        let running = scope.spawn(|| traffic.run());
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| change(lab, &gateways)));
        traffic.stop();
        let report = running.join().unwrap().unwrap();
        outcome.unwrap();
        report
    });
    let Report { queries, events, .. } = &report;
    assert!(queries.failures.is_empty() && events.failures.is_empty(), "{report:#?}\n{}", lab.logs(10));
    assert!(queries.latencies.len() > 50 && events.latencies.len() > 50, "there was no load: {report:#?}");
    traffic.ledger().audit_of(lab, name).unwrap();
    report
}

/// As [`under_load`] while nobody dies: no first try of a write may fail either.
pub(crate) fn under_calm_load(lab: &mut Lab, name: &str, change: impl FnOnce(&mut Lab)) {
    let report = under_load(lab, name, 3, |lab, _| change(lab));
    assert!(report.refused.is_empty(), "{report:#?}\n{}", lab.logs(10));
}

pub(crate) fn seed_and_train(lab: &Lab) {
    let gateways = Gateways::new(&[]);
    Traffic::new("seed", &gateways, LOAD).seed(&lab.client(0), 8).unwrap();
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--holdout", "0", "--wait"]).unwrap();
}

#[test]
fn a_fourth_node_joins_takes_its_share_and_is_drained_again_under_load() {
    let mut lab = Lab::start(&options("")).unwrap();
    seed_and_train(&lab);
    let before = cluster(&lab);
    under_calm_load(&mut lab, "grow", |lab| {
        lab.add_node().unwrap();
        wait_for(lab, "an even load", |state| {
            is_at_rest(state)
                && load(state).get(&(104, "users".into())) == Some(&6)
                && load(state).get(&(104, "items".into())) == Some(&3)
        });
    });
    let grown = cluster(&lab);
    assert_even(&grown, 101..=104);
    // The newcomer's nine replicas are the fewest that must move; all others are the ones that were there.
    assert_eq!(replica_ids(&before).intersection(&replica_ids(&grown)).count(), 36 - 9);
    assert_eq!(lab.client(3).recommend("u5", 10).unwrap()["items"].as_array().unwrap().len(), 10);

    let plan = lab.docent(&["nodes", "drain", "104", "--dry-run", "--output", "json"]).unwrap();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["moves"].as_array().unwrap().len(), 9, "{plan}");
    assert!(is_at_rest(&cluster(&lab)), "a dry run changes nothing");
    under_calm_load(&mut lab, "shrink", |lab| {
        lab.docent(&["nodes", "drain", "104", "--wait", "--wait-timeout", "60"]).unwrap();
    });
    let shrunk = cluster(&lab);
    assert_even(&shrunk, 101..=103);
    assert_eq!(replica_ids(&grown).intersection(&replica_ids(&shrunk)).count(), 36 - 9, "nine as planned, no more");
    let refused = lab.docent_output(&["nodes", "drain", "103"]).unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("add a node first"), "{text}");

    lab.nodes[3].terminate().unwrap();
    lab.docent(&["nodes", "remove", "104", "--wait", "--wait-timeout", "60"]).unwrap();
    assert_eq!(cluster(&lab)["nodes"].as_array().unwrap().len(), 3);
    lab.nodes[3].start().unwrap();
    let complaint = Instant::now();
    while !lab.nodes[3].tail(5).contains("was removed") && !lab.nodes[3].tail(5).contains("not a member") {
        assert!(complaint.elapsed() < PATIENCE, "{}", lab.nodes[3].tail(20));
        std::thread::sleep(Duration::from_millis(50)); // between looks at its log
    }
    lab.nodes[3].kill().unwrap();
}

#[test]
fn a_wiped_node_is_replaced_by_a_new_one_and_caught_up() {
    let mut lab = Lab::start(&options("")).unwrap();
    seed_and_train(&lab);
    let lost = id_of(&lab, 2);
    under_load_without_third(&mut lab, lost);
    let state = wait_for(&lab, "the replacement", |state| {
        is_at_rest(state) && shards(state).all(|shard| !shard["nodes"].as_array().unwrap().contains(&json!(lost)))
    });
    assert!(shards(&state).all(|shard| shard["nodes"].as_array().unwrap().contains(&json!(104))), "{state:#}");
    lab.docent(&["status", "--wait"]).unwrap();
    let answer = lab.client(3).recommend("u5", 10).unwrap();
    assert_eq!(answer["coverage"]["asked"], answer["coverage"]["answered"], "{answer}");
}

/// The third node loses its disk; it is removed, and a new one comes, while clients go on through the other two.
fn under_load_without_third(lab: &mut Lab, lost: u64) {
    under_load(lab, "replace", 2, |lab, _| {
        lab.nodes[2].kill().unwrap();
        std::fs::remove_dir_all(lab.dir().join("node-3")).unwrap();
        wait_for(lab, "the node's death", |state| is_dead(state, lost));
        lab.docent(&["nodes", "remove", &lost.to_string()]).unwrap();
        lab.add_node().unwrap();
        wait_for(lab, "the node to be forgotten", |state| state["nodes"].as_array().unwrap().len() == 3);
    });
}
