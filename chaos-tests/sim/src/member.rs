//! A member as a host of the simulation: its disk, its clock, and the software that runs on it.

use crate::chance::Chance;
use crate::links::Links;
use crate::net::SimNet;
use docent_coordinator::Coordinator;
use docent_gateway::Gateway;
use docent_node::Node;
use docent_raft::{Group, Status};
use docent_runtime::disk::MemDisk;
use docent_runtime::platform::{Engine, Platform};
use docent_runtime::threads::Threads;
use docent_runtime::{Clock, Supervisor};
use docent_trial::Member;
use docent_types::catalog::Catalog;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The simulated wall clock begins where the shim's stands: 2026-01-01T00:00:00Z.
const EPOCH_MS: i64 = 1_767_225_600_000;
/// How often a member's groups are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// An unhurried disk.
const SYNC_US: std::ops::Range<u64> = 300..2_500;
const SHUTDOWN: Duration = Duration::from_secs(10);

/// What the simulation asks of the software of a host; it runs there, in the host's time.
pub type Errand = Box<dyn FnOnce(Gateway) -> BoxFuture<'static, ()> + Send>;

/// What is left of a member when its process is gone, and what reaches into it while it runs. Clones share it.
#[derive(Clone)]
pub struct Body {
    /// Who.
    pub member: Member,
    /// Where.
    pub host: IpAddr,
    /// Its disk.
    pub disk: MemDisk,
    /// How far its wall clock is off, in milliseconds.
    pub clock_off_ms: Arc<AtomicI64>,
    /// How much longer a sync takes, in milliseconds.
    pub slow_sync_ms: Arc<AtomicU64>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    errands: VecDeque<Errand>,
    is_asked_to_end: bool,
    ended: Option<Ended>,
    seen: Vec<(Duration, Status)>,
    last: BTreeMap<u64, Status>,
    catalog: Option<Arc<Catalog>>,
}

/// How a process ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it was asked to; `false` where something did not end in time.
    InOrder(bool),
    /// It could not go on.
    Fatal(String),
}

struct SimClock {
    off_ms: Arc<AtomicI64>,
    /// For whoever asks when no host runs.
    last: Mutex<Duration>,
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        EPOCH_MS + self.monotonic().as_millis() as i64 + self.off_ms.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = turmoil::sim_elapsed().unwrap_or(*last).max(*last);
        *last
    }
}

impl Body {
    /// A member with an empty disk.
    pub fn new(member: Member, host: IpAddr) -> Body {
        Body {
            member,
            host,
            disk: MemDisk::new(),
            clock_off_ms: Arc::default(),
            slow_sync_ms: Arc::default(),
            shared: Arc::default(),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `errand` on the host when its process next looks.
    pub fn send(&self, errand: Errand) {
        self.shared().errands.push_back(errand);
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) {
        self.shared().is_asked_to_end = true;
    }

    /// How the process ended by itself, if it did since the last call.
    pub fn take_ended(&self) -> Option<Ended> {
        self.shared().ended.take()
    }

    /// What changed about its groups since the last call.
    pub fn take_seen(&self) -> Vec<(Duration, Status)> {
        std::mem::take(&mut self.shared().seen)
    }

    /// Its groups when it was last looked at; none since its process is gone.
    pub fn groups(&self) -> Vec<Status> {
        self.shared().last.values().cloned().collect()
    }

    /// The catalog as its coordinator knew it when it was last looked at.
    pub fn catalog(&self) -> Option<Arc<Catalog>> {
        self.shared().catalog.clone()
    }

    /// Its process is gone: what was asked of it is not done.
    pub fn forget_process(&self) {
        let mut shared = self.shared();
        *shared = Shared { seen: std::mem::take(&mut shared.seen), ..Shared::default() };
    }

    /// What a process on this host stands on. Ends with the disk's next crash.
    pub fn platform(&self, links: &Links, seed: u64) -> Platform {
        let slow = self.slow_sync_ms.clone();
        let chance = Mutex::new(Chance::of(seed, &format!("syncs of {}", self.member)));
        Platform {
            clock: Arc::new(SimClock { off_ms: self.clock_off_ms.clone(), last: Mutex::default() }),
            disk: Arc::new(self.disk.process()),
            net: Arc::new(SimNet::new(self.host, links.clone())),
            threads: Threads::Inline,
            engine: Engine::Twin,
            sync_latency: Arc::new(move || {
                let mut chance = chance.lock().unwrap_or_else(PoisonError::into_inner);
                let took = Duration::from_micros(SYNC_US.start + chance.below(SYNC_US.end - SYNC_US.start));
                took + Duration::from_millis(slow.load(Ordering::Relaxed))
            }),
        }
    }

    fn note(&self, groups: Vec<Group>) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        let mut shared = self.shared();
        let open: Vec<u64> = groups.iter().map(Group::id).collect();
        shared.last.retain(|group, _| open.contains(group));
        for group in groups {
            let status = group.status();
            let key = |status: &Status| {
                (status.term, status.role, status.last_log, status.committed, status.applied, status.membership_index)
            };
            let is_news = shared.last.get(&status.group).is_none_or(|before| key(before) != key(&status));
            if is_news {
                shared.seen.push((at, status.clone()));
                shared.last.insert(status.group, status);
            }
        }
    }

    fn end(&self, how: Ended) {
        self.shared().ended = Some(how);
    }
}

/// Runs a coordinator until its host crashes.
pub async fn run_coordinator(body: Body, settings: docent_coordinator::Settings, platform: Platform) {
    let supervisor = Supervisor::new();
    let coordinator = match Coordinator::start(settings, platform, supervisor.clone()).await {
        Ok(coordinator) => coordinator,
        Err(error) => return body.end(Ended::Fatal(format!("it does not start: {error}"))),
    };
    let catalog = coordinator.catalog();
    let groups = || {
        body.shared().catalog = Some(catalog.borrow().clone());
        vec![coordinator.group().clone()]
    };
    if let Some(why) = attend(&body, &supervisor, groups, None).await {
        return body.end(Ended::Fatal(why));
    }
    let is_orderly = coordinator.shutdown(SHUTDOWN).await;
    body.end(Ended::InOrder(is_orderly));
}

/// Runs a node until its host crashes.
pub async fn run_node(body: Body, settings: docent_node::Settings, platform: Platform) {
    let supervisor = Supervisor::new();
    let started = tokio::select! {
        started = Node::start(settings, platform, supervisor.clone(), None) => started,
        why = supervisor.wait_fatal() => return body.end(Ended::Fatal(why)),
    };
    let node = match started {
        Ok(node) => node,
        Err(error) => return body.end(Ended::Fatal(format!("it does not start: {error}"))),
    };
    if let Some(why) = attend(&body, &supervisor, || node.groups(), Some(node.gateway())).await {
        return body.end(Ended::Fatal(why));
    }
    let is_orderly = node.shutdown().await;
    body.end(Ended::InOrder(is_orderly));
}

/// Looks at the groups and runs errands, until the process cannot go on (why) or is asked to end (`None`).
async fn attend(
    body: &Body,
    supervisor: &Supervisor,
    groups: impl Fn() -> Vec<Group>,
    gateway: Option<&Gateway>,
) -> Option<String> {
    loop {
        tokio::select! {
            biased;
            why = supervisor.wait_fatal() => return Some(why),
            () = tokio::time::sleep(LOOK) => {} // simulated: how often the state of raft is sampled
        }
        body.note(groups());
        let errands: Vec<Errand> = body.shared().errands.drain(..).collect();
        for errand in errands {
            if let Some(gateway) = gateway {
                errand(gateway.clone()).await;
            }
        }
        if body.shared().is_asked_to_end {
            return None;
        }
    }
}
