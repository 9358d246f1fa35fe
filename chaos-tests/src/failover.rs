//! The death of the node that leads most shards, as its clients see it: how long no write, how long nothing personal, and where the time
//! goes. All times are seconds since just before the SIGKILL.

use crate::client::Client;
use crate::gateways::Gateways;
use crate::lab::Lab;
use crate::leaders::{self, Replicas};
use crate::ledger::Ledger;
use crate::traffic::{self, Traffic};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A probe's patience with one request: what it is short of, the time to the first success is late at most.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
/// Between two tries of a probe.
const PROBE_PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at the gauges of a survivor.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// An outage longer than this is told as one without an end.
const OUTAGE_MAX: Duration = Duration::from_secs(30);
/// How long a restarted node may take to be ready and caught up.
const RETURN_MAX: Duration = Duration::from_secs(120);

/// One shard that lost its leader. `None` is "not within 30 s".
#[derive(Clone, Debug, Default)]
pub struct Outage {
    /// `users/3`.
    pub shard: String,
    /// A survivor stood for election: the dead leader was found out and most would vote.
    pub stood: Option<f64>,
    /// A survivor led.
    pub led: Option<f64>,
    /// Which survivor, counted as below.
    pub leader: Option<usize>,
    /// The first write that was acked, through each survivor.
    pub written: Vec<Option<f64>>,
    /// The first personal answer, through each survivor.
    pub personal: Vec<Option<f64>>,
}

/// When a survivor of a group stood, and when one led.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    stood: Option<f64>,
    led: Option<(f64, usize)>,
}

/// One round.
#[derive(Clone, Debug)]
pub struct Round {
    /// The victim's name.
    pub victim: String,
    /// User shards that it led.
    pub outages: Vec<Outage>,
    /// All shards that it led.
    pub led: usize,
    /// Until the victim was ready and caught up, from its start.
    pub returned: f64,
}

/// The time by which all, or the first, of the clients were served; `None` if that never came.
pub fn first(times: &[Option<f64>]) -> Option<f64> {
    times.iter().flatten().copied().min_by(f64::total_cmp)
}

/// See [`first`].
pub fn last(times: &[Option<f64>]) -> Option<f64> {
    times.iter().copied().collect::<Option<Vec<f64>>>()?.into_iter().max_by(f64::total_cmp)
}

/// Repeats `attempt` until it succeeds; when that was.
pub fn first_success(since: Instant, mut attempt: impl FnMut(usize) -> bool) -> Option<f64> {
    for number in 0.. {
        if attempt(number) {
            return Some(since.elapsed().as_secs_f64());
        }
        if since.elapsed() > OUTAGE_MAX {
            break;
        }
        std::thread::sleep(PROBE_PAUSE); // a client's pause before it tries again
    }
    None
}

/// The drill: a cluster under load whose leaders are killed.
#[derive(Debug)]
pub struct Drill<'a> {
    /// The cluster.
    pub lab: &'a mut Lab,
    /// Its nodes as clients know them.
    pub gateways: &'a Gateways,
    /// Who notes the probes' events.
    pub traffic: &'a Traffic<'a>,
    /// Some users of each shard.
    pub homes: &'a BTreeMap<String, Vec<usize>>,
}

impl Drill<'_> {
    /// Kills the node that leads most shards, watches, starts it again, and waits until it has caught up.
    pub fn round(&mut self, number: usize) -> Result<Round> {
        let views = self.views()?;
        let (victim, view) =
            views.iter().enumerate().max_by_key(|(_, view)| leaders::led(view).len()).context("no nodes")?;
        let led = leaders::led(view);
        let ours: Vec<u64> = led.iter().copied().filter(|group| group >> 16 == 1).collect();
        ensure!(!ours.is_empty(), "no node leads a user shard: {views:?}");
        let survivors: Vec<String> =
            self.gateways.living().iter().filter(|g| g.index != victim).map(|g| g.addr.clone()).collect();
        let terms: BTreeMap<u64, u64> = ours.iter().map(|group| (*group, view[group].term)).collect();

        self.gateways.condemn(victim);
        let killed = Instant::now();
        self.lab.nodes[victim].kill()?;
        let outages = self.watch(number, killed, &survivors, &terms)?;

        let started = Instant::now();
        self.lab.nodes[victim].start()?;
        self.wait_returned(victim, &survivors)?;
        self.gateways.revive(victim, &self.lab.nodes[victim].query_addr);
        let name = self.lab.nodes[victim].name.clone();
        Ok(Round { victim: name, outages, led: led.len(), returned: started.elapsed().as_secs_f64() })
    }

    fn views(&self) -> Result<Vec<Replicas>> {
        (0..self.lab.nodes.len()).map(|index| leaders::replicas(&self.lab.client(index))).collect()
    }

    fn watch(
        &self,
        number: usize,
        killed: Instant,
        survivors: &[String],
        terms: &BTreeMap<u64, u64>,
    ) -> Result<Vec<Outage>> {
        let found: Mutex<BTreeMap<u64, Seen>> = Mutex::default();
        let ledgers: Mutex<Ledger> = Mutex::default();
        let outages = std::thread::scope(|scope| -> Result<Vec<Outage>> {
            for (place, addr) in survivors.iter().enumerate() {
                let found = &found;
                scope.spawn(move || look((place, addr), killed, terms, found));
            }
            let mut probes = Vec::new();
            for group in terms.keys() {
                let shard = leaders::shard(*group);
                let users = self.homes.get(&shard).with_context(|| format!("no user of {shard} is known"))?.as_slice();
                let through = |addr: &String, place: usize| {
                    let (client, ledgers) = (Client::with_timeout(addr, PROBE_TIMEOUT), &ledgers);
                    let (prefix, asking) = (format!("probe-{number}-{group}-{place}"), client.clone());
                    let write = scope.spawn(move || writes(&client, &prefix, users, killed, ledgers));
                    let ask =
                        scope.spawn(move || first_success(killed, |i| is_answered(&asking, users[i % users.len()])));
                    (write, ask)
                };
                let threads: Vec<_> = survivors.iter().enumerate().map(|(place, addr)| through(addr, place)).collect();
                probes.push((shard, threads));
            }
            let mut outages = Vec::new();
            for (shard, threads) in probes {
                let mut outage = Outage { shard, ..Outage::default() };
                for (write, ask) in threads {
                    outage.written.push(write.join().ok().flatten());
                    outage.personal.push(ask.join().ok().flatten());
                }
                outages.push(outage);
            }
            // The watchers of the gauges end by themselves once all groups are led.
            Ok(outages)
        })?;
        self.traffic.ledger().absorb(ledgers.into_inner().unwrap_or_default());
        let found = found.into_inner().unwrap_or_default();
        let seen = |group: &u64| found.get(group).copied().unwrap_or_default();
        Ok(terms
            .keys()
            .zip(outages)
            .map(|(group, outage)| {
                let Seen { stood, led } = seen(group);
                Outage { stood, led: led.map(|(at, _)| at), leader: led.map(|(_, place)| place), ..outage }
            })
            .collect())
    }

    fn wait_returned(&self, victim: usize, survivors: &[String]) -> Result<()> {
        let start = Instant::now();
        let others: Vec<Replicas> =
            survivors.iter().map(|addr| leaders::replicas(&Client::new(addr))).collect::<Result<_>>()?;
        let client = Client::with_timeout(&self.lab.nodes[victim].query_addr, Duration::from_secs(5));
        let has_returned =
            || client.is_ready() && leaders::replicas(&client).is_ok_and(|own| leaders::has_caught_up(&own, &others));
        while !has_returned() {
            let node = &self.lab.nodes[victim];
            ensure!(start.elapsed() < RETURN_MAX, "{} is not back after {RETURN_MAX:?}:\n{}", node.name, node.tail(30));
            std::thread::sleep(Duration::from_millis(100)); // between polls of another process
        }
        Ok(())
    }
}

/// Notes when a survivor first shows a higher term, and when it leads, until every group is led by somebody.
fn look((place, addr): (usize, &str), killed: Instant, terms: &BTreeMap<u64, u64>, found: &Mutex<BTreeMap<u64, Seen>>) {
    let client = Client::with_timeout(addr, Duration::from_secs(2));
    while killed.elapsed() < OUTAGE_MAX {
        if let Ok(replicas) = leaders::replicas(&client) {
            let now = killed.elapsed().as_secs_f64();
            let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (group, term) in terms {
                let Some(replica) = replicas.get(group) else { continue };
                let seen = found.entry(*group).or_default();
                if replica.term > *term {
                    seen.stood.get_or_insert(now);
                }
                if replica.is_leader {
                    seen.led.get_or_insert((now, place));
                }
            }
            if terms.keys().all(|group| found.get(group).is_some_and(|seen| seen.led.is_some())) {
                return;
            }
        }
        std::thread::sleep(LOOK_PAUSE); // between looks at another process
    }
}

/// One event after the other, each under an id of its own and each tried once, until one is acked.
fn writes(client: &Client, prefix: &str, users: &[usize], killed: Instant, ledgers: &Mutex<Ledger>) -> Option<f64> {
    let mut ledger = Ledger::default();
    let acked = first_success(killed, |i| {
        let event = traffic::event(&format!("{prefix}-{i}"), users[i % users.len()], i % 100);
        ledger.send(client, &[event]).is_ok()
    });
    ledgers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).absorb(ledger);
    acked
}

fn is_answered(client: &Client, user: usize) -> bool {
    let request = json!({ "user_id": format!("u{user}"), "n": 10, "deadline_ms": PROBE_TIMEOUT.as_millis() as u64 });
    client.recommend_with(request).is_ok_and(|answer| traffic::is_personal(&answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_without_an_end_is_not_forgotten() {
        assert_eq!((first(&[None, Some(2.0), Some(1.0)]), last(&[None, Some(2.0)])), (Some(1.0), None));
        assert_eq!((first(&[None]), last(&[Some(1.0), Some(3.0)])), (None, Some(3.0)));
        let mut tries = 0;
        let succeeded = first_success(Instant::now(), |number| {
            tries += 1;
            number == 2
        });
        assert!(succeeded.is_some());
        assert_eq!(tries, 3);
    }
}
