//! The replicas that this node hosts.

use crate::serving::items::Items;
use crate::serving::vectors::Vectors;
use docent_proto::internal::coordinator::{Condition, Membership, ReplicaReport};
use docent_proto::internal::shard::ReplicaLog;
use docent_raft::{Group, MemberStatus, ProposeError, ReadError, Status};
use docent_runtime::Deadline;
use docent_shard::view::View;
use docent_shard::{ItemShard, UserShard};
use docent_store::ShardStore;
use docent_types::catalog::Replica;
use docent_types::sabotage::Memory;
use docent_types::user::Consent;
use docent_types::{Error, Kind, NodeId, Position, ReplicaId, Result, ShardId, SlotRange, UserId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

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
    /// Nodes whose replicas the group has left out lately.
    pub departed: Departed,
}

/// How long a replica that was left out may still show what it has: it refuses when it has not heard from a leader for six seconds.
const DEPARTED: Duration = Duration::from_secs(10);

/// Nodes whose replicas a group has left out lately, as its steward saw it.
#[derive(Default)]
pub struct Departed(Mutex<Vec<(NodeId, Instant)>>);

impl Departed {
    /// The members of a group changed.
    pub fn note(&self, before: &BTreeSet<NodeId>, now: &BTreeSet<NodeId>) {
        let mut departed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        departed.retain(|(_, at)| at.elapsed() < DEPARTED);
        departed.extend(before.difference(now).map(|node| (*node, Instant::now())));
    }

    fn recent(&self) -> Vec<NodeId> {
        let departed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        departed.iter().filter(|(_, at)| at.elapsed() < DEPARTED).map(|(node, _)| *node).collect()
    }
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
    /// For [`docent_types::sabotage::Bug::OptOutOnlyInCache`]; nothing in an ordinary build.
    pub consents: Memory<UserId, Consent>,
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

    /// How far the log goes, for an operator who must choose a survivor.
    pub fn log(&self) -> ReplicaLog {
        let status = self.group.status();
        ReplicaLog {
            replica: self.replica,
            term: status.term,
            last: status.last_log.unwrap_or(0),
            committed: status.committed.unwrap_or(0),
            leader: status.leader.as_ref().map(|leader| NodeId(leader.node)),
            voters: voters(&status),
        }
    }

    /// Nodes that may show this shard's items, by this replica's knowledge of its group.
    pub fn holders(&self) -> Vec<NodeId> {
        let status = self.group.status();
        let members = status.members.iter().map(|member| NodeId(member.member.node));
        members.chain(self.departed.recent()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Proposes and waits for the outcome.
    pub async fn propose(&self, payload: bytes::Bytes, deadline: Deadline) -> Result<(Position, bytes::Bytes)> {
        let committed =
            self.group.propose(payload, deadline.remaining()).await.map_err(|error| self.proposal(error))?;
        Ok((Position { shard: self.id, index: committed.index }, committed.response))
    }

    /// Waits until this replica has applied the entry of log index `index`.
    ///
    /// # Errors
    /// `Unavailable` where the shard is closing here.
    pub async fn reached(&self, index: u64) -> Result<()> {
        let mut status = self.group.watch();
        let there = status.wait_for(|status| status.applied >= Some(index)).await;
        let closing = |_| Error::new(Kind::Unavailable, format!("shard {} is closing on this node", self.id));
        there.map(|_| ()).map_err(closing)
    }

    fn proposal(&self, error: ProposeError) -> Error {
        let shard = self.id;
        match error {
            ProposeError::NotLeader { hint, .. } => self.not_leader(hint.map(|member| NodeId(member.node))),
            ProposeError::Overloaded { retry_after_ms, .. } => {
                let wait = u32::try_from(retry_after_ms).unwrap_or(u32::MAX);
                Error::overloaded(
                    format!(
                        "shard {shard} takes no writes now: too many are in flight, or the disks of its nodes are full"
                    ),
                    wait,
                )
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
pub struct Shards {
    hosted: RwLock<BTreeMap<ShardId, Arc<Hosted>>>,
    lost: RwLock<BTreeMap<ShardId, (ReplicaId, String)>>,
    /// Counts changes that the coordinator wants to hear of.
    pulse: watch::Sender<u64>,
    /// What operators ask of the task that opens and closes replicas, and that task's end of it until it starts.
    orders: mpsc::Sender<Recovery>,
    taken: Mutex<Option<mpsc::Receiver<Recovery>>>,
}

/// An operator's order to make a replica its shard's only one.
#[derive(Debug)]
pub struct Recovery {
    /// Which shard.
    pub shard: ShardId,
    /// Which replica.
    pub replica: ReplicaId,
    /// Where its log ended when the operator looked.
    pub last: u64,
    /// Takes the outcome: the index from which on it is alone.
    pub done: oneshot::Sender<Result<u64>>,
}

impl Default for Shards {
    fn default() -> Self {
        let (orders, taken) = mpsc::channel(1);
        let taken = Mutex::new(Some(taken));
        Shards { hosted: RwLock::default(), lost: RwLock::default(), pulse: watch::channel(0).0, orders, taken }
    }
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
        self.beat_now();
    }

    /// Takes a replica out: from now on requests for it are sent elsewhere.
    pub fn remove(&self, id: ShardId) -> Option<Arc<Hosted>> {
        self.hosted.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// Notes that a replica can never take part again; its place is made anew under another id.
    pub fn lose(&self, id: ShardId, replica: ReplicaId, reason: String) {
        self.remove(id);
        self.lost.write().unwrap_or_else(PoisonError::into_inner).insert(id, (replica, reason));
        metrics::counter!("docent_replicas_lost_total").increment(1);
        self.beat_now();
    }

    /// The lost replica of a shard.
    pub fn lost(&self, id: ShardId) -> Option<ReplicaId> {
        self.lost.read().unwrap_or_else(PoisonError::into_inner).get(&id).map(|(replica, _)| *replica)
    }

    /// A lost replica's remains are gone.
    pub fn forget_lost(&self, id: ShardId) {
        self.lost.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.beat_now();
    }

    /// Makes a replica its shard's only one, by the task that opens and closes replicas.
    pub async fn recover(&self, shard: ShardId, replica: ReplicaId, last: u64, deadline: Deadline) -> Result<u64> {
        let (done, outcome) = oneshot::channel();
        let gone = || Error::new(Kind::Unavailable, "this node is shutting down");
        let ordered = async {
            self.orders.send(Recovery { shard, replica, last, done }).await.map_err(|_| gone())?;
            outcome.await.map_err(|_| gone())?
        };
        deadline.bound("the recovery", ordered).await
    }

    /// The orders, for the one task that carries them out.
    pub(crate) fn orders(&self) -> Option<mpsc::Receiver<Recovery>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Something happened that the coordinator should not wait for.
    pub fn beat_now(&self) {
        self.pulse.send_modify(|count| *count += 1);
    }

    /// Wakes with each [`Shards::beat_now`].
    pub fn pulse(&self) -> watch::Receiver<u64> {
        self.pulse.subscribe()
    }

    /// Every replica as it is, for the heartbeat.
    pub fn report(&self) -> Vec<ReplicaReport> {
        let hosted = self.all().into_iter().map(|hosted| ReplicaReport {
            shard: hosted.id,
            replica: hosted.replica,
            condition: condition(&hosted.group.status()),
        });
        let lost = self.lost.read().unwrap_or_else(PoisonError::into_inner);
        let lost = lost.iter().map(|(shard, (replica, reason))| ReplicaReport {
            shard: *shard,
            replica: *replica,
            condition: Condition::Lost(reason.clone()),
        });
        hosted.chain(lost).collect()
    }

    /// The events of the items on each shard of items that this node leads.
    pub fn events(&self) -> Vec<(ShardId, u64)> {
        let led = self.all().into_iter().filter(|hosted| hosted.group.status().is_leader());
        led.filter_map(|hosted| match &hosted.role {
            Role::Items(items) => Some((hosted.id, items.serving.events())),
            Role::Users(_) => None,
        })
        .collect()
    }
}

fn condition(status: &Status) -> Condition {
    if !status.is_leader() {
        return Condition::Follows;
    }
    Condition::Leads(Membership {
        term: status.term,
        index: status.membership_index.unwrap_or(0),
        is_settled: !status.is_joint && status.membership_index <= status.committed,
        voters: voters(status),
    })
}

fn voters(status: &Status) -> Vec<Replica> {
    let is_voter = |member: &&MemberStatus| status.voters.contains(&member.member.replica);
    let replica =
        |member: &MemberStatus| Replica { id: ReplicaId(member.member.replica), node: NodeId(member.member.node) };
    status.members.iter().filter(is_voter).map(replica).collect()
}
