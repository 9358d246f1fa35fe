//! Promises of [`ItemIndex`], against a plain map as the oracle.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::sample::SplitMix64;
use crate::score::dot;

fn exact(dim: usize, rows: &[(&str, &[f32])]) -> ItemIndex {
    let rows = rows.iter().map(|(id, vector)| ((*id).to_owned(), vector.to_vec())).collect();
    ItemIndex::build(EngineChoice::Exact, &Settings::default(), dim, rows).expect("valid rows")
}

fn ids(items: &[ScoredItem]) -> Vec<&str> {
    items.iter().map(|item| &*item.id).collect()
}

/// What is true of an index, kept the slow way.
#[derive(Default)]
struct Oracle {
    vectors: BTreeMap<String, Vec<f32>>,
    removed: BTreeSet<String>,
}

impl Oracle {
    fn visible(&self) -> impl Iterator<Item = (&String, &Vec<f32>)> {
        self.vectors.iter().filter(|(id, _)| !self.removed.contains(*id))
    }

    fn search(&self, query: &[f32], k: usize, exclude: &[&str]) -> Vec<(String, u32)> {
        let mut all: Vec<(f32, &String)> = self
            .visible()
            .filter(|(id, _)| !exclude.contains(&id.as_str()))
            .map(|(id, v)| (dot(query, v), id))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        all.into_iter().take(k).map(|(score, id)| (id.clone(), score.to_bits())).collect()
    }
}

fn answer(items: &[ScoredItem]) -> Vec<(String, u32)> {
    items.iter().map(|item| (item.id.to_string(), item.score.to_bits())).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Upsert(String, Vec<f32>),
    Remove(String),
    Restore(String),
}

fn id() -> impl Strategy<Value = String> {
    // Few ids, of different lengths, so that steps meet.
    "[abé]{1,3}"
}

fn vector() -> impl Strategy<Value = Vec<f32>> {
    // Few values, so that scores tie.
    prop::collection::vec((-2i8..3).prop_map(f32::from), 3)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (id(), vector()).prop_map(|(id, vector)| Step::Upsert(id, vector)),
        id().prop_map(Step::Remove),
        id().prop_map(Step::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_changed_an_answer_equals_brute_force_over_the_visible_items(
        rows in prop::collection::btree_map(id(), vector(), 0..30),
        steps in prop::collection::vec(step(), 0..40),
        query in vector(),
        exclude in prop::collection::vec(id(), 0..6),
        k in 0usize..40,
    ) {
        let index = ItemIndex::build(EngineChoice::Exact, &Settings::default(), 3, rows.clone().into_iter().rev().collect()).expect("valid rows");
        let mut oracle = Oracle { vectors: rows, removed: BTreeSet::new() };
        let exclude: Vec<&str> = exclude.iter().map(String::as_str).collect();
        for step in steps {
            let was_visible = |oracle: &Oracle, id: &String| oracle.vectors.contains_key(id) && !oracle.removed.contains(id);
            match step {
                Step::Upsert(id, vector) => {
                    index.upsert(&id, &vector).expect("a valid vector");
                    oracle.vectors.insert(id, vector);
                }
                Step::Remove(id) => {
                    prop_assert_eq!(index.remove(&id), was_visible(&oracle, &id));
                    oracle.removed.insert(id);
                }
                Step::Restore(id) => {
                    oracle.removed.remove(&id);
                    prop_assert_eq!(index.restore(&id), was_visible(&oracle, &id));
                }
            }
        }
        let expected = oracle.search(&query, k, &exclude);
        prop_assert_eq!(answer(&index.search(&query, k, &exclude).expect("a valid query")), expected.clone());
        let batch = index.search_batch(&[Query { vector: &query, exclude: &exclude }, Query { vector: &query, exclude: &[] }], k).expect("valid queries");
        prop_assert_eq!(answer(&batch[0]), expected);
        prop_assert_eq!(answer(&batch[1]), oracle.search(&query, k, &[]));

        let exported: Vec<(String, Vec<f32>)> = index.iter().map(|(id, vector)| (id.to_string(), vector)).collect();
        let visible: Vec<(String, Vec<f32>)> = oracle.visible().map(|(id, vector)| (id.clone(), vector.clone())).collect();
        prop_assert_eq!(index.len(), visible.len());
        prop_assert_eq!(exported, visible);
        for (id, vector) in &oracle.vectors {
            prop_assert_eq!(index.vector(id), (!oracle.removed.contains(id)).then(|| vector.clone()));
            prop_assert_eq!(index.row(id), Some(vector.clone()), "taken down or not");
        }
    }

    #[test]
    fn merged_shards_answer_like_one_machine(
        rows in prop::collection::btree_map("[a-d]{1,4}", vector(), 1..80),
        query in vector(),
        shards in 1usize..6,
        k in 0usize..30,
    ) {
        let build = |rows: Vec<(String, Vec<f32>)>| ItemIndex::build(EngineChoice::Exact, &Settings::default(), 3, rows).expect("valid rows");
        let whole = build(rows.clone().into_iter().collect()).search(&query, k, &[]).expect("a valid query");
        let mut merged = Vec::new();
        for shard in 0..shards {
            let part = rows.iter().enumerate().filter(|(rank, _)| rank % shards == shard).map(|(_, (id, v))| (id.clone(), v.clone())).collect();
            merged.extend(build(part).search(&query, k, &[]).expect("a valid query"));
        }
        merged.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        merged.truncate(k);
        prop_assert_eq!(answer(&merged), answer(&whole));
    }
}

#[test]
fn ties_are_ordered_by_id_bytes_across_segment_and_overlay() {
    let index = exact(1, &[("b", &[1.0]), ("d", &[1.0]), ("é", &[1.0])]);
    for id in ["a", "c", "z"] {
        index.upsert(id, &[1.0]).expect("a valid vector");
    }
    let found = index.search(&[2.0], 10, &[]).expect("a valid query");
    assert_eq!(ids(&found), ["a", "b", "c", "d", "z", "é"], "é is C3 A9, after z");
    assert_eq!(ids(&index.search(&[2.0], 2, &["a"]).expect("a valid query")), ["b", "c"]);
}

#[test]
fn a_take_down_outlives_a_new_vector_and_ends_with_restore() {
    let index = exact(1, &[("a", &[1.0])]);
    assert!(index.remove("a"));
    assert!(!index.remove("a"), "it was hidden already");
    index.upsert("a", &[3.0]).expect("a valid vector");
    assert_eq!((index.len(), index.vector("a")), (0, None));
    assert!(index.restore("a"));
    assert_eq!(index.search(&[1.0], 5, &[]).expect("a valid query"), [ScoredItem { id: "a".into(), score: 3.0 }]);

    assert!(!index.remove("unborn"), "an item without a vector can be taken down");
    index.upsert("unborn", &[9.0]).expect("a valid vector");
    assert_eq!(ids(&index.search(&[1.0], 5, &[]).expect("a valid query")), ["a"]);
    assert!(!index.restore("never seen"));
    assert!(!index.remove("") && !index.remove(&"x".repeat(257)));
    assert_eq!(index.removed_len(), 1);
}

#[test]
fn a_full_overlay_refuses_new_items_and_takes_new_vectors_of_its_own() {
    let settings = Settings { overlay_items_max: 2, ..Settings::default() };
    let index =
        ItemIndex::build(EngineChoice::Exact, &settings, 1, vec![("a".to_owned(), vec![1.0])]).expect("valid rows");
    index.upsert("a", &[2.0]).expect("room for one");
    index.upsert("b", &[2.0]).expect("room for two");
    assert!(matches!(index.upsert("c", &[2.0]), Err(Error::OverlayFull { max: 2 })));
    index.upsert("b", &[3.0]).expect("it is there already");
    assert_eq!((index.overlay_len(), index.len(), index.segment_len()), (2, 2, 1));
}

#[test]
fn bad_rows_and_queries_are_refused_by_name_and_change_nothing() {
    let build = |dim, rows: Vec<(&str, Vec<f32>)>| {
        let rows = rows.into_iter().map(|(id, vector)| (id.to_owned(), vector)).collect();
        ItemIndex::build(EngineChoice::Auto, &Settings::default(), dim, rows)
    };
    assert!(matches!(build(1, vec![("a", vec![1.0]), ("a", vec![2.0])]), Err(Error::DuplicateId { id }) if id == "a"));
    assert!(matches!(build(1, vec![("a", vec![f32::NAN])]), Err(Error::Item { id, .. }) if id == "a"));
    assert!(matches!(build(1, vec![("", vec![1.0])]), Err(Error::Id { bytes: 0 })));
    assert!(matches!(build(0, vec![]), Err(Error::Dim { dim: 0 })));

    let index = build(1, vec![("a", vec![1.0])]).expect("valid rows");
    assert!(matches!(index.upsert("b", &[f32::INFINITY]), Err(Error::Item { .. })));
    assert!(matches!(index.upsert("b", &[1.0, 2.0]), Err(Error::Item { .. })));
    assert!(matches!(index.upsert("", &[1.0]), Err(Error::Id { .. })));
    assert!(matches!(index.search(&[f32::NAN], 1, &[]), Err(Error::Component { .. })));
    assert_eq!((index.len(), index.overlay_len()), (1, 0));
}

#[test]
fn an_empty_index_answers_and_can_grow() {
    let index = exact(2, &[]);
    assert!(index.is_empty() && index.iter().next().is_none());
    assert_eq!(index.search(&[1.0, 1.0], 3, &["x"]).expect("a valid query"), []);
    index.upsert("x", &[1.0, 0.5]).expect("a valid vector");
    assert_eq!(ids(&index.search(&[1.0, 1.0], 3, &[]).expect("a valid query")), ["x"]);
    assert!(index.memory_bytes() > 0);
}

#[test]
fn searches_see_all_of_a_change_or_nothing_while_writers_go_on() {
    let index = exact(1, &[("a", &[1.0]), ("b", &[1.0])]);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..2000 {
                // Both items are always there, with one of two vectors each.
                index.upsert("a", &[(round % 2) as f32 + 1.0]).expect("a valid vector");
            }
        });
        while !writer.is_finished() {
            let found = index.search(&[1.0], 5, &[]).expect("a valid query");
            assert_eq!(found.len(), 2, "{found:?}");
        }
    });
}

fn random_rows(count: usize, dim: usize) -> Vec<(String, Vec<f32>)> {
    let mut random = SplitMix64(8);
    (0..count).map(|row| (format!("item-{row:05}"), (0..dim).map(|_| random.normal()).collect())).collect()
}

#[cfg(feature = "faiss")]
#[test]
fn the_engine_follows_the_choice_the_size_and_the_recall() {
    let small = Settings { hnsw_rows_min: 1000, ..Settings::default() };
    let build = |choice, settings: &Settings, count| ItemIndex::build(choice, settings, 16, random_rows(count, 16));
    assert_eq!(build(EngineChoice::Auto, &small, 999).expect("valid rows").engine(), "exact");
    assert_eq!(build(EngineChoice::Exact, &small, 1000).expect("valid rows").engine(), "exact");
    let chosen = build(EngineChoice::Auto, &small, 1000).expect("valid rows");
    assert!((chosen.engine(), chosen.is_exact(), chosen.refused().is_none()) == ("hnsw", false, true));

    let mut poor = small.clone();
    poor.hnsw = crate::HnswSettings { m: 4, ef_construction: 8, ef_search: 8, recall_floor: 1.0, ..poor.hnsw };
    assert!(matches!(build(EngineChoice::Hnsw, &poor, 3000), Err(Error::RecallBelowFloor { .. })));
    let fallen = build(EngineChoice::Auto, &poor, 3000).expect("auto falls back");
    assert!(fallen.is_exact() && matches!(fallen.refused(), Some(Error::RecallBelowFloor { .. })));
    assert_eq!((fallen.len(), fallen.vector("item-00007")), (3000, Some(random_rows(8, 16)[7].1.clone())));
}

#[cfg(feature = "faiss")]
#[test]
fn an_hnsw_index_hides_and_finds_like_an_exact_one() {
    let index =
        ItemIndex::build(EngineChoice::Hnsw, &Settings::default(), 16, random_rows(2000, 16)).expect("valid rows");
    let query = vec![1.0; 16];
    let before = index.search(&query, 10, &[]).expect("a valid query");
    let (best, second) = (before[0].id.to_string(), before[1].id.to_string());
    index.remove(&best);
    index.upsert("new", &[9.0; 16]).expect("a valid vector");
    let after = index.search(&query, 10, &[&second]).expect("a valid query");
    assert_eq!((after.len(), &*after[0].id), (10, "new"));
    assert!(after.iter().all(|item| *item.id != *best && *item.id != *second));
}

#[cfg(not(feature = "faiss"))]
#[test]
fn hnsw_is_refused_by_name_where_faiss_is_not_in_the_build() {
    let small = Settings { hnsw_rows_min: 1, ..Settings::default() };
    let refused = ItemIndex::build(EngineChoice::Hnsw, &small, 4, random_rows(10, 4)).err();
    assert!(matches!(refused, Some(Error::EngineMissing { engine: "hnsw" })));
    let index = ItemIndex::build(EngineChoice::Auto, &small, 4, random_rows(10, 4)).expect("auto is exact");
    assert!(index.engine() == "exact" && index.refused().is_none());
}
