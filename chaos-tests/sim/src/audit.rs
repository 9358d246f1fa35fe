//! The end of a run: everything is read through the gateways, every event is exported, and the replicas of each shard are compared.

use crate::cluster::{Cluster, group};
use crate::member::Errand;
use docent_gateway::Gateway;
use docent_trial::history::Observed;
use docent_types::event::Event;
use futures::{FutureExt, StreamExt, TryStreamExt};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longer than any export of a run that is well.
const EXPORT_WITHIN: Duration = Duration::from_secs(5);
const VERIFY_WITHIN_MS: u32 = 5_000;

/// A place that an errand fills.
#[derive(Clone)]
pub struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot(Arc::default())
    }
}

impl<T> Slot<T> {
    fn fill(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    /// What was found, once.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// All events, or why not.
pub type Exported = Result<Vec<Event>, String>;
/// A shard's raft group, the log index, and the digest of each replica by its id.
pub type Digests = (u64, u64, Vec<(u64, String)>);
/// The digests of every shard, or why not.
pub type Compared = Result<Vec<Digests>, String>;

/// An errand that exports every event.
pub fn export(into: Slot<Exported>) -> Errand {
    Box::new(move |gateway| {
        async move {
            let all = tokio::time::timeout(EXPORT_WITHIN, events(gateway)).await;
            into.fill(all.unwrap_or_else(|_| Err("the export took too long".to_owned())));
        }
        .boxed()
    })
}

async fn events(gateway: Gateway) -> Exported {
    let pages = gateway.export_events().await.map_err(|error| error.to_string())?;
    let pages: Vec<Vec<Event>> = pages.try_collect().await.map_err(|error| error.to_string())?;
    Ok(pages.into_iter().flatten().collect())
}

/// An errand that compares the replicas of every shard.
pub fn compare(into: Slot<Compared>) -> Errand {
    Box::new(move |gateway| async move { into.fill(digests(gateway).await) }.boxed())
}

async fn digests(gateway: Gateway) -> Compared {
    let verdicts = gateway.verify(Vec::new(), VERIFY_WITHIN_MS).await.map_err(|error| error.to_string())?;
    let verdicts: Vec<_> = verdicts.collect().await;
    let mut found = Vec::new();
    for (shard, verdict) in verdicts {
        let verdict = verdict.map_err(|error| error.to_string())?;
        let mut replicas = Vec::new();
        for (replica, digest) in verdict.replicas {
            let digest = digest.map_err(|error| format!("node {} gave no digest of {shard}: {error}", replica.node))?;
            replicas.push((replica.id.0, format!("{digest:?}")));
        }
        found.push((shard.group(), verdict.index, replicas));
    }
    Ok(found)
}

impl Cluster {
    /// Notes exported events.
    pub fn note_exported(&mut self, events: &[Event]) {
        let at = self.now();
        for event in events {
            let (event_id, user, item) =
                (event.event_id.to_string(), event.user_id.to_string(), event.item_id.to_string());
            self.seen.push((at, Observed::Exported { event_id, user, item }));
        }
        self.seen.push((at, Observed::ExportEnd { events: events.len() as u64 }));
    }

    /// Notes digests.
    pub fn note_digests(&mut self, found: &[Digests]) {
        let (at, by_replica) = (self.now(), self.replicas());
        for (number, index, replicas) in found {
            for (replica, digest) in replicas {
                let Some(member) = by_replica.get(&(*number, *replica)).copied() else { continue };
                let (group, index, digest) = (group(*number), *index, digest.clone());
                self.seen.push((at, Observed::Digest { group, member, replica: *replica, index, digest }));
            }
        }
    }
}
