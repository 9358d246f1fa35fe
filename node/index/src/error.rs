//! What building or searching an index can refuse, one enum for the crate.

use crate::score::{COMPONENT_MAX, DIM_MAX};

/// A refusal. Nothing is half applied when one is returned: the index is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("dimension {dim} is outside 1..={DIM_MAX}")]
    Dim { dim: usize },
    #[error("vector has {found} components where the index has {expected}")]
    VectorLength { expected: usize, found: usize },
    /// NaN, an infinity, or so large that a score could overflow.
    #[error(
        "vector component {component} is {value}; finite values of at most {COMPONENT_MAX:e} in magnitude are allowed"
    )]
    Component { component: usize, value: f32 },
    /// The source says what is wrong with the item's vector.
    #[error("item {id:?} cannot be indexed")]
    Item { id: String, source: Box<Error> },
    #[error("the weight of source {fingerprint:016x} for an item cannot be indexed: {reason}")]
    Neighbour { fingerprint: u64, reason: &'static str },
    #[error("item id has {bytes} bytes, outside 1..={}", crate::ids::ID_BYTES_MAX)]
    Id { bytes: usize },
    #[error("item {id:?} is given twice; a segment holds one row per item")]
    DuplicateId { id: String },
    #[error("{rows} rows ({id_bytes} id bytes) are too many for one segment; use more shards")]
    TooManyRows { rows: usize, id_bytes: usize },
    #[error("filter covers {found} positions where the segment has {expected}")]
    FilterLength { expected: usize, found: usize },
    #[error("overlay already holds {max} items (overlay_items_max); rebuild the segment")]
    OverlayFull { max: usize },
    #[error("setting {name} is {value}, outside {range}")]
    Setting { name: &'static str, value: f64, range: &'static str },
    #[error("this processor has no {kernel}; use another kernel")]
    KernelMissing { kernel: &'static str },
    #[error("engine {engine} is not in this build; build with feature \"faiss\" or choose \"exact\"")]
    EngineMissing { engine: &'static str },
    #[error(
        "approximate index has recall@10 {measured:.3}, below its floor {floor:.3}; raise m or ef_search, or use \"exact\""
    )]
    RecallBelowFloor { measured: f64, floor: f64 },
    #[error("faiss failed in {call}: {message}")]
    Faiss { call: &'static str, message: String },
}
