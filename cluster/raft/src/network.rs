//! openraft's network over [`Transport`]: one link a peer replica, with every optional message implemented (a missing
//! `pre_vote` silently grants, a missing `transfer_leader` silently does nothing).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use docent_runtime::Threads;
use futures::StreamExt;
use futures::future::{Either, select};
use futures::stream::BoxStream;
use openraft::OptionalSend;
use openraft::RaftNetworkFactory;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkV2};
use openraft::raft::{SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::group::Full;
use crate::meters::Meters;
use crate::raft::{Peer, TypeConfig, Vote};
use crate::snapshot::Snapshot;
use crate::wire::{self, AppendRequest, AppendResponse, SnapshotHeader};
use crate::{Member, MessageKind, Options, Transport, TransportError, record};

type RaftSnapshot = openraft::Snapshot<crate::raft::LeaderId, u64, Peer, Snapshot>;

/// Makes links for openraft.
pub(crate) struct Network {
    pub(crate) group: u64,
    pub(crate) replica: u64,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) options: Arc<Options>,
    pub(crate) threads: Threads,
    pub(crate) meters: Meters,
    /// Until then this replica stands for no election; `None` in its first life.
    pub(crate) no_votes_until: Option<Instant>,
    /// Replicas whose disk is full.
    pub(crate) full: Full,
}

impl Network {
    fn link(&self, target: u64, peer: &Peer, append: MessageKind) -> Link {
        Link {
            group: self.group,
            replica: self.replica,
            target: peer.member(target),
            append,
            transport: Arc::clone(&self.transport),
            options: Arc::clone(&self.options),
            threads: self.threads,
            meters: self.meters.clone(),
            no_votes_until: self.no_votes_until,
            full: self.full.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Link {
        self.link(target, peer, MessageKind::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &Peer) -> Link {
        self.link(target, peer, MessageKind::Heartbeat)
    }
}

/// The way to one replica.
pub(crate) struct Link {
    group: u64,
    replica: u64,
    target: Member,
    append: MessageKind,
    transport: Arc<dyn Transport>,
    options: Arc<Options>,
    threads: Threads,
    meters: Meters,
    no_votes_until: Option<Instant>,
    full: Full,
}

impl Link {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: MessageKind,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let bytes = self.send(kind, request, deadline).await?;
        record::decode("answer", &bytes).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    async fn send<Q: Serialize>(
        &self,
        kind: MessageKind,
        request: &Q,
        deadline: Duration,
    ) -> Result<Bytes, RPCError<TypeConfig>> {
        let body = record::encode(request);
        let call = self.transport.call(&self.target, self.group, kind, body, deadline);
        // The transport keeps the deadline; this is for one that does not.
        let answer = match tokio::time::timeout(deadline, call).await {
            Ok(answer) => answer,
            Err(_) => Err(TransportError::TimedOut { node: self.target.node }),
        };
        answer.map_err(|error| self.explain(&error, kind, deadline))
    }

    fn explain(&self, error: &TransportError, kind: MessageKind, timeout: Duration) -> RPCError<TypeConfig> {
        let action = match kind {
            MessageKind::Append | MessageKind::Heartbeat => RPCTypes::AppendEntries,
            MessageKind::Vote | MessageKind::PreVote => RPCTypes::Vote,
            MessageKind::TransferLeader => RPCTypes::TransferLeader,
        };
        match error {
            TransportError::TimedOut { .. } => {
                RPCError::Timeout(Timeout { action, id: self.replica, target: self.target.replica, timeout })
            }
            // A refusal too: at once again would only be refused again.
            other => RPCError::Unreachable(Unreachable::new(other)),
        }
    }

    fn file_stream(&self, snapshot: Snapshot) -> BoxStream<'static, Result<Bytes, TransportError>> {
        let (chunk_bytes, threads, node) = (self.options.chunk_bytes, self.threads, self.target.node);
        let chunks = futures::stream::unfold(Some(0_u64), move |offset| {
            let snapshot = snapshot.clone();
            async move {
                let offset = offset?;
                match threads.blocking(move || snapshot.read(offset, chunk_bytes)).await.and_then(|read| read) {
                    Ok(Some(chunk)) => {
                        let next = offset + chunk.len() as u64;
                        Some((Ok(chunk), Some(next)))
                    }
                    Ok(None) => None,
                    Err(error) => {
                        let message = format!("cannot read the snapshot to send: {error}");
                        Some((Err(TransportError::Unreachable { node, message }), None))
                    }
                }
            }
        });
        chunks.boxed()
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, RPCError<TypeConfig>> {
        // openraft gives every append one heartbeat interval. A heartbeat must keep to that, its sender moves on. A bulk
        // append waits for a follower's disk, and given up too early it is only sent again.
        let deadline = match self.append {
            MessageKind::Append => Duration::from_millis(self.options.election_timeout_max_ms),
            _ => option.soft_ttl(),
        };
        let bytes = self.send(self.append, &request, deadline).await?;
        let (response, is_full) =
            wire::decode_append_answer(&bytes).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        self.full.note(self.target.replica, is_full);
        Ok(response)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(MessageKind::Vote, &request, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        // Its own vote is one too: it must not help itself to the office while an old leader may still count on it.
        if self.no_votes_until.is_some_and(|until| Instant::now() < until) {
            let message = "this replica came back only now".to_owned();
            return Err(RPCError::Unreachable(Unreachable::new(&TransportError::Unreachable {
                node: self.target.node,
                message,
            })));
        }
        self.call(MessageKind::PreVote, &request, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(MessageKind::TransferLeader, &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let file = snapshot.snapshot;
        let header = record::encode(&SnapshotHeader { vote, meta: snapshot.meta, bytes: file.bytes });
        let deadline = option.hard_ttl();
        let sent = self.transport.send_snapshot(&self.target, self.group, header, self.file_stream(file), deadline);
        let sent = tokio::time::timeout(deadline, sent);
        let answer = match select(Box::pin(sent), Box::pin(cancel)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
        };
        let answer = answer.unwrap_or(Err(TransportError::TimedOut { node: self.target.node }));
        let bytes = answer.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))?;
        let response = record::decode("snapshot answer", &bytes);
        let response = response.map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        self.meters.snapshots_sent.increment(1);
        Ok(response)
    }
}
