//! Training that begins by itself, through coordinators that die.

use docent_chaos::client::Client;
use docent_chaos::jobs;
use docent_chaos::lab::{Lab, Options};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Far above what any of it takes.
const GUARD: Duration = Duration::from_secs(90);

fn fill(lab: &Lab, seed: &str) {
    lab.docent(&["import", "generated", "--users", "500", "--items", "300", "--events", "10000", "--seed", seed])
        .unwrap();
}

fn schedule(client: &Client, name: &str) -> Option<Value> {
    let (status, listed) = client.get("/v1/schedules").unwrap();
    assert_eq!(status, 200, "{listed}");
    listed["schedules"].as_array().unwrap().iter().find(|schedule| schedule["name"] == name).cloned()
}

/// The job of a schedule's run, as soon as it is queued.
fn job_of(lab: &Lab, name: &str, run: u64) -> u64 {
    let start = Instant::now();
    loop {
        let seen = schedule(&lab.client(0), name).unwrap();
        if seen["runs"].as_u64().unwrap() >= run {
            return seen["last_job"].as_u64().unwrap();
        }
        assert!(start.elapsed() < GUARD, "run {run} does not come: {seen}\n{}", lab.logs(20));
        std::thread::sleep(Duration::from_millis(100)); // between polls of other processes
    }
}

#[test]
fn a_schedule_trains_after_new_events_whichever_coordinator_is_left() {
    let mut lab = Lab::start(&Options::default()).unwrap();
    fill(&lab, "5");
    let graph = ["--algorithm", "graph", "--neighbours", "20", "--holdout", "0"];
    let set = [&["schedule", "set", "fresh", "--after-events", "8000"][..], &graph].concat();
    let said = lab.docent(&set).unwrap();
    assert!(said.contains("schedule fresh trains graph after 8,000 new events"), "{said}");
    let first = job_of(&lab, "fresh", 1);
    jobs::finished(&lab.client(1), first, GUARD).unwrap();

    // Whoever leads now has the schedule, its last job and the events then from the catalog.
    for place in 0..lab.coordinators.len() {
        lab.coordinators[place].kill().unwrap();
        lab.coordinators[place].start().unwrap();
    }
    fill(&lab, "6");
    let second = job_of(&lab, "fresh", 2);
    let ended = jobs::finished(&lab.client(2), second, GUARD).unwrap();
    assert_eq!(ended["settings"]["algorithm"], "graph", "{ended}");
    assert!(second > first);
    let course: Vec<&str> =
        ended["course"].as_array().unwrap().iter().filter_map(|step| step["phase"].as_str()).collect();
    assert!(course.contains(&"count"), "{ended}");
    let page = lab.docent(&["report", &second.to_string()]).unwrap();
    assert!(page.contains(&format!("Training job {second}: succeeded")) && page.contains("<svg"), "{page}");
    assert_eq!(schedule(&lab.client(0), "fresh").unwrap()["runs"], 2, "no job without new events");

    let body = json!({ "every": "1s", "settings": { "algorithm": "graph", "neighbours": 20, "holdout": 0.0 } });
    let (status, answer) = lab.client(1).put("/v1/schedules/often", &body).unwrap();
    assert_eq!((status, &answer["every"], &answer["runs"]), (200, &json!("1s"), &json!(0)), "{answer}");
    let listed = lab.docent(&["schedule", "list"]).unwrap();
    assert!(listed.contains("often") && listed.contains("every 1s") && listed.contains("fresh"), "{listed}");
    job_of(&lab, "often", 2);
    lab.docent(&["schedule", "remove", "often"]).unwrap();
    assert_eq!(schedule(&lab.client(2), "fresh").unwrap()["after_events"], 8_000);
    let (status, answer) = lab.client(0).delete("/v1/schedules/often").unwrap();
    assert_eq!((status, &answer["error"]["kind"]), (404, &json!("not_found")), "{answer}");
}

#[test]
fn a_study_goes_on_through_coordinators_that_die_and_ends_with_the_best_settings_live() {
    let mut lab = Lab::start(&Options::default()).unwrap();
    fill(&lab, "5");
    let client = lab.client(1);
    let study = || {
        let (status, listed) = client.get("/v1/studies").unwrap();
        assert_eq!(status, 200, "{listed}");
        listed["studies"][0].clone()
    };
    let wait = |what: &str, is_there: &dyn Fn(&Value) -> bool| {
        let start = Instant::now();
        while !is_there(&study()) {
            assert!(start.elapsed() < GUARD, "{what} does not come: {}", study());
            std::thread::sleep(Duration::from_millis(100)); // between polls of other processes
        }
    };
    let search = ["--search", "power=0.2..4", "--search", "neighbours=1,20,40"];
    lab.docent(&[&["tune", "start", "s", "--trials", "5", "--algorithm", "graph"][..], &search].concat()).unwrap();
    wait("the first trial", &|study| study["tried"].as_array().is_some_and(|tried| !tried.is_empty()));
    for place in 0..lab.coordinators.len() {
        lab.coordinators[place].kill().unwrap();
        lab.coordinators[place].start().unwrap();
    }
    wait("the end", &|study| study["is_over"] == true);
    let study = study();
    let tried = study["tried"].as_array().unwrap();
    let score = |trial: &Value| trial["score"].as_f64().unwrap_or_else(|| panic!("{trial}"));
    assert_eq!(tried.len(), 5);
    assert_eq!(tried[0]["values"], json!({}), "the first trial is of the settings as given");
    let best = tried.iter().reduce(|best, trial| if score(trial) > score(best) { trial } else { best }).unwrap();
    let job = jobs::finished(&client, study["best_job"].as_u64().unwrap(), GUARD).unwrap();
    for name in ["power", "neighbours"] {
        let tried = best["values"][name].as_f64();
        assert!(tried.is_none() || job["settings"][name].as_f64() == tried, "{name}: {job}, {best}");
    }
    let start = Instant::now();
    while client.recommend("1", 3).unwrap()["model"]["version"] != job["version"] {
        assert!(start.elapsed() < GUARD, "the best does not go live:\n{}", lab.logs(20));
    }
    let shown = lab.docent(&["tune", "show", "s"]).unwrap();
    assert!(shown.contains("ndcg@20") && shown.contains("as given") && shown.contains("neighbours"), "{shown}");
    lab.docent(&["tune", "remove", "s"]).unwrap();
    assert_eq!(lab.client(0).delete("/v1/studies/s").unwrap().0, 404);
}
