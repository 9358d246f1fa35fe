//! Every command of docs/operations.md is run against a cluster of four nodes, in the document's order.

use docent_chaos::docs::{block, blocks};
use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{self, Lab, Options};
use docent_chaos::traffic::{Load, Traffic};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const DOCUMENT: &str = "docs/operations.md";
/// The blocks that are run, in order, and what each must print.
const RUN: &[(&str, &[&str])] = &[
    ("look", &["(ready)", "node 104", "users/7", "items/3"]),
    ("move", &["1 replica would move", "1 replica moved"]),
    ("drain", &["would move", "is empty"]),
    ("remove", &["0 replicas moved"]),
    ("replace", &["users/0"]),
    ("ready", &["(ready)"]),
    ("backup", &["nightly", "placement_key = ", "user_shards = 8"]),
    ("recover", &["nothing to recover"]),
];
/// Commands that are not run here, and why.
const SKIPPED: &[(&str, &str)] = &[
    ("docent up --from-backup backups/nightly", "a second cluster: tests/it/backup.rs"),
    ("docent backup restore backups/nightly", "tests/it/backup.rs restores into one and five nodes"),
];
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn every_command_of_the_operations_guide_is_run_or_skipped_for_a_reason() {
    let blocks = blocks(DOCUMENT).unwrap();
    let run: Vec<&str> = blocks.iter().map(|block| block.name.as_str()).filter(|name| *name != "skip").collect();
    assert_eq!(run, RUN.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let skipped: Vec<&str> = blocks.iter().filter(|block| block.name == "skip").flat_map(|b| b.text.lines()).collect();
    assert_eq!(skipped, SKIPPED.iter().map(|(command, _)| *command).collect::<Vec<_>>());
}

/// Runs a block as in an operator's shell; gives what it printed, white space made even.
fn run(lab: &Lab, dir: &Path, name: &str) -> String {
    let bin = lab::docent().unwrap();
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("timeout");
    command.args(["180", "bash", "-euo", "pipefail", "-c", &block(DOCUMENT, name).unwrap()]).current_dir(dir);
    let output = command.env("PATH", path).env("DOCENT_NODES", lab.addresses()[..2].join(",")).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "block {name} ended with {}:\n{printed}\n{}", output.status, lab.logs(5));
    printed.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn wait_for(lab: &Lab, what: &str, is_there: impl Fn(&Value) -> bool) {
    let start = Instant::now();
    loop {
        let state = lab.client(0).get("/v1/cluster").unwrap().1;
        if is_there(&state) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not happen: {state:#}");
        std::thread::sleep(Duration::from_millis(100)); // between polls of another process
    }
}

fn is_at_rest(state: &Value) -> bool {
    state["shards"]
        .as_array()
        .unwrap()
        .iter()
        .all(|shard| shard["move"].is_null() && shard["nodes"].as_array().unwrap().len() == 3)
}

/// Where the lab keeps the node of this id: nodes are numbered as they join.
fn place_of(lab: &Lab, id: u64) -> usize {
    let state = lab.client(0).get("/v1/cluster").unwrap().1;
    let node = state["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id).unwrap().clone();
    lab.nodes.iter().position(|member| node["query_addr"] == member.query_addr.as_str()).unwrap()
}

#[test]
fn an_operator_can_do_everything_the_guide_says() {
    let mut lab = Lab::start(&Options { nodes: 4, ..Options::default() }).unwrap();
    // The two nodes that the commands are sent to must be those that stay.
    for (place, id) in [(0, 101), (1, 102)] {
        let at = place_of(&lab, id);
        lab.nodes.swap(place, at);
    }
    let load = Load { events: 1.0, batch: 1, queries: 1.0, n: 5, users: 100, items: 100 };
    Traffic::new("seed", &Gateways::new(&[]), load).seed(&lab.client(0), 5).unwrap();
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--holdout", "0", "--wait"]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (name, expected) in RUN {
        match *name {
            "remove" => {
                let place = place_of(&lab, 104);
                assert!(lab.nodes[place].terminate().unwrap().success());
                wait_for(&lab, "the end of node 104", |state| is_silent(state, 104));
            }
            "replace" => {
                lab.add_node().unwrap();
                let place = place_of(&lab, 103);
                lab.nodes[place].kill().unwrap();
                wait_for(&lab, "the death of node 103", |state| is_silent(state, 103));
            }
            "ready" => wait_for(&lab, "the replacement", |state| {
                is_at_rest(state) && state["nodes"].as_array().unwrap().len() == 3
            }),
            _ => wait_for(&lab, "rest", is_at_rest),
        }
        let printed = run(&lab, dir.path(), name);
        for part in *expected {
            assert!(printed.contains(part), "{DOCUMENT}, block {name}: {part:?} is not in\n{printed}");
        }
    }
}

fn is_silent(state: &Value, id: u64) -> bool {
    state["nodes"].as_array().unwrap().iter().any(|node| node["id"] == id && node["is_alive"] == false)
}
