//! A state as chunks: `[version u8][number u32 LE][is_last u8]`, records `[key length u16 LE][value length u32 LE][key][value]`
//! in key order, `[crc32c u32 LE]` of all before it.
//!
//! Numbers and the last mark are there because a stream that lost, repeated or swapped a chunk still has good checksums.

use crate::error::{Error, Result};
use crate::view::ShardView;
use bytes::Bytes;
use docent_shard::Batch;
use docent_shard::key::{Kind, parts};
use docent_shard::record::{UserRecord, encode};
use docent_types::sabotage::{Bug, is};
use std::ops::ControlFlow;

/// The layout described above.
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 6;
const RECORD_BYTES: usize = 6;
const CHECKSUM_BYTES: usize = 4;

/// A consistent state of a shard, read in chunks. Holds back the space of what is overwritten meanwhile.
pub struct Snapshot {
    applied: Option<Bytes>,
    view: ShardView,
    /// The last key that is out.
    last_key: Vec<u8>,
    is_over: bool,
    number: u32,
}

impl Snapshot {
    pub(crate) fn of(view: ShardView) -> Result<Snapshot> {
        Ok(Snapshot { applied: view.applied()?, view, last_key: Vec::new(), is_over: false, number: 0 })
    }

    /// The mark committed with this state; `None` where nothing was ever committed.
    pub fn applied(&self) -> Option<&Bytes> {
        self.applied.as_ref()
    }

    /// The next chunk, of about `bytes_max` bytes (at most one record more); `None` after the last. Never empty.
    pub fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>> {
        if self.is_over {
            return Ok(None);
        }
        let mut chunk = vec![VERSION];
        chunk.extend_from_slice(&self.number.to_le_bytes());
        chunk.push(0);
        let bytes_max = bytes_max.max(HEADER_BYTES + CHECKSUM_BYTES + 1);
        let mut has_more = false;
        let (after, last_key) = (self.last_key.clone(), &mut self.last_key);
        self.view.records(&after, &mut |key, value| {
            if chunk.len() + CHECKSUM_BYTES >= bytes_max {
                has_more = true;
                return ControlFlow::Break(());
            }
            if is_forgotten(key, value) {
                return ControlFlow::Continue(());
            }
            // Keys have at most a few kilobytes and values at most a few megabytes, by the limits of docent-types.
            chunk.extend_from_slice(&(key.len() as u16).to_le_bytes());
            chunk.extend_from_slice(&(value.len() as u32).to_le_bytes());
            chunk.extend_from_slice(key);
            chunk.extend_from_slice(value);
            key.clone_into(last_key);
            ControlFlow::Continue(())
        })?;
        if !has_more {
            chunk[HEADER_BYTES - 1] = 1;
            self.is_over = true;
        }
        self.number += 1;
        let checksum = crc32c::crc32c(&chunk);
        chunk.extend_from_slice(&checksum.to_le_bytes());
        Ok(Some(Bytes::from(chunk)))
    }

    /// All chunks of about `bytes_max` bytes.
    pub fn chunks(mut self, bytes_max: usize) -> impl Iterator<Item = Result<Bytes>> + Send {
        std::iter::from_fn(move || self.next_chunk(bytes_max).transpose())
    }
}

/// Whether a planted bug leaves the record out.
fn is_forgotten(key: &[u8], value: &[u8]) -> bool {
    let is_of = |kind: Kind| parts(key).is_some_and(|parts| parts.kind == kind);
    is(Bug::SnapshotSkipsBlocks) && is_of(Kind::Blocks)
        || is(Bug::DedupeLostInSnapshot) && is_of(Kind::User) && value == encode(&UserRecord::default())
}

/// Reads chunks back.
#[derive(Default)]
pub(crate) struct Unpacker {
    number: u32,
    is_over: bool,
    last_key: Vec<u8>,
}

impl Unpacker {
    /// The records of the next chunk.
    pub(crate) fn unpack(&mut self, chunk: &[u8]) -> Result<Batch> {
        let (&version, _) = chunk.split_first().ok_or_else(|| corrupt(self.number, "it is empty"))?;
        if version > VERSION {
            let what = format!("snapshot chunk {}", self.number);
            return Err(Error::TooNew { what, found: version.into(), known: VERSION.into() });
        }
        let body_end = chunk.len().checked_sub(CHECKSUM_BYTES).filter(|&end| end >= HEADER_BYTES);
        let (body, checksum) = chunk.split_at(body_end.ok_or_else(|| corrupt(self.number, "it is too short"))?);
        if checksum != crc32c::crc32c(body).to_le_bytes() {
            return Err(corrupt(self.number, "its checksum does not match"));
        }
        let (header, mut rest) = body.split_at(HEADER_BYTES);
        if header[1..5] != self.number.to_le_bytes() || self.is_over {
            return Err(corrupt(self.number, "another chunk came in its place"));
        }
        self.is_over = header[5] != 0;
        let mut batch = Batch::default();
        while !rest.is_empty() {
            let (key, value, after) = record(rest).ok_or_else(|| corrupt(self.number, "a record is cut short"))?;
            if key <= self.last_key.as_slice() {
                return Err(corrupt(self.number, "its keys are out of order"));
            }
            key.clone_into(&mut self.last_key);
            batch.put(key.to_vec(), Bytes::copy_from_slice(value));
            rest = after;
        }
        self.number += 1;
        Ok(batch)
    }

    /// Checks that the last chunk has come.
    pub(crate) fn finish(self) -> Result<()> {
        match self.is_over {
            true => Ok(()),
            false => Err(corrupt(self.number, "the snapshot ends before it")),
        }
    }
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (lengths, rest) = bytes.split_at_checked(RECORD_BYTES)?;
    let key_bytes = usize::from(u16::from_le_bytes(lengths[..2].try_into().ok()?));
    let value_bytes = u32::from_le_bytes(lengths[2..].try_into().ok()?) as usize;
    let (key, rest) = rest.split_at_checked(key_bytes)?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    Some((key, value, rest))
}

fn corrupt(number: u32, message: &str) -> Error {
    Error::Corrupt { what: format!("snapshot chunk {number}"), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(number: u32, is_last: u8, body: &[u8]) -> Vec<u8> {
        let mut chunk = [&[VERSION][..], &number.to_le_bytes(), &[is_last], body].concat();
        chunk.extend_from_slice(&crc32c::crc32c(&chunk).to_le_bytes());
        chunk
    }

    #[test]
    fn a_wrong_chunk_is_refused_by_number() {
        let a = chunk(0, 0, b"\x01\0\x02\0\0\0kvv");
        let mut unpacker = Unpacker::default();
        assert_eq!(unpacker.unpack(&a).unwrap().len(), 1);
        let cases: [(Vec<u8>, &str); 6] = [
            (a.clone(), "chunk 1 is corrupt: another chunk"),
            (chunk(1, 0, b"\x01\0\0\0\0\0k"), "chunk 1 is corrupt: its keys are out of order"),
            (chunk(1, 0, b"\x01\0\xff\xff\xff\xffz"), "chunk 1 is corrupt: a record is cut short"),
            (Vec::new(), "chunk 1 is corrupt: it is empty"),
            (vec![VERSION; 9], "chunk 1 is corrupt: it is too short"),
            (vec![VERSION + 1; 20], "chunk 1 has format 2"),
        ];
        for (bytes, message) in cases {
            let error = unpacker.unpack(&bytes).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(unpacker.finish().is_err(), "no last chunk");
    }

    proptest! {
        #[test]
        fn any_bytes_unpack_or_are_refused(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Unpacker::default().unpack(&body);
            let _ = Unpacker::default().unpack(&chunk(0, 1, &body));
        }

        #[test]
        fn a_flipped_bit_is_noticed(at in 0usize..20, bit in 0u8..8) {
            let mut bytes = chunk(0, 1, b"\x01\0\x02\0\0\0kvv");
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Unpacker::default().unpack(&bytes).is_err());
        }
    }
}
