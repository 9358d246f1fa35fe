//! What a step of a user host reads: which items its histories have, and their rows and the negatives from their owners.
use super::{order::Order, session::Session, softmax::Batches, users::Users};
use crate::{
    Error,
    message::{At, Blob, Source},
    plan::Hosts,
    wire,
};
use bytes::Bytes;
use docent_model::Adjacency;
use futures::future::{try_join, try_join_all};
use std::collections::BTreeMap;

/// Negatives of an owner: places on it with weights, and behind them on the wire their rows, packed.
pub(super) type Drawn = Vec<(u32, f32)>;

/// The histories of a step's users.
pub(super) struct Cut {
    /// By own virtual worker; items by the numbers of all items.
    histories: Vec<Adjacency>,
    /// By owner: places of the items in them, ascending.
    wanted: BTreeMap<u64, Vec<u32>>,
}

impl Cut {
    pub(super) fn new(
        users: &Users,
        places: &[u32],
        batches: &Batches,
        step: u32,
        owners: &Owners,
    ) -> Result<Self, Error> {
        let (mut histories, mut items) = (Vec::with_capacity(users.side.vworkers.len()), Vec::new());
        for (at, (_, range)) in users.side.vworkers.iter().enumerate() {
            let own = batches.get(at).and_then(|steps| steps.get(step as usize)).map_or(&[][..], Vec::as_slice);
            let mut rows = Adjacency::new();
            for user in own {
                let (columns, confidences) = users.side.adjacency.row(range.start + *user as usize);
                let numbers = columns.iter().map(|item| places[*item as usize]);
                items.extend(numbers.clone());
                rows.push_row(numbers.zip(confidences.iter().copied()));
            }
            histories.push(rows);
        }
        items.sort_unstable();
        items.dedup();
        let mut wanted: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for item in items {
            let (node, place) =
                owners.place(item).ok_or_else(|| Error::Internal(format!("item {item} has no owner")))?;
            wanted.entry(node).or_default().push(place);
        }
        Ok(Self { histories, wanted })
    }

    /// The histories with the numbers of the step's own items.
    pub(super) fn numbered(&self, numbers: &Numbers) -> Vec<Adjacency> {
        let numbered = |histories: &Adjacency| {
            let mut rows = Adjacency::new();
            for user in 0..histories.rows() {
                let (items, confidences) = histories.row(user);
                rows.push_row(items.iter().map(|item| numbers.of(*item)).zip(confidences.iter().copied()));
            }
            rows
        };
        self.histories.iter().map(numbered).collect()
    }
}

/// How a step counts its items, by the numbers of all items. Room that is used again: it is as large as the catalogue.
#[derive(Default)]
pub(super) struct Numbers(Vec<u32>);

impl Numbers {
    const NONE: u32 = u32::MAX;

    /// Counts `items`, which ascend.
    fn counting(mut self, items: &[u32]) -> Self {
        let least = items.last().map_or(0, |last| *last as usize + 1);
        self.0.resize(self.0.len().max(least), Self::NONE);
        (0..).zip(items).for_each(|(number, item)| self.0[*item as usize] = number);
        self
    }

    fn of(&self, item: u32) -> u32 {
        self.0.get(item as usize).copied().unwrap_or(Self::NONE)
    }

    /// Counts none of `items` any more.
    pub(super) fn cleared(mut self, items: &[u32]) -> Self {
        items.iter().for_each(|item| self.0[*item as usize] = Self::NONE);
        self
    }
}

/// Rows as they came from their owners, packed.
pub(super) struct Pulled {
    /// Owner, places and their rows, piece by piece.
    rows: Vec<(u64, Vec<u32>, Vec<Bytes>)>,
    drawn: Vec<(u64, Drawn, Bytes)>,
}

/// The rows that a step reads.
pub(super) struct Table {
    /// Numbers of all items, ascending, and their rows.
    pub(super) items: Vec<u32>,
    pub(super) rows: Vec<f32>,
    /// Places in `items`, ascending, with their weights.
    pub(super) negatives: Vec<(u32, f32)>,
}

impl Pulled {
    pub(super) fn table(&self, owners: &Owners, dim: usize, numbers: Numbers) -> Result<(Table, Numbers), Error> {
        let mut entries: Vec<(u32, &[u8])> = Vec::new();
        let mut drawn: Vec<(u32, f32)> = Vec::new();
        for (node, places, rows) in &self.rows {
            let of_owner = owners.numbers(*node);
            let numbers = places.iter().map(|place| of_owner.get(*place as usize).copied());
            let numbers = numbers.collect::<Option<Vec<_>>>().ok_or_else(|| Error::Internal("no such place".into()))?;
            entries.extend(numbers.into_iter().zip(rows.iter().flat_map(|piece| piece.chunks_exact(dim * 4))));
        }
        for (node, items, rows) in &self.drawn {
            let of_owner = owners.numbers(*node);
            for ((place, weight), row) in items.iter().zip(rows.chunks_exact(dim * 4)) {
                let number = of_owner.get(*place as usize);
                let number = *number.ok_or_else(|| Error::Malformed { node: *node, reason: "negatives".into() })?;
                entries.push((number, row));
                drawn.push((number, *weight));
            }
        }
        // An item that is a negative, too, has its row twice.
        entries.sort_unstable_by_key(|(item, _)| *item);
        entries.dedup_by_key(|(item, _)| *item);
        let mut rows = vec![0.0; entries.len() * dim];
        for (row, (_, packed)) in rows.chunks_exact_mut(dim).zip(&entries) {
            wire::read_floats(packed, row);
        }
        let items: Vec<u32> = entries.into_iter().map(|(item, _)| item).collect();
        let numbers = numbers.counting(&items);
        drawn.iter_mut().for_each(|(item, _)| *item = numbers.of(*item));
        drawn.sort_unstable_by_key(|(item, _)| *item);
        Ok((Table { items, rows, negatives: drawn }, numbers))
    }
}

impl Session {
    /// The rows of a step's histories and of its negatives, from their owners.
    pub(super) async fn read(&self, at: At, cut: &Cut, dim: usize) -> Result<Pulled, Error> {
        let rows = try_join_all(cut.wanted.iter().map(|(node, places)| async move {
            let rows = self.rows_from(*node, at, places, dim * 4).await?;
            if rows.iter().map(Bytes::len).sum::<usize>() != places.len() * dim * 4 {
                return Err(Error::Malformed { node: *node, reason: "item rows of another number".into() });
            }
            Ok((*node, places.clone(), rows))
        }));
        let (rows, blobs) = try_join(rows, self.pull_from_owners(Blob::Negatives { at })).await?;
        let drawn = blobs.into_iter().map(|(node, blob)| {
            let drawn: Option<(Drawn, Bytes)> = wire::beheaded(&blob);
            let drawn = drawn.filter(|(items, rows)| rows.len() == items.len() * dim * 4);
            let (items, rows) = drawn.ok_or_else(|| Error::Malformed { node, reason: "negatives".into() })?;
            Ok((node, items, rows))
        });
        Ok(Pulled { rows, drawn: drawn.collect::<Result<_, Error>>()? })
    }

    /// Rows by their places on an owner, in pieces of whole ones; of this host's own without the network.
    async fn rows_from(&self, node: u64, at: At, places: &[u32], row_bytes: usize) -> Result<Vec<Bytes>, Error> {
        if node == self.context.options.node {
            return Ok(vec![self.rows_at(at, places.to_vec())?.whole()?]);
        }
        let mut pieces = Vec::new();
        let take = |_: u64, _: u64, piece: Bytes| {
            pieces.push(piece);
            Ok(())
        };
        self.read_each(node, row_bytes, Source::Rows { key: self.open.key, at, places: places.to_vec() }, take).await?;
        Ok(pieces)
    }
}

/// Who owns which item, and how it counts them.
pub(in crate::worker) struct Owners {
    order: Order,
    hosts: Hosts,
    /// By virtual worker: its first item's place on its owner.
    firsts: Vec<u32>,
    /// By owner: the numbers of its items, ascending.
    numbers: BTreeMap<u64, Vec<u32>>,
}

impl Owners {
    pub(super) fn new(order: &Order, hosts: &Hosts) -> Self {
        let numbers = hosts.item_nodes().into_iter().map(|node| (node, order.of_owner(hosts, node))).collect();
        let mut next: BTreeMap<u64, u32> = BTreeMap::new();
        let first = |(vworker, node): (u16, &u64)| {
            let next = next.entry(*node).or_default();
            std::mem::replace(next, *next + order.of_vworker(vworker).len() as u32)
        };
        let firsts = (0..).zip(&hosts.items).map(first).collect();
        Self { order: order.clone(), hosts: hosts.clone(), firsts, numbers }
    }

    /// Number of all items.
    pub(super) fn items(&self) -> usize {
        self.order.total()
    }

    /// The owner of an item and its place there.
    pub(super) fn place(&self, item: u32) -> Option<(u64, u32)> {
        let vworker = self.order.vworker_of(item)?;
        let (node, first) = (self.hosts.items.get(usize::from(vworker))?, self.firsts.get(usize::from(vworker))?);
        Some((*node, first + (item - self.order.of_vworker(vworker).start as u32)))
    }

    /// By place on it: the numbers of an owner's items.
    fn numbers(&self, node: u64) -> &[u32] {
        self.numbers.get(&node).map_or(&[], Vec::as_slice)
    }
}
