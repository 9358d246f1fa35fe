//! The seam to the network: what `docent-rpc` implements, and what arrives at the other side's [`crate::Host`].

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// A replica of a group and where it lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Member {
    /// The replica id: unique for the life of the cluster, never reused.
    pub replica: u64,
    /// The Docent node it lives on.
    pub node: u64,
    /// Internal address as it was when the replica was made; a hint, the transport's address book goes first.
    pub addr: String,
}

/// What a message is, so that a transport can route votes and heartbeats past everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MessageKind {
    /// Log entries, leader to follower. Large.
    Append = 1,
    /// An append without entries that carries the leader's lease. Small, urgent.
    Heartbeat = 2,
    /// A candidate asks for a vote. Small, urgent.
    Vote = 3,
    /// A candidate asks whether it would get a vote. Small, urgent.
    PreVote = 4,
    /// The leader hands over. Small, urgent.
    TransferLeader = 5,
}

impl MessageKind {
    /// The kind of a byte on the wire; `None` for one that this binary does not know.
    pub fn from_wire(byte: u8) -> Option<Self> {
        [Self::Append, Self::Heartbeat, Self::Vote, Self::PreVote, Self::TransferLeader]
            .into_iter()
            .find(|kind| kind.to_wire() == byte)
    }

    /// The byte on the wire.
    pub fn to_wire(self) -> u8 {
        self as u8
    }

    /// Whether it must never queue behind bulk data.
    pub fn is_urgent(self) -> bool {
        self != Self::Append
    }
}

/// Why a message did not come back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No connection, or it broke.
    #[error("node {node} is unreachable: {message}")]
    Unreachable {
        /// The Docent node.
        node: u64,
        /// What the connection said.
        message: String,
    },
    /// No answer within the deadline.
    #[error("node {node} did not answer in time")]
    TimedOut {
        /// The Docent node.
        node: u64,
    },
    /// The other side answered with an error (no such group, another replica id, group stopped, ...).
    #[error("node {node} refused: {message}")]
    Refused {
        /// The Docent node.
        node: u64,
        /// What it said.
        message: String,
    },
}

/// Carries opaque messages between the hosts of one cluster. Bodies are versioned by this crate.
///
/// Every call must end within its deadline, and must not be tried again by the transport: raft does that.
pub trait Transport: Send + Sync + 'static {
    /// One request to [`crate::Host::handle`] of `target.node`, with `target.replica` as `to_replica`.
    fn call(
        &self,
        target: &Member,
        group: u64,
        kind: MessageKind,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// One stream to [`crate::Host::handle_snapshot`] of `target.node`. Chunks are at most `Options::chunk_bytes`.
    /// An error item means that the sender gave up: the receiver must see an error too, never a clean end.
    fn send_snapshot(
        &self,
        target: &Member,
        group: u64,
        header: Bytes,
        chunks: BoxStream<'static, Result<Bytes, TransportError>>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire_and_unknown_bytes_are_refused() {
        for byte in 0..=u8::MAX {
            match MessageKind::from_wire(byte) {
                Some(kind) => assert_eq!(kind.to_wire(), byte),
                None => assert!(!(1..=5).contains(&byte)),
            }
        }
    }
}
