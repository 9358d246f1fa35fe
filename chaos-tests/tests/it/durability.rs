//! Acked means kept; alive means answering.

use anyhow::{Context, Result, ensure};
use docent_chaos::client::Client;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::ledger::Ledger;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

fn event(number: u64) -> Value {
    json!({
        "event_id": format!("e{number}"), "user_id": format!("u{}", number % 97), "item_id": format!("i{}", number % 53),
        "type": "click", "timestamp": 1_700_000_000_000u64 + number,
    })
}

/// Sends a batch and notes what was acked. A failed request leaves every event of it unknown.
fn send(client: &Client, numbers: std::ops::Range<u64>, ledger: &mut Ledger) {
    let events: Vec<Value> = numbers.clone().map(event).collect();
    let outcomes = client.ingest(&events).unwrap_or_else(|_| vec!["unknown".to_owned(); events.len()]);
    numbers.zip(outcomes).for_each(|(number, outcome)| ledger.note(&format!("e{number}"), &outcome));
}

fn audit(lab: &Lab, ledger: &Ledger) -> Result<()> {
    let exported = lab.docent(&["export", "events"])?;
    let events = exported.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let violations = ledger.violations(events.into_iter());
    ensure!(
        violations.is_empty(),
        "{} of {} acked: {:#?}",
        violations.len(),
        ledger.acked(),
        &violations[..violations.len().min(10)]
    );
    Ok(())
}

/// All six processes get SIGKILL while four writers are at work; the cluster comes back, everything is sent again, and each acked
/// event is there exactly once.
#[test]
fn kill_nine_of_all_processes_during_an_import_loses_and_doubles_nothing() {
    let mut lab = Lab::start(&Options::default()).unwrap();
    const BATCH: u64 = 50;
    const BATCHES: u64 = 200;
    let next = AtomicU64::new(0);
    let mut ledger = Ledger::default();
    let stop = AtomicBool::new(false);
    let clients: Vec<Client> = (0..4).map(|i| lab.client(i % 3)).collect();
    std::thread::scope(|scope| {
        let writers: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(|| {
                    let mut ledger = Ledger::default();
                    while !stop.load(Ordering::Relaxed) {
                        let batch = next.fetch_add(1, Ordering::Relaxed);
                        if batch >= BATCHES {
                            break;
                        }
                        send(client, batch * BATCH..(batch + 1) * BATCH, &mut ledger);
                    }
                    ledger
                })
            })
            .collect();
        while next.load(Ordering::Relaxed) < BATCHES / 4 {
            std::thread::yield_now();
        }
        lab.members().try_for_each(|member| member.kill()).unwrap();
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| ledger.absorb(writer.join().unwrap()));
    });
    assert!(ledger.acked() > 0, "nothing was acked before the kill: the test proves nothing");
    lab.members().try_for_each(|member| member.start()).unwrap();
    lab.wait_ready(Duration::from_secs(90)).unwrap();
    audit(&lab, &ledger).unwrap();
    let client = lab.client(1);
    (0..BATCHES).for_each(|batch| send(&client, batch * BATCH..(batch + 1) * BATCH, &mut ledger));
    assert_eq!(ledger.acked() as u64, BATCH * BATCHES);
    audit(&lab, &ledger).unwrap();
}

/// One of three nodes gets SIGKILL under load: every query through the other two succeeds, what was acked stays, the node comes back.
#[test]
fn queries_through_two_nodes_succeed_while_the_third_is_dead() {
    let mut lab = Lab::start(&Options::default()).unwrap();
    let mut ledger = Ledger::default();
    send(&lab.client(0), 0..2_000, &mut ledger);
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--wait"]).unwrap();
    let stop = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    let survivors = [lab.client(0), lab.client(1)];
    std::thread::scope(|scope| {
        let ask = |client: &Client| -> Result<()> {
            let mut user = 0;
            while !stop.load(Ordering::Relaxed) {
                user = (user + 1) % 97;
                let answer = client.recommend(&format!("u{user}"), 10)?;
                ensure!(answer["items"].as_array().context("no items")?.len() == 10, "{answer}");
                asked.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let queries: Vec<_> = survivors.iter().map(|client| scope.spawn(move || ask(client))).collect();
        wait_for(&asked, 100);
        lab.nodes[2].kill().unwrap();
        // Writes go on through an election: those that are not acked in time are sent again under their ids.
        (40..60).for_each(|batch| send(&survivors[0], batch * 50..(batch + 1) * 50, &mut ledger));
        wait_for(&asked, asked.load(Ordering::Relaxed) + 200);
        stop.store(true, Ordering::Relaxed);
        queries.into_iter().for_each(|query| query.join().unwrap().unwrap());
    });
    (40..60).for_each(|batch| send(&survivors[1], batch * 50..(batch + 1) * 50, &mut ledger));
    assert_eq!(ledger.acked(), 3_000);
    lab.nodes[2].start().unwrap();
    lab.wait_ready(Duration::from_secs(90)).unwrap();
    audit(&lab, &ledger).unwrap();
    // It has caught up: it answers like the others.
    let answers: Vec<Value> = (0..3).map(|i| lab.client(i).recommend("u5", 10).unwrap()["items"].clone()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
}

fn wait_for(counter: &AtomicU64, value: u64) {
    while counter.load(Ordering::Relaxed) < value {
        std::thread::yield_now();
    }
}

/// SIGTERM ends every process in order and in time, and everything is there after the restart.
#[test]
fn a_graceful_stop_ends_with_success_and_loses_nothing() {
    let mut lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    let mut ledger = Ledger::default();
    send(&lab.client(0), 0..500, &mut ledger);
    for member in lab.nodes.iter_mut().chain(&mut lab.coordinators) {
        let status = member.terminate().unwrap();
        assert!(status.success(), "{} ended with {status}:\n{}", member.name, member.tail(20));
    }
    lab.members().try_for_each(|member| member.start()).unwrap();
    lab.wait_ready(Duration::from_secs(90)).unwrap();
    audit(&lab, &ledger).unwrap();
}

/// Without a coordinator quorum, events and queries go on.
#[test]
fn events_and_queries_go_on_without_the_coordinators() {
    let mut lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    let mut ledger = Ledger::default();
    send(&lab.client(0), 0..200, &mut ledger);
    lab.coordinators[0].kill().unwrap();
    send(&lab.client(1), 200..400, &mut ledger);
    assert_eq!(ledger.acked(), 400);
    (0..3).for_each(|i| drop(lab.client(i).recommend("u1", 5).unwrap()));
    audit(&lab, &ledger).unwrap();
}

/// The searches that a node has made in its own indexes.
fn own_searches(client: &Client) -> u64 {
    let (_, text) = client.get("/metrics").unwrap();
    let text = text.as_str().unwrap_or_default().to_owned();
    let line = text.lines().find(|line| line.starts_with("docent_index_search_seconds_count"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// After SIGKILL of all six processes every node finds its model again, and answers from its own indexes.
#[test]
fn a_restarted_cluster_answers_with_its_model_from_every_node() {
    let mut lab = Lab::start(&Options::default()).unwrap();
    let mut ledger = Ledger::default();
    send(&lab.client(0), 0..3_000, &mut ledger);
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--wait"]).unwrap();
    let before = lab.client(0).recommend("u3", 10).unwrap();
    assert_eq!(before["items"][0]["source"], "model");
    lab.kill_all_and_restart().unwrap();
    for i in 0..3 {
        let client = lab.client(i);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while own_searches(&client) == 0 {
            assert!(std::time::Instant::now() < deadline, "node {i} has no index of its own:\n{}", lab.logs(20));
            client.recommend("u3", 10).unwrap();
        }
        let after = client.recommend("u3", 10).unwrap();
        assert_eq!(after["items"], before["items"], "node {i} answers otherwise than before the restart");
        assert_eq!(after["model"], before["model"]);
    }
}

/// A replica that slept through a take-down must not show the item when it comes back, however far behind it is.
#[test]
fn a_node_that_was_dead_during_a_take_down_never_shows_the_item() {
    let mut lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    let mut ledger = Ledger::default();
    send(&lab.client(0), 0..3_000, &mut ledger);
    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--wait"]).unwrap();
    let victim = docent_chaos::client::ids(&lab.client(0).recommend("u7", 1).unwrap())[0].clone();
    lab.nodes[2].kill().unwrap();
    // The kill may break the connection that carries the write: its outcome is then unknown, and a take-down may be repeated.
    let (mut status, mut body) = (0, Value::Null);
    for _ in 0..10 {
        (status, body) = lab.client(0).post(&format!("/v1/items/{victim}:take-down"), &json!({})).unwrap();
        if status == 200 {
            break;
        }
        assert!([503, 504].contains(&status), "{status}: {body}");
    }
    assert_eq!(status, 200, "{body}");
    (60..100).for_each(|batch| send(&lab.client(1), batch * 50..(batch + 1) * 50, &mut ledger));
    lab.nodes[2].start().unwrap();
    let client = lab.client(2);
    let mut answers = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while answers < 300 {
        assert!(std::time::Instant::now() < deadline, "the node does not answer:\n{}", lab.logs(20));
        for answer in
            [client.recommend("u7", 50), client.get("/v1/popular?n=1000").map(|(_, body)| body)].into_iter().flatten()
        {
            assert!(
                !docent_chaos::client::ids(&answer).contains(&victim),
                "{victim} is taken down and shown: {answer}"
            );
            answers += 1;
        }
    }
}
