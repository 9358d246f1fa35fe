//! Logs of members as they grow: every complaint is a record of the run.

use docent_trial::Member;
use docent_trial::history::{Level, Observed};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A member's log on this machine.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    /// Up to where it was read.
    read: u64,
    /// The beginning of a line whose end was not there.
    rest: Vec<u8>,
}

impl Log {
    /// From its beginning on.
    pub fn new(path: PathBuf) -> Log {
        Log { path, read: 0, rest: Vec::new() }
    }

    /// From its end on: what stood there before is nothing of ours.
    pub fn at_end(path: PathBuf) -> Log {
        let read = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        Log { path, read, rest: Vec::new() }
    }

    /// Whole lines that came since the last call; none where it cannot be read.
    pub fn new_lines(&mut self) -> Vec<String> {
        let Ok(mut file) = File::open(&self.path) else { return Vec::new() };
        if file.metadata().is_ok_and(|meta| meta.len() < self.read) {
            (self.read, self.rest) = (0, Vec::new()); // it was rotated
        }
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
            return Vec::new();
        }
        self.read += bytes.len() as u64;
        self.rest.extend(bytes);
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The last lines of a log; nothing where it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A record of a line that complains; `None` for the others.
pub fn observed(member: Member, line: String) -> Option<Observed> {
    let level = if line.contains("panicked at") {
        Level::Panic
    } else if line.contains(" ERROR ") {
        Level::Error
    } else if line.contains(" WARN ") {
        Level::Warn
    } else {
        return None;
    };
    Some(Observed::Log { member, level, line })
}

/// Whether a coordinator says that it leads now.
pub fn tells_leader_of_coordinators(line: &str) -> bool {
    line.contains("this coordinator leads")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_read_once_and_whole_also_after_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        let mut log = Log::new(path.clone());
        assert_eq!(log.new_lines(), ["one"]);
        file.write_all(b"o\n").unwrap();
        assert_eq!((log.new_lines(), log.new_lines()), (vec!["two".to_owned()], vec![]));
        std::fs::write(&path, "3\n").unwrap();
        assert_eq!((log.new_lines(), tail(log.path(), 1)), (vec!["3".to_owned()], "3".to_owned()));
    }

    #[test]
    fn a_complaint_is_a_record_and_other_lines_are_not() {
        let of = |line: &str| observed(Member::node(1), line.to_owned());
        assert!(matches!(of("t  WARN x: y"), Some(Observed::Log { level: Level::Warn, .. })));
        assert!(matches!(of("thread 'a' panicked at b"), Some(Observed::Log { level: Level::Panic, .. })));
        assert!(of("t  INFO x: y").is_none());
    }
}
