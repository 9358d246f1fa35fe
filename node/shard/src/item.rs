//! The item shard's state machine: metadata, take-down, counters.

use crate::key::{self, Kind};
use crate::record::{ItemRecord, decode, encode};
use crate::view::{Tx, View};
use crate::{Effects, restore};
use docent_placement::SlotHasher;
use docent_types::command::{ItemCommand, ItemOutcome};
use docent_types::error::Result;
use docent_types::item::{Item, ItemState};
use docent_types::{ItemId, Keyspace, ShardId, Slot, SlotRange, TenantId};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// An item shard. Holds no state: that is in the [`View`].
///
/// **Invariant:** an item with counts has a [`Kind::Item`] record.
#[derive(Clone, Copy, Debug)]
pub struct ItemShard {
    hasher: SlotHasher,
}

/// What one user shard last said about an item.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct CountFrom {
    /// The user shard's group number; the list is sorted by it.
    group: u64,
    /// Its applied index when it counted.
    at: u64,
    count: u64,
}

impl ItemShard {
    /// A shard that finds slots with `hasher`, which is fixed at the cluster's birth.
    pub fn new(hasher: SlotHasher) -> ItemShard {
        ItemShard { hasher }
    }

    /// Applies a command. Errors are the store's and stop the replica; what is refused is an outcome.
    pub fn apply(&self, tx: &mut Tx<'_>, _index: u64, command: ItemCommand) -> Result<(ItemOutcome, Effects)> {
        let is_restore = matches!(command, ItemCommand::Digest | ItemCommand::Restore(_) | ItemCommand::RestoreDone(_));
        if !is_restore && restore::lineage(tx, Keyspace::Items)?.is_some_and(|lineage| !lineage.is_whole) {
            return Ok((ItemOutcome::Restoring, Effects::default()));
        }
        match command {
            ItemCommand::Ensure { tenant, item_ids } => self.ensure(tx, tenant, item_ids),
            ItemCommand::Put { tenant, items } => self.put(tx, tenant, items),
            ItemCommand::SetTakenDown { tenant, item_id, is_taken_down } => {
                self.set_taken_down(tx, tenant, item_id, is_taken_down)
            }
            ItemCommand::Delete { tenant, item_id } => self.delete(tx, tenant, item_id),
            ItemCommand::Counts { tenant, from, at, counts } => self.counts(tx, tenant, from, at, counts),
            ItemCommand::Digest => Ok((ItemOutcome::Done, Effects::default())),
            ItemCommand::Restore(part) => {
                let outcome = restore::part(tx, Keyspace::Items, self.hasher, &part)?;
                Ok((ItemOutcome::Restore(outcome), Effects::default()))
            }
            ItemCommand::RestoreDone(end) => {
                let outcome = restore::done(tx, Keyspace::Items, &end)?;
                Ok((ItemOutcome::Restore(outcome), Effects::restored(outcome)))
            }
        }
    }

    /// An item as it is; `None` where there is none.
    pub fn item(&self, view: &dyn View, tenant: &TenantId, item_id: &ItemId) -> Result<Option<ItemState>> {
        let Some(record) = self.record(view, tenant, item_id)? else { return Ok(None) };
        let events = total(&self.counts_from(view, tenant, item_id)?);
        Ok(Some(ItemState { item: record.item, is_taken_down: record.is_taken_down, events }))
    }

    fn ensure(&self, tx: &mut Tx<'_>, tenant: TenantId, item_ids: Vec<ItemId>) -> Result<(ItemOutcome, Effects)> {
        let mut effects = Effects::of(tenant);
        for item_id in item_ids {
            let item = Item::stub(item_id);
            let key = self.key(&effects.tenant, Kind::Item, &item.item_id);
            let record = ItemRecord { is_taken_down: false, item };
            if tx.put_new(key, true, || encode(&record))? {
                effects.items_upserted.push(ItemState { item: record.item, is_taken_down: false, events: 0 });
            }
        }
        Ok((ItemOutcome::Done, effects))
    }

    fn put(&self, tx: &mut Tx<'_>, tenant: TenantId, items: Vec<Item>) -> Result<(ItemOutcome, Effects)> {
        let mut effects = Effects::of(tenant);
        for item in items {
            let tenant = &effects.tenant;
            let before = self.record(tx, tenant, &item.item_id)?;
            let is_taken_down = before.as_ref().is_some_and(|record| record.is_taken_down);
            let events = match before {
                Some(_) => total(&self.counts_from(tx, tenant, &item.item_id)?),
                None => 0,
            };
            let record = ItemRecord { is_taken_down, item };
            tx.put(self.key(tenant, Kind::Item, &record.item.item_id), encode(&record));
            effects.items_upserted.push(ItemState { item: record.item, is_taken_down, events });
        }
        Ok((ItemOutcome::Done, effects))
    }

    fn set_taken_down(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        item_id: ItemId,
        is_taken_down: bool,
    ) -> Result<(ItemOutcome, Effects)> {
        let mut effects = Effects::of(tenant);
        let Some(mut record) = self.record(tx, &effects.tenant, &item_id)? else {
            return Ok((ItemOutcome::NotFound, effects));
        };
        if record.is_taken_down != is_taken_down {
            record.is_taken_down = is_taken_down;
            tx.put(self.key(&effects.tenant, Kind::Item, &item_id), encode(&record));
            match is_taken_down {
                true => effects.items_taken_down.push(item_id),
                false => effects.items_restored.push(item_id),
            }
        }
        Ok((ItemOutcome::Done, effects))
    }

    fn delete(&self, tx: &mut Tx<'_>, tenant: TenantId, item_id: ItemId) -> Result<(ItemOutcome, Effects)> {
        let mut effects = Effects::of(tenant);
        let key = self.key(&effects.tenant, Kind::Item, &item_id);
        if !tx.contains(&key)? {
            return Ok((ItemOutcome::NotFound, effects));
        }
        tx.delete(key);
        tx.delete(self.key(&effects.tenant, Kind::ItemCounts, &item_id));
        effects.items_deleted.push(item_id);
        Ok((ItemOutcome::Done, effects))
    }

    /// Keeps the newest count of each user shard. Counts of an item that is not there are dropped: it was deleted.
    fn counts(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        from: ShardId,
        at: u64,
        counts: Vec<(ItemId, u64)>,
    ) -> Result<(ItemOutcome, Effects)> {
        let mut effects = Effects::of(tenant);
        let group = from.group();
        for (item_id, count) in counts {
            let mut known = self.counts_from(tx, &effects.tenant, &item_id)?;
            // Counts imply the item, so that a known one needs no second read.
            if known.is_empty() && !tx.contains(&self.key(&effects.tenant, Kind::Item, &item_id))? {
                continue;
            }
            let before = total(&known);
            let new = CountFrom { group, at, count };
            match known.binary_search_by_key(&group, |from| from.group) {
                Ok(i) if known[i].at >= at => continue,
                Ok(i) => known[i] = new,
                Err(i) => known.insert(i, new),
            }
            tx.put(self.key(&effects.tenant, Kind::ItemCounts, &item_id), encode(&known));
            let after = total(&known);
            if after != before {
                effects.counts_changed.push((item_id, after));
            }
        }
        Ok((ItemOutcome::Done, effects))
    }

    fn key(&self, tenant: &TenantId, kind: Kind, item_id: &ItemId) -> Vec<u8> {
        key::item(self.hasher.slot(tenant, item_id.as_str()), tenant, kind, item_id)
    }

    fn record(&self, view: &dyn View, tenant: &TenantId, item_id: &ItemId) -> Result<Option<ItemRecord>> {
        view.get(&self.key(tenant, Kind::Item, item_id))?.map(|bytes| decode("item", &bytes)).transpose()
    }

    fn counts_from(&self, view: &dyn View, tenant: &TenantId, item_id: &ItemId) -> Result<Vec<CountFrom>> {
        match view.get(&self.key(tenant, Kind::ItemCounts, item_id))? {
            Some(bytes) => decode("item count", &bytes),
            None => Ok(Vec::new()),
        }
    }
}

fn total(counts: &[CountFrom]) -> u64 {
    counts.iter().fold(0, |sum, from| sum.saturating_add(from.count))
}

/// Visits the items of `slots` by (slot, id bytes). A node fills its popularity list and its index from this once, and follows
/// the [`Effects`] from then on.
pub fn items(
    view: &dyn View,
    tenant: &TenantId,
    slots: SlotRange,
    visit: &mut dyn FnMut(ItemState) -> Result<ControlFlow<()>>,
) -> Result<()> {
    // The items of the slot that is read: their counts come after all of them, both sorted by id.
    let (mut slot, mut read) = (Slot(slots.first), Vec::<ItemState>::new());
    let mut finish = |read: &mut Vec<ItemState>| -> Result<ControlFlow<()>> {
        for state in read.drain(..) {
            if visit(state)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    };
    let mut is_over = false;
    let (from, to) = key::of_slots(Keyspace::Items, slots);
    // One scan for all slots, because a scan's beginning costs as much as some hundred records.
    view.scan(&from, Some(&to), &mut |key, value| {
        let Some(parts) = key::parts(key).filter(|parts| parts.tenant == tenant.as_str()) else {
            return Ok(ControlFlow::Continue(()));
        };
        if parts.slot != slot {
            slot = parts.slot;
            is_over = finish(&mut read)?.is_break();
        }
        match parts.kind {
            Kind::Item => {
                let ItemRecord { item, is_taken_down } = decode("item", value)?;
                read.push(ItemState { item, is_taken_down, events: 0 });
            }
            Kind::ItemCounts => {
                let (item_id, _) = key::split_id(parts.rest)?;
                if let Ok(at) = read.binary_search_by(|state| state.item.item_id.as_str().cmp(&item_id)) {
                    read[at].events = total(&decode::<Vec<CountFrom>>("item count", value)?);
                }
            }
            _ => {}
        }
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if !is_over {
        let _ = finish(&mut read)?;
    }
    Ok(())
}

/// What a popularity list starts from: every item of `slots` with whether it may be shown and its count.
pub fn popularity(view: &dyn View, tenant: &TenantId, slots: SlotRange) -> Result<Vec<(ItemId, bool, u64)>> {
    let mut found = Vec::new();
    items(view, tenant, slots, &mut |state| {
        found.push((state.item.item_id, !state.is_taken_down, state.events));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
