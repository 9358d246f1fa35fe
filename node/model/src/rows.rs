//! Half a pass of iALS: with one side fixed, every row of the other is a least squares problem of its own.
use crate::kernel::{Normal, RowsTask};
use crate::{Adjacency, Error, Kernel, Settings, gramian, parallel, shape};
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// The fixed side of half a pass.
pub struct HalfPass<'a> {
    settings: &'a Settings,
    kernel: Kernel,
    threads: usize,
    base: Vec<f32>,
    table: &'a [f32],
    others: u64,
    stop: &'a AtomicBool,
}

impl<'a> HalfPass<'a> {
    /// Prepares half a pass against `table` (rows of `settings.dim` values, those that the caller's adjacency names), the fixed
    /// side's whole Gramian (packed, see [`gramian`]) and its number of rows in the cluster, `others`.
    /// `stop` ends it early.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Shape`].
    pub fn new(
        settings: &'a Settings,
        kernel: Kernel,
        threads: usize,
        gramian: &[f64],
        table: &'a [f32],
        others: u64,
        stop: &'a AtomicBool,
    ) -> Result<Self, Error> {
        settings.validate()?;
        let dim = usize::from(settings.dim);
        shape("table", table.len() / dim * dim, table.len())?;
        let base = gramian::scaled(dim, gramian, settings.alpha0)?;
        Ok(Self { settings, kernel, threads, base, table, others, stop })
    }

    fn task<'t>(&'t self, adjacency: &'t Adjacency, first: usize) -> RowsTask<'t> {
        RowsTask {
            dim: usize::from(self.settings.dim),
            base: &self.base,
            table: self.table,
            adjacency,
            first,
            settings: self.settings,
            others: self.others,
            stop: self.stop,
        }
    }

    fn check(&self, adjacency: &Adjacency, rows: usize) -> Result<(), Error> {
        let dim = usize::from(self.settings.dim);
        shape("solved rows", adjacency.rows() * dim, rows)?;
        match adjacency.column_max() {
            Some(column) if column as usize >= self.table.len() / dim => Err(Error::Value { what: "columns" }),
            _ => Ok(()),
        }
    }

    /// Solves every row of `adjacency` into `out` (rows x dim values).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Value`] for input that does not fit, [`Error::Stopped`].
    pub fn solve(&self, adjacency: &Adjacency, out: &mut [f32]) -> Result<(), Error> {
        self.check(adjacency, out.len())?;
        let dim = usize::from(self.settings.dim);
        // Small tasks even out rows of very different length; a row is never split, so results do not depend on this.
        const ROWS_OF_TASK: usize = 32;
        let tasks = out.chunks_mut(ROWS_OF_TASK * dim).enumerate().collect();
        parallel::for_each(
            self.threads,
            tasks,
            || Normal::new(dim),
            |normal, (at, out)| self.kernel.solve_rows(normal, &self.task(adjacency, at * ROWS_OF_TASK), out),
        );
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }

    /// For each range of rows (a virtual worker's): the weighted squared error over its positives, and its rows'
    /// regularisation, `[sum c (1 - x.y)^2, sum reg |x|^2]`.
    ///
    /// # Errors
    /// As [`Self::solve`].
    pub fn losses(
        &self,
        adjacency: &Adjacency,
        solved: &[f32],
        ranges: &[Range<usize>],
    ) -> Result<Vec<[f64; 2]>, Error> {
        self.check(adjacency, solved.len())?;
        let dim = usize::from(self.settings.dim);
        let mut losses = vec![[0.0; 2]; ranges.len()];
        let tasks = losses.iter_mut().zip(ranges).collect();
        parallel::for_each(
            self.threads,
            tasks,
            || (),
            |(), (loss, range)| {
                let rows = solved.get(range.start * dim..range.end * dim).unwrap_or(&[]);
                *loss = self.kernel.loss_rows(&self.task(adjacency, range.start), rows);
            },
        );
        Ok(losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gaussian elimination in f64 on the equation as the documentation states it.
    fn naive(settings: &Settings, table: &[f32], positives: &[(u32, f32)], others: u64) -> Vec<f64> {
        let d = usize::from(settings.dim);
        let y = |i: usize, k: usize| f64::from(table[i * d + k]);
        let mut a = vec![vec![0.0; d + 1]; d];
        for (r, row) in a.iter_mut().enumerate() {
            for (c, value) in row.iter_mut().enumerate().take(d) {
                let all: f64 = (0..table.len() / d).map(|i| y(i, r) * y(i, c)).sum();
                let own: f64 = positives.iter().map(|&(i, w)| f64::from(w) * y(i as usize, r) * y(i as usize, c)).sum();
                *value = f64::from(settings.alpha0) * all + own;
            }
            row[r] += f64::from(settings.row_regularization(positives.len(), others));
            row[d] = positives.iter().map(|&(i, w)| f64::from(w) * y(i as usize, r)).sum();
        }
        for k in 0..d {
            let pivot = a[k].clone();
            for (_, row) in a.iter_mut().enumerate().filter(|(r, _)| *r != k) {
                let factor = row[k] / pivot[k];
                row.iter_mut().zip(&pivot).for_each(|(value, pivot)| *value -= factor * pivot);
            }
        }
        (0..d).map(|k| a[k][d] / a[k][k]).collect()
    }

    fn table(dim: usize, rows: usize) -> Vec<f32> {
        let mut table = vec![0.0; dim * rows];
        crate::init::fill(3, "table", (dim * rows) as f32, &mut table);
        table.iter_mut().for_each(|v| *v /= ((dim * rows) as f32).sqrt());
        table
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rows_agree_with_a_naive_dense_solve(
            dim in 1u16..40,
            users in prop::collection::vec(prop::collection::btree_map(0u32..30, 0.1f32..4.0, 0..25), 1..6),
        ) {
            let settings = Settings { dim, alpha0: 0.1, regularization: 0.05, ..Settings::default() };
            let table = table(usize::from(dim), 30);
            let mut adjacency = Adjacency::new();
            users.iter().for_each(|user| adjacency.push_row(user.iter().map(|(&i, &c)| (i, c))));
            let gramian = gramian::packed(Kernel::detect(), usize::from(dim), &table);
            let mut out = vec![0.0; users.len() * usize::from(dim)];
            let stop = AtomicBool::new(false);
            let pass = HalfPass::new(&settings, Kernel::detect(), 2, &gramian, &table, 30, &stop).unwrap();
            pass.solve(&adjacency, &mut out).unwrap();
            for (user, row) in users.iter().zip(out.chunks(usize::from(dim))) {
                let positives: Vec<_> = user.iter().map(|(&i, &c)| (i, c)).collect();
                for (ours, theirs) in row.iter().zip(naive(&settings, &table, &positives, 30)) {
                    prop_assert!((f64::from(*ours) - theirs).abs() < 1e-3 * (1.0 + theirs.abs()), "{} {}", ours, theirs);
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let settings = Settings { dim: 24, ..Settings::default() };
        let table = table(24, 50);
        let mut adjacency = Adjacency::new();
        for user in 0..200u32 {
            adjacency.push_row((0..50).filter(|i| (i * 7 + user) % 5 == 0).map(|i| (i, 1.0)));
        }
        let gramian = gramian::packed(Kernel::detect(), 24, &table);
        let stop = AtomicBool::new(false);
        let solve = |threads| {
            let mut out = vec![0.0f32; 200 * 24];
            let pass = HalfPass::new(&settings, Kernel::detect(), threads, &gramian, &table, 50, &stop).unwrap();
            pass.solve(&adjacency, &mut out).unwrap();
            out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(solve(1), solve(3));
    }

    #[test]
    fn a_raised_flag_stops_the_pass() {
        let settings = Settings { dim: 2, ..Settings::default() };
        let stop = AtomicBool::new(true);
        let pass = HalfPass::new(&settings, Kernel::detect(), 1, &[1.0, 0.0, 1.0], &[1.0, 0.0], 1, &stop).unwrap();
        let mut adjacency = Adjacency::new();
        adjacency.push_row([(0, 1.0)]);
        assert_eq!(pass.solve(&adjacency, &mut [0.0; 2]), Err(Error::Stopped));
    }
}
