//! When snapshots are made and the journal is purged. openraft decides neither: its own purge can overtake a queued
//! apply (issue 2116), and a failed build would stop the group where a full disk is reason enough to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use docent_runtime::Threads;
use docent_runtime::sabotage::{self, Bug};
use tokio::sync::{Mutex, Semaphore};

use crate::group::{self, Kept};
use crate::meters::Meters;
use crate::raft::Raft;
use crate::snapshot::Snapshots;
use crate::status::Progress;
use crate::{Error, Machine, Options};

/// One group's housekeeping.
pub(crate) struct Compaction {
    pub(crate) group: u64,
    pub(crate) raft: Raft,
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) options: Arc<Options>,
    pub(crate) threads: Threads,
    pub(crate) meters: Meters,
    /// Snapshots built at the same time in the process.
    pub(crate) builds: Arc<Semaphore>,
    /// Payload bytes applied since the start; and as it was at the last snapshot.
    pub(crate) applied_bytes: Arc<AtomicU64>,
    pub(crate) bytes_at_snapshot: AtomicU64,
    /// One build or purge at a time in a group.
    pub(crate) busy: Mutex<()>,
    /// Without room no snapshot is begun: what is kept back is for what is in flight.
    pub(crate) kept: Kept,
}

impl Compaction {
    /// Looks after the group until its task is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(self.options.compaction_interval_ms)).await;
            if self.is_snapshot_due()
                && !group::is_low(&self.kept)
                && let Err(error) = self.snapshot().await
            {
                self.meters.snapshots_failed.increment(1);
                tracing::warn!(group = self.group, %error, "no snapshot now; it is tried again");
            }
            if let Err(error) = self.purge().await {
                tracing::warn!(group = self.group, %error, "no purge now; it is tried again");
            }
        }
    }

    fn is_snapshot_due(&self) -> bool {
        let progress = Progress::of(&self.raft);
        let entries = count(progress.applied).saturating_sub(count(progress.snapshot));
        let bytes = self.applied_bytes.load(Ordering::Relaxed) - self.bytes_at_snapshot.load(Ordering::Relaxed);
        entries > 0 && (entries >= self.options.snapshot_entries || bytes >= self.options.snapshot_bytes)
    }

    /// Makes a snapshot of what is applied now, and returns the index it reaches when openraft knows of it.
    pub(crate) async fn snapshot(&self) -> Result<Option<u64>, Error> {
        let _busy = self.busy.lock().await;
        let _build = self.builds.acquire().await.map_err(|_| self.fatal("the host is closed"))?;
        let bytes = self.applied_bytes.load(Ordering::Relaxed);
        let view = self.raft.with_state_machine(|state| Box::pin(state.view())).await;
        let mut view =
            view.map_err(|error| self.fatal(error))?.map_err(|source| Error::Machine { group: self.group, source })?;
        let Some(last) = view.applied().last else { return Ok(None) };
        let (snapshots, chunk_bytes) = (Arc::clone(&self.snapshots), self.options.chunk_bytes);
        let build = move || snapshots.publish(snapshots.write(view.as_mut(), chunk_bytes)?);
        let built = self.threads.blocking(build).await;
        built.map_err(|error| Error::Storage { group: self.group, message: error.to_string() })??;
        self.bytes_at_snapshot.store(bytes, Ordering::Relaxed);
        self.meters.snapshots_built.increment(1);
        self.raft.trigger().snapshot().await.map_err(|error| self.fatal(error))?;
        // openraft takes note in its own loop; purging asks it, so an early return only means a later purge.
        let noted = self.raft.wait(Some(Duration::from_secs(10)));
        let noted = noted.metrics(|m| count(m.snapshot.map(|id| id.index)) > last.index, "snapshot noted").await;
        noted.map_err(|_| Error::TimedOut { group: self.group, what: "take note of its snapshot" })?;
        Ok(Some(last.index))
    }

    /// Purges the journal below the last snapshot and below what the machine has made durable, less the margin.
    pub(crate) async fn purge(&self) -> Result<(), Error> {
        let _busy = self.busy.lock().await;
        let progress = Progress::of(&self.raft);
        let margin = self.options.purge_margin_entries;
        let Some(upto) = purge_upto(progress.snapshot, margin).filter(|upto| Some(*upto) > progress.purged) else {
            return Ok(());
        };
        let machine = Arc::clone(&self.machine);
        let flushed = self.threads.blocking(move || {
            if sabotage::is(Bug::PurgeBeforeDurable) {
                return Ok(Some(upto));
            }
            if machine.flushed()? < Some(upto) {
                machine.flush()?;
            }
            machine.flushed()
        });
        let flushed = flushed.await.map_err(|error| self.fatal(error))?;
        let flushed = flushed.map_err(|source| Error::Machine { group: self.group, source })?;
        if let Some(upto) = flushed.map(|flushed| flushed.min(upto)).filter(|upto| Some(*upto) > progress.purged) {
            self.raft.trigger().purge_log(upto).await.map_err(|error| self.fatal(error))?;
        }
        Ok(())
    }

    fn fatal(&self, error: impl std::fmt::Display) -> Error {
        Error::Fatal { group: self.group, message: error.to_string() }
    }
}

/// Entries up to and with an index.
fn count(index: Option<u64>) -> u64 {
    index.map_or(0, |index| index + 1)
}

/// The last entry that may go, keeping `margin` entries behind the snapshot.
fn purge_upto(snapshot: Option<u64>, margin: u64) -> Option<u64> {
    snapshot.and_then(|snapshot| snapshot.checked_sub(margin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_keeps_the_margin_and_never_passes_the_snapshot() {
        assert_eq!(purge_upto(None, 0), None);
        assert_eq!(purge_upto(Some(9), 10), None);
        assert_eq!(purge_upto(Some(10), 10), Some(0));
        assert_eq!(purge_upto(Some(10), 0), Some(10));
    }
}
