//! Half a pass of iALS: with one side fixed, every row of the other is a least squares problem of its own. Training moves rows towards
//! their optimum ([`HalfPass::refine`]); what reads a finished model solves exactly ([`HalfPass::solve`]).
use crate::kernel::{self, Normal, RowsTask, Tile};
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
    blocks: Vec<f32>,
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
        let blocks = kernel::blocks(dim, &base);
        Ok(Self { settings, kernel, threads, base, blocks, table, others, stop })
    }

    fn task<'t>(&'t self, adjacency: &'t Adjacency, first: usize) -> RowsTask<'t> {
        RowsTask {
            dim: usize::from(self.settings.dim),
            base: &self.base,
            blocks: &self.blocks,
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

    /// Moves every row of `adjacency` from its value in `rows` (rows x dim values) towards its optimum: what training does, several
    /// times faster than [`Self::solve`] and no worse a model (decision 0017). The objective of a row never rises. A row's result depends on its
    /// own positives and value, on the table and the settings, on nothing else.
    ///
    /// # Errors
    /// As [`Self::solve`].
    pub fn refine(&self, adjacency: &Adjacency, rows: &mut [f32]) -> Result<(), Error> {
        let dim = usize::from(self.settings.dim);
        let scratch = || Tile::new(dim);
        self.each_run(adjacency, rows, scratch, |tile, task, rows| self.kernel.refine_rows(tile, task, rows))
    }

    /// Solves every row of `adjacency` into `out` (rows x dim values), exactly: what reads a finished model does.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Value`] for input that does not fit, [`Error::Stopped`].
    pub fn solve(&self, adjacency: &Adjacency, out: &mut [f32]) -> Result<(), Error> {
        let dim = usize::from(self.settings.dim);
        let scratch = || Normal::new(dim);
        self.each_run(adjacency, out, scratch, |normal, task, out| self.kernel.solve_rows(normal, task, out))
    }

    /// Runs `work` on all rows, a run of them at a time.
    fn each_run<S>(
        &self,
        adjacency: &Adjacency,
        rows: &mut [f32],
        scratch: impl Fn() -> S + Sync,
        work: impl Fn(&mut S, &RowsTask<'_>, &mut [f32]) + Sync,
    ) -> Result<(), Error> {
        // Small tasks even out rows of very different length; a row is never split, so results do not depend on this.
        const ROWS_OF_TASK: usize = 48;
        self.check(adjacency, rows.len())?;
        let tasks = rows.chunks_mut(ROWS_OF_TASK * usize::from(self.settings.dim)).enumerate().collect();
        parallel::for_each(self.threads, tasks, scratch, |own, (at, rows)| {
            work(own, &self.task(adjacency, at * ROWS_OF_TASK), rows);
        });
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
        let losses = |task: &RowsTask<'_>, rows: &[f32]| {
            [self.kernel.error_rows(task, rows), self.kernel.penalty_rows(task, rows)]
        };
        self.each_range(adjacency, solved, ranges, losses)
    }

    /// [`Self::losses`] without the errors, for the side whose pairs are counted on the other: they cost as much as a step of [`Self::refine`].
    ///
    /// # Errors
    /// As [`Self::solve`].
    pub fn penalties(
        &self,
        adjacency: &Adjacency,
        solved: &[f32],
        ranges: &[Range<usize>],
    ) -> Result<Vec<[f64; 2]>, Error> {
        self.each_range(adjacency, solved, ranges, |task, rows| [0.0, self.kernel.penalty_rows(task, rows)])
    }

    fn each_range(
        &self,
        adjacency: &Adjacency,
        solved: &[f32],
        ranges: &[Range<usize>],
        losses_of: impl Fn(&RowsTask<'_>, &[f32]) -> [f64; 2] + Sync,
    ) -> Result<Vec<[f64; 2]>, Error> {
        self.check(adjacency, solved.len())?;
        let dim = usize::from(self.settings.dim);
        let mut losses = vec![[0.0; 2]; ranges.len()];
        let tasks = losses.iter_mut().zip(ranges).collect();
        parallel::for_each(
            self.threads,
            tasks,
            || (),
            |(), (loss, range): (&mut [f64; 2], &Range<usize>)| {
                let rows = solved.get(range.start * dim..range.end * dim).unwrap_or(&[]);
                *loss = losses_of(&self.task(adjacency, range.start), rows);
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

    /// A table of 50 rows, and 200 rows of it: some without positives, some with many.
    fn example(dim: usize) -> (Vec<f32>, Vec<f64>, Adjacency) {
        let table = table(dim, 50);
        let mut adjacency = Adjacency::new();
        for user in 0..200u32 {
            let positives = (0..50).filter(|i| (i * 7 + user) % 5 < user % 4);
            adjacency.push_row(positives.map(|i| (i, 1.0 + (i % 3) as f32)));
        }
        let gramian = gramian::packed(Kernel::detect(), dim, &table);
        (table, gramian, adjacency)
    }

    fn bits(rows: &[f32]) -> Vec<u32> {
        rows.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn neither_threads_nor_instruction_sets_change_a_bit() {
        for dim in [1u16, 5, 16, 24, 33, 100] {
            let settings = Settings { dim, ..Settings::default() };
            let (table, gramian, adjacency) = example(usize::from(dim));
            let stop = AtomicBool::new(false);
            let mut found = Vec::new();
            for kernel in Kernel::available() {
                for threads in [1, 3] {
                    let pass = HalfPass::new(&settings, kernel, threads, &gramian, &table, 50, &stop).unwrap();
                    let mut solved = vec![0.0; 200 * usize::from(dim)];
                    pass.solve(&adjacency, &mut solved).unwrap();
                    let mut refined = vec![0.0; 200 * usize::from(dim)];
                    pass.refine(&adjacency, &mut refined).unwrap();
                    pass.refine(&adjacency, &mut refined).unwrap();
                    found.push((bits(&solved), bits(&refined)));
                }
            }
            assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "dim {dim}");
        }
    }

    #[test]
    fn a_refined_row_does_not_depend_on_the_rows_beside_it() {
        let settings = Settings { dim: 24, ..Settings::default() };
        let ((table, gramian, adjacency), stop) = (example(24), AtomicBool::new(false));
        let pass = HalfPass::new(&settings, Kernel::detect(), 1, &gramian, &table, 50, &stop).unwrap();
        let mut before = vec![0.0; 200 * 24];
        crate::init::fill(8, "before", 3.0, &mut before);
        let mut together = before.clone();
        pass.refine(&adjacency, &mut together).unwrap();
        for (row, (before, together)) in before.chunks_mut(24).zip(together.chunks(24)).enumerate() {
            let mut alone = Adjacency::new();
            let (columns, confidences) = adjacency.row(row);
            alone.push_row(columns.iter().copied().zip(confidences.iter().copied()));
            pass.refine(&alone, before).unwrap();
            assert_eq!(bits(before), bits(together), "row {row}");
        }
    }

    #[test]
    fn refining_never_raises_the_objective_and_ends_at_the_exact_rows() {
        let settings = Settings { dim: 24, regularization: 0.05, ..Settings::default() };
        let ((table, gramian, adjacency), stop) = (example(24), AtomicBool::new(false));
        let pass = HalfPass::new(&settings, Kernel::detect(), 2, &gramian, &table, 50, &stop).unwrap();
        let mut exact = vec![0.0; 200 * 24];
        pass.solve(&adjacency, &mut exact).unwrap();
        let mut rows = vec![0.0; 200 * 24];
        crate::init::fill(9, "start", 20.0, &mut rows);
        let all = std::slice::from_ref(&(0..200));
        let objective = |rows: &[f32]| {
            let sides = gramian::packed(Kernel::detect(), 24, rows);
            let [error, penalty] = pass.losses(&adjacency, rows, all).unwrap()[0];
            assert_eq!(pass.penalties(&adjacency, rows, all).unwrap(), [[0.0, penalty]]);
            error + penalty + f64::from(settings.alpha0) * gramian::product(24, &gramian, &sides)
        };
        let (mut last, optimum) = (f64::INFINITY, objective(&exact));
        for _ in 0..20 {
            pass.refine(&adjacency, &mut rows).unwrap();
            let now = objective(&rows);
            assert!(
                now <= last + 1e-6 * optimum && now >= optimum - 1e-6 * optimum,
                "{now} after {last}, at best {optimum}"
            );
            last = now;
        }
        for (refined, exact) in rows.iter().zip(&exact) {
            assert!((refined - exact).abs() < 1e-4, "{refined} {exact}");
        }
    }

    #[test]
    fn rows_at_their_optimum_or_without_positives_stay_or_become_zero() {
        let settings = Settings { dim: 2, ..Settings::default() };
        let stop = AtomicBool::new(false);
        let pass = HalfPass::new(&settings, Kernel::detect(), 1, &[0.0; 3], &[0.0, 0.0], 1, &stop).unwrap();
        let mut adjacency = Adjacency::new();
        adjacency.push_row([(0, 1.0)]);
        adjacency.push_row([]);
        let mut rows = [0.0, 0.0, 3.0, 4.0];
        pass.refine(&adjacency, &mut rows).unwrap();
        assert_eq!(rows, [0.0; 4]);
    }

    #[test]
    fn a_raised_flag_stops_the_pass() {
        let settings = Settings { dim: 2, ..Settings::default() };
        let stop = AtomicBool::new(true);
        let pass = HalfPass::new(&settings, Kernel::detect(), 1, &[1.0, 0.0, 1.0], &[1.0, 0.0], 1, &stop).unwrap();
        let mut adjacency = Adjacency::new();
        adjacency.push_row([(0, 1.0)]);
        assert_eq!(pass.solve(&adjacency, &mut [0.0; 2]), Err(Error::Stopped));
        assert_eq!(pass.refine(&adjacency, &mut [0.0; 2]), Err(Error::Stopped));
    }
}
