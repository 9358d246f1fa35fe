//! Between the members: what one of them sends to a node goes through here, and what trainers ask arrives twice.
//!
//! A network gives no request twice that it was given once; a sender that never saw the answer does. Here that is the rule: each call or read between trainers
//! is made, answered, and made again, and the sender gets the second answer. Everything else passes as it is. A node whose process is gone
//! looks like one that answers with errors, so a lab with repeaters is not one to kill nodes in.

use anyhow::Result;
use docent_proto::internal::Service;
use docent_proto::transport::internal_client::InternalClient;
use docent_proto::transport::internal_server::{Internal, InternalServer};
use docent_proto::transport::{Envelope, RaftFrame, Reply, SnapshotChunk};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt;

/// Beyond what members send each other at once.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Stands before the nodes of a lab.
#[derive(Debug)]
pub struct Repeater {
    runtime: Runtime,
    repeated: Arc<AtomicU64>,
}

impl Repeater {
    /// One that stands before nobody yet.
    pub(super) fn build() -> Result<Repeater> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Repeater { runtime, repeated: Arc::default() })
    }

    /// Stands before the member that listens at `address`; gives where others reach it from now on.
    pub(super) fn before(&self, address: &str) -> Result<SocketAddr> {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let own = listener.local_addr()?;
        let _in_runtime = self.runtime.enter();
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
        let bulk = BulkBefore { member: channel.clone(), repeated: self.repeated.clone() };
        let member = InternalClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let service = InternalServer::new(Before { member, repeated: self.repeated.clone() })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let server = Server::builder().add_service(service).add_service(bulk);
        let server = server.serve_with_incoming(TcpListenerStream::new(listener));
        // It ends with the runtime.
        self.runtime.spawn(server);
        Ok(own)
    }

    /// Calls that arrived twice.
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }
}

/// Before one member's bulk reads, which are trainers' alone: each is made, read to its end, and made again.
#[derive(Clone)]
struct BulkBefore {
    member: Channel,
    repeated: Arc<AtomicU64>,
}

impl NamedService for BulkBefore {
    const NAME: &'static str = "docent.internal.Bulk";
}

impl tower::Service<http::Request<Body>> for BulkBefore {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let before = self.clone();
        async move { Ok(before.twice(request).await.unwrap_or_else(Status::into_http)) }.boxed()
    }
}

impl BulkBefore {
    async fn twice(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        let asked = request.into_body().collect().await?.to_bytes();
        let ask = async || {
            let request = http::Request::post(&path).body(Body::new(Full::new(asked.clone())));
            let request = request.map_err(|error| Status::internal(error.to_string()))?;
            let answer = self.member.clone().oneshot(request).await;
            answer.map_err(|error| Status::from_error(error.into()))
        };
        ask().await?.into_body().collect().await?;
        self.repeated.fetch_add(1, Ordering::Relaxed);
        ask().await
    }
}

/// Before one member.
struct Before {
    member: InternalClient<Channel>,
    repeated: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl Internal for Before {
    type FetchStream = BoxStream<'static, Result<Reply, Status>>;
    type RaftStream = BoxStream<'static, Result<RaftFrame, Status>>;

    async fn call(&self, request: Request<Envelope>) -> Result<Response<Reply>, Status> {
        let (envelope, mut member) = (request.into_inner(), self.member.clone());
        if envelope.service == Service::Train as u32 {
            member.call(envelope.clone()).await?;
            self.repeated.fetch_add(1, Ordering::Relaxed);
        }
        member.call(envelope).await
    }

    async fn fetch(&self, request: Request<Envelope>) -> Result<Response<Self::FetchStream>, Status> {
        let replies = self.member.clone().fetch(request.into_inner()).await?;
        Ok(Response::new(replies.into_inner().boxed()))
    }

    async fn raft(&self, request: Request<Streaming<RaftFrame>>) -> Result<Response<Self::RaftStream>, Status> {
        let replies = self.member.clone().raft(unbroken(request.into_inner())).await?;
        Ok(Response::new(replies.into_inner().boxed()))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<Reply>, Status> {
        self.member.clone().snapshot(unbroken(request.into_inner())).await
    }
}

/// What comes until the stream ends or breaks.
fn unbroken<T: Send + 'static>(stream: Streaming<T>) -> impl Stream<Item = T> + Send {
    stream.take_while(|message| futures::future::ready(message.is_ok())).filter_map(|message| async { message.ok() })
}
