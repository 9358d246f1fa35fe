//! The cut of a job: for each shard one view of its leader's state, pinned until the job is over.

use crate::machine::applied_index;
use crate::shards::{Hosted, Shards};
use docent_runtime::Deadline;
use docent_shard::view::View;
use docent_types::{Error, Kind, Position, Result, ShardId, SlotRange};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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

/// What one attempt pinned on this node.
pub type Pins = BTreeMap<ShardId, Pinned>;

/// The pins of the jobs under way, by job; a newer attempt replaces an older one's.
#[derive(Default)]
pub struct Cuts {
    /// By job: the attempt and what it pinned.
    pins: Mutex<BTreeMap<u64, (u64, Pins)>>,
}

/// Jobs that may hold pins at a time: pins hold back the store's clean-up.
const JOBS_MAX: usize = 2;

impl Cuts {
    /// Pins every shard that this node leads, behind a read barrier each.
    pub async fn pin(&self, shards: &Shards, job: u64, epoch: u64, deadline: Deadline) -> Result<Vec<Position>> {
        let mut pinned = BTreeMap::new();
        for hosted in shards.all().into_iter().filter(|hosted| hosted.group.status().is_leader()) {
            // A shard that is changing its leader is pinned by the next one, or the driver asks again.
            if let Ok(pin) = pin(&hosted, deadline).await {
                pinned.insert(hosted.id, pin);
            }
        }
        let positions = pinned.values().map(|pin| pin.position).collect();
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.get(&job).is_some_and(|(newer, _)| *newer > epoch) {
            return Err(Error::new(Kind::Conflict, format!("job {job} has a newer attempt than {epoch}")));
        }
        pins.insert(job, (epoch, pinned));
        while pins.len() > JOBS_MAX {
            pins.pop_first();
        }
        Ok(positions)
    }

    /// The pins of one attempt.
    pub fn get(&self, job: u64, epoch: u64) -> Result<Pins> {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        match pins.get(&job) {
            Some((pinned_at, pinned)) if *pinned_at == epoch => Ok(pinned.clone()),
            _ => Err(Error::new(Kind::NotFound, format!("no input of job {job} is pinned here for attempt {epoch}"))),
        }
    }

    /// Ends the pins of jobs that are over.
    pub fn retain(&self, is_running: impl Fn(u64) -> bool) {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).retain(|job, _| is_running(*job));
    }
}

async fn pin(hosted: &Hosted, deadline: Deadline) -> Result<Pinned> {
    hosted.read_leader(deadline, |_| Ok(())).await?;
    let view = hosted.store.view()?;
    let index = applied_index(view.applied()?)?;
    let position = Position { shard: hosted.id, index };
    Ok(Pinned { slots: hosted.slots, view: Arc::new(view), position })
}
