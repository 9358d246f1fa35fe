//! What every engine must do, checked against brute force. A new engine calls [`check`] in a test.

use crate::bitmap::Bitmap;
use crate::error::Error;
use crate::sample::SplitMix64;
use crate::score::{COMPONENT_MAX, dot};
use crate::segment::{Probe, Segment};
use crate::top::Hit;

/// Makes the engine under test from `dim` and rows.
pub type Build<'a> = &'a dyn Fn(usize, &[Vec<f32>]) -> Result<Box<dyn Segment>, Error>;

/// What an approximate engine must find of the true answers over the whole suite (most of its cases are small).
const RECALL_MIN: f64 = 0.9;

/// Runs the whole suite; panics with the case that failed.
pub fn check(build: Build<'_>) {
    let mut recall = Recall::default();
    for dim in [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65, 100, 128, 130] {
        for len in [1, 2, 63, 64, 65, 300] {
            check_case(build, &random_rows(dim as u64 * 1000 + len as u64, len, dim), &mut recall);
        }
    }
    check_case(build, &random_rows(7, 3000, 24), &mut recall);
    check_ties(build);
    check_empty(build);
    check_rows(build);
    check_refusals(build);
    assert!(recall.share() >= RECALL_MIN, "recall {} over the suite", recall.share());
}

#[derive(Default)]
struct Recall {
    right: usize,
    places: usize,
}

impl Recall {
    fn share(&self) -> f64 {
        if self.places == 0 { 1.0 } else { self.right as f64 / self.places as f64 }
    }
}

fn random_rows(seed: u64, len: usize, dim: usize) -> Vec<Vec<f32>> {
    let mut random = SplitMix64(seed);
    (0..len).map(|_| (0..dim).map(|_| random.normal()).collect()).collect()
}

/// The definition of a right answer.
fn brute_force(rows: &[Vec<f32>], query: &[f32], k: usize, allowed: &Bitmap) -> Vec<Hit> {
    let mut hits: Vec<Hit> = (0u32..)
        .zip(rows)
        .filter(|(position, _)| allowed.contains(*position))
        .map(|(position, row)| Hit { position, score: dot(query, row) })
        .collect();
    hits.sort();
    hits.truncate(k);
    hits
}

/// Filters that exclude 0, 1, 50, 99 and 100 percent, by chance.
fn filters(len: usize, random: &mut SplitMix64) -> Vec<Bitmap> {
    [0, 1, 50, 99, 100]
        .into_iter()
        .map(|excluded| Bitmap::from_positions(len, (0..len as u32).filter(|_| random.below(100) >= excluded)))
        .collect()
}

fn check_case(build: Build<'_>, rows: &[Vec<f32>], recall: &mut Recall) {
    let (len, dim) = (rows.len(), rows[0].len());
    let segment = build(dim, rows).expect("valid rows");
    assert_eq!((segment.len(), segment.dim(), segment.is_empty()), (len, dim, false));
    assert!(segment.memory_bytes() >= (len * dim * 4) as u64, "{}", segment.memory_bytes());
    let mut random = SplitMix64(len as u64);
    let queries = random_rows(99 + dim as u64, 3, dim);
    let filters = filters(len, &mut random);
    for k in [0, 1, 10, len, len + 5] {
        let mut probes = Vec::new();
        let mut alone = Vec::new();
        for query in &queries {
            for allowed in &filters {
                let hits = segment.search(query, k, allowed).expect("a valid query");
                check_answer(segment.as_ref(), rows, query, k, allowed, &hits, recall);
                probes.push(Probe { query, allowed });
                alone.push(hits);
            }
        }
        assert_eq!(
            segment.search_batch(&probes, k).expect("valid queries"),
            alone,
            "a batch answers as one by one, k {k}"
        );
    }
}

fn check_answer(
    segment: &dyn Segment,
    rows: &[Vec<f32>],
    query: &[f32],
    k: usize,
    allowed: &Bitmap,
    hits: &[Hit],
    recall: &mut Recall,
) {
    let case =
        format!("{} of {} rows x {}, k {k}, {} allowed", segment.name(), rows.len(), segment.dim(), allowed.count());
    assert_eq!(hits.len(), k.min(allowed.count()), "{case}: as many hits as asked and allowed");
    assert!(hits.windows(2).all(|pair| pair[0] < pair[1]), "{case}: sorted by score, then position; none twice");
    for hit in hits {
        assert!(allowed.contains(hit.position), "{case}: position {} is forbidden", hit.position);
        let expected = dot(query, &rows[hit.position as usize]);
        assert_eq!(
            hit.score.to_bits(),
            expected.to_bits(),
            "{case}: score {} of {} is not {expected}",
            hit.score,
            hit.position
        );
    }
    let truth = brute_force(rows, query, k, allowed);
    if segment.is_exact() {
        assert_eq!(hits, truth, "{case}: equals brute force");
    }
    if let Some(worst) = truth.last() {
        recall.right += hits.iter().filter(|hit| hit.score >= worst.score).count();
        recall.places += truth.len();
    }
}

/// Many equal scores: whole answers must still be determined.
fn check_ties(build: Build<'_>) {
    let mut random = SplitMix64(3);
    let coarse: Vec<Vec<f32>> = (0..500).map(|_| (0..4).map(|_| random.below(3) as f32 - 1.0).collect()).collect();
    let alike = vec![vec![0.5f32; 8]; 200];
    let zero = vec![vec![0.0f32; 8]; 200];
    let mut unmeasured = Recall::default();
    for rows in [coarse, alike, zero] {
        let segment = build(rows[0].len(), &rows).expect("valid rows");
        for filter in filters(rows.len(), &mut random) {
            for k in [1, 10, 64, 150] {
                let query = &rows[7];
                let hits = segment.search(query, k, &filter).expect("a valid query");
                check_answer(segment.as_ref(), &rows, query, k, &filter, &hits, &mut unmeasured);
            }
        }
    }
}

fn check_empty(build: Build<'_>) {
    let segment = build(5, &[]).expect("no rows are fine");
    assert_eq!((segment.len(), segment.is_empty()), (0, true));
    assert_eq!(segment.search(&[1.0; 5], 10, &Bitmap::none(0)).expect("a valid query"), []);
    assert!(!segment.row(0, &mut [0.0; 5]));
}

fn check_rows(build: Build<'_>) {
    let rows = random_rows(11, 130, 6);
    let segment = build(6, &rows).expect("valid rows");
    let mut out = [0.0; 6];
    for (position, row) in (0u32..).zip(&rows) {
        assert!(segment.row(position, &mut out));
        assert_eq!(out.as_slice(), row.as_slice(), "row {position} comes back as given");
    }
    assert!(!segment.row(130, &mut out) && !segment.row(u32::MAX, &mut out), "no row beyond the last");
    assert!(!segment.row(0, &mut [0.0; 5]), "no row into a buffer of another length");
}

fn check_refusals(build: Build<'_>) {
    let bad_values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, COMPONENT_MAX * 4.0];
    for bad in bad_values {
        let refused = build(2, &[vec![0.0, 1.0], vec![bad, 0.0]]).err();
        assert!(matches!(refused, Some(Error::Component { component: 0, .. })), "row with {bad}: {refused:?}");
    }
    assert!(matches!(build(2, &[vec![1.0]]).err(), Some(Error::VectorLength { expected: 2, found: 1 })));
    assert!(matches!(build(0, &[]).err(), Some(Error::Dim { dim: 0 })));

    let segment = build(2, &random_rows(5, 100, 2)).expect("valid rows");
    let all = Bitmap::all(100);
    for bad in bad_values {
        let refused = segment.search(&[0.0, bad], 3, &all).err();
        assert!(matches!(refused, Some(Error::Component { component: 1, .. })), "query with {bad}: {refused:?}");
    }
    assert!(matches!(segment.search(&[0.0], 3, &all), Err(Error::VectorLength { expected: 2, found: 1 })));
    assert!(matches!(
        segment.search(&[0.0; 2], 3, &Bitmap::all(99)),
        Err(Error::FilterLength { expected: 100, found: 99 })
    ));
    let probes = [Probe { query: &[0.0; 2], allowed: &all }, Probe { query: &[0.0; 3], allowed: &all }];
    assert!(matches!(segment.search_batch(&probes, 3), Err(Error::VectorLength { .. })));
}
