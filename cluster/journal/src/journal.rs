//! The handles: [`Journal`] for the node, [`GroupLog`] for one raft group.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use crossbeam::channel;
use docent_runtime::disk::Disk;

use crate::queue::Queue;
use crate::record::{PAYLOAD_BYTES_MAX, size_of};
use crate::recover::{self, Recovered};
use crate::segment::Tail;
use crate::steps::Steps;
use crate::visible::{State, Visible};
use crate::writer::{Command, Op, Waiting, Writer};
use crate::{Error, Options};

/// A raft group's number on this node. Never reused by the owner; the journal itself would allow it after a removal.
pub type GroupId = u64;

/// Called once: `Ok` after the record and all before it in its group are durable, `Err` when that is not known.
///
/// Runs where the writer does (at once, on the caller's, when the call is refused), so it must be quick, must not block
/// and must not call the journal.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send + 'static>;

/// Largest run of entries that one queue element carries; a longer append is split.
const RUN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One raft log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the group's log, below `u64::MAX`.
    pub index: u64,
    /// Term of the leader that made it.
    pub term: u64,
    /// Opaque; at most 16 MiB.
    pub payload: Bytes,
}

/// How far a group's log was purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// The last index that is gone.
    pub index: u64,
    /// What the owner gave with it (a serialised log id).
    pub marker: Bytes,
}

/// A group as of its newest call; after [`Journal::open`], as of what is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Newest vote.
    pub vote: Option<Bytes>,
    /// Newest committed log id.
    pub committed: Option<Bytes>,
    /// Newest purge.
    pub purged: Option<Purged>,
    /// Index and term of the last entry; `None` without entries, even where some were purged.
    pub last: Option<(u64, u64)>,
    /// Index of the first entry that is still there.
    pub first: Option<u64>,
    /// Why the group may not be used: synced records are damaged or gone. Only [`Journal::remove_group`] is left.
    pub quarantined: Option<String>,
}

/// The node's journal. Clones are handles to one; it closes with the last of them, [`GroupLog`]s included.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    visible: Arc<Visible>,
    queue: Queue,
    /// One lock per group, held from the visible change until the command is queued: both see one order.
    orders: Mutex<BTreeMap<GroupId, Arc<Mutex<()>>>>,
    /// The writer's, unless it is driven in [`Steps`].
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens or creates the journal in `options.dir`: scans the segments and rebuilds every group's index. When it
    /// returns, all that is reported is durable. Blocks (about a second per GiB).
    ///
    /// # Errors
    /// [`Error::Locked`] if somebody has the directory, [`Error::TooNew`] for a file of a newer version,
    /// [`Error::Setting`], [`Error::Full`], [`Error::Io`]. Damage is not an error here: it quarantines its groups.
    pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Self, Error> {
        let dir = options.dir.clone();
        let (visible, queue, writer) = prepare(options, disk)?;
        let thread = thread::Builder::new()
            .name("journal-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| Error::io("start the writer thread for", &dir, error))?;
        Ok(Journal::of(visible, Queue::of_thread(queue), Some(thread)))
    }

    /// As [`Journal::open`], without a thread: what is queued is written when the [`Steps`] are taken. Where the queue is full, the journal
    /// refuses instead of blocking its only thread for ever.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_in_steps(options: Options, disk: Arc<dyn Disk>) -> Result<(Self, Steps), Error> {
        let (visible, queue, writer) = prepare(options, disk)?;
        let (queue, steps) = Steps::of(queue, writer);
        Ok((Journal::of(visible, queue, None), steps))
    }

    fn of(visible: Arc<Visible>, queue: Queue, thread: Option<JoinHandle<()>>) -> Journal {
        let inner = Inner { visible, queue, orders: Mutex::default(), thread: Mutex::new(thread) };
        Journal { inner: Arc::new(inner) }
    }

    /// The log of a group, new or not. No I/O.
    #[must_use]
    pub fn group(&self, id: GroupId) -> GroupLog {
        GroupLog { id, order: self.inner.order(id), inner: Arc::clone(&self.inner) }
    }

    /// Groups that have anything in the journal, quarantined ones included, in ascending order.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.inner.visible.lock().ids()
    }

    /// Forgets everything of the group, a quarantined one's too. Durable when `done` fires.
    pub fn remove_group(&self, id: GroupId, done: Done) {
        let order = self.inner.order(id);
        self.inner.submit(id, &order, Some(done), |state| state.remove(id).map(|()| vec![Op::Remove]));
    }

    /// Whether the disk has no room beyond what is set aside (an eighth of a segment, at most 4 MiB): refuse new
    /// proposals now, so that votes and the like still fit. It turns false again by itself when there is room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.inner.visible.lock().is_full
    }

    /// Why the journal takes no more calls, if it does not: the process should end.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.inner.visible.lock().stopped.clone().filter(|error| !matches!(error, Error::Closed))
    }

    /// Takes no more calls, answers those queued, syncs, lets go of the directory. Blocks; a second call does nothing.
    pub fn close(&self) {
        self.inner.close();
    }
}

/// Recovers what is on disk; the writer that goes on from there, and the queue to it.
fn prepare(options: Options, disk: Arc<dyn Disk>) -> Result<(Arc<Visible>, channel::Sender<Command>, Writer), Error> {
    options.check()?;
    disk.create_dir_all(&options.dir).map_err(|error| Error::io("create", &options.dir, error))?;
    let lock = disk.lock(&options.dir.join("lock")).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Error::Locked { dir: options.dir.clone() },
        _ => Error::io("lock", &options.dir, error),
    })?;
    let Recovered { written, mut segments, tail, quarantined } = recover::recover(disk.as_ref(), &options.dir)?;
    let tail = match tail {
        Some(tail) => tail,
        None => {
            let tail = Tail::create(disk.as_ref(), &options, 1, 0)?;
            segments.insert(1, (Arc::clone(&tail.segment), tail.end));
            tail
        }
    };
    let recovered = Recovered { written, segments, tail: None, quarantined };
    let visible = Arc::new(Visible::new(&recovered, options.cache_bytes_max));
    let (sender, queue) = channel::bounded(options.queue_records_max);
    let before_tail = |(id, (_, end)): (&u64, &(_, u64))| (*id != tail.segment.id).then_some((*id, *end));
    let writer = Writer {
        sealed: recovered.segments.iter().filter_map(before_tail).collect(),
        pinned: recovered.quarantined.keys().copied().collect(),
        written: recovered.written,
        tail,
        visible: Arc::clone(&visible),
        queue,
        disk,
        options,
        moving: Default::default(),
        pinned_segment: None,
        buffer: Vec::new(),
        records: 0,
        placed: Vec::new(),
        is_synced: true,
        is_floor_due: true,
        _lock: lock,
    };
    Ok((visible, sender, writer))
}

impl Inner {
    fn order(&self, id: GroupId) -> Arc<Mutex<()>> {
        Arc::clone(lock(&self.orders).entry(id).or_default())
    }

    /// Changes what is visible and queues what makes it durable, in one order per group. The last of the commands
    /// carries `done`; a refused change answers it at once.
    fn submit(
        &self,
        group: GroupId,
        order: &Mutex<()>,
        done: Option<Done>,
        change: impl FnOnce(&mut State) -> Result<Vec<Op>, Error>,
    ) {
        let waiting = Waiting::new(done);
        let ordered = lock(order);
        let ops = change(&mut self.visible.lock());
        let unsent = match ops {
            Ok(ops) => self.send(group, ops, waiting),
            Err(error) => Err((error, waiting)),
        };
        // The callback runs without our locks.
        drop(ordered);
        if let Err((error, waiting)) = unsent {
            waiting.answer(Err(error));
        }
    }

    fn send(&self, group: GroupId, mut ops: Vec<Op>, waiting: Waiting) -> Result<(), (Error, Waiting)> {
        let last = ops.pop().unwrap_or(Op::Append(Vec::new()));
        for op in ops {
            let command = Command { group, op, waiting: Waiting::new(None) };
            if self.queue.send(command).is_err() {
                return Err((Error::Closed, waiting));
            }
        }
        self.queue.send(Command { group, op: last, waiting }).map_err(|unsent| (Error::Closed, unsent.waiting))
    }

    fn close(&self) {
        self.visible.lock().stopped.get_or_insert(Error::Closed);
        let thread = lock(&self.thread).take();
        if thread.is_some() || self.queue.is_of_task() {
            // Fails only if the writer is gone, which is what we want.
            let _ = self.queue.send(Command { group: 0, op: Op::Close, waiting: Waiting::new(None) });
        }
        let Some(thread) = thread else { return };
        // A last handle dropped by a callback, on the writer thread itself: it ends after this batch, nobody waits.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the journal's writer thread panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One group's log. Clones are handles to one. Calls of one group take effect in the order they are made; a full queue
/// blocks the caller until the writer has caught up.
///
/// Every call's `done` may get [`Error::Poisoned`] (an earlier write or sync failed), [`Error::Full`], [`Error::Io`],
/// [`Error::Closed`], [`Error::Quarantined`]; [`Error::Refused`] when the call breaks the log's rules.
#[derive(Clone)]
pub struct GroupLog {
    id: GroupId,
    order: Arc<Mutex<()>>,
    inner: Arc<Inner>,
}

impl GroupLog {
    /// The group's number.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The group as of the newest call, durable or not.
    #[must_use]
    pub fn state(&self) -> GroupState {
        self.inner.visible.lock().view(self.id)
    }

    /// Adds entries; their indexes run on from the last entry, or from the purge, or from anywhere in an empty log.
    /// [`GroupLog::read`] sees them at once.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let oversize = entries.iter().map(|entry| entry.payload.len()).find(|bytes| *bytes > PAYLOAD_BYTES_MAX);
        let id = self.id;
        self.submit(Some(done), |state| {
            check_size(id, oversize.unwrap_or(0))?;
            let mut runs = vec![Op::Append(Vec::new())];
            let mut bytes = 0;
            for ticketed in state.append(id, entries)? {
                bytes += size_of(ticketed.entry.payload.len());
                match runs.last_mut() {
                    Some(Op::Append(run)) if run.is_empty() || bytes <= RUN_BYTES_MAX => run.push(ticketed),
                    _ => {
                        bytes = size_of(ticketed.entry.payload.len());
                        runs.push(Op::Append(vec![ticketed]));
                    }
                }
            }
            Ok(runs)
        });
    }

    /// Replaces the vote.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        let id = self.id;
        self.submit(Some(done), |state| {
            check_size(id, vote.len())?;
            state.writable(id)?.vote = Some(vote.clone());
            Ok(vec![Op::Vote(vote)])
        });
    }

    /// Replaces the committed log id. Without `done` it is written in its turn and rides on the next sync.
    pub fn save_committed(&self, committed: Bytes, done: Option<Done>) {
        let id = self.id;
        self.submit(done, |state| {
            check_size(id, committed.len())?;
            state.writable(id)?.committed = Some(committed.clone());
            Ok(vec![Op::Committed(committed)])
        });
    }

    /// Keeps `keep_through` and removes everything above. Below the purge it is refused.
    pub fn truncate_after(&self, keep_through: u64, done: Done) {
        self.truncate_from(keep_through.saturating_add(1), done);
    }

    /// Removes every entry that is there; the purge mark, vote and committed log id stay.
    pub fn truncate_all(&self, done: Done) {
        let from = self.state().purged.map_or(0, |purged| purged.index.saturating_add(1));
        self.truncate_from(from, done);
    }

    fn truncate_from(&self, from: u64, done: Done) {
        let id = self.id;
        self.submit(Some(done), |state| {
            let group = state.writable(id)?;
            if let Some(purged) = group.purged.as_ref().filter(|purged| from <= purged.index) {
                let reason = format!("truncation from {from} on, where {} is purged", purged.index);
                return Err(Error::Refused { group: id, reason });
            }
            group.truncate_from(from);
            Ok(vec![Op::TruncateFrom(from)])
        });
    }

    /// Removes everything up to and including `through`, which may lie above the last entry (a snapshot was installed).
    /// `marker` comes back in [`Purged`]. Below an earlier purge it changes nothing.
    pub fn purge_to(&self, through: u64, marker: Bytes, done: Done) {
        let id = self.id;
        self.submit(Some(done), |state| {
            check_size(id, marker.len())?;
            let group = state.writable(id)?;
            if through == u64::MAX {
                return Err(Error::Refused { group: id, reason: "purge of the largest index".to_owned() });
            }
            if group.purged.as_ref().is_some_and(|purged| through < purged.index) {
                return Ok(Vec::new());
            }
            group.purge(through, marker.clone());
            Ok(vec![Op::Purge { through, marker }])
        });
    }

    /// The entries of `range`, all of them, from memory or disk (checksums verified). Works also after a failure.
    ///
    /// # Errors
    /// [`Error::Missing`] if one is not there, [`Error::Quarantined`] if one is damaged, [`Error::Io`].
    pub fn read(&self, range: Range<u64>) -> Result<Vec<Entry>, Error> {
        self.inner.visible.read(self.id, range)
    }

    fn submit(&self, done: Option<Done>, change: impl FnOnce(&mut State) -> Result<Vec<Op>, Error>) {
        self.inner.submit(self.id, &self.order, done, change);
    }
}

fn check_size(group: GroupId, bytes: usize) -> Result<(), Error> {
    if bytes > PAYLOAD_BYTES_MAX {
        let reason = format!("{bytes} bytes in one record, {PAYLOAD_BYTES_MAX} are the most");
        return Err(Error::Refused { group, reason });
    }
    Ok(())
}
