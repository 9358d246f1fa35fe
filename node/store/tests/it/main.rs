//! The store over real files: the view seam, restarts, snapshots, crashes in the middle of an installation.

mod install;
mod state;
mod support;
