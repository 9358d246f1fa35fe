//! Opening a source: its digest, its size, and formats that are refused by name rather than line by line.

use crate::failure::{Failure, Result};
use crate::import::lines::Lines;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A regular, non-empty, plain-text file.
#[derive(Clone, Debug)]
pub struct Input {
    path: PathBuf,
    name: String,
    bytes: u64,
    modified_ms: i64,
    digest: [u8; 32],
}

/// First bytes of files that people import by mistake.
const REFUSED: [(&[u8], &str, &str); 6] = [
    (&[0x1f, 0x8b], "compressed with gzip", "gunzip it first"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd", "unzstd it first"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save it as CSV"),
    (b"PAR1", "a parquet file", "write it as CSV or JSONL first"),
    (&[0xff, 0xfe], "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8"),
    (&[0xfe, 0xff], "UTF-16 text", "convert it first: iconv -f UTF-16 -t UTF-8"),
];

impl Input {
    /// Reads the file once for its digest. Its digest and a line make the id of the event on that line.
    pub fn open(path: &Path) -> Result<Input> {
        let io = |error: std::io::Error| Failure::io("read", path, &error);
        let metadata = std::fs::metadata(path).map_err(io)?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("{} is a directory, not a file", path.display())));
        }
        if !metadata.is_file() {
            return Err(Failure::usage(format!("{} is not a regular file", path.display()))
                .advise("an import reads its file twice, first for the ids of its events: write the data to a file"));
        }
        let mut file = File::open(path).map_err(io)?;
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(4).read_to_end(&mut start).map_err(io)?;
        for (bytes, what, advice) in REFUSED {
            if start.starts_with(bytes) {
                return Err(Failure::failed(format!("{} is {what}", path.display())).advise(advice));
            }
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&start);
        hasher.update_reader(file).map_err(io)?;
        let bytes = hasher.count();
        if bytes == 0 {
            return Err(Failure::failed(format!("{} is empty", path.display())));
        }
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Input {
            path: path.to_owned(),
            name: path.display().to_string(),
            bytes,
            modified_ms: modified.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0)),
            digest: *hasher.finalize().as_bytes(),
        })
    }

    /// Its lines from the start.
    pub fn lines(&self) -> Result<Lines> {
        let file = File::open(&self.path).map_err(|error| Failure::io("read", &self.path, &error))?;
        Ok(Lines::new(Box::new(BufReader::with_capacity(1 << 18, file))))
    }

    /// The path as the user wrote it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When it was last written: the time of events that carry none, the same at every import of the file.
    pub fn modified_ms(&self) -> i64 {
        self.modified_ms
    }

    /// The id of the event at `line` (and `column`, where a line has several): 64 bits of the digest and the place, at most 58 bytes.
    pub fn event_id(&self, line: u64, column: Option<u64>) -> String {
        let digest = u64::from_be_bytes(self.digest[..8].try_into().expect("8 bytes of 32"));
        match column {
            None => format!("{digest:016x}.{line}"),
            Some(column) => format!("{digest:016x}.{line}.{column}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8]) -> Result<Input> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, bytes).unwrap();
        Input::open(&path)
    }

    #[test]
    fn a_file_that_cannot_be_read_as_text_says_what_it_is() {
        for (bytes, message) in [
            (&b""[..], "is empty"),
            (&[0x1f, 0x8b, 8, 0], "gzip"),
            (b"PK\x03\x04xx", "zip archive"),
            (&[0xff, 0xfe, b'a', 0], "UTF-16"),
        ] {
            let failure = open(bytes).unwrap_err();
            assert!(failure.to_string().contains(message), "{failure}");
        }
        assert!(Input::open(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("/nowhere/at/all"));
        assert!(Input::open(Path::new("/tmp")).unwrap_err().to_string().contains("directory"));
    }

    #[test]
    fn an_event_id_depends_on_the_bytes_and_the_place_alone() {
        let (a, again, b) = (open(b"u,i\n").unwrap(), open(b"u,i\n").unwrap(), open(b"u,j\n").unwrap());
        assert_eq!(a.event_id(2, None), again.event_id(2, None));
        assert_ne!(a.event_id(2, None), b.event_id(2, None));
        assert_ne!(a.event_id(1, Some(23)), a.event_id(12, Some(3)));
        assert!(a.event_id(u64::MAX, Some(u64::MAX)).len() <= docent_types::limits::EVENT_ID_BYTES_MAX);
    }
}
