//! Rejected lines and the summary of an import.

use crate::failure::{Failure, Result};
use crate::import::row::Reason;
use crate::show;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rejected lines printed; all go to `--rejects FILE`.
const PRINTED_MAX: u64 = 20;

/// What became of the records of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Durable, counted once.
    pub accepted: u64,
    /// There before.
    pub duplicate: u64,
    /// Not kept because the user does not allow it.
    pub not_collected: u64,
    /// Refused, here or by the cluster.
    pub rejected: u64,
}

impl Counts {
    /// Records seen.
    pub fn sum(&self) -> u64 {
        self.accepted + self.duplicate + self.not_collected + self.rejected
    }
}

/// One source's part of the summary.
#[derive(Clone, Debug)]
pub struct Part {
    /// The file.
    pub name: String,
    /// `events`, `items` or `users`.
    pub what: &'static str,
    /// What became of its records.
    pub counts: Counts,
    /// How long it took.
    pub elapsed: Duration,
}

impl Part {
    fn per_second(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let n = self.counts.sum() as f64;
        n / self.elapsed.as_secs_f64().max(1e-3)
    }

    fn json(&self) -> Value {
        let c = &self.counts;
        json!({
            "source": self.name, "what": self.what, "accepted": c.accepted, "duplicate": c.duplicate,
            "not_collected": c.not_collected, "rejected": c.rejected, "seconds": self.elapsed.as_secs_f64(),
            "per_second": self.per_second(),
        })
    }
}

/// Collects what an import has to say.
pub struct Report {
    max_errors: u64,
    rejects: Option<(PathBuf, BufWriter<File>)>,
    rejected: u64,
    parts: Vec<Part>,
}

impl Report {
    /// `max_errors`: rejected lines that do not spoil the exit code; `rejects`: a file for all of them.
    pub fn new(max_errors: u64, rejects: Option<&Path>) -> Result<Report> {
        let open = |path: &Path| match File::create(path) {
            Ok(file) => Ok((path.to_owned(), BufWriter::new(file))),
            Err(error) => Err(Failure::io("write", path, &error)),
        };
        Ok(Report { max_errors, rejects: rejects.map(open).transpose()?, rejected: 0, parts: Vec::new() })
    }

    /// Takes a rejected line; gives the text to print, as long as there are few.
    pub fn reject(&mut self, source: &str, line: u64, reason: &Reason) -> Result<Option<String>> {
        self.rejected += 1;
        let text = format!("{source}:{line}: {reason}");
        if let Some((path, file)) = &mut self.rejects {
            writeln!(file, "{text}").map_err(|error| Failure::io("write", path, &error))?;
        }
        Ok(match self.rejected {
            1..=PRINTED_MAX => Some(text),
            n if n == PRINTED_MAX + 1 => Some(match &self.rejects {
                Some((path, _)) => format!("... more rejected lines are in {}", path.display()),
                None => "... more rejected lines; --rejects FILE writes all of them".to_owned(),
            }),
            _ => None,
        })
    }

    /// Takes a finished source.
    pub fn part(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// The finished sources.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Prints the summary; fails above `--max-errors`.
    pub fn finish(mut self, output: show::Output) -> Result<()> {
        if let Some((path, file)) = &mut self.rejects {
            file.flush().map_err(|error| Failure::io("write", path, &error))?;
        }
        match output {
            show::Output::Json => {
                let parts: Vec<Value> = self.parts.iter().map(Part::json).collect();
                show::json(&json!({ "sources": parts, "rejected": self.rejected }));
            }
            show::Output::Table => show::say(self.table().to_string()),
        }
        if self.rejected > self.max_errors {
            let allowed = format!("--max-errors allows {}", show::count(self.max_errors));
            let message = format!("{} rejected; {allowed}", show::plural(self.rejected, "line"));
            return Err(Failure::rejected(message)
                .advise("everything else was imported: correct the lines and import again, nothing is added twice"));
        }
        Ok(())
    }

    fn table(&self) -> comfy_table::Table {
        let header = ["source", "what", "accepted", "duplicate", "not collected", "rejected", "seconds", "per second"];
        let rows = self.parts.iter().map(|part| {
            let c = &part.counts;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
            let rate = part.per_second() as u64;
            vec![
                part.name.clone(),
                part.what.to_owned(),
                show::count(c.accepted),
                show::count(c.duplicate),
                show::count(c.not_collected),
                show::count(c.rejected),
                format!("{:.1}", part.elapsed.as_secs_f64()),
                show::count(rate),
            ]
        });
        show::table(&header, &header[2..], rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn every_rejected_line_is_written_few_are_printed_and_many_spoil_the_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejects");
        let mut report = Report::new(99, Some(&path)).unwrap();
        let reason = Reason::of("value", "must be a finite number");
        let printed: Vec<String> =
            (1..=100).filter_map(|line| report.reject("f.csv", line, &reason).unwrap()).collect();
        assert_eq!(printed.len(), 21);
        assert_eq!(printed[0], "f.csv:1: value: must be a finite number");
        let failure = report.finish(show::Output::Json).unwrap_err();
        assert_eq!(failure.exit, Exit::Rejected);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 100);
        let mut report = Report::new(1, None).unwrap();
        report.reject("f", 1, &reason).unwrap();
        assert!(report.finish(show::Output::Json).is_ok());
    }
}
