//! What a host's virtual workers push in a step: losses and gradients of batches of users.
//!
//! Virtual workers are computed in *runs* of neighbours that form a subtree. All rows of a run are told from the negatives by three matrix products
//! (scores, gradients of users, gradients of negatives); the third adds up the leaves of the run while their sums are in registers and the first-level
//! cache, as a gradient of all negatives is too large to be written and read for each virtual worker. What is left, targets and histories, is sparse.
use super::{
    Loss, Settings, VWORKERS,
    gradients::{Accumulator, Gradients, along_tree},
    negatives::{Negatives, Push},
    rows::{Leaf, Rows},
};
use crate::kernel::{LEAVES_MAX, ROWS_UNIT, Shares, pitch, stride};
use crate::{Adjacency, Error, Kernel, parallel, shape, tower::Mlp, tree};
use std::{
    borrow::Cow,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Shares of a run, at most: 8 MiB. A virtual worker with more is a run by itself, in blocks of rows.
const SHARES_OF_RUN: usize = 1 << 21;
/// Shares of such a block, at most: 1 MiB. A quarter of it, for the second-level cache, was no faster with few rows a step and slower with many.
const SHARES_OF_BLOCK: usize = 262_144;
/// Rows of such a block, at most.
const ROWS_OF_BLOCK: usize = 64;

/// Which step of which virtual worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub(crate) epoch: u32,
    pub(crate) step: u32,
    pub(crate) vworker: u16,
}

/// A virtual worker's part of a step.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Below 64.
    pub vworker: u16,
    /// By user: items, as rows of the step's table, with confidences.
    pub histories: &'a Adjacency,
    /// The users of the step, as rows of the histories.
    pub users: &'a [u32],
}

/// What a step is computed from.
#[derive(Debug)]
pub struct Step<'a> {
    pub(super) settings: &'a Settings,
    pub(super) kernel: Kernel,
    table: &'a [f32],
    pub(super) negatives: &'a Negatives,
    /// Of the negatives, and what a target counts, by row of the table; 1 where there is none.
    pub(super) weights: Cow<'a, [f32]>,
    pub(super) odds: Option<&'a [f32]>,
    pub(super) loss: Loss,
    pub(super) tower: Option<&'a Mlp>,
    pub(super) stride: usize,
    room: Option<&'a Room>,
}

/// Gradients of targets by virtual worker.
type Targets = Vec<(u16, Gradients)>;

/// Memory that one run leaves for the next, and a step for the one after it: megabytes that the system would else clear page by page.
#[derive(Debug, Default)]
pub struct Room {
    shares: Pool,
    gradients: Pool,
}

#[derive(Debug, Default)]
struct Pool(Mutex<Vec<Vec<f32>>>);

/// What runs push, added up as they come: as many gradients of all negatives are there at a time as the tree has levels and there are threads.
struct Roots<'a> {
    /// Roots whose siblings are still to come.
    waiting: Mutex<Vec<tree::Node<Push>>>,
    room: &'a Room,
}

/// Memory of a thread, used again and again.
struct Scratch<'a> {
    sums: Accumulator,
    shares: Vec<f32>,
    room: &'a Room,
}

impl Pool {
    fn take(&self) -> Vec<f32> {
        self.left().pop().unwrap_or_default()
    }

    fn leave(&self, memory: Vec<f32>) {
        self.left().push(memory);
    }

    fn left(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.room.shares.leave(std::mem::take(&mut self.shares));
    }
}

impl Roots<'_> {
    /// Adds a node to its sibling, if that is there, and the sum to its own: what [`tree::fold`] gives, whoever comes first.
    fn push(&self, node: tree::Node<Push>) {
        let mut next = Some(node);
        while let Some(node) = next {
            next = self.paired(node).map(|(mut left, right)| {
                self.room.gradients.leave(left.value.absorb(right.value));
                tree::Node { level: left.level + 1, index: left.index / 2, value: left.value }
            });
        }
    }

    /// The node and its sibling, in their order; none where the node has to wait for it.
    fn paired(&self, node: tree::Node<Push>) -> Option<(tree::Node<Push>, tree::Node<Push>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let place = waiting.iter().position(|other| other.level == node.level && other.index == node.index ^ 1);
        let Some(place) = place else {
            waiting.push(node);
            return None;
        };
        let sibling = waiting.swap_remove(place);
        Some(if sibling.index < node.index { (sibling, node) } else { (node, sibling) })
    }

    /// The roots, by their first leaf.
    fn into_nodes(self) -> Vec<tree::Node<Push>> {
        tree::fold(self.waiting.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<'a> Step<'a> {
    /// `table`: rows of items, `dim` values each.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Shape`].
    pub fn new(
        settings: &'a Settings,
        kernel: Kernel,
        table: &'a [f32],
        negatives: &'a Negatives,
    ) -> Result<Self, Error> {
        settings.validate()?;
        let dim = usize::from(settings.dim);
        shape("item rows", table.len() / dim * dim, table.len())?;
        shape("rows of negatives", dim, negatives.dim)?;
        let weights = Cow::Borrowed(&negatives.weights[..]);
        let (loss, stride) = (Loss::Softmax, stride(dim));
        Ok(Self { settings, kernel, table, negatives, weights, odds: None, loss, tower: None, stride, room: None })
    }

    /// Every item counts so many times more than by its row ([`super::odds`]), by row of the table: as a negative and as a target.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of rows, [`Error::Value`] for odds that are not finite and above 0.
    pub fn with_odds(self, odds: &'a [f32]) -> Result<Self, Error> {
        shape("odds of items", self.items(), odds.len())?;
        if !odds.iter().all(|odds| odds.is_finite() && *odds > 0.0) {
            return Err(Error::Value { what: "odds of items" });
        }
        let mut weights = self.negatives.weights.clone();
        weights.iter_mut().zip(&self.negatives.items).for_each(|(weight, item)| *weight *= odds[*item as usize]);
        Ok(Self { weights: weights.into(), odds: Some(odds), ..self })
    }

    /// What is minimised; softmax where nothing is said.
    #[must_use]
    pub fn with_loss(self, loss: Loss) -> Self {
        Self { loss, ..self }
    }

    /// Users are what `tower` makes of the direction of their histories.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tower of another dimension.
    pub fn with_tower(self, tower: Option<&'a Mlp>) -> Result<Self, Error> {
        let dim = usize::from(self.settings.dim);
        shape("inputs of the users' tower", dim, tower.map_or(dim, Mlp::dim))?;
        Ok(Self { tower, ..self })
    }

    /// Takes its memory from `room`, and leaves it there.
    #[must_use]
    pub fn in_room(self, room: &'a Room) -> Self {
        Self { room: Some(room), ..self }
    }

    /// Losses and gradients of the batches of step `step` of epoch `epoch`, both from 0: the roots of what the virtual workers, ascending, are of the
    /// tree.
    ///
    /// # Errors
    /// [`Error::Value`] for virtual workers that do not ascend or are not below 64, and for items that are not in the table.
    pub fn pushes(
        &self,
        threads: usize,
        (epoch, step): (u32, u32),
        batches: &[Batch<'_>],
    ) -> Result<Vec<tree::Node<Push>>, Error> {
        let is_one = batches.iter().all(|batch| batch.vworker < VWORKERS);
        if !is_one || batches.windows(2).any(|pair| pair[0].vworker >= pair[1].vworker) {
            return Err(Error::Value { what: "virtual workers" });
        }
        let is_item = |column: u32| (column as usize) < self.items();
        if !batches.iter().filter_map(|batch| batch.histories.column_max()).all(is_item) {
            return Err(Error::Value { what: "columns" });
        }
        let (runs, dim) = (self.runs(threads, batches), usize::from(self.settings.dim));
        let own = Room::default();
        let room = self.room.unwrap_or(&own);
        let roots = Roots { waiting: Mutex::default(), room };
        let mut targets: Vec<Targets> = runs.iter().map(|_| Targets::new()).collect();
        parallel::for_each(
            threads,
            targets.iter_mut().zip(runs).collect(),
            || Scratch { sums: Accumulator::new(dim, self.items()), shares: room.shares.take(), room },
            |scratch, (targets, run): (&mut Targets, Range<usize>)| {
                let nodes;
                (nodes, *targets) = self.run(scratch, (epoch, step), &batches[run]);
                nodes.into_iter().for_each(|node| roots.push(node));
            },
        );
        let (mut roots, targets) = (roots.into_nodes(), targets.into_iter().flatten().collect::<Targets>());
        parallel::for_each(
            threads,
            roots.iter_mut().collect(),
            || (),
            |(), root: &mut tree::Node<Push>| {
                let is_before = |end: u16| targets.partition_point(|(vworker, _)| *vworker < end);
                let (first, last) = (root.index << root.level, (root.index + 1) << root.level);
                root.value.targets = along_tree(dim, &targets[is_before(first)..is_before(last)]);
            },
        );
        Ok(roots)
    }

    fn items(&self) -> usize {
        self.table.len() / usize::from(self.settings.dim)
    }

    pub(super) fn row(&self, item: u32) -> &[f32] {
        let dim = usize::from(self.settings.dim);
        &self.table[item as usize * dim..][..dim]
    }

    /// Cuts the batches into runs, two or more for each thread: subtrees whose shares fit, or single virtual workers.
    fn runs(&self, threads: usize, batches: &[Batch<'_>]) -> Vec<Range<usize>> {
        let longest = (batches.len() / (2 * threads.max(1))).clamp(1, LEAVES_MAX);
        let rows: Vec<usize> = batches.iter().map(|batch| self.rows_of(batch)).collect();
        let pitch = pitch(self.negatives.weights.len());
        let fits = |run: &Range<usize>| {
            let first = usize::from(batches[run.start].vworker);
            // Towers pad every leaf.
            let rows = rows[run.clone()].iter().map(|rows| rows.next_multiple_of(ROWS_UNIT)).sum::<usize>();
            let last = batches.get(run.end - 1).map(|last| usize::from(last.vworker));
            first.is_multiple_of(run.len()) && last == Some(first + run.len() - 1) && rows * pitch <= SHARES_OF_RUN
        };
        let (mut runs, mut first) = (Vec::new(), 0);
        while first < batches.len() {
            let mut length = 1 << longest.min(batches.len() - first).ilog2();
            while length > 1 && !fits(&(first..first + length)) {
                length /= 2;
            }
            runs.push(first..first + length);
            first += length;
        }
        runs
    }

    /// What a run pushes: one node without targets, as a run is a subtree, and those.
    fn run(
        &self,
        scratch: &mut Scratch<'_>,
        (epoch, step): (u32, u32),
        batches: &[Batch<'_>],
    ) -> (Vec<tree::Node<Push>>, Targets) {
        let mut rows = self.gather(epoch, step, batches);
        let inputs = std::mem::take(&mut rows.x);
        let climbed = self.tower.map(|tower| (tower, tower.forward(self.kernel, inputs.clone())));
        let told = climbed.as_ref().map_or(&inputs, |(_, pass)| &pass.outputs);
        let (negatives, mut pulls) = self.tell(&mut rows, told, scratch);
        let mut targets = Vec::with_capacity(batches.len());
        let leaf = |(batch, leaf): (&Batch<'_>, &Leaf)| {
            let node = |value| tree::Node { level: 0, index: batch.vworker, value };
            if leaf.rows.is_empty() {
                return node(Push::default());
            }
            self.scatter_targets(&rows, leaf, told, &mut scratch.sums);
            let mut dense = Vec::new();
            if let Some((tower, pass)) = &climbed {
                dense = vec![0.0; tower.len()];
                let pulls = &mut pulls[leaf.rows.start * self.stride..leaf.rows.end * self.stride];
                tower.backward(self.kernel, pass, leaf.rows.start, pulls, &mut dense);
            }
            self.scatter_histories(&rows, leaf, (&inputs, &pulls), &mut scratch.sums);
            targets.push((batch.vworker, scratch.sums.take_sums()));
            node(Push { loss: leaf.loss, dense, ..Push::default() })
        };
        let mut nodes = tree::fold(batches.iter().zip(&rows.leaves).map(leaf).collect());
        if let Some(root) = nodes.first_mut() {
            root.value.negatives = negatives;
        }
        (nodes, targets)
    }

    /// Tells the rows of a run (`told`) from the negatives: the run's gradients of negatives, none where there is no row, and those of the rows.
    fn tell(&self, rows: &mut Rows, told: &[f32], scratch: &mut Scratch<'_>) -> (Vec<f32>, Vec<f32>) {
        let (stride, n, width) = (self.stride, rows.len(), self.negatives.weights.len());
        if n == 0 {
            return (Vec::new(), Vec::new());
        }
        let pitch = pitch(width);
        let is_whole = rows.leaves.len() > 1 || n * pitch <= SHARES_OF_RUN;
        let of_block = (SHARES_OF_BLOCK / pitch).clamp(ROWS_UNIT, ROWS_OF_BLOCK) / ROWS_UNIT * ROWS_UNIT;
        let of_block = if is_whole { n } else { of_block };
        let shares = &mut scratch.shares;
        shares.resize(shares.len().max(of_block * pitch), 0.0);
        let (mut negatives, mut pulls) = (scratch.room.gradients.take(), vec![0.0; n * stride]);
        negatives.clear();
        negatives.resize(width * stride, 0.0);
        let mut toward = vec![0.0; n * stride];
        // No score of unit vectors is above 1, so that is what exponentials are taken relative to.
        let scale = 1.0 / self.settings.temperature;
        let (weights, blocks) = (&*self.weights, &self.negatives.blocks[..]);
        let of_leaves: Vec<usize> = rows.leaves.iter().map(|leaf| leaf.rows.end).collect();
        for first in (0..n).step_by(of_block) {
            let block = first..n.min(first + of_block);
            let place = block.start * stride..block.end * stride;
            let (x, shares) = (&told[place.clone()], &mut shares[..block.len() * pitch]);
            self.kernel.shares(&Shares { stride, rows: x, blocks, weights, scale, shift: scale }, shares);
            self.judge(rows, (block.clone(), told), (pitch, shares), &mut toward[place.clone()]);
            self.kernel.pull(stride, pitch, shares, &self.negatives.rows, &mut pulls[place]);
            let ends = if is_whole { &of_leaves[..] } else { &[block.len()] };
            self.kernel.push(stride, pitch, shares, x, ends, &mut negatives);
        }
        pulls.iter_mut().zip(&toward).for_each(|(pull, toward)| *pull += toward);
        negatives.truncate(self.negatives.items.len() * stride);
        (negatives, pulls)
    }
}
