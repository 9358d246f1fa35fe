//! openraft's state machine over a [`Machine`]: big batches in, one response each out, all blocking work off the
//! runtime's threads. openraft drives it from one task a group, so calls are in log order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::meters::Meters;
use crate::raft::{Entry, EntryPayload, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig};
use crate::snapshot::{Snapshot, Snapshots};
use crate::{Command, Error, Machine, MachineError, Options, SnapshotSource, record};

type RaftSnapshot = openraft::Snapshot<crate::raft::LeaderId, u64, crate::raft::Peer, Snapshot>;

pub(crate) struct StateMachine {
    machine: Arc<dyn Machine>,
    last: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    options: Arc<Options>,
    meters: Meters,
    /// Payload bytes applied since the process started; compaction reads it.
    applied_bytes: Arc<AtomicU64>,
}

/// Runs blocking work: on the blocking pool, or right here where a simulation must stay on one thread.
pub(crate) async fn blocking<T: Send + 'static>(
    inline: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if inline {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| io::Error::other(format!("blocking work ended: {error}")))
}

impl StateMachine {
    pub(crate) fn open(
        group: u64,
        machine: Arc<dyn Machine>,
        snapshots: Arc<Snapshots>,
        options: Arc<Options>,
        meters: Meters,
    ) -> Result<Self, Error> {
        let applied = machine.applied().map_err(|source| Error::Machine { group, source })?;
        let (last, membership) = record::decode_applied(&applied)?;
        let applied_bytes = Arc::new(AtomicU64::new(0));
        Ok(Self { machine, last, membership, snapshots, options, meters, applied_bytes })
    }

    pub(crate) fn applied_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.applied_bytes)
    }

    /// The machine's read view between two batches.
    pub(crate) async fn view(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let machine = Arc::clone(&self.machine);
        let view = blocking(self.options.apply_inline, move || machine.snapshot()).await;
        view.map_err(MachineError::storage)?
    }

    async fn run(&mut self, batch: Batch) -> io::Result<()> {
        let Some(last) = batch.last else { return Ok(()) };
        if let Some(membership) = batch.membership {
            self.membership = membership;
        }
        let expected = batch.commands.len();
        let applied = record::encode_applied(Some(last), &self.membership);
        let machine = Arc::clone(&self.machine);
        let commands = batch.commands;
        let answers = blocking(self.options.apply_inline, move || machine.apply(commands, applied)).await?;
        let answers = answers.map_err(io::Error::other)?;
        if answers.len() != expected {
            let message = format!("the state machine gave {} responses to {expected} commands", answers.len());
            return Err(io::Error::other(message));
        }
        self.last = Some(last);
        self.applied_bytes.fetch_add(batch.bytes as u64, Ordering::Relaxed);
        self.meters.apply_batch.record(expected as f64);
        for (responder, answer) in batch.responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(Payload(answer));
            }
        }
        Ok(())
    }
}

/// Entries gathered for one call of the machine.
#[derive(Default)]
struct Batch {
    commands: Vec<Command>,
    responders: Vec<Option<ApplyResponder<TypeConfig>>>,
    bytes: usize,
    last: Option<LogId>,
    membership: Option<StoredMembership>,
}

impl Batch {
    fn push(&mut self, entry: Entry, responder: Option<ApplyResponder<TypeConfig>>) {
        let id = entry.log_id;
        let payload: Option<Bytes> = match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(payload) => Some(payload.0),
            EntryPayload::Membership(membership) => {
                self.membership = Some(StoredMembership::new(Some(id), membership));
                None
            }
        };
        self.bytes += payload.as_ref().map_or(0, Bytes::len);
        self.commands.push(Command { index: id.index, term: id.leader_id.term, payload });
        self.responders.push(responder);
        self.last = Some(id);
    }

    fn is_full(&self, options: &Options) -> bool {
        self.commands.len() >= options.apply_batch_max || self.bytes >= options.apply_bytes_max
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Snapshot;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batch = Batch::default();
        let mut next = self.last.map_or(0, |id| id.index + 1);
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            // A hole in what is applied would be silent divergence; better to stop.
            if entry.log_id.index != next {
                return Err(io::Error::other(format!("entry {} to apply where {next} is next", entry.log_id.index)));
            }
            next += 1;
            batch.push(entry, responder);
            if batch.is_full(&self.options) {
                self.run(std::mem::take(&mut batch)).await?;
            }
        }
        self.run(batch).await
    }

    /// Snapshots are made by `compaction`, where a full disk is no reason to stop the group; openraft is given the last
    /// finished one. Only a start without the file that the purged log calls for builds one here (`force`).
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if let Some(snapshot) = self.snapshots.current() {
            return Some(Builder::Finished(snapshot));
        }
        if force { Some(self.get_snapshot_builder().await) } else { None }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        match self.snapshots.current() {
            Some(snapshot) => Builder::Finished(snapshot),
            None => Builder::Missing {
                machine: Arc::clone(&self.machine),
                snapshots: Arc::clone(&self.snapshots),
                options: Arc::clone(&self.options),
            },
        }
    }

    /// The file first, then the machine: a crash between the two installs again at the next start.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Snapshot) -> io::Result<()> {
        let applied = record::encode_applied(meta.last_log_id, &meta.last_membership);
        let machine = Arc::clone(&self.machine);
        let snapshots = Arc::clone(&self.snapshots);
        let install = move || -> io::Result<()> {
            snapshots.publish(snapshot.clone()).map_err(io::Error::other)?;
            let chunks = snapshot.chunks().map_err(io::Error::other)?;
            machine.install(applied, chunks).map_err(io::Error::other)
        };
        blocking(self.options.apply_inline, install).await??;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.meters.snapshots_installed.increment(1);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let current = self.snapshots.current();
        Ok(current.map(|snapshot| RaftSnapshot { meta: snapshot.meta.clone(), snapshot }))
    }
}

/// Gives openraft a snapshot when it asks for one.
pub(crate) enum Builder {
    /// The last one made.
    Finished(Snapshot),
    /// There is none and there must be.
    Missing { machine: Arc<dyn Machine>, snapshots: Arc<Snapshots>, options: Arc<Options> },
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let snapshot = match self {
            Builder::Finished(snapshot) => snapshot.clone(),
            Builder::Missing { machine, snapshots, options } => {
                let (machine, snapshots, options) = (machine.clone(), snapshots.clone(), options.clone());
                let inline = options.apply_inline;
                let build = move || -> io::Result<Snapshot> {
                    let mut source = machine.snapshot().map_err(io::Error::other)?;
                    let written = snapshots.write(source.as_mut(), options.chunk_bytes).map_err(io::Error::other)?;
                    snapshots.publish(written.clone()).map_err(io::Error::other)?;
                    Ok(written)
                };
                blocking(inline, build).await??
            }
        };
        Ok(RaftSnapshot { meta: snapshot.meta.clone(), snapshot })
    }
}
