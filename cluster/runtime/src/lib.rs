//! What every process of Docent runs on: supervised tasks, settings, telemetry, and the seams to the outside world.
//!
//! | module | owns |
//! |---|---|
//! | [`clock`] | the only place that reads a clock, and its fake |
//! | [`deadline`] | how long a caller still waits |
//! | [`disk`] | files, and a fake disk that loses what was not synced |
//! | [`entropy`] | ambient randomness: identities, tokens, tie-breaks; never in `apply` or in training |
//! | [`tasks`] | every task of a process: named, counted, ended in order |
//! | [`settings`] | one TOML file per member into one serde tree |
//! | [`telemetry`] | logs and metrics |

pub mod clock;
pub mod deadline;
pub mod disk;
pub mod entropy;
pub mod settings;
pub mod tasks;
pub mod telemetry;

pub use clock::{Clock, SystemClock};
pub use deadline::Deadline;
pub use tasks::{OnExit, Supervisor};
