//! Checkpoints: what hosts keep of a job at a barrier, so that its next attempt goes on from there.
//!
//! At a barrier each host writes the *state* of its virtual workers ([`Blob::State`]) to its own disk, and the node that keeps its second copy
//! pulls it. A state is a function of (settings, input, virtual worker, step) and of nothing else, so it serves any host of a later attempt on the
//! same input. Two barriers are kept: while the newer one is being written, the older one is whole.
//!
//! | family | of | state after a step |
//! |---|---|---|
//! | iALS | users, items | rows, f32 |
//! | sampled softmax, two towers | items | rows, then the squares of Adagrad, f32; the dense weights are in the driver's notes |
//! | graph filter | items | the neighbours of each item that are counted (`pairs`) |
use super::{Context, order::Order, session::Session};
use crate::{
    Error, TrainResponse,
    message::{Barrier, Blob, Checkpoint, Side, Source},
    plan::{Algorithm, Hosts},
    wire,
};
use bytes::Bytes;
use futures::future::try_join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Barriers that are kept of a job.
const KEPT: usize = 2;

/// States of virtual workers, in their order.
pub(super) type States = Vec<(u16, Bytes)>;

/// What this node keeps, by job and barrier.
#[derive(Default)]
pub(super) struct Kept {
    jobs: Mutex<BTreeMap<u64, BTreeMap<Barrier, Copy>>>,
}

/// What is kept at a barrier: names in the store.
struct Copy {
    memo: Bytes,
    states: BTreeMap<(Side, u16), [u8; 32]>,
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, BTreeMap<Barrier, Copy>>> {
        // Entries are put in and taken out whole, so a panic elsewhere leaves the map usable.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a barrier, and forgets those of the job that are two older.
    fn insert(&self, job: u64, barrier: Barrier, copy: Copy) {
        let mut jobs = self.lock();
        let barriers = jobs.entry(job).or_default();
        // Another input is another job: none of its states is of use.
        barriers.retain(|older, _| older.input == barrier.input);
        barriers.insert(barrier, copy);
        while barriers.len() > KEPT {
            barriers.pop_first();
        }
    }

    /// Everything of a job.
    pub(super) fn of(&self, job: u64) -> Vec<Checkpoint> {
        let jobs = self.lock();
        let of_side = |copy: &Copy, wanted: Side| {
            copy.states.keys().filter(|(side, _)| *side == wanted).map(|(_, vworker)| *vworker).collect()
        };
        let checkpoint = |(barrier, copy): (&Barrier, &Copy)| Checkpoint {
            barrier: *barrier,
            memo: copy.memo.clone(),
            users: of_side(copy, Side::Users),
            items: of_side(copy, Side::Items),
        };
        jobs.get(&job).into_iter().flatten().map(checkpoint).collect()
    }

    /// A state that an older barrier of this one's run has and that has not changed since.
    fn settled(&self, job: u64, barrier: &Barrier, of: (Side, u16), step: u32) -> Option<[u8; 32]> {
        let jobs = self.lock();
        let is_as_good = |older: &Barrier| {
            (older.run, older.input) == (barrier.run, barrier.input) && (step..barrier.step).contains(&older.step)
        };
        let mut copies = jobs.get(&job)?.iter().filter(|(older, _)| is_as_good(older));
        copies.find_map(|(_, copy)| copy.states.get(&of).copied())
    }

    fn name(&self, job: u64, barrier: &Barrier, side: Side, vworker: u16) -> Result<[u8; 32], Error> {
        let jobs = self.lock();
        let copy = jobs.get(&job).and_then(|barriers| barriers.get(barrier));
        let name = copy.and_then(|copy| copy.states.get(&(side, vworker)));
        name.copied().ok_or_else(|| Error::out_of_turn("for a checkpoint", "this node does not keep it"))
    }

    /// Forgets jobs; whether there were any.
    pub(super) fn retain(&self, is_running: impl Fn(u64) -> bool) -> bool {
        let mut jobs = self.lock();
        let before = jobs.len();
        jobs.retain(|job, _| is_running(*job));
        jobs.len() < before
    }

    fn names(&self) -> BTreeSet<[u8; 32]> {
        let jobs = self.lock();
        jobs.values().flat_map(BTreeMap::values).flat_map(|copy| copy.states.values().copied()).collect()
    }
}

impl Context {
    /// Removes from the disk what is not kept any more.
    pub(super) fn sweep(&self) -> Result<(), Error> {
        let names = self.kept.names();
        self.parts.checkpoints.retain(&|name| names.contains(name))
    }

    /// A state that this node keeps.
    pub(super) fn kept_state(&self, job: u64, barrier: &Barrier, side: Side, vworker: u16) -> Result<Bytes, Error> {
        let name = self.kept.name(job, barrier, side, vworker)?;
        Ok(self.parts.checkpoints.get(&name)?.into())
    }
}

impl Session {
    /// Keeps this node's share of a barrier.
    pub(super) async fn keep(&self, barrier: Barrier, keepers: &Hosts, memo: &Bytes) -> Result<TrainResponse, Error> {
        let node = self.context.options.node;
        // Before the first step there is nothing that the input does not say.
        let sides = if barrier.step == 0 { &[][..] } else { self.open.algorithm.sides() };
        let own = |side: &Side| {
            let of_others = keepers.vworkers(*side, node);
            let all: BTreeSet<u16> = self.open.hosts.vworkers(*side, node).into_iter().chain(of_others).collect();
            all.into_iter().map(|vworker| (*side, vworker)).collect::<Vec<_>>()
        };
        let mut by_host: BTreeMap<u64, Vec<(Side, u16)>> = BTreeMap::new();
        for (side, vworker) in sides.iter().flat_map(own) {
            let host = self.open.hosts.of(side, vworker);
            by_host.entry(host.ok_or_else(|| no_vworker(vworker))?).or_default().push((side, vworker));
        }
        let kept = try_join_all(by_host.into_iter().map(|(host, vworkers)| async move {
            let mut names = Vec::with_capacity(vworkers.len());
            for (side, vworker) in vworkers {
                names.push(((side, vworker), self.keep_state(host, barrier, side, vworker).await?));
            }
            Ok::<_, Error>(names)
        }));
        let states = kept.await?.into_iter().flatten().collect();
        self.context.kept.insert(self.open.key.job, barrier, Copy { memo: memo.clone(), states });
        let context = self.context.clone();
        self.context.compute.run(move || context.sweep()).await??;
        Ok(TrainResponse::Exchanged { bytes_pulled: self.bytes_pulled() })
    }

    /// Keeps one state; gives its name.
    async fn keep_state(&self, host: u64, barrier: Barrier, side: Side, vworker: u16) -> Result<[u8; 32], Error> {
        let settled = self.open.algorithm.settled(vworker);
        let known =
            settled.and_then(|step| self.context.kept.settled(self.open.key.job, &barrier, (side, vworker), step));
        if let Some(name) = known {
            return Ok(name);
        }
        let state = self.pull(host, Blob::State { side, vworker, step: barrier.step }).await?;
        let context = self.context.clone();
        self.context.compute.run(move || context.parts.checkpoints.put(&state)).await?
    }

    /// What a virtual worker of this host needs to go on from `step`.
    pub(super) async fn state_blob(&self, side: Side, vworker: u16, step: u32) -> Result<Bytes, Error> {
        match &self.open.algorithm {
            Algorithm::Ials(_) => self.ials_state(side, vworker, step),
            Algorithm::Graph(_) => self.graph_state(vworker),
            Algorithm::Softmax(_) | Algorithm::Tower(_) => self.softmax_state(vworker, step),
        }
    }

    /// Takes up the states of this host's virtual workers from whoever keeps them.
    pub(super) async fn restore(
        &self,
        barrier: Barrier,
        holders: &Hosts,
        order: Order,
    ) -> Result<TrainResponse, Error> {
        let mut of_sides = BTreeMap::new();
        for side in self.open.algorithm.sides() {
            let own = self.open.hosts.vworkers(*side, self.context.options.node);
            let states = own.into_iter().map(|vworker| self.kept_state(barrier, holders, *side, vworker));
            of_sides.insert(*side, try_join_all(states).await?);
        }
        let users = of_sides.remove(&Side::Users).unwrap_or_default();
        let items = of_sides.remove(&Side::Items).unwrap_or_default();
        let mut sums = Vec::new();
        match &self.open.algorithm {
            Algorithm::Ials(_) => sums = self.restore_rows(barrier.step, users, items).await?,
            Algorithm::Graph(_) => self.restore_neighbours(items, order)?,
            Algorithm::Softmax(_) | Algorithm::Tower(_) => self.restore_table(barrier.step, &items)?,
        }
        Ok(TrainResponse::Stepped { sums, bytes_pulled: self.bytes_pulled() })
    }

    async fn kept_state(
        &self,
        barrier: Barrier,
        holders: &Hosts,
        side: Side,
        vworker: u16,
    ) -> Result<(u16, Bytes), Error> {
        let job = self.open.key.job;
        let holder = holders.of(side, vworker).ok_or_else(|| no_vworker(vworker))?;
        if holder == self.context.options.node {
            let context = self.context.clone();
            let work = move || context.kept_state(job, &barrier, side, vworker);
            return Ok((vworker, self.context.compute.run(work).await??));
        }
        Ok((vworker, self.read_whole(holder, Source::Kept { job, barrier, side, vworker }).await?))
    }
}

/// The values of all rows of a host, `width` each, from the states of its virtual workers.
pub(super) fn joined(states: &States, vworkers: &[(u16, Range<usize>)], width: usize) -> Result<Vec<f32>, Error> {
    let values: Vec<f32> = states.iter().flat_map(|(_, state)| wire::floats(state)).collect();
    let kept = states.iter().map(|(vworker, state)| (*vworker, state.len()));
    let is_whole = kept.eq(vworkers.iter().map(|(vworker, rows)| (*vworker, rows.len() * width * 4)));
    if !is_whole || values.iter().any(|value| !value.is_finite()) {
        return Err(Error::Input("a checkpoint does not fit the input".to_owned()));
    }
    Ok(values)
}

fn no_vworker(vworker: u16) -> Error {
    Error::Invalid(format!("there is no virtual worker {vworker}"))
}
