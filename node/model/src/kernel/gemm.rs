//! The three products of a sampled-softmax step, and the exponential between them.
//!
//! Shapes: `rows` are `[n][stride]`, n a multiple of [`ROWS_UNIT`]; negatives are `[width][stride]`, and once more in blocks of 16,
//! `[block][stride][16]`, width a multiple of 16; shares are `[n][pitch]` with the pitch of [`pitch`]. Padding is zero.
//! The layers of a tower are products of the same two kinds (`crate::tower`): inputs take the place of shares, weights that of negatives.
use super::lanes::{LANES, Set};

/// Rows come in multiples of this: the height of the tallest register tile.
pub(crate) const ROWS_UNIT: usize = 8;

/// Distance between the rows of shares: not a power of two, as those would fall into a few sets of the first-level cache.
#[inline(always)]
pub(crate) const fn pitch(width: usize) -> usize {
    width + LANES
}

/// Negatives taken at a time where they are summed by row, at most, and their values: such a panel stays in the first-level cache (256
/// rows whatever their length took a quarter longer).
const PANEL_ROWS: usize = 256;
const PANEL_VALUES: usize = 8192;

/// What turns scores into shares.
pub(crate) struct Shares<'a> {
    pub(crate) stride: usize,
    pub(crate) rows: &'a [f32],
    /// Negatives in blocks of 16.
    pub(crate) blocks: &'a [f32],
    /// A factor for each negative; 0 for padding.
    pub(crate) weights: &'a [f32],
    /// A share is `weight exp(scale score - shift)`.
    pub(crate) scale: f32,
    pub(crate) shift: f32,
}

/// Shares of every row with every negative.
#[inline(always)]
pub(super) fn shares<S: Set, const R: usize>(set: S, task: &Shares<'_>, out: &mut [f32]) {
    let (stride, pitch) = (task.stride, pitch(task.weights.len()));
    let groups = task.rows.len() / (R * stride);
    // R rows side by side, so that a step of the inner loop reads R neighbouring values.
    let mut packed = vec![[0f32; R]; groups * stride];
    for group in 0..groups {
        for r in 0..R {
            let row = &task.rows[(group * R + r) * stride..][..stride];
            let packed = &mut packed[group * stride..][..stride];
            for k in 0..stride {
                packed[k][r] = row[k];
            }
        }
    }
    let (blocks, weights) = (task.blocks.as_chunks::<LANES>().0, task.weights.as_chunks::<LANES>().0);
    let out = out.as_chunks_mut::<LANES>().0;
    for block in (0..weights.len()).step_by(2) {
        let pair = [block, (block + 1).min(weights.len() - 1)];
        let [first, second] = pair.map(|block| &blocks[block * stride..][..stride]);
        for group in 0..groups {
            let rows = &packed[group * stride..][..stride];
            let mut tile = [[set.splat(0.0); 2]; R];
            for k in 0..stride {
                multiply_pair(set, &rows[k], [&first[k], &second[k]], &mut tile);
            }
            for r in 0..R {
                for at in 0..2 {
                    let x = set.fused(set.splat(task.scale), tile[r][at], set.splat(-task.shift));
                    let share = set.multiply(set.load(&weights[pair[at]]), exp_lanes(set, x));
                    set.store(share, &mut out[(group * R + r) * (pitch / LANES) + pair[at]]);
                }
            }
        }
    }
}

/// A register tile: `R` rows of two vectors side by side, so that a value that multiplies a row is read once for both. Where the number of vectors
/// is odd, the last is its own neighbour.
type Pairs<S, const R: usize> = [[<S as Set>::Lanes; 2]; R];

/// `tile += left right^T`.
#[inline(always)]
fn multiply_pair<S: Set, const R: usize>(set: S, left: &[f32; R], right: [&[f32; LANES]; 2], tile: &mut Pairs<S, R>) {
    // No closure: it would be compiled for no instruction set.
    let right = [set.load(right[0]), set.load(right[1])];
    for r in 0..R {
        let left = set.splat(left[r]);
        tile[r] = [set.fused(left, right[0], tile[r][0]), set.fused(left, right[1], tile[r][1])];
    }
}

/// The tile at the columns `pair` of rows that are `columns` vectors long.
#[inline(always)]
fn load_pairs<S: Set, const R: usize>(
    set: S,
    from: &[[f32; LANES]],
    (columns, pair): (usize, [usize; 2]),
    tile: &mut Pairs<S, R>,
) {
    for r in 0..R {
        let row = &from[r * columns..][..columns];
        tile[r] = [set.load(&row[pair[0]]), set.load(&row[pair[1]])];
    }
}

/// Puts it back.
#[inline(always)]
fn store_pairs<S: Set, const R: usize>(
    set: S,
    tile: &Pairs<S, R>,
    (columns, pair): (usize, [usize; 2]),
    to: &mut [[f32; LANES]],
) {
    for r in 0..R {
        let row = &mut to[r * columns..][..columns];
        set.store(tile[r][0], &mut row[pair[0]]);
        set.store(tile[r][1], &mut row[pair[1]]);
    }
}

/// `e^x` for x in [-87, 88] (others are moved there), within 2 units of the last place: `2^n e^r` with |r| <= ln 2 / 2 (Cody and Waite's
/// two-part ln 2) and the polynomial of Cephes' `expf`.
#[inline(always)]
fn exp_lanes<S: Set>(set: S, x: S::Lanes) -> S::Lanes {
    /// 1.5 x 2^23: adding it leaves the nearest whole number in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// By falling power.
    const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let x = set.smaller(set.splat(88.0), set.larger(set.splat(-87.0), x));
    let shifted = set.fused(x, set.splat(std::f32::consts::LOG2_E), set.splat(ROUND));
    let n = set.add(shifted, set.splat(-ROUND));
    let r = set.fused(n, set.splat(-0.693_359_4), x);
    let r = set.fused(n, set.splat(2.121_944_4e-4), r);
    let mut p = set.splat(POLYNOMIAL[0]);
    for &factor in &POLYNOMIAL[1..] {
        p = set.fused(p, r, set.splat(factor));
    }
    let p = set.add(set.fused(p, set.multiply(r, r), r), set.splat(1.0));
    // The low bits of `shifted` are n; the exponent of the power of two stays within 1..=254.
    set.multiply(p, set.power_of_two(shifted))
}

/// `e^x`, as shares have it.
#[inline(always)]
pub(super) fn exp<S: Set>(set: S, x: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    set.store(exp_lanes(set, set.splat(x)), &mut lanes);
    lanes[0]
}

/// `out = shares negatives`: for each row its sum of negatives, `[n][stride]`.
#[allow(clippy::needless_range_loop, reason = "the index is a negative of several rows of shares and of the panel")]
#[inline(always)]
pub(super) fn pull<S: Set, const R: usize>(
    set: S,
    stride: usize,
    pitch: usize,
    shares: &[f32],
    negatives: &[f32],
    out: &mut [f32],
) {
    let (width, columns) = (negatives.len() / stride, stride / LANES);
    let (negatives, out) = (negatives.as_chunks::<LANES>().0, out.as_chunks_mut::<LANES>().0);
    out.fill([0.0; LANES]);
    let panel_rows = (PANEL_VALUES / stride).clamp(LANES, PANEL_ROWS);
    for first in (0..width).step_by(panel_rows) {
        let n = panel_rows.min(width - first);
        let panel = &negatives[first * columns..][..n * columns];
        for group in 0..out.len() / (R * columns) {
            let mut left = [&shares[..0]; R];
            for r in 0..R {
                left[r] = &shares[(group * R + r) * pitch + first..][..n];
            }
            for column in (0..columns).step_by(2) {
                let pair = [column, (column + 1).min(columns - 1)];
                let mut tile = [[set.splat(0.0); 2]; R];
                load_pairs(set, &out[group * R * columns..], (columns, pair), &mut tile);
                for at in 0..n {
                    let right = at * columns;
                    let values = [set.load(&panel[right + pair[0]]), set.load(&panel[right + pair[1]])];
                    for r in 0..R {
                        let share = set.splat(left[r][at]);
                        tile[r] = [set.fused(share, values[0], tile[r][0]), set.fused(share, values[1], tile[r][1])];
                    }
                }
                store_pairs(set, &tile, (columns, pair), &mut out[group * R * columns..]);
            }
        }
    }
}

/// Leaves of a tree that are pushed at a time, at most.
pub(crate) const LEAVES_MAX: usize = 16;
/// Negatives whose shares are copied side by side at a time: rows of shares are pages apart.
const PANEL_NEGATIVES: usize = 32;
const LEVELS: usize = LEAVES_MAX.ilog2() as usize + 1;

/// `out = shares^T rows`: for each negative its sum of rows, `[width][stride]`. The rows are those of the leaves of a complete subtree
/// (`crate::tree`), each up to its end in `ends`: a sum of its own for each leaf that has rows, added up as the tree says. Where there is one
/// leaf, it goes on from what is in `out`.
#[inline(always)]
pub(super) fn push<S: Set, const R: usize>(
    set: S,
    stride: usize,
    pitch: usize,
    shares: &[f32],
    rows: &[f32],
    ends: &[usize],
    out: &mut [f32],
) {
    let columns = stride / LANES;
    let (n, width) = (rows.len() / stride, out.len() / stride);
    let (shares, rows) = (shares.as_chunks::<R>().0, rows.as_chunks::<LANES>().0);
    let out = out.as_chunks_mut::<LANES>().0;
    let mut packed = vec![[0f32; R]; n * PANEL_NEGATIVES / R];
    for group in 0..width / R {
        let of_panel = group % (PANEL_NEGATIVES / R);
        if of_panel == 0 {
            let groups = (PANEL_NEGATIVES / R).min(width / R - group);
            for row in 0..n {
                let line = &shares[row * (pitch / R) + group..][..groups];
                for at in 0..groups {
                    packed[at * n + row] = line[at];
                }
            }
        }
        let shares = &packed[of_panel * n..][..n];
        for column in (0..columns).step_by(2) {
            let pair = [column, (column + 1).min(columns - 1)];
            let mut sums = Sums { waiting: [[[set.splat(0.0); 2]; R]; LEVELS], there: [false; LEVELS] };
            let mut first = 0;
            for (leaf, &end) in ends.iter().enumerate() {
                let mut tile = [[set.splat(0.0); 2]; R];
                if ends.len() == 1 {
                    load_pairs(set, &out[group * R * columns..], (columns, pair), &mut tile);
                }
                let mut right = first * columns;
                for shares in &shares[first..end] {
                    multiply_pair(set, shares, [&rows[right + pair[0]], &rows[right + pair[1]]], &mut tile);
                    right += columns;
                }
                sums.add(set, leaf, tile, first < end);
                first = end;
            }
            let root = &sums.waiting[ends.len().ilog2() as usize];
            store_pairs(set, root, (columns, pair), &mut out[group * R * columns..]);
        }
    }
}

/// Tiles of subtrees that wait for their right sibling, by level.
struct Sums<S: Set, const R: usize> {
    waiting: [Pairs<S, R>; LEVELS],
    /// Whether there was a leaf with rows.
    there: [bool; LEVELS],
}

impl<S: Set, const R: usize> Sums<S, R> {
    /// Adds the next leaf, as `tree::fold` does; a leaf without rows is left out.
    #[inline(always)]
    fn add(&mut self, set: S, leaf: usize, mut tile: Pairs<S, R>, mut there: bool) {
        let mut level = 0;
        while leaf >> level & 1 == 1 {
            let left = &self.waiting[level];
            match (self.there[level], there) {
                (true, true) => {
                    for r in 0..R {
                        tile[r] = [set.add(left[r][0], tile[r][0]), set.add(left[r][1], tile[r][1])];
                    }
                }
                (true, false) => tile = *left,
                (false, _) => {}
            }
            there |= self.there[level];
            level += 1;
        }
        self.waiting[level] = tile;
        self.there[level] = there;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lanes::Arrays, *};
    use crate::{Kernel, softmax::negatives::Push, tree};

    fn noise(n: usize, id: &str) -> Vec<f32> {
        let mut values = vec![0.0; n];
        crate::init::fill(11, id, (n as f32).sqrt(), &mut values);
        values
    }

    #[test]
    fn the_exponential_is_within_two_units_of_the_last_place() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            let unit = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            assert!((f64::from(exp(Arrays, x)) - exact).abs() <= 2.0 * unit, "{x}");
            x += 0.0137;
        }
        assert_eq!(exp(Arrays, 0.0), 1.0);
        assert_eq!(exp(Arrays, -1e30), exp(Arrays, -87.0));
        assert!(exp(Arrays, 1e30).is_finite());
    }

    #[test]
    fn products_are_those_of_the_formula_and_the_same_bytes_on_every_instruction_set() {
        // Rows, negatives (beside a panel's length) and strides.
        for (n, width, stride) in [(8, 16, 16), (24, 272, 48), (64, 528, 64)] {
            let (rows, negatives) = (noise(n * stride, "rows"), noise(width * stride, "negatives"));
            let mut blocks = vec![0.0; width * stride];
            for (at, value) in negatives.iter().enumerate() {
                let (negative, k) = (at / stride, at % stride);
                blocks[(negative / 16 * stride + k) * 16 + negative % 16] = *value;
            }
            let weights: Vec<f32> = (0..width).map(|at| at as f32 / 7.0).collect();
            let task = Shares { stride, rows: &rows, blocks: &blocks, weights: &weights, scale: 0.1, shift: 0.4 };
            let outcome = |kernel: Kernel| {
                let (mut shares, mut pulled) = (vec![0.0; n * pitch(width)], vec![1.0; n * stride]);
                let mut pushed = vec![0.5; width * stride];
                kernel.shares(&task, &mut shares);
                kernel.pull(stride, pitch(width), &shares, &negatives, &mut pulled);
                kernel.push(stride, pitch(width), &shares, &rows, &[n], &mut pushed);
                (shares, pulled, pushed)
            };
            let ours = outcome(Kernel::detect());
            let share = |row: usize, negative: usize| {
                let pairs = rows[row * stride..][..stride].iter().zip(&negatives[negative * stride..][..stride]);
                let score: f64 = pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                f64::from(weights[negative]) * (0.1 * score - 0.4).exp()
            };
            let close = |ours: f32, exact: f64| (f64::from(ours) - exact).abs() < 1e-3 * exact.abs().max(10.0);
            for (row, k) in [(0, 0), (3, 5), (n - 1, stride - 1)] {
                assert!((0..width).all(|at| close(ours.0[row * pitch(width) + at], share(row, at))));
                let pulled = (0..width).map(|at| share(row, at) * f64::from(negatives[at * stride + k])).sum();
                assert!(close(ours.1[row * stride + k], pulled), "{} {pulled}", ours.1[row * stride + k]);
                let at = width - 1 - row;
                let pushed: f64 = (0..n).map(|row| share(row, at) * f64::from(rows[row * stride + k])).sum();
                assert!(close(ours.2[at * stride + k], pushed + 0.5), "{} {pushed}", ours.2[at * stride + k]);
            }
            let bits = |(a, b, c): &(Vec<f32>, Vec<f32>, Vec<f32>)| -> Vec<u32> {
                [a, b, c].into_iter().flatten().map(|value| value.to_bits()).collect()
            };
            Kernel::available()
                .into_iter()
                .for_each(|kernel| assert_eq!(bits(&outcome(kernel)), bits(&ours), "{}", kernel.name()));
        }
    }
    #[test]
    fn leaves_are_added_up_as_the_tree_says() {
        let (width, stride) = (32, 48);
        let (rows, shares) = (noise(24 * stride, "rows"), noise(24 * pitch(width), "shares"));
        // Some leaves have no rows.
        for ends in [&[7, 24][..], &[0, 9, 9, 24], &[3, 3, 3, 10], &[0, 0], &[1, 2, 3, 7, 7, 7, 12, 24]] {
            let leaf = |first: usize, end: usize| {
                let mut out = vec![0.0; if first < end { width * stride } else { 0 }];
                let (shares, rows) = (&shares[first * pitch(width)..], &rows[first * stride..end * stride]);
                Kernel::detect().push(stride, pitch(width), shares, rows, &[end - first], &mut out);
                Push { negatives: out, ..Push::default() }
            };
            let firsts = [0].iter().chain(ends);
            let leaves = tree::leaves(0, firsts.zip(ends).map(|(first, end)| leaf(*first, *end)));
            let expected = tree::finish(ends.len() as u16, leaves).unwrap().negatives;
            for kernel in Kernel::available() {
                let mut out = vec![f32::NAN; expected.len()];
                kernel.push(stride, pitch(width), &shares, &rows, ends, &mut out);
                assert_eq!(out, expected, "{ends:?} {}", kernel.name());
            }
        }
    }
}
