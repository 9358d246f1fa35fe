//! The replicas that the catalog places on this node: opened where they belong, destroyed where they do not any more.

use crate::machine::{ShardMachine, items_role};
use crate::serving::items::Items;
use crate::serving::models::Models;
use crate::serving::vectors::Vectors;
use crate::settings::Settings;
use crate::shards::{Departed, Hosted, Recovery, Role, Shards, Users};
use crate::steward::{Steward, Wished, member, replica_key};
use docent_gateway::Gateway;
use docent_journal::Journal;
use docent_meta::Meta;
use docent_placement::SlotHasher;
use docent_proto::internal::shard::ReplicaLog;
use docent_raft::{Host, MachineError};
use docent_runtime::{OnExit, Supervisor, Threads};
use docent_shard::{ItemShard, UserShard};
use docent_store::Store;
use docent_types::catalog::{Catalog, Replica, Shard};
use docent_types::placement::Grave;
use docent_types::{Error, Keyspace, Kind, NodeId, ReplicaId, Result, ShardId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pause before a destruction that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is needed to open a replica.
#[derive(Clone)]
pub(crate) struct Replicas {
    /// This node.
    pub(crate) node: NodeId,
    /// Which replicas had a log here, and which were destroyed.
    pub(crate) meta: Meta,
    /// Their logs.
    pub(crate) journal: Journal,
    /// The raft groups.
    pub(crate) host: Host,
    /// The materialised states.
    pub(crate) store: Store,
    /// Where opened replicas are entered.
    pub(crate) shards: Arc<Shards>,
    /// Loaded versions.
    pub(crate) models: Arc<Models>,
    /// The cluster's slot hash.
    pub(crate) hasher: SlotHasher,
    /// The node's settings.
    pub(crate) settings: Arc<Settings>,
    /// Told of each shard's leader, so that it need not search.
    pub(crate) gateway: Gateway,
    /// Runs the stewards.
    pub(crate) supervisor: Supervisor,
    /// Where blocking work is done.
    pub(crate) threads: Threads,
    /// Shared by the stewards.
    pub(crate) wished: Arc<Wished>,
    /// Destroyed replicas, told with each heartbeat while the catalog names them.
    pub(crate) buried: watch::Sender<BTreeSet<ReplicaId>>,
}

/// Why a replica is not open.
enum NotOpen {
    /// It never will be.
    Lost(String),
    /// The node must end.
    Fatal(Error),
}

impl From<Error> for NotOpen {
    fn from(error: Error) -> Self {
        match error.kind {
            Kind::Corrupt => NotOpen::Lost(error.message),
            _ => NotOpen::Fatal(error),
        }
    }
}

impl Replicas {
    /// Follows the catalog for the life of the process.
    pub(crate) async fn follow(self, mut catalog: watch::Receiver<Arc<Catalog>>) -> Result<()> {
        let no_orders = || Error::new(Kind::Internal, "the replicas of this node are followed already");
        let mut orders = self.shards.orders().ok_or_else(no_orders)?;
        loop {
            let current = catalog.borrow_and_update().clone();
            // Graves first: a shard's next replica on this node needs the place.
            let is_done = self.bury(&current, &catalog).await;
            for shard in current.shards.values() {
                // A lost replica and the one that takes its place may both be here: the newer one counts.
                let here = |replica: &Replica| replica.node == self.node && !current.graves.contains_key(&replica.id);
                if let Some(replica) = shard.hosts().filter(here).max_by_key(|replica| replica.id) {
                    self.have(&current, shard, replica, &catalog).await?;
                }
            }
            let pause = if is_done { Duration::MAX } else { RETRY };
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(pause) => {} // the next try
                () = self.supervisor.cancelled() => return Ok(()),
                order = orders.recv() => if let Some(order) = order {
                    let outcome = self.recover(&current, &order, &catalog).await;
                    // The operator may have stopped waiting; the shard list shows what came of it.
                    drop(order.done.send(outcome));
                },
            }
        }
    }

    /// Makes a replica its shard's only one: an operator has decided that the majority is lost for good. From there the coordinators let
    /// the shard grow again.
    async fn recover(
        &self,
        current: &Catalog,
        order: &Recovery,
        catalog: &watch::Receiver<Arc<Catalog>>,
    ) -> Result<u64> {
        let hosted = self.shards.get(order.shard)?;
        let shard = current.shards.get(&order.shard).ok_or_else(|| internal("the catalog has no such shard"))?;
        recoverable(current, &hosted.log(), order)?;
        let replica = Replica { id: order.replica, node: self.node };
        self.shards.remove(order.shard);
        let forced = self.host.force_sole_voter(order.shard.group(), &member(current, &replica), order.last).await;
        // Open again in any case: as it was where it was refused.
        match self.open(current, shard, replica, catalog).await {
            Ok(()) => {}
            Err(NotOpen::Fatal(error)) => return Err(error),
            Err(NotOpen::Lost(reason)) => return Err(Error::new(Kind::Corrupt, reason)),
        }
        let index = forced.map_err(|error| Error::new(Kind::Conflict, error.to_string()))?;
        tracing::error!(shard = %order.shard, replica = %order.replica, index, "an operator made this replica the only one: what the lost majority had beyond it is gone");
        Ok(index)
    }

    /// Opens a replica that is not open yet, unless its life here is over.
    async fn have(
        &self,
        current: &Catalog,
        shard: &Shard,
        replica: Replica,
        catalog: &watch::Receiver<Arc<Catalog>>,
    ) -> Result<()> {
        let hosted = self.shards.get(shard.id).ok().map(|hosted| hosted.replica);
        let is_over = self.tombstone(shard.id)?.is_some_and(|last| replica.id <= last);
        // Another replica of the shard lies here as long as the catalog has no grave for it.
        if hosted.is_some() || is_over || current.graves.contains_key(&replica.id) {
            return Ok(());
        }
        match self.shards.lost(shard.id) {
            Some(lost) if lost == replica.id => return Ok(()),
            Some(lost) => self.destroy(shard.id, lost).await?,
            None => {}
        }
        match self.open(current, shard, replica, catalog).await {
            Ok(()) => Ok(()),
            Err(NotOpen::Fatal(error)) => Err(error),
            // Not the replica's end but the store's, which the next start begins anew.
            Err(NotOpen::Lost(reason)) if self.store.failure().is_some() => Err(Error::new(Kind::Corrupt, reason)),
            Err(NotOpen::Lost(reason)) => {
                tracing::error!(shard = %shard.id, replica = %replica.id, reason, "replica is lost and must be made anew");
                self.host.close(shard.id.group()).await;
                self.shards.lose(shard.id, replica.id, reason);
                Ok(())
            }
        }
    }

    /// Destroys what the catalog has graves for here; `false` if some of it must be tried again.
    async fn bury(&self, current: &Catalog, catalog: &watch::Receiver<Arc<Catalog>>) -> bool {
        let mut is_done = true;
        let mine = current.graves.iter().filter(|(_, grave)| grave.node == self.node);
        for (&replica, grave) in mine {
            if self.buried.borrow().contains(&replica) {
                continue;
            }
            match self.bury_one(current, replica, *grave, catalog).await {
                Ok(true) => {
                    self.buried.send_if_modified(|buried| buried.insert(replica));
                    self.shards.beat_now();
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(shard = %grave.shard, %replica, %error, "replica was not destroyed yet");
                    is_done = false;
                }
            }
        }
        self.buried.send_if_modified(|buried| {
            let before = buried.len();
            buried.retain(|replica| current.graves.contains_key(replica));
            before != buried.len()
        });
        is_done
    }

    /// Whether nothing is left of the replica.
    async fn bury_one(
        &self,
        current: &Catalog,
        replica: ReplicaId,
        grave: Grave,
        catalog: &watch::Receiver<Arc<Catalog>>,
    ) -> Result<bool> {
        let hosted = self.shards.get(grave.shard).ok().map(|hosted| hosted.replica);
        if hosted.is_some_and(|hosted| hosted > replica) {
            return Ok(true);
        }
        let shard = current.shards.get(&grave.shard);
        let change = shard.and_then(|shard| shard.change).filter(|change| change.new.id == replica);
        // The one that was to come: its leader may have let it in before it heard that the change is given up. Then it stays.
        if let (Some(shard), Some(change)) = (shard, change)
            && self.tombstone(shard.id)?.is_none_or(|last| last < replica)
        {
            let opened = match hosted {
                Some(_) => Ok(()),
                None => self.open(current, shard, change.new, catalog).await,
            };
            match opened {
                Ok(()) if self.stays(current, shard, change.new, catalog).await? => return Ok(false),
                Ok(()) | Err(NotOpen::Lost(_)) => {}
                Err(NotOpen::Fatal(error)) => return Err(error),
            }
        }
        self.destroy(grave.shard, replica).await?;
        Ok(true)
    }

    /// Closes a replica, and opens it again if it has a vote.
    async fn stays(
        &self,
        current: &Catalog,
        shard: &Shard,
        replica: Replica,
        catalog: &watch::Receiver<Arc<Catalog>>,
    ) -> Result<bool> {
        self.shards.remove(shard.id);
        if self.host.close_if_voteless(shard.id.group()).await {
            return Ok(false);
        }
        tracing::info!(shard = %shard.id, replica = %replica.id, "the replica has a vote by now and stays");
        match self.open(current, shard, replica, catalog).await {
            Ok(()) => Ok(true),
            Err(NotOpen::Fatal(error)) => Err(error),
            Err(NotOpen::Lost(reason)) => Err(Error::new(Kind::Corrupt, reason)),
        }
    }

    /// Tombstone first, then what it stands for: a crash in between leaves a replica that is never opened again.
    async fn destroy(&self, shard: ShardId, replica: ReplicaId) -> Result<()> {
        let last = self.tombstone(shard)?.map_or(replica, |last| last.max(replica));
        self.meta.put(&tombstone_key(shard), &last).map_err(internal)?;
        self.shards.remove(shard);
        self.host.destroy(shard.group(), replica.0).await.map_err(internal)?;
        let store = self.store.clone();
        let destroyed = self.threads.blocking(move || store.destroy(shard)).await.map_err(internal)?;
        destroyed.map_err(Error::from)?;
        self.meta.remove(&replica_key(shard)).map_err(internal)?;
        self.shards.forget_lost(shard);
        tracing::info!(%shard, %replica, "replica destroyed");
        Ok(())
    }

    /// The highest replica of the shard that was destroyed here.
    fn tombstone(&self, shard: ShardId) -> Result<Option<ReplicaId>> {
        self.meta.get(&tombstone_key(shard)).map_err(internal)
    }

    /// A replica that was here before but whose log is gone must not come back: it would vote as if it had never acked anything.
    fn check_log(&self, shard: ShardId, replica: ReplicaId) -> std::result::Result<(), NotOpen> {
        let known: Option<ReplicaId> = self.meta.get(&replica_key(shard)).map_err(internal)?;
        if known == Some(replica) && self.journal.group(shard.group()).state().vote.is_none() {
            let dir = self.settings.data_dir.display();
            return Err(NotOpen::Lost(format!("its journal is gone from {dir}")));
        }
        Ok(())
    }

    async fn open(
        &self,
        current: &Catalog,
        shard: &Shard,
        replica: Replica,
        catalog: &watch::Receiver<Arc<Catalog>>,
    ) -> std::result::Result<(), NotOpen> {
        let id = shard.id;
        self.check_log(id, replica.id)?;
        let store = self.store.shard(id).map_err(Error::from)?;
        let role = match id.keyspace {
            Keyspace::Users => {
                let vectors = Vectors::new(self.settings.serving.vector_cache_users);
                Role::Users(Arc::new(Users {
                    machine: UserShard::new(self.hasher),
                    vectors,
                    consents: Default::default(),
                }))
            }
            Keyspace::Items => {
                let view = store.view().map_err(Error::from)?;
                let engine = (self.settings.serving.engine, self.settings.index.clone());
                let items = Items::open(shard.slots, engine, self.models.clone(), &view)?;
                items_role(ItemShard::new(self.hasher), items)
            }
        };
        let machine = Arc::new(ShardMachine::new(store.clone(), role.clone()));
        let group = self.host.open(id.group(), replica.id.0, machine).await;
        let group = group.map_err(|error| not_open(shard, replica, error))?;
        // Only the first replicas begin a log; every later one gets it from the leader.
        if shard.membership == 0 && shard.has(replica.id) {
            let members = shard.replicas.iter().map(|replica| member(current, replica)).collect();
            group.initialize(members).await.map_err(|error| not_open(shard, replica, error))?;
        }
        tracing::info!(shard = %id, replica = %replica.id, "replica opened");
        let hosted = Arc::new(Hosted {
            id,
            replica: replica.id,
            slots: shard.slots,
            group,
            store,
            role,
            departed: Departed::default(),
        });
        self.shards.insert(hosted.clone());
        let steward = Steward {
            hosted,
            catalog: catalog.clone(),
            shards: self.shards.clone(),
            wished: self.wished.clone(),
            gateway: self.gateway.clone(),
            meta: self.meta.clone(),
            node: self.node,
        };
        self.supervisor.spawn("steward", OnExit::FatalIfFailed, steward.run(self.supervisor.clone()));
        Ok(())
    }
}

/// Refuses where the shard can still go on, or could if living nodes were waited for.
fn recoverable(current: &Catalog, log: &ReplicaLog, order: &Recovery) -> Result<()> {
    let refuse = |message: String| Err(Error::new(Kind::Conflict, message));
    let shard = order.shard;
    if log.replica != order.replica {
        return refuse(format!("replica {} of shard {shard} is not on this node; look again", order.replica));
    }
    let alive: Vec<String> = log
        .voters
        .iter()
        .filter(|voter| current.nodes.get(&voter.node).is_some_and(|node| node.is_alive))
        .map(|voter| voter.node.to_string())
        .collect();
    if alive.len() * 2 > log.voters.len() {
        return refuse(format!(
            "shard {shard} has a majority of its replicas on living nodes ({}): it recovers by itself",
            alive.join(", ")
        ));
    }
    if log.last != order.last {
        return refuse(format!(
            "the log of shard {shard} ends at {} here, not at {}; look again",
            log.last, order.last
        ));
    }
    Ok(())
}

/// Damage loses the replica; anything else ends the node.
fn not_open(shard: &Shard, replica: Replica, error: docent_raft::Error) -> NotOpen {
    use docent_raft::Error as Raft;
    let message = format!("cannot open shard {} (replica {}): {error}", shard.id, replica.id);
    match error {
        Raft::Quarantined { .. } | Raft::WrongReplica { .. } | Raft::Malformed { .. } => NotOpen::Lost(message),
        Raft::Machine { source: MachineError::Corrupt { .. }, .. } => NotOpen::Lost(message),
        _ => NotOpen::Fatal(Error::new(Kind::Internal, message)),
    }
}

fn tombstone_key(shard: ShardId) -> String {
    format!("tombstone/{shard}")
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, error.to_string())
}
