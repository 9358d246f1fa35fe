//! The real [`Caller`]: pooled channels, one connection a member and class of traffic, so that gradients and exports never stand
//! before a query, nor either before a vote.

use crate::bulk;
use crate::caller::{Bulk, Caller, Chunks};
use crate::handler::Handler;
use crate::identity::Identity;
use crate::wire;
use bytes::Bytes;
use docent_proto::internal::Service;
use docent_proto::transport::Envelope;
use docent_proto::transport::internal_client::InternalClient;
use docent_runtime::Deadline;
use docent_runtime::net::Net;
use docent_types::limits::MESSAGE_BYTES_MAX;
use docent_types::{Error, Kind, NodeId, Result};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryFutureExt};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Uri};

/// Traffic that must not wait for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Raft's frames.
    Raft,
    /// Queries, writes, the coordinator.
    Query,
    /// Training, parts, exports, snapshots.
    Bulk,
}

impl Class {
    fn of(service: Service) -> Class {
        match service {
            Service::Coordinator | Service::Shard | Service::Catalog => Class::Query,
            Service::Train | Service::Parts | Service::Export => Class::Bulk,
        }
    }
}

/// Calls other members over pooled channels; calls to this process go straight to its own handlers.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Arc<Identity>,
    net: Arc<dyn Net>,
    local: Mutex<BTreeMap<u32, Arc<dyn Handler>>>,
    channels: Mutex<BTreeMap<(String, Class), Channel>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// Peers of the process that `identity` names, over `net`.
    pub fn new(identity: Arc<Identity>, net: Arc<dyn Net>) -> Peers {
        let shared = Shared { identity, net, local: Mutex::default(), channels: Mutex::default() };
        Peers { shared: Arc::new(shared) }
    }

    /// Serves calls to this process's own node id by `handler`, without a socket.
    pub fn serve_locally(&self, service: Service, handler: Arc<dyn Handler>) {
        locked(&self.shared.local).insert(service as u32, handler);
    }

    /// The identity and address book.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.shared.identity
    }

    /// A call to an address instead of a node: how a new node finds its cluster.
    pub async fn call_address(&self, addr: &str, service: Service, body: Bytes, deadline: Deadline) -> Result<Bytes> {
        let envelope = wire::envelope(&self.shared.identity, service, body, deadline);
        let mut client = client(self.channel(addr, Class::of(service))?);
        let call = async {
            let reply = client.call(envelope).await.map_err(|status| wire::broken(addr, &status))?;
            wire::result(reply.into_inner())
        };
        deadline.bound(&format!("the call to {addr}"), call).await
    }

    /// A fetch from an address instead of a node.
    pub async fn fetch_address(&self, addr: &str, service: Service, body: Bytes, deadline: Deadline) -> Result<Chunks> {
        let envelope = wire::envelope(&self.shared.identity, service, body, deadline);
        let mut client = client(self.channel(addr, Class::of(service))?);
        let open = async { client.fetch(envelope).await.map_err(|status| wire::broken(addr, &status)) };
        let stream = deadline.bound(&format!("the stream from {addr}"), open).await?.into_inner();
        let addr = addr.to_owned();
        let chunks = stream.map(move |reply| match reply {
            Ok(reply) => wire::result(reply),
            Err(status) => Err(wire::broken(&addr, &status)),
        });
        Ok(chunks.boxed())
    }

    /// The channel to a member; connects when first used and again after a failure.
    pub(crate) fn channel_to(&self, node: NodeId, hint: Option<&str>, class: Class) -> Result<Channel> {
        let known = self.shared.identity.address(node).or_else(|| hint.map(str::to_owned));
        match known {
            Some(addr) => self.channel(&addr, class),
            None => Err(Error::new(Kind::Unavailable, format!("the address of node {node} is not known yet"))),
        }
    }

    fn channel(&self, addr: &str, class: Class) -> Result<Channel> {
        let mut channels = locked(&self.shared.channels);
        if let Some(channel) = channels.get(&(addr.to_owned(), class)) {
            return Ok(channel.clone());
        }
        let (net, target) = (self.shared.net.clone(), addr.to_owned());
        let connector = tower::service_fn(move |_: Uri| net.connect(&target).map_ok(TokioIo::new));
        let channel = endpoint(addr, class)?.connect_with_connector_lazy(connector);
        channels.insert((addr.to_owned(), class), channel.clone());
        Ok(channel)
    }

    /// The way to a member, and what is sent on it.
    fn outgoing(&self, to: NodeId, service: Service, body: Bytes, deadline: Deadline) -> Result<(Channel, Envelope)> {
        let channel = self.channel_to(to, None, Class::of(service))?;
        Ok((channel, wire::envelope(&self.shared.identity, service, body, deadline)))
    }

    fn local(&self, to: NodeId, service: Service) -> Option<Arc<dyn Handler>> {
        (self.shared.identity.node() == Some(to))
            .then(|| locked(&self.shared.local).get(&(service as u32)).cloned())
            .flatten()
    }
}

/// How connections are made. A peer that hangs without closing is found by pings within about four seconds.
fn endpoint(addr: &str, class: Class) -> Result<Endpoint> {
    // What a peer may send ahead of its reader. In bulk it is little, because a query waits for what is under way (decision 0028): enough for 2 Gbit/s a
    // stream where a round trip takes a millisecond.
    let window = if class == Class::Bulk { 256 << 10 } else { 4 << 20 };
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|error| Error::invalid("address", format!("{addr:?} is not an address: {error}")))?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .initial_stream_window_size(window)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(wire::FRAME_BYTES_MAX))
}

pub(crate) fn client(channel: Channel) -> InternalClient<Channel> {
    InternalClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl Caller for Peers {
    fn call(&self, to: NodeId, service: Service, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Bytes>> {
        if let Some(handler) = self.local(to, service) {
            return async move { deadline.bound("the local call", handler.call(body, deadline)).await }.boxed();
        }
        let peers = self.clone();
        async move {
            let (channel, envelope) = peers.outgoing(to, service, body, deadline)?;
            let call = async {
                let reply = client(channel).call(envelope).await.map_err(|status| wire::broken(to, &status))?;
                wire::result(reply.into_inner())
            };
            deadline.bound(&format!("the call to node {to}"), call).await
        }
        .boxed()
    }

    fn fetch(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        deadline: Deadline,
    ) -> BoxFuture<'static, Result<Chunks>> {
        if let Some(handler) = self.local(to, service) {
            return async move { deadline.bound("the local stream", handler.fetch(body, deadline)).await }.boxed();
        }
        let peers = self.clone();
        async move {
            let addr = peers.shared.identity.address(to);
            let addr = addr
                .ok_or_else(|| Error::new(Kind::Unavailable, format!("the address of node {to} is not known yet")))?;
            peers.fetch_address(&addr, service, body, deadline).await
        }
        .boxed()
    }

    fn read(&self, to: NodeId, service: Service, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Bulk>> {
        if let Some(handler) = self.local(to, service) {
            return async move { deadline.bound("the local read", handler.read(body, deadline)).await }.boxed();
        }
        let peers = self.clone();
        async move {
            let (channel, envelope) = peers.outgoing(to, service, body, deadline)?;
            deadline.bound(&format!("the read from node {to}"), bulk::read(to, channel, &envelope)).await
        }
        .boxed()
    }
}
