//! What bad input gets: a clear error that names the field, the documented status, and nothing half-applied.

use docent_chaos::client::Client;
use docent_chaos::lab::{Lab, Options, docent};
use serde_json::{Value, json};
use std::process::Command;

/// A request, the status it must get, and what the error must name: its field, or words of its message.
struct Case {
    what: &'static str,
    reply: anyhow::Result<(u16, Value)>,
    status: u16,
    names: &'static str,
}

fn case(what: &'static str, reply: anyhow::Result<(u16, Value)>, status: u16, names: &'static str) -> Case {
    Case { what, reply, status, names }
}

fn check(cases: Vec<Case>) {
    for case in cases {
        let (status, body) = case.reply.unwrap();
        assert_eq!(status, case.status, "{}: {body}", case.what);
        let error = &body["error"];
        let named = format!(
            "{} {}",
            error["field"].as_str().unwrap_or_default(),
            error["message"].as_str().unwrap_or_default()
        );
        assert!(named.contains(case.names), "{}: {body} does not name {:?}", case.what, case.names);
        assert!(error["kind"].is_string(), "{}: {body}", case.what);
    }
}

fn event(change: impl FnOnce(&mut Value)) -> Value {
    let mut event = json!({ "event_id": "bad", "user_id": "u", "item_id": "i", "type": "click", "timestamp": 1_700_000_000_000u64 });
    change(&mut event);
    json!({ "events": [event] })
}

/// Events that are refused one by one: the request succeeds and says which field of which event.
fn rejected(client: &Client, what: &str, body: &Value, field: &str) {
    let (status, body) = client.post("/v1/events", body).unwrap();
    assert_eq!(status, 200, "{what}: {body}");
    let result = &body["results"][0];
    assert_eq!(result["outcome"], "rejected", "{what}: {body}");
    assert!(
        result["error"]["field"].as_str().unwrap_or_default().contains(field),
        "{what}: {body} does not name {field}"
    );
}

fn bad_events(client: &Client) {
    let long = "x".repeat(257);
    rejected(client, "empty user", &event(|e| e["user_id"] = json!("")), "user_id");
    rejected(client, "long user", &event(|e| e["user_id"] = json!(long)), "user_id");
    rejected(client, "empty item", &event(|e| e["item_id"] = json!("")), "item_id");
    rejected(client, "long event id", &event(|e| e["event_id"] = json!("e".repeat(65))), "event_id");
    rejected(client, "infinite value", &event(|e| e["value"] = json!(1e300)), "value");
    rejected(client, "far future", &event(|e| e["timestamp"] = json!("2200-01-01T00:00:00Z")), "timestamp");
    rejected(client, "before 1970", &event(|e| e["timestamp"] = json!(-5)), "timestamp");
    check(vec![
        case("unknown field", client.post("/v1/events", &event(|e| e["colour"] = json!("red"))), 400, "colour"),
        case("wrong type", client.post("/v1/events", &event(|e| e["user_id"] = json!(7))), 400, "user_id"),
        case("not JSON", client.post_raw("/v1/events", b"{\"events\": ["), 400, ""),
        case("invalid UTF-8", client.post_raw("/v1/events", b"{\"events\": [{\"user_id\": \"\xff\"}]}"), 400, ""),
        case(
            "NaN",
            client.post_raw("/v1/events", b"{\"events\": [{\"user_id\": \"u\", \"item_id\": \"i\", \"value\": NaN}]}"),
            400,
            "",
        ),
    ]);
    let many: Vec<Value> =
        (0..10_001).map(|i| json!({ "event_id": format!("m{i}"), "user_id": "u", "item_id": "i" })).collect();
    let huge = json!({ "events": [{ "user_id": "u", "item_id": "i", "context": { "k": "x".repeat(9 << 20) } }] });
    check(vec![
        case("10,001 events", client.post("/v1/events", &json!({ "events": many })), 400, "events"),
        case("9 MiB", client.post("/v1/events", &huge), 413, ""),
    ]);
}

fn bad_queries(client: &Client) {
    let recommend = |body: Value| client.post("/v1/recommend", &body);
    check(vec![
        case("n of 0", recommend(json!({ "user_id": "u", "n": 0 })), 400, "n"),
        case("n of 1001", recommend(json!({ "user_id": "u", "n": 1001 })), 400, "n"),
        case("reserved", recommend(json!({ "user_id": "u", "diversity": 0.5 })), 501, "diversity"),
        case("unknown field", recommend(json!({ "user_id": "u", "mood": 1 })), 400, "mood"),
        case("bad session", recommend(json!({ "user_id": "u", "session": "garbage" })), 400, "session"),
        case("no user", recommend(json!({ "n": 5 })), 400, "user_id"),
        case("unknown user", client.get("/v1/users/nobody"), 404, ""),
        case("unknown item", client.get("/v1/items/nothing"), 404, ""),
        case("like an unknown item", client.get("/v1/items/nothing/similar"), 404, ""),
        case("take-down of an unknown item", client.post("/v1/items/nothing:take-down", &json!({})), 404, ""),
        case("unknown path", client.get("/v1/nowhere"), 404, ""),
        case("unknown version", client.post("/v1/models/99:activate", &json!({})), 404, "99"),
        case("unknown job", client.post("/v1/jobs/99:cancel", &json!({})), 404, "99"),
        case("unknown schedule", client.delete("/v1/schedules/none"), 404, "none"),
        case("never due", client.put("/v1/schedules/s", &json!({})), 400, "every"),
        case("no time", client.put("/v1/schedules/s", &json!({ "every": "soon" })), 400, "every"),
        case("no name", client.put("/v1/schedules/A%20b", &json!({ "every": "6h" })), 400, "name"),
        case("unknown study", client.delete("/v1/studies/none"), 404, "none"),
        case("nothing to search", client.put("/v1/studies/s", &json!({ "space": {} })), 400, "space"),
        case("half a range", client.put("/v1/studies/s", &json!({ "space": { "dim": { "low": 1 } } })), 400, "space"),
        case(
            "a range beyond the setting's",
            client.put("/v1/studies/s", &json!({ "space": { "dim": { "low": 0, "high": 9 } } })),
            400,
            "dim",
        ),
        case("bad setting", client.post("/v1/jobs", &json!({ "dim": 0 })), 400, "dim"),
        case("consent that is not a flag", client.put("/v1/users/u/consent", &json!({ "train": "no" })), 400, "train"),
        case(
            "a category too long",
            client.put("/v1/items/i", &json!({ "categories": ["c".repeat(65)] })),
            400,
            "categories",
        ),
    ]);
}

/// Everything that was refused left no trace.
fn nothing_is_left(lab: &Lab) {
    assert_eq!(lab.docent(&["export", "events"]).unwrap().trim(), "");
    assert_eq!(lab.client(0).get("/v1/users/u").unwrap().0, 404);
}

fn start_expecting_failure(lab: &Lab, change: impl FnOnce(String) -> String) -> String {
    let config = std::fs::read_to_string(lab.dir().join("node-1.toml")).unwrap();
    let path = lab.dir().join("broken.toml");
    std::fs::write(&path, change(config)).unwrap();
    let output = Command::new(docent().unwrap()).args(["node", "--config"]).arg(&path).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The settings with another data directory.
fn data_dir(config: &str, from: &str, to: &str) -> String {
    config.replace(&format!("data_dir = {from:?}"), &format!("data_dir = {to:?}"))
}

fn port(config: &str, key: &str) -> String {
    let line = config.lines().find(|line| line.starts_with(key)).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

/// Settings and directories that must not start: each says what is wrong and what to do.
fn bad_starts(lab: &Lab) {
    let fresh = |config: String, name: &str| {
        let dir = lab.dir().join(name).display().to_string();
        data_dir(&config, &lab.dir().join("node-1").display().to_string(), &dir)
    };
    let free = |config: String| {
        let (internal, query) = (port(&config, "internal_listen"), port(&config, "query_listen"));
        config
            .replace(&format!("internal_listen = \"{internal}\""), "internal_listen = \"127.0.0.1:0\"")
            .replace(&format!("query_listen = \"{query}\""), "query_listen = \"127.0.0.1:0\"")
    };
    let in_use = start_expecting_failure(lab, |config| fresh(config, "other"));
    assert!(in_use.contains("in use"), "{in_use}");
    let locked = start_expecting_failure(lab, free);
    assert!(locked.contains("another docent"), "{locked}");
    let unknown = start_expecting_failure(lab, |config| format!("colour = 1\n{config}"));
    assert!(unknown.contains("colour"), "{unknown}");
    let open = start_expecting_failure(lab, |config| {
        fresh(config, "open").replace("query_listen = \"127.0.0.1", "query_listen = \"0.0.0.0")
    });
    assert!(open.contains("insecure"), "{open}");
}

#[test]
fn bad_input_gets_a_clear_error_and_leaves_nothing() {
    let lab = Lab::start(&Options { nodes: 1, coordinators: 1, replication: 1, ..Options::default() }).unwrap();
    let client = lab.client(0);
    bad_events(&client);
    bad_queries(&client);
    nothing_is_left(&lab);
    bad_starts(&lab);
    assert!(client.is_ready(), "{}", lab.logs(20));
}

/// A token admits one node, and a directory belongs to one cluster.
#[test]
fn a_used_token_and_a_foreign_directory_are_refused() {
    let mut lab = Lab::start(&Options { nodes: 1, coordinators: 1, replication: 1, ..Options::default() }).unwrap();
    let config = std::fs::read_to_string(lab.dir().join("node-1.toml")).unwrap();
    let own = lab.dir().join("node-1").display().to_string();
    let listen = |config: String| {
        let mut ports = ["internal_listen", "query_listen"].map(|key| port(&config, key)).into_iter();
        let (internal, query) = (ports.next().unwrap(), ports.next().unwrap());
        config.replace(&internal, "127.0.0.1:17871").replace(&query, "127.0.0.1:17872")
    };
    let used = start_expecting_failure(&lab, |config| listen(data_dir(&config, &own, &format!("{own}-second"))));
    assert!(used.contains("token") && used.contains("docent token create"), "{used}");

    lab.members().try_for_each(|member| member.kill()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("node");
    std::fs::rename(&own, &kept).unwrap();
    drop(lab);
    let other = Lab::start(&Options { nodes: 1, coordinators: 1, replication: 1, ..Options::default() }).unwrap();
    let theirs = std::fs::read_to_string(other.dir().join("node-1.toml")).unwrap();
    let coordinators = |config: &str| config.lines().find(|line| line.starts_with("coordinators")).unwrap().to_owned();
    let foreign = start_expecting_failure(&other, |_| {
        listen(
            data_dir(&config, &own, &kept.display().to_string())
                .replace(&coordinators(&config), &coordinators(&theirs)),
        )
    });
    assert!(foreign.contains("cluster"), "{foreign}");
}
