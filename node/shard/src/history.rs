//! Reads of a user shard: users, histories, exports. Pure functions of a [`View`].
//!
//! Histories do not depend on the order of the log: the same distinct events give the same bytes on any cluster. What needs the order (newest first, exports) has it in [`Kept::at`].

use crate::features::Positives;
use crate::key::{self, Kind};
use crate::record::{EventRecord, Sequence, UserRecord, corrupt, decode, stored};
use crate::user::UserShard;
use crate::view::View;
use docent_types::error::Result;
use docent_types::event::Event;
use docent_types::user::{Consent, User};
use docent_types::{EventId, ItemId, Slot, SlotRange, TenantId, UserId};
use std::ops::ControlFlow;

/// A user's positive events with one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Positive {
    /// The item.
    pub item_id: ItemId,
    /// The capped sum of their weights, above 0.
    pub confidence: f32,
    /// When the newest of them happened, milliseconds since 1970.
    pub last_ms: i64,
}

/// What recommendations and fold-in need of a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// What the user allows. The caller obeys it: the rest is here whatever it says.
    pub consent: Consent,
    /// Blocked items, sorted.
    pub blocks: Vec<ItemId>,
    /// Items of all kept events, sorted.
    pub seen: Vec<ItemId>,
    /// Positives, sorted by item.
    pub positives: Vec<Positive>,
}

/// An event and where in the log it was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Rises with the log.
    pub at: Sequence,
    /// The event.
    pub event: Event,
}

/// Where an export goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    slot: u16,
    /// The last key of the page before.
    key: Vec<u8>,
}

/// A page of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPage {
    /// Sorted by slot, user id and event id.
    pub events: Vec<Kept>,
    /// `None` at the end.
    pub next: Option<Cursor>,
}

impl UserShard {
    /// A user as clients see it; `None` where nothing is kept. Counts the events by a scan of the user's history.
    pub fn user(&self, view: &dyn View, tenant: &TenantId, user_id: &UserId) -> Result<Option<User>> {
        let Some(record) = self.user_record(view, tenant, user_id)? else { return Ok(None) };
        let mut events = 0;
        view.scan_prefix(&self.key(tenant, Kind::Event, user_id), &mut |_, _| {
            events += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        let blocks = self.blocks(view, tenant, user_id)?;
        Ok(Some(User {
            user_id: user_id.clone(),
            attributes: record.attributes,
            consent: record.consent,
            blocks,
            events,
        }))
    }

    /// What a query needs of its user; `None` where nothing is kept. One scan of the user's history.
    pub fn history(
        &self,
        view: &dyn View,
        tenant: &TenantId,
        user_id: &UserId,
        settings: &Positives,
    ) -> Result<Option<History>> {
        let Some(record) = self.user_record(view, tenant, user_id)? else { return Ok(None) };
        let mut gathered = Gathered::default();
        view.scan_prefix(&self.key(tenant, Kind::Event, user_id), &mut |_, value| {
            gathered.add(&decode("event", value)?, settings);
            Ok(ControlFlow::Continue(()))
        })?;
        let (seen, positives) = gathered.finish(settings)?;
        Ok(Some(History { consent: record.consent, blocks: self.blocks(view, tenant, user_id)?, seen, positives }))
    }

    /// All kept events of a user, oldest first in the log.
    pub fn user_events(&self, view: &dyn View, tenant: &TenantId, user_id: &UserId) -> Result<Vec<Kept>> {
        let prefix = self.key(tenant, Kind::Event, user_id);
        let mut events = Vec::new();
        view.scan_prefix(&prefix, &mut |key, value| {
            events.push(kept(user_id.clone(), &key[prefix.len()..], value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        events.sort_by_key(|event| event.at);
        Ok(events)
    }

    /// Whether any event of the user is kept.
    pub fn has_events(&self, view: &dyn View, tenant: &TenantId, user_id: &UserId) -> Result<bool> {
        let mut has_events = false;
        view.scan_prefix(&self.key(tenant, Kind::Event, user_id), &mut |_, _| {
            has_events = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(has_events)
    }

    fn user_record(&self, view: &dyn View, tenant: &TenantId, user_id: &UserId) -> Result<Option<UserRecord>> {
        view.get(&self.key(tenant, Kind::User, user_id))?.map(|bytes| decode("user", &bytes)).transpose()
    }

    fn blocks(&self, view: &dyn View, tenant: &TenantId, user_id: &UserId) -> Result<Vec<ItemId>> {
        match view.get(&self.key(tenant, Kind::Blocks, user_id))? {
            None => Ok(Vec::new()),
            Some(bytes) => {
                decode::<Vec<&str>>("block list", &bytes)?.into_iter().map(|id| stored(ItemId::new(id))).collect()
            }
        }
    }
}

/// Visits the known users of `slots` by (slot, id bytes), with their consent.
pub fn users(
    view: &dyn View,
    tenant: &TenantId,
    slots: SlotRange,
    visit: &mut dyn FnMut(UserId, Consent) -> Result<ControlFlow<()>>,
) -> Result<()> {
    for slot in slots.first..slots.end {
        let prefix = key::prefix(Slot(slot), tenant, Kind::User);
        let mut is_over = false;
        view.scan_prefix(&prefix, &mut |key, value| {
            let (user_id, _) = key::split_id(&key[prefix.len()..])?;
            let flow = visit(stored(UserId::new(user_id))?, decode::<UserRecord>("user", value)?.consent)?;
            is_over = flow.is_break();
            Ok(flow)
        })?;
        if is_over {
            break;
        }
    }
    Ok(())
}

/// A page of the kept events of `slots` that come after `after`: at least one where there is one, then up to about `bytes_max`
/// stored bytes.
pub fn events(
    view: &dyn View,
    tenant: &TenantId,
    slots: SlotRange,
    after: Option<&Cursor>,
    bytes_max: usize,
) -> Result<EventPage> {
    let mut page = EventPage { events: Vec::new(), next: None };
    let mut bytes = 0;
    let first = after.map_or(slots.first, |cursor| cursor.slot.max(slots.first));
    for slot in first..slots.end {
        let prefix = key::prefix(Slot(slot), tenant, Kind::Event);
        // The least key above the cursor's is that key and a zero byte.
        let from = match after {
            Some(cursor) if cursor.slot == slot => [&cursor.key[..], &[0]].concat(),
            _ => prefix.clone(),
        };
        let mut last = Vec::new();
        view.scan(&from, key::successor(&prefix).as_deref(), &mut |key, value| {
            let (user, event_id) = key::split_id(&key[prefix.len()..])?;
            page.events.push(kept(stored(UserId::new(user))?, event_id, value)?);
            bytes += key.len() + value.len();
            if bytes < bytes_max {
                return Ok(ControlFlow::Continue(()));
            }
            last = key.to_vec();
            Ok(ControlFlow::Break(()))
        })?;
        if !last.is_empty() {
            page.next = Some(Cursor { slot, key: last });
            break;
        }
    }
    Ok(page)
}

fn kept(user_id: UserId, event_id: &[u8], value: &[u8]) -> Result<Kept> {
    let event_id = std::str::from_utf8(event_id).map_err(|_| corrupt("a stored event id is not UTF-8"))?;
    let record: EventRecord<'_> = decode("event", value)?;
    Ok(Kept { at: record.at, event: record.into_event(user_id, stored(EventId::new(event_id))?)? })
}

/// Events of one user on their way to positives: ids side by side in one buffer, because most of them repeat.
#[derive(Default)]
struct Gathered {
    text: String,
    rows: Vec<Row>,
}

struct Row {
    item: std::ops::Range<usize>,
    weight: f32,
    timestamp_ms: i64,
}

impl Gathered {
    fn add(&mut self, event: &EventRecord<'_>, settings: &Positives) {
        let weight = settings.weight(event.event_type, event.value);
        let start = self.text.len();
        self.text.push_str(event.item_id);
        self.rows.push(Row { item: start..self.text.len(), weight, timestamp_ms: event.timestamp_ms });
    }

    /// Items of all events and positives, both sorted by item.
    ///
    /// Rows come by event id and the sort is stable: the sum's order is the same whatever the log's.
    fn finish(self, settings: &Positives) -> Result<(Vec<ItemId>, Vec<Positive>)> {
        let Gathered { text, mut rows } = self;
        let item = |row: &Row| &text[row.item.clone()];
        rows.sort_by(|a, b| item(a).cmp(item(b)));
        let mut seen = Vec::new();
        let mut positives = Vec::new();
        for rows in rows.chunk_by(|a, b| item(a) == item(b)) {
            let item_id = stored(ItemId::new(item(&rows[0])))?;
            let counting = rows.iter().filter(|row| row.weight > 0.0).map(|row| (row.weight, row.timestamp_ms));
            if let Some((confidence, last_ms)) = settings.sum(counting) {
                positives.push(Positive { item_id: item_id.clone(), confidence, last_ms });
            }
            seen.push(item_id);
        }
        Ok((seen, positives))
    }
}
