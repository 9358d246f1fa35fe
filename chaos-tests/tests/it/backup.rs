//! Digests, backup and restore over real processes.

use anyhow::{Context, Result, ensure};
use docent_chaos::client::{Client, ids};
use docent_chaos::lab::{Lab, Options};
use docent_chaos::ledger::Ledger;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const USERS: u64 = 97;
const ITEMS: u64 = 53;
const BATCH: u64 = 50;

fn event(number: u64) -> Value {
    json!({
        "event_id": format!("e{number}"), "user_id": format!("u{}", number % USERS), "item_id": format!("i{}", number % ITEMS),
        "type": "click", "timestamp": 1_700_000_000_000u64 + number,
    })
}

/// Sends a batch and notes what was acked. A failed request leaves every event of it unknown.
fn send(client: &Client, numbers: std::ops::Range<u64>, ledger: &mut Ledger) {
    let events: Vec<Value> = numbers.clone().map(event).collect();
    let outcomes = client.ingest(&events).unwrap_or_else(|_| vec!["unknown".to_owned(); events.len()]);
    numbers.zip(outcomes).for_each(|(number, outcome)| ledger.note(&format!("e{number}"), &outcome));
}

fn exported(lab: &Lab) -> Vec<Value> {
    let text = lab.docent(&["export", "events"]).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The digest of each shard; fails where replicas do not agree.
fn digests(lab: &Lab) -> Result<BTreeMap<String, String>> {
    let told: Value = serde_json::from_str(&lab.docent(&["verify", "--output", "json"])?)?;
    ensure!(told["agrees"] == true, "{told:#}");
    let shards = told["shards"].as_array().context("no shards")?;
    shards.iter().map(|shard| digest_of(shard, "digest")).collect()
}

fn digest_of(shard: &Value, key: &str) -> Result<(String, String)> {
    let text = |key: &str| shard[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {shard}"));
    Ok((text("shard")?, text(key)?))
}

fn refusal(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.docent_output(arguments).unwrap();
    assert!(!output.status.success(), "{arguments:?} succeeded");
    String::from_utf8(output.stderr).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What the source cluster was, for the judge of the restored ones.
struct Source {
    /// Acked before the backup began: there, exactly once. What was sent later may be there.
    ledger: Ledger,
    /// By shard, from the manifest.
    digests: BTreeMap<String, String>,
}

/// A cluster of three nodes, backed up into `dir/b` while two writers are at work.
fn back_up(dir: &Path) -> Source {
    let lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    let client = lab.client(0);
    let mut ledger = Ledger::default();
    (0..40).for_each(|batch| send(&client, batch * BATCH..(batch + 1) * BATCH, &mut ledger));
    assert_eq!(ledger.acked() as u64, 40 * BATCH);
    for (path, body) in [
        ("/v1/users/u1/consent", json!({ "collect": true, "recommend": false, "train": false })),
        ("/v1/users/u2/blocks", json!({ "item_ids": ["i7"] })),
        ("/v1/items/i3", json!({ "title": "The third" })),
    ] {
        assert_eq!(client.put(path, &body).unwrap().0, 200, "{path}");
    }
    assert_eq!(client.post("/v1/items/i5:take-down", &json!({})).unwrap().0, 200);
    assert_eq!(digests(&lab).unwrap().len(), 12, "a healthy cluster agrees on every shard");

    let (next, stop) = (AtomicU64::new(40), AtomicBool::new(false));
    let clients = [lab.client(1), lab.client(2)];
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let batch = next.fetch_add(1, Ordering::Relaxed);
                    send(client, batch * BATCH..(batch + 1) * BATCH, &mut Ledger::default());
                }
            });
        }
        while next.load(Ordering::Relaxed) < 50 {
            std::thread::yield_now();
        }
        lab.docent(&["backup", "create", dir.to_str().unwrap(), "--name", "b"]).unwrap();
        assert_eq!(digests(&lab).unwrap().len(), 12, "replicas are compared at one index, under load too");
        stop.store(true, Ordering::Relaxed);
    });
    (40 * BATCH..next.load(Ordering::Relaxed) * BATCH).for_each(|i| ledger.note(&format!("e{i}"), "unknown"));

    let backup = dir.join("b");
    let refused = refusal(&lab, &["backup", "restore", backup.to_str().unwrap()]);
    assert!(refused.contains("is not empty") && refused.contains("new, empty cluster"), "{refused}");
    assert_eq!(lab.complaints(), Vec::<String>::new());
    let manifest: Value = serde_json::from_slice(&std::fs::read(backup.join("manifest.json")).unwrap()).unwrap();
    let shards = manifest["shards"].as_array().unwrap();
    let digests = shards.iter().map(|shard| digest_of(shard, "content").unwrap()).collect();
    Source { ledger, digests }
}

/// A missing or altered part is refused by name before anything is sent.
fn refuses_damage(lab: &Lab, dir: &Path) {
    let damaged = dir.join(format!("damaged-{}", lab.nodes.len()));
    copy(&dir.join("b"), &damaged);
    let path = damaged.to_str().unwrap();
    let part = damaged.join("users-2.part");
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    assert!(refusal(lab, &["backup", "restore", path]).contains("users-2.part"));
    std::fs::remove_file(&part).unwrap();
    assert!(refusal(lab, &["backup", "restore", path]).contains("users-2.part"));
    assert!(refusal(lab, &["backup", "list", path]).contains("missing"));
    assert!(exported(lab).is_empty(), "nothing was sent");
    std::fs::remove_dir_all(&damaged).unwrap();
}

/// A restore that is killed while it sends leaves a closed cluster; all processes die too.
fn interrupt(lab: &mut Lab, backup: &str) {
    let mut child = lab.docent_spawn(&["backup", "restore", backup]).unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("sending")), "the restore ended before it began");
    child.kill().unwrap();
    child.wait().unwrap();
    let (status, body) = lab.client(0).post("/v1/events", &json!({ "events": [event(0)] })).unwrap();
    assert_eq!(status, 503, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("being restored"), "{message}");
    lab.members().try_for_each(|member| member.kill()).unwrap();
    lab.members().try_for_each(|member| member.start()).unwrap();
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "not {what}");
        std::thread::sleep(Duration::from_millis(50)); // between looks at other processes
    }
}

/// Everything acked is there once, every digest is the backup's, every node serves it, and the cluster lives on.
fn judge(lab: &Lab, source: &Source) {
    assert_eq!(digests(lab).unwrap(), source.digests);
    let events = exported(lab);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    events.iter().for_each(|event| *counts.entry(event["item_id"].as_str().unwrap().to_owned()).or_default() += 1);
    let violations = source.ledger.violations(events.into_iter());
    assert!(violations.is_empty(), "{:#?}", &violations[..violations.len().min(10)]);

    let client = lab.client(0);
    assert_eq!(client.get("/v1/users/u1/consent").unwrap().1["recommend"], false);
    assert_eq!(client.get("/v1/users/u2/blocks").unwrap().1["item_ids"], json!(["i7"]));
    let item = client.get("/v1/items/i3").unwrap().1;
    assert_eq!(item["title"], "The third", "{item}");
    // User shards publish their counts anew; every replica lists the items by them.
    let mut expected: Vec<(u64, String)> = counts.into_iter().map(|(id, count)| (count, id)).collect();
    expected.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let expected: Vec<String> = expected.into_iter().map(|(_, id)| id).filter(|id| id != "i5").collect();
    for i in 0..lab.nodes.len() {
        let client = lab.client(i);
        eventually("the popular items of the backup", || {
            client.get("/v1/popular?n=100").is_ok_and(|(_, answer)| ids(&answer) == expected)
        });
    }
    let again = client.ingest(&[event(1), json!({ "event_id": "new", "user_id": "u3", "item_id": "i9" })]).unwrap();
    assert_eq!(again, ["duplicate", "accepted"]);
    assert_eq!(lab.docent(&["verify"]).unwrap().matches("agree").count(), 12);
}

#[test]
fn a_backup_under_load_is_restored_into_five_nodes_and_into_one() {
    let dir = tempfile::tempdir().unwrap();
    let source = back_up(dir.path());
    let backup = dir.path().join("b");
    let backup = backup.to_str().unwrap();
    for nodes in [5, 1] {
        let node_settings = "[gateway]\nwrite_deadline_ms = 3000\n".to_owned();
        let options =
            Options { nodes, replication: nodes.min(3), coordinators: 1, node_settings, ..Options::default() };
        let mut lab = Lab::start(&options).unwrap();
        refuses_damage(&lab, dir.path());
        if nodes == 5 {
            interrupt(&mut lab, backup);
        }
        lab.docent(&["backup", "restore", backup]).unwrap();
        lab.wait_ready(Duration::from_secs(60)).unwrap();
        assert!(lab.docent(&["backup", "restore", backup]).unwrap().contains("nothing was done"));
        judge(&lab, &source);
        assert!(!lab.logs(10_000).contains("different states"), "replicas disagree");
    }
}

/// A cluster with another placement key or other shards cannot take the records: refused with what to do.
#[test]
fn a_backup_is_refused_by_a_cluster_of_another_key_or_layout() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let small =
        || Options { nodes: 1, coordinators: 1, replication: 1, user_shards: 2, item_shards: 1, ..Options::default() };
    {
        let lab = Lab::start(&small()).unwrap();
        send(&lab.client(0), 0..50, &mut Ledger::default());
        lab.docent(&["backup", "create", path, "--name", "b"]).unwrap();
        assert!(refusal(&lab, &["backup", "create", path, "--name", "b"]).contains("is there already"));
        assert!(refusal(&lab, &["backup", "create", path, "--name", "../x"]).contains("--name"));
        let listed: Value =
            serde_json::from_str(&lab.docent(&["backup", "list", path, "--output", "json"]).unwrap()).unwrap();
        assert_eq!(listed["backups"][0]["name"], "b", "{listed}");
        let settings = lab.docent(&["backup", "show", path, "--settings"]).unwrap();
        assert_eq!(
            settings,
            "placement_key = \"000102030405060708090a0b0c0d0e0f\"\nuser_shards = 2\nitem_shards = 1\n"
        );
    }
    let other = Options { placement_key: "ff".repeat(16), ..small() };
    let told = refusal(&Lab::start(&other).unwrap(), &["backup", "restore", path]);
    assert!(told.contains("another placement key") && told.contains("--settings"), "{told}");
    let other = Options { user_shards: 3, ..small() };
    let told = refusal(&Lab::start(&other).unwrap(), &["backup", "restore", path]);
    assert!(told.contains("2 of users and 1 of items"), "{told}");
}

/// A replica that cannot be asked is told by node and shard, and the exit code says so; the rest is compared all the same.
#[test]
fn verify_names_a_node_that_gives_no_digest() {
    let mut lab =
        Lab::start(&Options { coordinators: 1, user_shards: 2, item_shards: 1, ..Options::default() }).unwrap();
    send(&lab.client(0), 0..500, &mut Ledger::default());
    lab.nodes[2].kill().unwrap();
    let output = lab.docent_output(&["verify", "--within", "20", "--output", "json"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    for shard in told["shards"].as_array().unwrap() {
        let answered = shard["replicas"].as_array().unwrap().iter().filter(|replica| replica["error"].is_null());
        assert_eq!((answered.count(), shard["agrees"].as_bool()), (2, Some(false)), "{shard:#}");
    }
    assert!(String::from_utf8(output.stderr).unwrap().contains("gave no digest"));
}
