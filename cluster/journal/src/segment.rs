//! Segment files: their names and headers, the room kept ahead of the writer, checked reads.
//!
//! A segment starts with a header of 64 bytes: mark (8), format version (1), zeros (7), segment number (8), end of the
//! segment before it (8), zeros (28), crc32c of bytes 0..60 (4). The header is synced before the first record is written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use docent_runtime::disk::{Disk, DiskFile};

use crate::record::{self, FORMAT, Found, Head, word32, word64};
use crate::written::Loc;
use crate::{Error, Options};

/// Where the first record of a segment starts.
pub(crate) const HEADER_BYTES: u64 = 64;
/// A larger file is not ours: a segment may be set to half of this, and one batch passes that by little.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;

const MARK: [u8; 8] = *b"DOCENTJL";
const SUFFIX: &str = ".journal";
/// Zeros written at once ahead of the records, so that most syncs find their blocks allocated (measured: one-entry
/// commits take 127 us on pre-zeroed blocks, 199 us when the file grows) and a full disk is noticed early.
const ROOM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// An open segment file.
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// Sound: where the segment before this one ended.
    Sound { previous_end: u64 },
    /// Made by a newer version.
    TooNew(u8),
    /// Torn or damaged.
    Bad,
}

/// The file name of a segment.
pub(crate) fn name(id: u64) -> String {
    format!("{id:016}{SUFFIX}")
}

/// The number in a segment's file name.
pub(crate) fn id_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 16).then(|| digits.parse().ok())?
}

fn encode_header(id: u64, previous_end: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MARK);
    header[8] = FORMAT;
    header[16..24].copy_from_slice(&id.to_le_bytes());
    header[24..32].copy_from_slice(&previous_end.to_le_bytes());
    let sum = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Reads a header; `bytes` is the start of the file.
pub(crate) fn decode_header(bytes: &[u8], id: u64) -> Header {
    let Some(raw) = bytes.get(..HEADER_BYTES as usize) else { return Header::Bad };
    if raw[..8] != MARK {
        return Header::Bad;
    }
    // The version is looked at before the checksum: a newer format may put that elsewhere.
    if raw[8] > FORMAT {
        return Header::TooNew(raw[8]);
    }
    if word32(raw, 60) != crc32c::crc32c(&raw[..60]) || word64(raw, 16) != id {
        return Header::Bad;
    }
    Header::Sound { previous_end: word64(raw, 24) }
}

impl Segment {
    /// Opens an existing segment.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, id: u64) -> Result<Self, Error> {
        let path = dir.join(name(id));
        let file = disk.open(&path).map_err(|error| Error::io("open", &path, error))?;
        Ok(Self { id, path, file })
    }

    /// Reads and checks one record.
    ///
    /// # Errors
    /// [`Error::Io`], or `None` inside `Ok` when what lies there is not the sound record that was written.
    pub(crate) fn read(&self, loc: Loc) -> Result<Option<(Head, Bytes)>, Error> {
        let mut bytes = vec![0; loc.size];
        let got = self.read_at(&mut bytes, loc.place.offset)?;
        bytes.truncate(got);
        match record::decode(&bytes, loc.place) {
            Found::Record { head, payload: Some(payload), .. } => {
                let len = payload.len();
                Ok(Some((head, Bytes::from(bytes).slice(record::HEAD_BYTES..record::HEAD_BYTES + len))))
            }
            _ => Ok(None),
        }
    }

    /// The whole file.
    pub(crate) fn read_all(&self) -> Result<Vec<u8>, Error> {
        let size = self.file.size().map_err(|error| Error::io("measure", &self.path, error))?;
        if size > FILE_BYTES_MAX {
            let too_large = io::Error::new(io::ErrorKind::InvalidData, "larger than any segment can be");
            return Err(Error::io("take as a journal segment", &self.path, too_large));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let got = self.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize, Error> {
        self.file.read_at(bytes, offset).map_err(|error| Error::io("read", &self.path, error))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file.write_at(bytes, offset).map_err(|error| Error::io("write", &self.path, error))
    }

    pub(crate) fn sync(&self) -> Result<std::time::Duration, Error> {
        self.file.sync().map_err(|error| Error::io("sync", &self.path, error))
    }

    /// Overwrites with zeros.
    pub(crate) fn zero(&self, from: u64, to: u64) -> Result<(), Error> {
        let zeros = vec![0; usize::try_from(to.saturating_sub(from).min(1 << 20)).unwrap_or(0)];
        let mut at = from;
        while at < to {
            let n = (to - at).min(zeros.len() as u64);
            self.write_at(&zeros[..usize::try_from(n).unwrap_or(0)], at)?;
            at += n;
        }
        Ok(())
    }
}

/// The end of the last segment, where records are appended.
pub(crate) struct Tail {
    pub(crate) segment: Arc<Segment>,
    /// Where the next record goes.
    pub(crate) end: u64,
    /// Up to here the file has been filled with zeros.
    pub(crate) room_end: u64,
}

fn room_bytes(options: &Options) -> u64 {
    (options.segment_bytes_max / 8).clamp(1024, ROOM_BYTES_MAX)
}

impl Tail {
    /// Creates segment `id`; returns when its name and header are durable.
    ///
    /// Room comes before the header: if the disk is full there is no header, so the file before it stays the last one
    /// and may grow on.
    pub(crate) fn create(disk: &dyn Disk, options: &Options, id: u64, previous_end: u64) -> Result<Self, Error> {
        let path = options.dir.join(name(id));
        let file = disk.create(&path).map_err(|error| Error::io("create", &path, error))?;
        let segment = Segment { id, path, file };
        let room_end = HEADER_BYTES + room_bytes(options);
        if let Err(error) = segment.zero(0, room_end) {
            disk.remove(&segment.path).map_err(|error| Error::io("remove", &segment.path, error))?;
            return Err(error);
        }
        segment.sync()?;
        segment.write_at(&encode_header(id, previous_end), 0)?;
        segment.sync()?;
        disk.sync_dir(&options.dir).map_err(|error| Error::io("sync", &options.dir, error))?;
        Ok(Self { segment: Arc::new(segment), end: HEADER_BYTES, room_end })
    }

    /// Keeps room ahead of `coming` bytes. `Ok(false)`: the disk is full, only the room there is remains.
    pub(crate) fn make_room(&mut self, options: &Options, coming: u64) -> Result<bool, Error> {
        let room = room_bytes(options);
        if self.end + coming + room / 4 <= self.room_end {
            return Ok(true);
        }
        let room_end = self.end + coming + room;
        match self.segment.zero(self.room_end, room_end) {
            Ok(()) => self.room_end = room_end,
            Err(Error::Full { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Writes records at the end. Not durable before a sync.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.segment.write_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        self.room_end = self.room_end.max(self.end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_and_order_alike() {
        assert_eq!(id_of(&name(12)), Some(12));
        assert!(name(9) < name(10));
        for strange in ["lock", "12.journal", "00000000000000ab.journal", "0000000000000012.journal.tmp"] {
            assert_eq!(id_of(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_header_tells_sound_from_new_from_bad() {
        let good = encode_header(4, 99);
        assert_eq!(decode_header(&good, 4), Header::Sound { previous_end: 99 });
        assert_eq!(decode_header(&good, 5), Header::Bad);
        assert_eq!(decode_header(&good[..40], 4), Header::Bad);
        let mut newer = good;
        newer[8] = FORMAT + 1;
        assert_eq!(decode_header(&newer, 4), Header::TooNew(FORMAT + 1));
        let mut damaged = good;
        damaged[25] ^= 1;
        assert_eq!(decode_header(&damaged, 4), Header::Bad);
    }
}
