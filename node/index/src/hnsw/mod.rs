//! The approximate engine: a faiss HNSW graph proposes candidates, our own rows score them.
//!
//! For shards above about a million rows or tight latency: 0.7 ms at 1 M x 64 where the exact scan takes 12.5 ms
//! (study/vector-search.md). What keeps it honest:
//! - scores are recomputed by the documented [`dot`](crate::score::dot), so a hit's score never depends on the engine;
//! - a built index that misses its recall floor on sample queries is refused;
//! - where HNSW is known to be weak (few rows allowed, large k) or comes back short, the exact engine answers.
//!
//! The rows are held twice, by [`Exact`] and by faiss.

mod faiss;

use crate::bitmap::Bitmap;
use crate::error::Error;
use crate::exact::Exact;
use crate::sample::history_queries;
use crate::segment::{Segment, check_search};
use crate::settings::HnswSettings;
use crate::top::{Hit, TopK};

/// k of the recall self-test.
const RECALL_K: usize = 10;

/// Candidates asked of faiss beyond k: it adds in another order than we do, so near-ties at the k-th place may swap.
const SPARE_CANDIDATES: usize = 8;

/// A faiss HNSW index (inner product) over the rows of an [`Exact`], which stays beside it.
#[derive(Debug)]
pub struct Hnsw {
    exact: Exact,
    /// `None` without rows: faiss is not asked about nothing.
    graph: Option<faiss::Graph>,
    settings: HnswSettings,
    recall: f64,
}

impl Hnsw {
    /// Links the rows into a graph, single-threaded (the same rows give the same graph; about 0.2 ms of CPU a row), and measures
    /// recall@10 on sample queries. Refuses settings out of range and, with [`Error::RecallBelowFloor`], a graph that is not good enough;
    /// the rows come back with the refusal.
    pub fn build(settings: &HnswSettings, exact: Exact) -> Result<Self, (Exact, Error)> {
        let graph = match link(settings, &exact) {
            Ok(graph) => graph,
            Err(refusal) => return Err((exact, refusal)),
        };
        let mut hnsw = Self { exact, graph, settings: settings.clone(), recall: 1.0 };
        let refusal = match hnsw.measure_recall() {
            Ok(measured) if measured >= settings.recall_floor => {
                hnsw.recall = measured;
                return Ok(hnsw);
            }
            Ok(measured) => Error::RecallBelowFloor { measured, floor: settings.recall_floor },
            Err(error) => error,
        };
        Err((hnsw.exact, refusal))
    }

    /// Mean recall@10 of the self-test, 0..=1.
    #[must_use]
    pub fn recall(&self) -> f64 {
        self.recall
    }

    /// The share of true top-10 places that the graph fills, ties counting as filled: a hit is right if it scores at least what the
    /// true tenth does.
    fn measure_recall(&self) -> Result<f64, Error> {
        let allowed = Bitmap::all(self.len());
        let (mut right, mut places) = (0usize, 0usize);
        for query in history_queries(&self.exact, self.settings.recall_probes as usize) {
            let truth = self.exact.search(&query, RECALL_K, &allowed)?;
            let Some(worst) = truth.last() else { continue };
            let found = self.search_graph(&query, RECALL_K, &allowed)?;
            right += found.iter().filter(|hit| hit.score >= worst.score).count();
            places += truth.len();
        }
        Ok(if places == 0 { 1.0 } else { right as f64 / places as f64 })
    }

    /// Up to k hits from the graph alone.
    fn search_graph(&self, query: &[f32], k: usize, allowed: &Bitmap) -> Result<Vec<Hit>, Error> {
        let Some(graph) = &self.graph else { return Ok(Vec::new()) };
        let candidates = (k + SPARE_CANDIDATES).min(self.len());
        let mut top = TopK::new(k.min(candidates));
        for position in graph.search(query, candidates, allowed)? {
            top.offer(Hit { position, score: self.exact.score(query, position) });
        }
        Ok(top.into_hits())
    }

    fn is_for_graph(&self, k: usize, allowed_count: usize) -> bool {
        let share_min = u64::from(self.settings.allowed_percent_min) * self.len() as u64;
        (1..=self.settings.k_max).contains(&k) && k < allowed_count && allowed_count as u64 * 100 >= share_min
    }
}

fn link(settings: &HnswSettings, exact: &Exact) -> Result<Option<faiss::Graph>, Error> {
    settings.check()?;
    if exact.is_empty() {
        return Ok(None);
    }
    // One call with all rows: faiss inserts them from the highest level down, and each further call would lock all rows anew.
    let mut rows = vec![0.0f32; exact.len() * exact.dim()];
    for (position, row) in rows.chunks_exact_mut(exact.dim()).enumerate() {
        exact.row(position as u32, row);
    }
    faiss::Graph::build(settings, exact.dim(), &rows).map(Some)
}

impl Segment for Hnsw {
    fn name(&self) -> &'static str {
        "hnsw"
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn len(&self) -> usize {
        self.exact.len()
    }

    fn dim(&self) -> usize {
        self.exact.dim()
    }

    fn row(&self, position: u32, out: &mut [f32]) -> bool {
        self.exact.row(position, out)
    }

    fn search(&self, query: &[f32], k: usize, allowed: &Bitmap) -> Result<Vec<Hit>, Error> {
        check_search(self, query, allowed)?;
        if self.is_for_graph(k, allowed.count()) {
            let hits = self.search_graph(query, k, allowed)?;
            if hits.len() == k {
                return Ok(hits);
            }
        }
        self.exact.search(query, k, allowed)
    }

    fn memory_bytes(&self) -> u64 {
        // faiss: the rows again, 2m + about m/8 links of 4 bytes a row, its level and offset.
        let links = u64::from(self.settings.m) * 17 / 2 + 16;
        self.exact.memory_bytes() * 2 + links * self.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::sample::SplitMix64;
    use std::sync::Arc;

    fn rows(seed: u64, count: usize, dim: usize) -> Vec<Vec<f32>> {
        let mut random = SplitMix64(seed);
        (0..count).map(|_| (0..dim).map(|_| random.normal()).collect()).collect()
    }

    fn hnsw(rows: &[Vec<f32>], settings: &HnswSettings) -> Result<Hnsw, Error> {
        Hnsw::build(settings, Exact::build(rows[0].len(), rows)?).map_err(|(_, refusal)| refusal)
    }

    #[test]
    fn hnsw_conforms() {
        // No floor here: the suite has rows that are all alike, which no graph serves well.
        let settings = HnswSettings { recall_floor: 0.0, recall_probes: 10, ..HnswSettings::default() };
        conformance::check(&|dim, rows| {
            let hnsw = Hnsw::build(&settings, Exact::build(dim, rows)?).map_err(|(_, refusal)| refusal)?;
            Ok(Box::new(hnsw))
        });
    }

    #[test]
    fn an_index_below_its_recall_floor_is_refused() {
        let rows = rows(1, 3000, 32);
        let poor =
            HnswSettings { m: 4, ef_construction: 8, ef_search: 8, recall_floor: 0.999, ..HnswSettings::default() };
        match hnsw(&rows, &poor) {
            Err(Error::RecallBelowFloor { measured, floor }) => assert!(measured < floor, "{measured}"),
            other => panic!("{other:?}"),
        }
        let good = hnsw(&rows, &HnswSettings::default()).expect("the default settings reach the default floor");
        assert!(good.recall() >= 0.9 && good.recall() <= 1.0, "{}", good.recall());
    }

    #[test]
    fn the_graph_answers_wide_queries_and_the_exact_engine_narrow_ones() {
        let rows = rows(2, 1000, 8);
        let hnsw = hnsw(&rows, &HnswSettings::default()).expect("valid rows");
        assert!(hnsw.is_for_graph(10, 1000));
        assert!(hnsw.is_for_graph(10, 200));
        assert!(!hnsw.is_for_graph(10, 199), "below 20 percent allowed");
        assert!(!hnsw.is_for_graph(21, 1000), "k above k_max");
        assert!(!hnsw.is_for_graph(0, 1000));
        let few = Bitmap::from_positions(1000, (0..1000).step_by(97));
        let expected = hnsw.exact.search(&rows[0], 5, &few).expect("a valid query");
        assert_eq!(hnsw.search(&rows[0], 5, &few).expect("a valid query"), expected);
    }

    #[test]
    fn the_same_rows_give_the_same_answers() {
        let rows = rows(3, 2000, 16);
        let build = || {
            hnsw(&rows, &HnswSettings { ef_search: 16, recall_floor: 0.0, ..HnswSettings::default() })
                .expect("valid rows")
        };
        let (one, two) = (build(), build());
        let allowed = Bitmap::all(2000);
        for query in rows.iter().step_by(50) {
            assert_eq!(
                one.search_graph(query, 10, &allowed).expect("one"),
                two.search_graph(query, 10, &allowed).expect("two")
            );
        }
    }

    #[test]
    fn searches_at_once_give_what_searches_alone_give() {
        let rows = Arc::new(rows(4, 2000, 16));
        let hnsw = Arc::new(hnsw(&rows, &HnswSettings::default()).expect("valid rows"));
        let allowed = Bitmap::from_positions(2000, (0..2000).filter(|p| p % 3 != 0));
        let alone: Vec<Vec<Hit>> =
            rows.iter().step_by(20).map(|q| hnsw.search(q, 10, &allowed).expect("alone")).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (query, expected) in rows.iter().step_by(20).zip(&alone) {
                        assert_eq!(&hnsw.search(query, 10, &allowed).expect("at once"), expected);
                    }
                });
            }
        });
    }

    /// The safe faiss crate leaks 22 KB a filtered search (study/vector-search.md): 440 MB here.
    #[cfg(target_os = "linux")]
    #[test]
    fn twenty_thousand_filtered_searches_leak_nothing() {
        let resident_kib = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("linux has it");
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a VmRSS line");
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number")
        };
        let rows = rows(5, 200, 4);
        let graph = hnsw(&rows, &HnswSettings { ef_search: 8, recall_floor: 0.0, ..HnswSettings::default() })
            .expect("valid rows");
        let allowed = Bitmap::from_positions(200, 0..150);
        let mut grown: Vec<u64> = Vec::new();
        // The first round warms the allocator up.
        for _ in 0..6 {
            let before = resident_kib();
            for query in rows.iter().cycle().take(20_000) {
                let hits = graph.search_graph(query, 5, &allowed).expect("a valid query");
                assert!(hits.iter().all(|hit| hit.position < 150));
            }
            grown.push(resident_kib().saturating_sub(before));
        }
        // The median, for other tests of this process take memory meanwhile. A selector and its parameters are 64 bytes: 1250 KiB.
        let rounds = &mut grown[1..];
        rounds.sort_unstable();
        assert!(rounds[2] < 640, "{rounds:?} KiB more after 20,000 searches each");
    }
}
