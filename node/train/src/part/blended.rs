//! A part of a blend: those of its two models, side by side.
use super::{ALGORITHM_BLEND, Error, Items, KIND_ITEMS, Neighbours, header, open_as};
use crate::wire::Reader;

/// Items of a contiguous slot range with what each model of a blend keeps of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Blended {
    /// Of the graph filter.
    pub neighbours: Neighbours,
    /// Of the other model; the same items, their positives included.
    pub rows: Items,
}

impl Blended {
    /// The part's bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the fields contradict one another or the range of their types.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let (neighbours, rows) = (self.neighbours.encode()?, self.rows.encode()?);
        let len = u32::try_from(neighbours.len()).map_err(|_| Error::Damaged("a graph of more than 4 GiB"))?;
        Ok([&header(KIND_ITEMS, ALGORITHM_BLEND)[..], &len.to_le_bytes(), &neighbours, &rows].concat())
    }

    /// Reads a part.
    ///
    /// # Errors
    /// Any [`Error`]; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let short = || Error::Damaged("cut off");
        let mut reader = Reader(open_as(bytes, KIND_ITEMS, ALGORITHM_BLEND)?);
        let len = reader.u32().ok_or_else(short)? as usize;
        let neighbours = Neighbours::decode(reader.take(len).ok_or_else(short)?)?;
        let part = Self { neighbours, rows: Items::decode(reader.0)? };
        part.check()?;
        Ok(part)
    }

    fn check(&self) -> Result<(), Error> {
        match self.neighbours.slots == self.rows.slots && self.neighbours.items == self.rows.items {
            true => Ok(()),
            false => Err(Error::Damaged("the models of a blend have different items")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Neighbour, Row};
    use super::*;
    use proptest::prelude::*;

    fn part() -> Blended {
        let row = |slot, id: &str| Row { slot, id: id.into(), positives: 3 };
        let (slots, items) = ((64, 128), vec![row(64, "b"), row(70, "a")]);
        let neighbours = vec![Neighbour { source: 5, at: 1, weight: 0.5 }];
        Blended {
            neighbours: Neighbours { slots, items: items.clone(), neighbours },
            rows: Items { dim: 1, slots, items, vectors: vec![0.5, -1.0] },
        }
    }

    #[test]
    fn a_part_comes_back_as_it_was_and_its_bytes_are_frozen() {
        let bytes = part().encode().unwrap();
        assert_eq!(Blended::decode(&bytes).unwrap(), part());
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], FROZEN, "the format changed: raise its version");
        assert!(Items::decode(&bytes).is_err(), "of another algorithm");
        for end in 0..bytes.len() {
            assert!(Blended::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    const FROZEN: &str = "bb225922e514951e";

    #[test]
    fn models_of_different_items_are_refused() {
        let mut other = part();
        other.rows.items[1].positives = 4;
        assert!(other.encode().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            noise in prop::collection::vec(any::<u8>(), 0..300), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
        ) {
            let _ = Blended::decode(&[&header(KIND_ITEMS, ALGORITHM_BLEND)[..], &noise].concat());
            let mut bytes = part().encode().unwrap();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= byte;
            }
            if let Ok(read) = Blended::decode(&bytes) {
                prop_assert_eq!(read.encode().unwrap(), bytes);
            }
        }
    }
}
