//! What the log holds, as written: for every group, where its live records lie. Pure.
//!
//! Recovery builds it by applying the records in order, the writer keeps it by applying each record it writes: the same
//! code, so that both agree on what is live. Segments go from the oldest end only; hence a record that makes others dead
//! (truncate, remove) is not live itself: when it is in the oldest segment, what it killed is gone.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use bytes::Bytes;

use crate::GroupId;
use crate::record::{Head, Kind, Place};

/// A record on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loc {
    pub(crate) place: Place,
    /// Bytes, padding included.
    pub(crate) size: usize,
}

/// A small value whose newest record counts; the value is kept, for it is wanted at start and when it is moved.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) value: Bytes,
    pub(crate) index: u64,
    pub(crate) loc: Loc,
}

/// An entry on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryAt {
    pub(crate) term: u64,
    pub(crate) loc: Loc,
    pub(crate) is_damaged: bool,
}

/// One group's live records.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Sequence of the newest record.
    pub(crate) seq: u64,
    pub(crate) vote: Option<Held>,
    pub(crate) committed: Option<Held>,
    pub(crate) purge: Option<Held>,
    pub(crate) entries: BTreeMap<u64, EntryAt>,
}

impl Group {
    fn held(&self) -> impl Iterator<Item = &Held> {
        [&self.vote, &self.committed, &self.purge].into_iter().flatten()
    }

    /// The first index at which the log is not one run from the purge mark on, if there is one.
    pub(crate) fn hole(&self) -> Option<u64> {
        let first = self.entries.keys().next().copied()?;
        let start = self.purge.as_ref().map_or(first, |purge| purge.index.saturating_add(1));
        // Indexes on disk are below the largest, so the bound cuts nothing off.
        self.entries.keys().zip(start..u64::MAX).find(|(index, wanted)| *index != wanted).map(|(_, wanted)| wanted)
    }
}

/// A live record that could be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) group: GroupId,
    pub(crate) kind: Kind,
    pub(crate) index: u64,
    pub(crate) loc: Loc,
}

/// All groups' live records, and how many bytes of them each segment holds.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) groups: BTreeMap<GroupId, Group>,
    live_bytes: BTreeMap<u64, u64>,
}

impl Written {
    /// The sequence the group's next record must carry.
    pub(crate) fn next_seq(&self, group: GroupId) -> u64 {
        self.groups.get(&group).map_or(0, |group| group.seq) + 1
    }

    /// Takes in the next record of the log. `value` is its payload, `None` if that is damaged.
    pub(crate) fn apply(&mut self, head: &Head, loc: Loc, value: Option<Bytes>) {
        if head.kind == Kind::SyncFloor {
            return;
        }
        let group = self.groups.entry(head.group).or_default();
        group.seq = head.seq;
        let held = |value| Held { value, index: head.index, loc };
        let mut dead: Vec<Loc> = Vec::new();
        let is_live = match head.kind {
            Kind::Entry | Kind::Moved => {
                let entry = EntryAt { term: head.term, loc, is_damaged: value.is_none() };
                dead.extend(group.entries.insert(head.index, entry).map(|old| old.loc));
                true
            }
            Kind::Vote => replace(&mut group.vote, value.map(held), &mut dead),
            Kind::Committed => replace(&mut group.committed, value.map(held), &mut dead),
            Kind::Purge => {
                dead.extend(take(&mut group.entries, ..=head.index));
                replace(&mut group.purge, value.map(held), &mut dead)
            }
            Kind::Truncate => {
                dead.extend(take(&mut group.entries, head.index..));
                false
            }
            Kind::Remove => {
                dead.extend(group.held().map(|held| held.loc));
                dead.extend(group.entries.values().map(|entry| entry.loc));
                self.groups.remove(&head.group);
                false
            }
            Kind::SyncFloor => false,
        };
        for loc in dead {
            if let Some(bytes) = self.live_bytes.get_mut(&loc.place.segment) {
                *bytes = bytes.saturating_sub(loc.size as u64);
            }
        }
        if is_live {
            *self.live_bytes.entry(loc.place.segment).or_default() += loc.size as u64;
        }
    }

    /// Bytes of live records in a segment.
    pub(crate) fn live_bytes(&self, segment: u64) -> u64 {
        self.live_bytes.get(&segment).copied().unwrap_or(0)
    }

    /// Bytes of live records in all segments.
    pub(crate) fn live_bytes_total(&self) -> u64 {
        self.live_bytes.values().sum()
    }

    /// The segment's file is gone.
    pub(crate) fn forget_segment(&mut self, segment: u64) {
        self.live_bytes.remove(&segment);
    }

    /// The live records of a segment, by group; entries in index order.
    pub(crate) fn live_in(&self, segment: u64) -> impl Iterator<Item = Live> {
        self.groups.iter().flat_map(move |(&id, group)| {
            let held = [
                (Kind::Vote, group.vote.as_ref()),
                (Kind::Committed, group.committed.as_ref()),
                (Kind::Purge, group.purge.as_ref()),
            ];
            let held = held.into_iter().filter_map(|(kind, held)| Some((kind, held?.index, held?.loc)));
            let entries = group.entries.iter().map(|(&index, entry)| (Kind::Moved, index, entry.loc));
            held.chain(entries)
                .filter(move |(_, _, loc)| loc.place.segment == segment)
                .map(move |(kind, index, loc)| Live { group: id, kind, index, loc })
        })
    }

    /// Whether the record is still what counts.
    pub(crate) fn is_live(&self, live: &Live) -> bool {
        let Some(group) = self.groups.get(&live.group) else { return false };
        let at = match live.kind {
            Kind::Vote => group.vote.as_ref().map(|held| held.loc),
            Kind::Committed => group.committed.as_ref().map(|held| held.loc),
            Kind::Purge => group.purge.as_ref().map(|held| held.loc),
            _ => group.entries.get(&live.index).map(|entry| entry.loc),
        };
        at == Some(live.loc)
    }
}

/// A damaged new value leaves the old one; the group is quarantined by whoever found the damage.
fn replace(slot: &mut Option<Held>, new: Option<Held>, dead: &mut Vec<Loc>) -> bool {
    let Some(new) = new else { return false };
    dead.extend(slot.replace(new).map(|old| old.loc));
    true
}

fn take(entries: &mut BTreeMap<u64, EntryAt>, range: impl RangeBounds<u64>) -> Vec<Loc> {
    let gone: Vec<u64> = entries.range(range).map(|(&index, _)| index).collect();
    gone.iter().filter_map(|index| entries.remove(index)).map(|entry| entry.loc).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(written: &mut Written, kind: Kind, index: u64, segment: u64) {
        let seq = written.next_seq(1);
        let loc = Loc { place: Place { segment, offset: seq * 64 }, size: 64 };
        written.apply(&Head { kind, group: 1, seq, index, term: 1 }, loc, Some(Bytes::new()));
    }

    #[test]
    fn a_segment_is_dead_when_all_its_records_are_superseded_truncated_or_purged() {
        let mut written = Written::default();
        put(&mut written, Kind::Vote, 0, 1);
        (1..=4).for_each(|index| put(&mut written, Kind::Entry, index, 1));
        assert_eq!(written.live_bytes(1), 5 * 64);
        put(&mut written, Kind::Vote, 0, 2);
        put(&mut written, Kind::Truncate, 4, 2);
        put(&mut written, Kind::Purge, 2, 2);
        assert_eq!(written.live_bytes(1), 64, "entry 3 alone");
        put(&mut written, Kind::Moved, 3, 2);
        assert_eq!((written.live_bytes(1), written.live_bytes(2)), (0, 3 * 64));
        put(&mut written, Kind::Remove, 0, 3);
        assert_eq!(written.live_bytes_total(), 0);
        assert!(written.groups.is_empty());
    }

    #[test]
    fn a_moved_entry_may_come_after_its_successors_but_a_missing_one_is_a_hole() {
        let mut written = Written::default();
        put(&mut written, Kind::Purge, 2, 1);
        put(&mut written, Kind::Entry, 4, 1);
        assert_eq!(written.groups[&1].hole(), Some(3));
        put(&mut written, Kind::Moved, 3, 2);
        assert_eq!(written.groups[&1].hole(), None);
        put(&mut written, Kind::Entry, 6, 2);
        assert_eq!(written.groups[&1].hole(), Some(5));
    }
}
