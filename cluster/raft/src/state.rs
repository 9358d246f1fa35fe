//! openraft's state machine over a [`Machine`]: big batches in, one response each out, all blocking work off the
//! runtime's threads. openraft drives it from one task a group, so calls are in log order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use docent_runtime::Threads;
use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};

use crate::meters::Meters;
use crate::raft::{Entry, EntryPayload, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig};
use crate::snapshot::{Snapshot, Snapshots};
use crate::{Command, Error, Machine, MachineError, Options, SnapshotSource, record};

type RaftSnapshot = openraft::Snapshot<crate::raft::LeaderId, u64, crate::raft::Peer, Snapshot>;

pub(crate) struct StateMachine {
    group: u64,
    machine: Arc<dyn Machine>,
    last: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    options: Arc<Options>,
    threads: Threads,
    meters: Meters,
    /// Payload bytes applied since the process started; compaction reads it.
    applied_bytes: Arc<AtomicU64>,
}

impl StateMachine {
    pub(crate) fn open(
        group: u64,
        machine: Arc<dyn Machine>,
        snapshots: Arc<Snapshots>,
        options: Arc<Options>,
        threads: Threads,
        meters: Meters,
    ) -> Result<Self, Error> {
        let applied = machine.applied().map_err(|source| Error::Machine { group, source })?;
        let (last, membership) = record::decode_applied(&applied)?;
        let applied_bytes = Arc::new(AtomicU64::new(0));
        Ok(Self { group, machine, last, membership, snapshots, options, threads, meters, applied_bytes })
    }

    /// The last entry that the machine has applied.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.last
    }

    pub(crate) fn applied_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.applied_bytes)
    }

    /// The machine's read view between two batches.
    pub(crate) async fn view(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let machine = Arc::clone(&self.machine);
        let view = self.threads.blocking(move || machine.snapshot()).await;
        view.map_err(MachineError::storage)?
    }

    async fn build_now(&self) -> io::Result<Snapshot> {
        let mut source = self.view().await.map_err(io::Error::other)?;
        let (snapshots, chunk_bytes) = (Arc::clone(&self.snapshots), self.options.chunk_bytes);
        let build = move || {
            let written = snapshots.write(source.as_mut(), chunk_bytes)?;
            snapshots.publish(written.clone()).map(|()| written)
        };
        self.threads.blocking(build).await?.map_err(io::Error::other)
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
        self.tell(&commands);
        let answers = self.threads.blocking(move || machine.apply(commands, applied)).await?;
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

impl StateMachine {
    /// For simulations, which compare what replicas apply: nobody else listens to this target, and then it costs a load.
    fn tell(&self, commands: &[Command]) {
        if !tracing::enabled!(target: "docent_raft::applied", tracing::Level::TRACE) {
            return;
        }
        for Command { index, term, payload } in commands {
            // FNV-1a: it tells logs apart, nobody attacks it.
            let bytes = payload.iter().flatten();
            let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            tracing::trace!(target: "docent_raft::applied", group = self.group, index, term, hash);
        }
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
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            batch.push(entry, responder);
            if batch.is_full(&self.options) {
                self.run(std::mem::take(&mut batch)).await?;
            }
        }
        self.run(batch).await
    }

    /// Snapshots are made by `compaction`, where a full disk is no reason to stop the group; openraft is given the last
    /// finished one. Only a start without the file that the purged log calls for makes one here (`force`).
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if force {
            Some(self.get_snapshot_builder().await)
        } else {
            self.snapshots.current().map(|last| Builder(Ok(last)))
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        match self.snapshots.current().filter(|snapshot| snapshot.meta.last_log_id >= self.last) {
            Some(snapshot) => Builder(Ok(snapshot)),
            None => Builder(self.build_now().await.map_err(|error| error.to_string())),
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
        self.threads.blocking(install).await??;
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

/// Gives openraft the snapshot that was made before it asked.
pub(crate) struct Builder(Result<Snapshot, String>);

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Snapshot;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let snapshot = self.0.clone().map_err(io::Error::other)?;
        Ok(RaftSnapshot { meta: snapshot.meta.clone(), snapshot })
    }
}
