//! Items: metadata in, metadata with take-down and counts out.

use super::absent_if_empty;
use crate::v1;
use docent_types::item::{Item, ItemState};
use docent_types::{Error, ItemId};

impl From<Item> for v1::Item {
    fn from(item: Item) -> v1::Item {
        v1::Item {
            item_id: item.item_id.into(),
            title: item.title.unwrap_or_default(),
            categories: item.categories,
            description: item.description.unwrap_or_default(),
            published_ms: item.published_ms,
            attributes: item.attributes,
            is_taken_down: false,
            events: 0,
        }
    }
}

impl From<ItemState> for v1::Item {
    fn from(state: ItemState) -> v1::Item {
        v1::Item { is_taken_down: state.is_taken_down, events: state.events, ..state.item.into() }
    }
}

impl TryFrom<v1::Item> for Item {
    type Error = Error;

    /// Checks every field; take-down and counts are not metadata and are left out.
    fn try_from(item: v1::Item) -> Result<Item, Error> {
        let item = Item {
            item_id: ItemId::new(item.item_id)?,
            title: absent_if_empty(item.title),
            categories: item.categories,
            description: absent_if_empty(item.description),
            published_ms: item.published_ms,
            attributes: item.attributes,
        };
        item.validate()?;
        Ok(item)
    }
}

impl TryFrom<v1::Item> for ItemState {
    type Error = Error;

    /// Checks every field.
    fn try_from(item: v1::Item) -> Result<ItemState, Error> {
        let (is_taken_down, events) = (item.is_taken_down, item.events);
        Ok(ItemState { item: item.try_into()?, is_taken_down, events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_item_survives_the_wire() {
        let item = Item {
            item_id: ItemId::new("i").unwrap(),
            title: Some("Heat (1995)".to_owned()),
            categories: vec!["crime".to_owned()],
            description: None,
            published_ms: Some(-1),
            attributes: BTreeMap::from([("year".to_owned(), "1995".to_owned())]),
        };
        let state = ItemState { item, is_taken_down: true, events: 12 };
        assert_eq!(ItemState::try_from(v1::Item::from(state.clone())).unwrap(), state);
    }
}
