//! The settings of a family: those recorded for a data set, or found by the procedure that found them.
//!
//! The procedure is coordinate descent by the product's own means: `docent evaluate` trains on the training part without a tenth of each user's
//! positives and measures NDCG@20 on that tenth. One setting after the other takes the value of its list that measures best with the others as
//! they are, in two sweeps. Nothing of it sees the test part, and nothing of it knows the data set. Settings of sampled softmax are found with 64
//! dimensions for all, and two towers take them and look for those of their layers alone: a search takes minutes then, not hours.

use anyhow::{Context, Result};
use docent_chaos::lab::Lab;
use docent_chaos::tuned::Ials;
use serde_json::Value;
use std::collections::BTreeMap;

/// A model to measure.
pub(crate) struct Model {
    /// What to call it.
    pub(crate) name: String,
    /// What else takes the settings that are found for it.
    family: String,
    /// Flags that make it what it is, but for its dimensions.
    fixed: Vec<(&'static str, String)>,
    dim: Option<u32>,
    /// With how many dimensions its settings are tried.
    tried_dim: Option<u32>,
    /// Flags to choose, each with its values; the procedure begins with the first.
    space: Vec<(&'static str, &'static [&'static str])>,
    /// What was chosen for gowalla, flag by flag.
    of_gowalla: Vec<(&'static str, String)>,
    /// The acceptance's least Recall@20 and NDCG@20 on gowalla.
    pub(crate) least: Option<(f64, f64)>,
    /// Whether another seed gives another model.
    pub(crate) is_random: bool,
    /// Models whose settings it takes besides its own.
    of: Vec<Model>,
    /// Whether it finds something (a blend its weights) on a tenth of the training part.
    holds_out: bool,
}

/// What was found, by family, so that nothing is searched for twice.
pub(crate) type Found = BTreeMap<String, Flags>;

/// Flags with their values.
pub(crate) type Flags = Vec<(&'static str, String)>;

/// Sweeps over all settings.
const SWEEPS: usize = 2;
/// With how many dimensions models with gradients are tried.
const DIM: u32 = 64;
/// Seed of what is held out, and of the models that are tried.
const SEED: &str = "7";

impl Model {
    /// iALS with so many dimensions.
    pub(crate) fn ials(dim: u32) -> Model {
        let chosen = Ials::of(dim);
        Model {
            name: format!("iALS d={dim}"),
            family: format!("iALS d={dim}"),
            fixed: Vec::new(),
            dim: Some(dim),
            tried_dim: Some(dim),
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
            holds_out: false,
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
            family: "graph filter".to_owned(),
            fixed: vec![("--algorithm", "graph".to_owned())],
            dim: None,
            tried_dim: None,
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
            holds_out: false,
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
            family: "softmax".to_owned(),
            fixed: vec![("--algorithm", "softmax".to_owned())],
            dim: Some(dim),
            tried_dim: Some(DIM),
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
            holds_out: false,
        }
    }

    /// Two towers with so many dimensions: what sampled softmax takes, and layers.
    pub(crate) fn tower(dim: u32) -> Model {
        let space = vec![("--dense-rate", &["0.00002", "0.001"][..]), ("--user-hidden", &["16", "0", "128"])];
        Model {
            name: format!("tower d={dim}"),
            family: "tower".to_owned(),
            fixed: vec![("--algorithm", "tower".to_owned())],
            dim: Some(dim),
            tried_dim: Some(DIM),
            of_gowalla: first_of(&space),
            space,
            least: (dim >= 128).then_some((0.165, 0.138)),
            is_random: true,
            of: vec![Model::softmax(dim)],
            holds_out: false,
        }
    }

    /// A blend of the graph filter and sampled softmax with so many dimensions.
    pub(crate) fn blend(dim: u32) -> Model {
        Model {
            name: format!("blend d={dim}"),
            family: "blend".to_owned(),
            fixed: [("--algorithm", "blend"), ("--blend-with", "softmax")]
                .map(|(flag, value)| (flag, value.to_owned()))
                .to_vec(),
            dim: Some(dim),
            tried_dim: None,
            space: Vec::new(),
            of_gowalla: Vec::new(),
            least: (dim >= 128).then_some((0.187, 0.156)),
            is_random: true,
            of: vec![Model::graph(), Model::softmax(dim)],
            holds_out: true,
        }
    }

    /// The flags of `docent train` with the settings for a data set: recorded ones for gowalla unless `searches`, else found.
    pub(crate) fn chosen(&self, lab: &Lab, split: &str, searches: bool, found: &mut Found) -> Result<Flags> {
        let held_out = match self.holds_out {
            false => vec![("--holdout", "0".to_owned())],
            true => vec![("--holdout", "0.1".to_owned()), ("--split", split.to_owned())],
        };
        let mut flags: Flags = self.with_dim(self.dim);
        flags.extend(held_out);
        flags.extend(self.settings(lab, split, searches, found)?);
        Ok(flags)
    }

    fn with_dim(&self, dim: Option<u32>) -> Flags {
        self.fixed.iter().cloned().chain(dim.map(|dim| ("--dim", dim.to_string()))).collect()
    }

    fn settings(&self, lab: &Lab, split: &str, searches: bool, found: &mut Found) -> Result<Flags> {
        let mut settings = Flags::new();
        for model in &self.of {
            settings.extend(model.settings(lab, split, searches, found)?);
        }
        let own = match found.get(&self.family) {
            _ if !searches || self.space.is_empty() => self.of_gowalla.clone(),
            Some(known) => known.clone(),
            None => self.search(lab, split, &settings)?,
        };
        if searches {
            found.insert(self.family.clone(), own.clone());
        }
        settings.extend(own);
        Ok(settings)
    }

    /// Its own settings beside those it takes.
    fn search(&self, lab: &Lab, split: &str, taken: &Flags) -> Result<Flags> {
        let fixed: Flags = self.with_dim(self.tried_dim).into_iter().chain(taken.iter().cloned()).collect();
        let mut tried = BTreeMap::new();
        let mut best = first_of(&self.space);
        let mut figure = measured(lab, split, &fixed, &best, &mut tried)?;
        for _ in 0..SWEEPS {
            let before = best.clone();
            for (at, (_, values)) in self.space.iter().enumerate() {
                for value in *values {
                    let mut other = best.clone();
                    other[at].1 = (*value).to_owned();
                    let measured = measured(lab, split, &fixed, &other, &mut tried)?;
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
}

/// Each flag with the value that the procedure begins with.
fn first_of(space: &[(&'static str, &'static [&'static str])]) -> Flags {
    space.iter().map(|(flag, values)| (*flag, values[0].to_owned())).collect()
}

/// NDCG@20 on what `docent evaluate` holds out; each setting is tried once.
fn measured(lab: &Lab, split: &str, fixed: &Flags, flags: &Flags, tried: &mut BTreeMap<String, f64>) -> Result<f64> {
    if let Some(known) = tried.get(&words(flags)) {
        return Ok(*known);
    }
    let mut command = vec!["--output", "json", "evaluate", "--split", split, "--seed", SEED];
    command.extend(fixed.iter().chain(flags).flat_map(|(flag, value)| [*flag, value.as_str()]));
    let said: Value = serde_json::from_str(&lab.docent(&command)?)?;
    let figure = |name: &str| said["metrics"][name].as_f64().with_context(|| format!("no {name}: {said}"));
    let (recall, ndcg) = (figure("recall@20")?, figure("ndcg@20")?);
    println!("    held out: Recall@20 {recall:.4} NDCG@20 {ndcg:.4}  {}", words(flags));
    tried.insert(words(flags), ndcg);
    Ok(ndcg)
}

/// Flags as they are typed.
pub(crate) fn words(flags: &Flags) -> String {
    flags.iter().map(|(flag, value)| format!("{flag} {value}")).collect::<Vec<_>>().join(" ")
}
