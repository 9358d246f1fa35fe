//! Search over the items of a shard, filtered: the top k items by inner product, exact or by faiss HNSW, or by the neighbours of a history.
//!
//! Pure: no files, clocks, sockets or threads of its own (faiss is held to one OpenMP thread). The same rows give the same index.
//!
//! | module | what it owns |
//! |---|---|
//! | [`score`] | the one definition of a score (`dot`, its order of additions) and of a valid vector |
//! | [`bitmap`] | which positions a query may return |
//! | [`top`] | the best k, with the tie rule |
//! | [`segment`] | the seam: [`Segment`], an immutable searchable set of rows |
//! | [`exact`] | the exact engine: blocked scan, AVX-512, AVX2 or portable at run time |
//! | `hnsw` | the approximate engine on faiss (feature `faiss`), with a recall floor |
//! | [`settings`] | which engine, and its numbers |
//! | [`items`] | [`ItemIndex`]: segment + overlay + take-downs under item ids; [`NeighbourIndex`]: the same under lists of neighbours |
//! | `conformance` | the suite that every engine passes (tests and feature `testing`) |

pub mod bitmap;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod error;
pub mod exact;
#[cfg(feature = "faiss")]
pub mod hnsw;
mod ids;
pub mod items;
#[cfg(any(test, feature = "testing", feature = "faiss"))]
mod sample;
pub mod score;
pub mod segment;
pub mod settings;
pub mod top;

pub use bitmap::Bitmap;
pub use error::Error;
pub use exact::{Exact, Kernel};
#[cfg(feature = "faiss")]
pub use hnsw::Hnsw;
pub use items::neighbours::{Neighbour, NeighbourIndex};
pub use items::{ItemIndex, Query, ScoredItem};
pub use score::{COMPONENT_MAX, DIM_MAX, dot};
pub use segment::{Probe, Segment};
pub use settings::{EngineChoice, HnswSettings, Settings};
pub use top::{Hit, TopK};
