//! What a run of virtual workers is told from the negatives by: rows, each a user without one part of its history.
use super::{
    gradients::Accumulator,
    normalise,
    random::{Purpose, Random},
    step::{Batch, Key, Step},
};
use crate::kernel::ROWS_UNIT;
use std::ops::Range;

/// The rows of a run, leaf after leaf.
#[derive(Default)]
pub(super) struct Rows {
    /// Unit vectors, `[n][stride]`, and what made them unit vectors. Zeros pad a leaf where there is a tower, and the run.
    pub(super) x: Vec<f32>,
    inverses: Vec<f32>,
    /// The row's part of the history, row after row, and where each row's ends.
    pub(super) targets: Vec<Target>,
    ends: Vec<usize>,
    /// By row: its user, by place in `users`; none for padding.
    owners: Vec<Option<usize>>,
    pub(super) users: Vec<User>,
    pub(super) leaves: Vec<Leaf>,
}

/// An item that a row is to find.
pub(super) struct Target {
    pub(super) item: u32,
    pub(super) weight: f32,
    /// How steeply the loss falls with its score: the judge says it.
    pub(super) slope: f32,
}

/// A user of the step.
pub(super) struct User {
    rows: Range<usize>,
    pub(super) leaf: usize,
    /// The negatives that are in the history.
    pub(super) masked: Vec<usize>,
}

/// A virtual worker of the run.
#[derive(Default)]
pub(super) struct Leaf {
    pub(super) rows: Range<usize>,
    users: Range<usize>,
    pub(super) loss: [f64; 2],
}

impl Rows {
    /// Rows with their padding.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// The places of a row's user in `users`, none for padding, and of its part in `targets`.
    pub(super) fn places(&self, row: usize) -> (Option<usize>, Range<usize>) {
        let first = if row == 0 { 0 } else { self.ends[row - 1] };
        (self.owners[row], first..self.ends[row])
    }

    fn targets(&self, row: usize) -> &[Target] {
        &self.targets[self.places(row).1]
    }

    fn pad(&mut self, stride: usize) {
        while !self.len().is_multiple_of(ROWS_UNIT) {
            self.owners.push(None);
            self.ends.push(self.targets.len());
            self.inverses.push(0.0);
        }
        self.x.resize(self.len() * stride, 0.0);
    }
}

impl Step<'_> {
    /// Rows that a batch makes.
    pub(super) fn rows_of(&self, batch: &Batch<'_>) -> usize {
        let of = |user: &u32| match batch.histories.row(*user as usize).0.len() {
            // A history of one has nothing to be told by.
            0 | 1 => 0,
            length => length.min(self.settings.folds.into()),
        };
        batch.users.iter().map(of).sum()
    }

    /// The rows of a run's batches.
    pub(super) fn gather(&self, epoch: u32, step: u32, batches: &[Batch<'_>]) -> Rows {
        let mut rows = Rows::default();
        for batch in batches {
            let (row, user) = (rows.len(), rows.users.len());
            self.gather_leaf(Key { epoch, step, vworker: batch.vworker }, batch, &mut rows);
            if self.tower.is_some() {
                rows.pad(self.stride);
            }
            rows.leaves.push(Leaf { rows: row..rows.len(), users: user..rows.users.len(), loss: [0.0; 2] });
        }
        rows.pad(self.stride);
        rows
    }

    /// Cuts the histories into parts and makes a row for each: the user without that part.
    fn gather_leaf(&self, key: Key, batch: &Batch<'_>, rows: &mut Rows) {
        let dim = usize::from(self.settings.dim);
        let mut random = Random::new(self.settings.seed, Purpose::Folds, key.epoch, key.step, key.vworker);
        let (mut total, mut order) = (vec![0.0; dim], Vec::new());
        for &user in batch.users {
            let (items, confidences) = batch.histories.row(user as usize);
            if items.len() < 2 {
                continue;
            }
            let folds = usize::from(self.settings.folds).min(items.len());
            order.clear();
            order.extend(0..items.len());
            random.shuffle(&mut order);
            total.fill(0.0);
            for (item, confidence) in items.iter().zip(confidences) {
                self.kernel.add_scaled(&mut total, *confidence, self.row(*item));
            }
            let first = rows.len();
            for fold in 0..folds {
                rows.owners.push(Some(rows.users.len()));
                rows.x.extend_from_slice(&total);
                rows.x.resize(rows.len() * self.stride, 0.0);
                let x = &mut rows.x[(first + fold) * self.stride..][..dim];
                for at in order.iter().skip(fold).step_by(folds) {
                    let (item, weight) = (items[*at], confidences[*at]);
                    self.kernel.add_scaled(x, -weight, self.row(item));
                    rows.targets.push(Target { item, weight, slope: 0.0 });
                }
                rows.ends.push(rows.targets.len());
                rows.inverses.push(normalise(self.kernel, x));
            }
            let masked = items.iter().filter_map(|item| self.negatives.items.binary_search(item).ok()).collect();
            let (rows_of, leaf) = (first..first + folds, rows.leaves.len());
            rows.users.push(User { rows: rows_of, leaf, masked });
        }
    }

    /// Adds a leaf's gradients of targets by rows as they were told (`told`).
    pub(super) fn scatter_targets(&self, rows: &Rows, leaf: &Leaf, told: &[f32], sums: &mut Accumulator) {
        for row in leaf.rows.clone() {
            let x = &told[row * self.stride..][..self.settings.dim.into()];
            for target in rows.targets(row) {
                self.kernel.add_scaled(sums.row(target.item), -target.slope, x);
            }
        }
    }

    /// Takes the gradients of a leaf's rows back through the normalisation to the histories they were summed from (`x`: the rows as they were).
    pub(super) fn scatter_histories(
        &self,
        rows: &Rows,
        leaf: &Leaf,
        (x, pulls): (&[f32], &[f32]),
        sums: &mut Accumulator,
    ) {
        let dim = usize::from(self.settings.dim);
        let (mut own, mut total, mut others) = (Vec::new(), vec![0.0; dim], vec![0.0; dim]);
        for user in &rows.users[leaf.users.clone()] {
            own.clear();
            total.fill(0.0);
            for row in user.rows.clone() {
                let (pull, x) = (&pulls[row * self.stride..][..dim], &x[row * self.stride..][..dim]);
                let along = self.kernel.dot(pull, x);
                own.extend(pull.iter().zip(x).map(|(pull, x)| (pull - along * x) * rows.inverses[row]));
                self.kernel.add_scaled(&mut total, 1.0, &own[own.len() - dim..]);
            }
            for (row, own) in user.rows.clone().zip(own.chunks_exact(dim)) {
                others.copy_from_slice(&total);
                self.kernel.add_scaled(&mut others, -1.0, own);
                for target in rows.targets(row) {
                    self.kernel.add_scaled(sums.row(target.item), target.weight, &others);
                }
            }
        }
    }
}
