//! Events and queries on a fixed schedule through whichever nodes are alive, with every event in a ledger.

use crate::client::Client;
use crate::gateways::{Gateway, Gateways};
use crate::ledger::Ledger;
use crate::load::{Outcome, open_loop_while};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Requests of a kind that may wait at a time: three seconds without a leader for half of the shards, and room.
const WORKERS: usize = 320;
/// Between two tries of a batch that was not acked.
const RETRY: Duration = Duration::from_millis(100);
/// After this an event counts as given up; an outage is over by then.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Events a second.
    pub events: f64,
    /// Events of one user in one request.
    pub batch: usize,
    /// Queries a second.
    pub queries: f64,
    /// Items of an answer.
    pub n: usize,
    /// Users, `u0`, `u1`, ...
    pub users: usize,
    /// Items, `i0`, `i1`, ...
    pub items: usize,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Queries; a failure is one through a node that was alive all the time.
    pub queries: Outcome,
    /// Batches of events until all of a batch were acked; a failure is one that never was.
    pub events: Outcome,
    /// First tries through a living node that were not acked, such as during an election.
    pub refused: Vec<String>,
    /// Requests that met the end of their node.
    pub cut_off: u64,
    /// Answers that were not personal.
    pub impersonal: u64,
}

impl Report {
    /// Prints it.
    pub fn tell(&self) {
        let Report { queries, events, refused, cut_off, impersonal } = self;
        println!(
            "\nqueries: {} answered, {} failed through living nodes, {impersonal} not personal; p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            queries.latencies.len(),
            queries.failures.len(),
            queries.percentile_ms(0.5),
            queries.percentile_ms(0.99),
            queries.percentile_ms(1.0),
        );
        println!(
            "events: {} batches acked, {} never; {} tries refused or unknown through living nodes and sent again; until acked p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            events.latencies.len(),
            events.failures.len(),
            refused.len(),
            events.percentile_ms(0.5),
            events.percentile_ms(0.99),
            events.percentile_ms(1.0),
        );
        refused.iter().take(3).for_each(|line| println!("  such as {line}"));
        println!("{cut_off} requests met the end of their node; the driver was late by at most {:.1} ms", {
            queries.late_max.max(events.late_max).as_secs_f64() * 1e3
        });
    }

    /// Queries that failed through living nodes, and events that were never acked.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(failure) = self.queries.failures.first() {
            let count = self.queries.failures.len();
            wrong.push(format!("{count} queries through living nodes failed, such as: {failure}"));
        }
        if let Some(failure) = self.events.failures.first() {
            wrong.push(format!("{} batches were never acked, such as: {failure}", self.events.failures.len()));
        }
        wrong
    }
}

/// The clients of a cluster.
#[derive(Debug)]
pub struct Traffic<'a> {
    gateways: &'a Gateways,
    name: &'a str,
    load: Load,
    ledger: Mutex<Ledger>,
    refused: Mutex<Vec<String>>,
    cut_off: AtomicU64,
    impersonal: AtomicU64,
    is_over: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A click under an id of its own.
pub fn event(id: &str, user: usize, item: usize) -> Value {
    json!({ "event_id": id, "user_id": format!("u{user}"), "item_id": format!("i{item}"), "type": "click" })
}

/// Whether the user's own state was used.
pub fn is_personal(answer: &Value) -> bool {
    let degraded = answer["coverage"]["degraded"].as_array().map(Vec::as_slice).unwrap_or_default();
    !degraded.iter().any(|part| part["what"] == "user_state")
}

impl<'a> Traffic<'a> {
    /// Clients of these nodes, with nothing sent. `name` begins the ids of their events.
    pub fn new(name: &'a str, gateways: &'a Gateways, load: Load) -> Traffic<'a> {
        Traffic {
            gateways,
            name,
            load,
            ledger: Mutex::default(),
            refused: Mutex::default(),
            cut_off: AtomicU64::new(0),
            impersonal: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// What was acked so far.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        locked(&self.ledger)
    }

    /// No further requests.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Gives every user a history of `each` events; returns a few users of each shard.
    pub fn seed(&self, client: &Client, each: usize) -> Result<BTreeMap<String, Vec<usize>>> {
        let mut homes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let users: Vec<usize> = (0..self.load.users).collect();
        for part in users.chunks((1_000 / each.max(1)).max(1)) {
            let of_user = |user: usize| {
                (0..each).map(move |i| {
                    event(&format!("{}-seed-{user}-{i}", self.name), user, self.item(user, i * i + user / 7))
                })
            };
            let events: Vec<Value> = part.iter().flat_map(|user| of_user(*user)).collect();
            let results = client.ingest_results(&events)?;
            let outcome = |result: &Value| result["outcome"].as_str().unwrap_or_default().to_owned();
            let outcomes: Vec<String> = results.iter().map(outcome).collect();
            ensure!(locked(&self.ledger).note_all(&events, Some(&outcomes)), "an event of the seed was not acked");
            for (user, result) in part.iter().zip(results.iter().step_by(each)) {
                let position = result["position"].as_str().context("an acked event has no position")?;
                let shard = position.split('@').next().unwrap_or(position);
                homes.entry(shard.to_owned()).or_default().push(*user);
            }
        }
        Ok(homes)
    }

    /// An item that this user may like.
    fn item(&self, user: usize, number: usize) -> usize {
        const KINDS: usize = 10;
        let number = number.wrapping_mul(2_654_435_761) >> 7;
        (number / KINDS * KINDS + user % KINDS) % self.load.items
    }

    /// Sends until [`Traffic::stop`].
    pub fn run(&self) -> Result<Report> {
        let is_wanted = |_: usize| !self.is_over.load(Ordering::SeqCst);
        let batches = self.load.events / self.load.batch as f64;
        let (events, queries) = std::thread::scope(|scope| {
            let events = scope.spawn(|| open_loop_while(batches, WORKERS, is_wanted, |number| self.write(number)));
            let queries = open_loop_while(self.load.queries, WORKERS, is_wanted, |number| self.ask(number));
            (events.join(), queries)
        });
        Ok(Report {
            queries: queries?,
            events: events.map_err(|_| anyhow!("the writers panicked"))??,
            refused: locked(&self.refused).clone(),
            cut_off: self.cut_off.load(Ordering::Relaxed),
            impersonal: self.impersonal.load(Ordering::Relaxed),
        })
    }

    /// A batch of one user, sent again under the same ids until it is acked.
    fn write(&self, number: usize) -> Result<()> {
        let (start, user) = (Instant::now(), number.wrapping_mul(7_919) % self.load.users);
        let event = |i: usize| event(&format!("{}-{number}-{i}", self.name), user, self.item(user, number * 31 + i));
        let events: Vec<Value> = (0..self.load.batch).map(event).collect();
        for attempt in 0.. {
            let gateway = self.gateways.pick(number + attempt)?;
            let answer = gateway.client.ingest(&events);
            if locked(&self.ledger).note_all(&events, answer.as_ref().ok().map(Vec::as_slice)) {
                break;
            }
            self.refused(&gateway, format!("{answer:?}"));
            ensure!(start.elapsed() < GIVE_UP, "a batch was not acked in {GIVE_UP:?}, last: {answer:?}");
            std::thread::sleep(RETRY); // a client's pause before it tries again
        }
        Ok(())
    }

    fn refused(&self, gateway: &Gateway, why: String) {
        if gateway.is_condemned() {
            self.cut_off.fetch_add(1, Ordering::Relaxed);
        } else {
            locked(&self.refused).push(format!("node {}: {why}", gateway.index + 1));
        }
    }

    fn ask(&self, number: usize) -> Result<()> {
        let gateway = self.gateways.pick(number)?;
        let user = number.wrapping_mul(104_729) % self.load.users;
        match self.answered(&gateway, user) {
            Err(_) if gateway.is_condemned() => {
                self.cut_off.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            outcome => outcome.with_context(|| format!("node {}", gateway.index + 1)),
        }
    }

    fn answered(&self, gateway: &Gateway, user: usize) -> Result<()> {
        let answer = gateway.client.recommend(&format!("u{user}"), self.load.n as u32)?;
        let items = answer["items"].as_array().map_or(0, Vec::len);
        ensure!(items == self.load.n, "{items} of {} items: {answer}", self.load.n);
        self.impersonal.fetch_add(u64::from(!is_personal(&answer)), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_the_users_state_is_not_personal() {
        let answer = |what: &str| json!({ "coverage": { "degraded": [{ "what": what, "shard": "users/1" }] } });
        assert!(!is_personal(&answer("user_state")));
        assert!(is_personal(&answer("stale_items")));
        assert!(is_personal(&json!({ "coverage": { "degraded": [] } })));
    }

    #[test]
    fn users_of_a_kind_share_their_items() {
        let gateways = Gateways::new(&[]);
        let load = Load { events: 1.0, batch: 1, queries: 1.0, n: 1, users: 100, items: 200 };
        let traffic = Traffic::new("test", &gateways, load);
        assert!((0..500).all(|i| traffic.item(13, i) % 10 == 3 && traffic.item(13, i) < 200));
    }
}
