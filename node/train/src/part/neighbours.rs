//! A part of a graph model: the weights that the items of histories have for its items.
use super::table::{self, Row, Table};
use super::{ALGORITHM_GRAPH, Error, KIND_ITEMS, header, open_as};
use crate::wire::Reader;

/// A weight that a source has for a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// The source, an item of any slot: its fingerprint (`docent_placement::hash::fingerprint`).
    pub source: u64,
    /// The target: its place among the part's items.
    pub at: u32,
    /// Above 0 and finite.
    pub weight: f32,
}

/// Items of a contiguous slot range with the weights that sources have for them.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Slots `[first, end)`.
    pub slots: (u16, u16),
    /// The targets, sorted by (slot, id).
    pub items: Vec<Row>,
    /// Strictly ascending by (source, at).
    pub neighbours: Vec<Neighbour>,
}

impl Neighbours {
    /// The part's bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the fields contradict one another or the range of their types.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let mut bytes = header(KIND_ITEMS, ALGORITHM_GRAPH).to_vec();
        table::write(&mut bytes, 0, self.slots, &self.items)?;
        let lists: Vec<&[Neighbour]> = self.neighbours.chunk_by(|a, b| a.source == b.source).collect();
        let too_many = |_| Error::Damaged("more than 2^32 sources");
        bytes.extend(u32::try_from(lists.len()).map_err(too_many)?.to_le_bytes());
        for list in &lists {
            bytes.extend(list[0].source.to_le_bytes());
            bytes.extend((list.len() as u32).to_le_bytes());
        }
        for neighbour in &self.neighbours {
            bytes.extend(neighbour.at.to_le_bytes());
            bytes.extend(neighbour.weight.to_le_bytes());
        }
        Ok(bytes)
    }

    /// Reads a part.
    ///
    /// # Errors
    /// Any [`Error`]; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let short = || Error::Damaged("cut off");
        let mut reader = Reader(open_as(bytes, KIND_ITEMS, ALGORITHM_GRAPH)?);
        let Table { width, slots, items } = table::read(&mut reader)?;
        let count = reader.u32().ok_or_else(short)? as usize;
        let mut lists = Reader(reader.take(count.saturating_mul(12)).ok_or_else(short)?);
        let mut neighbours = Vec::with_capacity(reader.0.len() / 8);
        for _ in 0..count {
            let (source, len) = (lists.u64().ok_or_else(short)?, lists.u32().ok_or_else(short)?);
            for _ in 0..len {
                let (at, weight) = (reader.u32().ok_or_else(short)?, reader.f32().ok_or_else(short)?);
                neighbours.push(Neighbour { source, at, weight });
            }
            if len == 0 {
                return Err(Error::Damaged("a source without weights"));
            }
        }
        if width != 0 || !reader.0.is_empty() {
            return Err(Error::Damaged("its length is not what its header says"));
        }
        let part = Self { slots, items, neighbours };
        part.check()?;
        Ok(part)
    }

    fn check(&self) -> Result<(), Error> {
        if self.neighbours.windows(2).any(|pair| (pair[0].source, pair[0].at) >= (pair[1].source, pair[1].at)) {
            return Err(Error::Damaged("weights are not in order"));
        }
        let is_usable = |neighbour: &Neighbour| {
            (neighbour.at as usize) < self.items.len() && neighbour.weight > 0.0 && neighbour.weight.is_finite()
        };
        if !self.neighbours.iter().all(is_usable) {
            return Err(Error::Damaged("a weight is of no item, or not above 0 and finite"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn part() -> Neighbours {
        let row = |slot, id: &str| Row { slot, id: id.into(), positives: 3 };
        let neighbour = |source, at, weight| Neighbour { source, at, weight };
        Neighbours {
            slots: (64, 128),
            items: vec![row(64, "b"), row(70, "a")],
            neighbours: vec![neighbour(5, 0, 0.5), neighbour(5, 1, 2.0), neighbour(u64::MAX, 1, 0.25)],
        }
    }

    #[test]
    fn a_part_comes_back_as_it_was_and_its_bytes_are_frozen() {
        let bytes = part().encode().unwrap();
        assert_eq!(Neighbours::decode(&bytes).unwrap(), part());
        assert_eq!(&blake3::hash(&bytes).to_hex()[..16], FROZEN, "the format changed: raise its version");
        let empty = Neighbours { items: Vec::new(), neighbours: Vec::new(), ..part() };
        assert_eq!(Neighbours::decode(&empty.encode().unwrap()).unwrap(), empty);
        assert!(super::super::Items::decode(&bytes).is_err(), "of another algorithm");
    }

    const FROZEN: &str = "e52acb0cbfb86060";

    #[test]
    fn what_is_cut_off_or_out_of_order_is_refused() {
        let bytes = part().encode().unwrap();
        for end in 0..bytes.len() {
            assert!(Neighbours::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let with = |neighbours: Vec<Neighbour>| Neighbours { neighbours, ..part() }.encode();
        let [a, b, c] = [0, 1, 2].map(|at| part().neighbours[at]);
        assert!(with(vec![a, c, b]).is_err() && with(vec![a, a]).is_err());
        assert!(with(vec![Neighbour { at: 2, ..a }]).is_err() && with(vec![Neighbour { weight: 0.0, ..a }]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            noise in prop::collection::vec(any::<u8>(), 0..300), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
        ) {
            let framed = [&header(KIND_ITEMS, ALGORITHM_GRAPH)[..], &noise].concat();
            let _ = Neighbours::decode(&framed);
            let mut bytes = part().encode().unwrap();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= byte;
            }
            if let Ok(read) = Neighbours::decode(&bytes) {
                prop_assert_eq!(read.encode().unwrap(), bytes);
            }
        }
    }
}
