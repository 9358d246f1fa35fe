//! A shard that lost its majority for good: nothing happens by itself, an operator's order makes it go on, and it grows again.

use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::traffic::{Load, Traffic};
use serde_json::Value;
use std::time::{Duration, Instant};

const LOAD: Load = Load { events: 1.0, batch: 1, queries: 1.0, n: 5, users: 100, items: 100 };
const PATIENCE: Duration = Duration::from_secs(90);

fn lost(lab: &Lab) -> Vec<Value> {
    let printed = lab.docent(&["recover", "--output", "json"]).unwrap();
    let printed: Value = serde_json::from_str(&printed).unwrap();
    printed["lost"].as_array().unwrap().clone()
}

fn wait_for(lab: &Lab, what: &str, is_there: impl Fn(&Value) -> bool) {
    let start = Instant::now();
    loop {
        let state = lab.client(0).get("/v1/cluster").unwrap().1;
        if is_there(&state) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not happen: {state:#}\n{}", lab.logs(10));
        std::thread::sleep(Duration::from_millis(100)); // between polls of another process
    }
}

#[test]
fn a_survivor_goes_on_alone_by_command_and_the_cluster_grows_back_from_it() {
    let mut lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    let traffic_gateways = Gateways::new(&[]);
    let traffic = Traffic::new("kept", &traffic_gateways, LOAD);
    traffic.seed(&lab.client(0), 5).unwrap();
    // Digests are taken at one index on every replica: after them all three have what was acked.
    lab.docent(&["verify"]).unwrap();
    assert!(lost(&lab).is_empty());
    let healthy = ["recover", "--shard", "users/0", "--from", "101", "--last", "1", "--accept-loss"];
    let refused = lab.docent_output(&healthy).unwrap();
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("recovers by itself"), "{text}");

    for place in [1, 2] {
        lab.nodes[place].kill().unwrap();
        std::fs::remove_dir_all(lab.dir().join(format!("node-{}", place + 1))).unwrap();
    }
    let silent =
        |state: &Value| state["nodes"].as_array().unwrap().iter().filter(|node| node["is_alive"] == false).count() == 2;
    wait_for(&lab, "the death of two nodes", silent);
    let replicas = lost(&lab);
    let survivors: Vec<&Value> = replicas.iter().filter(|replica| replica["error"] == "").collect();
    assert_eq!((replicas.len(), survivors.len()), (36, 12), "{replicas:#?}");
    for survivor in survivors {
        let (shard, last) = (survivor["shard"].as_str().unwrap(), survivor["last"].as_u64().unwrap());
        let node = survivor["node"].to_string();
        let order = |last: u64| {
            let last = last.to_string();
            let order = ["recover", "--shard", shard, "--from", &node, "--last", &last, "--accept-loss"];
            lab.docent_output(&order).unwrap()
        };
        assert!(!order(last + 1).status.success(), "an order by an old look is refused");
        let done = order(last);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    wait_for(&lab, "the survivor to be alone", |state| {
        state["shards"].as_array().unwrap().iter().all(|shard| shard["nodes"].as_array().unwrap().len() == 1)
    });
    for node in lab.client(0).get("/v1/cluster").unwrap().1["nodes"].as_array().unwrap() {
        if node["is_alive"] == false {
            lab.docent(&["nodes", "remove", &node["id"].to_string()]).unwrap();
        }
    }
    lab.add_node().unwrap();
    lab.add_node().unwrap();
    wait_for(&lab, "three replicas of each shard", |state| {
        let shards = state["shards"].as_array().unwrap();
        shards.iter().all(|shard| shard["nodes"].as_array().unwrap().len() == 3 && shard["move"].is_null())
    });
    lab.docent(&["verify"]).unwrap();
    traffic.ledger().audit(&lab).unwrap();
    assert!(lost(&lab).is_empty());
}
