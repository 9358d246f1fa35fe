//! What of the vocabulary the simulation can do, and how.

use crate::cluster::{Cluster, Life};
use crate::links::{Machine, Trouble};
use crate::operator::Order;
use docent_runtime::disk::Crash;
use docent_trial::Member;
use docent_trial::fault::{Fault, Kind, Layer};
use docent_trial::history::Sight;
use docent_trial::name::Role;
use docent_trial::schedule::Trigger;
use docent_trial::target::{Scene, Target};
use docent_trial::world::{Applied, World, WorldKind};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// What the simulation can do.
const KINDS: &[Kind] = &[
    Kind::Kill,
    Kind::Pause,
    Kind::Continue,
    Kind::Restart,
    Kind::PowerLoss,
    Kind::Partition,
    Kind::OneWay,
    Kind::Bridge,
    Kind::Loss,
    Kind::Delay,
    Kind::Jitter,
    Kind::Reset,
    Kind::DiskFull,
    Kind::SyncError,
    Kind::SlowSync,
    Kind::TornWrite,
    Kind::LostWrites,
    Kind::ClockJump,
    Kind::Drain,
    Kind::Resume,
    Kind::MoveShard,
    Kind::Train,
    Kind::Activate,
    Kind::RollBack,
    Kind::Heal,
];

impl World for Cluster {
    fn kind(&self) -> WorldKind {
        WorldKind::Sim
    }

    fn can(&self, kind: Kind) -> Result<(), String> {
        if KINDS.contains(&kind) { Ok(()) } else { Err(format!("the simulation cannot do {kind}")) }
    }

    fn scene(&mut self) -> Scene {
        Cluster::scene(self)
    }

    fn holds(&mut self, trigger: &Trigger) -> Result<bool, String> {
        match trigger {
            Trigger::Move(phase) => Ok(self.is_moving(*phase)),
            Trigger::Staged => Ok(self.is_staged()),
            Trigger::Training { .. } => Err(format!("the simulation cannot tell when it is {trigger}")),
        }
    }

    fn apply(&mut self, fault: &Fault, seed: u64) -> Applied {
        let applied = self.carry_out(fault, seed);
        self.note("fault", format_args!("{fault}: {applied}"));
        if applied.is_installed() {
            self.count(Sight::Faults, 1);
        }
        applied
    }
}

impl Cluster {
    fn carry_out(&mut self, fault: &Fault, seed: u64) -> Applied {
        if let Err(why) = self.can(fault.kind()) {
            return Applied::skipped(why);
        }
        let scene = Cluster::scene(self);
        let hit = fault.target().map(|target| target.resolve(&scene, seed)).unwrap_or_default();
        if fault.target().is_some() && hit.is_empty() {
            return Applied::skipped("nobody plays that role");
        }
        match fault {
            Fault::Partition { side, from } => self.cut(side, from, &scene, seed, (true, true)),
            Fault::OneWay { from, to } => self.cut(from, to, &scene, seed, (true, false)),
            Fault::Bridge { side, from, .. } => self.cut(side, from, &scene, seed, (true, true)),
            Fault::MoveShard { shard, to, .. } => {
                let to = to.resolve(&scene, seed);
                match self.way_of(*shard, &hit, &to) {
                    Some((from, to)) => self.order_move(fault, &shard.to_string(), from, to),
                    None => Applied::skipped(format!("nobody of these has {shard}, or everybody does")),
                }
            }
            Fault::Train => self.order(fault, "/v1/jobs", json!({})),
            Fault::RollBack => self.order(fault, "/v1/models:rollback", json!({})),
            Fault::Activate { version } => match version.or_else(|| self.waiting_version()) {
                Some(version) => self.order(fault, &format!("/v1/models/{version}:activate"), json!({})),
                None => Applied::skipped("no version waits to go live"),
            },
            other => {
                let done: BTreeSet<Member> = hit.into_iter().filter(|member| self.hit(*member, other, seed)).collect();
                if done.is_empty() {
                    return Applied::skipped("it is so already");
                }
                let names: Vec<String> = done.iter().map(ToString::to_string).collect();
                Applied::installed(format!("{} {}", other.kind(), names.join("+")), done)
            }
        }
    }

    /// One fault at one member; whether anything was done.
    fn hit(&mut self, member: Member, fault: &Fault, seed: u64) -> bool {
        let Some(life) = self.hosts.get(&member).map(|host| host.life) else { return false };
        match fault {
            Fault::Kill(_) if life != Life::Down => self.crash(member, Crash::KillProcess, Machine::Silent),
            Fault::PowerLoss(_) if life != Life::Down => {
                let crash = if seed.is_multiple_of(2) { Crash::DropUnsynced } else { Crash::Tear(seed) };
                self.crash(member, crash, Machine::Dark);
            }
            Fault::Restart(_) if life == Life::Down => self.start(member),
            Fault::Restart(_) if life == Life::Up => self.hosts[&member].body.ask_to_end(),
            Fault::Pause(_) if life == Life::Up => self.pause(member, true),
            Fault::Continue(_) if life == Life::Paused => self.pause(member, false),
            Fault::Heal { layer, .. } => return self.heal(member, *layer),
            other => return self.trouble(member, other, seed),
        }
        true
    }

    /// Faults of network, disk and clock.
    fn trouble(&mut self, member: Member, fault: &Fault, seed: u64) -> bool {
        match fault {
            Fault::Loss { percent, .. } => self.every_way(member, |way| way.loss_percent = *percent),
            Fault::Delay { ms, .. } => self.every_way(member, |way| way.delay_ms = *ms),
            Fault::Jitter { ms, .. } => self.every_way(member, |way| way.jitter_ms = *ms),
            Fault::Reset(_) => self.links.reset(self.hosts[&member].body.host),
            Fault::Drain(_) if member.role == Role::Node => self.order_node(member, "drain"),
            Fault::Resume(_) if member.role == Role::Node => self.order_node(member, "resume"),
            other => {
                let Some(host) = self.hosts.get_mut(&member) else { return false };
                match other {
                    Fault::DiskFull(_) => {
                        host.is_disk_broken = true;
                        host.body.disk.set_capacity(Some(host.body.disk.used_bytes()));
                    }
                    Fault::SyncError(_) => {
                        host.is_disk_broken = true;
                        host.body.disk.fail_syncs_after(0);
                        *self.counts.entry(Sight::SyncErrors).or_default() += 1;
                    }
                    Fault::SlowSync { ms, .. } => host.body.slow_sync_ms.store(u64::from(*ms), Ordering::Relaxed),
                    Fault::TornWrite(_) => host.next_crash = Some(Crash::Tear(seed)),
                    Fault::LostWrites(_) => host.next_crash = Some(Crash::DropUnsynced),
                    Fault::ClockJump { ms, .. } => drop(host.body.clock_off_ms.fetch_add(*ms, Ordering::Relaxed)),
                    _ => return false,
                }
            }
        }
        true
    }

    /// A paused process is one that nobody hears and that hears nobody. Its timers go on: what SIGSTOP does beyond that is the lab's.
    fn pause(&mut self, member: Member, is_paused: bool) {
        let Some(host) = self.hosts.get_mut(&member) else { return };
        host.life = if is_paused { Life::Paused } else { Life::Up };
        self.links.set_machine(host.body.host, if is_paused { Machine::Dark } else { Machine::Up });
    }

    fn every_way(&self, member: Member, change: impl Fn(&mut Trouble)) {
        let here = self.hosts[&member].body.host;
        for host in self.hosts.values().map(|host| host.body.host).filter(|host| *host != here) {
            self.links.change((here, host), &change);
            self.links.change((host, here), &change);
        }
    }

    fn cut(&mut self, side: &Target, other: &Target, scene: &Scene, seed: u64, ways: (bool, bool)) -> Applied {
        let (one, other) = (side.resolve(scene, seed), other.resolve(scene, seed));
        // The rest is everybody but those of the other side, whichever of the two it is.
        let (side, other) = match side {
            Target::Rest => (&one - &other, other),
            _ => (one.clone(), &other - &one),
        };
        if side.is_empty() || other.is_empty() {
            return Applied::skipped("there is nobody on the other side");
        }
        for one in &side {
            for two in &other {
                let (here, there) = (self.hosts[one].body.host, self.hosts[two].body.host);
                if ways.0 {
                    self.links.change((here, there), |way| way.is_cut = true);
                }
                if ways.1 {
                    self.links.change((there, here), |way| way.is_cut = true);
                }
            }
        }
        let names = |members: &BTreeSet<Member>| members.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        let arrow = if ways.1 { "and" } else { "to" };
        Applied::installed(format!("cut {} {arrow} {}", names(&side), names(&other)), side)
    }

    fn heal(&mut self, member: Member, layer: Layer) -> bool {
        let is = |one: Layer| layer == one || layer == Layer::Everything;
        let Some(host) = self.hosts.get_mut(&member) else { return false };
        if is(Layer::Disk) {
            host.is_disk_broken = false;
            host.body.disk.set_capacity(None);
            host.body.disk.fail_syncs_after(u64::MAX);
            host.body.slow_sync_ms.store(0, Ordering::Relaxed);
            host.next_crash = None;
        }
        if is(Layer::Clock) {
            host.body.clock_off_ms.store(0, Ordering::Relaxed);
        }
        if is(Layer::Network) {
            self.links.mend(host.body.host);
        }
        if is(Layer::Process) {
            match host.life {
                Life::Up => {}
                Life::Paused => self.pause(member, false),
                Life::Down => self.start(member),
            }
        }
        if is(Layer::Operator) && member.role == Role::Node {
            self.order_node(member, "resume");
        }
        true
    }

    /// What comes of it is told when it is known.
    fn order(&mut self, fault: &Fault, path: &str, body: serde_json::Value) -> Applied {
        self.orders.push(Order { fault: Some(fault.clone()), path: path.to_owned(), body });
        Applied::indeterminate(format!("the operator asks for it: {path}"))
    }

    fn order_node(&mut self, node: Member, action: &str) {
        // The catalog numbers nodes in the order in which they joined, which is not ours: whoever carries it out looks the address up.
        let addr = crate::shape::internal_addr(self.hosts[&node].body.host);
        let body = json!({ "action": action, "node": addr });
        self.orders.push(Order { fault: None, path: "/v1/placement".to_owned(), body });
    }

    fn order_move(&mut self, fault: &Fault, shard: &str, from: Member, to: Member) -> Applied {
        let addr = |member: &Member| crate::shape::internal_addr(self.hosts[member].body.host);
        let body = json!({ "action": "move", "shard": shard, "from": addr(&from), "to": addr(&to) });
        self.order(fault, "/v1/placement", body)
    }
}
