//! A node: hosts replicas, answers clients, trains its share.
//!
//! | module | owns |
//! |---|---|
//! | [`settings`] | the node's TOML tree |
//! | [`start`] | composition and shutdown |
//! | [`identity`] | who this node is, on disk |
//! | [`membership`] | join, catalog watch, heartbeat |
//! | `replicas` | opens and destroys the replicas that the catalog places here |
//! | `steward` | makes a led group what the catalog says |
//! | [`shards`] | the hosted replicas |
//! | [`machine`] | a shard as raft's state machine |
//! | [`serving`] | what replicas keep in memory |
//! | [`service`] | requests of gateways to shards |
//! | [`personal`] | answers about users |
//! | [`rows`] | item rows from anywhere |
//! | [`export`] | exports of a shard |
//! | [`backup`] | a shard's state out, and what it is while one goes in |
//! | `disk` | what a node does about a disk that is full or damaged |
//! | [`digest`] | digests of replicas, compared once in a while |
//! | `ready` | when the next node of a rolling restart may be stopped |
//! | [`counts`] | item counts on their way to item shards |
//! | [`parts`] | model parts on disk and between nodes |
//! | [`staging`] | model versions on their way to serving |
//! | `sabotage` | known bugs of the node that take more than a line |
//! | [`training`] | cut, input, worker, driver |

pub mod backup;
pub mod counts;
pub mod digest;
mod disk;
pub mod export;
pub mod identity;
pub mod machine;
pub mod membership;
pub mod parts;
pub mod personal;
mod ready;
mod replicas;
pub mod rows;
mod sabotage;
pub mod service;
pub mod serving;
pub mod settings;
pub mod shards;
pub mod staging;
pub mod start;
mod steward;
pub mod training;

pub use settings::Settings;
pub use start::Node;
