//! The thread that writes: drains the queue, encodes the batch, one write, one sync, then the completions in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::channel::{Receiver, TryRecvError};
use docent_runtime::disk::{Disk, DiskLock};
use docent_runtime::sabotage::{self, Bug};

use crate::record::{self, Head, Kind, Place};
use crate::segment::Tail;
use crate::visible::{Placed, Ticketed, Visible, Whose};
use crate::written::{Live, Loc, Written};
use crate::{Done, Error, GroupId, Options};

/// A batch is closed at this size, so that its first caller does not wait for all that come behind.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a caller asks for.
pub(crate) enum Op {
    Append(Vec<Ticketed>),
    Vote(Bytes),
    Committed(Bytes),
    TruncateFrom(u64),
    Purge { through: u64, marker: Bytes },
    Remove,
    Close,
}

/// A caller waiting for the disk. Whatever happens, it is answered: dropped unanswered, it hears that the journal closed.
pub(crate) struct Waiting(Option<Done>);

impl Waiting {
    pub(crate) fn new(done: Option<Done>) -> Self {
        Self(done)
    }

    fn needs_sync(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn answer(mut self, result: Result<(), Error>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(Error::Closed));
        }
    }
}

/// One element of the queue.
pub(crate) struct Command {
    pub(crate) group: GroupId,
    pub(crate) op: Op,
    pub(crate) waiting: Waiting,
}

impl Command {
    fn bytes(&self) -> usize {
        match &self.op {
            Op::Append(entries) => entries.iter().map(|it| record::size_of(it.entry.payload.len())).sum(),
            Op::Vote(value) | Op::Committed(value) | Op::Purge { marker: value, .. } => record::size_of(value.len()),
            Op::TruncateFrom(_) | Op::Remove | Op::Close => record::HEAD_BYTES,
        }
    }
}

/// The writer's own state; nobody else touches it.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) visible: Arc<Visible>,
    pub(crate) queue: Receiver<Command>,
    pub(crate) written: Written,
    /// Ends of the segments before the tail's.
    pub(crate) sealed: BTreeMap<u64, u64>,
    pub(crate) tail: Tail,
    /// Groups whose records must not be moved: they cannot be read.
    pub(crate) pinned: BTreeSet<GroupId>,
    /// Records of the oldest segment that are being moved out of it.
    pub(crate) moving: VecDeque<Live>,
    /// The oldest segment, when a pinned group keeps it: not looked at again until a group is removed.
    pub(crate) pinned_segment: Option<u64>,
    pub(crate) buffer: Vec<u8>,
    /// Records in the buffer.
    pub(crate) records: u64,
    pub(crate) placed: Vec<Placed>,
    pub(crate) is_synced: bool,
    /// A sync that no sync-floor record tells of yet.
    pub(crate) is_floor_due: bool,
    pub(crate) _lock: Box<dyn DiskLock>,
}

impl Writer {
    /// Runs until the journal is closed or all handles are gone.
    pub(crate) fn run(mut self) {
        loop {
            let (batch, is_last) = self.next_batch();
            let written = self.write(&batch);
            self.settle(batch, written);
            if is_last {
                break;
            }
            self.attend(Self::tidy);
        }
        self.attend(Self::finish);
    }

    /// Waits for a command, then takes what else is there. With records to move it does not wait.
    fn next_batch(&mut self) -> (Vec<Command>, bool) {
        let first = match self.moving.is_empty() {
            true => self.queue.recv().map_err(|_| TryRecvError::Disconnected),
            false => self.queue.try_recv(),
        };
        self.batch_from(first)
    }

    /// A batch that begins with `first`, of what is there; and whether it is the last.
    pub(crate) fn batch_from(&self, first: Result<Command, TryRecvError>) -> (Vec<Command>, bool) {
        let first = match first {
            Ok(command) => command,
            Err(error) => return (Vec::new(), error.is_disconnected()),
        };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(command) = next {
            if matches!(command.op, Op::Close) {
                return (batch, true);
            }
            bytes += command.bytes();
            batch.push(command);
            next = if bytes < BATCH_BYTES_MAX { self.queue.try_recv().ok() } else { None };
        }
        (batch, false)
    }

    /// Writes a batch; nothing of it is durable yet.
    pub(crate) fn write(&mut self, batch: &[Command]) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        if let Some(error) = self.failure() {
            return Err(error);
        }
        self.make_ready()?;
        for command in batch {
            self.encode(command);
        }
        self.flush()
    }

    /// Syncs a batch that was written, if somebody waits for that, and answers.
    pub(crate) fn settle(&mut self, batch: Vec<Command>, written: Result<(), Error>) {
        let needs_sync = batch.iter().any(|command| command.waiting.needs_sync());
        let result = written.and_then(|()| if needs_sync { self.sync() } else { Ok(()) });
        if let Err(error) = &result {
            self.stop(error);
        }
        for command in batch {
            command.waiting.answer(result.clone());
        }
    }

    /// Does something between batches; a failure stops the journal like any other.
    pub(crate) fn attend(&mut self, step: fn(&mut Self) -> Result<(), Error>) {
        if self.failure().is_some() {
            return;
        }
        if let Err(error) = step(self) {
            self.stop(&error);
        }
    }

    /// Closed is not failed: what was queued before is still written.
    fn failure(&self) -> Option<Error> {
        self.visible.lock().stopped.clone().filter(|error| !matches!(error, Error::Closed))
    }

    /// After a failed write or sync nobody knows what the disk holds: every later call is answered with an error.
    fn stop(&mut self, error: &Error) {
        self.moving.clear();
        if self.failure().is_some() {
            return;
        }
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        tracing::error!(error = %error, source, "the journal stops");
        self.visible.lock().stopped = Some(match error {
            Error::Full { .. } => error.clone(),
            _ => Error::Poisoned { reason: format!("{error}{source}") },
        });
    }

    /// Opens the next segment when this one is long enough; tells of the last sync. Before anything is encoded, because
    /// a record knows its place.
    pub(crate) fn make_ready(&mut self) -> Result<(), Error> {
        if self.tail.end >= self.options.segment_bytes_max {
            self.sync()?;
            let id = self.tail.segment.id + 1;
            match Tail::create(self.disk.as_ref(), &self.options, id, self.tail.end) {
                Ok(next) => {
                    let old = std::mem::replace(&mut self.tail, next);
                    self.sealed.insert(old.segment.id, old.end);
                    self.visible.lock().add_segment(&self.tail.segment);
                    self.is_floor_due = false;
                    metrics::gauge!("docent_journal_segments").set(self.sealed.len() as f64 + 1.0);
                }
                // The old one may grow on as long as its room lasts.
                Err(Error::Full { .. }) => self.note_full(true),
                Err(error) => return Err(error),
            }
        }
        if std::mem::take(&mut self.is_floor_due) {
            let head = Head { kind: Kind::SyncFloor, group: 0, seq: 0, index: self.tail.end, term: 0 };
            self.put(&head, &Bytes::new());
        }
        Ok(())
    }

    fn encode(&mut self, command: &Command) {
        let group = command.group;
        let plain = |kind, index| Head { kind, group, seq: 0, index, term: 0 };
        match &command.op {
            Op::Append(entries) => {
                for Ticketed { entry, ticket } in entries {
                    let head = Head { term: entry.term, ..plain(Kind::Entry, entry.index) };
                    let loc = self.put(&head, &entry.payload);
                    self.placed.push(Placed { group, index: entry.index, loc, whose: Whose::Ticket(*ticket) });
                }
            }
            Op::Vote(value) => drop(self.put(&plain(Kind::Vote, 0), value)),
            Op::Committed(value) => drop(self.put(&plain(Kind::Committed, 0), value)),
            Op::TruncateFrom(index) => drop(self.put(&plain(Kind::Truncate, *index), &Bytes::new())),
            Op::Purge { through, marker } => drop(self.put(&plain(Kind::Purge, *through), marker)),
            Op::Remove => {
                self.put(&plain(Kind::Remove, 0), &Bytes::new());
                self.pinned.remove(&group);
                self.pinned_segment = None;
            }
            // Taken out of the batch by `next_batch`.
            Op::Close => {}
        }
    }

    /// Encodes a record behind the ones in the buffer; its sequence is filled in here.
    pub(crate) fn put(&mut self, head: &Head, value: &Bytes) -> Loc {
        let seq = if head.kind == Kind::SyncFloor { 0 } else { self.written.next_seq(head.group) };
        let head = Head { seq, ..*head };
        let place = Place { segment: self.tail.segment.id, offset: self.tail.end + self.buffer.len() as u64 };
        let size = record::encode(&mut self.buffer, place, &head, value);
        let loc = Loc { place, size };
        let kept = if matches!(head.kind, Kind::Entry | Kind::Moved) { Bytes::new() } else { value.clone() };
        self.written.apply(&head, loc, Some(kept));
        self.records += 1;
        loc
    }

    /// Writes the buffer and reports the places of its entries.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let has_room = self.tail.make_room(&self.options, self.buffer.len() as u64)?;
        self.note_full(!has_room);
        self.is_synced = false;
        self.tail.append(&self.buffer)?;
        metrics::counter!("docent_journal_bytes_total").increment(self.buffer.len() as u64);
        metrics::counter!("docent_journal_records_total").increment(self.records);
        metrics::histogram!("docent_journal_batch_records").record(self.records as f64);
        self.records = 0;
        self.buffer.clear();
        self.buffer.shrink_to(BATCH_BYTES_MAX);
        self.visible.lock().place(&self.placed);
        self.placed.clear();
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        if !self.is_synced {
            let took = match sabotage::is(Bug::SkippedFsync) {
                false => self.tail.segment.sync()?,
                true => Default::default(),
            };
            metrics::histogram!("docent_journal_sync_seconds").record(took.as_secs_f64());
            self.is_synced = true;
            self.is_floor_due = true;
        }
        Ok(())
    }

    fn note_full(&mut self, is_full: bool) {
        let mut state = self.visible.lock();
        if state.is_full != is_full {
            state.is_full = is_full;
            metrics::gauge!("docent_journal_full").set(f64::from(u8::from(is_full)));
            if is_full {
                tracing::error!(dir = %self.options.dir.display(), "no disk space for the journal: free space soon");
            }
        }
    }

    /// Between batches: collect old segments; with nobody waiting, tell of the last sync.
    pub(crate) fn tidy(&mut self) -> Result<(), Error> {
        self.collect()?;
        // The room that is left on a full disk is for callers.
        if self.is_floor_due && self.queue.is_empty() && !self.visible.lock().is_full {
            self.make_ready()?;
            self.flush()?;
        }
        Ok(())
    }

    /// The orderly end: all that was written is durable, and so is the record that says so.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.sync()?;
        self.make_ready()?;
        self.flush()?;
        self.sync()
    }
}
