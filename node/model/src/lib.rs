//! Recommendation algorithms as pure functions: iALS, the graph filter, sampled softmax, two towers, their blend, fold-in with reasons, popularity, ranking metrics.
//!
//! Nothing here reads a clock, a file, a socket or ambient randomness, and no result depends on the number of threads,
//! on the instruction set or on which host computed which part: see [`kernel`] (one order of every f32 sum) and
//! [`tree`] (one order of every f64 sum across hosts).
//!
//! | module | holds |
//! |---|---|
//! | [`settings`] | the numbers of an iALS model and their ranges |
//! | [`kernel`] | tiles, dot products, the Cholesky solve and conjugate gradients, dispatched at run time |
//! | [`rows`] | half a pass: refine or solve many rows against a fixed table |
//! | [`gramian`], [`tree`] | Gramians and sums in f64, reduced over a fixed binary tree |
//! | [`graph`] | the item-item graph filter: counting, weights, scores |
//! | [`softmax`] | sampled softmax over bags of history: the core of the parameter server |
//! | [`tower`] | two towers over the same: hidden layers for items, their features and users |
//! | [`blend`] | one ranking from the scores of several models, and its weights |
//! | [`init`] | first rows from (seed, id) |
//! | [`fold_in`] | one user's vector at read time, and what contributed to a score |
//! | [`rank`], [`metrics`] | full ranking and Recall, NDCG, HR, MRR, MAP |
//! | [`evaluation`] | what a measurement says beside the means: intervals, strata, use of the catalogue |
//! | [`confidence`], [`popularity`], [`mean`] | positives' weights, the baseline, category means |

pub mod adjacency;
mod arithmetic;
pub mod blend;
pub mod confidence;
pub mod evaluation;
pub mod fold_in;
pub mod gramian;
pub mod graph;
pub mod init;
pub mod kernel;
pub mod mean;
pub mod metrics;
pub mod parallel;
pub mod popularity;
pub mod rank;
pub mod rows;
pub mod settings;
pub mod softmax;
pub mod tower;
pub mod tree;

pub use adjacency::Adjacency;
pub use fold_in::FoldIn;
pub use kernel::Kernel;
pub use settings::Settings;

/// What can be wrong with the input of an algorithm.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A setting is outside its range.
    #[error("setting {name} is out of range: {reason}")]
    Setting {
        /// The setting's key.
        name: &'static str,
        /// The range it should lie in.
        reason: &'static str,
    },
    /// Two inputs that belong together have different sizes.
    #[error("shape of {what}: expected {expected} values, found {found}")]
    Shape {
        /// Which input.
        what: &'static str,
        /// Its length as the other inputs imply it.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A value is NaN or infinite, or a weight is not positive.
    #[error("{what} holds a value that is not usable: weights must be finite and above 0, rows finite")]
    Value {
        /// Which input.
        what: &'static str,
    },
    /// The computation was stopped by its caller's flag.
    #[error("stopped by its caller")]
    Stopped,
    /// A reduction tree lacks leaves or has some twice.
    #[error("reduction over {leaves} leaves is incomplete or has overlapping parts")]
    Tree {
        /// Leaves the tree should have.
        leaves: u16,
    },
}

/// Checks that `found` values are `expected`.
pub(crate) fn shape(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Shape { what, expected, found }) }
}
