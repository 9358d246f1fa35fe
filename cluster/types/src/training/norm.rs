//! What the exponents of items in a graph filter are of.
use super::{GivenSettings, families::within};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How much of an item there is, which the exponents of a graph filter damp; the order of the variants is part of the stored layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum ItemNorm {
    /// Its number of positives.
    #[default]
    Positives,
    /// What those who like it count, so that exponents of 1/2 are a cosine.
    Weights,
    /// Its number of positives beside the mean one, as BM25 has it, and how far that counts, 0 to 1.
    Length(f64),
}

const POSITIVES: &str = "positives";
const WEIGHTS: &str = "weights";
const LENGTH: &str = "length";

/// Where a length is asked for and no share given.
const SHARE: f64 = 0.75;

impl ItemNorm {
    pub(super) fn take(given: &mut GivenSettings) -> Result<ItemNorm> {
        let (name, share) = (given.item_norm.take(), given.length_share.take());
        let norm = match name.as_deref() {
            None | Some(POSITIVES) => ItemNorm::Positives,
            Some(WEIGHTS) => ItemNorm::Weights,
            Some(LENGTH) => return Ok(ItemNorm::Length(share.unwrap_or(SHARE))),
            Some(other) => {
                let message = format!("unknown norm {other:?}; known: {POSITIVES}, {WEIGHTS}, {LENGTH}");
                return Err(Error::invalid("item_norm", message));
            }
        };
        match share {
            None => Ok(norm),
            Some(_) => Err(Error::invalid("length_share", format!("length_share needs item_norm = {LENGTH:?}"))),
        }
    }

    pub(super) fn validate(self) -> Result<()> {
        match self {
            ItemNorm::Length(share) => within("length_share", share, 0.0..=1.0, "must be 0 to 1"),
            ItemNorm::Positives | ItemNorm::Weights => Ok(()),
        }
    }

    pub(super) fn give(self, shared: GivenSettings) -> GivenSettings {
        let (name, length_share) = match self {
            ItemNorm::Positives => (POSITIVES, None),
            ItemNorm::Weights => (WEIGHTS, None),
            ItemNorm::Length(share) => (LENGTH, Some(share)),
        };
        GivenSettings { item_norm: Some(name.to_owned()), length_share, ..shared }
    }
}
