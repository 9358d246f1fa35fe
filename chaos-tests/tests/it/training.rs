//! Training jobs live in the catalog: cancelled by command, retried after a failure, one live version for the whole cluster.

use docent_chaos::client::Client;
use docent_chaos::lab::{Lab, Options};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn filled() -> Lab {
    let lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    lab.docent(&["import", "generated", "--users", "1000", "--items", "500", "--events", "30000", "--seed", "5"])
        .unwrap();
    lab
}

fn job(client: &Client, id: &Value) -> Value {
    let (_, body) = client.get("/v1/jobs").unwrap();
    body["jobs"].as_array().unwrap().iter().find(|job| job["id"] == *id).cloned().unwrap()
}

/// Polls a job until `is_there`; the guard is far above what it takes.
fn wait(client: &Client, id: &Value, what: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let job = job(client, id);
        if is_there(&job) {
            return job;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "the job is not {what}: {job}");
        std::thread::sleep(Duration::from_millis(20)); // between polls of another process
    }
}

fn start(client: &Client, settings: Value) -> Value {
    let (status, body) = client.post("/v1/jobs", &settings).unwrap();
    assert!((200..300).contains(&status), "{status}: {body}");
    body["id"].clone()
}

fn is_under_way(job: &Value) -> bool {
    job["state"] == "running" && job["progress"]["epoch"].as_u64().is_some_and(|epoch| epoch >= 1)
}

#[test]
fn a_cancelled_job_ends_and_versions_go_live_and_back_everywhere_at_once() {
    let lab = filled();
    let clients: Vec<Client> = (0..3).map(|i| lab.client(i)).collect();
    let id = start(&clients[0], json!({ "dim": 64, "epochs": 1000, "holdout": 0.0 }));
    wait(&clients[0], &id, "under way", is_under_way);
    let (status, body) = clients[1].post(&format!("/v1/jobs/{id}:cancel"), &json!({})).unwrap();
    assert_eq!(status, 200, "{body}");
    wait(&clients[2], &id, "cancelled", |job| job["state"] == "cancelled");
    assert_eq!(clients[0].recommend("1", 3).unwrap()["model"]["version"], 0, "a cancelled job must not go live");

    for version in [1, 2] {
        lab.docent(&["train", "--dim", "8", "--epochs", "2", "--seed", &version.to_string(), "--wait"]).unwrap();
        assert_eq!(versions(&clients), [version; 3]);
    }
    let (status, body) = clients[1].post("/v1/models:rollback", &json!({})).unwrap();
    assert_eq!(status, 200, "{body}");
    let start = Instant::now();
    while versions(&clients) != [1; 3] {
        assert!(start.elapsed() < Duration::from_secs(30), "the rollback is not everywhere: {:?}", versions(&clients));
    }
}

/// A version that is much worse than the live one must not become live unless somebody insists.
#[test]
fn a_worse_version_is_held_back_and_evaluation_says_why() {
    let lab = filled();
    let client = lab.client(0);
    lab.docent(&["train", "--dim", "16", "--epochs", "6", "--wait"]).unwrap();
    // One dimension tells six kinds of users apart by nothing but a sign.
    let refused = lab.docent(&["train", "--dim", "1", "--epochs", "1", "--wait"]).unwrap_err().to_string();
    assert!(refused.contains("version 2 is staged and not live: its ndcg@20"), "{refused}");
    assert_eq!(versions(&[lab.client(0), lab.client(1), lab.client(2)]), [1; 3]);
    let (_, listed) = client.get("/v1/models").unwrap();
    let held_back = |version: usize| listed["models"][version - 1]["held_back"].clone();
    assert_eq!(held_back(1), Value::Null);
    assert!(held_back(2).as_str().is_some_and(|why| why.contains("live version 1")), "{listed}");

    let shown = lab.docent(&["--output", "json", "evaluate", "1"]).unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let figure = |name: &str| shown["metrics"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {shown}"));
    assert!(figure("ndcg@20.low") < figure("ndcg@20") && figure("ndcg@20") < figure("ndcg@20.high"));
    assert!((0.0..=1.0).contains(&figure("coverage@20")) && figure("novelty@20") > 0.0);
    let tried = lab.docent(&["evaluate", "--dim", "4", "--epochs", "2"]).unwrap();
    assert!(tried.contains("version 3, algorithm ials") && tried.contains("users by their positives"), "{tried}");
    assert_eq!(client.recommend("1", 3).unwrap()["model"]["version"], 1, "what is only tried does not become live");

    let (status, body) = client.post("/v1/models/2:activate", &json!({})).unwrap();
    assert_eq!((status, body["error"]["kind"].as_str()), (409, Some("conflict")), "{body}");
    lab.docent(&["models", "activate", "2", "--force"]).unwrap();
    assert_eq!(client.recommend("1", 3).unwrap()["model"]["version"], 2);
    lab.docent(&["train", "--dim", "4", "--epochs", "1", "--holdout", "0", "--no-activate", "--wait"]).unwrap();
    let unmeasured = lab.docent(&["evaluate", "4"]).unwrap_err();
    assert!(unmeasured.to_string().contains("version 4 was not measured"), "{unmeasured}");
}

fn versions(clients: &[Client]) -> Vec<u64> {
    clients.iter().map(|client| client.recommend("1", 3).unwrap()["model"]["version"].as_u64().unwrap()).collect()
}

#[test]
fn a_job_whose_driver_is_killed_is_run_again_by_another() {
    let mut lab = filled();
    let id = start(&lab.client(0), json!({ "dim": 32, "epochs": 300, "holdout": 0.0 }));
    let running = wait(&lab.client(0), &id, "under way", is_under_way);
    let driver = running["driver"].as_u64().unwrap();
    let (_, cluster) = lab.client(0).get("/v1/cluster").unwrap();
    let member = cluster["nodes"].as_array().unwrap().iter().find(|node| node["id"] == driver).unwrap();
    let victim = lab.nodes.iter().position(|node| member["query_addr"] == node.query_addr).unwrap();
    lab.nodes[victim].kill().unwrap();
    let survivor = lab.client((victim + 1) % 3);
    let ended = wait(&survivor, &id, "done", |job| job["state"] == "succeeded");
    assert!(ended["attempt"].as_u64().unwrap() > running["attempt"].as_u64().unwrap(), "{ended}");
    assert_ne!(ended["driver"], running["driver"]);
    let start = Instant::now();
    while survivor.recommend("1", 3).unwrap()["model"]["version"] != 1 {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "the model does not go live on two nodes:\n{}",
            lab.logs(20)
        );
    }
}
