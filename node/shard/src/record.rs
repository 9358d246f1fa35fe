//! Values: a version byte, then postcard. The one codec of stored records.
//!
//! Records borrow from the stored bytes, because a scan decodes hundreds of thousands of events and keeps little of each.

use bytes::Bytes;
use docent_types::error::{Error, Kind, Result};
use docent_types::event::Event;
use docent_types::item::Item;
use docent_types::user::Consent;
use docent_types::{EventId, ItemId, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version that this binary writes, and the highest that it reads.
pub const VERSION: u8 = 1;

/// Where in the shard's log an event was kept: later is newer, whatever the clocks said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sequence {
    /// The log index of the command.
    pub index: u64,
    /// Where in the command.
    pub offset: u32,
}

/// A user's attributes and consent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserRecord {
    /// What the user allows.
    pub consent: Consent,
    /// Free attributes.
    pub attributes: BTreeMap<String, String>,
}

/// An event without what its key says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord<'a> {
    /// Where in the log.
    pub at: Sequence,
    /// When it happened, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// With what.
    pub item_id: &'a str,
    /// The type.
    pub event_type: &'a str,
    /// Stars, price, seconds.
    pub value: Option<f32>,
    /// The client's session.
    #[serde(borrow)]
    pub session_id: Option<&'a str>,
    /// The answer that showed the item.
    #[serde(borrow)]
    pub recommendation_id: Option<&'a str>,
    /// Where in that answer.
    pub position: Option<u32>,
    /// Free context, sorted by key.
    #[serde(borrow)]
    pub context: Vec<(&'a str, &'a str)>,
}

impl<'a> EventRecord<'a> {
    /// The record of `event`, kept at `at`.
    pub fn of(event: &'a Event, at: Sequence) -> EventRecord<'a> {
        EventRecord {
            at,
            timestamp_ms: event.timestamp_ms,
            item_id: event.item_id.as_str(),
            event_type: &event.event_type,
            value: event.value,
            session_id: event.session_id.as_deref(),
            recommendation_id: event.recommendation_id.as_deref(),
            position: event.position,
            context: event.context.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        }
    }

    /// The event under the ids of its key.
    pub fn into_event(self, user_id: UserId, event_id: EventId) -> Result<Event> {
        Ok(Event {
            event_id,
            user_id,
            item_id: stored(ItemId::new(self.item_id))?,
            event_type: self.event_type.into(),
            value: self.value,
            timestamp_ms: self.timestamp_ms,
            session_id: self.session_id.map(Into::into),
            recommendation_id: self.recommendation_id.map(Into::into),
            position: self.position,
            context: self.context.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        })
    }
}

/// An item's metadata and take-down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ItemRecord {
    /// Never shown while set.
    pub is_taken_down: bool,
    /// The metadata.
    pub item: Item,
}

/// The bytes of a record.
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(VERSION);
    let bytes = postcard::to_extend(record, bytes);
    Bytes::from(bytes.expect("postcard writes any record to a growing buffer"))
}

/// The record of `bytes`; `what` names it in the error.
pub fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    match bytes.split_first() {
        None => Err(corrupt(format!("a stored {what} is empty"))),
        Some((&version, _)) if version == 0 || version > VERSION => Err(Error::new(
            Kind::Unsupported,
            format!("a stored {what} has format {version}; this binary reads 1 to {VERSION}: run a newer docent"),
        )),
        Some((_, body)) => match postcard::take_from_bytes::<T>(body) {
            Ok((record, [])) => Ok(record),
            Ok((_, rest)) => Err(corrupt(format!("a stored {what} has {} bytes too many", rest.len()))),
            Err(error) => Err(corrupt(format!("a stored {what} cannot be decoded: {error}"))),
        },
    }
}

/// The version byte of a record and what follows its first field, which is a `T`.
pub(crate) fn decode_head<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<(u8, &'a [u8])> {
    let split = bytes.split_first().filter(|(version, _)| (1..=VERSION).contains(*version));
    let (&version, body) = split.ok_or_else(|| corrupt(format!("a stored {what} has an unknown format")))?;
    match postcard::take_from_bytes::<T>(body) {
        Ok((_, rest)) => Ok((version, rest)),
        Err(error) => Err(corrupt(format!("a stored {what} cannot be decoded: {error}"))),
    }
}

/// A stored id that breaks its limits is corrupt, not the client's fault.
pub(crate) fn stored<T>(id: Result<T>) -> Result<T> {
    id.map_err(|error| corrupt(format!("a stored id is broken: {error}")))
}

pub(crate) fn corrupt(message: impl Into<String>) -> Error {
    Error::new(Kind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One event's bytes: what old data directories hold.
    #[test]
    fn the_layout_never_changes() {
        let event = EventRecord {
            at: Sequence { index: 300, offset: 2 },
            timestamp_ms: 1_000,
            item_id: "i",
            event_type: "view",
            value: Some(1.0),
            session_id: None,
            recommendation_id: Some("r"),
            position: Some(3),
            context: vec![("k", "v")],
        };
        let expected = b"\x01\xac\x02\x02\xd0\x0f\x01i\x04view\x01\x00\x00\x80\x3f\x00\x01\x01r\x01\x03\x01\x01k\x01v";
        assert_eq!(encode(&event), &expected[..]);
        assert_eq!(encode(&UserRecord::default()), &b"\x01\x01\x01\x01\x00"[..]);
        let item = ItemRecord { is_taken_down: true, item: Item::stub(ItemId::new("i").unwrap()) };
        assert_eq!(encode(&item), &b"\x01\x01\x01i\x00\x00\x00\x00\x00"[..]);
    }

    #[test]
    fn a_newer_record_is_refused_by_name() {
        let error = decode::<UserRecord>("user", &[VERSION + 1, 0]).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.message.contains("user has format 2"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let versioned = [&[VERSION][..], &bytes].concat();
            for bytes in [&bytes, &versioned] {
                let _ = decode::<UserRecord>("user", bytes);
                let _ = decode::<EventRecord<'_>>("event", bytes);
                let _ = decode::<ItemRecord>("item", bytes);
            }
        }

        #[test]
        fn an_event_is_read_back(
            item in ".{1,20}", kind in ".{1,9}", value in any::<Option<i16>>(), timestamp_ms in any::<i64>(),
            session in proptest::option::of(".{1,9}"), context in proptest::collection::btree_map(".{1,5}", ".{0,5}", 0..4),
        ) {
            let event = Event {
                event_id: EventId::new("e").unwrap(), user_id: UserId::new("u").unwrap(), item_id: ItemId::new(item).unwrap(),
                event_type: kind.as_str().into(), value: value.map(f32::from), timestamp_ms,
                session_id: session.as_deref().map(Into::into), recommendation_id: None, position: None, context,
            };
            let at = Sequence { index: u64::MAX, offset: u32::MAX };
            let bytes = encode(&EventRecord::of(&event, at));
            let record: EventRecord<'_> = decode("event", &bytes).unwrap();
            prop_assert_eq!(record.at, at);
            prop_assert_eq!(record.into_event(event.user_id.clone(), event.event_id.clone()).unwrap(), event);
        }
    }
}
