//! Items known to exist, so that their events need no stub. Bounded in number and in age; forgetting only costs a repeated command.

use docent_types::ItemId;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Two generations of ids: when the young one is full or old it replaces the other.
#[derive(Debug)]
pub(crate) struct KnownItems {
    ids_max: usize,
    age_max: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    young: BTreeSet<ItemId>,
    old: BTreeSet<ItemId>,
    since: Duration,
}

impl KnownItems {
    /// Remembers at most `ids_max` ids, each for at most twice `age_max`.
    pub(crate) fn new(ids_max: usize, age_max: Duration) -> KnownItems {
        KnownItems { ids_max, age_max, state: Mutex::default() }
    }

    /// Those of `ids` that are not known, each once, in order. `now` is monotonic.
    pub(crate) fn unknown<'a>(&self, ids: impl Iterator<Item = &'a ItemId>, now: Duration) -> BTreeSet<ItemId> {
        let mut state = self.locked();
        let age = now.saturating_sub(state.since);
        if age > self.age_max {
            state.turn(now);
        }
        if age > self.age_max * 2 {
            // Nobody asked for so long that the young generation is old by now.
            state.old.clear();
        }
        ids.filter(|id| !state.young.contains(*id) && !state.old.contains(*id)).cloned().collect()
    }

    /// These exist.
    pub(crate) fn insert(&self, ids: impl IntoIterator<Item = ItemId>, now: Duration) {
        let mut state = self.locked();
        for id in ids {
            if state.young.len() >= self.ids_max / 2 {
                state.turn(now);
            }
            state.young.insert(id);
        }
    }

    /// This may not exist any more.
    pub(crate) fn forget(&self, id: &ItemId) {
        let mut state = self.locked();
        state.young.remove(id);
        state.old.remove(id);
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self, now: Duration) {
        self.old = std::mem::take(&mut self.young);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(i: u32) -> ItemId {
        ItemId::new(i.to_string()).unwrap()
    }

    #[test]
    fn memory_is_bounded_in_number_and_age() {
        let known = KnownItems::new(10, Duration::from_secs(60));
        known.insert((0..100).map(id), Duration::ZERO);
        let unknown = known.unknown((0..100).map(id).collect::<Vec<_>>().iter(), Duration::ZERO);
        assert!(unknown.len() >= 90);
        known.insert([id(1)], Duration::ZERO);
        let is_known = |at: u64| known.unknown([id(1)].iter(), Duration::from_secs(at)).is_empty();
        assert!(is_known(61), "the old generation still counts");
        assert!(!is_known(200));
    }

    #[test]
    fn a_deleted_item_gets_a_stub_again() {
        let known = KnownItems::new(10, Duration::from_secs(60));
        known.insert([id(1)], Duration::ZERO);
        known.forget(&id(1));
        assert_eq!(known.unknown([id(1)].iter(), Duration::ZERO).len(), 1);
    }
}
