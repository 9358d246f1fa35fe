//! The cut of a job: for each shard the state at one log index, pinned on every replica that still knows it until the job is over.
//!
//! Leaders mark the moment by a `Digest` command in the shard's log, which changes nothing and at which every replica keeps its state for a
//! while (`docent_store::digest`). So replicas pin the same state without waiting for one another, and any of them can take a lost host's place.

use crate::shards::{Hosted, Shards};
use docent_runtime::Deadline;
use docent_shard::view::View;
use docent_types::command::{ItemCommand, UserCommand};
use docent_types::{Error, Keyspace, Kind, Position, Result, ShardId, SlotRange, codec};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A pinned shard.
#[derive(Clone)]
pub struct Pinned {
    /// What it owns.
    pub slots: SlotRange,
    /// Its state at the cut.
    pub view: Arc<dyn View>,
    /// The cut.
    pub position: Position,
}

/// What one attempt reads on this node.
pub type Pins = BTreeMap<ShardId, Pinned>;

/// The pins of the jobs under way, by job: those of its newest attempt, which may have taken over an older one's.
#[derive(Default)]
pub struct Cuts {
    /// By job: the attempt and what it pinned.
    pins: Mutex<BTreeMap<u64, (u64, Pins)>>,
}

/// Jobs that may hold pins at a time: pins hold back the store's clean-up.
const JOBS_MAX: usize = 2;

impl Cuts {
    /// Marks the state of every shard that this node leads, and pins it; gives the positions of the marks.
    ///
    /// # Errors
    /// `Conflict` when a newer attempt was here.
    pub async fn mark(&self, shards: &Shards, job: u64, epoch: u64, deadline: Deadline) -> Result<Vec<Position>> {
        let led = shards.all().into_iter().filter(|hosted| hosted.group.status().is_leader());
        let marked = futures::future::join_all(led.map(|hosted| async move {
            // A shard that is changing its leader is marked by the next one, or the driver asks again.
            let position = mark(&hosted, deadline).await.ok()?;
            pin(&hosted, position)
        }));
        let marked: Vec<Pinned> = marked.await.into_iter().flatten().collect();
        let positions = marked.iter().map(|pin| pin.position).collect();
        self.change(job, epoch, |pins| pins.extend(marked.into_iter().map(|pin| (pin.position.shard, pin))))?;
        Ok(positions)
    }

    /// Pins, or goes on holding, every replica of this node whose shard has a position here and that knows its state; drops what the job held
    /// at other positions. Gives what is held.
    ///
    /// # Errors
    /// As [`Self::mark`].
    pub async fn pin(
        &self,
        shards: &Shards,
        job: u64,
        epoch: u64,
        positions: &[Position],
        deadline: Deadline,
    ) -> Result<Vec<Position>> {
        let held = self.held(job);
        let new = positions.iter().filter(|position| !held.contains(position));
        let found = futures::future::join_all(new.map(|position| async move {
            let hosted = shards.get(position.shard).ok()?;
            // One that lags behind is no host: the job need not wait for it.
            deadline.bound("reaching a cut", hosted.reached(position.index)).await.ok()?;
            pin(&hosted, *position)
        }));
        let found = found.await;
        self.change(job, epoch, |pins| {
            pins.retain(|_, pin| positions.contains(&pin.position));
            pins.extend(found.into_iter().flatten().map(|pin| (pin.position.shard, pin)));
            pins.values().map(|pin| pin.position).collect()
        })
    }

    /// Changes what a job holds, in the name of one of its attempts.
    fn change<T>(&self, job: u64, epoch: u64, change: impl FnOnce(&mut Pins) -> T) -> Result<T> {
        let mut jobs = self.lock();
        let (newest, pins) = jobs.entry(job).or_default();
        if *newest > epoch {
            return Err(Error::new(Kind::Conflict, format!("job {job} has a newer attempt than {epoch}")));
        }
        *newest = epoch;
        let outcome = change(pins);
        while jobs.len() > JOBS_MAX {
            jobs.pop_first();
        }
        Ok(outcome)
    }

    /// The positions that are held for a job, whichever attempt made them.
    pub fn held(&self, job: u64) -> Vec<Position> {
        let pins = self.lock();
        pins.get(&job).map_or_else(Vec::new, |(_, pins)| pins.values().map(|pin| pin.position).collect())
    }

    /// What an attempt reads.
    ///
    /// # Errors
    /// `NotFound` where nothing is pinned for it.
    pub fn get(&self, job: u64, epoch: u64) -> Result<Pins> {
        match self.lock().get(&job) {
            Some((pinned_at, pinned)) if *pinned_at == epoch => Ok(pinned.clone()),
            _ => Err(Error::new(Kind::NotFound, format!("no input of job {job} is pinned here for attempt {epoch}"))),
        }
    }

    /// Ends the pins of jobs that are over.
    pub fn retain(&self, is_running: impl Fn(u64) -> bool) {
        self.lock().retain(|job, _| is_running(*job));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (u64, Pins)>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks the moment in the shard's log.
async fn mark(hosted: &Hosted, deadline: Deadline) -> Result<Position> {
    let command = match hosted.id.keyspace {
        Keyspace::Users => codec::encode(&UserCommand::Digest),
        Keyspace::Items => codec::encode(&ItemCommand::Digest),
    };
    hosted.propose(command, deadline).await.map(|(position, _)| position)
}

/// The state at a mark that was applied here, if it is still known.
fn pin(hosted: &Hosted, position: Position) -> Option<Pinned> {
    let view = hosted.store.digests().pinned(position.index)?;
    Some(Pinned { slots: hosted.slots, view, position })
}
