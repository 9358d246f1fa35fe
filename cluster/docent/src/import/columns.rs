//! Which column of a delimited file means what: by the header, by common synonyms, by `--map`.

use crate::failure::{Failure, Result};
use std::collections::BTreeMap;

/// A field of ours and the header names that mean it, in lower case without `_`, `-` and spaces.
pub type Known = (&'static str, &'static [&'static str]);

/// Fields of events.
pub const EVENT: [Known; 10] = [
    ("event_id", &["eventid"]),
    ("user_id", &["userid", "user", "uid", "customerid", "visitorid"]),
    ("item_id", &["itemid", "item", "iid", "movieid", "productid", "articleid", "trackid"]),
    ("type", &["type", "eventtype", "event", "action"]),
    ("value", &["value", "rating", "score"]),
    ("timestamp", &["timestamp", "time", "ts", "timestampms", "datetime", "date"]),
    ("session_id", &["sessionid", "session"]),
    ("recommendation_id", &["recommendationid"]),
    ("position", &["position"]),
    ("context", &["context"]),
];

/// Fields of items; other columns become attributes.
pub const ITEM: [Known; 5] = [
    ("item_id", &["itemid", "item", "id", "iid", "movieid", "productid", "articleid", "trackid"]),
    ("title", &["title", "name"]),
    ("categories", &["categories", "category", "genres", "genre", "tags"]),
    ("description", &["description", "text", "abstract"]),
    ("published", &["published", "publishedms", "year", "date", "released"]),
];

/// Fields of users; other columns become attributes.
pub const USER: [Known; 1] = [("user_id", &["userid", "user", "id", "uid", "customerid", "visitorid"])];

/// `--map field=column`: the column by its header name, or by its number from 1.
pub fn parse_map(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, column)) if !field.is_empty() && !column.is_empty() => {
            Ok((field.trim().to_owned(), column.trim().to_owned()))
        }
        _ => Err(format!("{text:?} is not FIELD=COLUMN")),
    }
}

/// Where the fields stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    at: BTreeMap<&'static str, usize>,
    names: Vec<String>,
}

impl Columns {
    /// By the header and `map`, which wins over synonyms. A field of `required` that is nowhere is a failure that shows the header.
    pub fn of_header(
        file: &str,
        header: &[String],
        known: &[Known],
        required: &[&str],
        map: &[(String, String)],
    ) -> Result<Columns> {
        let mut at = mapped(file, header, known, map)?;
        for &(field, synonyms) in known {
            if !at.contains_key(field)
                && let Some(i) = synonyms.iter().find_map(|synonym| position(header, synonym))
                && !at.values().any(|&taken| taken == i)
            {
                at.insert(field, i);
            }
        }
        require(file, &at, required, &format!("its first line is: {}", crate::import::time::clip(&header.join(","))))?;
        Ok(Columns { at, names: header.to_vec() })
    }

    /// Of a file without a header: `map` gives column numbers.
    pub fn of_numbers(file: &str, known: &[Known], required: &[&str], map: &[(String, String)]) -> Result<Columns> {
        let at = mapped(file, &[], known, map)?;
        require(file, &at, required, "without a header every column needs its number")?;
        Ok(Columns { at, names: Vec::new() })
    }

    /// The field's text in a record; none where the column is absent or the text is empty.
    pub fn get<'a>(&self, fields: &'a [String], field: &str) -> Option<&'a str> {
        let text = fields.get(*self.at.get(field)?)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// The header name of a field's column, as the file has it.
    pub fn name_of(&self, field: &str) -> Option<&str> {
        self.names.get(*self.at.get(field)?).map(String::as_str)
    }

    /// Columns that mean no field: their names and places.
    pub fn others(&self) -> Vec<(String, usize)> {
        let is_free = |i: &usize| !self.at.values().any(|taken| taken == i);
        self.names
            .iter()
            .enumerate()
            .filter(|(i, name)| is_free(i) && !name.is_empty())
            .map(|(i, n)| (n.clone(), i))
            .collect()
    }

    /// How many fields a record must have; none where no header says so.
    pub fn width(&self) -> Option<usize> {
        (!self.names.is_empty()).then_some(self.names.len())
    }
}

fn normal(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-' | ' ' | '.')).flat_map(char::to_lowercase).collect()
}

fn position(header: &[String], synonym: &str) -> Option<usize> {
    header.iter().position(|name| normal(name) == synonym)
}

fn mapped(
    file: &str,
    header: &[String],
    known: &[Known],
    map: &[(String, String)],
) -> Result<BTreeMap<&'static str, usize>> {
    let mut at = BTreeMap::new();
    for (field, column) in map {
        let Some((field, _)) = known.iter().find(|(name, _)| name == field) else {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            return Err(Failure::usage(format!("--map {field}={column}: no field {field:?}"))
                .advise(format!("fields are {}", names.join(", "))));
        };
        let by_name = header.iter().position(|name| name == column);
        let by_number = column.parse::<usize>().ok().filter(|&n| n > 0).map(|n| n - 1);
        match by_name.or(by_number) {
            Some(i) if header.is_empty() || i < header.len() => at.insert(*field, i),
            _ => {
                return Err(Failure::usage(format!("--map {field}={column}: {file} has no column {column:?}"))
                    .advise(format!("its columns are {}", header.join(", "))));
            }
        };
    }
    Ok(at)
}

fn require(file: &str, at: &BTreeMap<&'static str, usize>, required: &[&str], seen: &str) -> Result<()> {
    match required.iter().find(|field| !at.contains_key(**field)) {
        None => Ok(()),
        Some(field) => Err(Failure::usage(format!("{file} has no column for {field}: {seen}")).advise(format!(
            "name the column with --map {field}=COLUMN; for a file without a header add --no-header and give column numbers from 1"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn map(text: &str) -> Vec<(String, String)> {
        text.split(',').map(|pair| parse_map(pair).unwrap()).collect()
    }

    #[test]
    fn common_headers_need_no_map() {
        let required = ["user_id", "item_id"];
        for text in ["userId,movieId,rating,timestamp", "user,item", "User ID,Item-ID,ts", "uid,x,iid"] {
            let columns = Columns::of_header("f", &header(text), &EVENT, &required, &[]).expect(text);
            assert!(columns.name_of("user_id").is_some() && columns.name_of("item_id").is_some(), "{text}");
        }
    }

    #[test]
    fn a_map_wins_and_its_mistakes_are_told() {
        let names = header("user,who,item");
        let columns = Columns::of_header("f", &names, &EVENT, &["user_id"], &map("user_id=who")).unwrap();
        assert_eq!(columns.name_of("user_id"), Some("who"));
        assert_eq!(columns.others(), [("user".to_owned(), 0)]);
        let fields = header("a,b, c ");
        assert_eq!((columns.get(&fields, "item_id"), columns.get(&fields, "value")), (Some("c"), None));
        for (pair, message) in [("nobody=who", "no field"), ("user_id=nobody", "no column"), ("user_id=9", "no column")]
        {
            let failure = Columns::of_header("f", &names, &EVENT, &[], &map(pair)).unwrap_err();
            assert!(failure.to_string().contains(message), "{failure}");
        }
    }

    #[test]
    fn a_missing_header_is_told_with_the_first_line() {
        let failure = Columns::of_header("f.csv", &header("17,4711"), &EVENT, &["user_id"], &[]).unwrap_err();
        assert!(failure.to_string().contains("17,4711") && failure.to_string().contains("--no-header"), "{failure}");
        let columns = Columns::of_numbers("f", &EVENT, &["user_id", "item_id"], &map("user_id=2,item_id=1")).unwrap();
        assert_eq!(columns.get(&header("i,u"), "user_id"), Some("u"));
        assert!(Columns::of_numbers("f", &EVENT, &["user_id"], &[]).is_err());
    }
}
