//! Two towers over a table of items: sampled softmax ([`crate::softmax`]) with hidden layers between the table and the scores.
//!
//! *Item tower.* Item i has a row e_i, a unit vector, and a bag F of named features (categories), each with a row f:
//! `u = direction of e_i + mean_F f`, `y_i = direction of u + W2 relu(W1 u + b)`. *User tower.* `s = direction of sum_h c_h y_h` over the history's
//! item-tower outputs, `x = direction of s + V2 relu(V1 s + a)`. A user needs no row: a reader makes x of the exported y of the history and the
//! tower's weights. (Two towers with a shared-negatives softmax and its correction: Yi et al., RecSys 2019; the residual is He et al.'s, CVPR 2016.)
//!
//! **It starts as sampled softmax.** The second layers and the features' rows begin as zeros, so that y_i = e_i and x = s before the first step; what
//! the layers add is what training found worth adding. With no hidden units and no features it *is* sampled softmax, to the same loss.
//!
//! **Loss and steps** are those of [`crate::softmax`], whose contract holds with four additions:
//!
//! 1. *The dense weights* ([`Dense`]: both towers' and the features' rows) are everybody's; one place keeps them with Adam's moments ([`adam`]), the driver
//!    of the job, and tells all hosts before each step.
//! 2. *An owner serves item-tower outputs* where it serves rows for sampled softmax ([`items::Tower::outputs`]). So the tower is computed once for an item
//!    that a host asks for, whoever touched it, and what travels between hosts has the shape that it had.
//! 3. *A user host* gives the gradients by those outputs, as before, and that of the user tower's weights ([`crate::softmax::negatives::Push::dense`]).
//! 4. *An owner* takes the sums back through the item tower ([`items::Tower::gradients`]), one virtual worker of items after another, and applies them to its
//!    rows; the gradient of the item side's dense weights is a leaf of a second tree, over virtual workers of items.
//!
//! **The bytes do not depend on the hosting**, for the reasons given there. Products of layers are the kernels' of [`crate::softmax`]: one fused
//! multiply-add for each output and step, in order, so a row's result does not depend on the rows beside it. Dense gradients are added in f32
//! inside a virtual worker and in f64 over the trees.
pub mod adam;
pub mod items;
pub mod mlp;
pub mod user;

pub use mlp::Mlp;

use crate::{Error, shape, softmax};
use serde::{Deserialize, Serialize};

/// Features with a row, at most: those that most items have. The dense weights are told to every host before every step.
pub const FEATURES_MAX: usize = 1024;
/// Dimensions times hidden units, at most: half a megabyte of weights a tower.
const WEIGHTS_MAX: u32 = 65_536;

/// Settings of two towers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What they share with sampled softmax.
    pub base: softmax::Settings,
    /// Hidden units of the user tower, a multiple of 16 up to 512; 0: users are the directions of their sums.
    pub user_hidden: u16,
    /// Hidden units of the item tower, likewise; 0: items are their rows and features.
    pub item_hidden: u16,
    /// Adam's rate at the beginning, (0, 1]; it falls to 0 in a line over the job.
    pub dense_rate: f32,
}

impl Default for Settings {
    /// Chosen on held-out training data (decision 0019).
    fn default() -> Self {
        Self { base: softmax::Settings::default(), user_hidden: 16, item_hidden: 64, dense_rate: 2e-5 }
    }
}

impl Settings {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Setting`] with the first setting that is out of range.
    pub fn validate(&self) -> Result<(), Error> {
        self.base.validate()?;
        for (name, hidden) in [("user_hidden", self.user_hidden), ("item_hidden", self.item_hidden)] {
            if hidden > 512 || hidden % 16 != 0 {
                return Err(Error::Setting { name, reason: "a multiple of 16, 0 to 512" });
            }
            if u32::from(hidden) * u32::from(self.base.dim) > WEIGHTS_MAX {
                return Err(Error::Setting { name, reason: "at most 65,536 over dim" });
            }
        }
        if !(self.dense_rate > 0.0 && self.dense_rate <= 1.0) {
            return Err(Error::Setting { name: "dense_rate", reason: "above 0, at most 1" });
        }
        Ok(())
    }

    /// Adam's rate in this step of the job (epochs count from 0).
    #[must_use]
    pub fn dense_rate(&self, steps: u32, epoch: u32, step: u32) -> f32 {
        self.dense_rate * self.base.rate(steps, epoch, step) / self.base.learning_rate
    }

    fn hidden(&self) -> [usize; 2] {
        [usize::from(self.user_hidden), usize::from(self.item_hidden)]
    }
}

/// The dense weights: the user tower's, the item tower's, and the features' rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dense {
    /// As [`Mlp::new`] takes them; empty without hidden units.
    pub users: Vec<f32>,
    /// Likewise.
    pub items: Vec<f32>,
    /// A row of `dim` values for each feature.
    pub features: Vec<f32>,
}

impl Dense {
    /// The first weights for so many features: a function of the seed.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::Value`] for more than [`FEATURES_MAX`] features.
    pub fn first(settings: &Settings, features: usize) -> Result<Self, Error> {
        settings.validate()?;
        if features > FEATURES_MAX {
            return Err(Error::Value { what: "number of features" });
        }
        let (dim, [users, items]) = (usize::from(settings.base.dim), settings.hidden());
        Ok(Self {
            users: mlp::first(dim, users, settings.base.seed, "user tower"),
            items: mlp::first(dim, items, settings.base.seed, "item tower"),
            features: vec![0.0; features * dim],
        })
    }

    /// Takes all weights as [`Self::to_vec`] puts them, for so many features.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Value`] for weights that are not finite.
    pub fn from_vec(settings: &Settings, features: usize, weights: &[f32]) -> Result<Self, Error> {
        let (dim, [users, items]) = (usize::from(settings.base.dim), settings.hidden());
        let [users, items] = [users, items].map(|hidden| mlp::len(dim, hidden));
        let all = features.checked_mul(dim).and_then(|of_features| of_features.checked_add(users + items));
        shape("dense weights", all.unwrap_or(usize::MAX), weights.len())?;
        if weights.iter().any(|weight| !weight.is_finite()) {
            return Err(Error::Value { what: "dense weights" });
        }
        let (users, rest) = weights.split_at(users);
        let (items, features) = rest.split_at(items);
        Ok(Self { users: users.to_vec(), items: items.to_vec(), features: features.to_vec() })
    }

    /// All weights, one after another.
    #[must_use]
    pub fn to_vec(&self) -> Vec<f32> {
        [&self.users[..], &self.items, &self.features].concat()
    }

    /// The user tower, if it has hidden units.
    ///
    /// # Errors
    /// [`Error::Shape`] for weights of other settings.
    pub fn user_tower(&self, settings: &Settings) -> Result<Option<Mlp>, Error> {
        tower(settings, settings.user_hidden, &self.users)
    }

    /// The item tower.
    ///
    /// # Errors
    /// [`Error::Shape`] for weights of other settings.
    pub fn item_tower(&self, settings: &Settings) -> Result<items::Tower, Error> {
        let mlp = tower(settings, settings.item_hidden, &self.items)?;
        items::Tower::new(usize::from(settings.base.dim), mlp, self.features.clone())
    }
}

fn tower(settings: &Settings, hidden: u16, weights: &[f32]) -> Result<Option<Mlp>, Error> {
    let mlp = Mlp::new(usize::from(settings.base.dim), usize::from(hidden), weights)?;
    Ok((hidden > 0).then_some(mlp))
}

#[cfg(test)]
mod tests;
