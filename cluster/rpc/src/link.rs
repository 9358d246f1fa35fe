//! The multiplexed raft stream, client side: all groups of a node pair share one stream a lane, and urgent frames (votes, heartbeats)
//! have a lane of their own so that they never queue behind log entries.

use crate::peers::{Class, Peers, client};
use bytes::Bytes;
use docent_proto::transport::{RaftFrame, Reply, SnapshotChunk};
use docent_raft::{Member, MessageKind, Transport, TransportError};
use docent_runtime::{OnExit, Supervisor};
use docent_types::NodeId;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

/// Frames that may wait for one member's stream; beyond, calls fail at once and raft tries again.
const QUEUE_FRAMES: usize = 4_096;
/// Pause after a failed connection, so that a dead member costs little.
const RECONNECT: Duration = Duration::from_millis(100);

/// Carries raft's messages; see `docent_raft::Transport`.
#[derive(Clone)]
pub struct RaftTransport {
    peers: Peers,
    supervisor: Supervisor,
    links: Arc<Mutex<Links>>,
}

/// By member and lane (urgent or not).
type Links = BTreeMap<(u64, bool), Arc<Link>>;

/// One lane to one member.
struct Link {
    node: u64,
    next: AtomicU64,
    queue: mpsc::Sender<RaftFrame>,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Result<Bytes, TransportError>>>>,
}

impl RaftTransport {
    /// A transport over `peers`.
    pub fn new(peers: Peers, supervisor: Supervisor) -> RaftTransport {
        RaftTransport { peers, supervisor, links: Arc::default() }
    }

    fn link(&self, target: &Member, urgent: bool) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry((target.node, urgent)).or_insert_with(|| {
            let (queue, frames) = mpsc::channel(QUEUE_FRAMES);
            let link = Link { node: target.node, next: AtomicU64::new(0), queue, waiting: Mutex::default() };
            let link = Arc::new(link);
            let run = run(self.peers.clone(), self.supervisor.clone(), link.clone(), target.addr.clone(), frames);
            self.supervisor.spawn("raft link", OnExit::Fatal, run);
            link
        });
        link.clone()
    }
}

impl Link {
    fn unreachable(&self, message: impl Into<String>) -> TransportError {
        TransportError::Unreachable { node: self.node, message: message.into() }
    }

    fn resolve(&self, id: u64, result: Result<Bytes, TransportError>) {
        let waiter = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(waiter) = waiter {
            // A caller that no longer waits has dropped its end.
            let _late = waiter.send(result);
        }
    }

    /// Fails everything that waits: the stream they were on is gone.
    fn fail_all(&self, frames: &mut mpsc::Receiver<RaftFrame>, message: &str) {
        while frames.try_recv().is_ok() {}
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for waiter in waiting.into_values() {
            let _late = waiter.send(Err(self.unreachable(message)));
        }
    }
}

/// Removes the waiter of a call that ended without an answer.
struct Waiting {
    link: Arc<Link>,
    id: u64,
    done: AtomicBool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done.load(Ordering::Relaxed) {
            self.link.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        }
    }
}

/// Connects when there is something to send, and again after each failure.
async fn run(
    peers: Peers,
    supervisor: Supervisor,
    link: Arc<Link>,
    addr: String,
    mut frames: mpsc::Receiver<RaftFrame>,
) -> docent_types::Result<()> {
    loop {
        let first = tokio::select! {
            first = frames.recv() => first,
            () = supervisor.cancelled() => None,
        };
        let Some(first) = first else { return Ok(()) };
        let broken = tokio::select! {
            broken = stream(&peers, &link, &addr, first, &mut frames) => broken,
            () = supervisor.cancelled() => return Ok(()),
        };
        tracing::debug!(node = link.node, reason = broken, "raft stream ended");
        link.fail_all(&mut frames, &broken);
        metrics::counter!("docent_rpc_raft_stream_failures_total").increment(1);
        tokio::time::sleep(RECONNECT).await; // a pause between attempts, not a wait for an event
    }
}

/// One stream until it breaks; says why.
async fn stream(
    peers: &Peers,
    link: &Link,
    addr: &str,
    first: RaftFrame,
    frames: &mut mpsc::Receiver<RaftFrame>,
) -> String {
    let (sender, outbound) = mpsc::channel(256);
    let open = async {
        let channel =
            peers.channel_to(NodeId(link.node), Some(addr), Class::Raft).map_err(|error| error.to_string())?;
        client(channel).raft(ReceiverStream::new(outbound)).await.map_err(|status| status.message().to_owned())
    };
    let mut inbound = match open.await {
        Ok(response) => response.into_inner(),
        Err(message) => return message,
    };
    let send = async {
        let mut frame = first;
        loop {
            if sender.send(frame).await.is_err() {
                return "the stream was closed".to_owned();
            }
            match frames.recv().await {
                Some(next) => frame = next,
                None => return "this process is shutting down".to_owned(),
            }
        }
    };
    let receive = async {
        loop {
            match inbound.message().await {
                Ok(Some(reply)) if reply.error.is_empty() => link.resolve(reply.id, Ok(reply.body)),
                Ok(Some(reply)) => {
                    let message = String::from_utf8_lossy(&reply.error).into_owned();
                    link.resolve(reply.id, Err(TransportError::Refused { node: link.node, message }));
                }
                Ok(None) => return "the other side closed the stream".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    };
    tokio::select! {
        reason = send => reason,
        reason = receive => reason,
    }
}

/// Sends the stream. It goes through a channel because the compiler cannot prove tonic's future `Send` over a boxed stream (rust#102211).
async fn upload(channel: Channel, mut stream: BoxStream<'static, SnapshotChunk>) -> Result<Reply, Status> {
    let (sender, receiver) = mpsc::channel(2);
    let feed = async move {
        while let Some(chunk) = stream.next().await {
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    };
    let mut client = client(channel);
    let (reply, ()) = tokio::join!(client.snapshot(ReceiverStream::new(receiver)), feed);
    reply.map(tonic::Response::into_inner)
}

/// The chunks on the wire. An error of the source ends the stream before its last chunk: the receiver sees that it was given up.
fn snapshot_chunks(
    first: SnapshotChunk,
    chunks: BoxStream<'static, Result<Bytes, TransportError>>,
) -> BoxStream<'static, SnapshotChunk> {
    let last = SnapshotChunk { is_last: true, ..SnapshotChunk::default() };
    let data = chunks
        .map(|chunk| chunk.ok().map(|data| SnapshotChunk { data, ..SnapshotChunk::default() }))
        .chain(futures::stream::once(async { Some(last) }))
        .scan((), |(), chunk| futures::future::ready(chunk));
    futures::stream::once(async { first }).chain(data).boxed()
}

impl Transport for RaftTransport {
    fn call(
        &self,
        target: &Member,
        group: u64,
        kind: MessageKind,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let link = self.link(target, kind.is_urgent());
        let cluster_id = self.peers.identity().cluster_bytes();
        let to_replica = target.replica;
        async move {
            let id = link.next.fetch_add(1, Ordering::Relaxed);
            let (sender, receiver) = oneshot::channel();
            link.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
            let waiting = Waiting { link: link.clone(), id, done: AtomicBool::new(false) };
            let kind = u32::from(kind.to_wire());
            let frame = RaftFrame { id, group, to_replica, kind, body, error: Bytes::new(), cluster_id };
            link.queue.try_send(frame).map_err(|_| link.unreachable("its queue is full"))?;
            match tokio::time::timeout(deadline, receiver).await {
                Ok(Ok(result)) => {
                    waiting.done.store(true, Ordering::Relaxed);
                    result
                }
                Ok(Err(_)) => Err(link.unreachable("the stream ended")),
                Err(_) => Err(TransportError::TimedOut { node: link.node }),
            }
        }
        .boxed()
    }

    fn send_snapshot(
        &self,
        target: &Member,
        group: u64,
        header: Bytes,
        chunks: BoxStream<'static, Result<Bytes, TransportError>>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let peers = self.peers.clone();
        let (node, to_replica, addr) = (target.node, target.replica, target.addr.clone());
        let stream = snapshot_chunks(
            SnapshotChunk {
                cluster_id: peers.identity().cluster_bytes(),
                group,
                to_replica,
                header,
                ..SnapshotChunk::default()
            },
            chunks,
        );
        async move {
            let channel = match peers.channel_to(NodeId(node), Some(&addr), Class::Bulk) {
                Ok(channel) => channel,
                Err(error) => return Err(TransportError::Unreachable { node, message: error.message }),
            };
            match tokio::time::timeout(deadline, upload(channel, stream)).await {
                Ok(Ok(reply)) => {
                    crate::wire::result(reply).map_err(|error| TransportError::Refused { node, message: error.message })
                }
                Ok(Err(status)) => Err(TransportError::Unreachable { node, message: status.message().to_owned() }),
                Err(_) => Err(TransportError::TimedOut { node }),
            }
        }
        .boxed()
    }
}
