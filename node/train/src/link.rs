//! Pure: how an owner learns which users touched its items, as bytes and back.
//!
//! A user host writes, per item virtual worker, its touched items with the numbers of the rows that touched them. From that alone
//! both sides derive the same lists: which item rows the host needs and which user rows the owner needs, so no step of
//! the training sends a key again.
use crate::{
    Error, ID_BYTES_MAX, SLOTS_OF_VWORKER,
    load::{ItemKey, UserSide},
    page::Reader,
    plan::Hosts,
};
use docent_model::Adjacency;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// Writes the touched items of item virtual worker `vworker`: the host's virtual workers and their sizes, then per item
/// slot, id and its (row, confidence) pairs.
pub(crate) fn encode(side: &UserSide, vworker: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((side.vworkers.len() as u16).to_le_bytes());
    for (vworker, rows) in &side.vworkers {
        bytes.extend(vworker.to_le_bytes());
        bytes.extend((rows.len() as u32).to_le_bytes());
    }
    for at in side.touched_of(vworker) {
        let (slot, id) = &side.touched[at];
        let (rows, confidences) = side.by_item.row(at);
        bytes.extend(slot.to_le_bytes());
        bytes.extend((id.len() as u16).to_le_bytes());
        bytes.extend(id.as_bytes());
        bytes.extend((rows.len() as u32).to_le_bytes());
        for (row, confidence) in rows.iter().zip(confidences) {
            bytes.extend(row.to_le_bytes());
            bytes.extend(confidence.to_le_bytes());
        }
    }
    bytes
}

/// A touched item as a user host wrote it.
pub(crate) struct Touched {
    key: ItemKey,
    /// (user virtual worker, row on the host, confidence), sorted.
    entries: Vec<(u16, u32, f32)>,
}

/// Reads what `node` wrote about item virtual worker `vworker`, checking every bound and order.
pub(crate) fn decode(node: u64, hosts: &Hosts, vworker: u16, bytes: &[u8]) -> Result<Vec<Touched>, Error> {
    let malformed = || Error::Malformed { node, reason: "touched items".to_owned() };
    let mut reader = Reader(bytes);
    let mut ends: Vec<(u32, u16)> = Vec::new();
    for own in Hosts::vworkers_of(&hosts.users, node) {
        let before = ends.last().map_or(0, |(end, _)| *end);
        if ends.is_empty() && reader.u16() != Some(Hosts::vworkers_of(&hosts.users, node).len() as u16) {
            return Err(malformed());
        }
        if reader.u16() != Some(own) {
            return Err(malformed());
        }
        ends.push((reader.u32().and_then(|rows| before.checked_add(rows)).ok_or_else(malformed)?, own));
    }
    let mut items: Vec<Touched> = Vec::new();
    while !reader.0.is_empty() {
        let item = item(&mut reader, &ends).ok_or_else(malformed)?;
        if item.key.0 / SLOTS_OF_VWORKER != vworker || items.last().is_some_and(|last| last.key >= item.key) {
            return Err(malformed());
        }
        items.push(item);
    }
    Ok(items)
}

fn item(reader: &mut Reader<'_>, ends: &[(u32, u16)]) -> Option<Touched> {
    let slot = reader.u16()?;
    let len = usize::from(reader.u16()?);
    let id = std::str::from_utf8(reader.take(len)?).ok().filter(|id| (1..=ID_BYTES_MAX).contains(&id.len()))?;
    let count = reader.u32()? as usize;
    let mut pairs = Reader(reader.take(count.checked_mul(8)?)?);
    let mut entries: Vec<(u16, u32, f32)> = Vec::with_capacity(count);
    for _ in 0..count {
        let (row, confidence) = (pairs.u32()?, pairs.f32()?);
        let (_, vworker) = *ends.get(ends.partition_point(|(end, _)| *end <= row))?;
        let is_sorted = entries.last().is_none_or(|(_, last, _)| *last < row);
        if !(is_sorted && confidence.is_finite() && confidence > 0.0) {
            return None;
        }
        entries.push((vworker, row, confidence));
    }
    Some(Touched { key: (slot, Arc::from(id)), entries })
}

/// An owner's items.
pub(crate) struct ItemSide {
    /// (virtual worker, its rows).
    pub(crate) vworkers: Vec<(u16, Range<usize>)>,
    /// Keys of the rows.
    pub(crate) items: Vec<ItemKey>,
    /// Rows: items; columns: places in the panel of user rows that this owner pulls.
    pub(crate) adjacency: Adjacency,
    /// Per user host, the number of its rows that this owner needs; the panel holds them host after host.
    pub(crate) panel: BTreeMap<u64, usize>,
    /// Per user host, this owner's row for each item that the host touched (`u32::MAX`: not in the model).
    pub(crate) places: BTreeMap<u64, Arc<Vec<u32>>>,
}

/// Builds the owner's side from what each user host wrote, per own virtual worker in order.
pub(crate) fn build(own: &[u16], mut touched: BTreeMap<u64, Vec<Vec<Touched>>>) -> Result<ItemSide, Error> {
    let (panel, ranks) = number_readers(&touched);
    let mut side = ItemSide {
        vworkers: Vec::new(),
        items: Vec::new(),
        adjacency: Adjacency::new(),
        places: BTreeMap::new(),
        panel,
    };
    let mut places: BTreeMap<u64, Vec<u32>> = side.panel.keys().map(|node| (*node, Vec::new())).collect();
    for (at, vworker) in own.iter().enumerate() {
        let first = side.items.len();
        let mut keys: Vec<ItemKey> = touched
            .values()
            .flat_map(|lists| lists[at].iter().filter(|item| !item.entries.is_empty()).map(|item| item.key.clone()))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut entries: Vec<Vec<(u16, u32, f32)>> = vec![Vec::new(); keys.len()];
        for (node, lists) in &mut touched {
            let places = places.entry(*node).or_default();
            for item in std::mem::take(&mut lists[at]) {
                let Ok(place) = keys.binary_search(&item.key) else {
                    places.push(u32::MAX);
                    continue;
                };
                places.push((first + place) as u32);
                let column = |row: u32| {
                    let (start, rows) = &ranks[node];
                    (*start + rows.partition_point(|other| *other < row)) as u32
                };
                entries[place].extend(item.entries.iter().map(|(vworker, row, c)| (*vworker, column(*row), *c)));
            }
        }
        for mut entries in entries {
            // A virtual worker is on one host, and its rows' columns rise with the rows: this order is that of
            // (user virtual worker, user), whoever hosts them.
            entries.sort_unstable_by_key(|(vworker, column, _)| (*vworker, *column));
            side.adjacency.push_row(entries.into_iter().map(|(_, column, confidence)| (column, confidence)));
        }
        side.items.extend(keys);
        side.vworkers.push((*vworker, first..side.items.len()));
    }
    side.places = places.into_iter().map(|(node, places)| (node, Arc::new(places))).collect();
    // The largest number stands for no item.
    if side.items.len() >= u32::MAX as usize {
        return Err(Error::Input("this host owns more than 2^32 items".into()));
    }
    Ok(side)
}

/// First place in the panel and sorted rows, per host.
type Ranks = BTreeMap<u64, (usize, Vec<u32>)>;

/// Per user host, which of its rows touch an item here; [`UserSide::readers`] derives the same list on the other side.
fn number_readers(touched: &BTreeMap<u64, Vec<Vec<Touched>>>) -> (BTreeMap<u64, usize>, Ranks) {
    let (mut panel, mut ranks) = (BTreeMap::new(), BTreeMap::new());
    let mut start = 0;
    for (node, lists) in touched {
        let entries = lists.iter().flatten().flat_map(|item| item.entries.iter().map(|(_, row, _)| *row));
        let mut rows: Vec<u32> = entries.collect();
        rows.sort_unstable();
        rows.dedup();
        panel.insert(*node, rows.len());
        let count = rows.len();
        ranks.insert(*node, (start, rows));
        start += count;
    }
    (panel, ranks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(1, &Hosts::single(1), 0, &bytes);
            let mut hosts = Hosts::single(2);
            hosts.users[3] = 1;
            let mut framed = vec![1, 0, 3, 0, 9, 0, 0, 0];
            framed.extend(bytes);
            let _ = decode(1, &hosts, 0, &framed);
        }
    }
}
