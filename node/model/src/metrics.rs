//! Ranking metrics, exactly by the LightGCN protocol of `shared/data/README.md` (and its `evaluate.py`).
//!
//! T is a user's test items, L the ranked list without the user's training items, rank from 1. Averages are over users with a
//! non-empty T; a position that L lacks is a miss.
use serde::{Deserialize, Serialize};

/// Numbers in [`Metrics`].
pub const FIELDS: usize = 6;

/// Sums over users; [`Metrics::means`] divides. Adding two is adding their fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Users with test items.
    pub users: f64,
    /// `hits(k) / |T|`.
    pub recall: f64,
    /// `DCG / IDCG`: `1 / log2(rank + 1)` per hit, the ideal over `min(k, |T|)` ranks.
    pub ndcg: f64,
    /// 1 when there is a hit among the first k.
    pub hit_rate: f64,
    /// `1 / rank` of the first hit among the first k, else 0.
    pub mrr: f64,
    /// Mean of the precision at each hit's rank, over `min(k, |T|)`.
    pub map: f64,
}

impl Metrics {
    /// The figures of one user: `list` best first, `truth` sorted and not empty (else nothing is counted).
    #[must_use]
    pub fn of_list(list: &[u32], truth: &[u32], k: usize) -> Self {
        let hit = |item: &u32| truth.binary_search(item).is_ok();
        Self::of_hits(list.iter().take(k).map(hit), truth.len(), k)
    }

    /// As [`Self::of_list`] from whether each rank of the list is a hit; `truths` may count items the list could never hold.
    #[must_use]
    pub fn of_hits(hits: impl IntoIterator<Item = bool>, truths: usize, k: usize) -> Self {
        if truths == 0 || k == 0 {
            return Self::default();
        }
        let gain = |rank: usize| 1.0 / (rank as f64 + 1.0).log2();
        let mut sums = Self { users: 1.0, ..Self::default() };
        let mut dcg = 0.0;
        for (rank, hit) in (1..=k).zip(hits) {
            if hit {
                sums.recall += 1.0;
                sums.map += sums.recall / rank as f64;
                dcg += gain(rank);
                if sums.hit_rate == 0.0 {
                    sums.hit_rate = 1.0;
                    sums.mrr = 1.0 / rank as f64;
                }
            }
        }
        let best = k.min(truths);
        sums.recall /= truths as f64;
        sums.map /= best as f64;
        sums.ndcg = dcg / (1..=best).map(gain).sum::<f64>();
        sums
    }

    /// The sums, in the order of the fields.
    #[must_use]
    pub fn to_array(self) -> [f64; FIELDS] {
        [self.users, self.recall, self.ndcg, self.hit_rate, self.mrr, self.map]
    }

    /// Inverse of [`Self::to_array`].
    #[must_use]
    pub fn from_array([users, recall, ndcg, hit_rate, mrr, map]: [f64; FIELDS]) -> Self {
        Self { users, recall, ndcg, hit_rate, mrr, map }
    }

    /// The figures by name, as people and scripts read them; without the number of users.
    #[must_use]
    pub fn named(self) -> [(&'static str, f64); FIELDS - 1] {
        [("recall", self.recall), ("ndcg", self.ndcg), ("hr", self.hit_rate), ("mrr", self.mrr), ("map", self.map)]
    }

    /// Adds another user's or worker's sums.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.plus_times(1.0, other)
    }

    /// Adds `times` another's sums.
    #[must_use]
    pub fn plus_times(self, times: f64, other: Self) -> Self {
        let (mut left, right) = (self.to_array(), other.to_array());
        left.iter_mut().zip(right).for_each(|(left, right)| *left += times * right);
        Self::from_array(left)
    }

    /// Means over users, `users` kept as it is.
    #[must_use]
    pub fn means(self) -> Self {
        let users = self.users.max(1.0);
        Self::from_array(self.to_array().map(|sum| sum / users)).with_users(self.users)
    }

    fn with_users(self, users: f64) -> Self {
        Self { users, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_users_figures() {
        let metrics = Metrics::of_list(&[9, 3, 7], &[3, 5, 7], 3);
        let dcg = 1.0 / 3f64.log2() + 1.0 / 4f64.log2();
        let ideal = 1.0 + 1.0 / 3f64.log2() + 1.0 / 4f64.log2();
        assert_eq!(metrics.recall, 2.0 / 3.0);
        assert!((metrics.ndcg - dcg / ideal).abs() < 1e-15);
        assert_eq!((metrics.hit_rate, metrics.mrr, metrics.users), (1.0, 0.5, 1.0));
        assert_eq!(metrics.map, (1.0 / 2.0 + 2.0 / 3.0) / 3.0);
        assert_eq!(Metrics::of_list(&[1], &[], 3), Metrics::default());
    }

    /// Runs `evaluate.py` where the data folder and a Python are there.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test compares with an outside judge")]
    fn figures_equal_the_independent_judges_to_six_digits() {
        let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/evaluate.py");
        let folder = tempfile::tempdir().unwrap();
        let (mut predicted, mut test) = (String::new(), String::new());
        let mut sums = [Metrics::default(); 2];
        for user in 0u32..60 {
            let list: Vec<u32> = (0..20 - user % 3).map(|rank| (rank * 37 + user * 11) % 400).collect();
            let mut truth: Vec<u32> =
                (0..user % 9).map(|at| (at * 37 * (1 + user % 2) + user * 11 + at % 2) % 400).collect();
            truth.sort_unstable();
            truth.dedup();
            let words = |items: &[u32]| items.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            predicted += &format!("{user}\t{}\n", words(&list));
            test += &format!("{user} {}\n", words(&truth));
            for (sums, k) in sums.iter_mut().zip([5, 20]) {
                *sums = sums.plus(Metrics::of_list(&list, &truth, k));
            }
        }
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("p"), predicted).unwrap();
        std::fs::write(path("t"), test).unwrap();
        let run = std::process::Command::new("python3")
            .args([judge, "--k", "5,20", "--pred", path("p").to_str().unwrap(), "--test", path("t").to_str().unwrap()])
            .output();
        let Ok(output) = run.ok().filter(|output| output.status.success()).ok_or(()) else {
            assert!(!std::path::Path::new(judge).exists(), "evaluate.py is there but did not run");
            eprintln!("skipped: no evaluate.py or python3 here");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        for (sums, k) in sums.iter().zip(["\"@5\"", "\"@20\""]) {
            let section = &text[text.find(k).unwrap()..];
            let figure = |name: &str| {
                let rest = &section[section.find(&format!("\"{name}\": ")).unwrap() + name.len() + 4..];
                rest[..rest.find([',', '\n']).unwrap()].parse::<f64>().unwrap()
            };
            for (name, ours) in sums.means().named() {
                assert!((figure(name) - ours).abs() <= 5.1e-7, "{k} {name}: {} {ours}", figure(name));
            }
        }
    }
}
