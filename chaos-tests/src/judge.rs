//! Our own evaluator and the independent one (`shared/data/evaluate.py`), on the same files.

use crate::{data, lists};
use anyhow::{Context, Result, ensure};
use docent_model::metrics::Metrics;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Half of the judge's last digit, and a little for the order of sums.
const SIX_DIGITS: f64 = 5.1e-7;

/// Means over users with test items, of the first k of each list.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Users with test items.
    pub users: u64,
    /// `hits / |T|`.
    pub recall: f64,
    /// With log2(rank + 1) and the ideal over min(k, |T|).
    pub ndcg: f64,
    /// Share of users with a hit.
    pub hit_rate: f64,
    /// 1 / rank of the first hit.
    pub mrr: f64,
    /// Mean precision at the hits' ranks, over min(k, |T|).
    pub map: f64,
}

impl Figures {
    /// Whether both say the same to six digits.
    pub fn equals(&self, other: &Figures) -> bool {
        let pairs = [
            (self.recall, other.recall),
            (self.ndcg, other.ndcg),
            (self.hit_rate, other.hit_rate),
            (self.mrr, other.mrr),
            (self.map, other.map),
        ];
        self.users == other.users && pairs.iter().all(|(a, b)| (a - b).abs() <= SIX_DIGITS)
    }
}

/// Docent's evaluator (`docent_model::metrics`). As the judge it refuses repeated items and items of the training part.
pub fn ours(predicted: &Path, train: &Path, test: &Path, k: usize) -> Result<Figures> {
    let (predicted, train, test) = (lists::read(predicted)?, lists::read(train)?, lists::read(test)?);
    let empty = Vec::new();
    let mut sums = Metrics::default();
    for (user, truth) in &test {
        let list = predicted.get(user).unwrap_or(&empty);
        let seen: BTreeSet<&String> = train.get(user).unwrap_or(&empty).iter().collect();
        let truth: BTreeSet<&String> = truth.iter().collect();
        ensure!(list.iter().collect::<BTreeSet<_>>().len() == list.len(), "user {user} is recommended an item twice");
        let repeated = list.iter().find(|item| seen.contains(item));
        ensure!(repeated.is_none(), "user {user} is recommended {repeated:?} of the training part");
        sums = sums.plus(Metrics::of_hits(list.iter().take(k).map(|item| truth.contains(item)), truth.len(), k));
    }
    let means = sums.means();
    let Metrics { recall, ndcg, hit_rate, mrr, map, .. } = means;
    Ok(Figures { users: means.users as u64, recall, ndcg, hit_rate, mrr, map })
}

/// The independent judge; `None` where the data folder is not here.
pub fn independent(predicted: &Path, train: &Path, test: &Path, k: usize, items: usize) -> Result<Option<Figures>> {
    let Some(script) = data::shared("evaluate.py") else { return Ok(None) };
    let mut command = Command::new("python3");
    command.arg(script).arg("--pred").arg(predicted).arg("--test").arg(test).arg("--train").arg(train);
    let output = command.args(["--k", &k.to_string(), "--items", &items.to_string()]).output().context("python3")?;
    ensure!(output.status.success(), "evaluate.py: {}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let figure =
        |name: &str| said["metrics"][format!("@{k}")][name].as_f64().with_context(|| format!("no {name}: {said}"));
    Ok(Some(Figures {
        users: said["users_evaluated"].as_u64().context("no users_evaluated")?,
        recall: figure("recall")?,
        ndcg: figure("ndcg")?,
        hit_rate: figure("hr")?,
        mrr: figure("mrr")?,
        map: figure("map")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_judges_agree_and_refuse_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (train, test) = (file("train", "a x y\nb x\n"), file("test", "a p q r\nb q\nc z\n"));
        let good = file("good", "a\tp z q\nb\tw q\n");
        let figures = ours(&good, &train, &test, 3).unwrap();
        assert_eq!((figures.users, figures.recall), (3, (2.0 / 3.0 + 1.0) / 3.0));
        if let Some(independent) = independent(&good, &train, &test, 3, 9).unwrap() {
            assert!(figures.equals(&independent), "{figures:?} {independent:?}");
        }
        for bad in ["a\tp p\n", "a\tx p\n"] {
            let bad = file("bad", bad);
            assert!(ours(&bad, &train, &test, 3).is_err());
            assert!(data::shared("evaluate.py").is_none() || independent(&bad, &train, &test, 3, 9).is_err());
        }
    }
}
