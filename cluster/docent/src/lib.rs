//! The operator's tool and the composition root: `docent up`, `node`, `coordinator`, `import`, `train`, `recommend`, ...
//!
//! The only place that reads flags and the environment, writes to the terminal and starts processes. The commands that talk to a
//! cluster use the public interface `docent.v1` alone: whatever the tool can do, a client can do.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | flags, dispatch, exit codes' last step |
//! | [`failure`] | what a command that fails says, and its exit code |
//! | [`client`] | calls to any node of the cluster, with fail-over |
//! | [`show`] | tables for people, JSON for scripts, progress |
//! | [`target`] | files that are complete or absent |
//! | [`json`] | events, items, profiles and answers as JSON |
//! | [`import`] | readers of every source format, and the pipeline into the cluster |
//! | [`backup`] | backups: their files, creation, restoration |
//! | [`generate`] | the deterministic data generator |
//! | [`local`] | a local cluster of separate processes: `docent up` |
//! | [`report`] | a training job as a page |
//! | [`commands`] | one file a command |

pub mod backup;
pub mod cli;
pub mod client;
pub mod commands;
pub mod failure;
pub mod generate;
pub mod import;
pub mod json;
pub mod local;
pub mod report;
pub mod show;
pub mod target;
