//! The order of all items, (slot, id): virtual worker by virtual worker, and so the numbers that stand for items between hosts.
use crate::{Error, VWORKERS, plan::Hosts};
use std::ops::Range;

/// How many items each virtual worker has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Order {
    /// Where each virtual worker's items begin, and the number of all.
    starts: Vec<usize>,
}

impl Order {
    /// From the items of each virtual worker.
    pub(super) fn new(items: &[u32]) -> Result<Self, Error> {
        if items.len() != usize::from(VWORKERS) {
            return Err(Error::Invalid(format!("the order of items needs those of {VWORKERS} virtual workers")));
        }
        let mut starts = vec![0usize];
        for count in items {
            starts.push(starts.last().copied().unwrap_or(0) + *count as usize);
        }
        match starts.last() {
            // The largest number stands for no item.
            Some(total) if *total < u32::MAX as usize => Ok(Self { starts }),
            _ => Err(Error::Invalid("a model has less than 2^32 items".into())),
        }
    }

    /// Number of all items.
    pub(super) fn total(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Numbers of a virtual worker's items.
    pub(super) fn of_vworker(&self, vworker: u16) -> Range<usize> {
        let at = usize::from(vworker);
        self.starts.get(at).zip(self.starts.get(at + 1)).map_or(0..0, |(start, end)| *start..*end)
    }

    /// The virtual worker that an item is of.
    pub(super) fn vworker_of(&self, number: u32) -> Option<u16> {
        let end = self.starts.partition_point(|start| *start <= number as usize);
        (end < self.starts.len()).then(|| end.saturating_sub(1) as u16)
    }

    /// Numbers of an owner's items, in the order in which it keeps them.
    pub(super) fn of_owner(&self, hosts: &Hosts, node: u64) -> Vec<u32> {
        let own = Hosts::vworkers_of(&hosts.items, node);
        own.into_iter().flat_map(|vworker| self.of_vworker(vworker)).map(|number| number as u32).collect()
    }
}
