//! A part with item rows.
use super::{Error, KIND_ITEMS, header, open};
use crate::{
    ID_BYTES_MAX, SLOTS,
    page::{Reader, floats, push_floats},
};
use docent_model::settings::DIM_MAX;
use std::sync::Arc;

const FIXED: usize = 8 + 16;
const ENTRY: usize = 8;
const ALIGN: usize = 64;

/// An item of a part.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The item's slot.
    pub slot: u16,
    /// External id.
    pub id: Arc<str>,
    /// Positives that it was trained on.
    pub positives: u32,
}

/// Items of a contiguous slot range with their vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Items {
    /// Dimension of the vectors, 1..=512.
    pub dim: u16,
    /// Slots `[first, end)`.
    pub slots: (u16, u16),
    /// Sorted by (slot, id).
    pub items: Vec<Row>,
    /// `items.len()` rows of `dim` finite values.
    pub vectors: Vec<f32>,
}

impl Items {
    /// The part's bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the fields contradict one another or the range of their types.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let id_bytes: usize = self.items.iter().map(|item| item.id.len()).sum();
        let too_many = |_| Error::Damaged("more than 2^32 items or id bytes");
        let mut bytes = header(KIND_ITEMS).to_vec();
        for field in [self.dim, self.slots.0, self.slots.1, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(u32::try_from(self.items.len()).map_err(too_many)?.to_le_bytes());
        bytes.extend(u32::try_from(id_bytes).map_err(too_many)?.to_le_bytes());
        for item in &self.items {
            bytes.extend(item.slot.to_le_bytes());
            bytes.extend((item.id.len() as u16).to_le_bytes());
            bytes.extend(item.positives.to_le_bytes());
        }
        for item in &self.items {
            bytes.extend(item.id.as_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes.reserve(self.vectors.len() * 4);
        push_floats(&self.vectors, &mut bytes);
        Ok(bytes)
    }

    /// Reads a part.
    ///
    /// # Errors
    /// Any [`Error`]; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader(open(bytes, KIND_ITEMS)?);
        let short = || Error::Damaged("cut off");
        let dim = reader.u16().ok_or_else(short)?;
        let slots = (reader.u16().ok_or_else(short)?, reader.u16().ok_or_else(short)?);
        let reserved = reader.u16().ok_or_else(short)?;
        let (count, id_bytes) = (reader.u32().ok_or_else(short)? as usize, reader.u32().ok_or_else(short)? as usize);
        // Lengths as u64 so that no field can overflow, checked before anything is allocated.
        let rows_at = (FIXED as u64 + (count * ENTRY) as u64 + id_bytes as u64).next_multiple_of(ALIGN as u64);
        if reserved != 0 || rows_at + count as u64 * u64::from(dim) * 4 != bytes.len() as u64 {
            return Err(Error::Damaged("its length is not what its header says"));
        }
        let mut entries = Reader(reader.take(count * ENTRY).ok_or_else(short)?);
        let mut ids = Reader(reader.take(id_bytes).ok_or_else(short)?);
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            let (slot, len) = (entries.u16().ok_or_else(short)?, entries.u16().ok_or_else(short)?);
            let positives = entries.u32().ok_or_else(short)?;
            let id = ids.take(usize::from(len)).and_then(|id| std::str::from_utf8(id).ok());
            items.push(Row { slot, id: id.ok_or(Error::Damaged("an id is not text"))?.into(), positives });
        }
        let padding = bytes.get(bytes.len() - reader.0.len()..rows_at as usize).ok_or_else(short)?;
        if !ids.0.is_empty() || padding.iter().any(|byte| *byte != 0) {
            return Err(Error::Damaged("bytes that belong to nothing"));
        }
        let vectors = floats(bytes.get(rows_at as usize..).ok_or_else(short)?).collect();
        let part = Self { dim, slots, items, vectors };
        part.check()?;
        Ok(part)
    }

    /// The vector of item number `at`, if there is one.
    #[must_use]
    pub fn vector(&self, at: usize) -> Option<&[f32]> {
        let dim = usize::from(self.dim);
        self.vectors.get(at.checked_mul(dim)?..)?.get(..dim)
    }

    fn check(&self) -> Result<(), Error> {
        if !(1..=DIM_MAX).contains(&self.dim) || self.slots.0 > self.slots.1 || self.slots.1 > SLOTS {
            return Err(Error::Damaged("dimension or slots out of range"));
        }
        if self.vectors.len() != self.items.len() * usize::from(self.dim) {
            return Err(Error::Damaged("items and vectors differ in number"));
        }
        if self.items.windows(2).any(|pair| (pair[0].slot, &pair[0].id) >= (pair[1].slot, &pair[1].id)) {
            return Err(Error::Damaged("items are not in order"));
        }
        let in_range = |item: &Row| {
            (self.slots.0..self.slots.1).contains(&item.slot) && (1..=ID_BYTES_MAX).contains(&item.id.len())
        };
        if !self.items.iter().all(in_range) {
            return Err(Error::Damaged("an item's slot or id is out of range"));
        }
        if self.vectors.iter().any(|value| !value.is_finite()) {
            return Err(Error::Damaged("a vector is not finite"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part() -> Items {
        let row = |slot, id: &str| Row { slot, id: id.into(), positives: 3 };
        Items {
            dim: 3,
            slots: (64, 128),
            items: vec![row(64, "b"), row(70, "a"), row(70, "äh")],
            vectors: (0..9u8).map(f32::from).collect(),
        }
    }

    #[test]
    fn a_part_comes_back_as_it_was_and_its_bytes_are_frozen() {
        let bytes = part().encode().unwrap();
        assert_eq!(Items::decode(&bytes).unwrap(), part());
        let hash = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(&hash[..16], FROZEN, "the format changed: raise its version");
    }

    const FROZEN: &str = "bf1bd7a5a63a32c7";

    #[test]
    fn every_cut_and_every_flipped_byte_of_the_header_is_refused_or_read_whole() {
        let bytes = part().encode().unwrap();
        for end in 0..bytes.len() {
            assert!(Items::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..FIXED {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x55;
            // Another slot range that still holds the items is a part of its own; nothing else may pass.
            let read = Items::decode(&bytes).ok();
            assert!(read.is_none_or(|read| (8..14).contains(&at) && read.encode().unwrap() == bytes), "byte {at}");
        }
        let mut newer = bytes;
        newer[4] = 2;
        assert_eq!(Items::decode(&newer), Err(Error::Version { found: 2 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            noise in prop::collection::vec(any::<u8>(), 0..300), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
        ) {
            let _ = Items::decode(&noise);
            let mut framed = header(KIND_ITEMS).to_vec();
            framed.extend(&noise);
            let _ = Items::decode(&framed);
            let mut bytes = part().encode().unwrap();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= byte;
            }
            if let Ok(read) = Items::decode(&bytes) {
                prop_assert_eq!(read.encode().unwrap(), bytes);
            }
        }
    }
}
