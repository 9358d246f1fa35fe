//! From the segments back to what the log holds.
//!
//! Three things can be wrong with bytes that do not parse, and they must not be mistaken for each other:
//! - **A torn tail**: in the last segment, behind everything that was ever synced. Nobody was told that these records
//!   are kept; they are cut off, overwritten with zeros.
//! - **A newer format**: refused by the name of the file; nothing is changed.
//! - **Damage**: anywhere else. A sync-floor record further on that says "all before offset F was synced", with F above
//!   the bad bytes, proves it in the last segment; in the others the next segment's header says where they end. The
//!   groups that may have lost a record are quarantined; a group whose next record carries the next sequence has proved
//!   that it lost none.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use docent_runtime::disk::Disk;

use crate::record::{self, ALIGN_BYTES, FORMAT, Found, Head, Kind, Place};
use crate::segment::{self, HEADER_BYTES, Header, Segment, Tail};
use crate::written::{Loc, Written};
use crate::{Error, GroupId};

/// What recovery found.
pub(crate) struct Recovered {
    pub(crate) written: Written,
    /// All segments with their ends, the last one included.
    pub(crate) segments: BTreeMap<u64, (Arc<Segment>, u64)>,
    /// `None` in an empty directory.
    pub(crate) tail: Option<Tail>,
    pub(crate) quarantined: BTreeMap<GroupId, String>,
}

/// Reads all segments in `dir`. Afterwards everything that is reported is durable.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered, Error> {
    let mut files = open_all(disk, dir)?;
    if let Some((last, Header::Bad)) = files.last() {
        let bytes = last.read_all()?;
        // The header is synced before the first record: without a record this is a creation that was cut short.
        if next_record(&bytes, last.id, HEADER_BYTES).is_none() {
            tracing::info!(file = %last.path.display(), "removing a journal segment whose creation was cut short");
            disk.remove(&last.path).map_err(|error| Error::io("remove", &last.path, error))?;
            disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
            files.pop();
        }
    }
    let mut scan = Scan::default();
    let mut segments = BTreeMap::new();
    let mut tail = None;
    for at in 0..files.len() {
        let (segment, header) = &files[at];
        if *header == Header::Bad {
            scan.doubt(&format!("{} has a damaged header", segment.path.display()));
        }
        if at > 0 && files[at - 1].0.id + 1 != segment.id {
            scan.doubt(&format!("a segment before {} is missing", segment.path.display()));
        }
        let sealed = files.get(at + 1).map(|(next, header)| match header {
            Header::Sound { previous_end } if next.id == segment.id + 1 => Some(*previous_end),
            _ => None,
        });
        let bytes = segment.read_all()?;
        let end = scan.segment(segment, &bytes, sealed)?;
        if sealed.is_none() {
            tail = Some(cut(segment, &bytes, end)?);
        }
        segments.insert(segment.id, (Arc::clone(segment), end));
    }
    // A segment may have been created, and its name not synced, just before a kill: what is appended to it now must not
    // vanish with the name.
    disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
    let (written, quarantined) = scan.finish();
    Ok(Recovered { written, segments, tail, quarantined })
}

fn open_all(disk: &dyn Disk, dir: &Path) -> Result<Vec<(Arc<Segment>, Header)>, Error> {
    let names = disk.list(dir).map_err(|error| Error::io("list", dir, error))?;
    let ids = names.iter().filter_map(|name| segment::id_of(name));
    ids.map(|id| {
        let segment = Segment::open(disk, dir, id)?;
        let mut start = [0; HEADER_BYTES as usize];
        let got = segment.file.read_at(&mut start, 0).map_err(|error| Error::io("read", &segment.path, error))?;
        let header = segment::decode_header(&start[..got], id);
        match header {
            Header::TooNew(found) => Err(Error::TooNew { file: segment.path, found, supported: FORMAT }),
            header => Ok((Arc::new(segment), header)),
        }
    })
    .collect()
}

/// Zeroes what lies behind the last whole record, so that it can never be taken for a record later, and syncs: what was
/// only in the page cache before a `kill -9` is durable before anybody is told of it.
fn cut(segment: &Arc<Segment>, bytes: &[u8], end: u64) -> Result<Tail, Error> {
    let size = (bytes.len() as u64).max(end);
    let rest = usize::try_from(end).ok().and_then(|end| bytes.get(end..)).unwrap_or_default();
    if rest.iter().any(|byte| *byte != 0) {
        tracing::info!(file = %segment.path.display(), end, "cutting a torn, never synced tail off the journal");
        segment.zero(end, size)?;
    }
    segment.sync()?;
    Ok(Tail { segment: Arc::clone(segment), end, room_end: size })
}

fn look(bytes: &[u8], segment: u64, at: u64) -> Found<'_> {
    let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    record::decode(rest, Place { segment, offset: at })
}

/// The first place at or after `from` where a sound head lies.
fn next_record(bytes: &[u8], segment: u64, from: u64) -> Option<u64> {
    places(bytes, from).find(|at| !matches!(look(bytes, segment, *at), Found::Nothing))
}

/// Whether a sync-floor behind `at` proves that the byte at `at` had been synced.
fn was_synced(bytes: &[u8], segment: u64, at: u64) -> bool {
    places(bytes, at + ALIGN_BYTES as u64).any(|place| match look(bytes, segment, place) {
        Found::Record { head, .. } => head.kind == Kind::SyncFloor && head.index > at,
        _ => false,
    })
}

fn places(bytes: &[u8], from: u64) -> impl Iterator<Item = u64> {
    let start = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    (start..bytes.len()).step_by(ALIGN_BYTES).filter(|at| record::may_start(&bytes[*at..])).map(|at| at as u64)
}

/// Entries stay on disk; only the small values are kept.
fn value_of(kind: Kind, payload: &[u8]) -> Bytes {
    match kind {
        Kind::Entry | Kind::Moved => Bytes::new(),
        _ => Bytes::copy_from_slice(payload),
    }
}

/// The state of a pass over the log.
#[derive(Default)]
struct Scan {
    written: Written,
    quarantined: BTreeMap<GroupId, String>,
    /// Groups that may have lost a record, and where.
    doubted: BTreeMap<GroupId, String>,
    /// The newest damage: a group that is first seen after it, but not with its first record, may have lost some.
    damage: Option<String>,
}

impl Scan {
    /// Takes in a segment; returns where its records end. `sealed` is `None` for the last segment, else the end that the
    /// next segment knows, if that is readable.
    fn segment(&mut self, segment: &Segment, bytes: &[u8], sealed: Option<Option<u64>>) -> Result<u64, Error> {
        let known_end = sealed.flatten();
        let limit = known_end.unwrap_or(bytes.len() as u64).min(bytes.len() as u64);
        let bytes = &bytes[..usize::try_from(limit).unwrap_or(bytes.len())];
        let mut at = HEADER_BYTES.min(limit);
        while at < limit {
            match look(bytes, segment.id, at) {
                Found::TooNew(found) => {
                    return Err(Error::TooNew { file: segment.path.clone(), found, supported: FORMAT });
                }
                Found::Record { head, payload: Some(payload), size } => {
                    at = self.record(segment, &head, at, size, Some(payload));
                }
                Found::Record { head, payload: None, size }
                    if sealed.is_some() || was_synced(bytes, segment.id, at) =>
                {
                    at = self.record(segment, &head, at, size, None);
                }
                Found::Record { .. } | Found::Nothing => {
                    let next = next_record(bytes, segment.id, at + ALIGN_BYTES as u64);
                    let is_damage = match sealed {
                        None => was_synced(bytes, segment.id, at),
                        Some(Some(_)) => true,
                        Some(None) => next.is_some(),
                    };
                    if !is_damage {
                        return Ok(at);
                    }
                    self.doubt(&format!("{} is damaged at byte {at}", segment.path.display()));
                    at = next.unwrap_or(limit);
                }
            }
        }
        if known_end.is_some_and(|end| end > limit) {
            self.doubt(&format!("{} is cut short", segment.path.display()));
        }
        Ok(at)
    }

    fn record(&mut self, segment: &Segment, head: &Head, at: u64, size: usize, payload: Option<&[u8]>) -> u64 {
        let end = at + size as u64;
        if head.kind == Kind::SyncFloor {
            return end;
        }
        let group = head.group;
        let is_next = head.seq == self.written.next_seq(group);
        // A group may begin in the middle: the segments before were collected.
        let begins = !self.written.groups.contains_key(&group) && self.damage.is_none();
        match self.doubted.remove(&group).or_else(|| self.damage.clone()) {
            _ if is_next || begins => {}
            Some(reason) => self.quarantine(group, reason),
            None => {
                self.quarantine(group, format!("{} has a record out of sequence at byte {at}", segment.path.display()))
            }
        }
        if payload.is_none() && !matches!(head.kind, Kind::Entry | Kind::Moved) {
            self.quarantine(group, format!("{} has a damaged record at byte {at}", segment.path.display()));
        }
        let loc = Loc { place: Place { segment: segment.id, offset: at }, size };
        self.written.apply(head, loc, payload.map(|payload| value_of(head.kind, payload)));
        if head.kind == Kind::Remove {
            self.quarantined.remove(&group);
        }
        end
    }

    fn quarantine(&mut self, group: GroupId, reason: String) {
        self.quarantined.entry(group).or_insert(reason);
    }

    /// Bytes are gone, nobody knows whose: every group has to prove that it lost nothing.
    fn doubt(&mut self, reason: &str) {
        self.damage = Some(reason.to_owned());
        for group in self.written.groups.keys() {
            self.doubted.entry(*group).or_insert_with(|| reason.to_owned());
        }
    }

    fn finish(mut self) -> (Written, BTreeMap<GroupId, String>) {
        for (group, reason) in std::mem::take(&mut self.doubted) {
            self.quarantine(group, reason);
        }
        let mut broken: Vec<(GroupId, String)> = Vec::new();
        for (id, group) in &self.written.groups {
            if let Some((index, _)) = group.entries.iter().find(|(_, entry)| entry.is_damaged) {
                broken.push((*id, format!("entry {index} is damaged")));
            } else if let Some(index) = group.hole() {
                broken.push((*id, format!("entry {index} is missing")));
            }
        }
        for (group, reason) in broken {
            self.quarantine(group, reason);
        }
        for (group, reason) in &self.quarantined {
            tracing::error!(group, reason, "journal group quarantined: re-create its replica under a new id");
        }
        (self.written, self.quarantined)
    }
}
