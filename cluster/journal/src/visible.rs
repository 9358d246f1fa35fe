//! What callers see: each group's log as of its newest call, ahead of the disk, and the cache of recent entries.
//!
//! An entry can be read from the moment it is appended. Until it is written its bytes are held here; afterwards they
//! are a cache, dropped oldest first.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::recover::Recovered;
use crate::segment::Segment;
use crate::written::{Held, Loc};
use crate::{Entry, Error, GroupId, GroupState, Purged};

/// Memory an entry costs here besides its payload (measured by `size_of`, rounded up).
const ENTRY_COST_BYTES: u64 = 128;

/// One entry of a group's visible log.
struct Slot {
    term: u64,
    /// Tells this entry from an earlier one at the same index that was truncated.
    ticket: u64,
    cached: Option<Bytes>,
    /// Where it was written; `None` while it waits.
    at: Option<Loc>,
}

/// One group as its owner sees it.
#[derive(Default)]
pub(crate) struct Group {
    first: u64,
    slots: VecDeque<Slot>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) committed: Option<Bytes>,
    pub(crate) purged: Option<Purged>,
    quarantined: Option<String>,
}

/// An entry on its way to the disk.
pub(crate) struct Ticketed {
    pub(crate) entry: Entry,
    pub(crate) ticket: u64,
}

/// An entry that reached its place: what the writer reports back.
pub(crate) struct Placed {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) loc: Loc,
    pub(crate) whose: Whose,
}

/// Which slot a place belongs to.
pub(crate) enum Whose {
    /// The entry appended with this ticket.
    Ticket(u64),
    /// The entry that was there.
    MovedFrom(Loc),
}

struct Cached {
    group: GroupId,
    index: u64,
    ticket: u64,
    cost_bytes: u64,
}

/// Everything behind the lock. Held for memory operations only, never over I/O or a callback.
#[derive(Default)]
pub(crate) struct State {
    groups: BTreeMap<GroupId, Group>,
    segments: BTreeMap<u64, Arc<Segment>>,
    recent: VecDeque<Cached>,
    recent_bytes: u64,
    cache_bytes_max: u64,
    next_ticket: u64,
    pub(crate) stopped: Option<Error>,
    pub(crate) is_full: bool,
}

/// The lock.
pub(crate) struct Visible(Mutex<State>);

impl Visible {
    pub(crate) fn new(recovered: &Recovered, cache_bytes_max: u64) -> Self {
        let mut state = State { cache_bytes_max, next_ticket: 1, ..State::default() };
        for (&id, written) in &recovered.written.groups {
            let value = |held: &Option<Held>| held.as_ref().map(|held| held.value.clone());
            let slot = |entry: &crate::written::EntryAt| Slot {
                term: entry.term,
                ticket: 0,
                cached: None,
                at: Some(entry.loc),
            };
            // Slots are consecutive by position; a log with a hole is quarantined and shows none.
            let is_whole = written.hole().is_none();
            let group = Group {
                first: written.entries.keys().next().copied().unwrap_or(0),
                slots: written.entries.values().filter(|_| is_whole).map(slot).collect(),
                vote: value(&written.vote),
                committed: value(&written.committed),
                purged: written.purge.as_ref().map(|held| Purged { index: held.index, marker: held.value.clone() }),
                quarantined: None,
            };
            state.groups.insert(id, group);
        }
        for (&id, reason) in &recovered.quarantined {
            state.groups.entry(id).or_default().quarantined = Some(reason.clone());
        }
        state.segments = recovered.segments.iter().map(|(&id, (segment, _))| (id, Arc::clone(segment))).collect();
        Self(Mutex::new(state))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads entries, from memory where they are, else from disk without holding the lock.
    pub(crate) fn read(&self, id: GroupId, range: Range<u64>) -> Result<Vec<Entry>, Error> {
        let sources = self.lock().sources(id, range)?;
        sources
            .into_iter()
            .map(|(index, term, source)| match source {
                Source::Memory(payload) => Ok(Entry { index, term, payload }),
                Source::Disk(segment, loc) => match segment.read(loc)? {
                    Some((head, payload)) if head.group == id && head.index == index && head.term == term => {
                        Ok(Entry { index, term, payload })
                    }
                    _ => {
                        let reason = format!("entry {index} in {} is damaged", segment.path.display());
                        self.lock().quarantine(id, &reason);
                        Err(Error::Quarantined { group: id, reason })
                    }
                },
            })
            .collect()
    }
}

enum Source {
    Memory(Bytes),
    /// The handle keeps a collected segment readable until the read is over.
    Disk(Arc<Segment>, Loc),
}

impl Group {
    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The index the next entry must have; `None` if any will do.
    pub(crate) fn next_index(&self) -> Option<u64> {
        if self.slots.is_empty() {
            self.purged.as_ref().map(|purged| purged.index.saturating_add(1))
        } else {
            Some(self.end())
        }
    }

    /// Removes entries from `index` on.
    pub(crate) fn truncate_from(&mut self, index: u64) {
        let keep = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.slots.truncate(keep);
    }

    /// Removes entries up to and including `through`.
    pub(crate) fn purge(&mut self, through: u64, marker: Bytes) {
        let gone = through.saturating_add(1).saturating_sub(self.first).min(self.slots.len() as u64);
        self.slots.drain(..usize::try_from(gone).unwrap_or(usize::MAX));
        self.first += gone;
        self.purged = Some(Purged { index: through, marker });
    }

    fn view(&self) -> GroupState {
        GroupState {
            vote: self.vote.clone(),
            committed: self.committed.clone(),
            purged: self.purged.clone(),
            last: self.slots.back().map(|slot| (self.end() - 1, slot.term)),
            first: (!self.slots.is_empty()).then_some(self.first),
            quarantined: self.quarantined.clone(),
        }
    }
}

impl State {
    /// The group, created if new, if the journal still takes calls for it.
    pub(crate) fn writable(&mut self, id: GroupId) -> Result<&mut Group, Error> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let group = self.groups.entry(id).or_default();
        match &group.quarantined {
            Some(reason) => Err(Error::Quarantined { group: id, reason: reason.clone() }),
            None => Ok(group),
        }
    }

    /// Adds entries behind the last one. They must be consecutive.
    pub(crate) fn append(&mut self, id: GroupId, entries: Vec<Entry>) -> Result<Vec<Ticketed>, Error> {
        let group = self.writable(id)?;
        let Some(start) = entries.first().map(|entry| entry.index) else { return Ok(Vec::new()) };
        let wanted = group.next_index().unwrap_or(start);
        if wanted.checked_add(entries.len() as u64).is_none() {
            return Err(Error::Refused { group: id, reason: "entry at the largest index".to_owned() });
        }
        if let Some((entry, wanted)) =
            entries.iter().zip(wanted..u64::MAX).find(|(entry, wanted)| entry.index != *wanted)
        {
            let reason = format!("append of entry {}, where {wanted} is next", entry.index);
            return Err(Error::Refused { group: id, reason });
        }
        if group.slots.is_empty() {
            group.first = start;
        }
        let mut ticketed = Vec::with_capacity(entries.len());
        for entry in entries {
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            let cost_bytes = entry.payload.len() as u64 + ENTRY_COST_BYTES;
            self.recent.push_back(Cached { group: id, index: entry.index, ticket, cost_bytes });
            self.recent_bytes += cost_bytes;
            if let Some(group) = self.groups.get_mut(&id) {
                let cached = Some(entry.payload.clone());
                group.slots.push_back(Slot { term: entry.term, ticket, cached, at: None });
            }
            ticketed.push(Ticketed { entry, ticket });
        }
        Ok(ticketed)
    }

    pub(crate) fn remove(&mut self, id: GroupId) -> Result<(), Error> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        self.groups.remove(&id);
        Ok(())
    }

    pub(crate) fn view(&self, id: GroupId) -> GroupState {
        self.groups.get(&id).map(Group::view).unwrap_or_default()
    }

    /// Groups with any state.
    pub(crate) fn ids(&self) -> Vec<GroupId> {
        let used = self.groups.iter().filter(|(_, group)| group.view() != GroupState::default());
        used.map(|(&id, _)| id).collect()
    }

    pub(crate) fn quarantine(&mut self, id: GroupId, reason: &str) {
        if let Some(group) = self.groups.get_mut(&id) {
            tracing::error!(group = id, reason, "journal group quarantined: re-create its replica under a new id");
            group.quarantined.get_or_insert_with(|| reason.to_owned());
        }
    }

    /// Entries were written: they have a place now and may leave memory.
    pub(crate) fn place(&mut self, placed: &[Placed]) {
        for placed in placed {
            let slot = self.groups.get_mut(&placed.group).and_then(|group| group.slot_mut(placed.index));
            let Some(slot) = slot else { continue };
            let is_it = match placed.whose {
                Whose::Ticket(ticket) => slot.ticket == ticket && slot.at.is_none(),
                Whose::MovedFrom(old) => slot.at == Some(old),
            };
            if is_it {
                slot.at = Some(placed.loc);
            }
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.recent_bytes > self.cache_bytes_max {
            let Some(oldest) = self.recent.front() else { return };
            let slot = self.groups.get_mut(&oldest.group).and_then(|group| group.slot_mut(oldest.index));
            match slot.filter(|slot| slot.ticket == oldest.ticket) {
                Some(slot) if slot.at.is_none() => return,
                Some(slot) => slot.cached = None,
                None => {}
            }
            self.recent_bytes -= oldest.cost_bytes;
            self.recent.pop_front();
        }
    }

    pub(crate) fn add_segment(&mut self, segment: &Arc<Segment>) {
        self.segments.insert(segment.id, Arc::clone(segment));
    }

    pub(crate) fn drop_segment(&mut self, id: u64) {
        self.segments.remove(&id);
    }

    pub(crate) fn segment(&self, id: u64) -> Option<Arc<Segment>> {
        self.segments.get(&id).cloned()
    }

    fn sources(&self, id: GroupId, range: Range<u64>) -> Result<Vec<(u64, u64, Source)>, Error> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let missing = |index| Error::Missing { group: id, index };
        let group = self.groups.get(&id).ok_or_else(|| missing(range.start))?;
        if let Some(reason) = &group.quarantined {
            return Err(Error::Quarantined { group: id, reason: reason.clone() });
        }
        // The bound first, so that an absurd range costs nothing.
        if range.start < group.first || range.end > group.end() {
            return Err(missing(if range.start < group.first { range.start } else { group.end().max(range.start) }));
        }
        range
            .map(|index| {
                let slot = group.slot(index).ok_or_else(|| missing(index))?;
                let source = match (&slot.cached, slot.at) {
                    (Some(payload), _) => Source::Memory(payload.clone()),
                    (None, Some(loc)) => {
                        Source::Disk(self.segment(loc.place.segment).ok_or_else(|| missing(index))?, loc)
                    }
                    (None, None) => return Err(missing(index)),
                };
                Ok((index, slot.term, source))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Place;

    #[test]
    fn the_place_of_a_truncated_entry_is_not_given_to_its_successor() {
        let entry = |term| vec![Entry { index: 1, term, payload: Bytes::from_static(b"x") }];
        let placed = |ticketed: &Ticketed, offset| Placed {
            group: 1,
            index: 1,
            loc: Loc { place: Place { segment: 1, offset }, size: 56 },
            whose: Whose::Ticket(ticketed.ticket),
        };
        let mut state = State { next_ticket: 1, ..State::default() };
        let old = state.append(1, entry(1)).unwrap().remove(0);
        state.writable(1).unwrap().truncate_from(1);
        let new = state.append(1, entry(2)).unwrap().remove(0);
        // The cache has no room: whatever has a place leaves memory.
        state.place(&[placed(&old, 64)]);
        assert!(matches!(state.sources(1, 1..2).unwrap()[0], (1, 2, Source::Memory(_))));
        state.place(&[placed(&new, 128)]);
        assert!(state.groups[&1].slots[0].cached.is_none());
        assert_eq!(state.groups[&1].slots[0].at.map(|loc| loc.place.offset), Some(128));
    }
}
