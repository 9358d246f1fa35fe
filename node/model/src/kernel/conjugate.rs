//! Rows moved towards their optimum by conjugate gradients, a tile of rows at a time.
//!
//! The method is that of Takács, Pilászy and Tikk, "Applications of the conjugate gradient method for implicit feedback collaborative
//! filtering" (RecSys 2011): Hestenes and Stiefel's steps from the row's last value. Theirs and implicit's are a fixed number;
//! here a row ends when its residual has shrunk to `SHARE` of what it began with, which spends the work where it is needed.
//!
//! The product with `alpha0 G`, which all rows share, is one matrix product over the rows of the tile that are not done; that with a row's own
//! positives reads each of them once, for the dot product and for the sum. Every output element is one chain of fused multiply-adds
//! whatever is in the tile beside it, and a row's end depends on its own residual, so its bits do not depend on its neighbours.
use super::{
    generic::{Aligned, RowsTask, add, dot, multiply, put_tile, tile_at},
    lanes::{LANES, Set},
};
use std::sync::atomic::Ordering;

/// Rows of a tile, a multiple of the heights of [`refine_rows`]: enough to fill register tiles when some are done, and so few that
/// their positives stay in the second-level cache from step to step (48 take 8 % longer at d = 64).
const TILE: usize = 24;
/// Positives at a time: their dot products share the loads of the direction, their sums those of the product.
const GROUP: usize = 4;
/// Groups between the one that is worked on and the one that memory is asked for: 4 to 7 % of the whole; 1 and 4 are no better.
const AHEAD: usize = 2;
/// A row is done when its residual is this share of the one it began with. Chosen on held-out training pairs (decision 0017): .5 loses
/// 3 % of Recall on gowalla, .3 half a percent, .2 and .1 nothing.
const SHARE: f32 = 0.2;
/// Most steps of a row; on gowalla the mean is 2.
const STEPS_MAX: usize = 8;
/// A squared residual or a curvature below this is rounding: the row is done.
const SQUARE_MIN: f32 = 1e-30;

/// The whole of a symmetric square whose upper triangle is given (stride x stride), 16 columns at a time: `[stride / 16][dim][16]`.
pub(crate) fn blocks(dim: usize, square: &[f32]) -> Vec<f32> {
    let stride = super::stride(dim);
    let mut blocks = vec![0.0; stride * dim];
    for (block, lines) in blocks.chunks_exact_mut(dim * LANES).enumerate() {
        for (k, line) in lines.chunks_exact_mut(LANES).enumerate() {
            for (column, value) in (block * LANES..).zip(line) {
                *value = square[k.min(column) * stride + k.max(column)];
            }
        }
    }
    blocks
}

/// Memory for a tile of rows: lines of a stride each.
pub(crate) struct Tile {
    stride: usize,
    /// Lines by [`Line::at`].
    solution: Aligned,
    residual: Aligned,
    direction: Aligned,
    /// Lines by place among the rows that are not done.
    product: Aligned,
    /// Minus the directions of the same, `[group][dim][R]`.
    packed: Aligned,
    lines: Vec<Line>,
}

/// A row of the tile that is not done.
struct Line {
    /// Line of the buffers.
    at: usize,
    /// Row of the adjacency.
    row: usize,
    regularization: f32,
    /// Squared length of the residual, and what ends the row.
    square: f32,
    floor: f32,
}

impl Tile {
    pub(crate) fn new(dim: usize) -> Self {
        let stride = super::stride(dim);
        let buffer = || Aligned::zeroed(TILE * stride);
        Self {
            stride,
            solution: buffer(),
            residual: buffer(),
            direction: buffer(),
            product: buffer(),
            packed: buffer(),
            lines: Vec::with_capacity(TILE),
        }
    }
}

/// Moves the rows `first..` from their values in `out` (`dim` values each). A row without positives becomes zero, its optimum.
#[inline(always)]
pub(super) fn refine_rows<S: Set, const R: usize>(set: S, tile: &mut Tile, task: &RowsTask<'_>, out: &mut [f32]) {
    for (at, out) in out.chunks_mut(TILE * task.dim).enumerate() {
        if task.stop.load(Ordering::Relaxed) {
            return;
        }
        refine_tile::<S, R>(set, tile, task, task.first + at * TILE, out);
    }
}

#[inline(always)]
fn refine_tile<S: Set, const R: usize>(set: S, tile: &mut Tile, task: &RowsTask<'_>, first: usize, out: &mut [f32]) {
    let stride = tile.stride;
    tile.lines.clear();
    for (at, out) in out.chunks_exact_mut(task.dim).enumerate() {
        let positives = task.adjacency.row(first + at).0.len();
        if positives == 0 {
            out.fill(0.0);
            continue;
        }
        tile.solution[at * stride..][..task.dim].copy_from_slice(out);
        tile.direction[at * stride..][..task.dim].copy_from_slice(out);
        let regularization = task.settings.row_regularization(positives, task.others);
        tile.lines.push(Line { at, row: first + at, regularization, square: 0.0, floor: 0.0 });
    }
    products::<S, R>(set, tile, task, 1.0);
    for (line, product) in tile.lines.iter_mut().zip(tile.product.chunks_exact(stride)) {
        tile.residual[line.at * stride..][..stride].copy_from_slice(product);
        tile.direction[line.at * stride..][..stride].copy_from_slice(product);
        line.square = dot(set, product, product);
        line.floor = (line.square * (SHARE * SHARE)).max(SQUARE_MIN);
    }
    for _ in 0..STEPS_MAX {
        tile.lines.retain(|line| line.square > line.floor);
        if tile.lines.is_empty() {
            break;
        }
        products::<S, R>(set, tile, task, 0.0);
        for (line, product) in tile.lines.iter_mut().zip(tile.product.chunks_exact(stride)) {
            let range = line.at * stride..(line.at + 1) * stride;
            let direction = &mut tile.direction[range.clone()];
            step(set, line, product, direction, &mut tile.residual[range.clone()], &mut tile.solution[range]);
        }
    }
    for (at, out) in out.chunks_exact_mut(task.dim).enumerate() {
        if !task.adjacency.row(first + at).0.is_empty() {
            out.copy_from_slice(&tile.solution[at * stride..][..task.dim]);
        }
    }
}

/// One step of conjugate gradients, where `product` is minus the row's matrix times `direction`.
#[inline(always)]
fn step<S: Set>(
    set: S,
    line: &mut Line,
    product: &[f32],
    direction: &mut [f32],
    residual: &mut [f32],
    solution: &mut [f32],
) {
    let curvature = -dot(set, direction, product);
    if curvature <= SQUARE_MIN {
        line.square = 0.0;
        return;
    }
    let length = line.square / curvature;
    add(set, length, direction, solution);
    add(set, length, product, residual);
    let before = std::mem::replace(&mut line.square, dot(set, residual, residual));
    turn(set, line.square / before, residual, direction);
}

/// For each line `product = sum_i c_i (target - y_i.direction) y_i - (base + reg I) direction`: the residual of the direction for target 1,
/// minus its product with the row's matrix for target 0.
#[inline(always)]
fn products<S: Set, const R: usize>(set: S, tile: &mut Tile, task: &RowsTask<'_>, target: f32) {
    let (dim, stride) = (task.dim, tile.stride);
    let (directions, product, packed): (&[f32], &mut [f32], &mut [f32]) =
        (&tile.direction, &mut tile.product, &mut tile.packed);
    for (place, line) in tile.lines.iter().enumerate() {
        let direction = &directions[line.at * stride..][..stride];
        for (product, direction) in product[place * stride..][..stride].iter_mut().zip(direction) {
            *product = -line.regularization * direction;
        }
        let slots = packed[place / R * R * dim..][..R * dim].as_chunks_mut::<R>().0;
        for (slot, direction) in slots.iter_mut().zip(direction) {
            slot[place % R] = -direction;
        }
    }
    let groups = tile.lines.len().next_multiple_of(R);
    multiply_base::<S, R>(set, &packed[..groups * dim], task.blocks, stride, product);
    for (line, product) in tile.lines.iter().zip(product.chunks_exact_mut(stride)) {
        let direction = &directions[line.at * stride..][..stride];
        let (columns, confidences) = task.adjacency.row(line.row);
        for (at, (own, confidences)) in columns.chunks(GROUP).zip(confidences.chunks(GROUP)).enumerate() {
            for &column in columns.iter().skip((at + AHEAD) * GROUP).take(GROUP) {
                set.prefetch(&task.table[column as usize * dim..][..dim]);
            }
            // A last group that is not full repeats its first row, with weight zero.
            let mut group = Group { rows: [&[]; GROUP], confidences: [0.0; GROUP] };
            for n in 0..GROUP {
                let column = own.get(n).or(own.first()).map_or(0, |column| *column as usize);
                group.rows[n] = &task.table[column * dim..][..dim];
                group.confidences[n] = confidences.get(n).copied().unwrap_or(0.0);
            }
            group.add(set, target, direction, product);
        }
    }
}

/// `product += packed^T base`, a group of R lines and a block of 16 columns at a time.
#[inline(always)]
fn multiply_base<S: Set, const R: usize>(set: S, packed: &[f32], blocks: &[f32], stride: usize, product: &mut [f32]) {
    let dim = blocks.len() / stride;
    for (block, base) in blocks.chunks_exact(dim * LANES).enumerate() {
        let base = base.as_chunks::<LANES>().0;
        for (group, left) in packed.chunks_exact(dim * R).enumerate() {
            let left = left.as_chunks::<R>().0;
            let lines = &mut product[group * R * stride + block * LANES..];
            let mut tile = tile_at::<S, R>(set, lines, stride);
            for k in 0..dim {
                multiply::<S, R, false>(set, &left[k], &base[k], &mut tile);
            }
            put_tile(set, &tile, lines, stride);
        }
    }
}

/// Some positives of a row.
struct Group<'a> {
    rows: [&'a [f32]; GROUP],
    confidences: [f32; GROUP],
}

impl Group<'_> {
    /// `product += sum_n c_n (target - y_n.direction) y_n`, in the order of the positives.
    #[inline(always)]
    fn add<S: Set>(&self, set: S, target: f32, direction: &[f32], product: &mut [f32]) {
        let mut weights = self.dots(set, direction);
        for (weight, confidence) in weights.iter_mut().zip(self.confidences) {
            *weight = confidence * (target - *weight);
        }
        let whole = self.rows[0].len() / LANES;
        let chunks = self.chunks();
        let sums = product.as_chunks_mut::<LANES>().0;
        for at in 0..whole.min(sums.len()) {
            let mut sum = set.load(&sums[at]);
            for n in 0..GROUP {
                sum = set.fused(set.splat(weights[n]), set.load(&chunks[n][at]), sum);
            }
            set.store(sum, &mut sums[at]);
        }
        if let Some(sums) = sums.get_mut(whole) {
            let mut sum = set.load(sums);
            for (&weight, row) in weights.iter().zip(self.rows) {
                sum = set.fused(set.splat(weight), set.load(&tail(row)), sum);
            }
            set.store(sum, sums);
        }
    }

    /// Inner products with one vector, a stride long: the lanes and the tree of [`dot`]. Both loops index all arrays alike: given an iterator for
    /// the second, the compiler keeps the lanes in scalars and the whole solver takes twice as long.
    #[inline(always)]
    fn dots<S: Set>(&self, set: S, with: &[f32]) -> [f32; GROUP] {
        let mut lanes = [set.splat(0.0); GROUP];
        let (rows, chunks) = (self.rows, self.chunks());
        let whole = rows[0].len() / LANES;
        let with = with.as_chunks::<LANES>().0;
        for at in 0..whole.min(with.len()) {
            let with = set.load(&with[at]);
            for n in 0..GROUP {
                lanes[n] = set.fused(set.load(&chunks[n][at]), with, lanes[n]);
            }
        }
        if let Some(with) = with.get(whole) {
            let with = set.load(with);
            for n in 0..GROUP {
                lanes[n] = set.fused(set.load(&tail(rows[n])), with, lanes[n]);
            }
        }
        let mut stored = [[0f32; LANES]; GROUP];
        for n in 0..GROUP {
            set.store(lanes[n], &mut stored[n]);
        }
        sums(&stored)
    }

    /// The rows' whole chunks, as many of each.
    #[inline(always)]
    fn chunks(&self) -> [&[[f32; LANES]]; GROUP] {
        let whole = self.rows[0].len() / LANES;
        let mut chunks: [&[[f32; LANES]]; GROUP] = [&[]; GROUP];
        for (chunks, row) in chunks.iter_mut().zip(self.rows) {
            *chunks = &row.as_chunks::<LANES>().0[..whole];
        }
        chunks
    }
}

/// The sum of each row of lanes, halves added to halves as in [`dot`]; the last two levels run over all rows at once.
#[inline(always)]
fn sums(lanes: &[[f32; LANES]; GROUP]) -> [f32; GROUP] {
    let mut quarters = [[0f32; GROUP]; 4];
    for n in 0..GROUP {
        let mut eight = [0f32; 8];
        for lane in 0..8 {
            eight[lane] = lanes[n][lane] + lanes[n][lane + 8];
        }
        for lane in 0..4 {
            quarters[lane][n] = eight[lane] + eight[lane + 4];
        }
    }
    let mut sums = [0f32; GROUP];
    for n in 0..GROUP {
        sums[n] = (quarters[0][n] + quarters[2][n]) + (quarters[1][n] + quarters[3][n]);
    }
    sums
}

/// What is left of a row after its whole chunks, and zeros.
#[inline(always)]
fn tail(row: &[f32]) -> [f32; LANES] {
    let mut chunk = [0f32; LANES];
    let rest = row.as_chunks::<LANES>().1;
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// `direction = residual + factor direction`; both a multiple of [`LANES`] long.
#[inline(always)]
fn turn<S: Set>(set: S, factor: f32, residual: &[f32], direction: &mut [f32]) {
    let (residual, direction) = (residual.as_chunks().0, direction.as_chunks_mut().0);
    let factor = set.splat(factor);
    for at in 0..residual.len().min(direction.len()) {
        let turned = set.fused(factor, set.load(&direction[at]), set.load(&residual[at]));
        set.store(turned, &mut direction[at]);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lanes::Arrays, *};
    use crate::{Adjacency, Settings};
    use std::sync::atomic::AtomicBool;

    #[test]
    fn the_height_of_a_register_tile_changes_no_bit() {
        for dim in [3usize, 16, 40, 64] {
            let settings = Settings { dim: dim as u16, ..Settings::default() };
            let mut table = vec![0.0; 30 * dim];
            crate::init::fill(4, "table", 5.0, &mut table);
            let mut adjacency = Adjacency::new();
            (0..70u32)
                .for_each(|row| adjacency.push_row((0..30).filter(|i| (i + row) % 7 < row % 6).map(|i| (i, 1.0))));
            let gramian = crate::gramian::packed(super::super::Kernel::detect(), dim, &table);
            let base = crate::gramian::scaled(dim, &gramian, settings.alpha0).unwrap();
            let (blocks, stop) = (blocks(dim, &base), AtomicBool::new(false));
            let task = RowsTask {
                dim,
                base: &base,
                blocks: &blocks,
                table: &table,
                adjacency: &adjacency,
                first: 0,
                settings: &settings,
                others: 30,
                stop: &stop,
            };
            let (mut low, mut high) = (vec![0.1; 70 * dim], vec![0.1; 70 * dim]);
            refine_rows::<_, 6>(Arrays, &mut Tile::new(dim), &task, &mut low);
            refine_rows::<_, 12>(Arrays, &mut Tile::new(dim), &task, &mut high);
            let bits = |rows: &[f32]| rows.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&low), bits(&high), "dim {dim}");
        }
    }
}
