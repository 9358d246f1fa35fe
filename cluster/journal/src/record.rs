//! The bytes of a record, format 1. Pure.
//!
//! A record is a head of 48 bytes, the payload, and zeros up to a multiple of 8. Integers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | format version |
//! | 1 | kind |
//! | 2..4 | mark, tells a record from zeros and text |
//! | 4..8 | payload length |
//! | 8..16 | group |
//! | 16..24 | sequence: 1, 2, 3, ... within the group, so that a lost record shows |
//! | 24..32 | index (what it means depends on the kind) |
//! | 32..40 | term |
//! | 40..44 | crc32c of the payload |
//! | 44..48 | crc32c of bytes 0..44 and of the place (segment, offset) |
//!
//! The place is in the checksum so that bytes a client chose (a payload that looks like a record) or a block that
//! came back at the wrong place are never taken for a record. Head and payload have a checksum each: when only the
//! payload is damaged, the head still says whose it was.

/// Newest format this code writes and reads.
pub(crate) const FORMAT: u8 = 1;
/// Bytes of a record's head.
pub(crate) const HEAD_BYTES: usize = 48;
/// Records start at multiples of this.
pub(crate) const ALIGN_BYTES: usize = 8;
/// Largest payload: twice the largest request (8 MiB), so that framing never makes a legal one too large.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

const MARK: [u8; 2] = *b"dJ";

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A log entry at `index`, `term`.
    Entry = 1,
    /// The group's vote; opaque.
    Vote = 2,
    /// The group's committed log id; opaque.
    Committed = 3,
    /// Entries from `index` on are gone.
    Truncate = 4,
    /// Entries up to and including `index` are gone; the payload is the owner's marker.
    Purge = 5,
    /// The group is gone.
    Remove = 6,
    /// Everything before offset `index` of this segment had been synced when this was written.
    SyncFloor = 7,
    /// A copy of a live entry, out of index order, made so that its old segment can go.
    Moved = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Entry,
            Self::Vote,
            Self::Committed,
            Self::Truncate,
            Self::Purge,
            Self::Remove,
            Self::SyncFloor,
            Self::Moved,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// A record's head without lengths and checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) group: u64,
    pub(crate) seq: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// Where a record starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// What lies at a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A record of `size` bytes, padding included. `payload` is `None` when its checksum fails or it is cut short.
    Record { head: Head, payload: Option<&'a [u8]>, size: usize },
    /// A sound head of a newer format.
    TooNew(u8),
    /// Zeros, torn or damaged bytes.
    Nothing,
}

/// Bytes a record with this payload takes.
pub(crate) fn size_of(payload_bytes: usize) -> usize {
    (HEAD_BYTES + payload_bytes).next_multiple_of(ALIGN_BYTES)
}

/// Appends a record to `buffer`; its first byte will lie at `place`. Returns its size.
///
/// The caller has checked that the payload is at most [`PAYLOAD_BYTES_MAX`].
pub(crate) fn encode(buffer: &mut Vec<u8>, place: Place, head: &Head, payload: &[u8]) -> usize {
    let start = buffer.len();
    buffer.extend_from_slice(&[FORMAT, head.kind as u8]);
    buffer.extend_from_slice(&MARK);
    // At most 16 MiB, checked by the caller.
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    for word in [head.group, head.seq, head.index, head.term] {
        buffer.extend_from_slice(&word.to_le_bytes());
    }
    buffer.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let sum = head_sum(&buffer[start..], place);
    buffer.extend_from_slice(&sum.to_le_bytes());
    buffer.extend_from_slice(payload);
    buffer.resize(start + size_of(payload.len()), 0);
    buffer.len() - start
}

/// Looks at the bytes that start at `place` and reach to the end of what is there.
pub(crate) fn decode(bytes: &[u8], place: Place) -> Found<'_> {
    let Some(raw) = bytes.get(..HEAD_BYTES) else { return Found::Nothing };
    if raw[2..4] != MARK || word32(raw, 44) != head_sum(&raw[..44], place) {
        return Found::Nothing;
    }
    if raw[0] > FORMAT {
        return Found::TooNew(raw[0]);
    }
    let len = word32(raw, 4) as usize;
    let Some(kind) = Kind::from_byte(raw[1]).filter(|_| raw[0] == FORMAT && len <= PAYLOAD_BYTES_MAX) else {
        return Found::Nothing;
    };
    let head =
        Head { kind, group: word64(raw, 8), seq: word64(raw, 16), index: word64(raw, 24), term: word64(raw, 32) };
    // Never written, and no arithmetic on what comes from disk may overflow.
    if head.index == u64::MAX || head.seq == u64::MAX {
        return Found::Nothing;
    }
    let payload = bytes.get(HEAD_BYTES..HEAD_BYTES + len).filter(|payload| crc32c::crc32c(payload) == word32(raw, 40));
    Found::Record { head, payload, size: size_of(len) }
}

/// Quick look for the mark, so that a search for the next record does not compute a checksum at every step.
pub(crate) fn may_start(bytes: &[u8]) -> bool {
    bytes.get(2..4) == Some(&MARK)
}

fn head_sum(head: &[u8], place: Place) -> u32 {
    let sum = crc32c::crc32c(head);
    let sum = crc32c::crc32c_append(sum, &place.segment.to_le_bytes());
    crc32c::crc32c_append(sum, &place.offset.to_le_bytes())
}

pub(crate) fn word32(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

pub(crate) fn word64(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: Place = Place { segment: 7, offset: 4096 };
    /// Changes only with the format version.
    const FROZEN: &str = "0102644a01000000030000000000000009000000000000000c000000000000000200000000000000b4e04405761b7e997600000000000000";

    fn head(kind: Kind) -> Head {
        Head { kind, group: 3, seq: 9, index: 12, term: 2 }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(group: u64, seq in 0..u64::MAX, index in 0..u64::MAX, term: u64, kind in 1u8..=8,
                                         payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let head = Head { kind: Kind::from_byte(kind).unwrap(), group, seq, index, term };
            let mut buffer = vec![0xAA; 5];
            let size = encode(&mut buffer, PLACE, &head, &payload);
            prop_assert_eq!(size % ALIGN_BYTES, 0);
            prop_assert_eq!(decode(&buffer[5..], PLACE), Found::Record { head, payload: Some(&payload), size });
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            decode(&bytes, PLACE);
        }

        #[test]
        fn one_flipped_bit_is_never_taken_for_the_record(at in 0usize..48 + 40, bit in 0u8..8) {
            let payload = [5; 40];
            let mut buffer = Vec::new();
            encode(&mut buffer, PLACE, &head(Kind::Entry), &payload);
            buffer[at] ^= 1 << bit;
            match decode(&buffer, PLACE) {
                Found::Nothing => prop_assert!(at < HEAD_BYTES),
                Found::Record { payload, .. } => prop_assert!(at >= HEAD_BYTES && payload.is_none()),
                Found::TooNew(_) => prop_assert!(false, "a damaged head was trusted"),
            }
        }
    }

    #[test]
    fn a_record_at_another_place_is_nothing() {
        let mut buffer = Vec::new();
        encode(&mut buffer, PLACE, &head(Kind::Entry), b"a payload");
        assert_eq!(decode(&buffer, Place { offset: 4104, ..PLACE }), Found::Nothing);
        assert_eq!(decode(&buffer, Place { segment: 8, ..PLACE }), Found::Nothing);
    }

    #[test]
    fn format_1_keeps_its_bytes() {
        let mut buffer = Vec::new();
        encode(&mut buffer, PLACE, &head(Kind::Vote), b"v");
        let hex: String = buffer.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, FROZEN);
    }
}
