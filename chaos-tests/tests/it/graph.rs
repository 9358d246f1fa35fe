//! The graph filter through the cluster: its answers are the formula's, and follow what users do and operators take down.

use crate::answers::{answered, part_hashes};
use anyhow::{Context, Result, ensure};
use docent_chaos::client::{Client, ids};
use docent_chaos::lab::{Lab, Options};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Items of all events, and of those that are positives.
#[derive(Default)]
pub(crate) struct Histories {
    pub(crate) seen: BTreeSet<String>,
    pub(crate) positives: BTreeSet<String>,
}

pub(crate) fn histories(lab: &Lab) -> Result<BTreeMap<String, Histories>> {
    let mut histories: BTreeMap<String, Histories> = BTreeMap::new();
    for line in lab.docent(&["export", "events"])?.lines() {
        let event: Value = serde_json::from_str(line)?;
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let user = histories.entry(text("user_id")).or_default();
        user.seen.insert(text("item_id"));
        // The default rules: a rating counts from 3.5 on, everything else does.
        if event["type"] != "rating" || event["value"].as_f64().is_some_and(|value| value >= 3.5) {
            user.positives.insert(text("item_id"));
        }
    }
    Ok(histories)
}

/// What a weight is made of.
#[derive(Clone, Copy)]
pub(crate) struct Formula {
    /// Exponents of users, sources and targets, the power, and exponents of the masses of sources and targets.
    pub(crate) exponents: [f64; 6],
    pub(crate) idf_power: f64,
    pub(crate) norm: Norm,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Norm {
    Positives,
    Weights,
    Length(f64),
}

/// No defaults.
const PLAIN: Formula = Formula { exponents: [0.5, 0.75, 0.25, 1.25, 0.5, 0.25], idf_power: 0.0, norm: Norm::Positives };
const TF_IDF: Formula = Formula { exponents: [0.0, 0.5, 0.5, 1.0, 0.0, 0.0], idf_power: 2.0, norm: Norm::Weights };
const BM25: Formula = Formula { exponents: [0.0, 1.0, 1.0, 1.0, 0.0, 0.0], idf_power: 2.0, norm: Norm::Length(0.6) };

/// The flags of a formula, and lists that nothing is cut from: where a list would end, ties are in an order that only the cluster knows.
pub(crate) fn flags(formula: Formula) -> Vec<String> {
    let names = [
        "user-exponent",
        "source-exponent",
        "target-exponent",
        "power",
        "source-mass-exponent",
        "target-mass-exponent",
    ];
    let named = names.into_iter().zip(formula.exponents).map(|(name, value)| (name, value.to_string()));
    let norm = match formula.norm {
        Norm::Positives => vec![("item-norm", "positives".to_owned())],
        Norm::Weights => vec![("item-norm", "weights".to_owned())],
        Norm::Length(share) => vec![("item-norm", "length".to_owned()), ("length-share", share.to_string())],
    };
    let more = [("idf-power", formula.idf_power.to_string()), ("neighbours", "10000".to_owned())];
    named.chain(norm).chain(more).flat_map(|(name, value)| [format!("--{name}"), value]).collect()
}

/// `w = (n_i^-b n_j^-c sum_{u has both} d_u^-a idf_u^g)^s` for each i and j, then `w' = w (sum_k w_ik)^-e` and `w' (sum_k w'_kj)^-f`, in f64.
pub(crate) fn weights(
    histories: &BTreeMap<String, Histories>,
    formula: Formula,
) -> BTreeMap<&str, BTreeMap<&str, f64>> {
    let Formula { exponents: [a, b, c, power, e, f], idf_power, norm } = formula;
    let mut degrees: BTreeMap<&str, f64> = BTreeMap::new();
    let positives = || histories.values().map(|user| &user.positives);
    positives().flatten().for_each(|item| *degrees.entry(item).or_default() += 1.0);
    let catalogue = degrees.len() as f64;
    let mut sums: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
    let mut units: BTreeMap<&str, f64> = BTreeMap::new();
    for items in positives() {
        let count = items.len() as f64;
        let idf = 1.0 - (1.0 + count).ln() / catalogue.ln();
        let unit = count.powf(-a) * idf.powf(idf_power);
        for i in items {
            *units.entry(i).or_default() += unit;
            let of = sums.entry(i).or_default();
            items.iter().filter(|j| *j != i).for_each(|j| *of.entry(j).or_default() += unit);
        }
    }
    let mean = degrees.values().sum::<f64>() / catalogue;
    let norm_of = |item: &str| match norm {
        Norm::Positives => degrees[item],
        Norm::Weights => units[item],
        Norm::Length(share) => 1.0 - share + share * degrees[item] / mean,
    };
    for (i, of) in &mut sums {
        for (j, sum) in of.iter_mut() {
            *sum = (*sum * norm_of(i).powf(-b) * norm_of(j).powf(-c)).powf(power);
        }
        let of_source: f64 = of.values().sum();
        of.values_mut().for_each(|weight| *weight *= of_source.powf(-e));
    }
    let mut of_targets: BTreeMap<&str, f64> = BTreeMap::new();
    sums.values().flatten().for_each(|(j, weight)| *of_targets.entry(j).or_default() += weight);
    sums.values_mut().flatten().for_each(|(j, weight)| *weight *= of_targets[j].powf(-f));
    sums
}

/// Trains graph filters and compares what they recommend to many users, through every node, with the formula over the exported events.
pub(crate) fn compare_with_formula(lab: &Lab) -> Result<Vec<(u64, String)>> {
    let mut hashes = Vec::new();
    for formula in [PLAIN, TF_IDF, BM25] {
        compare(lab, formula)?;
        hashes.extend(part_hashes(lab)?);
    }
    Ok(hashes)
}

fn compare(lab: &Lab, formula: Formula) -> Result<()> {
    let flags = flags(formula);
    let mut command = vec!["train", "--algorithm", "graph", "--force", "--wait"];
    command.extend(flags.iter().map(String::as_str));
    lab.docent(&command)?;
    let histories = histories(lab)?;
    let weights = weights(&histories, formula);
    let clients: Vec<Client> = (0..lab.nodes.len()).map(|i| lab.client(i)).collect();
    let mut compared = 0;
    for (i, (user, history)) in
        histories.iter().filter(|(_, history)| !history.positives.is_empty()).take(300).enumerate()
    {
        let mut scores: BTreeMap<&str, f64> = BTreeMap::new();
        for (item, weight) in history.positives.iter().filter_map(|item| weights.get(item.as_str())).flatten() {
            *scores.entry(item).or_default() += weight;
        }
        let mut expected: Vec<f64> =
            scores.iter().filter(|(item, _)| !history.seen.contains(**item)).map(|(_, score)| *score).collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        let answer = clients[i % clients.len()].recommend(user, 20)?;
        let found: Vec<(String, f32)> = answered(&answer)
            .into_iter()
            .zip(answer["items"].as_array().into_iter().flatten())
            .filter(|(_, item)| item["source"] == "model")
            .map(|(pair, _)| pair)
            .collect();
        ensure!(found.len() == expected.len().min(20), "user {user}: {} items, {} scores", found.len(), expected.len());
        for ((item, score), at_this_rank) in found.iter().zip(&expected) {
            let of_formula = scores.get(item.as_str()).with_context(|| format!("user {user}: {item} has no score"))?;
            ensure!(!history.seen.contains(item), "user {user} has seen {item}");
            // Items of nearly equal scores may change places.
            for expected in [of_formula, at_this_rank] {
                let differs = (f64::from(*score) - expected).abs() > 1e-5 * expected;
                ensure!(!differs, "user {user}, item {item}: {score}, the formula says {expected}");
            }
        }
        compared += found.len();
    }
    ensure!(compared > 3_000, "only {compared} items were compared");
    Ok(())
}

pub(crate) fn source(answer: &Value, at: usize) -> &str {
    answer["items"][at]["source"].as_str().unwrap_or_default()
}

#[test]
fn a_graph_filter_follows_clicks_and_take_downs_explains_itself_and_gives_way_to_other_families() {
    let lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    lab.docent(&["import", "generated", "--users", "600", "--items", "300", "--events", "12000", "--seed", "5"])
        .unwrap();
    lab.docent(&["train", "--algorithm", "graph", "--split", "random", "--wait"]).unwrap();
    let shown: Value = serde_json::from_str(&lab.docent(&["--output", "json", "evaluate", "1"]).unwrap()).unwrap();
    let measured = shown["metrics"]["recall@20"].as_f64().unwrap();
    assert!(measured > 0.1, "of 300 items of six kinds twenty by chance are 0.07: {shown}");
    assert_eq!((&shown["settings"]["split"], &shown["settings"]["dim"]), (&json!("random"), &Value::Null));

    // A new user has no neighbours until the first click, which counts at once, through another node.
    let clients: Vec<Client> = (0..3).map(|i| lab.client(i)).collect();
    assert_eq!(source(&clients[0].recommend("newcomer", 5).unwrap(), 0), "popular");
    let clicked = ids(&clients[0].get("/v1/popular?n=1").unwrap().1).remove(0);
    let event = json!({ "event_id": "e", "user_id": "newcomer", "item_id": clicked, "type": "click" });
    clients[0].ingest(&[event]).unwrap();
    let asked = json!({ "user_id": "newcomer", "n": 5, "explain": true });
    let answer = clients[1].recommend_with(asked).unwrap();
    assert_eq!(source(&answer, 0), "model", "{answer}");
    let reasons = answer["items"][0]["reasons"].as_array().unwrap();
    assert_eq!((reasons.len(), &reasons[0]["item_id"]), (1, &json!(clicked)), "{answer}");
    let (score, share) = (answer["items"][0]["score"].as_f64(), reasons[0]["contribution"].as_f64());
    assert_eq!(score, share, "one item of history makes the whole score");
    let similar = clients[2].get(&format!("/v1/items/{clicked}/similar?n=5")).unwrap().1;
    assert_eq!(answered(&similar), answered(&answer), "a history of one is what is similar to it");

    // What is taken down is gone for everybody with the answer to the take-down, and comes back.
    let best = ids(&answer).remove(0);
    let (status, body) = clients[2].post(&format!("/v1/items/{best}:take-down"), &json!({})).unwrap();
    assert_eq!(status, 200, "{body}");
    for client in &clients {
        assert!(!ids(&client.recommend("newcomer", 50).unwrap()).contains(&best));
        assert!(!ids(&client.get(&format!("/v1/items/{clicked}/similar?n=50")).unwrap().1).contains(&best));
    }
    let (status, body) = clients[0].post(&format!("/v1/items/{best}:restore"), &json!({})).unwrap();
    assert_eq!(status, 200, "{body}");

    let refused = clients[0].post("/v1/jobs", &json!({ "algorithm": "graph", "dim": 8 })).unwrap();
    assert_eq!((refused.0, &refused.1["error"]["field"]), (400, &json!("dim")), "{}", refused.1);
    let refused = lab.docent(&["export", "vectors", "--of", "users"]).unwrap_err().to_string();
    assert!(refused.contains("rank by more than vectors"), "{refused}");

    lab.docent(&["train", "--dim", "8", "--epochs", "2", "--wait", "--force"]).unwrap();
    let answer = clients[1].recommend("newcomer", 5).unwrap();
    assert_eq!((&answer["model"]["version"], source(&answer, 0)), (&json!(2), "model"));
    lab.docent(&["models", "rollback"]).unwrap();
    let answer = clients[0].recommend("newcomer", 5).unwrap();
    assert_eq!((&answer["model"]["version"], source(&answer, 0)), (&json!(1), "model"));
}
