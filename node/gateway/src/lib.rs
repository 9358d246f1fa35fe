//! Any node's query port: events, users and items in, recommendations out, for every user whichever node is asked.
//!
//! | module | owns |
//! |---|---|
//! | [`gateway`] | the handle, admission, the seam to the coordinator |
//! | [`settings`] | its numbers |
//! | [`events`], [`users`], [`items`] | writes and the reads beside them |
//! | [`recommend`] | queries: plan, scatter, merge, fill, hydrate |
//! | [`export`] | everything out, as streams |
//! | [`verify`] | replicas compared by digest |
//! | [`backup`] | whole shards out, and into an empty cluster |
//! | [`recovery`] | shards that lost their majority |
//! | [`admin`] | cluster, models |
//! | [`training`] | jobs, schedules, studies |
//! | `batch` | proposals of a bounded size |
//! | `route` | leaders, replicas, retries, hedges |
//! | `view` | one request's view of the catalog |
//! | [`service`] | the port: gRPC (`grpc`) and HTTP/JSON (`http`) over one router |

pub mod admin;
pub mod backup;
mod batch;
pub mod events;
pub mod export;
pub mod gateway;
mod grpc;
mod http;
mod ids;
pub mod items;
mod known;
pub mod recommend;
pub mod recovery;
mod route;
pub mod service;
pub mod settings;
pub mod training;
pub mod users;
pub mod verify;
mod view;

pub use gateway::{Coordinator, Gateway};
pub use http::RenderMetrics;
pub use service::{serve, service};
pub use settings::GatewaySettings;
