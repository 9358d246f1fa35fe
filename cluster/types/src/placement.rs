//! How replicas come and go: what the catalog keeps of it, what an operator asks for, what a plan says.

use crate::catalog::Replica;
use crate::id::{NodeId, ReplicaId};
use crate::shard::ShardId;
use serde::{Deserialize, Serialize};

/// Whether a node takes part in the placement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Holds and leads replicas.
    #[default]
    Active,
    /// Gives its leaderships and replicas away; by command.
    Draining,
    /// Will not come back: its replicas are made anew elsewhere, then it is forgotten; by command.
    Removed,
}

/// A change of a shard's replicas: one comes and, unless the shard grows, one goes. Every step of it is found again from here and
/// from the group's own membership: whoever leads the shard goes on with it, whoever leads the coordinators sees it done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The one that comes, opened empty and filled by the leader.
    pub new: Replica,
    /// The one that goes.
    pub old: Option<ReplicaId>,
    /// Why.
    pub cause: Cause,
    /// Given up: the new one goes instead, unless the group took it in meanwhile.
    pub is_cancelled: bool,
}

/// Why replicas move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An operator said so.
    Command,
    /// The old replica or its node is lost, or there are fewer than there should be.
    Repair,
    /// Its node drains.
    Drain,
    /// Another node has fewer.
    Balance,
}

impl Cause {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Command => "command",
            Cause::Repair => "repair",
            Cause::Drain => "drain",
            Cause::Balance => "balance",
        }
    }
}

/// A replica to be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grave {
    /// Of which shard.
    pub shard: ShardId,
    /// Where.
    pub node: NodeId,
}

impl NodeState {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Active => "active",
            NodeState::Draining => "draining",
            NodeState::Removed => "removed",
        }
    }
}

/// What an operator asks of the placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacementChange {
    /// Give a node's leaderships and replicas away.
    Drain(NodeId),
    /// Take a draining node back.
    Resume(NodeId),
    /// A drained or dead node will not come back.
    Remove(NodeId),
    /// Move one replica.
    Move {
        /// Of which shard.
        shard: ShardId,
        /// From where.
        from: NodeId,
        /// To where.
        to: NodeId,
    },
    /// Give up the change of a shard that is under way.
    Cancel(ShardId),
}

/// One replica's way in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// Of which shard.
    pub shard: ShardId,
    /// From where; none where the shard only grows.
    pub from: Option<NodeId>,
    /// To where.
    pub to: NodeId,
    /// Why.
    pub cause: Cause,
}
