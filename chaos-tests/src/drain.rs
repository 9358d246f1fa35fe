//! A planned drain as clients see it: a node gives its leaderships and replicas away under load, and takes others back. Every shard has
//! a writer of its own, and the gauges of every node are read all the time; all times are seconds since the drill began.

use crate::client::Client;
use crate::gateways::Gateways;
use crate::lab::Lab;
use crate::leaders;
use crate::ledger::Ledger;
use crate::spread::Spread;
use crate::traffic;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two writes of a shard's writer.
const WRITE_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at a node's gauges: a time without a leader is told too long by at most two of these and two answers.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// What is counted as the time of a hand-over, before the old leader was last seen and after the new one first was.
const AROUND: (f64, f64) = (0.25, 0.75);
/// How long the load may take to be even again.
const EVEN_MAX: Duration = Duration::from_secs(120);

/// What was seen of one shard.
#[derive(Clone, Debug, Default)]
struct Track {
    /// When a write was acked, and how long it took.
    acks: Vec<(f64, f64)>,
    /// When a node was seen to lead in a term, from before the look until after it.
    sightings: Vec<Sighting>,
}

#[derive(Clone, Copy, Debug)]
struct Sighting {
    from: f64,
    until: f64,
    term: u64,
}

/// A shard that was handed over.
#[derive(Clone, Debug, PartialEq)]
pub struct HandOver {
    /// `users/3`.
    pub shard: String,
    /// When the new leader was first seen.
    pub at: f64,
    /// Between the last sight of the old leader and the first of the new one; 0 where they overlap.
    pub unled: f64,
    /// The longest time without an acked write around it; `None` for an item shard, which has no writer.
    pub unwritten: Option<f64>,
}

/// One round.
#[derive(Clone, Debug)]
pub struct Round {
    /// The node that was drained.
    pub node: u64,
    /// Shards that it led.
    pub led: usize,
    /// Replicas that it gave away.
    pub moved: u64,
    /// How long `docent nodes drain --wait` took, and then the return to an even load.
    pub took: (f64, f64),
}

/// What the writers and the gauges saw.
#[derive(Debug, Default)]
pub struct Watch {
    tracks: Mutex<BTreeMap<String, Track>>,
    ledger: Mutex<Ledger>,
    refused: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

/// What came of all rounds.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Every change of a leader.
    pub hand_overs: Vec<HandOver>,
    /// The longest time without an acked write in every second in which a shard's leader stayed: what the machine does by itself.
    pub calm: Spread,
    /// First tries of the writers that were not acked.
    pub refused: Vec<String>,
    /// Writes of the writers.
    pub written: usize,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Writes to every shard of `homes` and looks at every node until [`Watch::stop`].
    pub fn run(&self, gateways: &Gateways, homes: &BTreeMap<String, Vec<usize>>) {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for (place, (shard, users)) in homes.iter().enumerate() {
                scope.spawn(move || self.write(gateways, (place, shard), users, began));
            }
            for gateway in gateways.living() {
                scope.spawn(move || self.look(&gateway.addr, began));
            }
        });
    }

    /// Ends [`Watch::run`].
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// One event after the other through all gateways in turn, each under an id of its own and tried once.
    fn write(&self, gateways: &Gateways, (place, shard): (usize, &str), users: &[usize], began: Instant) {
        let mut number = place;
        while !self.is_over.load(Ordering::SeqCst) {
            number += 1;
            let event = traffic::event(&format!("probe-{place}-{number}"), users[number % users.len()], number % 100);
            let sent = began.elapsed().as_secs_f64();
            let Ok(gateway) = gateways.pick(number) else { return };
            let outcome = gateway.client.ingest(std::slice::from_ref(&event));
            let is_acked = locked(&self.ledger).note_all(&[event], outcome.as_ref().ok().map(Vec::as_slice));
            let now = began.elapsed().as_secs_f64();
            match is_acked {
                true => locked(&self.tracks).entry(shard.to_owned()).or_default().acks.push((now, now - sent)),
                false => locked(&self.refused).push(format!("{shard} through node {}: {outcome:?}", gateway.index + 1)),
            }
            std::thread::sleep(WRITE_PAUSE); // a writer's pace
        }
    }

    fn look(&self, addr: &str, began: Instant) {
        let client = Client::with_timeout(addr, Duration::from_secs(5));
        while !self.is_over.load(Ordering::SeqCst) {
            let from = began.elapsed().as_secs_f64();
            if let Ok(replicas) = leaders::replicas(&client) {
                let until = began.elapsed().as_secs_f64();
                let mut tracks = locked(&self.tracks);
                for (group, replica) in replicas.iter().filter(|(_, replica)| replica.is_leader) {
                    let sighting = Sighting { from, until, term: replica.term };
                    tracks.entry(leaders::shard(*group)).or_default().sightings.push(sighting);
                }
            }
            std::thread::sleep(LOOK_PAUSE); // between looks at another process
        }
    }

    /// What was seen, with the writers' notes.
    pub fn findings(self) -> (Findings, Ledger) {
        let tracks = self.tracks.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut findings = Findings {
            refused: self.refused.into_inner().unwrap_or_else(PoisonError::into_inner),
            written: tracks.values().map(|track| track.acks.len()).sum(),
            ..Findings::default()
        };
        let mut calm = Vec::new();
        for (shard, track) in &tracks {
            let hand_overs = track.hand_overs(shard);
            calm.extend(track.calm(&hand_overs));
            findings.hand_overs.extend(hand_overs);
        }
        findings.calm = Spread::of(calm);
        (findings, self.ledger.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Track {
    fn hand_overs(&self, shard: &str) -> Vec<HandOver> {
        let mut terms: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for Sighting { from, until, term } in &self.sightings {
            let (first, last) = terms.entry(*term).or_insert((*until, *from));
            (*first, *last) = (first.min(*until), last.max(*from));
        }
        let spans: Vec<(f64, f64)> = terms.into_values().collect();
        let hand_over = |pair: &[(f64, f64)]| {
            let ((_, last), (first, _)) = (pair[0], pair[1]);
            let window = (last.min(first) - AROUND.0, first + AROUND.1);
            HandOver { shard: shard.to_owned(), at: first, unled: (first - last).max(0.0), unwritten: self.gap(window) }
        };
        spans.windows(2).map(hand_over).collect()
    }

    /// The longest time between two acks that lies in the window or reaches into it.
    fn gap(&self, (from, until): (f64, f64)) -> Option<f64> {
        let pairs = self.acks.windows(2).map(|pair| (pair[0].0, pair[1].0));
        let gaps =
            pairs.filter(|(before, after)| *after > from && *before < until).map(|(before, after)| after - before);
        gaps.max_by(f64::total_cmp)
    }

    /// The longest gap of every second with no hand-over near.
    fn calm(&self, hand_overs: &[HandOver]) -> Vec<f64> {
        let end = self.acks.last().map_or(0.0, |(at, _)| *at) as u64;
        let is_calm = |second: &u64| hand_overs.iter().all(|hand_over| (hand_over.at - *second as f64).abs() > 3.0);
        (2..end).filter(is_calm).filter_map(|second| self.gap((second as f64, second as f64 + 1.0))).collect()
    }
}

/// The drill: a cluster under load whose nodes are drained in turn.
#[derive(Debug)]
pub struct Drill<'a> {
    /// The cluster.
    pub lab: &'a Lab,
}

impl Drill<'_> {
    /// Drains the node that leads most shards through the tool, takes it back, and waits until the load is even again.
    pub fn round(&self) -> Result<Round> {
        let state = self.cluster()?;
        let (node, led) = most_leading(&state).context("no node leads")?;
        let moved = replicas_on(&state, node);
        let began = Instant::now();
        let id = node.to_string();
        self.lab.docent(&["nodes", "drain", &id, "--wait", "--wait-timeout", "300"])?;
        let drained = began.elapsed().as_secs_f64();
        let left = replicas_on(&self.cluster()?, node);
        ensure!(left == 0, "node {node} was drained and has {left} replicas");
        self.lab.docent(&["nodes", "resume", &id])?;
        self.wait_even()?;
        Ok(Round { node, led, moved, took: (drained, began.elapsed().as_secs_f64() - drained) })
    }

    fn cluster(&self) -> Result<Value> {
        let (status, state) = self.lab.client(0).get("/v1/cluster")?;
        ensure!(status == 200, "/v1/cluster answered {status}: {state}");
        Ok(state)
    }

    /// Waits until no replica is on its way and all nodes have as many, one more or less.
    pub fn wait_even(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let state = self.cluster()?;
            let nodes = state["nodes"].as_array().context("no nodes")?;
            let loads: Vec<u64> =
                nodes.iter().filter_map(|n| n["id"].as_u64()).map(|id| replicas_on(&state, id)).collect();
            let spread = loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0);
            let is_moving = shards(&state).any(|shard| !shard["move"].is_null());
            if spread <= 1 && !is_moving {
                return Ok(());
            }
            ensure!(start.elapsed() < EVEN_MAX, "the load is not even after {EVEN_MAX:?}: {loads:?}");
            std::thread::sleep(Duration::from_millis(200)); // between polls of another process
        }
    }
}

fn shards(state: &Value) -> impl Iterator<Item = &Value> {
    state["shards"].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn replicas_on(state: &Value, node: u64) -> u64 {
    let has = |shard: &&Value| shard["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|n| *n == node));
    shards(state).filter(has).count() as u64
}

fn most_leading(state: &Value) -> Option<(u64, usize)> {
    let mut led: BTreeMap<u64, usize> = BTreeMap::new();
    for leader in shards(state).filter_map(|shard| shard["leader"].as_u64()).filter(|leader| *leader > 0) {
        *led.entry(leader).or_default() += 1;
    }
    led.into_iter().max_by_key(|(_, count)| *count)
}

impl Findings {
    /// Prints the figures; what is wrong with them, where `bound` is the longest time without a leader (p99), in seconds: by the gauges,
    /// and by how much longer than usual a shard's writer waits.
    pub fn tell(&self, bound: f64) -> Vec<String> {
        let unled = Spread::of(self.hand_overs.iter().map(|hand_over| hand_over.unled));
        let unwritten = Spread::of(self.hand_overs.iter().filter_map(|hand_over| hand_over.unwritten));
        println!("\n{} times a shard got another leader; seconds:", self.hand_overs.len());
        println!("  no leader seen in any node's gauges    {unled}");
        println!("  between two acked writes of the shard  {unwritten}");
        println!("  ... in seconds without a hand-over     {}", self.calm);
        let mut slowest: Vec<&HandOver> = self.hand_overs.iter().collect();
        slowest.sort_by(|a, b| b.unwritten.unwrap_or(b.unled).total_cmp(&a.unwritten.unwrap_or(a.unled)));
        for HandOver { shard, at, unled, unwritten } in slowest.iter().take(3) {
            println!(
                "  slowest: {shard} at {at:.1} s: {unled:.3} s unled, {:.3} s unwritten",
                unwritten.unwrap_or(f64::NAN)
            );
        }
        println!("writers of the shards: {} acked, {} refused or unknown", self.written, self.refused.len());
        let mut wrong = Vec::new();
        if self.hand_overs.is_empty() {
            wrong.push("no shard was handed over".to_owned());
        }
        if let Some(refused) = self.refused.first() {
            wrong.push(format!("{} writes of the writers failed, such as {refused}", self.refused.len()));
        }
        if unled.at(0.99) > bound {
            wrong.push(format!("p99 without a leader is {:.3} s, over {bound:.3} s", unled.at(0.99)));
        }
        // A busy machine lets a writer wait without any hand-over; that is not the hand-over's.
        let usual = self.calm.at(0.99);
        if unwritten.at(0.99) > bound + usual {
            wrong.push(format!(
                "p99 without an acked write is {:.3} s, more than {bound:.3} s over the {usual:.3} s without a hand-over",
                unwritten.at(0.99)
            ));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_without_a_leader_lies_between_two_terms() {
        let seen = |from: f64, term| Sighting { from, until: from + 0.01, term };
        let acks = [0.0, 0.5, 0.9, 1.3, 1.4].map(|at| (at, 0.01)).to_vec();
        let track = Track { acks, sightings: vec![seen(0.1, 1), seen(1.2, 2), seen(1.0, 1), seen(1.3, 2)] };
        let hand_overs = track.hand_overs("users/0");
        assert_eq!(hand_overs.len(), 1);
        assert!((hand_overs[0].unled - 0.21).abs() < 1e-9 && (hand_overs[0].unwritten.unwrap() - 0.4).abs() < 1e-9);
        // An old leader that is seen beside the new one: nobody was without.
        let both = Track { sightings: vec![seen(1.0, 1), seen(1.2, 2), seen(1.4, 1)], ..Track::default() };
        assert_eq!(both.hand_overs("users/0")[0].unled, 0.0);
        assert_eq!(both.hand_overs("users/0")[0].unwritten, None);
    }

    #[test]
    fn the_node_that_leads_most_is_found() {
        let state = serde_json::json!({ "shards": [
            { "leader": 101, "nodes": [101, 102] }, { "leader": 102, "nodes": [102] }, { "leader": 102, "nodes": [102, 101] }
        ] });
        assert_eq!(most_leading(&state), Some((102, 2)));
        assert_eq!((replicas_on(&state, 101), replicas_on(&state, 103)), (2, 0));
    }
}
