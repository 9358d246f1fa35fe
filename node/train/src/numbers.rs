//! Numbers for item ids while a host's users are read: an id is kept once, however many users touched it, and what follows compares and
//! sorts numbers.
use crate::{Error, ID_BYTES_MAX, SLOTS, load::ItemKey};
use std::{collections::HashMap, sync::Arc};

/// Gives numbers to item ids, in the order in which they come. Each thread that reads has one of its own: what threads share they wait for,
/// a cache line at a time, at every event.
#[derive(Default)]
pub struct ItemNumbers {
    known: HashMap<Arc<str>, u32>,
    /// By number.
    keys: Vec<ItemKey>,
}

impl ItemNumbers {
    /// The number of an item, the same one each time; `slot` is asked for that of one that is new.
    ///
    /// # Errors
    /// [`Error::Input`] for an id or a slot out of range, and beyond 2^32 items.
    pub fn number(&mut self, id: &str, slot: impl FnOnce() -> u16) -> Result<u32, Error> {
        if let Some(number) = self.known.get(id) {
            return Ok(*number);
        }
        let slot = slot();
        if slot >= SLOTS || id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(Error::Input("a positive's item has a slot or id out of range".into()));
        }
        let number = u32::try_from(self.keys.len()).map_err(|_| too_many())?;
        let id: Arc<str> = Arc::from(id);
        self.keys.push((slot, id.clone()));
        self.known.insert(id, number);
        Ok(number)
    }
}

/// The keys of all numbered items in the order of everything, and for each of `all` the place of each number among them.
pub(crate) fn sort(all: Vec<ItemNumbers>) -> Result<(Vec<ItemKey>, Vec<Vec<u32>>), Error> {
    let mut places: Vec<Vec<u32>> = all.iter().map(|numbers| vec![0; numbers.keys.len()]).collect();
    let numbered = |(from, numbers): (usize, ItemNumbers)| {
        numbers.keys.into_iter().enumerate().map(move |(number, key)| (key, from, number))
    };
    let mut items: Vec<(ItemKey, usize, usize)> = all.into_iter().enumerate().flat_map(numbered).collect();
    items.sort_unstable();
    let mut keys: Vec<ItemKey> = Vec::new();
    for (key, from, number) in items {
        if keys.last() != Some(&key) {
            keys.push(key);
        }
        places[from][number] = u32::try_from(keys.len() - 1).map_err(|_| too_many())?;
    }
    Ok((keys, places))
}

fn too_many() -> Error {
    Error::Input("this host's users touch more than 2^32 items".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_has_one_number_and_places_are_by_slot_then_id() {
        let (mut first, mut second) = (ItemNumbers::default(), ItemNumbers::default());
        let given = [("b", 7), ("a", 7), ("b", 7)].map(|(id, slot)| first.number(id, || slot).unwrap());
        assert_eq!(given, [0, 1, 0]);
        assert_eq!([("c", 3), ("b", 7)].map(|(id, slot)| second.number(id, || slot).unwrap()), [0, 1]);
        let (keys, places) = sort(vec![first, second]).unwrap();
        assert_eq!(keys, [(3, "c".into()), (7, "a".into()), (7, "b".into())]);
        assert_eq!(places, [[2, 1], [0, 2]]);
    }

    #[test]
    fn an_id_or_slot_out_of_range_is_refused() {
        let mut numbers = ItemNumbers::default();
        assert!(numbers.number("", || 1).is_err());
        assert!(numbers.number("i", || SLOTS).is_err());
        assert!(numbers.number(&"i".repeat(ID_BYTES_MAX + 1), || 1).is_err());
    }
}
