//! The store over real files: the view seam, restarts, snapshots, crashes in the middle of an installation.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod install;
mod state;
mod support;
