//! One virtual worker's part of a step: loss and gradients of a batch of users.
//!
//! All rows of a batch are told from the negatives by three matrix products (scores, gradients of users, gradients of negatives) in blocks of
//! rows; what is left, targets and histories, is sparse.
use super::{
    Loss, Settings, add_scaled,
    gradients::{Accumulator, Gradients},
    normalise,
    random::{Purpose, Random},
};
use crate::kernel::{ROWS_UNIT, Shares, pitch, stride};
use crate::{Adjacency, Error, Kernel, arithmetic::ln, shape, tower::Mlp, tree::Sum};
use std::{borrow::Cow, ops::Range};

/// Shares of a block of rows, at most: 1 MiB. A quarter of it, for the second-level cache, was no faster with few rows a step and slower with many.
const SHARES_OF_BLOCK: usize = 262_144;
/// Rows of a block, at most.
const ROWS_OF_BLOCK: usize = 64;
/// One row of so many has its loss by BPR told: a logarithm for each negative would cost more than all else.
const TOLD_OF_ROWS: usize = 64;

/// The negatives of a step, the same for all virtual workers.
#[derive(Debug)]
pub struct Negatives {
    dim: usize,
    items: Vec<u32>,
    /// `[width][stride]`, and in blocks of 16, `[block][stride][16]`; padding is zero.
    rows: Vec<f32>,
    blocks: Vec<f32>,
    weights: Vec<f32>,
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

    /// An owner's part of a push: that of the items that it calls `number(item)`; that must ascend with the items.
    #[must_use]
    pub fn part(&self, push: &Push, number: impl Fn(u32) -> Option<u32>) -> Push {
        let rows = self.items.iter().zip(push.negatives.chunks_exact(stride(self.dim)));
        let negatives = rows.filter(|(item, _)| number(**item).is_some()).flat_map(|(_, row)| row).copied().collect();
        Push { targets: push.targets.part(number), negatives, loss: push.loss, ..Push::default() }
    }

    /// Whether a push is one of these negatives: it has a row for each of them, or none.
    #[must_use]
    pub fn fits(&self, push: &Push) -> bool {
        push.negatives.is_empty() || push.negatives.len() == self.items.len() * stride(self.dim)
    }

    /// What all virtual workers push together, as gradients of items.
    ///
    /// # Errors
    /// [`Error::Shape`] for a push of other negatives.
    pub fn gradients(&self, sum: Push) -> Result<Gradients, Error> {
        let stride = stride(self.dim);
        let mut gradients = sum.targets;
        if sum.negatives.is_empty() {
            return Ok(gradients);
        }
        shape("gradients of negatives", self.items.len() * stride, sum.negatives.len())?;
        let rows = sum.negatives.chunks_exact(stride).flat_map(|row| &row[..self.dim]);
        gradients.add(Gradients::from_parts(self.dim, self.items.clone(), rows.copied().collect())?);
        Ok(gradients)
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

impl Sum for Push {
    fn add(&mut self, right: Self) {
        self.targets.add(right.targets);
        if self.negatives.is_empty() {
            self.negatives = right.negatives;
        } else {
            self.negatives.iter_mut().zip(&right.negatives).for_each(|(left, right)| *left += right);
        }
        self.loss = [self.loss[0] + right.loss[0], self.loss[1] + right.loss[1]];
        self.dense.add(right.dense);
    }
}

/// Which step of which virtual worker.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// From 0.
    pub epoch: u32,
    /// From 0 in each epoch.
    pub step: u32,
    /// Below 64.
    pub vworker: u16,
}

/// What a step is computed from.
#[derive(Debug)]
pub struct Step<'a> {
    settings: &'a Settings,
    kernel: Kernel,
    histories: &'a Adjacency,
    table: &'a [f32],
    negatives: &'a Negatives,
    /// Of the negatives, and what a target counts, by row of the table; 1 where there is none.
    weights: Cow<'a, [f32]>,
    odds: Option<&'a [f32]>,
    loss: Loss,
    tower: Option<&'a Mlp>,
    stride: usize,
}

/// Memory of a thread, used again and again.
#[derive(Debug)]
pub struct Scratch {
    sums: Accumulator,
    shares: Vec<f32>,
}

/// Rows to be told from the negatives: each a user without one part of its history.
#[derive(Default)]
struct Rows {
    /// Unit vectors, `[n][stride]`, and what made them unit vectors.
    x: Vec<f32>,
    inverses: Vec<f32>,
    /// Places in the user's history of each row's part, row after row, and where each row's end.
    targets: Vec<usize>,
    ends: Vec<usize>,
    /// By row: its user, by place in `users`.
    owners: Vec<usize>,
    users: Vec<User>,
}

struct User {
    row: usize,
    rows: Range<usize>,
    /// The negatives that are in the history.
    masked: Vec<usize>,
}

/// A row that is judged, and where what comes of it goes.
struct Judged<'a> {
    row: usize,
    /// Of the negatives; become the loss's derivatives by their scores.
    shares: &'a mut [f32],
    /// Gradient of the row by its targets, and those of the targets.
    toward: &'a mut [f32],
    sums: &'a mut Accumulator,
    loss: &'a mut [f64; 2],
}

impl Rows {
    fn targets(&self, row: usize) -> &[usize] {
        let first = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.targets[first..self.ends[row]]
    }
}

impl<'a> Step<'a> {
    /// `histories`: rows of users whose columns are rows of `table` (each `dim` values), with confidences.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Shape`], [`Error::Value`] for columns that are not in the table.
    pub fn new(
        settings: &'a Settings,
        kernel: Kernel,
        histories: &'a Adjacency,
        table: &'a [f32],
        negatives: &'a Negatives,
    ) -> Result<Self, Error> {
        settings.validate()?;
        let dim = usize::from(settings.dim);
        shape("item rows", table.len() / dim * dim, table.len())?;
        shape("rows of negatives", dim, negatives.dim)?;
        if histories.column_max().is_some_and(|column| column as usize >= table.len() / dim) {
            return Err(Error::Value { what: "columns" });
        }
        let weights = Cow::Borrowed(&negatives.weights[..]);
        Ok(Self {
            settings,
            kernel,
            histories,
            table,
            negatives,
            weights,
            odds: None,
            loss: Loss::Softmax,
            tower: None,
            stride: stride(dim),
        })
    }

    /// Every item counts so many times more than by its row ([`super::odds`]), by row of the table: as a negative and as a target.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of rows, [`Error::Value`] for odds that are not finite and above 0.
    pub fn with_odds(self, odds: &'a [f32]) -> Result<Self, Error> {
        shape("odds of items", self.table.len() / usize::from(self.settings.dim), odds.len())?;
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

    /// Memory for one thread.
    #[must_use]
    pub fn scratch(&self) -> Scratch {
        let dim = usize::from(self.settings.dim);
        Scratch { sums: Accumulator::new(dim, self.table.len() / dim), shares: Vec::new() }
    }

    /// Rows of the histories.
    #[must_use]
    pub fn users(&self) -> usize {
        self.histories.rows()
    }

    fn row(&self, item: u32) -> &[f32] {
        let dim = usize::from(self.settings.dim);
        &self.table[item as usize * dim..][..dim]
    }

    /// Loss and gradients of a virtual worker's batch (`users`: rows of the histories).
    #[must_use]
    pub fn push(&self, scratch: &mut Scratch, key: Key, users: &[u32]) -> Push {
        let mut rows = self.gather(key, users);
        let mut push = Push::default();
        if rows.ends.is_empty() {
            return push;
        }
        let padded = rows.ends.len().next_multiple_of(ROWS_UNIT);
        rows.x.resize(padded * self.stride, 0.0);
        let climbed = self.tower.map(|tower| {
            let pass = tower.forward(self.kernel, std::mem::take(&mut rows.x));
            rows.x.clone_from(&pass.outputs);
            (tower, pass)
        });
        push.negatives = vec![0.0; self.negatives.rows.len()];
        let pitch = pitch(self.negatives.weights.len());
        let of_block = (SHARES_OF_BLOCK / pitch).clamp(ROWS_UNIT, ROWS_OF_BLOCK) / ROWS_UNIT * ROWS_UNIT;
        scratch.shares.resize(of_block * pitch, 0.0);
        let mut pulls = vec![0.0; padded * self.stride];
        for first in (0..padded).step_by(of_block) {
            let block = first..padded.min(first + of_block);
            let pull = &mut pulls[block.start * self.stride..block.end * self.stride];
            self.block(&rows, block, scratch, pull, &mut push);
        }
        push.negatives.truncate(self.negatives.items.len() * self.stride);
        if let Some((tower, pass)) = climbed {
            push.dense = vec![0.0; tower.len()];
            tower.backward(self.kernel, &pass, &mut pulls, &mut push.dense);
            rows.x = pass.inputs;
        }
        self.scatter(&rows, &pulls, &mut scratch.sums);
        push.targets = scratch.sums.take();
        push
    }

    /// Cuts the histories into parts and makes a row for each: the user without that part.
    fn gather(&self, key: Key, users: &[u32]) -> Rows {
        let dim = usize::from(self.settings.dim);
        let mut random = Random::new(self.settings.seed, Purpose::Folds, key.epoch, key.step, key.vworker);
        let mut rows = Rows::default();
        let (mut total, mut order) = (vec![0.0; dim], Vec::new());
        // A history of one has nothing to be told by.
        for &user in users.iter().filter(|user| self.histories.row(**user as usize).0.len() > 1) {
            let (items, confidences) = self.histories.row(user as usize);
            let folds = usize::from(self.settings.folds).min(items.len());
            order.clear();
            order.extend(0..items.len());
            random.shuffle(&mut order);
            total.fill(0.0);
            for (item, confidence) in items.iter().zip(confidences) {
                add_scaled(&mut total, *confidence, self.row(*item));
            }
            let first = rows.ends.len();
            for fold in 0..folds {
                rows.targets.extend(order.iter().skip(fold).step_by(folds));
                rows.ends.push(rows.targets.len());
                rows.owners.push(rows.users.len());
                rows.x.extend_from_slice(&total);
                rows.x.resize(rows.ends.len() * self.stride, 0.0);
                let x = &mut rows.x[(first + fold) * self.stride..][..dim];
                for at in order.iter().skip(fold).step_by(folds) {
                    add_scaled(x, -confidences[*at], self.row(items[*at]));
                }
                rows.inverses.push(normalise(self.kernel, x));
            }
            let masked = items.iter().filter_map(|item| self.negatives.items.binary_search(item).ok()).collect();
            rows.users.push(User { row: user as usize, rows: first..first + folds, masked });
        }
        rows
    }

    /// Tells a block of rows from the negatives: their gradients by row into `pull`, those of negatives and targets are added up.
    fn block(&self, rows: &Rows, block: Range<usize>, scratch: &mut Scratch, pull: &mut [f32], push: &mut Push) {
        let pitch = pitch(self.negatives.weights.len());
        let x = &rows.x[block.start * self.stride..block.end * self.stride];
        let shares = &mut scratch.shares[..block.len() * pitch];
        let scale = 1.0 / self.settings.temperature;
        let (Negatives { blocks, rows: negatives, .. }, weights) = (self.negatives, &*self.weights);
        // No score of unit vectors is above 1, so that is what exponentials are taken relative to.
        let task = Shares { stride: self.stride, rows: x, blocks, weights, scale, shift: scale };
        self.kernel.shares(&task, shares);
        let mut toward_targets = vec![0.0; pull.len()];
        for (at, shares) in shares.chunks_exact_mut(pitch).enumerate() {
            if block.start + at < rows.ends.len() {
                let toward = &mut toward_targets[at * self.stride..][..usize::from(self.settings.dim)];
                let judge = match self.loss {
                    Loss::Softmax => Self::judge_at_once,
                    Loss::Bpr => Self::judge_each,
                };
                let (row, shares) = (block.start + at, &mut shares[..weights.len()]);
                judge(self, rows, Judged { row, shares, toward, sums: &mut scratch.sums, loss: &mut push.loss });
            } else {
                shares.fill(0.0);
            }
        }
        self.kernel.pull(self.stride, pitch, shares, negatives, pull);
        pull.iter_mut().zip(&toward_targets).for_each(|(pull, toward)| *pull += toward);
        self.kernel.push(self.stride, pitch, shares, x, &mut push.negatives);
    }

    /// One row: turns its shares into the loss's derivatives by the scores of negatives, and adds what its targets give.
    fn judge_at_once(&self, rows: &Rows, Judged { row, shares, toward, sums, loss }: Judged<'_>) {
        let user = &rows.users[rows.owners[row]];
        user.masked.iter().for_each(|column| shares[*column] = 0.0);
        let others = sum_of(shares);
        let scale = 1.0 / self.settings.temperature;
        let x = &rows.x[row * self.stride..][..toward.len()];
        let (items, confidences) = self.histories.row(user.row);
        let mut factor = 0.0;
        for at in rows.targets(row) {
            let (y, weight) = (self.row(items[*at]), confidences[*at]);
            let own = self.own(items[*at], x, y);
            let whole = own + others;
            loss[0] += f64::from(weight) * ln(f64::from(whole) / f64::from(own));
            loss[1] += f64::from(weight);
            factor += weight * scale / whole;
            let slope = weight * scale * others / whole;
            add_scaled(toward, -slope, y);
            add_scaled(sums.row(items[*at]), -slope, x);
        }
        shares.iter_mut().for_each(|share| *share *= factor);
    }

    /// The same by BPR.
    fn judge_each(&self, rows: &Rows, Judged { row, shares, toward, sums, loss }: Judged<'_>) {
        let user = &rows.users[rows.owners[row]];
        let scale = 1.0 / self.settings.temperature;
        let x = &rows.x[row * self.stride..][..toward.len()];
        let (items, confidences) = self.histories.row(user.row);
        // Without the items' odds, which are in the shares.
        let mut masses = self.negatives.weights.clone();
        user.masked.iter().for_each(|column| {
            masses[*column] = 0.0;
            shares[*column] = 0.0;
        });
        // Of a user with every negative there is nothing to be told from: zeros, divided by anything.
        let all = Some(sum_of(&masses)).filter(|all| *all > 0.0).unwrap_or(1.0);
        let (mut slopes, mut each) = (vec![0.0; shares.len()], vec![0.0; shares.len()]);
        for at in rows.targets(row) {
            let (y, weight) = (self.row(items[*at]), confidences[*at]);
            let own = self.own(items[*at], x, y);
            let factor = weight * scale / all;
            for ((each, share), mass) in each.iter_mut().zip(&*shares).zip(&masses) {
                // m e / (e + own), as the share is m e; what is masked or padding has neither.
                *each = factor * mass * share / (share + mass * own).max(f32::MIN_POSITIVE);
            }
            slopes.iter_mut().zip(&each).for_each(|(slope, each)| *slope += each);
            let slope = sum_of(&each);
            add_scaled(toward, -slope, y);
            add_scaled(sums.row(items[*at]), -slope, x);
            if row.is_multiple_of(TOLD_OF_ROWS) {
                let told = shares.iter().zip(&masses).filter(|(_, mass)| **mass > 0.0).map(|(share, mass)| {
                    f64::from(*mass) * ln(1.0 + f64::from(*share) / (f64::from(*mass) * f64::from(own)))
                });
                loss[0] += f64::from(weight) * told.sum::<f64>() / f64::from(all);
                loss[1] += f64::from(weight);
            }
        }
        shares.copy_from_slice(&slopes);
    }

    /// What an item counts for a row: its odds times the exponential of its score.
    fn own(&self, item: u32, x: &[f32], y: &[f32]) -> f32 {
        let scale = 1.0 / self.settings.temperature;
        self.odds.map_or(1.0, |odds| odds[item as usize]) * self.kernel.exp(scale * self.kernel.dot(x, y) - scale)
    }

    /// Takes the rows' gradients back through the normalisation to the histories they were summed from.
    fn scatter(&self, rows: &Rows, pulls: &[f32], sums: &mut Accumulator) {
        let dim = usize::from(self.settings.dim);
        let (mut own, mut total, mut others) = (Vec::new(), vec![0.0; dim], vec![0.0; dim]);
        for user in &rows.users {
            own.clear();
            total.fill(0.0);
            for row in user.rows.clone() {
                let (pull, x) = (&pulls[row * self.stride..][..dim], &rows.x[row * self.stride..][..dim]);
                let along = self.kernel.dot(pull, x);
                own.extend(pull.iter().zip(x).map(|(pull, x)| (pull - along * x) * rows.inverses[row]));
                add_scaled(&mut total, 1.0, &own[own.len() - dim..]);
            }
            let (items, confidences) = self.histories.row(user.row);
            for (row, own) in user.rows.clone().zip(own.chunks_exact(dim)) {
                others.copy_from_slice(&total);
                add_scaled(&mut others, -1.0, own);
                for at in rows.targets(row) {
                    add_scaled(sums.row(items[*at]), confidences[*at], &others);
                }
            }
        }
    }
}

/// The sum of a multiple of 16 values: 16 lanes, each in order, then halves added to halves.
fn sum_of(values: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    for values in values.as_chunks::<16>().0 {
        lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane += value);
    }
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|lane| lanes[lane] += lanes[lane + half]);
    }
    lanes[0]
}
