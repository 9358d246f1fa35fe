//! Items and users of CSV and JSONL files, and MovieLens's movies.

use crate::failure::{Failure, Result};
use crate::import::columns::{self, Columns};
use crate::import::events::Dialect;
use crate::import::file::Input;
use crate::import::lines::Lines;
use crate::import::records::{self, Record, Records};
use crate::import::row::{Reason, Row, Source, check_item, check_profile};
use crate::import::time::{self, Unit};
use crate::json;
use docent_proto::v1::{Item, Profile};
use std::collections::BTreeMap;

/// Reads one thing of a record.
type OfRecord<T> = fn(&Columns, &[(String, usize)], &[String]) -> Result<T, Reason>;
/// Reads one thing of a line.
type OfLine<T> = fn(&[u8]) -> Result<T, Reason>;
type Check<T> = fn(&T) -> Result<(), Reason>;

enum Form<T> {
    Csv { records: Records, columns: Columns, others: Vec<(String, usize)>, read: OfRecord<T> },
    Jsonl { lines: Lines, read: OfLine<T> },
}

/// Items or users of one file.
pub struct Things<T> {
    input: Input,
    form: Form<T>,
    check: Check<T>,
}

/// Items of a delimited file; columns that mean no field become attributes. Categories are separated by `|`.
pub fn items_csv(input: Input, dialect: &Dialect) -> Result<Things<Item>> {
    csv(input, dialect, (&columns::ITEM, "item_id"), (item_of_record, check_item))
}

/// Items of a file with a JSON object a line.
pub fn items_jsonl(input: Input) -> Result<Things<Item>> {
    let form = Form::Jsonl { lines: input.lines()?, read: json::read::item };
    Ok(Things { input, form, check: check_item })
}

/// Users of a delimited file; every other column becomes an attribute.
pub fn users_csv(input: Input, dialect: &Dialect) -> Result<Things<Profile>> {
    csv(input, dialect, (&columns::USER, "user_id"), (profile_of_record, check_profile))
}

/// Users of a file with a JSON object a line.
pub fn users_jsonl(input: Input) -> Result<Things<Profile>> {
    let form = Form::Jsonl { lines: input.lines()?, read: json::read::profile };
    Ok(Things { input, form, check: check_profile })
}

/// MovieLens's `movies.csv`: movieId, title (year), genres.
pub fn movies(input: Input) -> Result<Things<Item>> {
    csv(input, &Dialect::default(), (&columns::ITEM, "item_id"), (movie_of_record, check_item))
}

fn csv<T>(
    input: Input,
    dialect: &Dialect,
    (known, required): (&[columns::Known], &str),
    (read, check): (OfRecord<T>, Check<T>),
) -> Result<Things<T>> {
    let mut records = Records::new(input.lines()?, dialect.delimiter);
    let columns = match dialect.has_header {
        true => {
            let header = records::header(&mut records, input.name())?;
            Columns::of_header(input.name(), &header, known, &[required], &dialect.map)?
        }
        false => Columns::of_numbers(input.name(), known, &[required], &dialect.map)?,
    };
    let others = columns.others();
    Ok(Things { input, form: Form::Csv { records, columns, others, read }, check })
}

fn attributes(others: &[(String, usize)], fields: &[String]) -> BTreeMap<String, String> {
    let text = |at: &usize| fields.get(*at).map(|text| text.trim()).filter(|text| !text.is_empty());
    others.iter().filter_map(|(name, at)| Some((name.clone(), text(at)?.to_owned()))).collect()
}

fn categories(text: Option<&str>) -> Vec<String> {
    let names = text.unwrap_or_default().split('|').map(str::trim);
    names.filter(|name| !name.is_empty() && *name != "(no genres listed)").map(str::to_owned).collect()
}

fn item_of_record(columns: &Columns, others: &[(String, usize)], fields: &[String]) -> Result<Item, Reason> {
    let text = |field: &str| columns.get(fields, field).unwrap_or_default().to_owned();
    let published_ms = match columns.get(fields, "published") {
        None => None,
        // Four digits are a year: no one publishes in the first three hours of 1970.
        Some(text) if text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().ok().and_then(time::year)
        }
        Some(text) => Some(time::parse(text, Unit::Auto).map_err(|why| Reason::of("published", why))?),
    };
    Ok(Item {
        item_id: text("item_id"),
        title: text("title"),
        categories: categories(columns.get(fields, "categories")),
        description: text("description"),
        published_ms,
        attributes: attributes(others, fields),
        is_taken_down: false,
        events: 0,
    })
}

fn movie_of_record(columns: &Columns, _: &[(String, usize)], fields: &[String]) -> Result<Item, Reason> {
    let item = item_of_record(columns, &[], fields)?;
    Ok(Item { published_ms: title_year(&item.title).and_then(time::year), ..item })
}

/// The year at the end of `Toy Story (1995)` or `Series (1995-1999)`.
fn title_year(title: &str) -> Option<i16> {
    let (_, year) = title.trim_end().strip_suffix(')')?.rsplit_once('(')?;
    let digits = year.get(..4)?;
    let is_year = digits.bytes().all(|b| b.is_ascii_digit()) && !year[4..].starts_with(|c: char| c.is_alphanumeric());
    is_year.then(|| digits.parse().ok())?
}

fn profile_of_record(columns: &Columns, others: &[(String, usize)], fields: &[String]) -> Result<Profile, Reason> {
    let user_id = columns.get(fields, "user_id").unwrap_or_default().to_owned();
    Ok(Profile { user_id, attributes: attributes(others, fields) })
}

impl<T: Send + 'static> Source for Things<T> {
    type Record = T;

    fn name(&self) -> &str {
        self.input.name()
    }

    fn total(&self) -> u64 {
        self.input.bytes()
    }

    fn position(&self) -> u64 {
        match &self.form {
            Form::Csv { records, .. } => records.consumed(),
            Form::Jsonl { lines, .. } => lines.consumed(),
        }
    }

    fn next_row(&mut self) -> Result<Option<Row<T>>> {
        let io = |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", self.input.name()));
        let (line, thing) = match &mut self.form {
            Form::Csv { records, columns, others, read } => {
                let Some(Record { line, fields }) = records.next_record().map_err(io)? else { return Ok(None) };
                let whole = |fields: Vec<String>| match columns.width() {
                    Some(width) if fields.len() != width => {
                        Err(Reason::of_line(format!("{} fields where the header has {width}", fields.len())))
                    }
                    _ => read(columns, others, &fields),
                };
                (line, fields.and_then(whole))
            }
            Form::Jsonl { lines, read } => loop {
                let Some(line) = lines.next_line().map_err(io)? else { return Ok(None) };
                if !line.is_blank() {
                    break (line.number, line.text().and_then(|text| read(text.as_bytes())));
                }
            },
        };
        let record = thing.and_then(|thing| (self.check)(&thing).map(|()| thing));
        Ok(Some(Row { line, record }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> (tempfile::TempDir, Input) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("things");
        std::fs::write(&path, text).unwrap();
        let input = Input::open(&path).unwrap();
        (dir, input)
    }

    fn all<T: Send + 'static>(mut things: Things<T>) -> Vec<Row<T>> {
        std::iter::from_fn(|| things.next_row().unwrap()).collect()
    }

    #[test]
    fn a_movie_has_its_title_year_and_genres() {
        let (_dir, input) = input(
            "movieId,title,genres\n1,Toy Story (1995),Adventure|Comedy\n11,\"American President, The (1995)\",Drama\n\
             7,\"Say \"\"Hi\"\" \",(no genres listed)\n8,Metropolis (1927),Sci-Fi\n9,Series (1995-1999),Drama\n9,broken\n",
        );
        let rows = all(movies(input).unwrap());
        let items: Vec<&Item> = rows[..5].iter().map(|row| row.record.as_ref().unwrap()).collect();
        assert_eq!(items[0].categories, ["Adventure", "Comedy"]);
        assert_eq!(items[0].published_ms, time::year(1995));
        assert_eq!(items[1].title, "American President, The (1995)");
        assert_eq!(
            (items[2].title.as_str(), items[2].categories.len(), items[2].published_ms),
            ("Say \"Hi\"", 0, None)
        );
        assert!(items[3].published_ms.unwrap() < 0, "before 1970");
        assert_eq!(items[4].published_ms, time::year(1995));
        assert!(rows[5].record.as_ref().unwrap_err().message.contains("2 fields"));
    }

    #[test]
    fn columns_that_mean_nothing_become_attributes() {
        let (_dir, input) = input("id,country,age\nu1,de,\nu2,fr,30-39\n");
        let rows = all(users_csv(input, &Dialect::default()).unwrap());
        let user = rows[1].record.as_ref().unwrap();
        assert_eq!((user.user_id.as_str(), user.attributes["country"].as_str()), ("u2", "fr"));
        assert_eq!(rows[0].record.as_ref().unwrap().attributes.len(), 1);
    }

    #[test]
    fn an_item_outside_the_limits_is_refused_by_line() {
        let (_dir, input) =
            input("{\"item_id\":\"i\",\"categories\":[\"\"]}\n{\"item_id\":\"i\",\"year\":1}\n{\"item_id\":\"ok\"}\n");
        let rows = all(items_jsonl(input).unwrap());
        assert_eq!(rows[0].record.as_ref().unwrap_err().field.as_deref(), Some("categories"));
        assert_eq!(rows[1].record.as_ref().unwrap_err().field.as_deref(), Some("year"));
        assert!(rows[2].record.is_ok());
    }
}
