//! Training jobs live in the catalog: cancelled by command, retried after a failure, one live version for the whole cluster.

use docent_chaos::client::Client;
use docent_chaos::jobs;
use docent_chaos::lab::repeater::Repeater;
use docent_chaos::lab::{Lab, Options};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn filled() -> Lab {
    let lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    fill(&lab);
    lab
}

fn fill(lab: &Lab) {
    lab.docent(&["import", "generated", "--users", "1000", "--items", "500", "--events", "30000", "--seed", "5"])
        .unwrap();
}

/// Far above what any of these jobs takes.
const GUARD: Duration = Duration::from_secs(90);

fn is_under_way(job: &Value) -> bool {
    job["state"] == "running" && job["progress"]["epoch"].as_u64().is_some_and(|epoch| epoch >= 1)
}

#[test]
fn a_cancelled_job_ends_and_versions_go_live_and_back_everywhere_at_once() {
    let lab = filled();
    let clients: Vec<Client> = (0..3).map(|i| lab.client(i)).collect();
    let id = jobs::start(&clients[0], &json!({ "dim": 64, "epochs": 1000, "holdout": 0.0 })).unwrap();
    jobs::wait(&clients[0], id, "under way", GUARD, is_under_way).unwrap();
    let (status, body) = clients[1].post(&format!("/v1/jobs/{id}:cancel"), &json!({})).unwrap();
    assert_eq!(status, 200, "{body}");
    jobs::wait(&clients[2], id, "cancelled", GUARD, |job| job["state"] == "cancelled").unwrap();
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
fn a_job_goes_on_from_the_live_version_with_what_came_since() {
    let lab = filled();
    let client = lab.client(1);
    // Trains the next version, makes it live and gives its job.
    let run = |version: u64, flags: &[&str]| {
        let always = ["train", "--wait", "--force", "--epochs", "8", "--warm-epochs", "2", "--regularization", "0.01"];
        lab.docent(&[&always, flags].concat()).unwrap();
        let (_, listed) = client.get("/v1/jobs").unwrap();
        let made = listed["jobs"].as_array().unwrap().iter().find(|job| job["version"] == version).cloned();
        made.unwrap_or_else(|| panic!("nothing made version {version}: {listed}"))
    };
    let passes = |job: &Value, phase: &str| {
        let of_phase = |step: &&Value| step["phase"] == phase;
        let last = job["course"].as_array().unwrap().iter().rfind(of_phase).cloned();
        last.map(|step| step["epoch"].as_u64().unwrap())
    };
    let first = run(1, &["--dim", "16"]);
    assert_eq!((&first["settings"]["warm_from"], passes(&first, "train")), (&Value::Null, Some(8)), "{first}");

    // Users and items that the first version has not seen.
    lab.docent(&["import", "generated", "--users", "1200", "--items", "550", "--events", "36000", "--seed", "5"])
        .unwrap();
    let second = run(2, &["--dim", "16"]);
    assert_eq!(second["settings"]["warm_from"], 1, "{second}");
    assert_eq!((passes(&second, "train to evaluate"), passes(&second, "train")), (Some(8), Some(2)), "{second}");
    // Nothing came since, and nothing is measured: from the same version the same passes make the same parts.
    let again = run(3, &["--dim", "16", "--warm-from", "1", "--holdout", "0"]);
    assert_eq!(passes(&again, "train to evaluate"), None);
    let hashes = |version: u64| jobs::part_hashes(&client, version).unwrap();
    assert_eq!(hashes(3), hashes(2));
    let wider = run(4, &["--dim", "8", "--holdout", "0"]);
    assert_eq!(
        (&wider["settings"]["warm_from"], passes(&wider, "train")),
        (&Value::Null, Some(8)),
        "another dimension"
    );

    let refused = lab.docent(&["train", "--warm-epochs", "1", "--warm-from", "99"]).unwrap_err().to_string();
    assert!(refused.contains("no model version 99"), "{refused}");
    let retired =
        lab.docent(&["train", "--dim", "16", "--warm-epochs", "1", "--warm-from", "1"]).unwrap_err().to_string();
    assert!(retired.contains("version 1 is not kept"), "{retired}");
    let named = ["schedule", "set", "hourly", "--every", "1h", "--warm-epochs", "1", "--warm-from", "3"];
    assert!(lab.docent(&named).unwrap_err().to_string().contains("warm_from"));
}

/// Jobs of many barriers.
const LONG: [&str; 3] = [
    r#"{ "dim": 32, "epochs": 40, "holdout": 0.0 }"#,
    r#"{ "algorithm": "softmax", "dim": 16, "epochs": 8, "batch": 4096, "negatives": 128, "holdout": 0.0 }"#,
    r#"{ "algorithm": "softmax", "dim": 16, "epochs": 16, "batch": 4096, "negatives": 128, "staleness": 2, "holdout": 0.0 }"#,
];

#[test]
fn a_job_whose_driver_is_killed_goes_on_with_another_to_the_same_bytes() {
    for settings in LONG {
        let settings: Value = serde_json::from_str(settings).unwrap();
        let mut lab = Lab::start(&Options {
            coordinators: 1,
            // One at each barrier: what was done when the driver died is kept, however fast the machine is.
            node_settings: "[train]\ncheckpoint_interval_ms = 0\n".to_owned(),
            ..Options::default()
        })
        .unwrap();
        fill(&lab);
        let clean = jobs::start(&lab.client(0), &settings).unwrap();
        jobs::finished(&lab.client(0), clean, GUARD).unwrap();

        let id = jobs::start(&lab.client(0), &settings).unwrap();
        let running = jobs::wait(&lab.client(0), id, "half done", GUARD, |job| jobs::has_done(job, 0.5)).unwrap();
        let victim = jobs::place(&lab, &lab.client(0), running["driver"].as_u64().unwrap()).unwrap();
        lab.nodes[victim].kill().unwrap();
        let survivor = lab.client((victim + 1) % 3);
        let again = jobs::wait(&survivor, id, "with another", GUARD, |job| {
            job["attempt"] != running["attempt"] && jobs::has_done(job, 0.0)
        });
        let again = again.unwrap();
        assert!(jobs::has_done(&again, 0.25), "what was done is done again: {again}");
        let ended = jobs::finished(&survivor, id, GUARD).unwrap();
        assert_ne!(ended["driver"], running["driver"]);
        let version = |job: u64| jobs::job(&survivor, job).unwrap()["version"].as_u64().unwrap();
        let hashes = |job: u64| jobs::part_hashes(&survivor, version(job)).unwrap();
        assert_eq!(hashes(id), hashes(clean));
        let start = Instant::now();
        while survivor.recommend("1", 3).unwrap()["model"]["version"] != version(id) {
            assert!(start.elapsed() < GUARD, "the model does not go live on two nodes:\n{}", lab.logs(20));
        }
    }
}

#[test]
fn a_job_whose_requests_all_come_twice_ends_with_the_same_bytes() {
    const FAMILIES: [&str; 6] = [
        r#"{ "dim": 16, "epochs": 4, "holdout": 0.1 }"#,
        r#"{ "algorithm": "graph", "neighbours": 50, "holdout": 0.1 }"#,
        r#"{ "algorithm": "softmax", "dim": 16, "epochs": 2, "batch": 4096, "negatives": 128, "holdout": 0.1 }"#,
        r#"{ "algorithm": "tower", "dim": 16, "epochs": 2, "batch": 4096, "negatives": 128, "holdout": 0.1 }"#,
        r#"{ "algorithm": "softmax", "dim": 16, "epochs": 2, "batch": 4096, "staleness": 2, "holdout": 0.1 }"#,
        r#"{ "dim": 16, "epochs": 4, "min_positives": 30, "items_max": 300, "holdout": 0.1 }"#,
    ];
    let parts = |repeats: bool| -> Vec<_> {
        let lab = Lab::start(&Options { coordinators: 1, repeats, ..Options::default() }).unwrap();
        fill(&lab);
        let client = lab.client(0);
        let hashes = FAMILIES.map(|settings| {
            let repeated = || lab.repeater().map(Repeater::repeated);
            let before = repeated();
            let job = jobs::start(&client, &serde_json::from_str(settings).unwrap()).unwrap();
            let ended = jobs::finished(&client, job, GUARD).unwrap();
            assert_eq!(ended["attempt"], 1, "{ended}");
            // Each host is asked at least to open, to load, to link, to train, to publish.
            assert!(before.zip(repeated()).is_none_or(|(before, after)| after > before + 15), "{settings}");
            jobs::part_hashes(&client, ended["version"].as_u64().unwrap()).unwrap()
        });
        hashes.into()
    };
    assert_eq!(parts(false), parts(true));
}

/// What nearly nobody likes costs a model nothing, and is served as a new item is.
#[test]
fn items_that_are_not_admitted_are_in_no_model_and_known_all_the_same() {
    let lab = filled();
    let client = lab.client(0);
    let train = |flags: &[&str]| -> Value {
        let all =
            [&["--output", "json", "train", "--wait", "--force", "--dim", "16", "--epochs", "4"][..], flags].concat();
        let said: Value = serde_json::from_str(&lab.docent(&all).unwrap()).unwrap();
        said["model"].clone()
    };
    let figure = |model: &Value, name: &str| model["metrics"][name].as_f64().unwrap();
    let whole = train(&[]);
    let few = train(&["--items-max", "100"]);
    assert!(figure(&whole, "items") > 300.0, "{whole}");
    assert!((1.0..=100.0).contains(&figure(&few, "items")), "{few}");
    assert_eq!(few["settings"]["items_max"], 100);
    assert_eq!(figure(&few, "users"), figure(&whole, "users"), "a user of other items alone is a user");
    let listed = client.recommend("1", 200).unwrap();
    let items = listed["items"].as_array().unwrap();
    assert_eq!(listed["model"]["version"], few["version"]);
    assert!(items.len() > 100, "more than the model has: {listed}");
    let refused = lab.docent(&["train", "--min-positives", "1000000", "--wait"]).unwrap_err().to_string();
    assert!(refused.contains("no item is in the model"), "{refused}");
}
