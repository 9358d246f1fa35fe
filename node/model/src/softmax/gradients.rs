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

    /// The items with their rows, ascending.
    pub fn each(&self) -> impl Iterator<Item = (u32, &[f32])> {
        let dim = self.rows.len() / self.items.len().max(1);
        self.items.iter().copied().zip(self.rows.chunks_exact(dim.max(1)))
    }

    /// The rows of the items that are called `number(item)` where they go; that must ascend with the items.
    #[must_use]
    pub fn part(&self, number: impl Fn(u32) -> Option<u32>) -> Self {
        let rows = self.each().filter_map(|(item, row)| Some((number(item)?, row)));
        let (items, rows): (Vec<u32>, Vec<&[f32]>) = rows.unzip();
        Self { items, rows: rows.concat() }
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

/// The gradients that nodes of [`crate::tree`] (with their first leaves; none within another; in any order) have together: what [`Sum`] makes of
/// them level by level, with each row copied once.
pub(super) fn along_tree(dim: usize, nodes: &[(u16, Gradients)]) -> Gradients {
    let of = |(node, (first, sums)): (usize, &(u16, Gradients))| {
        let entry = move |(place, item): (usize, &u32)| (*item, *first, node, place);
        sums.items.iter().enumerate().map(entry).collect::<Vec<_>>()
    };
    let mut entries: Vec<(u32, u16, usize, usize)> = nodes.iter().enumerate().flat_map(of).collect();
    entries.sort_unstable();
    let row = |(_, _, node, place): &(u32, u16, usize, usize)| &nodes[*node].1.rows[place * dim..][..dim];
    let mut all = Gradients { items: Vec::with_capacity(entries.len()), rows: Vec::with_capacity(entries.len() * dim) };
    for of_item in entries.chunk_by(|left, right| left.0 == right.0) {
        all.items.push(of_item[0].0);
        match of_item {
            [only] => all.rows.extend_from_slice(row(only)),
            several => all.rows.extend(sum_along_tree(several.iter().map(|entry| (entry.1, row(entry))))),
        }
    }
    all
}

/// The sum of the rows of some nodes, ascending by first leaf. Of three neighbours the two are added first whose subtree is the smaller one.
fn sum_along_tree<'a>(rows: impl Iterator<Item = (u16, &'a [f32])>) -> Vec<f32> {
    fn add(waiting: &mut Vec<(u16, Vec<f32>)>) {
        if let Some((_, right)) = waiting.pop()
            && let Some((_, left)) = waiting.last_mut()
        {
            left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
        }
    }
    // Each with its first leaf; the subtrees that join neighbours grow towards the front.
    let mut waiting: Vec<(u16, Vec<f32>)> = Vec::new();
    for (leaf, row) in rows {
        while let [.., (before, _), (last, _)] = waiting[..]
            && before ^ last < last ^ leaf
        {
            add(&mut waiting);
        }
        waiting.push((leaf, row.to_vec()));
    }
    while waiting.len() > 1 {
        add(&mut waiting);
    }
    waiting.pop().map(|(_, sum)| sum).unwrap_or_default()
}

/// Adds up gradients of items as they come.
#[derive(Debug)]
pub struct Accumulator {
    dim: usize,
    /// By item: where its row is, or [`NOWHERE`].
    places: Vec<u32>,
    /// In the order in which they came.
    sums: Gradients,
}

const NOWHERE: u32 = u32::MAX;

impl Accumulator {
    /// For items below `items` and rows of `dim` values.
    #[must_use]
    pub fn new(dim: usize, items: usize) -> Self {
        Self { dim, places: vec![NOWHERE; items], sums: Gradients::default() }
    }

    /// The sum of an item so far.
    pub fn row(&mut self, item: u32) -> &mut [f32] {
        let place = &mut self.places[item as usize];
        if *place == NOWHERE {
            *place = self.sums.items.len() as u32;
            self.sums.items.push(item);
            self.sums.rows.resize(self.sums.items.len() * self.dim, 0.0);
        }
        &mut self.sums.rows[*place as usize * self.dim..][..self.dim]
    }

    /// All sums; starts anew.
    pub fn take(&mut self) -> Gradients {
        let sums = self.take_sums();
        along_tree(self.dim, &[(0, sums)])
    }

    /// The same as they came, for [`along_tree`].
    pub(super) fn take_sums(&mut self) -> Gradients {
        let rows = Vec::with_capacity(self.sums.rows.len());
        let sums = std::mem::replace(&mut self.sums, Gradients { items: Vec::new(), rows });
        sums.items.iter().for_each(|item| self.places[*item as usize] = NOWHERE);
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{self, Node};
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

    proptest! {
        #[test]
        fn a_tree_of_leaves_is_what_adding_level_by_level_gives(
            leaves in prop::collection::btree_map(0u16..32, prop::collection::vec((0u32..9, -1e6f32..1e6), 0..12), 0..20),
        ) {
            let mut sums = Accumulator::new(2, 9);
            let mut of = |pairs: &[(u32, f32)]| {
                pairs.iter().for_each(|(item, value)| sums.row(*item).iter_mut().for_each(|sum| *sum += *value / 3.0));
                sums.take_sums()
            };
            let all: Vec<(u16, Gradients)> = leaves.iter().map(|(leaf, pairs)| (*leaf, of(pairs))).collect();
            let nodes = (0u16..32).map(|index| {
                let own = all.iter().find(|(leaf, _)| *leaf == index).map(|(_, sums)| sums.clone());
                Node { level: 0, index, value: along_tree(2, &[(0, own.unwrap_or_default())]) }
            });
            let nodes: Vec<_> = nodes.collect();
            // The same from the roots of two hosts, with nodes of several levels.
            let (left, right): (Vec<_>, Vec<_>) = nodes.iter().cloned().partition(|node| (5..18).contains(&node.index));
            let roots = tree::fold(left).into_iter().chain(tree::fold(right));
            let roots: Vec<_> = roots.map(|root| (root.index << root.level, root.value)).collect();
            let expected = tree::finish(32, nodes).unwrap();
            prop_assert_eq!(along_tree(2, &roots), expected.clone());
            prop_assert_eq!(along_tree(2, &all), expected);
        }
    }

    #[test]
    fn gradients_that_do_not_fit_are_refused() {
        assert!(Gradients::from_parts(2, vec![1, 1], vec![0.0; 4]).is_err());
        assert!(Gradients::from_parts(2, vec![1, 2], vec![0.0; 3]).is_err());
        assert!(Gradients::from_parts(1, vec![1], vec![f32::INFINITY]).is_err());
    }
}
