//! One file a command: its flags, its calls, what it prints.

pub mod backup;
pub mod demo;
pub mod evaluate;
pub mod export;
pub mod generate;
pub mod import;
pub mod items;
pub mod member;
pub mod models;
pub mod placement;
pub mod recommend;
pub mod recover;
pub mod report;
pub mod schedule;
pub mod secret;
pub mod status;
pub mod train;
pub mod tune;
pub mod up;
pub mod users;
pub mod verify;
