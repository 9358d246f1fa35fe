//! Events: what a user did with an item.

use crate::error::{Error, Result};
use crate::id::{EventId, ItemId, UserId};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One event. `(user, event_id)` is its identity: the same identity is the same event, whatever the other fields say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The client's id; the gateway makes one where the client gave none.
    pub event_id: EventId,
    /// Who.
    pub user_id: UserId,
    /// With what.
    pub item_id: ItemId,
    /// The type, 1 to 64 bytes: `view`, `click`, `purchase`, `rating`, or the client's own.
    #[serde(rename = "type")]
    pub event_type: Arc<str>,
    /// Stars of a rating, price of a purchase, seconds of a view; finite.
    pub value: Option<f32>,
    /// When it happened, milliseconds since 1970 (not before; at most a day ahead of the receiving node).
    pub timestamp_ms: i64,
    /// The client's session.
    pub session_id: Option<Arc<str>>,
    /// The answer that showed the item.
    pub recommendation_id: Option<Arc<str>>,
    /// Where in that answer it stood, from 0.
    pub position: Option<u32>,
    /// Free context (device, weekday, ...).
    pub context: BTreeMap<String, String>,
}

impl Event {
    /// Checks everything that the ids' constructors have not. `now_ms` is the receiving node's clock.
    pub fn validate(&self, now_ms: i64) -> Result<()> {
        name("type", &self.event_type)?;
        if let Some(value) = self.value
            && !value.is_finite()
        {
            return Err(Error::invalid("value", "value must be a finite number"));
        }
        timestamp(self.timestamp_ms, now_ms)?;
        for (field, text) in [("session_id", &self.session_id), ("recommendation_id", &self.recommendation_id)] {
            if let Some(text) = text
                && (text.is_empty() || text.len() > limits::ID_BYTES_MAX)
            {
                return Err(Error::invalid(field, format!("{field} must have 1 to {} bytes", limits::ID_BYTES_MAX)));
            }
        }
        attributes("context", &self.context)
    }
}

/// What became of one event of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventOutcome {
    /// Durable on a quorum, counted once.
    Accepted,
    /// Already there under this id: counted once before.
    Duplicate,
    /// The user's `collect` consent is off: not kept.
    NotCollected,
    /// Refused in `apply`, nothing kept.
    Rejected(Error),
}

/// Checks a name: 1 to 64 bytes.
pub fn name(field: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > limits::NAME_BYTES_MAX {
        return Err(Error::invalid(field, format!("{field} must have 1 to {} bytes", limits::NAME_BYTES_MAX)));
    }
    Ok(())
}

/// Checks a timestamp against the receiving node's clock.
pub fn timestamp(timestamp_ms: i64, now_ms: i64) -> Result<()> {
    if timestamp_ms < 0 {
        return Err(Error::invalid("timestamp", "timestamp lies before 1970"));
    }
    if timestamp_ms > now_ms.saturating_add(limits::FUTURE_MS_MAX) {
        return Err(Error::invalid(
            "timestamp",
            "timestamp lies more than a day in the future; is it in milliseconds?",
        ));
    }
    Ok(())
}

/// Checks a map of short keys to text values.
pub fn attributes(field: &str, map: &BTreeMap<String, String>) -> Result<()> {
    if map.len() > limits::ATTRIBUTES_MAX {
        return Err(Error::invalid(
            field,
            format!("{field} has {} entries; at most {}", map.len(), limits::ATTRIBUTES_MAX),
        ));
    }
    for (key, value) in map {
        if key.is_empty() || key.len() > limits::NAME_BYTES_MAX {
            return Err(Error::invalid(
                field,
                format!("a key of {field} must have 1 to {} bytes", limits::NAME_BYTES_MAX),
            ));
        }
        if value.len() > limits::TEXT_BYTES_MAX {
            return Err(Error::invalid(
                format!("{field}.{key}"),
                format!("the value has {} bytes; at most {}", value.len(), limits::TEXT_BYTES_MAX),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            event_id: EventId::new("e").unwrap(),
            user_id: UserId::new("u").unwrap(),
            item_id: ItemId::new("i").unwrap(),
            event_type: "view".into(),
            value: None,
            timestamp_ms: 1_000,
            session_id: None,
            recommendation_id: None,
            position: None,
            context: BTreeMap::new(),
        }
    }

    fn field_of(event: Event) -> Option<String> {
        event.validate(10_000).err().and_then(|error| error.field)
    }

    #[test]
    fn a_bad_field_is_named() {
        assert_eq!(field_of(event()), None);
        assert_eq!(field_of(Event { value: Some(f32::NAN), ..event() }).as_deref(), Some("value"));
        assert_eq!(field_of(Event { value: Some(f32::INFINITY), ..event() }).as_deref(), Some("value"));
        assert_eq!(field_of(Event { timestamp_ms: -1, ..event() }).as_deref(), Some("timestamp"));
        assert_eq!(field_of(Event { timestamp_ms: 86_410_001, ..event() }).as_deref(), Some("timestamp"));
        assert_eq!(field_of(Event { timestamp_ms: 86_410_000, ..event() }), None);
        assert_eq!(field_of(Event { event_type: "".into(), ..event() }).as_deref(), Some("type"));
        let long = BTreeMap::from([("k".to_owned(), "v".repeat(3_000))]);
        assert_eq!(field_of(Event { context: long, ..event() }).as_deref(), Some("context.k"));
    }
}
