//! The whole cluster is killed again and again while it imports and trains: what was acked is there once, and the job is done.

use docent_chaos::client::Client;
use docent_chaos::gateways::Gateways;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::traffic::{Load, Traffic, event};
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LOAD: Load = Load { events: 1.0, batch: 1, queries: 1.0, n: 10, users: 1_000, items: 500 };
/// Events of one request of the import.
const BATCH: u64 = 50;
/// Far above what a phase takes.
const PATIENCE: Duration = Duration::from_secs(120);

fn rounds() -> u64 {
    let given = std::env::var("DOCENT_ROUNDS").ok().map(|text| text.parse().expect("DOCENT_ROUNDS: a number"));
    given.unwrap_or(2)
}

fn job(client: &Client, id: &Value) -> Option<Value> {
    let (_, body) = client.get("/v1/jobs").ok()?;
    body["jobs"].as_array()?.iter().find(|job| job["id"] == *id).cloned()
}

/// Waits for a state of a job; the last thing that was seen of it where that state does not come.
fn wait_for(client: &Client, id: &Value, is_there: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let job = job(client, id);
        if let Some(job) = job.as_ref().filter(|job| is_there(job)) {
            return job.clone();
        }
        assert!(start.elapsed() < PATIENCE, "job {id} stays {job:?}");
        std::thread::sleep(Duration::from_millis(20)); // between polls of another process
    }
}

fn start_job(client: &Client, seed: u64) -> Value {
    let settings = json!({ "dim": 32, "epochs": 300, "holdout": 0.0, "seed": seed });
    let (status, body) = client.post("/v1/jobs", &settings).unwrap();
    assert!((200..300).contains(&status), "{status}: {body}");
    body["id"].clone()
}

fn batch(round: u64, number: u64) -> Vec<Value> {
    let event = |i: u64| {
        let number = number * BATCH + i;
        event(&format!("round-{round}-{number}"), (number * 31 % 1_000) as usize, (number * 17 % 500) as usize)
    };
    (0..BATCH).map(event).collect()
}

/// Imports through every node until the cluster is killed under it, which is in the middle of a training once `job` is under way.
fn killed_at_work(lab: &mut Lab, traffic: &Traffic<'_>, round: u64, job: &Value) {
    let clients: Vec<Client> = (0..lab.nodes.len()).map(|i| lab.client(i)).collect();
    let (next, acked) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| {
                // A request that fails is the kill: its events are unknown, and this writer ends.
                loop {
                    let events = batch(round, next.fetch_add(1, Ordering::Relaxed));
                    let outcomes = client.ingest(&events);
                    let is_acked = traffic.ledger().note_all(&events, outcomes.as_ref().ok().map(Vec::as_slice));
                    acked.fetch_add(u64::from(is_acked), Ordering::Relaxed);
                    if outcomes.is_err() {
                        return;
                    }
                }
            });
        }
        let is_at = |job: &Value| job["progress"]["epoch"].as_u64().is_some_and(|epoch| epoch > round % 7);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            wait_for(&clients[0], job, |job| job["state"] != "queued" && (is_at(job) || job["state"] == "succeeded"));
            while acked.load(Ordering::Relaxed) < 20 {
                std::thread::yield_now();
            }
        }));
        // In any case: it is what ends the writers.
        lab.members().try_for_each(|member| member.kill()).unwrap();
        outcome.unwrap();
    });
}

/// Twenty rounds, as the acceptance has it: `DOCENT_ROUNDS=20`.
#[test]
fn rounds_of_kill_nine_of_everything_lose_nothing_and_end_with_a_trained_model() {
    let mut lab = Lab::start(&Options::default()).unwrap();
    let gateways = Gateways::new(&[]);
    let traffic = Traffic::new("before", &gateways, LOAD);
    traffic.seed(&lab.client(0), 20).unwrap();
    let (mut under_way, mut retried) = (0, 0);
    for round in 0..rounds() {
        let id = start_job(&lab.client(0), round);
        killed_at_work(&mut lab, &traffic, round, &id);
        lab.members().try_for_each(|member| member.start()).unwrap();
        lab.wait_ready(PATIENCE).unwrap();
        traffic.ledger().audit(&lab).unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        // What is unknown may be repeated under its id, and counts once.
        for number in 0..3 {
            traffic.ledger().send(&lab.client((number % 3) as usize), &batch(round, number)).unwrap();
        }
        let ended = wait_for(&lab.client(1), &id, |job| job["state"] == "succeeded" || job["state"] == "failed");
        under_way += u64::from(ended["attempt"].as_u64() > Some(1));
        if ended["state"] == "failed" {
            retried += 1;
            println!("round {round}: the job failed and is started again: {ended}");
            let again = start_job(&lab.client(2), round);
            let ended = wait_for(&lab.client(2), &again, |job| job["state"] == "succeeded" || job["state"] == "failed");
            assert_eq!(ended["state"], "succeeded", "{ended}");
        }
    }
    traffic.ledger().audit(&lab).unwrap();
    assert!(under_way > 0, "no training was hit by a kill: the test proves nothing");
    println!(
        "{} rounds, {under_way} trainings hit, {retried} of them started again, {} events acked",
        rounds(),
        traffic.ledger().acked()
    );
    let answer = lab.client(2).recommend("u3", 10).unwrap();
    assert!(answer["model"]["version"].as_u64() > Some(0), "{answer}");
}
