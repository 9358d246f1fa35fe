//! Events, exact in both directions: nothing is filled in here. What a client may leave out is the gateway's to fill.

use crate::v1;
use docent_types::event::Event;
use docent_types::{Error, EventId, ItemId, UserId};

impl From<Event> for v1::Event {
    fn from(event: Event) -> v1::Event {
        let text = |text: Option<std::sync::Arc<str>>| text.map(|text| text.as_ref().to_owned()).unwrap_or_default();
        v1::Event {
            event_id: event.event_id.into(),
            user_id: event.user_id.into(),
            item_id: event.item_id.into(),
            r#type: event.event_type.as_ref().to_owned(),
            value: event.value,
            timestamp_ms: Some(event.timestamp_ms),
            session_id: text(event.session_id),
            recommendation_id: text(event.recommendation_id),
            position: event.position,
            context: event.context,
        }
    }
}

impl TryFrom<v1::Event> for Event {
    type Error = Error;

    /// Fails where an id is missing or a required field is absent; ranges are [`Event::validate`]'s.
    fn try_from(event: v1::Event) -> Result<Event, Error> {
        let text = |text: String| (!text.is_empty()).then(|| text.into());
        Ok(Event {
            event_id: EventId::new(event.event_id)?,
            user_id: UserId::new(event.user_id)?,
            item_id: ItemId::new(event.item_id)?,
            event_type: event.r#type.into(),
            value: event.value,
            timestamp_ms: event.timestamp_ms.ok_or_else(|| Error::invalid("timestamp", "timestamp is missing"))?,
            session_id: text(event.session_id),
            recommendation_id: text(event.recommendation_id),
            position: event.position,
            context: event.context,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_event_survives_the_wire() {
        let full = Event {
            event_id: EventId::new("e1").unwrap(),
            user_id: UserId::new("u1").unwrap(),
            item_id: ItemId::new("i1").unwrap(),
            event_type: "rating".into(),
            value: Some(4.5),
            timestamp_ms: 1_700_000_000_000,
            session_id: Some("s".into()),
            recommendation_id: Some("r".into()),
            position: Some(0),
            context: BTreeMap::from([("device".to_owned(), "phone".to_owned())]),
        };
        let bare = Event {
            value: None,
            session_id: None,
            recommendation_id: None,
            position: None,
            context: BTreeMap::new(),
            ..full.clone()
        };
        for event in [full, bare] {
            assert_eq!(Event::try_from(v1::Event::from(event.clone())).unwrap(), event);
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let message =
            v1::Event { event_id: "e".into(), item_id: "i".into(), timestamp_ms: Some(1), ..Default::default() };
        assert_eq!(Event::try_from(message).unwrap_err().field.as_deref(), Some("user_id"));
    }
}
