//! Training input of a user shard: who allows it, and with what positives. Pure functions of a [`View`].
//!
//! It does not depend on the order of the log: the same distinct events give the same input on any cluster. One scan reads a range of slots,
//! because a scan's beginning costs as much as some hundred records.

use crate::features::Positives;
use crate::key::{self, Kind};
use crate::record::{EventRecord, UserRecord, decode, stored};
use crate::view::View;
use docent_types::error::Result;
use docent_types::{Keyspace, Slot, SlotRange, TenantId, UserId};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A user's positive events with one item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The number that the reader gave to the item.
    pub item: u32,
    /// The capped sum of their weights, above 0.
    pub confidence: f32,
    /// When the newest of them happened, milliseconds since 1970.
    pub last_ms: i64,
}

/// One user's training input.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingUser {
    /// The user's slot.
    pub slot: Slot,
    /// Who.
    pub user_id: UserId,
    /// One for each item, sorted by number; not empty.
    pub positives: Vec<Pair>,
}

/// Visits the training input of `slots`: users who allow training and have positives, by (slot, id bytes). `number` gives an item's number,
/// the same one each time; asked for items of positives alone.
pub fn training_users(
    view: &dyn View,
    tenant: &TenantId,
    slots: SlotRange,
    settings: &Positives,
    number: &mut dyn FnMut(&str) -> Result<u32>,
    visit: &mut dyn FnMut(TrainingUser) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut current = Current { slot: Slot(slots.first), key: Vec::new(), is_refusing: false, rows: Vec::new() };
    // Users without consent are few: their ids are kept rather than everybody's, those of one slot at a time.
    let (mut refusing, mut refusing_of) = (BTreeSet::new(), Slot(slots.first));
    let mut is_over = false;
    let (from, to) = key::of_slots(Keyspace::Users, slots);
    view.scan(&from, Some(&to), &mut |key, value| {
        let Some(parts) = key::parts(key).filter(|parts| parts.tenant == tenant.as_str()) else {
            return Ok(ControlFlow::Continue(()));
        };
        match parts.kind {
            // In each slot all users come before the first event.
            Kind::User => {
                if refusing_of != parts.slot {
                    refusing.clear();
                    refusing_of = parts.slot;
                }
                if !decode::<UserRecord>("user", value)?.consent.train {
                    refusing.insert(parts.rest.to_vec());
                }
            }
            Kind::Event => {
                if !current.is_of(&parts) {
                    is_over = current.finish(settings, visit)?.is_break();
                    current.begin(&parts, &refusing)?;
                }
                if !current.is_refusing {
                    current.add(&decode("event", value)?, settings, number)?;
                }
            }
            _ => {}
        }
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if !is_over {
        let _ = current.finish(settings, visit)?;
    }
    Ok(())
}

/// The user whose events are read, and the positive ones so far.
struct Current {
    slot: Slot,
    /// The id as keys have it, with its end mark: no other's begins with it. Empty before the first user.
    key: Vec<u8>,
    is_refusing: bool,
    rows: Vec<Row>,
}

struct Row {
    item: u32,
    weight: f32,
    timestamp_ms: i64,
}

impl Current {
    fn is_of(&self, parts: &key::Parts<'_>) -> bool {
        !self.key.is_empty() && self.slot == parts.slot && parts.rest.starts_with(&self.key)
    }

    fn begin(&mut self, parts: &key::Parts<'_>, refusing: &BTreeSet<Vec<u8>>) -> Result<()> {
        let (_, event_id) = key::split_id(parts.rest)?;
        self.slot = parts.slot;
        self.key.clear();
        self.key.extend_from_slice(&parts.rest[..parts.rest.len() - event_id.len()]);
        self.is_refusing = refusing.contains(&self.key);
        Ok(())
    }

    fn add(
        &mut self,
        event: &EventRecord<'_>,
        settings: &Positives,
        number: &mut dyn FnMut(&str) -> Result<u32>,
    ) -> Result<()> {
        let weight = settings.weight(event.event_type, event.value);
        if weight > 0.0 {
            self.rows.push(Row { item: number(event.item_id)?, weight, timestamp_ms: event.timestamp_ms });
        }
        Ok(())
    }

    /// Visits the user, if there are positives.
    ///
    /// Rows come by event id and the sort is stable: the sum's order is the same whatever the log's.
    fn finish(
        &mut self,
        settings: &Positives,
        visit: &mut dyn FnMut(TrainingUser) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        if self.rows.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        self.rows.sort_by_key(|row| row.item);
        let mut positives = Vec::with_capacity(self.rows.len());
        for rows in self.rows.chunk_by(|a, b| a.item == b.item) {
            if let Some((confidence, last_ms)) = settings.sum(rows.iter().map(|row| (row.weight, row.timestamp_ms))) {
                positives.push(Pair { item: rows[0].item, confidence, last_ms });
            }
        }
        self.rows.clear();
        let (user, _) = key::split_id(&self.key)?;
        visit(TrainingUser { slot: self.slot, user_id: stored(UserId::new(user))?, positives })
    }
}
