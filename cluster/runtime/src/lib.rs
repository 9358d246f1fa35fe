//! What every process of Docent runs on: supervised tasks, settings, telemetry, and the seams to the outside world.
//!
//! | module | owns |
//! |---|---|
//! | [`clock`] | the only place that reads a clock, and its fake |
//! | [`deadline`] | how long a caller still waits |
//! | [`disk`] | files, and a fake disk that loses what was not synced |
//! | [`net`] | streams between addresses |
//! | [`threads`] | where blocking work is done |
//! | [`platform`] | those four and the storage engines, as one value that a member is started with |
//! | [`entropy`] | ambient randomness: identities, tokens, tie-breaks; never in `apply` or in training |
//! | [`tasks`] | every task of a process: named, counted, ended in order |
//! | [`settings`] | one TOML file per member into one serde tree |
//! | [`telemetry`] | logs and metrics |

pub mod clock;
pub mod deadline;
pub mod disk;
pub mod entropy;
pub mod net;
pub mod platform;
pub mod settings;
pub mod tasks;
pub mod telemetry;
pub mod threads;

pub use clock::{Clock, SystemClock};
pub use deadline::Deadline;
// For the crates that do not know the vocabulary.
pub use docent_types::sabotage;
pub use platform::{Engine, Platform};
pub use tasks::{OnExit, Supervisor};
pub use threads::Threads;
