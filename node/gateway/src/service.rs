//! The one query port: gRPC and HTTP/JSON over one router.

use crate::gateway::Gateway;
use crate::grpc::Grpc;
use crate::http::{self, RenderMetrics};
use docent_proto::v1::docent_server::DocentServer;
use docent_runtime::{OnExit, Supervisor};
use docent_types::limits::REQUEST_BYTES_MAX;
use docent_types::{Error, Kind};
use tokio::net::TcpListener;
use tonic::service::Routes;

/// An answer may be larger than any request: an export's page holds what a shard sent.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Routes of both protocols. `render_metrics` gives the text of `/metrics`.
pub fn service(gateway: Gateway, render_metrics: RenderMetrics) -> axum::Router {
    let grpc = DocentServer::new(Grpc(gateway.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    Routes::from(http::router(gateway, render_metrics)).add_service(grpc).into_axum_router()
}

/// Serves both protocols on `listener` until the supervisor cancels. Requests at work are answered first.
pub fn serve(gateway: Gateway, render_metrics: RenderMetrics, listener: TcpListener, supervisor: &Supervisor) {
    let (routes, stop) = (service(gateway, render_metrics), supervisor.clone());
    // Without this p99 of a small answer is 44 ms.
    let listener = axum::serve::ListenerExt::tap_io(listener, |socket| drop(socket.set_nodelay(true)));
    supervisor.spawn("query server", OnExit::Fatal, async move {
        let shutdown = async move { stop.cancelled().await };
        let served = axum::serve(listener, routes).with_graceful_shutdown(shutdown).await;
        served.map_err(|error| Error::new(Kind::Internal, format!("the query server failed: {error}")))
    });
}
