//! The trainer's messages over the members' calls.

use bytes::Bytes;
use docent_proto::internal::Service;
use docent_rpc::{Caller, Handler};
use docent_runtime::Deadline;
use docent_train::{Error, Peers, TrainRequest, TrainResponse, Worker, packed};
use docent_types::{NodeId, codec};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// Reaches other hosts' workers.
pub struct TrainPeers(pub Arc<dyn Caller>);

impl Peers for TrainPeers {
    fn call(&self, node: u64, request: TrainRequest, within: Duration) -> BoxFuture<'_, Result<TrainResponse, Error>> {
        async move {
            let peer = |error: docent_types::Error| Error::Peer { node, reason: error.message };
            let bytes = self.0.call(NodeId(node), Service::Train, codec::encode(&request), Deadline::after(within));
            let decode = |bytes: &[u8]| codec::decode::<Result<TrainResponse, Error>>("a worker's answer", bytes);
            packed::within(&bytes.await.map_err(peer)?, decode).map_err(peer)?
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
            let answer: Result<TrainResponse, Error> = worker.handle(request).await;
            let room = answer.as_ref().map_or(0, TrainResponse::room);
            Ok(codec::encode_with_room(room, &answer))
        }
        .boxed()
    }
}
