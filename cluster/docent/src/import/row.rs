//! A record with its line, or the reason why there is none.

use crate::failure::Failure;
use docent_proto::v1;
use docent_types::{EventId, ItemId, UserId, event, item, user};

/// Why a record is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The field at fault, where one is.
    pub field: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl Reason {
    /// A field is at fault.
    pub fn of(field: impl Into<String>, message: impl Into<String>) -> Reason {
        Reason { field: Some(field.into()), message: message.into() }
    }

    /// The line as a whole is at fault.
    pub fn of_line(message: impl Into<String>) -> Reason {
        Reason { field: None, message: message.into() }
    }
}

impl From<docent_types::Error> for Reason {
    fn from(error: docent_types::Error) -> Reason {
        Reason { field: error.field, message: error.message }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// One record of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<T> {
    /// Its line, from 1.
    pub line: u64,
    /// The record, checked; or why it is refused.
    pub record: Result<T, Reason>,
}

/// Records of one source, in order.
pub trait Source: Send {
    /// What it yields.
    type Record: Send + 'static;
    /// The file's name, for messages.
    fn name(&self) -> &str;
    /// Its size in units of [`Source::position`]; 0 where that is not known.
    fn total(&self) -> u64;
    /// How far it has been read.
    fn position(&self) -> u64;
    /// The next record. A failure ends the source: the file cannot be read on.
    fn next_row(&mut self) -> Result<Option<Row<Self::Record>>, Failure>;
}

/// Checks an event as the cluster will, so that a bad line is named by its line. `now_ms`: the clock that bounds the future.
pub fn check_event(event: &v1::Event, now_ms: i64) -> Result<(), Reason> {
    UserId::new(&event.user_id)?;
    ItemId::new(&event.item_id)?;
    EventId::new(&event.event_id)?;
    if !event.r#type.is_empty() {
        event::name("type", &event.r#type)?;
    }
    if event.value.is_some_and(|value| !value.is_finite()) {
        return Err(Reason::of("value", "must be a finite number"));
    }
    if let Some(timestamp_ms) = event.timestamp_ms {
        event::timestamp(timestamp_ms, now_ms)?;
    }
    for (field, text) in [("session_id", &event.session_id), ("recommendation_id", &event.recommendation_id)] {
        if text.len() > docent_types::limits::ID_BYTES_MAX {
            return Err(Reason::of(
                field,
                format!("has {} bytes; at most {}", text.len(), docent_types::limits::ID_BYTES_MAX),
            ));
        }
    }
    Ok(event::attributes("context", &event.context)?)
}

/// Checks an item as the cluster will.
pub fn check_item(item: &v1::Item) -> Result<(), Reason> {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let item = item::Item {
        item_id: ItemId::new(&item.item_id)?,
        title: text(&item.title),
        categories: item.categories.clone(),
        description: text(&item.description),
        published_ms: item.published_ms,
        attributes: item.attributes.clone(),
    };
    Ok(item.validate()?)
}

/// Checks a profile as the cluster will.
pub fn check_profile(profile: &v1::Profile) -> Result<(), Reason> {
    let profile = user::Profile { user_id: UserId::new(&profile.user_id)?, attributes: profile.attributes.clone() };
    Ok(profile.validate()?)
}
