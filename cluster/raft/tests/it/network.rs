//! A network inside the process: hosts by node id, links that can be cut, messages counted by kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use docent_raft::{Host, Member, MessageKind, Transport, TransportError};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::watch;

use crate::cluster::LONG;

/// What happens to a snapshot stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Damage {
    /// It ends early, as if whole.
    Cut,
    /// A bit changes on the way.
    Flip,
}

#[derive(Default)]
pub(crate) struct Net {
    /// What happens to the next snapshot streams, last first.
    pub(crate) damage: Mutex<Vec<Damage>>,
    hosts: Mutex<BTreeMap<u64, Host>>,
    cut: Mutex<BTreeSet<(u64, u64)>>,
    /// Nodes that get no appends, only what else is sent to them.
    starved: Mutex<BTreeSet<u64>>,
    /// Messages sent, by (sender node, kind); cut ones too.
    pub(crate) sent: watch::Sender<BTreeMap<(u64, u8), u64>>,
}

impl Net {
    pub(crate) fn plug(&self, node: u64, host: Host) {
        self.hosts.lock().unwrap().insert(node, host);
    }

    pub(crate) fn unplug(&self, node: u64) {
        self.hosts.lock().unwrap().remove(&node);
    }

    /// Cuts a node off from all others, both ways.
    pub(crate) fn isolate(&self, node: u64, others: impl IntoIterator<Item = u64>) {
        let mut cut = self.cut.lock().unwrap();
        for other in others.into_iter().filter(|other| *other != node) {
            cut.insert((node, other));
            cut.insert((other, node));
        }
    }

    /// Keeps appends from a node; heartbeats still reach it.
    pub(crate) fn starve(&self, node: u64) {
        self.starved.lock().unwrap().insert(node);
    }

    pub(crate) fn heal(&self) {
        self.cut.lock().unwrap().clear();
        self.starved.lock().unwrap().clear();
    }

    pub(crate) fn count(&self, node: u64, kind: MessageKind) -> u64 {
        self.sent.borrow().get(&(node, kind.to_wire())).copied().unwrap_or(0)
    }

    /// Waits until a node has sent so many messages of a kind.
    pub(crate) async fn wait_sent(&self, node: u64, kind: MessageKind, count: u64) {
        let mut sent = self.sent.subscribe();
        let is_there = |sent: &BTreeMap<(u64, u8), u64>| sent.get(&(node, kind.to_wire())).is_some_and(|n| *n >= count);
        tokio::time::timeout(LONG, sent.wait_for(is_there)).await.unwrap().unwrap();
    }

    fn way(&self, from: u64, to: u64) -> Option<Host> {
        if self.cut.lock().unwrap().contains(&(from, to)) {
            return None;
        }
        self.hosts.lock().unwrap().get(&to).cloned()
    }
}

/// One node's end of the network.
pub(crate) struct End {
    pub(crate) node: u64,
    pub(crate) net: Arc<Net>,
}

fn refused(node: u64, error: docent_raft::Error) -> TransportError {
    TransportError::Refused { node, message: error.to_string() }
}

impl Transport for End {
    fn call(
        &self,
        target: &Member,
        group: u64,
        kind: MessageKind,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        self.net.sent.send_modify(|sent| *sent.entry((self.node, kind.to_wire())).or_default() += 1);
        let (net, from, target) = (Arc::clone(&self.net), self.node, target.clone());
        let call = async move {
            let node = target.node;
            let is_starved = kind == MessageKind::Append && net.starved.lock().unwrap().contains(&node);
            match net.way(from, node).filter(|_| !is_starved) {
                Some(host) => {
                    let answer = host.handle(group, target.replica, kind, body).await;
                    let answer = answer.map_err(|error| refused(node, error))?;
                    // The way back may have been cut meanwhile.
                    net.way(node, from).map(|_| answer).ok_or(TransportError::TimedOut { node })
                }
                None => {
                    tokio::time::sleep(deadline).await;
                    Err(TransportError::TimedOut { node })
                }
            }
        };
        call.boxed()
    }

    fn send_snapshot(
        &self,
        target: &Member,
        group: u64,
        header: Bytes,
        chunks: BoxStream<'static, Result<Bytes, TransportError>>,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (net, from, target) = (Arc::clone(&self.net), self.node, target.clone());
        let send = async move {
            let node = target.node;
            let unreachable = TransportError::Unreachable { node, message: "cut".to_owned() };
            let host = net.way(from, node).ok_or(unreachable)?;
            let damage = net.damage.lock().unwrap().pop();
            let chunks = match damage {
                None => chunks,
                Some(Damage::Cut) => chunks.take(2).boxed(),
                Some(Damage::Flip) => chunks
                    .map_ok(|chunk| {
                        let mut bytes = chunk.to_vec();
                        bytes[0] ^= 1;
                        bytes.into()
                    })
                    .boxed(),
            };
            host.handle_snapshot(group, target.replica, header, chunks).await.map_err(|error| refused(node, error))
        };
        send.boxed()
    }
}
