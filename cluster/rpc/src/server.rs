//! The receiving side: fences, bounds, hands on.

use crate::bulk::BulkServer;
use crate::caller::Chunks;
use crate::handler::Handler;
use crate::identity::Identity;
use crate::socket;
use crate::wire;
use crate::wire::FRAME_BYTES_MAX;
use bytes::Bytes;
use docent_proto::internal::Service;
use docent_proto::transport::internal_server::{Internal, InternalServer};
use docent_proto::transport::{Envelope, RaftFrame, Reply, SnapshotChunk};
use docent_raft::{Host, MessageKind, TransportError};
use docent_runtime::net::Listen;
use docent_runtime::{Deadline, OnExit, Supervisor};
use docent_types::limits::MESSAGE_BYTES_MAX;
use docent_types::{Error, Kind, Result};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Raft frames of one stream that are handled at the same time; more wait in the stream, which holds the sender back.
const FRAMES_IN_FLIGHT: usize = 512;
/// Calls that a member may give up before they were looked at: deadlines and hedges do that all at once in a stall, and h2 closes the
/// connection beyond its own limit of 20.
const RESETS_MAX: usize = 1_000;
/// A connection is asked whether it lives after this silence and cut when it does not answer for as long again: without it the streams
/// of a member that lost power hold their places until the kernel gives up.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Serves the members' interface of one process.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    supervisor: Supervisor,
    identity: Arc<Identity>,
    handlers: BTreeMap<u32, Arc<dyn Handler>>,
    raft: OnceLock<Host>,
}

impl Server {
    /// A server with these handlers.
    pub fn new(
        supervisor: Supervisor,
        identity: Arc<Identity>,
        handlers: Vec<(Service, Arc<dyn Handler>)>,
        raft: Option<Host>,
    ) -> Server {
        let handlers = handlers.into_iter().map(|(service, handler)| (service as u32, handler)).collect();
        let raft = raft.map(OnceLock::from).unwrap_or_default();
        Server { shared: Arc::new(Shared { supervisor, identity, handlers, raft }) }
    }

    /// Serves until the supervisor cancels.
    pub fn serve(self, listener: Box<dyn Listen>) {
        let supervisor = self.shared.supervisor.clone();
        let stop = supervisor.clone();
        let bulk = BulkServer(self.clone());
        let service = InternalServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(FRAME_BYTES_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
            .add_service(service)
            .add_service(bulk);
        supervisor.spawn("internal server", OnExit::Fatal, async move {
            tokio::select! {
                served = server.serve_with_incoming(socket::incoming(listener)) => {
                    served.map_err(|error| Error::new(Kind::Internal, format!("the internal server failed: {error}")))
                }
                // Streams of other members never end by themselves: they are cut, and their owners connect elsewhere.
                () = stop.cancelled() => Ok(()),
            }
        });
    }

    /// Whose call it is, once it may be one.
    pub(crate) fn open(&self, envelope: Envelope) -> Result<(Arc<dyn Handler>, Bytes, Deadline)> {
        let is_coordinator = envelope.service == Service::Coordinator as u32;
        self.shared.identity.fence(&envelope.cluster_id, is_coordinator)?;
        let handler = self.shared.handlers.get(&envelope.service).cloned().ok_or_else(|| {
            let name = Service::from_number(envelope.service).map(|service| format!("{service:?}"));
            let name = name.unwrap_or_else(|| envelope.service.to_string());
            Error::new(Kind::Unsupported, format!("this process does not serve {name}"))
        })?;
        let deadline = wire::deadline(&envelope);
        match deadline.is_over() {
            // Not `DeadlineExceeded`: nothing was done, and the caller may say so.
            true => Err(Error::new(Kind::Unavailable, "the deadline was over on arrival")),
            false => Ok((handler, envelope.body, deadline)),
        }
    }

    fn raft(&self) -> Result<&Host> {
        self.shared.raft.get().ok_or_else(|| Error::new(Kind::Unavailable, "this process hosts no raft groups yet"))
    }

    async fn frame(&self, frame: RaftFrame) -> RaftFrame {
        let id = frame.id;
        let handled = async {
            self.shared.identity.fence(&frame.cluster_id, false).map_err(|error| error.message)?;
            let kind = u8::try_from(frame.kind).ok().and_then(MessageKind::from_wire);
            let kind = kind.ok_or_else(|| format!("unknown raft message kind {}: run a newer docent", frame.kind))?;
            let host = self.raft().map_err(|error| error.message)?;
            host.handle(frame.group, frame.to_replica, kind, frame.body).await.map_err(|error| error.to_string())
        };
        match handled.await {
            Ok(body) => RaftFrame { id, body, ..RaftFrame::default() },
            Err(message) => RaftFrame { id, error: Bytes::from(message), ..RaftFrame::default() },
        }
    }

    /// Handles the frames of one stream, many at a time: a slow group never stands before another.
    async fn frames(
        self,
        mut inbound: Streaming<RaftFrame>,
        replies: mpsc::Sender<Result<RaftFrame, Status>>,
    ) -> Result<()> {
        let permits = Arc::new(Semaphore::new(FRAMES_IN_FLIGHT));
        loop {
            let frame = tokio::select! {
                frame = inbound.message() => frame,
                // A living peer's stream does not end by itself.
                () = self.shared.supervisor.cancelled() => break,
            };
            let Ok(Some(frame)) = frame else { break };
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let (server, replies) = (self.clone(), replies.clone());
            self.shared.supervisor.spawn("raft frame", OnExit::Log, async move {
                let reply = server.frame(frame).await;
                // A sender that is gone has failed its own calls.
                let _gone = replies.send(Ok(reply)).await;
                drop(permit);
                Ok(())
            });
        }
        Ok(())
    }

    async fn receive_snapshot(&self, mut inbound: Streaming<SnapshotChunk>) -> Result<Bytes> {
        let gone =
            |status: Status| Error::new(Kind::Unavailable, format!("the snapshot stream broke: {}", status.message()));
        let first = inbound.message().await.map_err(gone)?;
        let first = first.ok_or_else(|| Error::new(Kind::Invalid, "the snapshot stream is empty"))?;
        self.shared.identity.fence(&first.cluster_id, false)?;
        let chunks = futures::stream::unfold(Some(inbound), |inbound| async move {
            let mut inbound = inbound?;
            let given_up = |message: String| TransportError::Unreachable { node: 0, message };
            match inbound.message().await {
                Ok(Some(chunk)) if chunk.is_last => None,
                Ok(Some(chunk)) => Some((Ok(chunk.data), Some(inbound))),
                Ok(None) => Some((Err(given_up("the sender gave up".to_owned())), None)),
                Err(status) => Some((Err(given_up(status.message().to_owned())), None)),
            }
        });
        let host = self.raft()?;
        let installed = host.handle_snapshot(first.group, first.to_replica, first.header, chunks.boxed()).await;
        installed.map_err(|error| Error::new(Kind::Unavailable, error.to_string()))
    }
}

#[tonic::async_trait]
impl Internal for Server {
    type FetchStream = BoxStream<'static, Result<Reply, Status>>;
    type RaftStream = ReceiverStream<Result<RaftFrame, Status>>;

    async fn call(&self, request: Request<Envelope>) -> Result<Response<Reply>, Status> {
        let handled = async {
            let (handler, body, deadline) = self.open(request.into_inner())?;
            deadline.bound("the call", handler.call(body, deadline)).await
        };
        Ok(Response::new(wire::reply(handled.await)))
    }

    async fn fetch(&self, request: Request<Envelope>) -> Result<Response<Self::FetchStream>, Status> {
        let opened = async {
            let (handler, body, deadline) = self.open(request.into_inner())?;
            deadline.bound("opening the stream", handler.fetch(body, deadline)).await
        };
        let chunks: Chunks = match opened.await {
            Ok(chunks) => chunks,
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        };
        Ok(Response::new(chunks.map(|chunk| Ok(wire::reply(chunk))).into_stream().boxed()))
    }

    async fn raft(&self, request: Request<Streaming<RaftFrame>>) -> Result<Response<Self::RaftStream>, Status> {
        let (sender, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
        let frames = self.clone().frames(request.into_inner(), sender);
        self.shared.supervisor.spawn("raft stream", OnExit::Log, frames);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<Reply>, Status> {
        Ok(Response::new(wire::reply(self.receive_snapshot(request.into_inner()).await)))
    }
}
