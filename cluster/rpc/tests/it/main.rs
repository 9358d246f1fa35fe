//! Bulk reads over real sockets.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bytes::Bytes;
use docent_proto::internal::Service;
use docent_rpc::caller::{Bulk, Chunks};
use docent_rpc::{Caller, Handler, Identity, Peers, Server};
use docent_runtime::net::{Net, Tcp};
use docent_runtime::{Deadline, Supervisor};
use docent_types::{ClusterId, Error, Kind, NodeId, Result};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(30);
const SERVER: NodeId = NodeId(7);

/// Serves what the request names, and counts the chunks that it made of what is held.
struct Store {
    made: watch::Sender<usize>,
}

/// Chunk `at`, unlike its neighbours.
fn chunk(at: usize) -> Bytes {
    vec![at as u8; CHUNK_BYTES].into()
}

impl Handler for Store {
    fn read(&self, body: Bytes, _: Deadline) -> BoxFuture<'static, Result<Bulk>> {
        let (made, breaks, held) = (self.made.clone(), &body[..] == b"breaks", &body[..] == b"held");
        let chunks = stream::iter(0..CHUNKS).map(move |at| {
            made.send_modify(|made| *made += usize::from(held));
            if breaks && at == 3 { Err(Error::new(Kind::Unavailable, "gone")) } else { Ok(chunk(at)) }
        });
        let answer = match &body[..] {
            b"nothing" => Ok(Bulk { head: Bytes::from_static(b"empty"), chunks: stream::empty().boxed() }),
            b"refused" => Err(Error::new(Kind::NotFound, "there is no such blob")),
            body => Ok(Bulk { head: Bytes::copy_from_slice(body), chunks: chunks.boxed() }),
        };
        futures::future::ready(answer).boxed()
    }
}

/// A server, and a peer of the given cluster that knows where it is.
async fn serve(of: ClusterId) -> (Supervisor, Peers, watch::Receiver<usize>) {
    let (made, seen) = watch::channel(0);
    let supervisor = Supervisor::new();
    let listener = Tcp.listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let identity = Identity::default();
    identity.set_cluster(ClusterId(1)).unwrap();
    let handlers: Vec<(Service, Arc<dyn Handler>)> = vec![(Service::Train, Arc::new(Store { made }))];
    Server::new(supervisor.clone(), Arc::new(identity), handlers, None).serve(listener);
    let identity = Identity::default();
    identity.set_cluster(of).unwrap();
    identity.learn(SERVER, &address);
    (supervisor, Peers::new(Arc::new(identity), Arc::new(Tcp)), seen)
}

async fn read(peers: &Peers, service: Service, what: &'static [u8]) -> Result<Bulk> {
    peers.read(SERVER, service, Bytes::from_static(what), Deadline::after(PATIENCE)).await
}

#[tokio::test]
async fn bytes_come_behind_their_answer_in_order() {
    let (supervisor, peers, _) = serve(ClusterId(1)).await;
    let Bulk { head, chunks } = read(&peers, Service::Train, b"all").await.unwrap();
    assert_eq!(&head[..], b"all");
    let got = chunks.try_fold(Vec::new(), |mut all, chunk| {
        all.extend_from_slice(&chunk);
        futures::future::ok(all)
    });
    let got = got.await.unwrap();
    assert_eq!(got.len(), CHUNKS * CHUNK_BYTES);
    assert!(got.chunks(CHUNK_BYTES).enumerate().all(|(at, got)| got == chunk(at)));
    let Bulk { head, chunks } = read(&peers, Service::Train, b"nothing").await.unwrap();
    assert_eq!((&head[..], chunks.count().await), (&b"empty"[..], 0));
    assert!(supervisor.shutdown(PATIENCE).await);
}

#[tokio::test]
async fn what_is_refused_says_so_and_a_stream_that_is_given_up_ends_with_an_error() {
    let (_supervisor, peers, _) = serve(ClusterId(1)).await;
    let kind = async |service, what| read(&peers, service, what).await.err().map(|error| error.kind);
    assert_eq!(kind(Service::Train, b"refused").await, Some(Kind::NotFound));
    assert_eq!(kind(Service::Parts, b"all").await, Some(Kind::Unsupported), "nobody serves that");
    // What was sent before may be lost with it, even the answer.
    let all = async || read(&peers, Service::Train, b"breaks").await?.chunks.try_collect::<Vec<_>>().await;
    assert_eq!(all().await.unwrap_err().kind, Kind::Unknown);
    let (_supervisor, stranger, _) = serve(ClusterId(2)).await;
    assert!(read(&stranger, Service::Train, b"all").await.is_err(), "of another cluster");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_its_sender_back() {
    /// A window, and what both sides have in their buffers.
    const AHEAD_MAX: usize = 4 << 20;
    let (_supervisor, peers, made) = serve(ClusterId(1)).await;
    let held = read(&peers, Service::Train, b"held").await.unwrap().chunks;
    let bytes = async |chunks: Chunks| {
        let sum = chunks.try_fold(0, |sum, chunk| futures::future::ok(sum + chunk.len()));
        tokio::time::timeout(PATIENCE, sum).await.unwrap().unwrap()
    };
    // Another stream of the same connection comes whole, and has as long as that takes to draw this one along.
    let other = read(&peers, Service::Train, b"all").await.unwrap().chunks;
    assert_eq!(bytes(other).await, CHUNKS * CHUNK_BYTES);
    let ahead = *made.borrow() * CHUNK_BYTES;
    assert!(ahead <= AHEAD_MAX, "{ahead} bytes ahead of a reader that took none");
    assert_eq!(bytes(held).await, CHUNKS * CHUNK_BYTES);
    assert_eq!(*made.borrow(), CHUNKS);
}
