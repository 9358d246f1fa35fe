//! The one query port: gRPC and HTTP/JSON over one router.

use crate::gateway::Gateway;
use crate::grpc::Grpc;
use crate::http::{self, RenderMetrics};
use docent_proto::v1::docent_server::DocentServer;
use docent_runtime::net::{Listen, Socket};
use docent_runtime::{OnExit, Supervisor};
use docent_types::limits::REQUEST_BYTES_MAX;
use docent_types::{Error, Kind};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::service::Routes;

/// An answer may be larger than any request: an export's page holds what a shard sent.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Pause after a connection could not be taken for want of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Routes of both protocols. `render_metrics` gives the text of `/metrics`.
pub fn service(gateway: Gateway, render_metrics: RenderMetrics) -> axum::Router {
    let grpc = DocentServer::new(Grpc(gateway.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(ANSWER_BYTES_MAX);
    Routes::from(http::router(gateway, render_metrics)).add_service(grpc).into_axum_router()
}

/// Serves both protocols on `listener` until the supervisor cancels. Requests at work are answered first.
pub fn serve(gateway: Gateway, render_metrics: RenderMetrics, listener: Box<dyn Listen>, supervisor: &Supervisor) {
    let (routes, stop) = (service(gateway, render_metrics), supervisor.clone());
    supervisor.spawn("query server", OnExit::Fatal, async move {
        let shutdown = async move { stop.cancelled().await };
        let served = axum::serve(Listener(listener), routes).with_graceful_shutdown(shutdown).await;
        served.map_err(|error| Error::new(Kind::Internal, format!("the query server failed: {error}")))
    });
}

/// A listener of whatever network, as axum takes it.
struct Listener(Box<dyn Listen>);

impl axum::serve::Listener for Listener {
    type Io = Box<dyn Socket>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_connection(error.kind()) => {}
                Err(error) => {
                    tracing::debug!(%error, "a connection was not taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await; // what lacks comes back when others end
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// Whether the client alone is the reason.
fn is_of_connection(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(kind, ConnectionAborted | ConnectionRefused | ConnectionReset)
}
