//! A part with item rows.
use super::table::{self, Row, Table};
use super::{ALGORITHM_IALS, Error, KIND_ITEMS, header, open_as};
use crate::wire::{Reader, floats, push_floats};
use docent_model::settings::DIM_MAX;

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
        let mut bytes = header(KIND_ITEMS, ALGORITHM_IALS).to_vec();
        table::write(&mut bytes, self.dim, self.slots, &self.items)?;
        bytes.reserve(self.vectors.len() * 4);
        push_floats(&self.vectors, &mut bytes);
        Ok(bytes)
    }

    /// Reads a part.
    ///
    /// # Errors
    /// Any [`Error`]; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader(open_as(bytes, KIND_ITEMS, ALGORITHM_IALS)?);
        let Table { width: dim, slots, items } = table::read(&mut reader)?;
        if items.len() as u64 * u64::from(dim) * 4 != reader.0.len() as u64 {
            return Err(Error::Damaged("its length is not what its header says"));
        }
        let part = Self { dim, slots, items, vectors: floats(reader.0) };
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
        if !(1..=DIM_MAX).contains(&self.dim) {
            return Err(Error::Damaged("dimension out of range"));
        }
        if self.vectors.len() != self.items.len() * usize::from(self.dim) {
            return Err(Error::Damaged("items and vectors differ in number"));
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
        for at in 0..24 {
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
            let mut framed = header(KIND_ITEMS, ALGORITHM_IALS).to_vec();
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
