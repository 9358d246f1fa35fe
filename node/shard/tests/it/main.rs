//! The state machines against naive models, under random commands.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod items;
mod restore;
mod support;
mod users;
