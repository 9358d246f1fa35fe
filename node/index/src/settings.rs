//! Which engine a segment gets, and its numbers.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Which engine searches a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// Exact below `hnsw_rows_min` rows; above, HNSW if it is in the build and reaches its recall floor, else exact.
    #[default]
    Auto,
    /// The exact scan.
    Exact,
    /// faiss HNSW or an error.
    Hnsw,
}

/// Numbers of an [`ItemIndex`](crate::ItemIndex).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// From how many rows on `auto` chooses HNSW. The exact scan of 500,000 x 64 takes about 6 ms of one core (study/vector-search.md:
    /// 12.5 ms at 1 M, the limit of the RAM); below, exactness is worth more than the milliseconds.
    pub hnsw_rows_min: usize,
    /// How many items may wait in the overlay for the next segment. An overlay item costs a query about 70 ns at 64 components,
    /// ten times what a segment row does (`examples/bench.rs`), so the owner rebuilds long before this bound.
    pub overlay_items_max: usize,
    pub hnsw: HnswSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self { hnsw_rows_min: 500_000, overlay_items_max: 65_536, hnsw: HnswSettings::default() }
    }
}

/// Numbers of the HNSW engine (Malkov and Yashunin, arXiv 1603.09320, section 4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HnswSettings {
    /// Links of a node per level (twice as many on the lowest), 4..=128. Memory: about 8 m bytes a row.
    pub m: u32,
    /// Candidates kept while a row is linked in, 8..=4096.
    pub ef_construction: u32,
    /// Candidates kept during a search, 8..=4096.
    pub ef_search: u32,
    /// The least recall@10 that a built index may have on its own sample of queries, 0..=1.
    pub recall_floor: f64,
    /// How many sample queries measure it, 1..=10,000.
    pub recall_probes: u32,
    /// Above this k the exact engine answers: measured recall@100 of HNSW is 0.6 to 0.87 where recall@10 is 0.95 to 0.99.
    pub k_max: usize,
    /// Below this share of allowed rows, in percent (0..=100), the exact engine answers: HNSW walks the forbidden rows too
    /// and loses recall (0.2 to 0.5 at 1 % allowed).
    pub allowed_percent_min: u32,
}

impl Default for HnswSettings {
    /// The start point of study/vector-search.md section D for shards above a million rows.
    fn default() -> Self {
        Self {
            m: 32,
            ef_construction: 100,
            ef_search: 256,
            recall_floor: 0.9,
            recall_probes: 100,
            k_max: 20,
            allowed_percent_min: 20,
        }
    }
}

impl HnswSettings {
    /// Refuses a number outside its documented range.
    pub fn check(&self) -> Result<(), Error> {
        let checks = [
            ("hnsw.m", f64::from(self.m), 4.0, 128.0, "4..=128"),
            ("hnsw.ef_construction", f64::from(self.ef_construction), 8.0, 4096.0, "8..=4096"),
            ("hnsw.ef_search", f64::from(self.ef_search), 8.0, 4096.0, "8..=4096"),
            ("hnsw.recall_floor", self.recall_floor, 0.0, 1.0, "0..=1"),
            ("hnsw.recall_probes", f64::from(self.recall_probes), 1.0, 10_000.0, "1..=10000"),
            ("hnsw.allowed_percent_min", f64::from(self.allowed_percent_min), 0.0, 100.0, "0..=100"),
        ];
        for (name, value, least, most, range) in checks {
            if !(least..=most).contains(&value) {
                return Err(Error::Setting { name, value, range });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_partial_file_keeps_them() {
        HnswSettings::default().check().expect("defaults are within their ranges");
        let settings: Settings = serde_json::from_str(r#"{"hnsw": {"m": 16}}"#).expect("a partial tree");
        assert_eq!(
            settings,
            Settings { hnsw: HnswSettings { m: 16, ..HnswSettings::default() }, ..Settings::default() }
        );
        assert_eq!(serde_json::from_str::<EngineChoice>(r#""hnsw""#).expect("a choice"), EngineChoice::Hnsw);
    }

    #[test]
    fn a_number_out_of_range_is_refused_by_name() {
        let refused = |settings: HnswSettings| match settings.check() {
            Err(Error::Setting { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(HnswSettings { m: 3, ..Default::default() }), "hnsw.m");
        assert_eq!(refused(HnswSettings { ef_search: 5000, ..Default::default() }), "hnsw.ef_search");
        assert_eq!(refused(HnswSettings { recall_floor: f64::NAN, ..Default::default() }), "hnsw.recall_floor");
    }
}
