//! Delimited records (RFC 4180): quoted fields may hold delimiters, doubled quotes and line breaks.
//!
//! Our own splitter rather than the `csv` crate's reader: a quote that is never closed must cost one line, not swallow the file into
//! memory as one field, and every record must know its first line.

use crate::failure::{Failure, Result};
use crate::import::lines::{Line, Lines};
use crate::import::row::Reason;

/// Lines that one quoted field may span, and bytes of such a record: a description, not half a file.
const RECORD_LINES_MAX: usize = 200;
const RECORD_BYTES_MAX: usize = 1 << 20;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The line on which it starts.
    pub line: u64,
    /// Its fields, or why it has none.
    pub fields: Result<Vec<String>, Reason>,
}

/// The records of a file.
pub struct Records {
    lines: Lines,
    delimiter: char,
}

impl Records {
    /// Records of `lines`.
    pub fn new(lines: Lines, delimiter: char) -> Records {
        Records { lines, delimiter }
    }

    /// Bytes read so far.
    pub fn consumed(&self) -> u64 {
        self.lines.consumed()
    }

    /// The next record; blank lines are passed over.
    pub fn next_record(&mut self) -> std::io::Result<Option<Record>> {
        loop {
            let Some(line) = self.lines.next_line()? else { return Ok(None) };
            if !line.is_blank() {
                return self.record(line).map(Some);
            }
        }
    }

    fn record(&mut self, first: Line) -> std::io::Result<Record> {
        let line = first.number;
        let fields = match first.text() {
            Err(reason) => Err(reason),
            Ok(text) => match split(text, self.delimiter) {
                Some(fields) => Ok(fields),
                None => self.spanning(&first)?,
            },
        };
        Ok(Record { line, fields })
    }

    /// A record whose quote is open at the end of its first line: joined with the lines after it, or refused alone.
    fn spanning(&mut self, first: &Line) -> std::io::Result<Result<Vec<String>, Reason>> {
        let mut joined = String::from_utf8_lossy(&first.bytes).into_owned();
        let mut used = Vec::new();
        while used.len() < RECORD_LINES_MAX && joined.len() < RECORD_BYTES_MAX {
            let Some(next) = self.lines.next_line()? else { break };
            let Ok(text) = next.text() else {
                used.push(next);
                break;
            };
            joined.push('\n');
            joined.push_str(text);
            // Only a line with a quote can close the field: without this, a long field is split again for each of its lines.
            let may_close = text.contains('"');
            used.push(next);
            if may_close && let Some(fields) = split(&joined, self.delimiter) {
                return Ok(Ok(fields));
            }
        }
        self.lines.give_back(used.into_iter());
        Ok(Err(Reason::of_line("a quote (\") is opened and never closed")))
    }
}

/// The fields of `text`; none where a quote is left open. As in the `csv` crate, text after a closing quote is kept.
pub fn split(text: &str, delimiter: char) -> Option<Vec<String>> {
    let mut fields = Vec::with_capacity(4);
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            loop {
                let end = rest.find('"')?;
                field.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                match rest.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        rest = after;
                    }
                    None => break,
                }
            }
        }
        let (plain, after) = match rest.split_once(delimiter) {
            Some((plain, after)) => (plain, Some(after)),
            None => (rest, None),
        };
        field.push_str(plain);
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Some(fields),
        }
    }
}

/// The header of a file, or the failure that there is none.
pub fn header(records: &mut Records, name: &str) -> Result<Vec<String>> {
    match records.next_record() {
        Err(error) => Err(Failure::failed(format!("cannot read {name}: {error}"))),
        Ok(None) => Err(Failure::failed(format!("{name} has no lines"))),
        Ok(Some(Record { line, fields: Err(reason) })) => Err(Failure::failed(format!("{name}:{line}: {reason}"))),
        Ok(Some(Record { fields: Ok(fields), .. })) => Ok(fields.iter().map(|field| field.trim().to_owned()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn records(text: &str) -> Vec<Record> {
        let mut records = Records::new(Lines::new(Box::new(Cursor::new(text.as_bytes().to_vec()))), ',');
        std::iter::from_fn(|| records.next_record().unwrap()).collect()
    }

    #[test]
    fn quotes_are_read_as_in_rfc_4180() {
        let cases: [(&str, &[&str]); 7] = [
            ("a,b", &["a", "b"]),
            ("a,,", &["a", "", ""]),
            (r#"11,"American President, The (1995)",Comedy"#, &["11", "American President, The (1995)", "Comedy"]),
            (r#""say ""hi""",x"#, &[r#"say "hi""#, "x"]),
            (r#"5" disk,x"#, &[r#"5" disk"#, "x"]),
            (r#""a"b,c"#, &["ab", "c"]),
            ("\"\"\",\"\"\"", &["\",\""]),
        ];
        for (text, fields) in cases {
            let want: Option<Vec<String>> = Some(fields.iter().map(|f| (*f).to_owned()).collect());
            assert_eq!(split(text, ','), want, "{text}");
        }
        assert_eq!(split(r#""open"#, ','), None);
    }

    #[test]
    fn an_unclosed_quote_costs_one_line() {
        let got = records("a,\"oops\nb,1\n\nc,2\n");
        assert_eq!(got.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 2, 4]);
        assert!(got[0].fields.as_ref().unwrap_err().message.contains("never closed"));
        assert_eq!(got[1].fields.as_ref().unwrap(), &["b", "1"]);
    }

    #[test]
    fn a_field_may_span_lines_and_the_next_record_knows_its_line() {
        let got = records("a,\"one\ntwo\"\nb,3\n");
        assert_eq!(got[0].fields.as_ref().unwrap(), &["a", "one\ntwo"]);
        assert_eq!(got[1].line, 3);
    }

    proptest! {
        #[test]
        fn what_the_csv_crate_wrote_is_read(rows in proptest::collection::vec(
            proptest::collection::vec("[a-z,\"\n ]{0,8}x", 2..4), 1..6,
        )) {
            let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
            rows.iter().for_each(|row| writer.write_record(row).unwrap());
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            let got: Vec<Vec<String>> = records(&text).into_iter().map(|record| record.fields.unwrap()).collect();
            prop_assert_eq!(got, rows);
        }
    }
}
