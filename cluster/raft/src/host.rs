//! All raft groups of a process: opens them from disk, takes in what other hosts send, closes them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use docent_journal::{GroupLog, Journal};
use docent_runtime::disk::{Disk, Reserve};
use docent_runtime::{OnExit, Platform, Supervisor, Threads};
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::compaction::Compaction;
use crate::contact::Contact;
use crate::group::{self, Full, Group, JournalRoom, Kept, Shared};
use crate::log::Log;
use crate::meters::Meters;
use crate::network::Network;
use crate::raft::{LeaderId, Peer, Raft, config};
use crate::snapshot::{self, Snapshot, Snapshots};
use crate::state::StateMachine;
use crate::wire::{SnapshotHeader, dispatch, encode_snapshot_response};
use crate::{
    Error, Machine, Member, MessageKind, Options, Status, Transport, TransportError, record, recovery, status,
};

/// A snapshot's sender that gives no chunk for this long is given up: it holds one of few places to receive in.
const CHUNK_WITHIN: Duration = Duration::from_secs(30);

/// The raft groups of one process. Clones share everything.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Journal,
    disk: Arc<dyn Disk>,
    threads: Threads,
    snapshot_dir: PathBuf,
    transport: Arc<dyn Transport>,
    supervisor: Supervisor,
    options: Arc<Options>,
    groups: Mutex<BTreeMap<u64, Slot>>,
    /// Snapshots being built, and being received, at the same time.
    builds: Arc<Semaphore>,
    receives: Semaphore,
    /// See [`JournalRoom`].
    full_asked: Arc<Mutex<Option<Instant>>>,
    kept: Kept,
}

enum Slot {
    Opening,
    Open(Hosted),
}

#[derive(Clone)]
struct Hosted {
    group: Group,
    snapshots: Arc<Snapshots>,
}

impl Host {
    /// A host without groups yet. `snapshot_dir` is made if missing; what a crash left half written there is removed.
    /// A group that stops for good tells `supervisor`, and the process ends.
    ///
    /// # Errors
    /// [`Error::Options`], [`Error::Storage`].
    pub fn new(
        journal: Journal,
        platform: &Platform,
        snapshot_dir: PathBuf,
        transport: Arc<dyn Transport>,
        supervisor: Supervisor,
        options: Options,
    ) -> Result<Host, Error> {
        options.validate()?;
        snapshot::prepare(platform.disk.as_ref(), &snapshot_dir).map_err(|error| {
            let message = format!("snapshot directory {}: {error}", snapshot_dir.display());
            Error::Storage { group: 0, message }
        })?;
        let inner = Inner {
            journal,
            disk: Arc::clone(&platform.disk),
            threads: platform.threads,
            snapshot_dir,
            transport,
            supervisor,
            groups: Mutex::default(),
            builds: Arc::new(Semaphore::new(options.snapshots_at_once)),
            receives: Semaphore::new(options.snapshots_at_once),
            options: Arc::new(options),
            full_asked: Arc::default(),
            kept: Arc::new(OnceLock::new()),
        };
        Ok(Host { inner: Arc::new(inner) })
    }

    /// From now on the groups take data only while there is room: below the reserve none from other leaders, and below half of it no
    /// proposals either. A second call changes nothing.
    pub fn keep_within(&self, reserve: Reserve) {
        // The first one stays.
        let _second = self.inner.kept.set(reserve);
    }

    /// Opens a group as it was left (or new), re-applying what was committed. The group then waits for messages and,
    /// if it is a voter, for its election timer; a new group waits for [`Group::initialize`] or for a leader.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::WrongReplica`] if another replica id lived here, [`Error::Quarantined`],
    /// [`Error::Malformed`], [`Error::Machine`], [`Error::Fatal`].
    pub async fn open(&self, group: u64, replica: u64, machine: Arc<dyn Machine>) -> Result<Group, Error> {
        match self.groups().entry(group) {
            std::collections::btree_map::Entry::Occupied(_) => return Err(Error::Open { group }),
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(Slot::Opening);
            }
        }
        let mut reservation = Reservation { host: self, group, is_filled: false };
        let hosted = self.build(group, replica, machine).await?;
        self.groups().insert(group, Slot::Open(hosted.clone()));
        reservation.is_filled = true;
        Ok(hosted.group)
    }

    async fn build(&self, group: u64, replica: u64, machine: Arc<dyn Machine>) -> Result<Hosted, Error> {
        let inner = &self.inner;
        let options = Arc::clone(&inner.options);
        let meters = Meters::of(group);
        let records = inner.journal.group(group);
        let log = Log::open(group, replica, records.clone(), options.append_bytes_max)?;
        let lease = Duration::from_millis(options.election_timeout_max_ms);
        let no_votes_until = log.has_vote().then(|| Instant::now() + lease);
        let snapshots = Arc::new(self.snapshots(group, replica).await?);
        let state = StateMachine::open(
            group,
            Arc::clone(&machine),
            Arc::clone(&snapshots),
            Arc::clone(&options),
            inner.threads,
            meters.clone(),
        )?;
        check_whole(group, &log, &state, &snapshots)?;
        let applied_bytes = state.applied_bytes();
        let full = Full::default();
        let network = Network {
            group,
            replica,
            transport: Arc::clone(&inner.transport),
            options: Arc::clone(&options),
            threads: inner.threads,
            meters: meters.clone(),
            no_votes_until,
            full: full.clone(),
        };
        let raft = Raft::new(replica, config(group, &options)?, network, log, state).await;
        let raft = raft.map_err(|error| Error::Fatal { group, message: error.to_string() })?;
        let compaction = Arc::new(Compaction {
            group,
            raft: raft.clone(),
            machine,
            snapshots: Arc::clone(&snapshots),
            options: Arc::clone(&options),
            threads: inner.threads,
            meters: meters.clone(),
            builds: Arc::clone(&inner.builds),
            applied_bytes,
            bytes_at_snapshot: AtomicU64::new(0),
            busy: tokio::sync::Mutex::default(),
            kept: Arc::clone(&inner.kept),
        });
        let (status_sender, status) = watch::channel(Status { group, replica, ..Status::default() });
        let shared = Shared {
            group,
            replica,
            raft,
            status,
            meters,
            compaction,
            proposals: Arc::new(Semaphore::new(options.proposals_in_flight_max)),
            proposal_bytes: Arc::new(Semaphore::new(options.proposal_bytes_in_flight_max)),
            options,
            transferred_in: AtomicU64::new(0),
            leader_contact: Mutex::new(Contact::default()),
            no_votes_until,
            room: self.journal_room(records),
            full,
            closed: watch::channel(false).0,
        };
        let group = Group::new(shared);
        self.start_tasks(&group, status_sender);
        Ok(Hosted { group, snapshots })
    }

    async fn snapshots(&self, group: u64, replica: u64) -> Result<Snapshots, Error> {
        let (disk, dir) = (Arc::clone(&self.inner.disk), self.inner.snapshot_dir.clone());
        let opened = self.inner.threads.blocking(move || Snapshots::open(group, replica, disk, dir)).await;
        opened.map_err(|error| Error::Storage { group, message: error.to_string() })?
    }

    fn journal_room(&self, log: GroupLog) -> JournalRoom {
        let inner = &self.inner;
        let (asked, kept) = (Arc::clone(&inner.full_asked), Arc::clone(&inner.kept));
        JournalRoom { journal: inner.journal.clone(), log, asked, kept }
    }

    fn start_tasks(&self, group: &Group, status: watch::Sender<Status>) {
        let supervisor = &self.inner.supervisor;
        let shared = group.shared();
        let (told, meters) = (group.clone(), shared.meters.clone());
        let teller = supervisor.clone();
        supervisor.spawn("raft status", OnExit::FatalIfFailed, async move {
            publish_status(&told, &meters, &status, &teller).await;
            Ok(())
        });
        let compaction = Arc::clone(&shared.compaction);
        let mut closed = shared.closed.subscribe();
        let ender = supervisor.clone();
        supervisor.spawn("raft compaction", OnExit::Log, async move {
            tokio::select! {
                () = compaction.run() => {}
                _ = closed.wait_for(|is_closed| *is_closed) => {}
                () = ender.cancelled() => {}
            }
            Ok(())
        });
    }

    /// The open group, if this process hosts it.
    pub fn get(&self, group: u64) -> Option<Group> {
        self.hosted(group).map(|hosted| hosted.group)
    }

    /// The open groups, by id.
    pub fn groups_open(&self) -> Vec<Group> {
        let groups = self.groups();
        let open = groups.values().filter_map(|slot| match slot {
            Slot::Open(hosted) => Some(hosted.group.clone()),
            Slot::Opening => None,
        });
        open.collect()
    }

    /// Takes in one message of [`Transport::call`] and gives the answer to send back.
    ///
    /// # Errors
    /// [`Error::NoGroup`], [`Error::WrongReplica`], [`Error::Malformed`], [`Error::Fatal`]: the transport tells the
    /// sender that it was refused.
    pub async fn handle(&self, group: u64, to_replica: u64, kind: MessageKind, body: Bytes) -> Result<Bytes, Error> {
        let hosted = self.fenced(group, to_replica)?;
        dispatch(&hosted.group, kind, &body).await
    }

    /// Takes in one stream of [`Transport::send_snapshot`], installs it, and gives the answer to send back.
    ///
    /// # Errors
    /// As [`Host::handle`], and [`Error::Storage`]. Nothing is changed unless the whole of it arrived and verified.
    pub async fn handle_snapshot(
        &self,
        group: u64,
        to_replica: u64,
        header: Bytes,
        chunks: BoxStream<'static, Result<Bytes, TransportError>>,
    ) -> Result<Bytes, Error> {
        let hosted = self.fenced(group, to_replica)?;
        if group::is_low(&self.inner.kept) {
            return Err(Error::NoRoom { group });
        }
        let header: SnapshotHeader = record::decode("snapshot message", &header)?;
        let fatal = |message: String| Error::Fatal { group, message };
        let _turn = self.inner.receives.acquire().await.map_err(|error| fatal(error.to_string()))?;
        let snapshot = self.receive(group, &hosted.snapshots, &header, chunks).await?;
        let snapshot = openraft::Snapshot::<LeaderId, u64, Peer, Snapshot> { meta: header.meta, snapshot };
        let response = hosted.group.raft().install_full_snapshot(header.vote, snapshot).await;
        response.map(|response| encode_snapshot_response(&response)).map_err(|error| fatal(error.to_string()))
    }

    async fn receive(
        &self,
        group: u64,
        snapshots: &Arc<Snapshots>,
        header: &SnapshotHeader,
        mut chunks: BoxStream<'static, Result<Bytes, TransportError>>,
    ) -> Result<Snapshot, Error> {
        let threads = self.inner.threads;
        let storage = |error: std::io::Error| Error::Storage { group, message: error.to_string() };
        if header.bytes > self.inner.options.snapshot_bytes_max {
            let message =
                format!("{} bytes announced, at most {}", header.bytes, self.inner.options.snapshot_bytes_max);
            return Err(record::malformed("snapshot", message));
        }
        let (opener, bytes_max) = (Arc::clone(snapshots), header.bytes);
        let mut receiver = threads.blocking(move || opener.receive(bytes_max)).await.map_err(storage)??;
        let stalled = |_| record::malformed("snapshot", format!("no chunk came for {} s", CHUNK_WITHIN.as_secs()));
        while let Some(chunk) = timeout(CHUNK_WITHIN, chunks.next()).await.map_err(stalled)? {
            let chunk = chunk.map_err(|error| record::malformed("snapshot", error))?;
            let pushed = threads.blocking(move || receiver.push(&chunk).map(|()| receiver)).await;
            receiver = pushed.map_err(storage)??;
        }
        let snapshot = threads.blocking(move || receiver.finish()).await.map_err(storage)??;
        if snapshot.meta != header.meta || snapshot.bytes != header.bytes {
            return Err(record::malformed("snapshot", "the file is not the one announced"));
        }
        Ok(snapshot)
    }

    /// Stops a group; what it has on disk stays. No error if it is not open.
    pub async fn close(&self, group: u64) {
        let Some(hosted) = self.hosted(group) else { return };
        hosted.group.shared().closed.send_replace(true);
        // openraft's own tasks are joined here; a panic among them was told as fatal already.
        hosted.group.raft().shutdown().await.ok();
        self.groups().remove(&group);
    }

    /// Stops a group, and tells whether its replica has no vote by the last membership in its own log. What it acknowledged as a learner
    /// counts for nothing, and after the stop it acknowledges nothing: without a vote it may be destroyed, even if some leader is just
    /// about to give it one. With a vote it has to be opened again. A group that is not open has none to tell of: `false`.
    pub async fn close_if_voteless(&self, group: u64) -> bool {
        let Some(hosted) = self.hosted(group) else { return false };
        self.close(group).await;
        let metrics = hosted.group.raft().metrics();
        let last = status::of_metrics(group, &metrics.borrow_watched(), &Status::default());
        !last.members.iter().any(|member| member.is_voter && member.member.replica == last.replica)
    }

    /// Stops a group and makes this replica its only voter, from the end of its log at `expected_last` on. Open it again afterwards; it
    /// then leads by itself. Only for a group whose majority is lost for good: what that had committed beyond this log is gone.
    /// Gives the index of the new membership.
    ///
    /// # Errors
    /// [`Error::Membership`] if the log does not end there, [`Error::WrongReplica`], [`Error::Quarantined`], [`Error::Storage`].
    pub async fn force_sole_voter(&self, group: u64, member: &Member, expected_last: u64) -> Result<u64, Error> {
        self.close(group).await;
        let records = self.inner.journal.group(group);
        recovery::force_sole_voter(group, records, member, expected_last, self.inner.options.append_bytes_max).await
    }

    /// Stops a group and removes its log and its snapshot for good. The replica id must never be used again.
    ///
    /// # Errors
    /// [`Error::Storage`]: call it again.
    pub async fn destroy(&self, group: u64, replica: u64) -> Result<(), Error> {
        self.close(group).await;
        let (disk, dir) = (Arc::clone(&self.inner.disk), self.inner.snapshot_dir.clone());
        let removed = self
            .inner
            .threads
            .blocking(move || Snapshots::open(group, replica, disk, dir).and_then(|snapshots| snapshots.remove()));
        let storage = |message: String| Error::Storage { group, message };
        removed.await.map_err(|error| storage(error.to_string()))??;
        let (sender, receiver) = oneshot::channel();
        let done = Box::new(move |result| {
            sender.send(result).ok();
        });
        self.inner.journal.remove_group(group, done);
        match receiver.await {
            Ok(result) => result.map_err(|error| storage(error.to_string())),
            Err(_) => Err(storage("the journal was closed before the removal was synced".to_owned())),
        }
    }

    /// Stops every group. The journal stays open: it is the caller's to close, after this.
    pub async fn shutdown(&self) {
        let closing = self.groups_open().into_iter().map(|group| async move { self.close(group.id()).await });
        futures::future::join_all(closing).await;
    }

    fn fenced(&self, group: u64, to_replica: u64) -> Result<Hosted, Error> {
        let hosted = self.hosted(group).ok_or(Error::NoGroup { group })?;
        let ours = hosted.group.replica();
        if ours == to_replica { Ok(hosted) } else { Err(Error::WrongReplica { group, ours, theirs: to_replica }) }
    }

    fn hosted(&self, group: u64) -> Option<Hosted> {
        match self.groups().get(&group) {
            Some(Slot::Open(hosted)) => Some(hosted.clone()),
            _ => None,
        }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a log whose purged beginning is nowhere any more: what went on from there would be another state than that of the others.
fn check_whole(group: u64, log: &Log, state: &StateMachine, snapshots: &Snapshots) -> Result<(), Error> {
    let storage = |error: std::io::Error| Error::Storage { group, message: error.to_string() };
    let Some(purged) = log.purged_through().map_err(storage)? else { return Ok(()) };
    let snapshot = snapshots.current().and_then(|snapshot| snapshot.meta.last_log_id);
    let known = state.last().max(snapshot);
    if known.is_none_or(|known| known.index < purged.index) {
        let reason =
            format!("its log begins after entry {}, and neither its state nor a snapshot reaches that", purged.index);
        return Err(Error::Quarantined { group, reason });
    }
    Ok(())
}

/// Gives a group's place back if opening it fails or is given up.
struct Reservation<'a> {
    host: &'a Host,
    group: u64,
    is_filled: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.is_filled {
            self.host.groups().remove(&self.group);
        }
    }
}

/// Turns openraft's metrics into our status until the group has stopped; a group that stopped for good ends the process.
async fn publish_status(group: &Group, meters: &Meters, sender: &watch::Sender<Status>, supervisor: &Supervisor) {
    let (id, mut metrics) = (group.id(), group.raft().metrics());
    loop {
        let before = sender.borrow().clone();
        group.note_own_leadership();
        let now = status::of_metrics(id, &metrics.borrow_watched(), &before);
        if now.is_leader() != before.is_leader() || now.leader != before.leader {
            meters.leader_changes.increment(1);
            meters.is_leader.set(if now.is_leader() { 1.0 } else { 0.0 });
        }
        meters.term.set(now.term as f64);
        meters.applied.set(now.applied.map_or(0.0, |applied| applied as f64));
        let (fatal, is_closed) = (now.fatal.clone(), now.is_closed);
        sender.send_if_modified(|status| {
            let is_new = *status != now;
            *status = now;
            is_new
        });
        if let Some(message) = fatal {
            supervisor.fatal(format!("raft group {id} has stopped: {message}"));
            return;
        }
        if is_closed || metrics.changed().await.is_err() {
            sender.send_if_modified(|status| !std::mem::replace(&mut status.is_closed, true));
            return;
        }
    }
}
