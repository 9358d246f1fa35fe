//! The loops themselves, over the vectors of a [`Set`]. `R` is the height of a register tile; it changes speed only.
pub(super) use super::conjugate::refine_rows;
pub(super) use super::gemm::{exp, pull, push, shares};
pub(super) use super::lanes::LANES;
use super::lanes::{Set, WIDE};
use crate::Adjacency;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows gathered at a time; the panel of 128 x 128 values stays in the second-level cache.
const PANEL_ROWS: usize = 128;
/// Rows and columns of a block of the Cholesky factorisation; one tile wide.
const BLOCK: usize = LANES;
/// Smallest pivot: keeps a matrix that rounding made indefinite from spreading NaN; far below any regularised diagonal.
const PIVOT_MIN: f32 = 1e-20;

/// f32 memory that starts on a cache line, so that no vector load crosses one.
pub(crate) struct Aligned {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn zeroed(len: usize) -> Self {
        let memory = vec![0.0f32; len + LANES];
        // `align_offset` may decline (it says usize::MAX); then the memory is merely slower.
        let start = memory.as_ptr().align_offset(64).min(LANES);
        Self { memory, start, len }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Memory for one normal equation `A x = b`: upper triangle of A (stride x stride, row-major), b or x, a panel of rows.
pub(crate) struct Normal {
    dim: usize,
    stride: usize,
    matrix: Aligned,
    rhs: Aligned,
    panel: Aligned,
}

impl Normal {
    pub(crate) fn new(dim: usize) -> Self {
        let stride = super::stride(dim);
        Self {
            dim,
            stride,
            matrix: Aligned::zeroed(stride * stride),
            rhs: Aligned::zeroed(stride),
            panel: Aligned::zeroed(PANEL_ROWS * stride),
        }
    }

    /// `A = base + regularization I`, `b = 0`; `base` has the stride's shape.
    #[inline(always)]
    pub(crate) fn begin(&mut self, base: &[f32], regularization: f32) {
        let stride = self.stride;
        for (i, (row, base)) in self.matrix.chunks_exact_mut(stride).zip(base.chunks_exact(stride)).enumerate() {
            let first = i / LANES * LANES;
            row[first..].copy_from_slice(&base[first..]);
            row[i] += regularization;
        }
        self.rhs.fill(0.0);
    }

    /// The solution, `dim` values.
    pub(crate) fn solution(&self) -> &[f32] {
        &self.rhs[..self.dim]
    }
}

/// A run of rows to solve, or to measure.
pub(crate) struct RowsTask<'a> {
    pub(crate) dim: usize,
    /// alpha0 times the fixed side's Gramian, stride x stride.
    pub(crate) base: &'a [f32],
    /// The same as [`super::blocks`] lays it out.
    pub(crate) blocks: &'a [f32],
    /// The fixed side: rows of `dim` values.
    pub(crate) table: &'a [f32],
    pub(crate) adjacency: &'a Adjacency,
    /// First row of the run; its length is that of the output.
    pub(crate) first: usize,
    /// The row's regularisation from its number of positives.
    pub(crate) settings: &'a crate::Settings,
    pub(crate) others: u64,
    pub(crate) stop: &'a AtomicBool,
}

/// Solves the rows `first..` into `out` (`dim` values each). A row without positives becomes zero, its optimum.
#[inline(always)]
pub(super) fn solve_rows<S: Set, const R: usize>(set: S, normal: &mut Normal, task: &RowsTask<'_>, out: &mut [f32]) {
    for (row, out) in (task.first..).zip(out.chunks_exact_mut(task.dim)) {
        if task.stop.load(Ordering::Relaxed) {
            return;
        }
        let (columns, confidences) = task.adjacency.row(row);
        if columns.is_empty() {
            out.fill(0.0);
            continue;
        }
        normal.begin(task.base, task.settings.row_regularization(columns.len(), task.others));
        for (columns, confidences) in columns.chunks(PANEL_ROWS).zip(confidences.chunks(PANEL_ROWS)) {
            for (at, (&column, &confidence)) in columns.iter().zip(confidences).enumerate() {
                gather(set, normal, at, &task.table[column as usize * task.dim..][..task.dim], confidence);
            }
            let Normal { stride, matrix, panel, .. } = normal;
            add_panel::<S, R, false>(set, &panel[..columns.len() * *stride], *stride, 0, matrix);
        }
        factor::<S, R>(set, normal);
        let Normal { matrix, rhs, dim, stride, .. } = normal;
        substitute(set, matrix, *dim, *stride, rhs);
        out.copy_from_slice(normal.solution());
    }
}

/// Puts `sqrt(confidence) row` into the panel and adds `confidence row` to b.
#[inline(always)]
fn gather<S: Set>(set: S, normal: &mut Normal, at: usize, row: &[f32], confidence: f32) {
    let Normal { stride, panel, rhs, .. } = normal;
    let line = &mut panel[at * *stride..][..row.len()];
    if confidence == 1.0 {
        line.copy_from_slice(row);
    } else {
        let root = confidence.sqrt();
        for (line, &value) in line.iter_mut().zip(row) {
            *line = root * value;
        }
    }
    let rhs = &mut rhs[..row.len()];
    let (whole, tail) = row.as_chunks::<LANES>();
    let weight = set.splat(confidence);
    for (row, sum) in whole.iter().zip(rhs.as_chunks_mut().0) {
        set.store(set.fused(weight, set.load(row), set.load(sum)), sum);
    }
    for (at, value) in (whole.len() * LANES..).zip(tail) {
        rhs[at] = confidence.mul_add(*value, rhs[at]);
    }
}

/// `tile += left right^T` (or `-=`), one fused multiply-add per element.
#[inline(always)]
pub(super) fn multiply<S: Set, const R: usize, const SUBTRACT: bool>(
    set: S,
    left: &[f32; R],
    right: &[f32; LANES],
    tile: &mut [S::Lanes; R],
) {
    let right = set.load(right);
    for r in 0..R {
        let left = if SUBTRACT { -left[r] } else { left[r] };
        tile[r] = set.fused(set.splat(left), right, tile[r]);
    }
}

/// A tile whose rows begin `pitch` apart in `from`.
#[inline(always)]
pub(super) fn tile_at<S: Set, const R: usize>(set: S, from: &[f32], pitch: usize) -> [S::Lanes; R] {
    let mut tile = [set.splat(0.0); R];
    for r in 0..R {
        if let Some(from) = from[r * pitch..].first_chunk() {
            tile[r] = set.load(from);
        }
    }
    tile
}

/// Puts a tile back.
#[inline(always)]
pub(super) fn put_tile<S: Set, const R: usize>(set: S, tile: &[S::Lanes; R], to: &mut [f32], pitch: usize) {
    for r in 0..R {
        if let Some(to) = to[r * pitch..].first_chunk_mut() {
            set.store(tile[r], to);
        }
    }
}

/// Upper triangle of `matrix += P^T P` (or `-=`), where `matrix` begins at row `first` of the square and P is `panel`,
/// rows of `stride` values. Tiles on the diagonal also write below it; nobody reads there.
#[inline(always)]
fn add_panel<S: Set, const R: usize, const SUBTRACT: bool>(
    set: S,
    panel: &[f32],
    stride: usize,
    first: usize,
    matrix: &mut [f32],
) {
    for i in (first..stride).step_by(R) {
        for j in (i / LANES * LANES..stride).step_by(LANES) {
            let corner = &mut matrix[(i - first) * stride + j..];
            let mut tile = tile_at::<S, R>(set, corner, stride);
            let mut at = 0;
            while at < panel.len() {
                let (Some(left), Some(right)) = (panel[at + i..].first_chunk::<R>(), panel[at + j..].first_chunk())
                else {
                    break;
                };
                multiply::<S, R, SUBTRACT>(set, left, right, &mut tile);
                at += stride;
            }
            put_tile(set, &tile, corner, stride);
        }
    }
}

/// `to += factor from`; both a multiple of [`LANES`] long.
#[inline(always)]
pub(super) fn add<S: Set>(set: S, factor: f32, from: &[f32], to: &mut [f32]) {
    let (from, to) = (from.as_chunks().0, to.as_chunks_mut().0);
    let factor = set.splat(factor);
    for at in 0..from.len().min(to.len()) {
        let sum = set.fused(factor, set.load(&from[at]), set.load(&to[at]));
        set.store(sum, &mut to[at]);
    }
}

/// `A = U^T U` in place, blocked and right-looking: a finished block of rows of U is itself the panel that the rest of
/// A is updated with.
#[inline(always)]
fn factor<S: Set, const R: usize>(set: S, normal: &mut Normal) {
    let Normal { dim, stride, matrix, .. } = normal;
    let (dim, stride) = (*dim, *stride);
    for first in (0..dim).step_by(BLOCK) {
        let (done, rest) = matrix.split_at_mut((first + BLOCK) * stride);
        let block = &mut done[first * stride..];
        for k in 0..BLOCK.min(dim - first) {
            let (above, below) = block.split_at_mut((k + 1) * stride);
            let row = &mut above[k * stride + first..];
            let pivot = row[k].max(PIVOT_MIN).sqrt();
            let inverse = 1.0 / pivot;
            for value in row.iter_mut() {
                *value *= inverse;
            }
            row[..k].fill(0.0);
            row[k] = pivot;
            for i in k + 1..BLOCK {
                let lower = &mut below[(i - k - 1) * stride + first..(i - k) * stride];
                add(set, -row[i], row, lower);
            }
        }
        add_panel::<S, R, true>(set, block, stride, first + BLOCK, rest);
    }
}

/// Solves `U^T U x = b` in place of b; the padding of `rhs` stays zero.
///
/// [`factor`] left zeros before the diagonal within its block, so vectors may start at the block's edge.
#[inline(always)]
fn substitute<S: Set>(set: S, matrix: &[f32], dim: usize, stride: usize, rhs: &mut [f32]) {
    for k in 0..dim {
        let edge = k / LANES * LANES;
        let row = &matrix[k * stride..(k + 1) * stride];
        let solved = rhs[k] / row[k];
        add(set, -solved, &row[edge..], &mut rhs[edge..stride]);
        rhs[k] = solved;
    }
    for k in (0..dim).rev() {
        let edge = k / LANES * LANES;
        let row = &matrix[k * stride..(k + 1) * stride];
        let right = std::mem::take(&mut rhs[k]);
        rhs[k] = (right - dot(set, &row[edge..], &rhs[edge..stride])) / row[k];
    }
}

/// Inner product of equally long slices: 16 lanes, each in order, then halves added to halves.
#[inline(always)]
pub(super) fn dot<S: Set>(set: S, left: &[f32], right: &[f32]) -> f32 {
    let (left_tail, right_tail) = (left.as_chunks::<LANES>().1, right.as_chunks::<LANES>().1);
    let (left, right) = (left.as_chunks().0, right.as_chunks().0);
    let mut sum = set.splat(0.0);
    for at in 0..left.len().min(right.len()) {
        sum = set.fused(set.load(&left[at]), set.load(&right[at]), sum);
    }
    let mut lanes = [0f32; LANES];
    set.store(sum, &mut lanes);
    for lane in 0..left_tail.len().min(right_tail.len()).min(LANES) {
        lanes[lane] = left_tail[lane].mul_add(right_tail[lane], lanes[lane]);
    }
    halved(lanes)
}

/// The sum of a multiple of 16 values, in the order of [`dot`].
#[inline(always)]
pub(super) fn sum<S: Set>(set: S, values: &[f32]) -> f32 {
    let mut sum = set.splat(0.0);
    for values in values.as_chunks().0 {
        sum = set.add(sum, set.load(values));
    }
    let mut lanes = [0f32; LANES];
    set.store(sum, &mut lanes);
    halved(lanes)
}

/// Halves added to halves.
#[inline(always)]
fn halved(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Sum over the run's rows of `c (1 - x.y)^2` over positives.
#[inline(always)]
pub(super) fn error_rows<S: Set>(set: S, task: &RowsTask<'_>, solved: &[f32]) -> f64 {
    let mut error = 0f64;
    for (row, x) in (task.first..).zip(solved.chunks_exact(task.dim)) {
        let (columns, confidences) = task.adjacency.row(row);
        for (&column, &confidence) in columns.iter().zip(confidences) {
            let y = &task.table[column as usize * task.dim..][..task.dim];
            let miss = 1.0 - f64::from(dot(set, x, y));
            error += f64::from(confidence) * miss * miss;
        }
    }
    error
}

/// `to += factor from`, each product rounded before it is added.
#[inline(always)]
pub(super) fn add_scaled<S: Set>(set: S, to: &mut [f32], factor: f32, from: &[f32]) {
    let ((to, to_tail), (from, from_tail)) = (to.as_chunks_mut::<LANES>(), from.as_chunks::<LANES>());
    let lanes = set.splat(factor);
    for at in 0..to.len().min(from.len()) {
        let moved = set.add(set.load(&to[at]), set.multiply(lanes, set.load(&from[at])));
        set.store(moved, &mut to[at]);
    }
    for at in 0..to_tail.len().min(from_tail.len()) {
        to_tail[at] += factor * from_tail[at];
    }
}

/// Sum over the run's rows of `reg |x|^2`.
#[inline(always)]
pub(super) fn penalty_rows<S: Set>(_: S, task: &RowsTask<'_>, solved: &[f32]) -> f64 {
    let mut penalty = 0f64;
    for (row, x) in (task.first..).zip(solved.chunks_exact(task.dim)) {
        let squares: f64 = x.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        let positives = task.adjacency.row(row).0.len();
        penalty += f64::from(task.settings.row_regularization(positives, task.others)) * squares;
    }
    penalty
}

/// `sum += rows^T rows` in f64: the product of two f32 is exact there, so only the order of additions matters, and it is
/// that of the rows; a fused multiply-add rounds exactly as a product and a sum would.
#[inline(always)]
pub(super) fn gramian_rows<S: Set, const R: usize>(set: S, dim: usize, rows: &[f32], sum: &mut [f64]) {
    const DEPTH: usize = 64;
    let stride = super::stride(dim);
    // [block of columns][row][column]: a tile's two operands are contiguous, whatever the dimension.
    let mut panel = vec![0f64; DEPTH * stride];
    for rows in rows.chunks(DEPTH * dim) {
        let count = rows.len() / dim;
        for (at, row) in rows.chunks_exact(dim).enumerate() {
            for (block, row) in row.chunks(WIDE).enumerate() {
                let line = &mut panel[(block * DEPTH + at) * WIDE..][..row.len()];
                for (line, &value) in line.iter_mut().zip(row) {
                    *line = f64::from(value);
                }
            }
        }
        for i in (0..stride).step_by(R) {
            let left = panel[i / WIDE * DEPTH * WIDE..].as_chunks::<WIDE>().0;
            for j in (i / WIDE * WIDE..stride).step_by(WIDE) {
                let right = panel[j * DEPTH..].as_chunks::<WIDE>().0;
                let mut tile = [set.splat_wide(0.0); R];
                for r in 0..R {
                    if let Some(sum) = sum[(i + r) * stride + j..].first_chunk() {
                        tile[r] = set.load_wide(sum);
                    }
                }
                for (left, right) in left.iter().zip(right).take(count) {
                    let Some(left) = left[i % WIDE..].first_chunk::<R>() else { break };
                    let right = set.load_wide(right);
                    for r in 0..R {
                        tile[r] = set.fused_wide(set.splat_wide(left[r]), right, tile[r]);
                    }
                }
                for r in 0..R {
                    if let Some(out) = sum[(i + r) * stride + j..].first_chunk_mut() {
                        set.store_wide(tile[r], out);
                    }
                }
            }
        }
    }
}

/// Adds weighted rows to an equation that [`Normal::begin`] opened, factors and solves it.
#[inline(always)]
pub(super) fn solve_one<S: Set, const R: usize>(set: S, normal: &mut Normal, weighted: &[(&[f32], f32)]) {
    for weighted in weighted.chunks(PANEL_ROWS) {
        for (at, (row, confidence)) in weighted.iter().enumerate() {
            gather(set, normal, at, row, *confidence);
        }
        let Normal { stride, matrix, panel, .. } = normal;
        add_panel::<S, R, false>(set, &panel[..weighted.len() * *stride], *stride, 0, matrix);
    }
    factor::<S, R>(set, normal);
    let Normal { matrix, rhs, dim, stride, .. } = normal;
    substitute(set, matrix, *dim, *stride, rhs);
}

#[inline(always)]
pub(super) fn solve_factored<S: Set>(set: S, normal: &Normal, rhs: &mut [f32]) {
    substitute(set, &normal.matrix, normal.dim, normal.stride, rhs);
}

/// A block of users to rank all items for.
pub(crate) struct RankTask<'a> {
    pub(crate) dim: usize,
    /// Users, rows of `dim` values.
    pub(crate) users: &'a [f32],
    /// Items in blocks of 16: `[block][dim][16]`, padded with zeros.
    pub(crate) items: &'a [f32],
    pub(crate) items_total: usize,
    /// Per user of the block: sorted items to leave out.
    pub(crate) seen: &'a [&'a [u32]],
    pub(crate) n: usize,
}

/// The `n` best items of each user, by score, ties by lower index.
#[inline(always)]
pub(super) fn rank_users<S: Set, const R: usize>(set: S, task: &RankTask<'_>) -> Vec<Vec<u32>> {
    let dim = task.dim;
    let users_total = task.users.len() / dim;
    let mut packed = vec![0f32; users_total.next_multiple_of(R) * dim];
    for (user, row) in task.users.chunks_exact(dim).enumerate() {
        for (k, &value) in row.iter().enumerate() {
            packed[user / R * R * dim + k * R + user % R] = value;
        }
    }
    let mut best: Vec<Vec<(f32, u32)>> = vec![Vec::with_capacity(task.n + 1); users_total];
    for (block, items) in task.items.chunks_exact(dim * LANES).enumerate() {
        for (group, users) in packed.chunks_exact(dim * R).enumerate() {
            let mut tile = [set.splat(0.0); R];
            let (users, items) = (users.as_chunks::<R>().0, items.as_chunks().0);
            for k in 0..dim {
                multiply::<S, R, false>(set, &users[k], &items[k], &mut tile);
            }
            let mut scores = [[0f32; LANES]; R];
            for r in 0..R {
                set.store(tile[r], &mut scores[r]);
            }
            for (user, scores) in (group * R..users_total).zip(&scores) {
                let first = (block * LANES) as u32;
                keep_best(&mut best[user], task.n, scores, first, task.items_total as u32, task.seen[user]);
            }
        }
    }
    best.into_iter().map(|best| best.into_iter().map(|(_, item)| item).collect()).collect()
}

/// Inserts those of 16 consecutive items that belong among the `n` best; items come in rising order, so an equal score
/// never displaces an earlier item.
#[inline(always)]
fn keep_best(best: &mut Vec<(f32, u32)>, n: usize, scores: &[f32; LANES], first: u32, items_total: u32, seen: &[u32]) {
    let floor = if best.len() < n { f32::NEG_INFINITY } else { best.last().map_or(f32::INFINITY, |worst| worst.0) };
    let mut any = false;
    for &score in scores {
        any |= score > floor;
    }
    if !any {
        return;
    }
    for (&score, item) in scores.iter().zip(first..items_total) {
        let full = best.len() >= n;
        if (full && best.last().is_none_or(|worst| score <= worst.0))
            || score.is_nan()
            || seen.binary_search(&item).is_ok()
        {
            continue;
        }
        let at = best.partition_point(|other| other.0 >= score);
        best.insert(at, (score, item));
        best.truncate(n);
    }
}
