//! What the network does to the bytes between two hosts: nothing, or it holds them, is late, or breaks the connection.
//!
//! Connections are TCP, so what a network loses comes later: bytes of a cut link wait on the receiver's side until it is whole again, a lost
//! packet comes after the time of a retransmission. What never comes back is found by time-outs, as in life.

use crate::chance::Chance;
use crate::trace::Trace;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// The first retransmission of Linux; each further one waits twice as long.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// A direction: from, to.
pub type Way = (IpAddr, IpAddr);

/// What a link does to what is sent on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Nothing passes.
    pub is_cut: bool,
    /// So many packets of 100 are lost at first.
    pub loss_percent: u8,
    /// Everything comes so much later.
    pub delay_ms: u32,
    /// And by up to this more.
    pub jitter_ms: u32,
}

/// What there is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// A process that listens.
    Up,
    /// The machine runs and nobody listens: connections are refused.
    Silent,
    /// No power: nothing answers.
    Dark,
}

/// The network's state. Clones share it.
#[derive(Clone)]
pub struct Links {
    shared: Arc<Mutex<State>>,
    trace: Trace,
}

struct State {
    ways: BTreeMap<Way, Trouble>,
    machines: BTreeMap<IpAddr, Machine>,
    /// Connections made before their ends were last reset are broken.
    resets: BTreeMap<IpAddr, u64>,
    chance: Chance,
    wakers: Vec<Waker>,
    retransmitted: u64,
}

impl Links {
    /// A whole network.
    pub fn new(seed: u64, trace: Trace) -> Links {
        let state = State {
            ways: BTreeMap::new(),
            machines: BTreeMap::new(),
            resets: BTreeMap::new(),
            chance: Chance::new(seed),
            wakers: Vec::new(),
            retransmitted: 0,
        };
        Links { shared: Arc::new(Mutex::new(state)), trace }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what happens on the way from one host to another.
    pub fn change(&self, way: Way, change: impl FnOnce(&mut Trouble)) {
        let mut state = self.state();
        change(state.ways.entry(way).or_default());
        state.wake();
    }

    /// Mends every way from and to `host`.
    pub fn mend(&self, host: IpAddr) {
        let mut state = self.state();
        state.ways.retain(|(from, to), _| *from != host && *to != host);
        state.wake();
    }

    /// Says what there is at an address from now on.
    pub fn set_machine(&self, host: IpAddr, machine: Machine) {
        let mut state = self.state();
        state.machines.insert(host, machine);
        state.wake();
    }

    /// Breaks every connection of `host`, once.
    pub fn reset(&self, host: IpAddr) {
        let mut state = self.state();
        *state.resets.entry(host).or_default() += 1;
        state.wake();
    }

    /// Packets that were lost and sent again.
    pub fn retransmitted(&self) -> u64 {
        self.state().retransmitted
    }

    /// Ways on which nothing passes.
    pub fn is_cut(&self, way: Way) -> bool {
        let state = self.state();
        state.is_dark(way.0) || state.is_dark(way.1) || state.ways.get(&way).is_some_and(|way| way.is_cut)
    }

    pub(crate) fn machine(&self, host: IpAddr) -> Machine {
        self.state().machines.get(&host).copied().unwrap_or(Machine::Up)
    }

    /// The connection's age: it is broken once this differs.
    pub(crate) fn age(&self, way: Way) -> u64 {
        let state = self.state();
        [way.0, way.1].iter().filter_map(|host| state.resets.get(host)).sum()
    }

    /// Whether bytes pass now; else `waker` is woken when that may have changed.
    pub(crate) fn passes(&self, way: Way, waker: &Waker) -> bool {
        let mut state = self.state();
        let is_cut = state.is_dark(way.0) || state.is_dark(way.1) || state.ways.get(&way).is_some_and(|way| way.is_cut);
        if is_cut && !state.wakers.iter().any(|known| known.will_wake(waker)) {
            // What is on its way now is lost, and comes again when the way is whole.
            state.retransmitted += 1;
            state.wakers.push(waker.clone());
        }
        !is_cut
    }

    /// How much later the next bytes of a way come.
    pub(crate) fn lateness(&self, way: Way) -> Duration {
        let mut state = self.state();
        let Some(trouble) = state.ways.get(&way).copied() else { return Duration::ZERO };
        let mut late = Duration::from_millis(u64::from(trouble.delay_ms));
        if trouble.jitter_ms > 0 {
            late += Duration::from_millis(state.chance.below(u64::from(trouble.jitter_ms) + 1));
        }
        let mut wait = RETRANSMIT;
        // At some point a connection would be given up; keep-alives do that earlier.
        while state.chance.percent(trouble.loss_percent) && wait < RETRANSMIT * 16 {
            state.retransmitted += 1;
            late += wait;
            wait *= 2;
        }
        late
    }

    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl State {
    fn is_dark(&self, host: IpAddr) -> bool {
        self.machines.get(&host) == Some(&Machine::Dark)
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}
