//! The negatives of a step, and what is pushed: gradients of them and of the items in histories.
use super::{
    VWORKERS,
    gradients::{Gradients, along_tree},
};
use crate::{
    Error,
    kernel::stride,
    shape,
    tree::{self, Node, Sum},
};

/// The negatives of a step, the same for all virtual workers.
#[derive(Debug)]
pub struct Negatives {
    pub(super) dim: usize,
    /// Ascending.
    pub(super) items: Vec<u32>,
    /// `[width][stride]`, and in blocks of 16, `[block][stride][16]`; padding is zero.
    pub(super) rows: Vec<f32>,
    pub(super) blocks: Vec<f32>,
    pub(super) weights: Vec<f32>,
}

impl Negatives {
    /// `drawn`: items (rows of `table`, each `dim` values), ascending, with the weights that [`super::sample::Draw::draw`] gave them.
    ///
    /// # Errors
    /// [`Error::Value`] for items that do not ascend or are not in the table, and weights that are not above 0.
    pub fn new(dim: usize, drawn: &[(u32, f32)], table: &[f32]) -> Result<Self, Error> {
        let is_item = |item: u32| (item as usize) < table.len() / dim.max(1);
        if drawn.windows(2).any(|pair| pair[0].0 >= pair[1].0) || !drawn.iter().all(|(item, _)| is_item(*item)) {
            return Err(Error::Value { what: "negatives" });
        }
        if !drawn.iter().all(|(_, weight)| weight.is_finite() && *weight > 0.0) {
            return Err(Error::Value { what: "weights of negatives" });
        }
        let (stride, width) = (stride(dim), drawn.len().next_multiple_of(16));
        let (mut rows, mut blocks) = (vec![0.0; width * stride], vec![0.0; width * stride]);
        let mut weights = vec![0.0; width];
        for (at, (item, weight)) in drawn.iter().enumerate() {
            let row = &table[*item as usize * dim..][..dim];
            rows[at * stride..][..dim].copy_from_slice(row);
            let block = &mut blocks[at / 16 * 16 * stride..][..16 * stride];
            row.iter().enumerate().for_each(|(k, value)| block[k * 16 + at % 16] = *value);
            weights[at] = *weight;
        }
        Ok(Self { dim, items: drawn.iter().map(|(item, _)| *item).collect(), rows, blocks, weights })
    }

    /// How many they are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a step has some")]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The gradients of negatives in a push, ascending by item; none where there was no user.
    pub fn each<'a>(&'a self, push: &'a Push) -> impl Iterator<Item = (u32, &'a [f32])> {
        self.items.iter().copied().zip(push.negatives.chunks_exact(stride(self.dim)))
    }

    /// What all virtual workers push together, as gradients of items.
    ///
    /// # Errors
    /// [`Error::Shape`] for a push of other negatives.
    pub fn gradients(&self, sum: Push) -> Result<Gradients, Error> {
        sum.gradients(self.dim, &self.items)
    }
}

/// What a virtual worker, or a subtree of them, pushes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Push {
    /// Of the items in the batch's histories.
    pub targets: Gradients,
    /// Of the negatives, in their order, each `dim` values padded with zeros to a multiple of 16; empty where there was no user.
    pub negatives: Vec<f32>,
    /// Sum of the losses of targets, and of their weights: of all, by BPR of those in one row of 64.
    pub loss: [f64; 2],
    /// Of the users' tower, if there is one (`crate::tower`); empty where there was no user.
    pub dense: Vec<f64>,
}

impl Push {
    /// Whether it is one of so many negatives, with rows of `dim` values: it has a row for each of them, or none.
    #[must_use]
    pub fn fits(&self, dim: usize, negatives: usize) -> bool {
        self.negatives.is_empty() || self.negatives.len() == negatives * stride(dim)
    }

    /// What all virtual workers push together, from the roots of what hosts have of the tree: gradients of `dim` values.
    ///
    /// # Errors
    /// [`Error::Tree`] when `roots` do not cover every virtual worker exactly once.
    pub fn finish(dim: usize, mut roots: Vec<Node<Push>>) -> Result<Push, Error> {
        let taken = roots.iter_mut().map(|root| (root.level, root.index, std::mem::take(&mut root.value.targets)));
        let targets: Vec<_> = taken.collect();
        // Only roots that fit together have a first leaf each.
        let sum = tree::finish(VWORKERS, roots)?;
        let targets: Vec<(u16, Gradients)> =
            targets.into_iter().map(|(level, index, targets)| (index << level, targets)).collect();
        Ok(Push { targets: along_tree(dim, &targets), ..sum })
    }

    /// `self = self + right`; gives the memory of whichever gradients of negatives are needed no more.
    pub(super) fn absorb(&mut self, mut right: Self) -> Vec<f32> {
        self.targets.add(right.targets);
        if self.negatives.is_empty() {
            std::mem::swap(&mut self.negatives, &mut right.negatives);
        } else {
            self.negatives.iter_mut().zip(&right.negatives).for_each(|(left, right)| *left += right);
        }
        self.loss = [self.loss[0] + right.loss[0], self.loss[1] + right.loss[1]];
        self.dense.add(right.dense);
        right.negatives
    }

    /// What all virtual workers push together, as gradients of items (`negatives`: ascending).
    ///
    /// # Errors
    /// [`Error::Shape`] for a push of other negatives.
    pub fn gradients(self, dim: usize, negatives: &[u32]) -> Result<Gradients, Error> {
        let mut gradients = self.targets;
        if self.negatives.is_empty() {
            return Ok(gradients);
        }
        shape("gradients of negatives", negatives.len() * stride(dim), self.negatives.len())?;
        let rows: Vec<&[f32]> = self.negatives.chunks_exact(stride(dim)).map(|row| &row[..dim]).collect();
        gradients.add(Gradients::from_parts(dim, negatives.to_vec(), rows.concat())?);
        Ok(gradients)
    }
}

impl Sum for Push {
    fn add(&mut self, right: Self) {
        self.absorb(right);
    }
}
