//! Which positions of a segment a query may return: one bit each, 64 to a word.

/// A fixed-length set of positions. Bits at and beyond `len` are always clear, so whole words may be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    len: usize,
    words: Vec<u64>,
}

impl Bitmap {
    /// No position of `len`.
    #[must_use]
    pub fn none(len: usize) -> Self {
        Self { len, words: vec![0; len.div_ceil(64)] }
    }

    /// Every position of `len`.
    #[must_use]
    pub fn all(len: usize) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(64)];
        if let (Some(last), rest @ 1..) = (words.last_mut(), len % 64) {
            *last = (1 << rest) - 1;
        }
        Self { len, words }
    }

    /// The given positions; those at or beyond `len` are ignored.
    #[must_use]
    pub fn from_positions(len: usize, positions: impl IntoIterator<Item = u32>) -> Self {
        let mut bitmap = Self::none(len);
        for position in positions {
            bitmap.set(position);
        }
        bitmap
    }

    /// How many positions there are, set or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a position; one at or beyond `len` is ignored.
    pub fn set(&mut self, position: u32) {
        if let Some((word, bit)) = self.locate(position) {
            self.words[word] |= bit;
        }
    }

    /// Takes a position out; one at or beyond `len` is ignored.
    pub fn clear(&mut self, position: u32) {
        if let Some((word, bit)) = self.locate(position) {
            self.words[word] &= !bit;
        }
    }

    #[must_use]
    pub fn contains(&self, position: u32) -> bool {
        self.locate(position).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Keeps what both hold. Where the lengths differ, the part that only one covers becomes clear.
    pub fn and(&mut self, other: &Self) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(index).copied().unwrap_or(0);
        }
    }

    /// How many positions are set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Position `p` is bit `p % 64` of word `p / 64`.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The set positions, ascending.
    pub fn positions(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(index, &word)| Bits(word).map(move |bit| index as u32 * 64 + bit))
    }

    fn locate(&self, position: u32) -> Option<(usize, u64)> {
        let position = position as usize;
        (position < self.len).then(|| (position / 64, 1 << (position % 64)))
    }
}

/// The set bits of a word, ascending.
pub(crate) struct Bits(pub(crate) u64);

impl Iterator for Bits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn bits_beyond_the_length_are_clear() {
        for len in [0, 1, 63, 64, 65, 128, 130] {
            assert_eq!(Bitmap::all(len).count(), len, "{len}");
            assert_eq!(Bitmap::none(len).count(), 0);
            let mut bitmap = Bitmap::none(len);
            bitmap.set(len as u32);
            bitmap.set(u32::MAX);
            assert_eq!(bitmap.count(), 0, "{len}");
        }
    }

    proptest! {
        #[test]
        fn a_bitmap_is_a_set(len in 0usize..200, a in prop::collection::vec(0u32..220, 0..60), b in prop::collection::vec(0u32..220, 0..60), cleared in prop::collection::vec(0u32..220, 0..20)) {
            let inside = |positions: &[u32]| positions.iter().copied().filter(|&p| (p as usize) < len).collect::<BTreeSet<_>>();
            let mut bitmap = Bitmap::from_positions(len, a.iter().copied());
            let mut set = inside(&a);
            prop_assert_eq!(bitmap.positions().collect::<BTreeSet<_>>(), set.clone());
            for &position in &cleared {
                bitmap.clear(position);
                set.remove(&position);
            }
            bitmap.and(&Bitmap::from_positions(len, b.iter().copied()));
            let both: Vec<u32> = set.intersection(&inside(&b)).copied().collect();
            prop_assert_eq!(bitmap.count(), both.len());
            prop_assert!((0..220).all(|p| bitmap.contains(p) == both.contains(&p)));
            prop_assert_eq!(bitmap.positions().collect::<Vec<_>>(), both);
        }
    }
}
