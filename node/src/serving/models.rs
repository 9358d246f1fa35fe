//! Model versions that this node can answer with.
//!
//! A version is here once its global part (and, for each hosted item shard, the index of its rows) is loaded. Queries name their version;
//! a shard that does not have it says so and never answers with another.

use docent_model::{FoldIn, Kernel};
use docent_train::part::{Global, GraphGlobal, IalsGlobal};
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

/// The whole-model part of a version, by its family.
#[derive(Debug)]
pub enum Family {
    /// Matrix factorisation by iALS.
    Ials(Box<Ials>),
    /// A graph filter: a history and the items' own parts are all that it needs.
    Graph(GraphGlobal),
}

/// An iALS model.
#[derive(Debug)]
pub struct Ials {
    /// The whole-model part.
    pub global: IalsGlobal,
    /// Solves user vectors.
    pub fold_in: FoldIn,
}

impl Version {
    /// A version from the bytes of its global part.
    pub fn load(version: u64, bytes: &[u8]) -> Result<Version> {
        let corrupt = |error: &dyn std::fmt::Display| {
            Error::new(Kind::Corrupt, format!("the global part of model {version} cannot be used: {error}"))
        };
        let family = match Global::decode(bytes).map_err(|error| corrupt(&error))? {
            Global::Ials(global) => {
                let fold_in = FoldIn::new(global.settings, Kernel::detect(), &global.item_gramian, global.items);
                Family::Ials(Box::new(Ials { fold_in: fold_in.map_err(|error| corrupt(&error))?, global }))
            }
            Global::Graph(global) => Family::Graph(global),
        };
        Ok(Version { version, family })
    }
}

impl Ials {
    /// Values of a row.
    pub fn dim(&self) -> usize {
        usize::from(self.global.settings.dim)
    }

    /// The first vector of an item that was not trained: the mean of its categories' means. `None` without a known category.
    pub fn first_vector(&self, item: &Item) -> Option<Vec<f32>> {
        let known = |name: &String| {
            let categories = &self.global.categories;
            let at = categories.binary_search_by(|category| category.name.as_ref().cmp(name)).ok()?;
            Some(categories[at].mean.as_slice())
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
