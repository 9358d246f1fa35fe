//! A shard out of a backup: pages of raw records on the way out, and the rules by which an empty shard takes them in again.
//!
//! A restored record keeps its *stamp* (where in the old cluster's log it was kept). The new log begins low, so everything written
//! after the restore is stamped `base + log index`, where `base` is the newest stamp that the backup can hold: later stays newer.
//! An item shard's counts are left out: they carry the old cluster's positions, and the user shards publish theirs anew.

use crate::counts;
use crate::digest::Chain;
use crate::key::{self, Kind};
use crate::record::{EventRecord, ItemRecord, UserRecord, decode, encode};
use crate::view::{Tx, View};
use bytes::Bytes;
use docent_placement::SlotHasher;
use docent_types::command::{BackupId, RestoreEnd, RestoreOutcome, RestorePart};
use docent_types::error::Result;
use docent_types::{EventId, ItemId, Keyspace, TenantId, UserId};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// `[key length u16 LE][value length u32 LE]` before each record of a page.
const HEAD_BYTES: usize = 6;

/// Which backup a shard was restored from, and how far that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Of which backup.
    pub backup: BackupId,
    /// The next part.
    pub next: u64,
    /// Whether all parts are in and the shard is alive.
    pub is_whole: bool,
    /// What is added to a log index to give a stamp.
    pub base: u64,
    /// Records of content so far, and their digest.
    records: u64,
    content: [u8; 32],
    /// The last key; empty while nothing was put.
    last_key: Vec<u8>,
}

/// What a shard is, to whoever wants to restore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was ever written.
    Empty,
    /// A restore is under way.
    Restoring(BackupId, u64),
    /// A restore is complete.
    Restored(BackupId),
    /// It has records of its own.
    Live,
}

/// The lineage of a shard; `None` where it was never restored.
pub fn lineage(view: &dyn View, keyspace: Keyspace) -> Result<Option<Lineage>> {
    view.get(&key::lineage(keyspace))?.map(|bytes| decode("lineage", &bytes)).transpose()
}

/// What the shard is.
pub fn standing(view: &dyn View, keyspace: Keyspace) -> Result<Standing> {
    Ok(match lineage(view, keyspace)? {
        Some(lineage) if lineage.is_whole => Standing::Restored(lineage.backup),
        Some(lineage) => Standing::Restoring(lineage.backup, lineage.next),
        None if is_empty(view)? => Standing::Empty,
        None => Standing::Live,
    })
}

fn is_empty(view: &dyn View) -> Result<bool> {
    let mut is_empty = true;
    view.scan(b"", None, &mut |_, _| {
        is_empty = false;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(is_empty)
}

/// Called for each record of a page.
pub type See<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

/// Records on their way into a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Framed records.
    pub records: Vec<u8>,
    /// Where to go on; `None` after the last.
    pub last_key: Option<Vec<u8>>,
}

/// The records after `after`, up to `bytes_max` bytes but at least one; `see` sees each. The lineage stays here.
pub fn page(view: &dyn View, after: Option<&[u8]>, bytes_max: usize, see: See<'_>) -> Result<Page> {
    // The least key above another is that key and a zero byte.
    let from = after.map_or_else(Vec::new, |after| [after, &[0]].concat());
    let lineages = [Keyspace::Users, Keyspace::Items].map(key::lineage);
    let mut page = Page::default();
    let mut last = Vec::new();
    view.scan(&from, None, &mut |key, value| {
        if lineages.iter().any(|lineage| lineage == key) {
            return Ok(ControlFlow::Continue(()));
        }
        if !page.records.is_empty() && page.records.len() + HEAD_BYTES + key.len() + value.len() > bytes_max {
            page.last_key = Some(std::mem::take(&mut last));
            return Ok(ControlFlow::Break(()));
        }
        see(key, value)?;
        frame(&mut page.records, key, value);
        key.clone_into(&mut last);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(page)
}

/// Keys have at most a few kilobytes and values at most a few megabytes, by the limits of docent-types.
fn frame(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    records.extend_from_slice(&(key.len() as u16).to_le_bytes());
    records.extend_from_slice(&(value.len() as u32).to_le_bytes());
    records.extend_from_slice(key);
    records.extend_from_slice(value);
}

fn unframe(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let key_bytes = usize::from(u16::from_le_bytes(head[..2].try_into().ok()?));
    let value_bytes = u32::from_le_bytes(head[2..].try_into().ok()?) as usize;
    let (key, rest) = rest.split_at_checked(key_bytes)?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    Some((key, value, rest))
}

/// Takes a part in: all of it or nothing.
pub(crate) fn part(
    tx: &mut Tx<'_>,
    keyspace: Keyspace,
    hasher: SlotHasher,
    part: &RestorePart,
) -> Result<RestoreOutcome> {
    let known = lineage(tx, keyspace)?;
    let mut now = match begun(tx, known, part.backup, part.seq)? {
        Ok(now) => now,
        Err(outcome) => return Ok(outcome),
    };
    let mut chain = Chain { records: now.records, digest: now.content };
    let (mut rest, mut place) = (part.records.as_slice(), 0u32);
    let mut puts: Vec<(&[u8], &[u8])> = Vec::new();
    while !rest.is_empty() {
        let Some((key, value, after)) = unframe(rest) else { return Ok(RestoreOutcome::Damaged(place)) };
        let last = puts.last().map_or(now.last_key.as_slice(), |(key, _)| key);
        if key <= last || !is_record(keyspace, hasher, key, value) {
            return Ok(RestoreOutcome::Damaged(place));
        }
        chain.add(key, value)?;
        puts.push((key, value));
        (rest, place) = (after, place + 1);
    }
    if let Some((last, _)) = puts.last() {
        last.to_vec().clone_into(&mut now.last_key);
    }
    for (key, value) in puts {
        let is_kept = key::parts(key).is_some_and(|parts| parts.kind != Kind::ItemCounts);
        if is_kept {
            tx.put(key.to_vec(), Bytes::copy_from_slice(value));
        }
    }
    (now.records, now.content, now.next) = (chain.records, chain.digest, now.next + 1);
    tx.put(key::lineage(keyspace), encode(&now));
    Ok(RestoreOutcome::Next(now.next))
}

/// Where a restore stands that may take part `seq` now; else what to answer.
fn begun(
    view: &dyn View,
    known: Option<Lineage>,
    backup: BackupId,
    seq: u64,
) -> Result<std::result::Result<Lineage, RestoreOutcome>> {
    let new = || Lineage {
        backup,
        next: 0,
        is_whole: false,
        base: 0,
        records: 0,
        content: Chain::default().digest,
        last_key: Vec::new(),
    };
    Ok(match known {
        None if !is_empty(view)? => Err(RestoreOutcome::NotEmpty),
        None if seq == 0 => Ok(new()),
        None => Err(RestoreOutcome::OutOfOrder(0)),
        Some(known) if known.backup != backup => match (known.is_whole, known.last_key.is_empty(), seq) {
            (true, ..) => Err(RestoreOutcome::NotEmpty),
            // The other restore put nothing in yet: it gives way.
            (false, true, 0) => Ok(new()),
            _ => Err(RestoreOutcome::OtherBackup),
        },
        Some(known) if known.is_whole => Err(RestoreOutcome::Whole),
        Some(known) if seq < known.next => Err(RestoreOutcome::Next(known.next)),
        Some(known) if seq > known.next => Err(RestoreOutcome::OutOfOrder(known.next)),
        Some(known) => Ok(known),
    })
}

/// Ends the restore where everything is in.
pub(crate) fn done(tx: &mut Tx<'_>, keyspace: Keyspace, end: &RestoreEnd) -> Result<RestoreOutcome> {
    let known = lineage(tx, keyspace)?;
    let Some(known) = known else { return Ok(RestoreOutcome::OutOfOrder(0)) };
    let now = match begun(tx, Some(known), end.backup, end.seq)? {
        Ok(now) if now.backup == end.backup && now.next == end.seq => now,
        // A step that is behind: parts came after it.
        Ok(_) | Err(RestoreOutcome::Next(_)) => return Ok(RestoreOutcome::WrongDigest),
        Err(outcome) => return Ok(outcome),
    };
    if (now.records, now.content) != (end.records, end.content) {
        return Ok(RestoreOutcome::WrongDigest);
    }
    let whole = Lineage { is_whole: true, base: end.stamp, last_key: Vec::new(), ..now };
    tx.put(key::lineage(keyspace), encode(&whole));
    Ok(RestoreOutcome::Whole)
}

/// Whether these bytes are a record of such a shard, under the slot that its id hashes to here.
fn is_record(keyspace: Keyspace, hasher: SlotHasher, key: &[u8], value: &[u8]) -> bool {
    let Some(parts) = key::parts(key) else { return false };
    let Ok(tenant) = TenantId::new(parts.tenant) else { return false };
    let at_home = |id: &str| hasher.slot(&tenant, id) == parts.slot;
    let named =
        |check: &dyn Fn(&str, &[u8]) -> bool| key::split_id(parts.rest).is_ok_and(|(id, rest)| check(&id, rest));
    let is_user = |id: &str| UserId::new(id).is_ok() && at_home(id);
    let is_item = |id: &str| ItemId::new(id).is_ok() && at_home(id);
    let is_event_id = |rest: &[u8]| std::str::from_utf8(rest).is_ok_and(|id| EventId::new(id).is_ok());
    let is_item_list = |ids: Vec<&str>| ids.into_iter().all(|id| ItemId::new(id).is_ok());
    parts.kind.keyspace() == keyspace
        && match parts.kind {
            Kind::User => {
                named(&|id, rest| is_user(id) && rest.is_empty()) && decode::<UserRecord>("user", value).is_ok()
            }
            Kind::Blocks => {
                named(&|id, rest| is_user(id) && rest.is_empty())
                    && decode::<Vec<&str>>("block list", value).is_ok_and(is_item_list)
            }
            Kind::Event => {
                named(&|id, rest| is_user(id) && is_event_id(rest))
                    && decode::<EventRecord<'_>>("event", value).is_ok_and(|event| ItemId::new(event.item_id).is_ok())
            }
            Kind::Item => {
                named(&|id, rest| is_item(id) && rest.is_empty()) && decode::<ItemRecord>("item", value).is_ok()
            }
            Kind::ItemCounts => named(&|id, rest| is_item(id) && rest.is_empty()),
            Kind::Delta | Kind::Count | Kind::Fold => {
                parts.slot == key::SHARD_WIDE && counts::is_record(parts.kind, parts.rest, value)
            }
            Kind::UserLineage | Kind::ItemLineage => false,
        }
}
