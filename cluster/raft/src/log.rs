//! openraft's log store over one group of the node's journal.
//!
//! Journal indexes are raft indexes plus one: raft's log starts at 0, and "keep nothing" must be sayable in
//! `truncate_after`. The journal keeps one queue, so votes and entries of a group stay in the order they were given,
//! and fires a completion only after the sync; nothing here acknowledges earlier than that.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use docent_journal::{Done, GroupLog};
use docent_runtime::sabotage::{self, Bug};
use futures::Stream;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::raft::{Entry, LogId, TypeConfig, Vote};
use crate::{Error, record};

/// Entries of the first read of a size-limited read; later ones go by the sizes seen.
const FIRST_READ: u64 = 4;
/// Entries of any one read of the journal.
const READ_MAX: u64 = 512;

/// The log of one group. Clones share it; openraft reads through clones while it writes through one.
#[derive(Clone)]
pub(crate) struct Log {
    replica: u64,
    journal: GroupLog,
    /// The last *durable* vote; readers fence themselves by it.
    vote: Arc<Mutex<Option<Vote>>>,
    /// Bytes of one size-limited read.
    read_bytes_max: u64,
}

impl Log {
    /// Opens the group's part of the journal, refusing damage and another replica's life.
    pub(crate) fn open(group: u64, replica: u64, journal: GroupLog, read_bytes_max: u64) -> Result<Log, Error> {
        let state = journal.state();
        if let Some(reason) = state.quarantined {
            return Err(Error::Quarantined { group, reason });
        }
        let mut vote = None;
        if let Some(bytes) = &state.vote {
            let (ours, stored) = record::decode_vote(bytes)?;
            if ours != replica {
                return Err(Error::WrongReplica { group, ours, theirs: replica });
            }
            vote = Some(stored);
        }
        Ok(Log { replica, journal, vote: Arc::new(Mutex::new(vote)), read_bytes_max })
    }

    /// Whether this replica voted, or followed a leader, in an earlier life.
    pub(crate) fn has_vote(&self) -> bool {
        self.vote.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Reads `start..end` as far as it is there.
    fn read(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let state = self.journal.state();
        let (Some(first), Some((last, _))) = (state.first, state.last) else { return Ok(Vec::new()) };
        let range = at(start).max(first)..at(end).min(last.saturating_add(1));
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let entries = self.journal.read(range).map_err(io::Error::other)?;
        entries
            .iter()
            .map(|entry| record::decode_entry(entry.index - 1, entry.term, &entry.payload).map_err(io::Error::other))
            .collect()
    }

    /// Reads from `start`, until `end` or about `read_bytes_max`; at least one entry if there is one.
    fn read_some(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0_u64;
        let mut next = start;
        let mut count = FIRST_READ;
        while next < end && bytes < self.read_bytes_max {
            let block = self.read(next, end.min(next + count))?;
            if block.is_empty() {
                break;
            }
            next += block.len() as u64;
            bytes += block.iter().map(size_of_entry).sum::<u64>();
            entries.extend(block);
            let mean = (bytes / entries.len() as u64).max(1);
            count = (self.read_bytes_max.saturating_sub(bytes) / mean).clamp(1, READ_MAX);
        }
        Ok(entries)
    }

    /// The journal's index of a raft index.
    pub(crate) fn position(index: u64) -> u64 {
        at(index)
    }

    /// The last entry, purged or not.
    pub(crate) fn last_log_id(&self) -> io::Result<Option<LogId>> {
        let state = self.journal.state();
        let purged = self.purged(&state)?;
        let Some((last, _)) = state.last.filter(|_| state.first.is_some()) else { return Ok(purged) };
        Ok(self.read(last - 1, last)?.pop().map(|entry| entry.log_id).max(purged))
    }

    /// The last entry that is gone, if any is.
    pub(crate) fn purged_through(&self) -> io::Result<Option<LogId>> {
        self.purged(&self.journal.state())
    }

    fn purged(&self, state: &docent_journal::GroupState) -> io::Result<Option<LogId>> {
        let purged = state.purged.as_ref().map(|purged| record::decode("purge marker", &purged.marker));
        purged.transpose().map_err(io::Error::other)
    }
}

/// The journal's index of a raft index.
fn at(index: u64) -> u64 {
    index.saturating_add(1)
}

/// Roughly what an entry takes in a message.
fn size_of_entry(entry: &Entry) -> u64 {
    const OVERHEAD: u64 = 32;
    let payload = match &entry.payload {
        openraft::EntryPayload::Normal(payload) => payload.0.len() as u64,
        _ => 0,
    };
    payload + OVERHEAD
}

/// Gives the journal one durable operation and waits for its sync.
async fn durably(operation: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    operation(Box::new(move |result| {
        // The receiver is gone only when openraft itself was dropped.
        sender.send(result).ok();
    }));
    match receiver.await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the journal was closed before it synced")),
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.read(start, end)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.vote.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read_some(start, end)
    }

    /// What is applied, read in blocks: after a restart or a stall the range may be the whole log. A hole is an
    /// error: openraft would count as applied what never was.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let log = self.clone();
        let blocks = futures::stream::unfold(Some(start), move |next| {
            let log = log.clone();
            async move {
                let next = next.filter(|next| *next < end)?;
                match log.read_some(next, end) {
                    Ok(block) if block.is_empty() => None,
                    Ok(block) if block[0].log_id.index != next => {
                        Some((vec![Err(io::Error::other(format!("entry {next} to apply is not in the log")))], None))
                    }
                    Ok(block) => {
                        let after = next + block.len() as u64;
                        Some((block.into_iter().map(Ok).collect::<Vec<_>>(), Some(after)))
                    }
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        Box::pin(futures::StreamExt::flat_map(blocks, futures::stream::iter))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.purged(&self.journal.state())?;
        Ok(LogState { last_purged_log_id, last_log_id: self.last_log_id()? })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let bytes = record::encode_vote(self.replica, vote);
        if !sabotage::is(Bug::VoteNotSaved) {
            durably(|done| self.journal.save_vote(bytes, done)).await?;
        }
        *self.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Rides with the next sync: older than the truth is safe, it only means more to hear from the next leader.
        self.journal.save_committed(record::encode(&committed), None);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        match self.journal.state().committed {
            Some(bytes) => record::decode("committed record", &bytes).map_err(io::Error::other),
            None => Ok(None),
        }
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| docent_journal::Entry {
            index: at(entry.log_id.index),
            term: entry.log_id.leader_id.term,
            payload: record::encode_entry(&entry),
        });
        let done: Done = Box::new(move |result| callback.io_completed(result.map_err(io::Error::other)));
        self.journal.append(entries.collect(), done);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let keep_through = last_log_id.map_or(0, |id| at(id.index));
        if sabotage::is(Bug::TruncateForgotten) {
            return Ok(());
        }
        // For simulations, which count what they have seen happen.
        tracing::trace!(target: "docent_raft::truncated", replica = self.replica, keep_through);
        durably(|done| self.journal.truncate_after(keep_through, done)).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let marker = record::encode(&log_id);
        durably(|done| self.journal.purge_to(at(log_id.index), marker, done)).await
    }
}
