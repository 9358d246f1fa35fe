//! openraft's type parameters, and its settings derived from ours.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::{Config, SnapshotPolicy};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::state::StateMachine;
use crate::{Error, Member, Options};

/// The one instantiation of openraft.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = Payload;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Payload, u64, Peer>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = crate::runtime::SharedTicks;
    type Responder<T>
        = Reply<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type LeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type EntryPayload = openraft::type_config::alias::EntryPayloadOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
pub(crate) type Fatal = openraft::errors::Fatal<TypeConfig>;

/// Opaque bytes of a proposal or of a response to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Raw;
        impl Visitor<'_> for Raw {
            type Value = Payload;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload(Bytes::copy_from_slice(bytes)))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Payload, E> {
                Ok(Payload(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(Raw)
    }
}

/// Where a replica lives, as the membership stores it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) node: u64,
    pub(crate) addr: String,
}

impl Peer {
    pub(crate) fn of(member: &Member) -> Self {
        Self { node: member.node, addr: member.addr.clone() }
    }

    pub(crate) fn member(&self, replica: u64) -> Member {
        Member { replica, node: self.node, addr: self.addr.clone() }
    }
}

/// Who openraft says leads instead.
pub(crate) fn hint(forward: openraft::errors::ForwardToLeader<TypeConfig>) -> Option<Member> {
    let peer = forward.leader_node?;
    Some(peer.member(forward.leader_id?))
}

/// What a proposal holds while it is in flight.
pub(crate) struct Room {
    pub(crate) _count: OwnedSemaphorePermit,
    pub(crate) _bytes: OwnedSemaphorePermit,
}

/// Takes openraft's answer to one proposal. It keeps the proposal's room until openraft lets go of the entry, so that a
/// caller that stopped waiting does not make room for more than the limits allow.
pub(crate) struct Reply<T> {
    pub(crate) sender: oneshot::Sender<T>,
    pub(crate) room: Arc<Room>,
}

impl<T: Send + 'static> openraft::raft::responder::Responder<TypeConfig, T> for Reply<T> {
    fn on_complete(self, result: T) {
        drop(self.room);
        // The caller may have stopped waiting; it was told that the outcome is unknown.
        self.sender.send(result).ok();
    }
}

/// openraft's settings: everything that is off or wrong by default is set here.
pub(crate) fn config(group: u64, options: &Options) -> Result<Arc<Config>, Error> {
    let tick_ms = (options.heartbeat_interval_ms * 13 / 64).max(1);
    // Appends replace heartbeats where that cannot delay one past an election timeout (openraft's own condition).
    let may_skip = options.heartbeat_interval_ms * 2 + tick_ms < options.election_timeout_min_ms;
    let config = Config {
        cluster_name: format!("group-{group}"),
        heartbeat_interval: options.heartbeat_interval_ms,
        heartbeat_min_interval: Some(if may_skip { options.heartbeat_interval_ms } else { 0 }),
        election_timeout_min: options.election_timeout_min_ms,
        election_timeout_max: options.election_timeout_max_ms,
        install_snapshot_timeout: options.snapshot_timeout_ms,
        max_payload_entries: options.append_entries_max,
        // Only a purged log makes a follower need a snapshot; distance alone never does.
        replication_lag_threshold: u64::MAX,
        snapshot_policy: SnapshotPolicy::Never,
        snapshot_max_chunk_size: options.chunk_bytes as u64,
        // `compaction` purges; openraft's own purge after a snapshot can overtake a queued apply (issue 2116).
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(4_096),
        notification_channel_size: Some(4_096),
        backoff: "100ms 200ms 400ms ...1s".to_owned(),
        enable_pre_vote: Some(true),
        // Without it a leader that lost its quorum can hold on to a bridge node for ever (issue 2080). The least legal
        // value is the lease plus the longest election timeout.
        quorum_loss_probe_interval: Some(options.election_timeout_max_ms * 2),
        // A restarted leader stands for election like everybody else: what it had applied may have been lost.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| Error::Options { message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_profiles_give_a_config_that_openraft_accepts_with_its_safety_features_on() {
        for options in [Options::default(), Options::fast()] {
            let config = config(1, &options).unwrap();
            assert_eq!(config.enable_pre_vote, Some(true));
            assert!(config.quorum_loss_probe_interval.is_some());
            assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        }
    }
}
