//! Model versions that this node can answer with.
//!
//! A version is here once its global part (and, for each hosted item shard, the index of its rows) is loaded. Queries name their version;
//! a shard that does not have it says so and never answers with another.

use docent_model::blend::Blend;
use docent_model::tower::{Mlp, user};
use docent_model::{FoldIn, Kernel};
use docent_train::part::{Category, Global};
use docent_types::item::Item;
use docent_types::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// What every node needs of a version, whatever it hosts.
#[derive(Debug)]
pub struct Version {
    /// Which.
    pub version: u64,
    /// What its family needs.
    pub family: Family,
}

/// What a version needs, by its family.
#[derive(Debug)]
pub enum Family {
    /// A vector for each item: all but the graph filter.
    Vectors(Box<Vectors>),
    /// A graph filter: a history and the items' own parts are all that it needs.
    Graph,
    /// A graph filter, a model with vectors and popularity in one ranking.
    Blend(Box<Blended>),
}

/// A blend.
#[derive(Debug)]
pub struct Blended {
    /// Its constants: of the graph filter, the other model and popularity, in this order.
    pub blend: Arc<Blend>,
    /// The other model.
    pub with: Vectors,
}

/// A model with vectors.
#[derive(Debug)]
pub struct Vectors {
    /// Mean of all live item rows.
    pub mean: Vec<f32>,
    categories: Vec<Category>,
    fold: Fold,
}

/// How a user's vector comes of the history's rows.
#[derive(Debug)]
enum Fold {
    /// It solves the user's row of iALS.
    Ridge(FoldIn),
    /// It is the direction of their sum, or what a user tower makes of that.
    Sum(Sum),
}

/// How a user's vector comes of a sum of rows.
#[derive(Debug, Clone)]
pub struct Sum {
    tower: Option<Arc<Mlp>>,
    /// Values that are summed: all of a row, or all but the last, the item's bias, for which a user has a 1.
    dim: usize,
}

/// A user's vector, and what it was made of.
pub enum Folded {
    /// Of iALS.
    Ridge(docent_model::fold_in::Folded),
    /// Of sampled softmax and two towers.
    Sum(Vec<f32>, Sum),
}

impl Version {
    /// A version from the bytes of its global part.
    pub fn load(version: u64, bytes: &[u8]) -> Result<Version> {
        let corrupt = |error: &dyn std::fmt::Display| {
            Error::new(Kind::Corrupt, format!("the global part of model {version} cannot be used: {error}"))
        };
        let family = match Global::decode(bytes).map_err(|error| corrupt(&error))? {
            Global::Graph(_) => Family::Graph,
            Global::Blend(global) => {
                let with = Vectors::load(global.with).map_err(|error| corrupt(&error))?;
                Family::Blend(Box::new(Blended { blend: Arc::new(global.blend), with }))
            }
            other => Family::Vectors(Box::new(Vectors::load(other).map_err(|error| corrupt(&error))?)),
        };
        Ok(Version { version, family })
    }

    /// The model with vectors, if there is one in it.
    pub fn vectors(&self) -> Option<&Vectors> {
        match &self.family {
            Family::Vectors(vectors) => Some(vectors),
            Family::Blend(blended) => Some(&blended.with),
            Family::Graph => None,
        }
    }
}

impl Vectors {
    /// A model with vectors from its global part.
    fn load(global: Global) -> Result<Vectors, String> {
        let (mean, categories, fold) = match global {
            Global::Ials(global) => {
                let fold = FoldIn::new(global.settings, Kernel::detect(), &global.item_gramian, global.items);
                let fold = fold.map_err(|error| error.to_string())?;
                (global.mean, global.categories, Fold::Ridge(fold))
            }
            Global::Softmax(global) => {
                let sum = Sum { tower: None, dim: usize::from(global.settings.dim) };
                (global.mean, global.categories, Fold::Sum(sum))
            }
            Global::Tower(global) => {
                let dense = global.dense().map_err(|error| error.to_string())?;
                let tower = dense.user_tower(&global.settings).map_err(|error| error.to_string())?;
                let sum = Sum { tower: tower.map(Arc::new), dim: usize::from(global.settings.base.dim) };
                (global.mean, global.categories, Fold::Sum(sum))
            }
            Global::Graph(_) | Global::Blend(_) => {
                return Err("its family has no vectors".to_owned());
            }
        };
        Ok(Vectors { mean, categories, fold })
    }

    /// Values of a row.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// A user's vector from rows and confidences of the history.
    pub fn fold(&self, history: &[(&[f32], f32)]) -> Result<Folded, docent_model::Error> {
        match &self.fold {
            Fold::Ridge(fold) => fold.solve(history).map(Folded::Ridge),
            Fold::Sum(sum) => {
                let mut vector = user::vector(Kernel::detect(), sum.tower.as_deref(), sum.dim, &sum.summed(history))?;
                vector.resize(self.dim(), 1.0);
                Ok(Folded::Sum(vector, sum.clone()))
            }
        }
    }

    /// The first vector of an item that was not trained: the mean of its categories' means. `None` without a known category.
    pub fn first_vector(&self, item: &Item) -> Option<Vec<f32>> {
        let known = |name: &String| {
            let at = self.categories.binary_search_by(|category| category.name.as_ref().cmp(name)).ok()?;
            Some(self.categories[at].mean.as_slice())
        };
        let mut names: Vec<&String> = item.categories.iter().collect();
        names.sort();
        names.dedup();
        let means: Vec<&[f32]> = names.into_iter().filter_map(known).collect();
        let share = 1.0 / means.len() as f32;
        let mean = (0..self.dim()).map(|d| means.iter().map(|mean| mean[d]).sum::<f32>() * share).collect();
        (!means.is_empty()).then_some(mean)
    }
}

impl Sum {
    /// A history without the items' biases.
    fn summed<'a>(&self, history: &[(&'a [f32], f32)]) -> Vec<(&'a [f32], f32)> {
        history.iter().map(|(row, confidence)| (row.get(..self.dim).unwrap_or(row), *confidence)).collect()
    }
}

impl Folded {
    /// The user's vector.
    pub fn vector(&self) -> &[f32] {
        match self {
            Folded::Ridge(folded) => folded.vector(),
            Folded::Sum(vector, _) => vector,
        }
    }

    /// What each entry of the history, the one that it was folded from, adds to the score of `item`.
    pub fn contributions(&self, item: &[f32], history: &[(&[f32], f32)]) -> Result<Vec<f32>, docent_model::Error> {
        match self {
            Folded::Ridge(folded) => folded.contributions(item, history),
            Folded::Sum(_, sum) => {
                let item = item.get(..sum.dim).unwrap_or(item);
                user::contributions(Kernel::detect(), sum.tower.as_deref(), item, &sum.summed(history))
            }
        }
    }
}

/// The loaded versions.
#[derive(Debug, Default)]
pub struct Models {
    versions: RwLock<BTreeMap<u64, Arc<Version>>>,
}

impl Models {
    /// A loaded version; an error that says that another replica may have it.
    pub fn get(&self, version: u64) -> Result<Arc<Version>> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        let found = versions.get(&version).cloned();
        found
            .ok_or_else(|| Error::new(Kind::Unavailable, format!("model version {version} is not loaded on this node")))
    }

    /// Whether a version is loaded.
    pub fn has(&self, version: u64) -> bool {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).contains_key(&version)
    }

    /// All loaded versions.
    pub fn all(&self) -> Vec<Arc<Version>> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Enters a version.
    pub fn insert(&self, version: Arc<Version>) {
        self.versions.write().unwrap_or_else(PoisonError::into_inner).insert(version.version, version);
    }

    /// Drops all but these.
    pub fn retain(&self, keep: impl Fn(u64) -> bool) {
        self.versions.write().unwrap_or_else(PoisonError::into_inner).retain(|version, _| keep(*version));
    }
}
