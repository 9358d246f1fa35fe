//! The file of one shard: a mark, pages `[bytes u32 LE][records]`, and a page of 0 bytes at the end.

use crate::backup::{hex, manifest};
use crate::failure::{Failure, Result};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Begins every file; its last byte is the version.
const MARK: &[u8; 8] = b"docentB\x01";
/// One page: a record may be larger than the 1 MiB that a page is cut at.
const PAGE_BYTES_MAX: u32 = 4 << 20;

/// A file that is being written.
pub struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    pages: u64,
}

/// A file that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its length.
    pub bytes: u64,
    /// Its pages.
    pub pages: u64,
    /// Its hash.
    pub blake3: [u8; 32],
}

impl Writer {
    /// Begins a file of mode 0600; what an earlier attempt left of it goes.
    pub fn create(path: &Path) -> Result<Writer> {
        let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        let file = open.map_err(|error| Failure::io("write", path, &error))?;
        let out = BufWriter::with_capacity(1 << 18, file);
        let mut writer = Writer { path: path.to_owned(), out, hasher: blake3::Hasher::new(), bytes: 0, pages: 0 };
        writer.write(MARK)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|error| Failure::io("write", &self.path, &error))
    }

    /// Writes a page; an empty one is left out.
    pub fn page(&mut self, records: &[u8]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let bytes = u32::try_from(records.len()).ok().filter(|bytes| *bytes <= PAGE_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| Failure::failed(format!("a page of {} bytes is too large", records.len())))?;
        self.write(&bytes.to_le_bytes())?;
        self.pages += 1;
        self.write(records)
    }

    /// Ends the file; it is on the disk when this returns.
    pub fn finish(mut self) -> Result<Written> {
        self.write(&0u32.to_le_bytes())?;
        let io = |error: std::io::Error| Failure::io("write", &self.path, &error);
        self.out.flush().map_err(io)?;
        self.out.get_ref().sync_all().map_err(io)?;
        Ok(Written { bytes: self.bytes, pages: self.pages, blake3: *self.hasher.finalize().as_bytes() })
    }
}

/// Pages of a file, in order.
pub struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    /// Pages read or passed over.
    number: u64,
}

fn damaged(path: &Path, what: &str) -> Failure {
    Failure::failed(format!("{} is not as the manifest says: {what}", path.display()))
        .advise("use another backup; a restore sends nothing before every file is verified")
}

impl Reader {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Reader> {
        let file = File::open(path).map_err(|error| Failure::io("read", path, &error))?;
        let mut reader = Reader { path: path.to_owned(), input: BufReader::with_capacity(1 << 18, file), number: 0 };
        let mut mark = [0; MARK.len()];
        reader.fill(&mut mark)?;
        match mark == *MARK {
            true => Ok(reader),
            false => Err(damaged(path, "it does not begin like a file of a backup that this docent reads")),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged(&self.path, "it is cut short"),
            _ => Failure::io("read", &self.path, &error),
        })
    }

    fn page_bytes(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        self.number += 1;
        match u32::from_le_bytes(bytes) {
            bytes if bytes <= PAGE_BYTES_MAX => Ok(bytes),
            _ => Err(damaged(&self.path, &format!("page {} is too large", self.number))),
        }
    }

    /// Passes over the next page.
    pub fn skip(&mut self) -> Result<()> {
        let bytes = self.page_bytes()?;
        self.input.seek_relative(i64::from(bytes)).map_err(|error| Failure::io("read", &self.path, &error))
    }

    /// The next page; `None` at the end.
    pub fn page(&mut self) -> Result<Option<Vec<u8>>> {
        let bytes = self.page_bytes()?;
        if bytes == 0 {
            return Ok(None);
        }
        let mut records = vec![0; bytes as usize];
        self.fill(&mut records)?;
        Ok(Some(records))
    }
}

/// Compares a file with what the manifest says of it.
pub fn verify(dir: &Path, part: &manifest::Part, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let path = dir.join(&part.file);
    let mut file = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => damaged(&path, "it is missing"),
        _ => Failure::io("read", &path, &error),
    })?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer).map_err(|error| Failure::io("read", &path, &error))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
        progress(n as u64);
    }
    if bytes != part.bytes {
        return Err(damaged(&path, &format!("it has {bytes} bytes, not {}", part.bytes)));
    }
    match hex(hasher.finalize().as_bytes()) == part.blake3 {
        true => Ok(()),
        false => Err(damaged(&path, "its bytes were altered")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::manifest::tests::sample;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn pages_are_read_back_and_an_altered_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users-0.part");
        let mut writer = Writer::create(&path).unwrap();
        for page in [&b"one"[..], b"", b"three"] {
            writer.page(page).unwrap();
        }
        let written = writer.finish().unwrap();
        assert_eq!(written.pages, 2);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut reader = Reader::open(&path).unwrap();
        reader.skip().unwrap();
        assert_eq!((reader.page().unwrap().as_deref(), reader.page().unwrap()), (Some(&b"three"[..]), None));

        let mut part = sample().shards.remove(0);
        (part.bytes, part.blake3) = (written.bytes, hex(&written.blake3));
        let check = || verify(dir.path(), &part, &mut |_| ()).err().map(|failure| failure.to_string());
        assert_eq!(check(), None);
        let whole = std::fs::read(&path).unwrap();
        let mut altered = whole.clone();
        altered[14] ^= 1;
        std::fs::write(&path, altered).unwrap();
        assert!(check().unwrap().contains("users-0.part is not as the manifest says: its bytes were altered"));
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(check().unwrap().contains("bytes, not"));
        let mut cut = Reader::open(&path).unwrap();
        let pages: Vec<_> = std::iter::from_fn(|| cut.page().transpose()).take(3).collect();
        assert!(pages.last().unwrap().as_ref().unwrap_err().to_string().contains("cut short"));
        std::fs::remove_file(&path).unwrap();
        assert!(check().unwrap().contains("it is missing"));
    }
}
