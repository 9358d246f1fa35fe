//! The losses: what a row's shares of the negatives become.
use super::{
    Loss,
    rows::{Rows, Target},
    step::Step,
};
use crate::arithmetic::ln;
use std::ops::Range;

/// One row of so many of a leaf has its loss by BPR told: a logarithm for each negative would cost more than all else.
const TOLD_OF_ROWS: usize = 64;

/// A row that is judged, and where what comes of it goes.
struct Judged<'a> {
    x: &'a [f32],
    /// Whether its loss is told; by softmax every row's is.
    is_told: bool,
    /// The negatives that are none of this row.
    masked: &'a [usize],
    /// Get their slopes.
    targets: &'a mut [Target],
    /// Of the negatives; become the loss's derivatives by their scores.
    shares: &'a mut [f32],
    /// Gradient of the row by its targets.
    toward: &'a mut [f32],
    loss: &'a mut [f64; 2],
}

impl Step<'_> {
    /// Judges a block of rows (`x`: all rows, as they are told from the negatives). Their shares, `pitch` apart, become the loss's derivatives by the
    /// scores of negatives; targets get their slopes, the rows their gradients by them (`toward`, those of the block), the leaves their losses.
    pub(super) fn judge(
        &self,
        rows: &mut Rows,
        (block, x): (Range<usize>, &[f32]),
        (pitch, shares): (usize, &mut [f32]),
        toward: &mut [f32],
    ) {
        let dim = usize::from(self.settings.dim);
        let outs = shares.chunks_exact_mut(pitch).zip(toward.chunks_exact_mut(self.stride));
        for (row, (shares, toward)) in block.zip(outs) {
            let (Some(user), targets) = rows.places(row) else {
                shares.fill(0.0);
                continue;
            };
            let Rows { users, targets: all, leaves, .. } = &mut *rows;
            let leaf = &mut leaves[users[user].leaf];
            let judged = Judged {
                x: &x[row * self.stride..][..dim],
                is_told: (row - leaf.rows.start).is_multiple_of(TOLD_OF_ROWS),
                masked: &users[user].masked,
                targets: &mut all[targets],
                shares: &mut shares[..self.weights.len()],
                toward: &mut toward[..dim],
                loss: &mut leaf.loss,
            };
            match self.loss {
                Loss::Softmax => self.judge_at_once(judged),
                Loss::Bpr => self.judge_each(judged),
            }
        }
    }

    fn judge_at_once(&self, Judged { x, masked, targets, shares, toward, loss, .. }: Judged<'_>) {
        masked.iter().for_each(|column| shares[*column] = 0.0);
        let others = self.kernel.sum(shares);
        let scale = 1.0 / self.settings.temperature;
        let mut factor = 0.0;
        for Target { item, weight, slope } in targets {
            let (y, weight) = (self.row(*item), *weight);
            let own = self.own(*item, x, y);
            let whole = own + others;
            loss[0] += f64::from(weight) * ln(f64::from(whole) / f64::from(own));
            loss[1] += f64::from(weight);
            factor += weight * scale / whole;
            *slope = weight * scale * others / whole;
            self.kernel.add_scaled(toward, -*slope, y);
        }
        shares.iter_mut().for_each(|share| *share *= factor);
    }

    fn judge_each(&self, Judged { x, is_told, masked, targets, shares, toward, loss }: Judged<'_>) {
        let scale = 1.0 / self.settings.temperature;
        // Without the items' odds, which are in the shares.
        let mut masses = self.negatives.weights.clone();
        masked.iter().for_each(|column| {
            masses[*column] = 0.0;
            shares[*column] = 0.0;
        });
        // Of a user with every negative there is nothing to be told from: zeros, divided by anything.
        let all = Some(self.kernel.sum(&masses)).filter(|all| *all > 0.0).unwrap_or(1.0);
        let (mut slopes, mut each) = (vec![0.0; shares.len()], vec![0.0; shares.len()]);
        for Target { item, weight, slope } in targets {
            let (y, weight) = (self.row(*item), *weight);
            let own = self.own(*item, x, y);
            let factor = weight * scale / all;
            for ((each, share), mass) in each.iter_mut().zip(&*shares).zip(&masses) {
                // m e / (e + own), as the share is m e; what is masked or padding has neither.
                *each = factor * mass * share / (share + mass * own).max(f32::MIN_POSITIVE);
            }
            slopes.iter_mut().zip(&each).for_each(|(slope, each)| *slope += each);
            *slope = self.kernel.sum(&each);
            self.kernel.add_scaled(toward, -*slope, y);
            if is_told {
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
}
