//! The trainer's messages and streams over the members' calls.

use bytes::Bytes;
use docent_proto::internal::Service;
use docent_rpc::caller::Bulk;
use docent_rpc::{Caller, Handler};
use docent_runtime::Deadline;
use docent_train::{Error, Peers, ReadRequest, Reading, TrainRequest, TrainResponse, Worker, packed};
use docent_types::{NodeId, codec};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use std::time::Duration;

/// Reaches other hosts' workers.
pub struct TrainPeers(pub Arc<dyn Caller>);

impl Peers for TrainPeers {
    fn call(&self, node: u64, request: TrainRequest, within: Duration) -> BoxFuture<'_, Result<TrainResponse, Error>> {
        async move {
            let peer = |error: docent_types::Error| Error::Peer { node, reason: error.message };
            let bytes = self.0.call(NodeId(node), Service::Train, codec::encode(&request), Deadline::after(within));
            codec::decode("a worker's answer", &bytes.await.map_err(peer)?).map_err(peer)?
        }
        .boxed()
    }

    fn read(&self, node: u64, request: ReadRequest, within: Duration) -> BoxFuture<'_, Result<Reading, Error>> {
        async move {
            let peer = move |error: docent_types::Error| Error::Peer { node, reason: error.message };
            let bulk = self.0.read(NodeId(node), Service::Train, codec::encode(&request), Deadline::after(within));
            let Bulk { head, chunks } = bulk.await.map_err(peer)?;
            let bytes: Result<u64, Error> = codec::decode("a worker's answer", &head).map_err(peer)?;
            let pages = stream::unfold(chunks, move |mut chunks| async move {
                let chunk = Deadline::after(within).bound("a page of a stream", chunks.try_next()).await;
                Some((chunk.transpose()?.map_err(peer), chunks))
            });
            Ok(Reading { bytes: bytes?, pages: pages.boxed() })
        }
        .boxed()
    }
}

/// Serves this node's worker to others.
pub struct TrainService(pub Arc<Worker>);

impl Handler for TrainService {
    fn call(&self, body: Bytes, _deadline: Deadline) -> BoxFuture<'static, docent_types::Result<Bytes>> {
        let worker = self.0.clone();
        async move {
            let request: TrainRequest = packed::within(&body, |body| codec::decode("a request to a worker", body))?;
            Ok(codec::encode(&worker.handle(request).await))
        }
        .boxed()
    }

    fn read(&self, body: Bytes, _deadline: Deadline) -> BoxFuture<'static, docent_types::Result<Bulk>> {
        let worker = self.0.clone();
        async move {
            let request: ReadRequest = codec::decode("a request for bytes", &body)?;
            let (bytes, chunks) = match worker.read(request).await {
                Ok(Reading { bytes, pages }) => (Ok(bytes), pages.map_err(given_up).boxed()),
                Err(error) => (Err(error), stream::empty().boxed()),
            };
            Ok(Bulk { head: codec::encode(&bytes), chunks })
        }
        .boxed()
    }
}

/// Ends a stream. What it is, the reader is told when it asks for the rest.
fn given_up(error: Error) -> docent_types::Error {
    docent_types::Error::new(docent_types::Kind::Unavailable, error.to_string())
}
