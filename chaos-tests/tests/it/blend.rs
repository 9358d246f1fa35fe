//! Blends through the cluster: what they recommend is the formula's, and follows what users do and operators take down.

use crate::answers::{answered, dot, part_hashes};
use crate::graph::{self, Formula, Norm, source};
use anyhow::{Context, Result, ensure};
use docent_chaos::client::{Client, ids};
use docent_chaos::lab::{Lab, Options};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What the model with vectors exports by itself: the same settings give a blend the same.
pub(crate) struct Vectors {
    pub(crate) users: BTreeMap<String, Vec<f32>>,
    pub(crate) items: BTreeMap<String, Vec<f32>>,
}

/// A graph filter that thinks so little of popular items that the other channels have something to add.
const FORMULA: Formula = Formula { exponents: [0.5, 0.75, 1.0, 1.25, 0.0, 0.0], idf_power: 0.0, norm: Norm::Positives };

/// Unit, weight and slope of a channel of version `shown`.
fn channel(shown: &Value, name: &str) -> Result<[f64; 3]> {
    let figure = |figure: &str| shown["metrics"][format!("blend_{name}_{figure}")].as_f64();
    let all = ["unit", "weight", "slope"].map(figure);
    let [Some(unit), Some(weight), Some(slope)] = all else { anyhow::bail!("no channel {name}: {shown}") };
    Ok([unit, weight, slope])
}

fn live(lab: &Lab) -> Result<Value> {
    let (_, body) = lab.client(0).get("/v1/models")?;
    let models = body["models"].as_array().context("no models")?;
    models.iter().find(|model| model["state"] == "live").cloned().context("no live model")
}

/// Trains a blend of the graph filter and sampled softmax and compares what it recommends, through every node, with
/// `ln(1 + g / (h unit)) + w cosine / unit + w' ln(1 + positives)` over all items, each weight `base + slope ln(h / 20)`.
pub(crate) fn compare_with_formula(lab: &Lab, of_softmax: &Vectors, steps: &[&str]) -> Result<Vec<(u64, String)>> {
    let of_graph = graph::flags(FORMULA);
    let mut command = vec!["train", "--force", "--wait", "--algorithm", "blend", "--blend-with", "softmax"];
    command.extend(of_graph.iter().map(String::as_str).chain(steps.iter().copied()));
    lab.docent(&command)?;
    let shown = live(lab)?;
    let [graph, with, popularity] = ["graph", "with", "popularity"].map(|name| channel(&shown, name));
    let ([unit, ..], [temperature, with, with_slope], [_, popular, popular_slope]) = (graph?, with?, popularity?);
    ensure!([with, with_slope, popular, popular_slope] != [0.0; 4], "nothing was blended: {shown}");
    let histories = graph::histories(lab)?;
    let weights = graph::weights(&histories, FORMULA);
    let mut positives: BTreeMap<&str, f64> = BTreeMap::new();
    histories.values().flat_map(|user| &user.positives).for_each(|item| *positives.entry(item).or_default() += 1.0);
    let clients: Vec<Client> = (0..lab.nodes.len()).map(|i| lab.client(i)).collect();
    let mut compared = 0;
    let users = histories.iter().filter(|(user, _)| of_softmax.users.contains_key(*user)).take(300);
    for (i, (user, history)) in users.enumerate() {
        let entries = history.positives.len() as f64;
        let long = (entries / 20.0).ln();
        let score = |(item, row): (&String, &Vec<f32>)| -> f64 {
            let of = |source: &String| weights.get(source.as_str())?.get(item.as_str());
            let neighbours: f64 = history.positives.iter().filter_map(of).sum();
            let cosine = f64::from(dot(&of_softmax.users[user], row));
            (1.0 + neighbours / (entries * unit)).ln()
                + (with + with_slope * long) * cosine / temperature
                + (popular + popular_slope * long) * (1.0 + positives.get(item.as_str()).unwrap_or(&0.0)).ln()
        };
        let unseen = of_softmax.items.iter().filter(|(item, _)| !history.seen.contains(*item));
        let scores: BTreeMap<&str, f64> = unseen.map(|item| (item.0.as_str(), score(item))).collect();
        let mut expected: Vec<f64> = scores.values().copied().collect();
        expected.sort_by(|a, b| b.total_cmp(a));
        let answer = clients[i % clients.len()].recommend(user, 20)?;
        ensure!((0..20).all(|at| source(&answer, at) == "model"), "user {user}: {answer}");
        for ((item, score), at_this_rank) in answered(&answer).iter().zip(&expected) {
            let of_formula = scores.get(item.as_str()).with_context(|| format!("user {user}: {item} has no score"))?;
            // Items of nearly equal scores may change places.
            for expected in [of_formula, at_this_rank] {
                let differs = (f64::from(*score) - expected).abs() > 1e-4 * (1.0 + expected.abs());
                ensure!(!differs, "user {user}, item {item}: {score}, the formula says {expected}");
            }
            compared += 1;
        }
    }
    ensure!(compared >= 3_000, "only {compared} items were compared");
    part_hashes(lab)
}

#[test]
fn a_blend_follows_clicks_and_take_downs_explains_itself_and_says_what_it_weighs() {
    let lab = Lab::start(&Options { coordinators: 1, ..Options::default() }).unwrap();
    lab.docent(&["import", "generated", "--users", "600", "--items", "300", "--events", "12000", "--seed", "5"])
        .unwrap();
    lab.docent(&["train", "--algorithm", "blend", "--dim", "8", "--epochs", "3", "--split", "random", "--wait"])
        .unwrap();
    let shown: Value = serde_json::from_str(&lab.docent(&["--output", "json", "evaluate", "1"]).unwrap()).unwrap();
    assert!(shown["metrics"]["ndcg@20"].as_f64().unwrap() > 0.05, "{shown}");
    assert_eq!(channel(&shown, "graph").unwrap()[1..], [1.0, 0.0]);
    assert!(lab.docent(&["evaluate", "1"]).unwrap().contains("channel of the blend"));
    let settings = &shown["settings"];
    assert_eq!((&settings["blend_with"], &settings["dim"]), (&json!("ials"), &json!(8)), "{shown}");

    let clients: Vec<Client> = (0..3).map(|i| lab.client(i)).collect();
    assert_eq!(source(&clients[0].recommend("newcomer", 5).unwrap(), 0), "popular");
    let clicked = ids(&clients[0].get("/v1/popular?n=1").unwrap().1).remove(0);
    let event = json!({ "event_id": "e", "user_id": "newcomer", "item_id": clicked, "type": "click" });
    clients[0].ingest(&[event]).unwrap();
    let answer = clients[1].recommend_with(json!({ "user_id": "newcomer", "n": 5, "explain": true })).unwrap();
    assert_eq!(source(&answer, 0), "model", "{answer}");
    let reasons = answer["items"][0]["reasons"].as_array().unwrap();
    assert_eq!((reasons.len(), &reasons[0]["item_id"]), (1, &json!(clicked)), "{answer}");
    let similar = clients[2].get(&format!("/v1/items/{clicked}/similar?n=5")).unwrap().1;
    assert_eq!((source(&similar, 0), ids(&similar).len()), ("similar", 5), "{similar}");

    // What is taken down is gone for everybody with the answer to the take-down, whichever model found it, and comes back.
    let best = ids(&answer).remove(0);
    let (status, body) = clients[2].post(&format!("/v1/items/{best}:take-down"), &json!({})).unwrap();
    assert_eq!(status, 200, "{body}");
    for client in &clients {
        assert!(!ids(&client.recommend("newcomer", 50).unwrap()).contains(&best));
        assert!(!ids(&client.get(&format!("/v1/items/{clicked}/similar?n=50")).unwrap().1).contains(&best));
    }
    let (status, body) = clients[0].post(&format!("/v1/items/{best}:restore"), &json!({})).unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(ids(&clients[1].recommend("newcomer", 50).unwrap()).contains(&best));

    for (settings, field) in [
        (json!({ "algorithm": "blend", "holdout": 0.0 }), "holdout"),
        (json!({ "algorithm": "blend", "blend_with": "graph" }), "blend_with"),
        (json!({ "algorithm": "blend", "batch": 4096 }), "batch"),
        (json!({ "algorithm": "graph", "blend_with": "ials" }), "blend_with"),
    ] {
        let refused = clients[0].post("/v1/jobs", &settings).unwrap();
        assert_eq!((refused.0, &refused.1["error"]["field"]), (400, &json!(field)), "{}", refused.1);
    }
    let refused = lab.docent(&["export", "vectors", "--of", "users"]).unwrap_err().to_string();
    assert!(refused.contains("rank by more than vectors"), "{refused}");
}
