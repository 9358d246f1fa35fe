//! Files: events, items and users as lines.

use crate::failure::{Failure, Result};
use crate::json::write as form;
use docent_proto::v1::Event;
use std::io::Write;
use std::path::Path;

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
    "event_id", "user_id", "item_id", "type", "value", "timestamp", "session_id", "recommendation_id", "position", "context",
];

/// Writes events as lines; what it writes, `docent import` reads back unchanged.
pub enum EventWriter<W: Write> {
    /// A JSON object a line.
    Jsonl(W),
    /// Comma-separated with a header.
    Csv(Box<csv::Writer<W>>),
}

impl<W: Write> EventWriter<W> {
    /// Writes the header, where the format has one.
    pub fn new(out: W, format: Format) -> std::io::Result<EventWriter<W>> {
        Ok(match format {
            Format::Jsonl => EventWriter::Jsonl(out),
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                writer.write_record(EVENT_COLUMNS)?;
                EventWriter::Csv(Box::new(writer))
            }
        })
    }

    /// Writes one event.
    pub fn write(&mut self, event: &Event) -> std::io::Result<()> {
        match self {
            EventWriter::Jsonl(out) => writeln!(out, "{}", form::event(event)),
            EventWriter::Csv(writer) => {
                // Times as text: a number below 100,000,000,000 would be read back as seconds.
                let time = |ms| jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |t| t.to_string());
                let context = match event.context.is_empty() {
                    true => String::new(),
                    false => serde_json::to_string(&event.context)?,
                };
                let fields = [
                    event.event_id.clone(),
                    event.user_id.clone(),
                    event.item_id.clone(),
                    event.r#type.clone(),
                    event.value.map(|value| value.to_string()).unwrap_or_default(),
                    event.timestamp_ms.map(time).unwrap_or_default(),
                    event.session_id.clone(),
                    event.recommendation_id.clone(),
                    event.position.map(|position| position.to_string()).unwrap_or_default(),
                    context,
                ];
                Ok(writer.write_record(&fields)?)
            }
        }
    }

    /// Flushes and gives the output back.
    pub fn finish(self) -> std::io::Result<W> {
        match self {
            EventWriter::Jsonl(mut out) => out.flush().map(|()| out),
            EventWriter::Csv(writer) => writer.into_inner().map_err(|error| error.into_error()),
        }
    }
}

/// A file that appears under its name only when it is complete.
pub fn whole_file(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let io = |error: std::io::Error| Failure::io("write", path, &error);
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = std::path::PathBuf::from(partial);
    let file = std::fs::File::create(&partial).map_err(io)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 18, file);
    let done = fill(&mut out).and_then(|()| out.flush()).and_then(|()| std::fs::rename(&partial, path));
    done.map_err(|error| {
        // The original error is the one to tell.
        let _ = std::fs::remove_file(&partial);
        io(error)
    })
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
        let mut writer = EventWriter::new(Vec::new(), format).unwrap();
        Events::new(world()).for_each(|event| writer.write(&event).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn the_same_settings_give_the_same_bytes_for_ever() {
        assert_eq!(bytes(Format::Jsonl), bytes(Format::Jsonl));
        let mut all = blake3::Hasher::new();
        all.update(&bytes(Format::Jsonl));
        let world = world();
        (0..200).for_each(|rank| drop(all.update(form::item(&world.item(rank), false).to_string().as_bytes())));
        (0..40).for_each(|user| drop(all.update(form::profile(&world.profile(user)).to_string().as_bytes())));
        // Frozen: whoever changes it also raises GENERATOR_VERSION.
        assert_eq!(all.finalize().to_hex().as_str(), "FROZEN");
    }

    #[test]
    fn what_is_written_is_read_back_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        for format in [Format::Jsonl, Format::Csv] {
            let path = dir.path().join("events");
            whole_file(&path, |out| out.write_all(&bytes(format))).unwrap();
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
    fn a_file_that_fails_half_way_does_not_appear() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let failed = whole_file(&path, |out| {
            out.write_all(b"half")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("disk full"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
