//! Probes of answers: what a query says is so, on every node, whatever was killed, paused or cached.

use super::ground::{
    busiest, event, options, pause, put, recommend_flag, restart_all, resume, seed, set_recommend, wait_led,
};
use super::{Finding, Outcome, Subject};
use crate::client::{Client, ids};
use crate::lab::{Lab, Options};
use anyhow::{Context, Result, bail, ensure};
use docent_trial::check::Checker;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Every item of a probe fits one answer.
const ALL: &str = "/v1/popular?n=1000";
/// Requests wait at the door of a stopped process for so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everybody clicks something.
fn clicks(users: usize, items: usize) -> Vec<Value> {
    let of = |n: usize| event(&format!("click-{n}"), &format!("u{}", n % users), &format!("i{}", n % items));
    (0..users.max(items) * 2).map(of).collect()
}

/// A request to one node.
type Ask<'a, T> = Box<dyn Fn(&Client) -> Result<T> + Send + 'a>;

/// What requests that were sent to a stopped node got when it went on.
fn at_the_door<T: Send>(lab: &Lab, node: usize, asks: Vec<Ask<'_, T>>) -> Result<Vec<Result<T>>> {
    let addr = &lab.nodes[node].query_addr;
    std::thread::scope(|scope| {
        let running: Vec<_> =
            asks.into_iter().map(|ask| scope.spawn(move || ask(&Client::with_timeout(addr, PATIENCE)))).collect();
        std::thread::sleep(Duration::from_millis(500)); // they are in its sockets
        resume(lab, node)?;
        let ended = running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked")));
        Ok(ended.collect())
    })
}

/// A leader that was stopped while others took over must not answer from what it knew.
pub(super) fn stale_read(subject: &Subject) -> Outcome {
    let lab = Lab::start(&options(&subject.binary))?;
    let users: Vec<String> = (0..40).map(|i| format!("u{i}")).collect();
    let mut found = Vec::new();
    for round in 0..4 {
        let before = round % 2 == 0;
        for user in &users {
            set_recommend(&lab.client(0), user, before)?;
        }
        let stopped = busiest(&lab);
        pause(&lab, stopped)?;
        wait_led(&lab, stopped, 6, Duration::from_secs(30))?;
        let other = lab.client((stopped + 1) % 3);
        for user in &users {
            set_recommend(&other, user, !before)?;
        }
        let ask = |user| -> Ask<'_, Option<bool>> { Box::new(move |client| recommend_flag(client, user)) };
        let asks = users.iter().map(|user| ask(user)).collect();
        let answers = at_the_door(&lab, stopped, asks)?;
        for (user, answer) in users.iter().zip(answers) {
            if answer.is_ok_and(|flag| flag == Some(before)) {
                let what = format!(
                    "`recommend` = {} was acked for {user}, and node {} said {before} after that",
                    !before,
                    stopped + 1
                );
                found.push(Finding::new(Checker::Linear, what));
            }
        }
        if !found.is_empty() {
            break;
        }
    }
    Ok(found)
}

fn shows(client: &Client, item: &str) -> Result<bool> {
    let (status, body) = client.get(ALL)?;
    Ok(status == 200 && ids(&body).iter().any(|id| id == item))
}

/// After an acked take-down no node shows the item.
pub(super) fn take_down(subject: &Subject) -> Outcome {
    let lab = Lab::start(&options(&subject.binary))?;
    let clients: Vec<Client> = (0..3).map(|i| lab.client(i)).collect();
    seed(&clients[0], &clicks(60, 60))?;
    let mut found = Vec::new();
    for i in 0..40 {
        let item = format!("i{i}");
        let (status, body) = clients[i % 3].post(&format!("/v1/items/{item}:take-down"), &json!({}))?;
        ensure!(status == 200, "take-down answered {status}: {body}");
        for (node, client) in clients.iter().enumerate() {
            if shows(client, &item)? {
                let what = format!("the take-down of {item} was acked, and node {} shows it", node + 1);
                found.push(Finding::new(Checker::Consent, what));
            }
        }
    }
    Ok(found)
}

/// A replica that was stopped for longer than it may be silent shows nothing of what it has until it has heard from its leader.
pub(super) fn paused_replica(subject: &Subject) -> Outcome {
    let lab = Lab::start(&options(&subject.binary))?;
    seed(&lab.client(0), &clicks(60, 60))?;
    let mut found = Vec::new();
    for round in 0..3 {
        let (stopped, item) = (2, format!("i{}", round * 7));
        pause(&lab, stopped)?;
        wait_led(&lab, stopped, 6, Duration::from_secs(30))?;
        let (status, body) = lab.client(0).post(&format!("/v1/items/{item}:take-down"), &json!({}))?;
        ensure!(status == 200, "take-down answered {status}: {body}");
        let ask = |_| -> Ask<'_, bool> { Box::new(|client| shows(client, &item)) };
        let asks = (0..40).map(ask).collect();
        let shown = at_the_door(&lab, stopped, asks)?.into_iter().filter(|shown| matches!(shown, Ok(true))).count();
        if shown > 0 {
            let what = format!("the take-down of {item} was acked, and node 3 showed it {shown} times when it went on");
            found.push(Finding::new(Checker::Consent, what));
            break;
        }
    }
    Ok(found)
}

/// What a user blocked is shown by no node.
pub(super) fn blocks(subject: &Subject) -> Outcome {
    let lab = Lab::start(&options(&subject.binary))?;
    let clients: Vec<Client> = (0..3).map(|i| lab.client(i)).collect();
    seed(&clients[0], &clicks(30, 60))?;
    let mut found = Vec::new();
    for i in 0..12 {
        let user = format!("u{i}");
        let blocked = ids(&clients[0].recommend(&user, 20)?).into_iter().next().context("an empty answer")?;
        put(&clients[i % 3], &format!("/v1/users/{user}/blocks"), &json!({ "item_ids": [blocked] }))?;
        for (node, client) in clients.iter().enumerate() {
            if ids(&client.recommend(&user, 60)?).contains(&blocked) {
                let what = format!("{user} blocked {blocked}, and node {} shows it", node + 1);
                found.push(Finding::new(Checker::Consent, what));
            }
        }
    }
    Ok(found)
}

/// With one replica a shard, a dead node's items are missing, and the answer says so.
pub(super) fn lost_shard(subject: &Subject) -> Outcome {
    let options = Options { replication: 1, item_shards: 4, ..options(&subject.binary) };
    let mut lab = Lab::start(&options)?;
    seed(&lab.client(0), &clicks(60, 100))?;
    let whole = lab.client(0).get(ALL)?.1["coverage"]["items"].as_u64().context("no coverage")?;
    lab.nodes[2].kill()?;
    let (status, body) = lab.client(0).get(&format!("{ALL}&deadline_ms=3000"))?;
    let coverage = &body["coverage"];
    let is_full = status == 200 && coverage["asked"] == coverage["answered"];
    let items = coverage["items"].as_u64().unwrap_or_default();
    let what = format!("an answer says that every shard answered, and saw {items} of {whole} items: {coverage}");
    Ok((is_full && items < whole).then(|| Finding::new(Checker::Answers, what)).into_iter().collect())
}

/// The best few are the first of the best many, and the best many are all.
pub(super) fn prefix(subject: &Subject) -> Outcome {
    let lab = Lab::start(&Options { item_shards: 4, ..options(&subject.binary) })?;
    seed(&lab.client(0), &clicks(60, 200))?;
    // Counts move from user shards to item shards by themselves; then they are at rest.
    std::thread::sleep(Duration::from_secs(3));
    let mut found = Vec::new();
    let all = ids(&lab.client(0).get(ALL)?.1);
    for (node, n) in [(0, 5), (1, 20), (2, 60), (0, 200)] {
        let (_, body) = lab.client(node).get(&format!("/v1/popular?n={n}"))?;
        ensure!(body["coverage"]["asked"] == body["coverage"]["answered"], "no full answer: {body}");
        let few = ids(&body);
        if few.len() != n || few[..] != all[..n] {
            let differ = few.iter().zip(&all).position(|(a, b)| a != b);
            let what = format!(
                "the {n} most popular items are {} items that are not the first {n} of all (from place {differ:?} on)",
                few.len()
            );
            found.push(Finding::new(Checker::Answers, what));
        }
    }
    Ok(found)
}

fn train(lab: &Lab, seed: &str, epochs: &str) -> Result<()> {
    lab.docent(&["train", "--dim", "8", "--epochs", epochs, "--seed", seed, "--wait"]).map(drop)
}

fn fill(lab: &Lab) -> Result<()> {
    lab.docent(&["import", "generated", "--users", "300", "--items", "200", "--events", "8000", "--seed", "11"])?;
    Ok(())
}

/// Users that the model knows.
fn known_users(lab: &Lab) -> Result<Vec<String>> {
    let exported = lab.docent(&["export", "recommendations", "-n", "1"])?;
    Ok(exported.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect())
}

/// What the model says, with its scores' bits; `None` while not all of it can be had.
fn modelled(client: &Client, user: &str) -> Result<Option<Vec<(String, u32)>>> {
    let answer = client.recommend(user, 20)?;
    let coverage = &answer["coverage"];
    if coverage["degraded"].as_array().is_none_or(|degraded| !degraded.is_empty()) {
        return Ok(None);
    }
    let items = answer["items"].as_array().context("no items")?;
    let of = |item: &Value| {
        let score = item["score"].as_f64().unwrap_or(f64::NAN) as f32;
        (item["id"].as_str().unwrap_or_default().to_owned(), score.to_bits())
    };
    Ok(Some(items.iter().filter(|item| item["source"] == "model").map(of).collect()))
}

/// As [`modelled`], once it can be had.
fn settled(client: &Client, user: &str) -> Result<Vec<(String, u32)>> {
    let start = Instant::now();
    loop {
        match modelled(client, user) {
            Ok(Some(items)) if !items.is_empty() => return Ok(items),
            other if start.elapsed() > Duration::from_secs(60) => bail!("no whole answer for {user}: {other:?}"),
            _ => std::thread::sleep(Duration::from_millis(50)), // between polls
        }
    }
}

/// What is kept in memory changes no answer: after a restart of everything it is the same, to the bit.
pub(super) fn cached_answers(subject: &Subject) -> Outcome {
    let mut lab = Lab::start(&options(&subject.binary))?;
    fill(&lab)?;
    train(&lab, "1", "2")?;
    let users: Vec<String> = known_users(&lab)?.into_iter().take(30).collect();
    for (i, user) in users.iter().enumerate() {
        settled(&lab.client(i % 3), user)?;
    }
    train(&lab, "2", "3")?;
    // Half of the users are asked of the new version, and click something then.
    for (i, user) in users.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
        let clicked = settled(&lab.client(i % 3), user)?[0].0.clone();
        lab.client((i + 1) % 3).ingest(&[event(&format!("late-{i}"), user, &clicked)])?;
    }
    let asked = |lab: &Lab| -> Result<Vec<_>> {
        users.iter().enumerate().map(|(i, user)| settled(&lab.client(i % 3), user)).collect()
    };
    let before = asked(&lab)?;
    restart_all(&mut lab, Duration::from_secs(60))?;
    let after = asked(&lab)?;
    let differ = users.iter().zip(before.iter().zip(&after)).filter(|(_, (before, after))| before != after);
    let told = differ.map(|(user, _)| {
        let what = format!("the answer for {user} is another one after a restart: what was cached was not this version's or not this user's");
        Finding::new(Checker::Answers, what)
    });
    Ok(told.take(5).collect())
}

/// While a version goes live without any fault, every answer is whole and of one version. Its index takes a moment to build, and no other
/// replica could stand in.
pub(super) fn activation(subject: &Subject) -> Outcome {
    let node_settings = "serving.engine = \"hnsw\"".to_owned();
    let lab = Lab::start(&Options { node_settings, replication: 1, ..options(&subject.binary) })?;
    lab.docent(&["import", "generated", "--users", "600", "--items", "8000", "--events", "40000", "--seed", "11"])?;
    let (stop, addresses) = (AtomicBool::new(false), lab.addresses());
    std::thread::scope(|scope| {
        let watch = |thread: usize| {
            let (addr, stop) = (addresses[thread % 3].clone(), &stop);
            scope.spawn(move || watch_answers(&addr, stop))
        };
        let running: Vec<_> = (0..6).map(watch).collect();
        let train = |seed: &str| lab.docent(&["train", "--dim", "64", "--epochs", "1", "--seed", seed, "--wait"]);
        let trained = ["1", "2"].into_iter().try_for_each(|seed| train(seed).map(drop));
        stop.store(true, Ordering::Relaxed);
        let told: BTreeSet<String> = running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect();
        trained?;
        Ok(told.into_iter().take(5).map(|what| Finding::new(Checker::Answers, what)).collect())
    })
}

/// What is odd about the answers of one node.
fn watch_answers(addr: &str, stop: &AtomicBool) -> Vec<String> {
    let (client, mut odd, mut newest) = (Client::new(addr), Vec::new(), 0);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let answer = match client.recommend(&format!("u{}", 1 + number % 200), 10) {
            Ok(answer) => answer,
            Err(error) => {
                odd.push(format!("a query without any fault failed: {error:#}"));
                continue;
            }
        };
        let version = answer["model"]["version"].as_u64().unwrap_or_default();
        if version < newest {
            odd.push(format!("an answer of version {version} came after one of {newest}"));
        }
        newest = newest.max(version);
        let degraded = &answer["coverage"]["degraded"];
        if degraded.as_array().is_none_or(|degraded| !degraded.is_empty()) {
            odd.push(format!("version {version} answers without what it should have, without any fault: {degraded}"));
        }
    }
    odd
}
