//! An item shard's items by popularity: kept events descending, then id bytes, so that merging shards gives one order.

use docent_types::ItemId;
use docent_types::query::ScoredItem;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Every item of one shard with its count; those that may be shown are ranked.
#[derive(Debug, Default)]
pub struct Popularity {
    items: BTreeMap<ItemId, Entry>,
    ranked: BTreeSet<(Reverse<u64>, ItemId)>,
    events: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    is_shown: bool,
    events: u64,
}

impl Popularity {
    /// Enters an item, or changes whether it may be shown.
    pub fn set_shown(&mut self, id: &ItemId, is_shown: bool) {
        self.change(id, |entry| entry.is_shown = is_shown);
    }

    /// Sets an item's count; one that is not known is not entered.
    pub fn set_events(&mut self, id: &ItemId, events: u64) {
        if self.items.contains_key(id) {
            self.change(id, |entry| entry.events = events);
        }
    }

    fn change(&mut self, id: &ItemId, change: impl FnOnce(&mut Entry)) {
        let entry = self.items.entry(id.clone()).or_default();
        if entry.is_shown {
            self.ranked.remove(&(Reverse(entry.events), id.clone()));
        }
        self.events -= entry.events;
        change(entry);
        self.events += entry.events;
        if entry.is_shown {
            self.ranked.insert((Reverse(entry.events), id.clone()));
        }
    }

    /// Forgets an item.
    pub fn remove(&mut self, id: &ItemId) {
        if let Some(entry) = self.items.remove(id) {
            self.events -= entry.events;
            self.ranked.remove(&(Reverse(entry.events), id.clone()));
        }
    }

    /// Whether the item may be shown; `None` where it is not known.
    pub fn is_shown(&self, id: &ItemId) -> Option<bool> {
        self.items.get(id).map(|entry| entry.is_shown)
    }

    /// The `n` most popular items outside `exclude` (sorted), scored by their counts.
    pub fn top(&self, n: usize, exclude: &[ItemId]) -> Vec<ScoredItem> {
        let allowed = self.ranked.iter().filter(|(_, id)| exclude.binary_search(id).is_err());
        allowed.take(n).map(|(Reverse(events), id)| ScoredItem { item_id: id.clone(), score: *events as f32 }).collect()
    }

    /// How many events all items have, those that may not be shown included.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// How many items may be shown.
    pub fn shown(&self) -> u64 {
        self.ranked.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ItemId {
        ItemId::new(text).unwrap()
    }

    fn top(popularity: &Popularity, n: usize, exclude: &[ItemId]) -> Vec<String> {
        popularity.top(n, exclude).into_iter().map(|item| item.item_id.to_string()).collect()
    }

    #[test]
    fn the_list_follows_every_change() {
        let mut popularity = Popularity::default();
        for name in ["a", "b", "c"] {
            popularity.set_shown(&id(name), true);
        }
        popularity.set_events(&id("b"), 5);
        popularity.set_events(&id("unknown"), 9);
        assert_eq!(popularity.events(), 5);
        assert_eq!(top(&popularity, 3, &[]), ["b", "a", "c"]);
        assert_eq!(top(&popularity, 2, &[id("a")]), ["b", "c"]);
        popularity.set_shown(&id("b"), false);
        assert_eq!(top(&popularity, 3, &[]), ["a", "c"]);
        popularity.set_events(&id("b"), 7);
        popularity.set_shown(&id("b"), true);
        popularity.set_events(&id("a"), 2);
        assert_eq!(popularity.events(), 9);
        popularity.remove(&id("a"));
        assert_eq!(popularity.events(), 7);
        assert_eq!(top(&popularity, 3, &[]), ["b", "c"]);
        assert_eq!(popularity.shown(), 2);
    }
}
