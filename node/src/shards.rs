//! The replicas that this node hosts.

use crate::serving::items::Items;
use crate::serving::vectors::Vectors;
use docent_raft::{Group, ProposeError, ReadError};
use docent_runtime::Deadline;
use docent_shard::view::View;
use docent_shard::{ItemShard, UserShard};
use docent_store::ShardStore;
use docent_types::{Error, Kind, NodeId, Position, ReplicaId, Result, ShardId, SlotRange};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// One replica of one shard.
pub struct Hosted {
    /// Which shard.
    pub id: ShardId,
    /// Which replica.
    pub replica: ReplicaId,
    /// What it owns.
    pub slots: SlotRange,
    /// Its raft group.
    pub group: Group,
    /// Its materialised state.
    pub store: ShardStore,
    /// What it is for.
    pub role: Role,
}

/// What a replica is for, with what it keeps in memory.
#[derive(Clone, Debug)]
pub enum Role {
    /// Users.
    Users(Arc<Users>),
    /// Items.
    Items(Arc<ItemsRole>),
}

/// A replica of a user shard.
#[derive(Debug)]
pub struct Users {
    /// The state machine.
    pub machine: UserShard,
    /// Solved vectors.
    pub vectors: Vectors,
}

/// A replica of an item shard.
#[derive(Debug)]
pub struct ItemsRole {
    /// The state machine.
    pub machine: ItemShard,
    /// Popularity and indexes.
    pub serving: Items,
}

impl Hosted {
    /// The state as it is now.
    pub fn view(&self) -> Result<Arc<dyn View>> {
        Ok(Arc::new(self.store.view()?))
    }

    /// Proposes and waits for the outcome.
    pub async fn propose(&self, payload: bytes::Bytes, deadline: Deadline) -> Result<(Position, bytes::Bytes)> {
        let committed =
            self.group.propose(payload, deadline.remaining()).await.map_err(|error| self.proposal(error))?;
        Ok((Position { shard: self.id, index: committed.index }, committed.response))
    }

    fn proposal(&self, error: ProposeError) -> Error {
        let shard = self.id;
        match error {
            ProposeError::NotLeader { hint, .. } => self.not_leader(hint.map(|member| NodeId(member.node))),
            ProposeError::Overloaded { retry_after_ms, .. } => {
                let wait = u32::try_from(retry_after_ms).unwrap_or(u32::MAX);
                Error::overloaded(format!("shard {shard} has too many writes in flight"), wait)
            }
            ProposeError::TooLarge { bytes, bytes_max, .. } => Error::new(
                Kind::Invalid,
                format!(
                    "a write of {bytes} bytes to shard {shard} is over the limit of {bytes_max}: send smaller batches"
                ),
            ),
            ProposeError::Unknown { reason, .. } => {
                Error::new(Kind::Unknown, format!("the outcome of a write to shard {shard} is unknown: {reason}"))
            }
            other => Error::new(Kind::Unknown, format!("shard {shard}: {other}")),
        }
    }

    fn not_leader(&self, hint: Option<NodeId>) -> Error {
        Error::new(Kind::NotLeader, format!("shard {} is not led from here", self.id)).with_hint(hint)
    }

    /// Reads the newest state at the leader: `read` runs behind a barrier, and its result counts only if leadership still held after.
    pub async fn read_leader<T>(
        &self,
        deadline: Deadline,
        read: impl FnOnce(&dyn View) -> Result<T>,
    ) -> Result<(T, u64)> {
        let guard = self.group.read_barrier(deadline.remaining()).await.map_err(|error| match error {
            ReadError::NotLeader { hint, .. } => self.not_leader(hint.map(|member| NodeId(member.node))),
            other => Error::new(Kind::Unavailable, format!("shard {}: {other}", self.id)),
        })?;
        let view = self.view()?;
        let value = read(&*view)?;
        match guard.recheck() {
            true => Ok((value, guard.index())),
            false => Err(self.not_leader(None)),
        }
    }
}

/// All replicas of this node, by shard.
#[derive(Default)]
pub struct Shards {
    hosted: RwLock<BTreeMap<ShardId, Arc<Hosted>>>,
}

impl Shards {
    /// The replica of a shard; an error that sends the caller elsewhere where there is none.
    pub fn get(&self, id: ShardId) -> Result<Arc<Hosted>> {
        let found = self.hosted.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        found.ok_or_else(|| Error::new(Kind::WrongShard, format!("shard {id} is not on this node")))
    }

    /// A replica of an item shard.
    pub fn items(&self, id: ShardId) -> Result<(Arc<Hosted>, Arc<ItemsRole>)> {
        let hosted = self.get(id)?;
        match &hosted.role {
            Role::Items(items) => Ok((hosted.clone(), items.clone())),
            Role::Users(_) => Err(Error::invalid("shard", format!("shard {id} does not hold items"))),
        }
    }

    /// A replica of a user shard.
    pub fn users(&self, id: ShardId) -> Result<(Arc<Hosted>, Arc<Users>)> {
        let hosted = self.get(id)?;
        match &hosted.role {
            Role::Users(users) => Ok((hosted.clone(), users.clone())),
            Role::Items(_) => Err(Error::invalid("shard", format!("shard {id} does not hold users"))),
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        self.hosted.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Enters a replica that is ready to take part.
    pub fn insert(&self, hosted: Arc<Hosted>) {
        self.hosted.write().unwrap_or_else(PoisonError::into_inner).insert(hosted.id, hosted);
    }
}
