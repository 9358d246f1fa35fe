//! Items: metadata, take-down, counters.

use crate::error::{Error, Result};
use crate::event::{attributes, name};
use crate::id::ItemId;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An item's metadata. An item first seen in an event is a stub: an id and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The id.
    pub item_id: ItemId,
    /// A title for people, at most 2,048 bytes.
    pub title: Option<String>,
    /// Categories, at most 64, each 1 to 64 bytes.
    pub categories: Vec<String>,
    /// A description, at most 16,384 bytes.
    pub description: Option<String>,
    /// When it came out, milliseconds since 1970; may lie before it.
    pub published_ms: Option<i64>,
    /// Free attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Item {
    /// An item of which nothing is known but its id.
    pub fn stub(item_id: ItemId) -> Item {
        Item {
            item_id,
            title: None,
            categories: Vec::new(),
            description: None,
            published_ms: None,
            attributes: BTreeMap::new(),
        }
    }

    /// Checks everything that the id's constructor has not.
    pub fn validate(&self) -> Result<()> {
        for (field, text, bytes_max) in [
            ("title", &self.title, limits::TEXT_BYTES_MAX),
            ("description", &self.description, limits::DESCRIPTION_BYTES_MAX),
        ] {
            if let Some(text) = text
                && text.len() > bytes_max
            {
                return Err(Error::invalid(field, format!("{field} has {} bytes; at most {bytes_max}", text.len())));
            }
        }
        if self.categories.len() > limits::CATEGORIES_MAX {
            return Err(Error::invalid(
                "categories",
                format!("{} categories; at most {}", self.categories.len(), limits::CATEGORIES_MAX),
            ));
        }
        self.categories.iter().try_for_each(|category| name("categories", category))?;
        attributes("attributes", &self.attributes)
    }
}

/// An item as its shard keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemState {
    /// The metadata.
    pub item: Item,
    /// Never shown while set; counters and history stay.
    pub is_taken_down: bool,
    /// Kept events of all users with this item.
    pub events: u64,
}
