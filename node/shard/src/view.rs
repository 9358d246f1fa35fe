//! The seam to the store: a state machine reads a [`View`] and writes a [`Batch`]; a [`Tx`] is both at once.

use crate::key;
use bytes::Bytes;
use docent_types::error::Result;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

/// Called for each key and value of a scan; `Break` ends it early, an error ends it and comes out.
pub type Visit<'v> = &'v mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>;

/// A consistent state of one shard: what it says does not change while it lives. Ordered bytewise.
///
/// Errors are the store's: a failed read or a failed checksum; they stop whoever applies.
pub trait View: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Whether `key` has a value.
    fn contains(&self, key: &[u8]) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// Visits all keys from `from` to before `to` (`None`: to the last), ascending.
    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()>;

    /// Visits all keys that begin with `prefix`, ascending.
    fn scan_prefix(&self, prefix: &[u8], visit: Visit<'_>) -> Result<()> {
        self.scan(prefix, key::successor(prefix).as_deref(), visit)
    }
}

/// Writes to be committed together. Of several writes to a key the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl Batch {
    /// Sets `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.writes.insert(key, Some(value));
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }

    /// How many keys are written.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Writes in key order; `None` removes.
impl IntoIterator for Batch {
    type Item = (Vec<u8>, Option<Bytes>);
    type IntoIter = std::collections::btree_map::IntoIter<Vec<u8>, Option<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        self.writes.into_iter()
    }
}

/// A view that sees its own writes. Many commands may share one, to be committed as one batch.
pub struct Tx<'v> {
    base: &'v dyn View,
    batch: Batch,
}

impl<'v> Tx<'v> {
    /// A transaction over `base`.
    pub fn new(base: &'v dyn View) -> Tx<'v> {
        Tx { base, batch: Batch::default() }
    }

    /// The writes so far.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The value of `key`, and whether the state before this transaction has one.
    pub fn get_both(&self, key: &[u8]) -> Result<(Option<Bytes>, bool)> {
        match self.batch.writes.get(key) {
            Some(write) => Ok((write.clone(), self.base.contains(key)?)),
            None => {
                let value = self.base.get(key)?;
                let is_in_base = value.is_some();
                Ok((value, is_in_base))
            }
        }
    }

    /// Sets `key`.
    pub fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.batch.put(key, value);
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(key);
    }

    /// Sets `key` if it has no value. `is_in_base` may be false only where the caller knows that the base has none: it saves a read.
    /// Returns whether it was set.
    pub fn put_new(&mut self, key: Vec<u8>, is_in_base: bool, value: impl FnOnce() -> Bytes) -> Result<bool> {
        match self.batch.writes.entry(key) {
            Entry::Occupied(mut entry) => match entry.get() {
                Some(_) => Ok(false),
                None => {
                    entry.insert(Some(value()));
                    Ok(true)
                }
            },
            Entry::Vacant(entry) => match is_in_base && self.base.contains(entry.key())? {
                true => Ok(false),
                false => {
                    entry.insert(Some(value()));
                    Ok(true)
                }
            },
        }
    }

    /// Removes all keys that begin with `prefix`.
    pub fn delete_prefix(&mut self, prefix: &[u8]) -> Result<()> {
        let mut keys = Vec::new();
        self.scan_prefix(prefix, &mut |key, _| {
            keys.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        keys.into_iter().for_each(|key| self.delete(key));
        Ok(())
    }

    /// The writes.
    pub fn into_batch(self) -> Batch {
        self.batch
    }

    fn overlay(&self) -> Overlay<'_> {
        Overlay { base: self.base, batch: &self.batch }
    }
}

impl View for Tx<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.overlay().get(key)
    }

    fn contains(&self, key: &[u8]) -> Result<bool> {
        self.overlay().contains(key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        self.overlay().scan(from, to, visit)
    }
}

/// A view with writes on top of it.
#[derive(Clone, Copy)]
pub struct Overlay<'a> {
    /// What is below.
    pub base: &'a dyn View,
    /// What was written since.
    pub batch: &'a Batch,
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.batch.writes.get(key) {
            Some(write) => Ok(write.clone()),
            None => self.base.get(key),
        }
    }

    fn contains(&self, key: &[u8]) -> Result<bool> {
        match self.batch.writes.get(key) {
            Some(write) => Ok(write.is_some()),
            None => self.base.contains(key),
        }
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        if to.is_some_and(|to| from >= to) {
            return Ok(());
        }
        let upper = to.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut own = self.batch.writes.range::<[u8], _>((std::ops::Bound::Included(from), upper)).peekable();
        let is_over = Cell::new(false);
        let mut emit = |key: &[u8], value: &[u8]| {
            let flow = visit(key, value)?;
            is_over.set(flow.is_break());
            Ok(flow)
        };
        self.base.scan(from, to, &mut |key, value| {
            while let Some((own_key, write)) = own.next_if(|(own_key, _)| own_key.as_slice() < key) {
                if let Some(value) = write
                    && emit(own_key, value)?.is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            match own.next_if(|(own_key, _)| own_key.as_slice() == key) {
                Some((_, None)) => Ok(ControlFlow::Continue(())),
                Some((_, Some(value))) => emit(key, value),
                None => emit(key, value),
            }
        })?;
        while let (false, Some((key, write))) = (is_over.get(), own.next()) {
            if let Some(value) = write {
                let _ = emit(key, value)?;
            }
        }
        Ok(())
    }
}

/// The in-memory fake: for tests, and the model that stores are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemView {
    records: BTreeMap<Vec<u8>, Bytes>,
}

impl MemView {
    /// Applies the writes.
    pub fn commit(&mut self, batch: Batch) {
        for (key, write) in batch {
            match write {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

impl View for MemView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.records.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<()> {
        let within = |key: &[u8]| to.is_none_or(|to| key < to);
        let from = (std::ops::Bound::Included(from), std::ops::Bound::Unbounded);
        for (key, value) in self.records.range::<[u8], _>(from).take_while(|(key, _)| within(key)) {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    struct Fake(MemView);

    impl conformance::Subject for Fake {
        fn commit(&mut self, batch: Batch) {
            self.0.commit(batch);
        }
        fn view(&self) -> Box<dyn View + '_> {
            Box::new(self.0.clone())
        }
    }

    #[test]
    fn the_fake_is_a_view() {
        conformance::check(&mut Fake(MemView::default()));
    }
}
