//! Sparse gradients: rows by item, each the sum over what a virtual worker, or a subtree of them, has of the item.
use crate::{Error, shape, tree::Sum};

/// Gradients of distinct items. Nothing and a row of zeros are not the same: what is not there is left out of a sum.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gradients {
    /// Items, ascending.
    items: Vec<u32>,
    /// A row for each item.
    rows: Vec<f32>,
}

impl Gradients {
    /// Takes items and their rows of `dim` values each, as they come from another host.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Value`] for items that do not ascend and rows that are not finite.
    pub fn from_parts(dim: usize, items: Vec<u32>, rows: Vec<f32>) -> Result<Self, Error> {
        shape("gradients", items.len() * dim, rows.len())?;
        if items.windows(2).any(|pair| pair[0] >= pair[1]) || rows.iter().any(|value| !value.is_finite()) {
            return Err(Error::Value { what: "gradients" });
        }
        Ok(Self { items, rows })
    }

    /// The items, ascending.
    #[must_use]
    pub fn items(&self) -> &[u32] {
        &self.items
    }

    /// Their rows, one after another.
    #[must_use]
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// The rows of the items that are called `number(item)` where they go; that must ascend with the items.
    #[must_use]
    pub fn part(&self, number: impl Fn(u32) -> Option<u32>) -> Self {
        let mut part = Self::default();
        let dim = self.rows.len() / self.items.len().max(1);
        for (item, row) in self.items.iter().zip(self.rows.chunks_exact(dim.max(1))) {
            if let Some(number) = number(*item) {
                part.push(number, row);
            }
        }
        part
    }

    fn push(&mut self, item: u32, row: &[f32]) {
        self.items.push(item);
        self.rows.extend_from_slice(row);
    }
}

impl Sum for Gradients {
    fn add(&mut self, right: Self) {
        if self.items.is_empty() {
            *self = right;
            return;
        }
        let left = std::mem::take(self);
        let dim = left.rows.len() / left.items.len();
        self.items.reserve(left.items.len() + right.items.len());
        self.rows.reserve(left.rows.len() + right.rows.len());
        let (mut l, mut r) = (0, 0);
        while let (Some(&of_left), Some(&of_right)) = (left.items.get(l), right.items.get(r)) {
            let (left_row, right_row) = (&left.rows[l * dim..][..dim], &right.rows[r * dim..][..dim]);
            match of_left.cmp(&of_right) {
                std::cmp::Ordering::Less => self.push(of_left, left_row),
                std::cmp::Ordering::Greater => self.push(of_right, right_row),
                std::cmp::Ordering::Equal => {
                    self.items.push(of_left);
                    self.rows.extend(left_row.iter().zip(right_row).map(|(left, right)| left + right));
                }
            }
            l += usize::from(of_left <= of_right);
            r += usize::from(of_right <= of_left);
        }
        self.items.extend_from_slice(&left.items[l..]);
        self.rows.extend_from_slice(&left.rows[l * dim..]);
        self.items.extend_from_slice(&right.items[r..]);
        self.rows.extend_from_slice(&right.rows[r * dim..]);
    }
}

/// Adds up gradients of items as they come.
#[derive(Debug)]
pub struct Accumulator {
    dim: usize,
    /// By item: where its row is, or [`NOWHERE`].
    places: Vec<u32>,
    items: Vec<u32>,
    rows: Vec<f32>,
}

const NOWHERE: u32 = u32::MAX;

impl Accumulator {
    /// For items below `items` and rows of `dim` values.
    #[must_use]
    pub fn new(dim: usize, items: usize) -> Self {
        Self { dim, places: vec![NOWHERE; items], items: Vec::new(), rows: Vec::new() }
    }

    /// The sum of an item so far.
    pub fn row(&mut self, item: u32) -> &mut [f32] {
        let place = &mut self.places[item as usize];
        if *place == NOWHERE {
            *place = self.items.len() as u32;
            self.items.push(item);
            self.rows.resize(self.items.len() * self.dim, 0.0);
        }
        &mut self.rows[*place as usize * self.dim..][..self.dim]
    }

    /// All sums; starts anew.
    pub fn take(&mut self) -> Gradients {
        let mut items = std::mem::take(&mut self.items);
        items.sort_unstable();
        let mut rows = Vec::with_capacity(self.rows.len());
        for item in &items {
            let place = std::mem::replace(&mut self.places[*item as usize], NOWHERE);
            rows.extend_from_slice(&self.rows[place as usize * self.dim..][..self.dim]);
        }
        self.rows.clear();
        Gradients { items, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn sums_are_per_item(
            left in prop::collection::btree_map(0u32..20, -9i8..9, 0..15), right in prop::collection::btree_map(0u32..20, -9i8..9, 0..15),
            extra in prop::collection::vec((0u32..20, -9i8..9), 0..9),
        ) {
            let mut sums = Accumulator::new(2, 20);
            let mut of = |pairs: &mut dyn Iterator<Item = (u32, i8)>| {
                pairs.for_each(|(item, value)| sums.row(item).iter_mut().for_each(|sum| *sum += f32::from(value)));
                sums.take()
            };
            let mut sum = of(&mut left.clone().into_iter());
            sum.add(of(&mut right.clone().into_iter().chain(extra.clone())));
            let mut expected = BTreeMap::<u32, f32>::new();
            for (item, value) in left.into_iter().chain(right).chain(extra) {
                *expected.entry(item).or_default() += f32::from(value);
            }
            let rows: Vec<f32> = expected.values().flat_map(|value| [*value; 2]).collect();
            let items: Vec<u32> = expected.into_keys().collect();
            prop_assert_eq!(Gradients::from_parts(2, items, rows).unwrap(), sum);
        }
    }

    #[test]
    fn gradients_that_do_not_fit_are_refused() {
        assert!(Gradients::from_parts(2, vec![1, 1], vec![0.0; 4]).is_err());
        assert!(Gradients::from_parts(2, vec![1, 2], vec![0.0; 3]).is_err());
        assert!(Gradients::from_parts(1, vec![1], vec![f32::INFINITY]).is_err());
    }
}
