//! A history as JSON lines: one record a line, the header first. See `docs/histories.md`.

use super::{Header, History, Record};
use std::io::{self, BufRead, Write};

/// The form that is written; another is refused by number.
pub const FORMAT: u32 = 1;
/// Far above any record of ours: a line beyond it is refused before it is held.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// A line is no record.
    #[error("line {line} of the history is no record: {why}")]
    Bad {
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It cannot be read at all.
    #[error("line {line} of the history cannot be read")]
    Io {
        /// From 1.
        line: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads records one after the other, holding one line at a time.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    line: usize,
    is_over: bool,
}

impl<R: BufRead> Reader<R> {
    /// Over lines.
    pub fn new(from: R) -> Reader<R> {
        Reader { from, line: 0, is_over: false }
    }

    /// The whole history.
    ///
    /// # Errors
    /// The first line that is no record, by number; a header that is missing or of another format.
    pub fn history(mut self) -> Result<History, LineError> {
        let bad = |line: usize, why: String| LineError::Bad { line, why };
        let header = match self.next().transpose()? {
            Some(Record::Header(header)) => header,
            _ => return Err(bad(1, "the first record is the header".to_owned())),
        };
        if header.format != FORMAT {
            return Err(bad(1, format!("its format is {}; known is {FORMAT}", header.format)));
        }
        let mut history = History::new(header);
        while let Some(record) = self.next().transpose()? {
            if matches!(record, Record::Header(_)) {
                return Err(bad(self.line, "there is one header".to_owned()));
            }
            history.push(record);
        }
        Ok(history)
    }

    fn read(&mut self) -> Result<Option<Record>, LineError> {
        loop {
            self.line += 1;
            let mut bytes = Vec::new();
            let mut bounded = io::Read::take(&mut self.from, LINE_BYTES_MAX as u64 + 1);
            let count =
                bounded.read_until(b'\n', &mut bytes).map_err(|source| LineError::Io { line: self.line, source })?;
            let bad = |why: String| LineError::Bad { line: self.line, why };
            if count == 0 {
                return Ok(None);
            }
            if count > LINE_BYTES_MAX {
                return Err(bad(format!("it is longer than {LINE_BYTES_MAX} bytes")));
            }
            if !bytes.trim_ascii().is_empty() {
                return serde_json::from_slice(&bytes).map(Some).map_err(|error| bad(error.to_string()));
            }
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Record, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let record = self.read().transpose();
        self.is_over = !matches!(record, Some(Ok(_)));
        record
    }
}

/// Writes one record and the end of its line.
///
/// # Errors
/// Those of `to`.
pub fn write(to: &mut impl Write, record: &Record) -> io::Result<()> {
    serde_json::to_writer(&mut *to, record)?;
    to.write_all(b"\n")
}

impl History {
    /// Writes everything, the header first.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        write(to, &Record::Header(Header { format: FORMAT, ..self.header.clone() }))?;
        self.phases.iter().try_for_each(|mark| write(to, &Record::Phase(*mark)))?;
        self.faults.iter().try_for_each(|mark| write(to, &Record::Fault(mark.clone())))?;
        self.operations.iter().try_for_each(|operation| write(to, &Record::Operation(operation.clone())))?;
        self.observed.iter().try_for_each(|sighting| write(to, &Record::Observed(sighting.clone())))
    }

    /// Reads one.
    ///
    /// # Errors
    /// As [`Reader::history`].
    pub fn read(from: impl BufRead) -> Result<History, LineError> {
        Reader::new(from).history()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Call, EventOutcome, Level, Observed, Outcome, Refusal, Sight, Sighting};
    use super::*;
    use crate::check::story::{Story, answer, blocks, consent, event, header};
    use crate::name::{Group, Member};
    use crate::target::Scene;
    use crate::world::{Applied, Phase};
    use proptest::prelude::*;

    fn story() -> History {
        let mut story = Story::new();
        story.phase(0, Phase::Baseline).phase(5, Phase::Chaos).fault(6, "kill leader-of:users/1", &[Member::node(2)]);
        story
            .event((0, 1), "a", EventOutcome::Accepted, "users/0@1t4")
            .done((2, 3), consent(false))
            .done((2, 3), blocks(&["i1"]));
        story.unknown((4, 5), event("b")).rejected((4, 5), Call::RollBack {});
        let scored = answer(super::super::Source::Model, &["i1", "i2"]);
        story.listing((6, 7), "u1", super::super::Listing { oracle: Some(scored.items.clone()), ..scored });
        story.call((8, 9), Call::ReadCatalog {}, Outcome::Ok(Answer::Catalog { live_version: 1, index: 4 }));
        story.export(&["a"]);
        let (group, member) = (Group::Catalog, Member::coordinator(1));
        story
            .see(9, Observed::Leader { group, term: 3, member })
            .see(9, Observed::Seen { what: Sight::Truncations, count: 2 });
        story.see(9, Observed::Log { member, level: Level::Warn, line: "x \" y".to_owned() });
        story
            .see(9, Observed::Scene { scene: Scene::default() })
            .see(9, Observed::ScoreRange { version: 1, min: 0.1, max: 1e30 });
        let mut history = story.history;
        history.faults[0].applied = Applied::indeterminate("no answer");
        history.operations[0].returned_us = None;
        history.operations[3].outcome =
            Outcome::Unknown(Refusal { is_of_gateway: true, ..Refusal::new("reset", "gone") });
        history
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let (history, mut lines) = (story(), Vec::new());
        history.write(&mut lines).unwrap();
        assert_eq!(History::read(&lines[..]).unwrap(), history);
    }

    /// The forms that `docs/histories.md` shows. Checkers outside of this house read them: they do not change within a format.
    #[test]
    fn the_form_of_records_is_frozen() {
        let line = |record: &Record| serde_json::to_string(record).unwrap();
        let mut history = story();
        let operation = Record::Operation(history.operations.swap_remove(0));
        assert_eq!(
            line(&operation),
            r#"{"record":"operation","id":0,"client":1,"gateway":"node-1","call":{"do":"event","event_id":"a","user":"u1","item":"item-of-a","type":"click"},"called_us":0,"returned_us":null,"outcome":{"ok":{"event":{"outcome":"accepted","position":"users/0@1t4"}}}}"#
        );
        assert_eq!(
            line(&Record::Fault(history.faults.remove(0))),
            r#"{"record":"fault","from_us":6,"at_us":6,"step":null,"fault":"kill leader-of:users/1","is_end":false,"applied":"indeterminate","why":"no answer"}"#
        );
        let seen = Sighting {
            at_us: 9,
            what: Observed::Exported { event_id: "a".into(), user: "u".into(), item: "i".into() },
        };
        assert_eq!(
            line(&Record::Observed(seen)),
            r#"{"record":"observed","at_us":9,"seen":"exported","event_id":"a","user":"u","item":"i"}"#
        );
        assert_eq!(
            line(&Record::Phase(history.phases.remove(0))),
            r#"{"record":"phase","at_us":0,"phase":"baseline"}"#
        );
    }

    #[test]
    fn what_is_no_history_is_refused_by_line() {
        let text = |lines: &[&str]| lines.join("\n");
        let header = serde_json::to_string(&Record::Header(header())).unwrap();
        let newer = header.replace("\"format\":1", "\"format\":9");
        let cases = [
            (String::new(), "line 1"),
            (text(&["{}"]), "line 1"),
            (newer, "format is 9"),
            (text(&[&header, "", "{\"record\":\"operation\"}"]), "line 3"),
            (text(&[&header, "{\"record\":\"dance\"}"]), "line 2"),
            (text(&[&header, &header]), "one header"),
        ];
        for (text, wanted) in cases {
            let error = History::read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        assert!(History::read(endless).unwrap_err().to_string().contains("longer than"), "a line is bounded");
    }

    proptest! {
        #[test]
        fn a_reader_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0..4_000usize, at in 0..4_000usize) {
            let _any = History::read(&bytes[..]);
            let mut lines = Vec::new();
            story().write(&mut lines).unwrap();
            lines.truncate(cut.max(1));
            let place = at % lines.len();
            lines[place] = bytes.first().copied().unwrap_or(b'{');
            let _damaged = History::read(&lines[..]);
        }
    }
}
