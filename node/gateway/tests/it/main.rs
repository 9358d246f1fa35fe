//! The gateway against a fake cluster: routing, partial answers, outcomes of events, and both protocols through the router.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod events;
mod export;
mod grpc;
mod http;
mod items;
mod queries;
mod routing;
mod verify;
mod world;
