//! Users: profile, consent, blocks.

use crate::error::{Error, Result};
use crate::event::attributes;
use crate::id::{ItemId, UserId};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a user allows. Everything is allowed until the user says otherwise; each flag holds from its acknowledgement on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Consent {
    /// Events of this user are kept.
    pub collect: bool,
    /// Answers to this user may use what is kept.
    pub recommend: bool,
    /// Models may be trained on this user's events.
    pub train: bool,
}

impl Default for Consent {
    fn default() -> Self {
        Consent { collect: true, recommend: true, train: true }
    }
}

/// A user as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The id.
    pub user_id: UserId,
    /// Free attributes (country, age band, ...).
    pub attributes: BTreeMap<String, String>,
    /// What the user allows.
    pub consent: Consent,
    /// Items never to be shown to this user, sorted.
    pub blocks: Vec<ItemId>,
    /// Kept events.
    pub events: u64,
}

/// A profile to put: replaces the attributes, leaves consent, blocks and events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The id.
    pub user_id: UserId,
    /// Free attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Profile {
    /// Checks the attributes.
    pub fn validate(&self) -> Result<()> {
        attributes("attributes", &self.attributes)
    }
}

/// Checks the size of a block list.
pub fn validate_blocks(blocks: &[ItemId]) -> Result<()> {
    if blocks.len() > limits::BLOCKS_MAX {
        return Err(Error::invalid(
            "blocks",
            format!("{} blocked items; at most {}", blocks.len(), limits::BLOCKS_MAX),
        ));
    }
    Ok(())
}
