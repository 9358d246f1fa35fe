//! What people and scripts see: tables, JSON, progress.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;
use tokio::time::Instant;

/// For whom a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Tables.
    #[default]
    Table,
    /// One JSON document on stdout; everything else on stderr.
    Json,
}

/// Writes a line to stdout. A closed pipe (`docent ... | head`) is nobody's error.
pub fn say(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref());
}

/// Writes a line to stderr: progress, notes, errors.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// Prints a JSON document.
pub fn json(value: &serde_json::Value) {
    say(format!("{value:#}"));
}

/// A table with a header; columns named in `right` are aligned to the right.
pub fn table(header: &[&str], right: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new));
    }
    for (i, name) in header.iter().enumerate() {
        if right.contains(name)
            && let Some(column) = table.column_mut(i)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A number with thousands separated: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `n` things, with the plural's s: `1 line`, `2 lines`.
pub fn plural(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Bytes for people: `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// `yes` or `no`.
pub fn yes_no(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// A time in the form of RFC 3339; the number where it lies outside the calendar.
pub fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| format!("{time:.0}"))
}

/// A progress bar on a terminal; in a log, a line every few seconds.
pub struct Progress {
    bar: ProgressBar,
    what: String,
    said: Instant,
    is_terminal: bool,
}

/// How often a log gets a line.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

impl Progress {
    /// Progress towards `total` units (bytes of a file, events to generate); 0 where it is not known.
    pub fn new(what: &str, total: u64) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total), target);
        let template = match total {
            0 => "{prefix}  {spinner}  {msg}",
            _ => "{prefix}  {bar:24.cyan/dim} {percent:>3}%  {msg}  ETA {eta}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        Progress { bar, what: what.to_owned(), said: Instant::now(), is_terminal }
    }

    /// Moves to `position` units and says `message`.
    pub fn at(&mut self, position: u64, message: String) {
        self.bar.set_position(position);
        if !self.is_terminal && self.said.elapsed() >= LOG_INTERVAL {
            self.said = Instant::now();
            match self.bar.length() {
                Some(total) => note(format!("{}: {}%, {message}", self.what, 100 * position.min(total) / total.max(1))),
                None => note(format!("{}: {message}", self.what)),
            }
        }
        self.bar.set_message(message);
    }

    /// Writes a line without tearing the bar.
    pub fn note(&self, text: impl AsRef<str>) {
        self.bar.suspend(|| note(text));
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        let pairs = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567"), (100_836, "100,836")];
        for (n, text) in pairs {
            assert_eq!(count(n), text);
        }
        assert_eq!((plural(1, "line"), plural(0, "line")), ("1 line".to_owned(), "0 lines".to_owned()));
    }
}
