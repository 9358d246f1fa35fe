//! The settings of a family: those recorded for a data set, or found by the procedure that found them.
//!
//! The procedure is coordinate descent by the product's own means: `docent evaluate` trains on the training part without a tenth of each user's
//! positives and measures NDCG@20 on that tenth. One setting after the other takes the value of its list that measures best with the others as
//! they are, in two sweeps. Nothing of it sees the test part, and nothing of it knows the data set.

use anyhow::{Context, Result};
use docent_chaos::lab::Lab;
use docent_chaos::tuned::Ials;
use serde_json::Value;
use std::collections::BTreeMap;

/// A model to measure.
pub(crate) struct Model {
    /// What to call it.
    pub(crate) name: String,
    /// Flags that make it what it is.
    fixed: Vec<(&'static str, String)>,
    /// Flags to choose, each with its values; the procedure begins with the first.
    space: Vec<(&'static str, &'static [&'static str])>,
    /// What was chosen for gowalla, flag by flag.
    of_gowalla: Vec<(&'static str, String)>,
    /// The acceptance's least Recall@20 and NDCG@20 on gowalla.
    pub(crate) least: Option<(f64, f64)>,
    /// Whether another seed gives another model.
    pub(crate) is_random: bool,
    /// The models of a blend: it takes what is chosen for each, and a tenth of the training part to find its weights on.
    of: Vec<Model>,
}

/// What was found for models, by name, so that a blend does not search again.
pub(crate) type Found = BTreeMap<String, Flags>;

/// Flags with their values.
pub(crate) type Flags = Vec<(&'static str, String)>;

/// Sweeps over all settings.
const SWEEPS: usize = 2;
/// Seed of what is held out, and of the models that are tried.
const SEED: &str = "7";

impl Model {
    /// iALS with so many dimensions.
    pub(crate) fn ials(dim: u32) -> Model {
        let chosen = Ials::of(dim);
        Model {
            name: format!("iALS d={dim}"),
            fixed: vec![("--dim", dim.to_string())],
            space: vec![
                ("--regularization", &["0.004", "0.001", "0.002", "0.008", "0.016", "0.03"]),
                ("--unobserved-weight", &["0.01", "0.003", "0.03", "0.1", "0.3", "1"]),
                ("--epochs", &["8", "4", "6", "12"]),
            ],
            of_gowalla: vec![
                ("--regularization", chosen.regularization.to_string()),
                ("--unobserved-weight", chosen.unobserved_weight.to_string()),
                ("--epochs", chosen.epochs.to_string()),
            ],
            least: match dim {
                64 => Some((0.150, 0.0)),
                128 => Some((0.163, 0.0)),
                256 => Some((0.174, 0.143)),
                _ => None,
            },
            is_random: true,
            of: Vec::new(),
        }
    }

    /// The graph filter.
    pub(crate) fn graph() -> Model {
        let chosen = [
            ("--user-exponent", "0.3"),
            ("--source-exponent", "0.6"),
            ("--target-exponent", "0"),
            ("--power", "2.5"),
            ("--neighbours", "200"),
            ("--source-mass-exponent", "0.7"),
            ("--target-mass-exponent", "0.4"),
        ];
        Model {
            name: "graph filter".to_owned(),
            fixed: vec![("--algorithm", "graph".to_owned())],
            space: vec![
                ("--user-exponent", &["0.7", "0", "0.3", "0.5", "0.9"]),
                ("--source-exponent", &["0.6", "0.4", "0.5", "0.7", "0.8"]),
                ("--target-exponent", &["0.3", "0", "0.1", "0.2", "0.4", "0.5", "0.6", "0.8"]),
                ("--power", &["1.2", "0.6", "0.8", "1", "1.5", "1.8", "2.5"]),
                ("--neighbours", &["200", "50", "1000", "3000"]),
                ("--source-mass-exponent", &["0", "0.3", "0.5", "0.7"]),
                ("--target-mass-exponent", &["0", "0.2", "0.4"]),
            ],
            of_gowalla: chosen.map(|(flag, value)| (flag, value.to_owned())).to_vec(),
            least: Some((0.181, 0.149)),
            is_random: false,
            of: Vec::new(),
        }
    }

    /// Sampled softmax with so many dimensions.
    pub(crate) fn softmax(dim: u32) -> Model {
        let chosen = [
            ("--temperature", "0.08"),
            ("--epochs", "20"),
            ("--batch", "16384"),
            ("--negatives", "4096"),
            ("--learning-rate", "1"),
            ("--popularity-bias", "0.5"),
        ];
        Model {
            name: format!("softmax d={dim}"),
            fixed: vec![("--algorithm", "softmax".to_owned()), ("--dim", dim.to_string())],
            space: vec![
                ("--temperature", &["0.08", "0.06", "0.1", "0.13"]),
                ("--epochs", &["20", "10", "40"]),
                ("--batch", &["16384", "4096"]),
                ("--negatives", &["4096", "1024"]),
                ("--learning-rate", &["1", "0.5", "2"]),
                ("--popularity-bias", &["0", "0.25", "0.5", "0.75"]),
            ],
            of_gowalla: chosen.map(|(flag, value)| (flag, value.to_owned())).to_vec(),
            least: (dim >= 256).then_some((0.178, 0.148)),
            is_random: true,
            of: Vec::new(),
        }
    }

    /// Two towers with so many dimensions: what sampled softmax takes, and layers.
    pub(crate) fn tower(dim: u32) -> Model {
        let softmax = Model::softmax(dim);
        let layers = [("--dense-rate", &["0.00002", "0.001"][..]), ("--user-hidden", &["16", "0", "128"])];
        let chosen = layers.iter().map(|(flag, values)| (*flag, values[0].to_owned()));
        Model {
            name: format!("tower d={dim}"),
            fixed: vec![("--algorithm", "tower".to_owned()), ("--dim", dim.to_string())],
            of_gowalla: softmax.of_gowalla.iter().cloned().chain(chosen).collect(),
            space: softmax.space.into_iter().chain(layers).collect(),
            least: (dim >= 128).then_some((0.165, 0.138)),
            is_random: true,
            of: Vec::new(),
        }
    }

    /// A blend of the graph filter and sampled softmax with so many dimensions.
    pub(crate) fn blend(dim: u32) -> Model {
        Model {
            name: format!("blend d={dim}"),
            fixed: [("--algorithm", "blend"), ("--blend-with", "softmax"), ("--dim", &dim.to_string())]
                .map(|(flag, value)| (flag, value.to_owned()))
                .to_vec(),
            space: Vec::new(),
            of_gowalla: Vec::new(),
            least: (dim >= 128).then_some((0.187, 0.156)),
            is_random: true,
            of: vec![Model::graph(), Model::softmax(dim)],
        }
    }

    /// The flags of `docent train` with the settings for a data set: recorded ones for gowalla unless `searches`, else found.
    pub(crate) fn chosen(&self, lab: &Lab, split: &str, searches: bool, found: &mut Found) -> Result<Flags> {
        let held_out = match self.of.is_empty() {
            true => vec![("--holdout", "0".to_owned())],
            false => vec![("--holdout", "0.1".to_owned()), ("--split", split.to_owned())],
        };
        let mut flags: Flags = self.fixed.iter().cloned().chain(held_out).collect();
        flags.extend(self.settings(lab, split, searches, found)?);
        for model in &self.of {
            flags.extend(model.settings(lab, split, searches, found)?);
        }
        Ok(flags)
    }

    fn settings(&self, lab: &Lab, split: &str, searches: bool, found: &mut Found) -> Result<Flags> {
        if !searches || self.space.is_empty() {
            return Ok(self.of_gowalla.clone());
        }
        if let Some(known) = found.get(&self.name) {
            return Ok(known.clone());
        }
        let settings = self.search(lab, split)?;
        found.insert(self.name.clone(), settings.clone());
        Ok(settings)
    }

    fn search(&self, lab: &Lab, split: &str) -> Result<Flags> {
        let mut tried = BTreeMap::new();
        let mut best: Flags = self.space.iter().map(|(flag, values)| (*flag, values[0].to_owned())).collect();
        let mut figure = self.tried(lab, split, &best, &mut tried)?;
        for _ in 0..SWEEPS {
            let before = best.clone();
            for (at, (_, values)) in self.space.iter().enumerate() {
                for value in *values {
                    let mut other = best.clone();
                    other[at].1 = (*value).to_owned();
                    let measured = self.tried(lab, split, &other, &mut tried)?;
                    if measured > figure {
                        (best, figure) = (other, measured);
                    }
                }
            }
            if best == before {
                break;
            }
        }
        println!("    chosen of {} held out: {} (NDCG@20 {figure:.4})", tried.len(), words(&best));
        Ok(best)
    }

    /// NDCG@20 on what `docent evaluate` holds out; each setting is tried once.
    fn tried(&self, lab: &Lab, split: &str, flags: &Flags, tried: &mut BTreeMap<String, f64>) -> Result<f64> {
        if let Some(known) = tried.get(&words(flags)) {
            return Ok(*known);
        }
        let mut command = vec!["--output", "json", "evaluate", "--split", split, "--seed", SEED];
        command.extend(self.fixed.iter().chain(flags).flat_map(|(flag, value)| [*flag, value.as_str()]));
        let said: Value = serde_json::from_str(&lab.docent(&command)?)?;
        let figure = |name: &str| said["metrics"][name].as_f64().with_context(|| format!("no {name}: {said}"));
        let (recall, ndcg) = (figure("recall@20")?, figure("ndcg@20")?);
        println!("    held out: Recall@20 {recall:.4} NDCG@20 {ndcg:.4}  {}", words(flags));
        tried.insert(words(flags), ndcg);
        Ok(ndcg)
    }
}

/// Flags as they are typed.
pub(crate) fn words(flags: &Flags) -> String {
    flags.iter().map(|(flag, value)| format!("{flag} {value}")).collect::<Vec<_>>().join(" ")
}
