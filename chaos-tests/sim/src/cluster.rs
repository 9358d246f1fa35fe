//! The simulated cluster: every host, and what is done to them. Faults are carried out between two ticks.

use crate::links::{Links, Machine};
use crate::log::Log;
use crate::member::{Body, Ended, Errand, run_coordinator, run_node};
use crate::moves::Moves;
use crate::operator::Order;
use crate::shape::{self, Papers, Shape};
use crate::trace::Trace;
use anyhow::{Result, anyhow};
use docent_runtime::Platform;
use docent_runtime::disk::Crash;
use docent_trial::history::{Observed, Sight};
use docent_trial::name::Role;
use docent_trial::target::{Actor, Scene};
use docent_trial::{Group, Member};
use docent_types::{Keyspace, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// The step of the simulation: messages arrive and faults happen on its grid.
pub const TICK: Duration = Duration::from_millis(2);
/// Message latency within a rack, before any fault.
const LATENCY: (Duration, Duration) = (Duration::from_millis(0), Duration::from_millis(4));
/// A process that could not go on is started again after this, as a service manager does.
const RESTART_AFTER: Duration = Duration::from_millis(1_000);

/// What a member's process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Up,
    /// It is stopped where it stands: as far as others can tell.
    Paused,
    /// There is none.
    Down,
}

/// One member with everything that the world knows of it.
pub struct Host {
    /// Disk, clock, process.
    pub body: Body,
    /// What its process does.
    pub life: Life,
    /// What its next end without order takes away beyond the process.
    pub next_crash: Option<Crash>,
    /// It is started again then, without being asked for.
    pub restart_at: Option<Duration>,
    /// Its disk is made to fail: that its process ends is right.
    pub is_disk_broken: bool,
}

impl Host {
    fn new(body: Body) -> Host {
        Host { body, life: Life::Up, next_crash: None, restart_at: None, is_disk_broken: false }
    }
}

/// The cluster.
pub struct Cluster {
    /// What it is made of.
    pub shape: Shape,
    /// Its network.
    pub links: Links,
    /// Everybody.
    pub hosts: BTreeMap<Member, Host>,
    /// What was seen so far and not yet taken.
    pub seen: Vec<(Duration, Observed)>,
    /// What happened how often.
    pub counts: BTreeMap<Sight, u64>,
    /// Requests of the operator, for whoever carries them to a gateway.
    pub orders: Vec<Order>,
    /// Replicas on their way.
    pub moves: Moves,
    /// The last entry that each replica was seen to apply, and the end of each log.
    applied: BTreeMap<(Member, Group), u64>,
    /// The highest ballot that each replica was seen in.
    ballots: BTreeMap<(Member, Group, u64), u64>,
    sim: turmoil::Sim<'static>,
    trace: Trace,
    log: Log,
    _papers: Rc<Papers>,
}

/// A raft group's name.
pub fn group(number: u64) -> Group {
    match ShardId::from_group(number) {
        Some(ShardId { keyspace: Keyspace::Users, index }) => Group::Users(index),
        Some(ShardId { keyspace: Keyspace::Items, index }) => Group::Items(index),
        None => Group::Catalog,
    }
}

/// A term as checkers get it. In openraft's terms a second leader may follow the first when its replica's number is higher: what no two
/// leaders share is the pair, and votes only rise in it. Entries do not tell whose they are: they count as the last of their term.
fn ballot(term: u64, replica: u64) -> u64 {
    term << 32 | replica
}

fn failed(error: Box<dyn std::error::Error>) -> anyhow::Error {
    anyhow!("the simulation failed: {error}")
}

impl Cluster {
    /// A cluster that starts with the first tick.
    ///
    /// # Errors
    /// Where the secret and the tokens cannot be written.
    pub fn new(shape: Shape, seed: u64, trace: Trace, log: Log) -> Result<Cluster> {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3_600))
            .min_message_latency(LATENCY.0)
            .max_message_latency(LATENCY.1)
            .tcp_capacity(4_096)
            .enable_random_order();
        let mut sim = builder.build();
        let papers = Rc::new(Papers::issue(&shape)?);
        let links = Links::new(seed, trace.clone());
        let members = shape.members();
        // Addresses are given out in the order in which they are asked for.
        let addresses: BTreeMap<Member, IpAddr> =
            members.iter().map(|member| (*member, sim.lookup(member.to_string()))).collect();
        let coordinators: Vec<String> = (1..=shape.coordinators)
            .map(|number| shape::internal_addr(addresses[&Member::coordinator(number)]))
            .collect();
        let mut hosts = BTreeMap::new();
        for (member, host) in &addresses {
            let body = Body::new(*member, *host);
            match member.role {
                Role::Coordinator => {
                    let settings = shape::coordinator(&shape, member.number, &coordinators, &papers)?;
                    let start = move |body: Body, platform| run_coordinator(body, settings.clone(), platform);
                    add(&mut sim, &body, &links, seed, start);
                }
                Role::Node => {
                    let settings = shape::node(&shape, member.number, *host, &coordinators, &papers)?;
                    let start = move |body: Body, platform| run_node(body, settings.clone(), platform);
                    add(&mut sim, &body, &links, seed, start);
                }
            }
            hosts.insert(*member, Host::new(body));
        }
        let (seen, counts, orders) = (Vec::new(), BTreeMap::new(), Vec::new());
        let (applied, ballots, moves) = (BTreeMap::new(), BTreeMap::new(), Moves::default());
        Ok(Cluster {
            shape,
            links,
            hosts,
            seen,
            counts,
            orders,
            moves,
            applied,
            ballots,
            sim,
            trace,
            log,
            _papers: papers,
        })
    }

    /// Adds a client's host; its software runs from the next tick on.
    pub fn client(&mut self, name: &str, software: impl Future<Output = ()> + 'static) {
        self.sim.client(name, async {
            software.await;
            Ok(())
        });
    }

    /// The address that a host has or will have.
    pub fn address(&self, name: &str) -> IpAddr {
        self.sim.lookup(name)
    }

    /// Simulated time.
    pub fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Where clients reach the nodes.
    pub fn gateways(&self) -> Vec<(Member, String)> {
        let nodes = self.hosts.iter().filter(|(member, _)| member.role == Role::Node);
        nodes.map(|(member, host)| (*member, shape::query_addr(host.body.host))).collect()
    }

    /// One step of everything.
    ///
    /// # Errors
    /// Where the simulation itself broke.
    pub fn tick(&mut self) -> Result<()> {
        self.sim.step().map_err(failed)?;
        let now = self.now();
        self.look_after_processes(now);
        self.follow_moves();
        let said = self.log.take();
        self.count(Sight::Truncations, said.truncations);
        for entry in said.applied {
            let Ok(member) = entry.host.parse() else { continue };
            let (group, hash) = (group(entry.group), format!("{:016x}", entry.hash));
            // Entries come one after the other; a gap is a snapshot that was installed.
            let before = self.applied.insert((member, group), entry.index);
            if before.is_some_and(|before| entry.index > before + 1) {
                self.count(Sight::SnapshotInstalls, 1);
            }
            let term = ballot(entry.term, u64::from(u32::MAX));
            let applied = Observed::Applied { group, member, replica: 0, index: entry.index, term, hash };
            self.seen.push((entry.at, applied));
        }
        for line in said.lines {
            let Ok(member) = line.host.parse() else { continue };
            self.seen.push((line.at, Observed::Log { member, level: line.level, line: line.text }));
        }
        Ok(())
    }

    fn look_after_processes(&mut self, now: Duration) {
        let members: Vec<Member> = self.hosts.keys().copied().collect();
        for member in members {
            self.gather(member);
            let Some(host) = self.hosts.get_mut(&member) else { continue };
            let ended = host.body.take_ended();
            let is_due = host.restart_at.is_some_and(|at| at <= now);
            if let Some(how) = ended {
                self.process_ended(member, how, now);
            } else if is_due {
                self.start(member);
            }
        }
    }

    fn process_ended(&mut self, member: Member, how: Ended, now: Duration) {
        self.trace.note(now, "ended", format_args!("{member} {how:?}"));
        let broken = self.hosts.get(&member).is_some_and(|host| host.is_disk_broken);
        match how {
            Ended::InOrder(_) => {
                self.crash(member, Crash::KillProcess, Machine::Silent);
                self.start(member);
            }
            Ended::Fatal(why) => {
                let level =
                    if broken { docent_trial::history::Level::Info } else { docent_trial::history::Level::Error };
                let line = format!("the process ended by itself: {why}");
                self.seen.push((now, Observed::Log { member, level, line }));
                self.crash(member, Crash::KillProcess, Machine::Silent);
                if let Some(host) = self.hosts.get_mut(&member) {
                    host.restart_at = Some(now + RESTART_AFTER);
                }
            }
        }
    }

    /// What changed about a member's groups.
    fn gather(&mut self, member: Member) {
        let seen = self.hosts.get(&member).map(|host| host.body.take_seen()).unwrap_or_default();
        if seen.is_empty() {
            return;
        }
        let by_replica = self.replicas();
        for (at, status) in seen {
            let group = group(status.group);
            let last = status.last_log.unwrap_or(0);
            let leader = status.leader.as_ref().map_or(0, |leader| leader.replica);
            let mine = if status.is_leader() { status.replica } else { leader };
            let known = self.ballots.entry((member, group, status.replica)).or_default();
            // Who leads is forgotten between two leaders of a term; a lower term would show.
            let is_forgotten = mine == 0 && *known >> 32 == status.term;
            let term = if is_forgotten { *known } else { ballot(status.term, mine) };
            *known = term;
            if status.is_leader() {
                self.seen.push((at, Observed::Leader { group, term, member }));
            }
            self.seen.push((
                at,
                Observed::Replica {
                    group,
                    member,
                    replica: status.replica,
                    term,
                    last,
                    committed: status.committed.unwrap_or(0),
                    applied: status.applied.unwrap_or(0),
                },
            ));
            if let (Some(index), true) = (status.membership_index, status.is_leader()) {
                let is = |voter: bool| {
                    let members = status.members.iter().filter(move |one| one.is_voter == voter);
                    members.filter_map(|one| by_replica.get(&(status.group, one.member.replica)).copied()).collect()
                };
                let is_joint = status.is_joint;
                self.seen
                    .push((at, Observed::Membership { group, index, voters: is(true), learners: is(false), is_joint }));
            }
        }
    }

    /// Who hosts a group's replica.
    pub fn replicas(&self) -> BTreeMap<(u64, u64), Member> {
        let hosts = self.hosts.iter();
        let groups = hosts.flat_map(|(member, host)| host.body.groups().into_iter().map(|status| (*member, status)));
        groups.map(|(member, status)| ((status.group, status.replica), member)).collect()
    }

    /// Counts something.
    pub fn count(&mut self, what: Sight, by: u64) {
        *self.counts.entry(what).or_default() += by;
    }

    /// Ends a member's process and leaves its machine so.
    pub fn crash(&mut self, member: Member, crash: Crash, machine: Machine) {
        let Some(host) = self.hosts.get_mut(&member) else { return };
        let crash = host.next_crash.take().unwrap_or(crash);
        if crash != Crash::KillProcess && host.body.disk.unsynced_bytes() > 0 {
            let what = if matches!(crash, Crash::Tear(_)) { Sight::TornWrites } else { Sight::LostUnsyncedWrites };
            *self.counts.entry(what).or_default() += 1;
            *self.counts.entry(Sight::LostUnsyncedWrites).or_default() += u64::from(what == Sight::TornWrites);
        }
        self.links.set_machine(host.body.host, machine);
        // The disk first: what is dropped with the process must not write any more.
        host.body.disk.crash(crash);
        host.body.forget_process();
        host.life = Life::Down;
        host.restart_at = None;
        self.sim.crash(member.to_string());
    }

    /// Starts a member that is down.
    pub fn start(&mut self, member: Member) {
        let Some(host) = self.hosts.get_mut(&member).filter(|host| host.life == Life::Down) else { return };
        host.life = Life::Up;
        host.restart_at = None;
        // Whoever still has a connection to the process before learns that it is gone.
        self.links.reset(host.body.host);
        self.links.set_machine(host.body.host, Machine::Up);
        self.sim.bounce(member.to_string());
        self.count(Sight::Restarts, 1);
    }

    /// Runs something inside of a node's process.
    pub fn send(&self, member: Member, errand: Errand) {
        if let Some(host) = self.hosts.get(&member) {
            host.body.send(errand);
        }
    }

    /// The cluster as faults see it.
    pub fn scene(&self) -> Scene {
        let actors = self.hosts.iter().map(|(member, host)| {
            let groups = host.body.groups();
            let leads: BTreeSet<Group> =
                groups.iter().filter(|status| status.is_leader()).map(|status| group(status.group)).collect();
            let holds = groups.iter().map(|status| group(status.group)).collect();
            Actor {
                member: *member,
                zone: self.shape.zone(*member).to_owned(),
                is_up: host.life == Life::Up,
                leads,
                holds,
            }
        });
        Scene { actors: actors.collect(), moving: self.moves.parties(), driver: None }
    }

    /// Notes something in the trace.
    pub fn note(&self, kind: &str, words: std::fmt::Arguments<'_>) {
        self.trace.note(self.now(), kind, words);
    }
}

/// Adds a host whose software begins anew, on the platform of its body, whenever it is started.
fn add<F: Future<Output = ()> + 'static>(
    sim: &mut turmoil::Sim<'static>,
    body: &Body,
    links: &Links,
    seed: u64,
    start: impl Fn(Body, Platform) -> F + 'static,
) {
    let (body, links) = (body.clone(), links.clone());
    sim.host(body.member.to_string(), move || stay(start(body.clone(), body.platform(&links, seed))));
}

/// A host's software must not end: turmoil would take its sockets for open. It stays until the host crashes.
async fn stay(software: impl Future<Output = ()>) -> turmoil::Result {
    software.await;
    std::future::pending().await
}
