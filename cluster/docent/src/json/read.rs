//! A JSON object to an event, an item or a profile: unknown fields, wrong types and bad times are named by field.

use crate::import::row::Reason;
use crate::import::time;
use docent_proto::v1;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, Reason>;

/// The fields of one object; what is left at the end is unknown.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(line: &[u8]) -> Result<Fields> {
        match serde_json::from_slice::<Value>(line) {
            Ok(Value::Object(map)) => Ok(Fields(map)),
            Ok(other) => Err(Reason::of_line(format!("a line must be a JSON object, not {}", name(&other)))),
            Err(error) => Err(Reason::of_line(format!("malformed JSON: {error}"))),
        }
    }

    /// The field; null counts as absent.
    fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field).filter(|value| !value.is_null())
    }

    fn text(&mut self, field: &str) -> Result<String> {
        match self.take(field) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(wrong(field, "a string", &other)),
        }
    }

    /// An id: text, or an integer as databases have them.
    fn id(&mut self, field: &str) -> Result<String> {
        match self.take(field) {
            None => Err(Reason::of(field, format!("{field} is missing"))),
            Some(Value::String(text)) => Ok(text),
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => Ok(n.to_string()),
            Some(other) => Err(wrong(field, "a string", &other)),
        }
    }

    fn float(&mut self, field: &str) -> Result<Option<f32>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Number(n)) => {
                #[allow(clippy::cast_possible_truncation, reason = "values are f32; what becomes infinite is refused")]
                let value = n.as_f64().unwrap_or(f64::INFINITY) as f32;
                match value.is_finite() {
                    true => Ok(Some(value)),
                    false => Err(Reason::of(field, format!("{n} is out of range"))),
                }
            }
            Some(other) => Err(wrong(field, "a number", &other)),
        }
    }

    /// RFC 3339 text or milliseconds since 1970.
    fn time(&mut self, field: &str) -> Result<Option<i64>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Number(n)) => match n.as_i64() {
                Some(ms) => Ok(Some(ms)),
                None => Err(Reason::of(field, format!("{n} is not a whole number of milliseconds since 1970"))),
            },
            Some(Value::String(text)) => time::date(&text).map(Some).map_err(|why| Reason::of(field, why)),
            Some(other) => Err(wrong(field, "RFC 3339 text or milliseconds since 1970", &other)),
        }
    }

    fn map(&mut self, field: &str) -> Result<BTreeMap<String, String>> {
        let entries = match self.take(field) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(entries)) => entries,
            Some(other) => return Err(wrong(field, "an object", &other)),
        };
        let text = |(key, value): (String, Value)| match value {
            Value::String(text) => Ok((key, text)),
            Value::Number(n) => Ok((key, n.to_string())),
            Value::Bool(is) => Ok((key, is.to_string())),
            other => Err(wrong(&format!("{field}.{key}"), "a string", &other)),
        };
        entries.into_iter().map(text).collect()
    }

    fn texts(&mut self, field: &str) -> Result<Vec<String>> {
        let values = match self.take(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values,
            Some(other) => return Err(wrong(field, "a list of strings", &other)),
        };
        let text = |(i, value)| match value {
            Value::String(text) => Ok(text),
            other => Err(wrong(&format!("{field}[{i}]"), "a string", &other)),
        };
        values.into_iter().enumerate().map(text).collect()
    }

    fn end(self, known: &str) -> Result<()> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((field, _)) => {
                let message = format!("unknown field; known are {known}");
                Err(Reason::of(field, message))
            }
        }
    }
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong(field: &str, wanted: &str, got: &Value) -> Reason {
    Reason::of(field, format!("must be {wanted}, not {}", name(got)))
}

/// An event in the form of `POST /v1/events`. Values are checked by [`crate::import::row::check_event`], not here.
pub fn event(line: &[u8]) -> Result<v1::Event> {
    let mut fields = Fields::parse(line)?;
    let event = v1::Event {
        event_id: fields.text("event_id")?,
        user_id: fields.id("user_id")?,
        item_id: fields.id("item_id")?,
        r#type: fields.text("type")?,
        value: fields.float("value")?,
        timestamp_ms: fields.time("timestamp")?,
        session_id: fields.text("session_id")?,
        recommendation_id: fields.text("recommendation_id")?,
        position: match fields.take("position") {
            None => None,
            Some(value) => match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
                Some(position) => Some(position),
                None => return Err(wrong("position", "a whole number from 0", &value)),
            },
        },
        context: fields.map("context")?,
    };
    fields
        .end("event_id, user_id, item_id, type, value, timestamp, session_id, recommendation_id, position, context")?;
    Ok(event)
}

/// An item: `{item_id, title?, categories?, description?, published_ms?, attributes?}`. What an export adds is tolerated.
pub fn item(line: &[u8]) -> Result<v1::Item> {
    let mut fields = Fields::parse(line)?;
    let item = v1::Item {
        item_id: fields.id("item_id")?,
        title: fields.text("title")?,
        categories: fields.texts("categories")?,
        description: fields.text("description")?,
        published_ms: match fields.time("published_ms")? {
            None => fields.time("published")?,
            given => given,
        },
        attributes: fields.map("attributes")?,
        is_taken_down: false,
        events: 0,
    };
    for of_an_export in ["is_taken_down", "events"] {
        fields.take(of_an_export);
    }
    fields.end("item_id, title, categories, description, published_ms, attributes")?;
    Ok(item)
}

/// A profile: `{user_id, attributes?}`.
pub fn profile(line: &[u8]) -> Result<v1::Profile> {
    let mut fields = Fields::parse(line)?;
    let profile = v1::Profile { user_id: fields.id("user_id")?, attributes: fields.map("attributes")? };
    fields.end("user_id, attributes")?;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::write;
    use proptest::prelude::*;

    #[test]
    fn every_complaint_names_its_field() {
        let cases: [(&str, &str, &str); 11] = [
            (r#"{"user_id":"u"}"#, "item_id", "missing"),
            (r#"{"user_id":["u"],"item_id":"i"}"#, "user_id", "not a list"),
            (r#"{"user_id":"u","item_id":"i","colour":1}"#, "colour", "unknown field"),
            (r#"{"user_id":"u","item_id":"i","value":"3"}"#, "value", "must be a number"),
            (r#"{"user_id":"u","item_id":"i","value":1e300}"#, "value", "out of range"),
            (r#"{"user_id":"u","item_id":"i","timestamp":"yesterday"}"#, "timestamp", "yesterday"),
            (r#"{"user_id":"u","item_id":"i","timestamp":1.5}"#, "timestamp", "whole number"),
            (r#"{"user_id":"u","item_id":"i","position":-1}"#, "position", "whole number"),
            (r#"{"user_id":"u","item_id":"i","context":{"a":[]}}"#, "context.a", "must be a string"),
            (r#"[1]"#, "", "must be a JSON object"),
            (r#"{"user_id":"#, "", "malformed JSON"),
        ];
        for (line, field, message) in cases {
            let reason = event(line.as_bytes()).expect_err(line);
            assert_eq!(reason.field.as_deref().unwrap_or_default(), field, "{line}");
            assert!(reason.message.contains(message), "{line}: {}", reason.message);
        }
        assert_eq!(profile(br#"{"user_id":7}"#).unwrap().user_id, "7");
        assert_eq!(item(br#"{"item_id":"i","categories":[1]}"#).unwrap_err().field.as_deref(), Some("categories[0]"));
    }

    proptest! {
        #[test]
        fn an_exported_event_is_read_as_it_was(
            ids in proptest::array::uniform4("[^\\x00]{1,12}"),
            value in proptest::option::of(-1e6f32..1e6),
            timestamp_ms in proptest::option::of(0i64..4_000_000_000_000),
            position in proptest::option::of(any::<u32>()),
            context in proptest::collection::btree_map("[a-z]{1,3}", ".{0,5}", 0..3),
        ) {
            let [event_id, user_id, item_id, session_id] = ids;
            let sent = v1::Event {
                event_id, user_id, item_id, session_id, value, timestamp_ms, position, context,
                r#type: "view".to_owned(), recommendation_id: String::new(),
            };
            let line = write::event(&sent).to_string();
            prop_assert_eq!(event(line.as_bytes()).unwrap(), sent);
        }

        #[test]
        fn no_bytes_panic_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (event(&bytes), item(&bytes), profile(&bytes));
        }
    }
}
