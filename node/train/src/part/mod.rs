//! The files of a model: 64 parts with item rows, one per virtual worker, and a global part.
//!
//! Little-endian throughout. Nothing in them names a cluster, host, job or version number: the same training gives the same hash.
//! Readers check every length and value and never panic; a newer format is refused by its number.
//!
//! ```text
//! items    "DOCM" version=1 kind=0 algorithm=1 0 | dim u16 | slot_first u16 | slot_end u16 | 0 u16 | count u32 | id_bytes u32
//!          | count x (slot u16, id length u16, positives u32) | ids | zeros to a multiple of 64 | count x dim f32
//! global   "DOCM" version=1 kind=1 algorithm=1 0 | postcard of `Global`
//! ```
mod global;
mod items;

pub use global::{CATEGORIES_MAX, Category, Global};
pub use items::{Items, Row};

const MAGIC: &[u8; 4] = b"DOCM";
const VERSION: u8 = 1;
const KIND_ITEMS: u8 = 0;
const KIND_GLOBAL: u8 = 1;
const ALGORITHM_IALS: u8 = 1;

/// Why bytes are not a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a model part at all.
    #[error("not a docent model part")]
    Magic,
    /// Written by a newer program.
    #[error("model part has format {found}, this program reads up to {VERSION}; upgrade this node")]
    Version {
        /// Its format.
        found: u8,
    },
    /// An algorithm that this program does not know, or another kind of part than asked for.
    #[error("model part of kind {kind}, algorithm {algorithm} is not what was expected")]
    Kind {
        /// 0 items, 1 global.
        kind: u8,
        /// 1 iALS.
        algorithm: u8,
    },
    /// Cut off, or a field contradicts another.
    #[error("model part is damaged: {0}")]
    Damaged(&'static str),
}

fn header(kind: u8) -> [u8; 8] {
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, kind, ALGORITHM_IALS, 0]
}

/// Checks the first eight bytes and gives the rest.
fn open(bytes: &[u8], kind: u8) -> Result<&[u8], Error> {
    let (head, rest) = bytes.split_first_chunk::<8>().ok_or(Error::Magic)?;
    if !head.starts_with(MAGIC) {
        return Err(Error::Magic);
    }
    if head[4] != VERSION {
        return Err(Error::Version { found: head[4] });
    }
    if head[5] != kind || head[6] != ALGORITHM_IALS || head[7] != 0 {
        return Err(Error::Kind { kind: head[5], algorithm: head[6] });
    }
    Ok(rest)
}

/// Adds a part's bytes to what identifies it.
#[must_use]
pub fn describe(bytes: &[u8], slots: Option<(u16, u16)>, rows: u64, node: u64) -> crate::PartInfo {
    crate::PartInfo { slots, blake3: *blake3::hash(bytes).as_bytes(), bytes: bytes.len() as u64, rows, node }
}
