//! The coordinator.

pub mod catalog;
pub mod health;
pub mod plan;
pub mod secret;
