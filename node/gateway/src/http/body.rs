//! Request bodies: at most 8 MiB, strict JSON (no unknown field), and errors that name field, line and column.

use super::problem::Problem;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use docent_types::limits::REQUEST_BYTES_MAX;
use docent_types::user::Consent;
use docent_types::{Error, Result};
use futures::StreamExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;

/// A request's body, decoded.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Json<T>, Problem> {
        match read(request.into_body()).await {
            Ok(Some(bytes)) => Ok(Json(parse(&bytes)?)),
            Ok(None) => {
                let message = format!("the body has more than {REQUEST_BYTES_MAX} bytes; send smaller batches");
                Err(Problem::with_status(Error::invalid("body", message), StatusCode::PAYLOAD_TOO_LARGE))
            }
            Err(_) => Err(Problem::from(Error::invalid("body", "the body broke off"))),
        }
    }
}

/// Bytes over the limit that are read and dropped, so that a client that is still sending comes to read the answer.
const DROPPED_BYTES_MAX: usize = 4 * REQUEST_BYTES_MAX;

/// The body; `None` where it is over the limit.
async fn read(body: Body) -> Result<Option<Vec<u8>>, axum::Error> {
    let (mut bytes, mut length) = (Vec::new(), 0usize);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        length = length.saturating_add(chunk.len());
        if length <= REQUEST_BYTES_MAX {
            bytes.extend_from_slice(&chunk);
        } else if length > DROPPED_BYTES_MAX {
            break;
        }
    }
    Ok((length <= REQUEST_BYTES_MAX).then_some(bytes))
}

/// Decodes strict JSON.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if let Err(error) = std::str::from_utf8(bytes) {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        return Err(Error::invalid(
            "body",
            format!("the body is not UTF-8: line {line}, byte {}", error.valid_up_to()),
        ));
    }
    axum::Json::from_bytes(bytes).map(|axum::Json(value)| value).map_err(|rejection| {
        // The source says `path.to[3].field: what is wrong at line 1 column 2`, or no path where the JSON itself is broken.
        let text = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
        let named = text.split_once(": ").filter(|(path, _)| !path.contains(' '));
        match (named, unknown_field(&text)) {
            (Some((path, message)), unknown) => {
                Error::invalid(unknown.map_or(path.to_owned(), |field| deeper(path, field)), message)
            }
            (None, Some(field)) => Error::invalid(field.to_owned(), text),
            (None, None) => Error::invalid(missing_field(&text).unwrap_or("body").to_owned(), text),
        }
    })
}

/// serde's path of an unknown field ends with it, or with its parent: the field's own path either way.
fn deeper(path: &str, field: &str) -> String {
    if path == field || path.ends_with(&format!(".{field}")) { path.to_owned() } else { format!("{path}.{field}") }
}

fn unknown_field(text: &str) -> Option<&str> {
    text.split_once("unknown field `")?.1.split('`').next()
}

fn missing_field(text: &str) -> Option<&str> {
    text.split_once("missing field `")?.1.split('`').next()
}

/// `POST /v1/events`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Events {
    pub(crate) events: Vec<Event>,
}

/// One event as sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    event_id: Option<String>,
    user_id: String,
    item_id: String,
    #[serde(rename = "type")]
    event_type: Option<String>,
    value: Option<f64>,
    timestamp: Option<Timestamp>,
    session_id: Option<String>,
    recommendation_id: Option<String>,
    position: Option<u32>,
    #[serde(default)]
    context: BTreeMap<String, String>,
}

impl From<Event> for crate::events::Draft {
    fn from(event: Event) -> Self {
        crate::events::Draft {
            event_id: event.event_id,
            user_id: event.user_id,
            item_id: event.item_id,
            event_type: event.event_type,
            // Beyond f32 becomes infinite, which validation refuses by name.
            value: event.value.map(|value| value as f32),
            timestamp_ms: event.timestamp.map(|timestamp| timestamp.0),
            session_id: event.session_id,
            recommendation_id: event.recommendation_id,
            position: event.position,
            context: event.context,
        }
    }
}

/// Milliseconds since 1970, sent as that or as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Timestamp(pub(crate) i64);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        deserializer.deserialize_any(TimestampVisitor)
    }
}

struct TimestampVisitor;

impl serde::de::Visitor<'_> for TimestampVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 time or milliseconds since 1970")
    }

    fn visit_i64<E: serde::de::Error>(self, ms: i64) -> Result<Timestamp, E> {
        Ok(Timestamp(ms))
    }

    fn visit_u64<E: serde::de::Error>(self, ms: u64) -> Result<Timestamp, E> {
        // Beyond i64 is the far future, which validation refuses by name.
        Ok(Timestamp(i64::try_from(ms).unwrap_or(i64::MAX)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
        let parsed: Result<jiff::Timestamp, _> = text.parse();
        parsed
            .map(|timestamp| Timestamp(timestamp.as_millisecond()))
            .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

/// `PUT /v1/users/{id}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// `PUT /v1/users`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Users {
    pub(crate) users: Vec<UserOfBatch>,
}

/// A user of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserOfBatch {
    pub(crate) user_id: String,
    #[serde(default)]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// `PUT /v1/users/{id}/consent`: all three, so that none is set by omission.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConsentBody {
    collect: bool,
    recommend: bool,
    train: bool,
}

impl From<ConsentBody> for Consent {
    fn from(body: ConsentBody) -> Consent {
        Consent { collect: body.collect, recommend: body.recommend, train: body.train }
    }
}

/// `PUT /v1/users/{id}/blocks`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Blocks {
    pub(crate) item_ids: Vec<String>,
}

/// `PUT /v1/items/{id}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Item {
    title: Option<String>,
    #[serde(default)]
    categories: Vec<String>,
    description: Option<String>,
    published: Option<Timestamp>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// `PUT /v1/items`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Items {
    pub(crate) items: Vec<ItemOfBatch>,
}

/// An item of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ItemOfBatch {
    item_id: String,
    title: Option<String>,
    #[serde(default)]
    categories: Vec<String>,
    description: Option<String>,
    published: Option<Timestamp>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl ItemOfBatch {
    /// The item under its own id.
    pub(crate) fn item(self) -> Result<docent_types::item::Item> {
        let ItemOfBatch { item_id, title, categories, description, published, attributes } = self;
        Item { title, categories, description, published, attributes }.named(&item_id)
    }
}

impl Item {
    /// The item under `id`, with a checked id.
    pub(crate) fn named(self, id: &str) -> Result<docent_types::item::Item> {
        Ok(docent_types::item::Item {
            item_id: docent_types::ItemId::new(id)?,
            title: self.title,
            categories: self.categories,
            description: self.description,
            published_ms: self.published.map(|timestamp| timestamp.0),
            attributes: self.attributes,
        })
    }
}

/// `POST /v1/recommend`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recommend {
    pub(crate) user_id: String,
    pub(crate) n: Option<u32>,
    #[serde(default)]
    pub(crate) exclude_ids: Vec<String>,
    #[serde(default)]
    pub(crate) explain: bool,
    #[serde(default)]
    pub(crate) deadline_ms: u32,
    pub(crate) session: Option<String>,
    // Reserved names, refused as unsupported until they work.
    cursor: Option<IgnoredAny>,
    scenario: Option<IgnoredAny>,
    filter: Option<IgnoredAny>,
    context: Option<IgnoredAny>,
    diversity: Option<IgnoredAny>,
    exploration: Option<IgnoredAny>,
    min_coverage: Option<IgnoredAny>,
}

impl Recommend {
    /// The reserved field that is set, if any.
    pub(crate) fn reserved(&self) -> Option<&'static str> {
        let fields = [
            ("cursor", &self.cursor),
            ("scenario", &self.scenario),
            ("filter", &self.filter),
            ("context", &self.context),
            ("diversity", &self.diversity),
            ("exploration", &self.exploration),
            ("min_coverage", &self.min_coverage),
        ];
        fields.into_iter().find(|(_, value)| value.is_some()).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of(json: &str) -> String {
        parse::<Events>(json.as_bytes()).map(|_| ()).unwrap_err().field.unwrap()
    }

    #[test]
    fn broken_bodies_are_refused_by_field_and_line() {
        assert_eq!(
            field_of(r#"{"events":[{"user_id":"u","item_id":"i"},{"user_id":5,"item_id":"i"}]}"#),
            "events[1].user_id"
        );
        assert_eq!(field_of(r#"{"events":[{"user_id":"u","item_id":"i","colour":1}]}"#), "events[0].colour");
        assert_eq!(field_of(r#"{"events":[{"user_id":"u"}]}"#), "events[0]");
        assert_eq!(field_of(r#"{"colour":1}"#), "colour");
        assert_eq!(field_of(r#"{}"#), "events");
        assert_eq!(
            field_of(r#"{"events":[{"user_id":"u","item_id":"i","timestamp":"yesterday"}]}"#),
            "events[0].timestamp"
        );
        let error = parse::<Events>(b"{\"events\":\n[}").map(|_| ()).unwrap_err();
        assert!(error.message.contains("line 2"), "{error}");
        let error = parse::<Events>(b"{\"events\":\n\"\xff\"}").map(|_| ()).unwrap_err();
        assert!(error.message.contains("not UTF-8: line 2"), "{error}");
    }

    #[test]
    fn a_timestamp_is_rfc_3339_or_milliseconds() {
        for (json, ms) in
            [("1500", 1_500), ("-1", -1), ("\"1970-01-01T00:00:01.5Z\"", 1_500), ("\"1970-01-01T02:00:00+02:00\"", 0)]
        {
            assert_eq!(parse::<Timestamp>(json.as_bytes()).unwrap(), Timestamp(ms), "{json}");
        }
        assert!(parse::<Timestamp>(b"1.5").is_err());
        assert!(parse::<Timestamp>(b"\"2020-01-01\"").is_err());
    }
}
