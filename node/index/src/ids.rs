//! The sorted ids of a segment in one string: 4 bytes an id beside its text, where an `Arc<str>` each would take 32.

use crate::bitmap::Bitmap;
use crate::error::Error;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The longest item id, in bytes (design.md section 3).
pub(crate) const ID_BYTES_MAX: usize = 256;

/// Ids ascending by bytes; an id's rank is its row's position in the segment.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    text: String,
    /// Where each id ends in `text`.
    ends: Vec<u32>,
}

impl Ids {
    /// `sorted` is ascending by bytes. Refuses duplicates, ids outside 1..=256 bytes and more text than u32 offsets reach.
    pub(crate) fn new<'a>(sorted: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut ids = Self::default();
        for id in sorted {
            check_id(id)?;
            if ids.len() > 0 && ids.get(ids.len() - 1) == id {
                return Err(Error::DuplicateId { id: id.to_owned() });
            }
            ids.text.push_str(id);
            let end = u32::try_from(ids.text.len())
                .map_err(|_| Error::TooManyRows { rows: ids.len(), id_bytes: ids.text.len() })?;
            ids.ends.push(end);
        }
        Ok(ids)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The id at `position`, which is below `len`.
    pub(crate) fn get(&self, position: usize) -> &str {
        let start = if position == 0 { 0 } else { self.ends[position - 1] as usize };
        &self.text[start..self.ends[position] as usize]
    }

    pub(crate) fn position(&self, id: &str) -> Option<u32> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return u32::try_from(middle).ok(),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.text.capacity() + self.ends.capacity() * size_of::<u32>()) as u64
    }
}

/// The positions of `live` but those of `excluded`.
pub(crate) fn allowed<'a>(ids: &Ids, live: &'a Bitmap, excluded: &BTreeSet<&str>) -> Cow<'a, Bitmap> {
    let mut allowed = Cow::Borrowed(live);
    for position in excluded.iter().filter_map(|id| ids.position(id)) {
        allowed.to_mut().clear(position);
    }
    allowed
}

pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    if (1..=ID_BYTES_MAX).contains(&id.len()) { Ok(()) } else { Err(Error::Id { bytes: id.len() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_id_is_found_at_its_rank_and_no_other(ids in prop::collection::btree_set("[a-cé]{1,4}", 0..40), others in prop::collection::vec("[a-cé]{0,4}", 0..20)) {
            let table = Ids::new(ids.iter().map(String::as_str)).expect("sorted, distinct, short");
            for (rank, id) in ids.iter().enumerate() {
                prop_assert_eq!(table.get(rank), id);
                prop_assert_eq!(table.position(id), Some(rank as u32));
            }
            let known: BTreeSet<&String> = ids.iter().collect();
            for other in others.iter().filter(|other| !known.contains(other)) {
                prop_assert_eq!(table.position(other), None);
            }
        }
    }

    #[test]
    fn a_second_row_for_an_id_is_refused() {
        assert!(matches!(Ids::new(["a", "b", "b"]), Err(Error::DuplicateId { id }) if id == "b"));
    }

    #[test]
    fn empty_and_over_long_ids_are_refused() {
        assert!(matches!(Ids::new([""]), Err(Error::Id { bytes: 0 })));
        assert!(matches!(Ids::new(["x".repeat(257).as_str()]), Err(Error::Id { bytes: 257 })));
    }
}
