//! Pure: how an owner learns which users touched its items, as bytes and back.
//!
//! A user host writes, per item virtual worker, its touched items with the numbers of the rows that touched them. From that alone
//! both sides derive the same lists: which item rows the host needs and which user rows the owner needs, so no step of
//! the training sends a key again.
use crate::{
    Error, ID_BYTES_MAX, SLOTS_OF_VWORKER,
    load::{ItemKey, UserSide},
    plan::Hosts,
    wire::Reader,
};
use bytes::Bytes;
use docent_model::{Adjacency, parallel};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// Writes the touched items of item virtual worker `vworker`: the host's virtual workers and their sizes, then per item
/// slot, id and its (row, confidence) pairs.
pub(crate) fn encode(side: &UserSide, vworker: u16) -> Vec<u8> {
    let touched = side.touched_of(vworker);
    let size = |at: usize| 8 + side.touched[at].1.len() + side.by_item.row(at).0.len() * 8;
    let mut bytes = Vec::with_capacity(2 + side.vworkers.len() * 6 + touched.clone().map(size).sum::<usize>());
    bytes.extend((side.vworkers.len() as u16).to_le_bytes());
    for (vworker, rows) in &side.vworkers {
        bytes.extend(vworker.to_le_bytes());
        bytes.extend((rows.len() as u32).to_le_bytes());
    }
    for at in touched {
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
struct Touched {
    key: ItemKey,
    /// (user virtual worker, row on the host, confidence), sorted.
    entries: Vec<(u16, u32, f32)>,
}

/// Reads what `node` wrote about item virtual worker `vworker`, checking every bound and order.
fn decode(node: u64, hosts: &Hosts, vworker: u16, bytes: &[u8]) -> Result<Vec<Touched>, Error> {
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
    let mut vworkers = ends.iter().peekable();
    for _ in 0..count {
        let (row, confidence) = (pairs.u32()?, pairs.f32()?);
        // Rows rise, so a virtual worker that is over stays so.
        while vworkers.next_if(|(end, _)| *end <= row).is_some() {}
        let (_, vworker) = **vworkers.peek()?;
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
pub(crate) fn build(
    threads: usize,
    hosts: &Hosts,
    own: &[u16],
    blobs: Vec<(u64, Vec<Bytes>)>,
) -> Result<ItemSide, Error> {
    let nodes: Vec<u64> = blobs.iter().map(|(node, _)| *node).collect();
    let all =
        blobs.into_iter().flat_map(|(node, blobs)| own.iter().zip(blobs).map(move |(own, blob)| (*own, node, blob)));
    let decoded = parallel::map(threads, all.collect(), |(vworker, node, blob): (u16, u64, Bytes)| {
        decode(node, hosts, vworker, &blob)
    });
    let decoded = decoded.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (mut readers, mut panel) = (Vec::new(), BTreeMap::new());
    for (node, lists) in nodes.iter().zip(decoded.chunks(own.len().max(1))) {
        let of_node = Readers::new(panel.values().sum(), lists);
        panel.insert(*node, of_node.count);
        readers.push(of_node);
    }
    // By virtual worker, what each host wrote.
    let mut tasks: Vec<Vec<Vec<Touched>>> = own.iter().map(|_| Vec::new()).collect();
    decoded.into_iter().enumerate().for_each(|(at, list)| tasks[at % own.len()].push(list));
    let mut side = ItemSide {
        vworkers: Vec::new(),
        items: Vec::new(),
        adjacency: Adjacency::new(),
        places: BTreeMap::new(),
        panel,
    };
    let mut places: Vec<Vec<u32>> = vec![Vec::new(); nodes.len()];
    let mut rows = Vec::with_capacity(own.len());
    for (vworker, part) in own.iter().zip(parallel::map(threads, tasks, |lists| Part::new(lists, &readers))) {
        let first = side.items.len();
        for (places, of_part) in places.iter_mut().zip(part.places) {
            places.extend(of_part.into_iter().map(|place| place.map_or(u32::MAX, |place| (first + place) as u32)));
        }
        side.items.extend(part.items);
        rows.push(part.adjacency);
        side.vworkers.push((*vworker, first..side.items.len()));
    }
    side.adjacency = Adjacency::stacked(threads, &rows);
    side.places = nodes.into_iter().zip(places).map(|(node, places)| (node, Arc::new(places))).collect();
    // The largest number stands for no item.
    if side.items.len() >= u32::MAX as usize {
        return Err(Error::Input("this host owns more than 2^32 items".into()));
    }
    Ok(side)
}

/// The items of one virtual worker.
struct Part {
    items: Vec<ItemKey>,
    adjacency: Adjacency,
    /// Per user host, the place in `items` of each item that the host touched; none for one that is not in the model.
    places: Vec<Vec<Option<usize>>>,
}

impl Part {
    /// From the items that each user host touched.
    fn new(lists: Vec<Vec<Touched>>, readers: &[Readers]) -> Self {
        let trained = lists.iter().flatten().filter(|item| !item.entries.is_empty());
        let mut items: Vec<ItemKey> = trained.map(|item| item.key.clone()).collect();
        items.sort_unstable();
        items.dedup();
        let mut entries: Vec<Vec<(u16, u32, f32)>> = vec![Vec::new(); items.len()];
        let mut places = Vec::with_capacity(lists.len());
        for (list, readers) in lists.into_iter().zip(readers) {
            let mut of_host = Vec::with_capacity(list.len());
            for mut item in list {
                let place = items.binary_search(&item.key).ok();
                of_host.push(place);
                item.entries.iter_mut().for_each(|(_, row, _)| *row = readers.column(*row));
                match place.map(|place| &mut entries[place]) {
                    Some(entries) if entries.is_empty() => *entries = item.entries,
                    Some(entries) => entries.extend(item.entries),
                    None => {}
                }
            }
            places.push(of_host);
        }
        let mut adjacency = Adjacency::new();
        for mut entries in entries {
            // A virtual worker is on one host, and its rows' columns rise with the rows: this order is that of
            // (user virtual worker, user), whoever hosts them. What each host sent is in it already, and a stable sort finds that out.
            entries.sort_by_key(|(vworker, column, _)| (*vworker, *column));
            adjacency.push_row(entries.into_iter().map(|(_, column, confidence)| (column, confidence)));
        }
        Self { items, adjacency, places }
    }
}

/// Which rows of a user host touch an item here, and their columns; [`UserSide::readers`] derives the same list on the other side.
struct Readers {
    /// Column of the first one.
    first: usize,
    /// A bit a row.
    rows: Vec<u64>,
    /// How many come before the rows of each word.
    before: Vec<u32>,
    count: usize,
}

impl Readers {
    fn new(first: usize, lists: &[Vec<Touched>]) -> Self {
        let touching = || lists.iter().flatten().flat_map(|item| item.entries.iter().map(|(_, row, _)| *row));
        let words = touching().max().map_or(0, |last| last as usize / 64 + 1);
        let mut rows = vec![0u64; words];
        touching().for_each(|row| rows[row as usize / 64] |= 1 << (row % 64));
        let mut count = 0;
        let mut before = Vec::with_capacity(words);
        for word in &rows {
            before.push(count);
            count += word.count_ones();
        }
        Self { first, rows, before, count: count as usize }
    }

    /// The column of a row that is one of them.
    fn column(&self, row: u32) -> u32 {
        let (word, bit) = (row as usize / 64, row % 64);
        let below = self.rows[word] & ((1 << bit) - 1);
        self.first as u32 + self.before[word] + below.count_ones()
    }
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
