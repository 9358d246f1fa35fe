//! Events of CSV, JSONL and adjacency lists.

use crate::failure::{Failure, Result};
use crate::import::columns::{self, Columns};
use crate::import::file::Input;
use crate::import::lines::Lines;
use crate::import::records::{self, Record, Records};
use crate::import::row::{Reason, Row, Source, check_event};
use crate::import::time::{self, Unit};
use crate::json;
use docent_proto::v1::Event;
use std::collections::BTreeMap;

/// What holds for every event of a source.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The type of events that carry none; empty leaves it to the format.
    pub event_type: String,
    /// The time of events that carry none; none means when the file was last written.
    pub timestamp_ms: Option<i64>,
    /// The unit of numeric times.
    pub unit: Unit,
    /// The clock that bounds the future.
    pub now_ms: i64,
}

/// Completes an event by its place and checks it.
fn finish(mut event: Event, input: &Input, place: (u64, Option<u64>), defaults: &Defaults) -> Row<Event> {
    let (line, column) = place;
    if event.event_id.is_empty() {
        event.event_id = input.event_id(line, column);
    }
    if event.r#type.is_empty() {
        event.r#type.clone_from(&defaults.event_type);
    }
    event.timestamp_ms = event.timestamp_ms.or(defaults.timestamp_ms).or(Some(input.modified_ms()));
    let record = check_event(&event, defaults.now_ms).map(|()| event);
    Row { line, record }
}

fn unreadable(input: &Input, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", input.name()))
}

/// How a delimited file is read.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// Between fields.
    pub delimiter: char,
    /// Whether the first line names the columns.
    pub has_header: bool,
    /// `field -> column`.
    pub map: Vec<(String, String)>,
    /// Columns to keep as context.
    pub context: Vec<String>,
}

impl Default for Dialect {
    fn default() -> Self {
        Dialect { delimiter: ',', has_header: true, map: Vec::new(), context: Vec::new() }
    }
}

/// Events of a delimited file.
pub struct Csv {
    input: Input,
    records: Records,
    columns: Columns,
    context: Vec<(String, usize)>,
    defaults: Defaults,
}

impl Csv {
    /// Reads the header. A `value` column that is called rating makes events of type `rating`, unless told otherwise.
    pub fn open(input: Input, dialect: &Dialect, mut defaults: Defaults) -> Result<Csv> {
        let mut records = Records::new(input.lines()?, dialect.delimiter);
        let required = ["user_id", "item_id"];
        let columns = match dialect.has_header {
            true => {
                let header = records::header(&mut records, input.name())?;
                Columns::of_header(input.name(), &header, &columns::EVENT, &required, &dialect.map)?
            }
            false => Columns::of_numbers(input.name(), &columns::EVENT, &required, &dialect.map)?,
        };
        let others = columns.others();
        let mut context = Vec::new();
        for name in &dialect.context {
            match others.iter().find(|(other, _)| other == name) {
                Some(column) => context.push(column.clone()),
                None => {
                    return Err(Failure::usage(format!(
                        "--context {name}: {} has no free column {name:?}",
                        input.name()
                    )));
                }
            }
        }
        if defaults.event_type.is_empty()
            && columns.name_of("value").is_some_and(|name| name.eq_ignore_ascii_case("rating"))
        {
            defaults.event_type = "rating".to_owned();
        }
        Ok(Csv { input, records, columns, context, defaults })
    }

    fn event(&self, fields: &[String]) -> Result<Event, Reason> {
        if let Some(width) = self.columns.width()
            && fields.len() != width
        {
            return Err(Reason::of_line(format!("{} fields where the header has {width}", fields.len())));
        }
        let text = |field: &str| self.columns.get(fields, field).unwrap_or_default().to_owned();
        let mut context: BTreeMap<String, String> = match self.columns.get(fields, "context") {
            None => BTreeMap::new(),
            Some(object) => serde_json::from_str(object)
                .map_err(|_| Reason::of("context", "must be a JSON object of strings, as an export writes it"))?,
        };
        for (name, at) in &self.context {
            match fields.get(*at).map(|text| text.trim()) {
                None | Some("") => {}
                Some(text) => drop(context.insert(name.clone(), text.to_owned())),
            }
        }
        Ok(Event {
            event_id: text("event_id"),
            user_id: text("user_id"),
            item_id: text("item_id"),
            r#type: text("type"),
            value: number(self.columns.get(fields, "value"), "value")?,
            timestamp_ms: match self.columns.get(fields, "timestamp") {
                None => None,
                Some(text) => Some(time::parse(text, self.defaults.unit).map_err(|why| Reason::of("timestamp", why))?),
            },
            session_id: text("session_id"),
            recommendation_id: text("recommendation_id"),
            position: number(self.columns.get(fields, "position"), "position")?,
            context,
        })
    }
}

fn number<T: std::str::FromStr>(text: Option<&str>, field: &str) -> Result<Option<T>, Reason> {
    match text.map(|text| (text, text.parse::<T>())) {
        None => Ok(None),
        Some((_, Ok(number))) => Ok(Some(number)),
        Some((text, Err(_))) => Err(Reason::of(field, format!("{:?} is not a number that fits", time::clip(text)))),
    }
}

impl Source for Csv {
    type Record = Event;

    fn name(&self) -> &str {
        self.input.name()
    }

    fn total(&self) -> u64 {
        self.input.bytes()
    }

    fn position(&self) -> u64 {
        self.records.consumed()
    }

    fn next_row(&mut self) -> Result<Option<Row<Event>>> {
        let record = self.records.next_record().map_err(|error| unreadable(&self.input, &error))?;
        Ok(record.map(|Record { line, fields }| match fields.and_then(|fields| self.event(&fields)) {
            Ok(event) => finish(event, &self.input, (line, None), &self.defaults),
            Err(reason) => Row { line, record: Err(reason) },
        }))
    }
}

/// Events of a file with a JSON object a line, in the form of `POST /v1/events`.
pub struct Jsonl {
    input: Input,
    lines: Lines,
    defaults: Defaults,
}

impl Jsonl {
    /// Opens the lines.
    pub fn open(input: Input, defaults: Defaults) -> Result<Jsonl> {
        let lines = input.lines()?;
        Ok(Jsonl { input, lines, defaults })
    }
}

impl Source for Jsonl {
    type Record = Event;

    fn name(&self) -> &str {
        self.input.name()
    }

    fn total(&self) -> u64 {
        self.input.bytes()
    }

    fn position(&self) -> u64 {
        self.lines.consumed()
    }

    fn next_row(&mut self) -> Result<Option<Row<Event>>> {
        loop {
            let Some(line) = self.lines.next_line().map_err(|error| unreadable(&self.input, &error))? else {
                return Ok(None);
            };
            if line.is_blank() {
                continue;
            }
            let event = line.text().and_then(|text| json::read::event(text.as_bytes()));
            return Ok(Some(match event {
                Ok(event) => finish(event, &self.input, (line.number, None), &self.defaults),
                Err(reason) => Row { line: line.number, record: Err(reason) },
            }));
        }
    }
}

/// Events of an adjacency list: lines `user item item ...`; the type and the time are the same for all.
pub struct Adjacency {
    input: Input,
    lines: Lines,
    defaults: Defaults,
    current: Option<Current>,
}

struct Current {
    line: u64,
    text: String,
    user_id: String,
    /// Where the next item begins in `text`, and its number from 1.
    at: usize,
    column: u64,
}

impl Adjacency {
    /// Opens the lines.
    pub fn open(input: Input, defaults: Defaults) -> Result<Adjacency> {
        let lines = input.lines()?;
        Ok(Adjacency { input, lines, defaults, current: None })
    }
}

/// The word that begins at or after `at`, and where it ends.
fn word(text: &str, at: usize) -> Option<(&str, usize)> {
    let rest = &text[at..];
    let trimmed = rest.trim_start();
    let start = at + (rest.len() - trimmed.len());
    let end = trimmed.find(char::is_whitespace).map_or(text.len(), |length| start + length);
    (start < end).then(|| (&text[start..end], end))
}

impl Source for Adjacency {
    type Record = Event;

    fn name(&self) -> &str {
        self.input.name()
    }

    fn total(&self) -> u64 {
        self.input.bytes()
    }

    fn position(&self) -> u64 {
        self.lines.consumed()
    }

    fn next_row(&mut self) -> Result<Option<Row<Event>>> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some((item_id, end)) = word(&current.text, current.at) {
                    let (user_id, item_id) = (current.user_id.clone(), item_id.to_owned());
                    (current.at, current.column) = (end, current.column + 1);
                    let place = (current.line, Some(current.column));
                    let event = Event { user_id, item_id, ..Event::default() };
                    return Ok(Some(finish(event, &self.input, place, &self.defaults)));
                }
                self.current = None;
            }
            let Some(line) = self.lines.next_line().map_err(|error| unreadable(&self.input, &error))? else {
                return Ok(None);
            };
            match line.text() {
                Err(reason) => return Ok(Some(Row { line: line.number, record: Err(reason) })),
                // A user without items is a line of many published data sets, and no event.
                Ok(text) => {
                    self.current = word(text, 0).map(|(user_id, at)| Current {
                        line: line.number,
                        text: text.to_owned(),
                        user_id: user_id.to_owned(),
                        at,
                        column: 0,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &[u8]) -> (tempfile::TempDir, Input) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        std::fs::write(&path, text).unwrap();
        let input = Input::open(&path).unwrap();
        (dir, input)
    }

    fn defaults() -> Defaults {
        Defaults { event_type: String::new(), timestamp_ms: Some(7), unit: Unit::Auto, now_ms: 2_000_000_000_000 }
    }

    fn all(mut source: impl Source<Record = Event>) -> Vec<Row<Event>> {
        let rows: Vec<_> = std::iter::from_fn(|| source.next_row().unwrap()).collect();
        assert_eq!(source.position(), source.total());
        rows
    }

    fn csv(text: &str, dialect: &Dialect) -> Vec<Row<Event>> {
        let (_dir, input) = input(text.as_bytes());
        all(Csv::open(input, dialect, defaults()).unwrap())
    }

    fn reason(row: &Row<Event>) -> (u64, String) {
        (row.line, row.record.as_ref().expect_err("a bad line").to_string())
    }

    #[test]
    fn a_rating_file_becomes_events_of_type_rating() {
        let rows = csv("userId,movieId,rating,timestamp\r\n1,31,2.5,964982703\r\n", &Dialect::default());
        let event = rows[0].record.as_ref().unwrap();
        assert_eq!((event.user_id.as_str(), event.item_id.as_str(), event.r#type.as_str()), ("1", "31", "rating"));
        assert_eq!((event.value, event.timestamp_ms), (Some(2.5), Some(964_982_703_000)));
    }

    #[test]
    fn every_bad_line_is_named_and_costs_no_other() {
        let long = "x".repeat(257);
        let text = format!(
            "\u{feff}user,item,value,ts\nu,i,1,5\n,i,1,5\nu,,1,5\nu,{long},1,5\nu,i,NaN,5\nu,i,many,5\nu,i,1,later\nu,i,1,-5\nu,i,1,2000086400001\nu,i,1\n\nu,i,,\n"
        );
        let rows = csv(&text, &Dialect::default());
        assert!(rows[0].record.is_ok());
        let want = [
            (3, "user_id: "),
            (4, "item_id: "),
            (5, "item_id: item id has 257"),
            (6, "value: "),
            (7, "value: \"many\""),
            (8, "timestamp: \"later\""),
            (9, "timestamp: timestamp lies before 1970"),
            (10, "timestamp: timestamp lies more than a day in the future"),
            (11, "3 fields where the header has 4"),
        ];
        for (row, (line, start)) in rows[1..].iter().zip(want) {
            let got = reason(row);
            assert!(got.0 == line && got.1.starts_with(start), "line {line}: {got:?}");
        }
        let last = rows.last().unwrap();
        assert_eq!((last.line, rows.len()), (13, 11));
        assert_eq!(last.record.as_ref().unwrap().timestamp_ms, Some(7));
    }

    #[test]
    fn a_dialect_maps_columns_and_keeps_context() {
        let dialect = Dialect {
            delimiter: '\t',
            map: vec![("user_id".to_owned(), "who".to_owned())],
            context: vec!["weather".to_owned()],
            ..Dialect::default()
        };
        let rows = csv("who\titem\tweather\tcity\nu\ti\tsunny\tBonn\n", &dialect);
        let event = rows[0].record.as_ref().unwrap();
        assert_eq!(event.user_id, "u");
        assert_eq!(event.context, BTreeMap::from([("weather".to_owned(), "sunny".to_owned())]));
        let map = vec![("user_id".to_owned(), "2".to_owned()), ("item_id".to_owned(), "1".to_owned())];
        let rows = csv("i,u\n", &Dialect { has_header: false, map, ..Dialect::default() });
        assert_eq!(rows[0].record.as_ref().unwrap().user_id, "u");
    }

    #[test]
    fn an_adjacency_line_is_an_event_per_item_with_its_own_id() {
        let (_dir, input) = input(b"u1 a b\tc \nu2\n\n u3 a\nu4 \xff\n");
        let rows = all(Adjacency::open(input.clone(), defaults()).unwrap());
        let pairs: Vec<(u64, &str, &str)> = rows[..4]
            .iter()
            .map(|row| (row.line, row.record.as_ref().unwrap()))
            .map(|(line, event)| (line, event.user_id.as_str(), event.item_id.as_str()))
            .collect();
        assert_eq!(pairs, [(1, "u1", "a"), (1, "u1", "b"), (1, "u1", "c"), (4, "u3", "a")]);
        assert_eq!(rows[1].record.as_ref().unwrap().event_id, input.event_id(1, Some(2)));
        assert!(reason(&rows[4]).1.contains("invalid UTF-8"));
    }

    #[test]
    fn a_jsonl_event_keeps_its_own_id_and_gets_one_otherwise() {
        let (_dir, input) = input(b"{\"event_id\":\"mine\",\"user_id\":\"u\",\"item_id\":\"i\"}\n\n{\"user_id\":\"u\",\"item_id\":\"i\"}\nnonsense\n");
        let rows = all(Jsonl::open(input.clone(), defaults()).unwrap());
        assert_eq!(rows[0].record.as_ref().unwrap().event_id, "mine");
        assert_eq!(rows[1].record.as_ref().unwrap().event_id, input.event_id(3, None));
        assert!(reason(&rows[2]).1.contains("malformed JSON"));
    }
}
