//! Events as lines of a file.

use crate::json::write as form;
use docent_proto::v1::Event;
use std::io::Write;

/// The form of event files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A JSON object a line.
    #[default]
    Jsonl,
    /// Comma-separated with a header.
    Csv,
}

/// Columns of event files in CSV.
pub const EVENT_COLUMNS: [&str; 10] = [
    "event_id",
    "user_id",
    "item_id",
    "type",
    "value",
    "timestamp",
    "session_id",
    "recommendation_id",
    "position",
    "context",
];

/// Writes events as lines; `docent import` reads them back unchanged.
pub struct EventLines {
    format: Format,
    is_begun: bool,
}

impl EventLines {
    /// Lines of a new file.
    pub fn new(format: Format) -> EventLines {
        EventLines { format, is_begun: false }
    }

    /// Writes one event; before the first one the header, where the format has one.
    pub fn write(&mut self, out: &mut dyn Write, event: &Event) -> std::io::Result<()> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        match self.format {
            Format::Jsonl => writeln!(out, "{}", form::event(event)),
            Format::Csv => {
                if is_first {
                    writeln!(out, "{}", EVENT_COLUMNS.join(","))?;
                }
                writeln!(out, "{}", record(event)?)
            }
        }
    }
}

fn record(event: &Event) -> std::io::Result<String> {
    // Times as text: a number below 100,000,000,000 would be read back as seconds.
    let time = |ms| jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.to_string());
    let context = if event.context.is_empty() { String::new() } else { serde_json::to_string(&event.context)? };
    let fields = [
        quoted(&event.event_id),
        quoted(&event.user_id),
        quoted(&event.item_id),
        quoted(&event.r#type),
        event.value.map(|value| value.to_string()).unwrap_or_default().into(),
        event.timestamp_ms.map(time).unwrap_or_default().into(),
        quoted(&event.session_id),
        quoted(&event.recommendation_id),
        event.position.map(|position| position.to_string()).unwrap_or_default().into(),
        quoted(&context),
    ];
    Ok(fields.join(","))
}

/// A field as in RFC 4180.
fn quoted(text: &str) -> std::borrow::Cow<'_, str> {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")).into(),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::events::Events;
    use crate::generate::world::{Settings, World};
    use crate::import::events::{Csv, Defaults, Dialect, Jsonl};
    use crate::import::file::Input;
    use crate::import::row::Source;
    use crate::import::time::Unit;
    use std::sync::Arc;

    fn world() -> Arc<World> {
        Arc::new(World::new(Settings { users: 40, items: 200, events: 2_000, seed: 42 }).unwrap())
    }

    fn bytes(format: Format) -> Vec<u8> {
        let (mut lines, mut out) = (EventLines::new(format), Vec::new());
        Events::new(world()).for_each(|event| lines.write(&mut out, &event).unwrap());
        out
    }

    #[test]
    fn the_same_settings_give_the_same_bytes_for_ever() {
        assert_eq!(bytes(Format::Jsonl), bytes(Format::Jsonl));
        let mut all = blake3::Hasher::new();
        all.update(&bytes(Format::Jsonl));
        let world = world();
        for rank in 0..200 {
            all.update(form::item(&world.item(rank), false).to_string().as_bytes());
        }
        for user in 0..40 {
            all.update(form::profile(&world.profile(user)).to_string().as_bytes());
        }
        // Frozen: whoever changes it also raises GENERATOR_VERSION.
        assert_eq!(
            all.finalize().to_hex().as_str(),
            "42b0f84e2977a9cfe3539278f789ca027052292c7ef6e6b772c7eaa8470c950d"
        );
    }

    #[test]
    fn what_is_written_is_read_back_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        for format in [Format::Jsonl, Format::Csv] {
            let path = dir.path().join("events");
            std::fs::write(&path, bytes(format)).unwrap();
            let input = Input::open(&path).unwrap();
            let defaults =
                Defaults { event_type: String::new(), timestamp_ms: None, unit: Unit::Auto, now_ms: 2_000_000_000_000 };
            let mut source: Box<dyn Source<Record = Event>> = match format {
                Format::Jsonl => Box::new(Jsonl::open(input, defaults).unwrap()),
                Format::Csv => Box::new(Csv::open(input, &Dialect::default(), defaults).unwrap()),
            };
            for event in Events::new(world()) {
                assert_eq!(source.next_row().unwrap().unwrap().record, Ok(event));
            }
            assert_eq!(source.next_row().unwrap(), None);
        }
    }

    #[test]
    fn ids_with_delimiters_survive_csv() {
        let odd = |text: &str| text.to_owned();
        let event = Event {
            user_id: odd("a,b"),
            item_id: odd("say \"hi\""),
            session_id: odd("two\nlines"),
            ..Event::default()
        };
        let mut out = Vec::new();
        EventLines::new(Format::Csv).write(&mut out, &event).unwrap();
        let (_, line) = std::str::from_utf8(&out).unwrap().split_once('\n').unwrap();
        let fields = crate::import::records::split(line.trim_end(), ',').unwrap();
        assert_eq!((fields[1].as_str(), fields[2].as_str(), fields[6].as_str()), ("a,b", "say \"hi\"", "two\nlines"));
    }
}
