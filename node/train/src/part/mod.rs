//! The files of a model: 64 parts with items, one per virtual worker, and a global part.
//!
//! Little-endian throughout. Nothing in them names a cluster, host, job or version number: the same training gives the same hash.
//! Readers check every length and value and never panic; a newer format is refused by its number.
//!
//! ```text
//! items    "DOCM" version=1 kind=0 algorithm 0 | the items, see `table` | what the algorithm keeps of them:
//!          1 (vectors: all but the graph filter)  count x dim f32
//!          2 (graph)   sources u32 | sources x (fingerprint u64, length u32) | each source's (item u32, weight f32)
//!          5 (blend)   length u32 of the graph's part | that part, whole | the part with vectors, whole; both have the same items
//! global   "DOCM" version=1 kind=1 algorithm 0 | postcard of `IalsGlobal`, `GraphGlobal`, `SoftmaxGlobal` or `TowerGlobal`; of a blend its
//!          constants, then the global parts of its two models, whole
//! ```
mod blended;
mod global;
mod items;
mod neighbours;
mod table;

pub use blended::Blended;
pub use global::{BlendGlobal, CATEGORIES_MAX, Category, Global, GraphGlobal, IalsGlobal, SoftmaxGlobal, TowerGlobal};
pub use items::Items;
pub use neighbours::{Neighbour, Neighbours};
pub use table::Row;

const MAGIC: &[u8; 4] = b"DOCM";
const VERSION: u8 = 1;
const KIND_ITEMS: u8 = 0;
const KIND_GLOBAL: u8 = 1;
const ALGORITHM_IALS: u8 = 1;
const ALGORITHM_GRAPH: u8 = 2;
const ALGORITHM_SOFTMAX: u8 = 3;
const ALGORITHM_TOWER: u8 = 4;
const ALGORITHM_BLEND: u8 = 5;
/// Length of what every part begins with.
const HEADER: usize = 8;

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
        /// 1 iALS, 2 graph, 3 sampled softmax, 4 two towers, 5 blend.
        algorithm: u8,
    },
    /// Cut off, or a field contradicts another.
    #[error("model part is damaged: {0}")]
    Damaged(&'static str),
}

fn header(kind: u8, algorithm: u8) -> [u8; HEADER] {
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, kind, algorithm, 0]
}

/// Checks the first eight bytes and gives the algorithm and the rest.
fn open(bytes: &[u8], kind: u8) -> Result<(u8, &[u8]), Error> {
    let (head, rest) = bytes.split_first_chunk::<HEADER>().ok_or(Error::Magic)?;
    if !head.starts_with(MAGIC) {
        return Err(Error::Magic);
    }
    if head[4] != VERSION {
        return Err(Error::Version { found: head[4] });
    }
    if head[5] != kind || head[7] != 0 {
        return Err(Error::Kind { kind: head[5], algorithm: head[6] });
    }
    Ok((head[6], rest))
}

/// The rest of a part of this algorithm.
fn open_as(bytes: &[u8], kind: u8, algorithm: u8) -> Result<&[u8], Error> {
    match open(bytes, kind)? {
        (found, rest) if found == algorithm => Ok(rest),
        (found, _) => Err(Error::Kind { kind, algorithm: found }),
    }
}

/// Adds a part's bytes to what identifies it.
#[must_use]
pub fn describe(bytes: &[u8], slots: Option<(u16, u16)>, rows: u64, node: u64) -> crate::PartInfo {
    crate::PartInfo { slots, blake3: *blake3::hash(bytes).as_bytes(), bytes: bytes.len() as u64, rows, node }
}
