//! Opens the replicas that the catalog places on this node.

use crate::machine::{ShardMachine, items_role};
use crate::serving::items::Items;
use crate::serving::models::Models;
use crate::serving::vectors::Vectors;
use crate::settings::Settings;
use crate::shards::{Hosted, Role, Shards, Users};
use docent_gateway::Gateway;
use docent_journal::Journal;
use docent_meta::Meta;
use docent_placement::SlotHasher;
use docent_raft::{Group, Host, Member};
use docent_runtime::{OnExit, Supervisor};
use docent_shard::{ItemShard, UserShard};
use docent_store::Store;
use docent_types::catalog::{Catalog, Replica, Shard};
use docent_types::{Error, Keyspace, Kind, NodeId, ReplicaId, Result, ShardId};
use std::sync::Arc;
use tokio::sync::watch;

/// What is needed to open a replica.
#[derive(Clone)]
pub struct Replicas {
    /// This node.
    pub node: NodeId,
    /// Which replicas were opened here.
    pub meta: Meta,
    /// Their logs.
    pub journal: Journal,
    /// The raft groups.
    pub host: Host,
    /// The materialised states.
    pub store: Store,
    /// Where opened replicas are entered.
    pub shards: Arc<Shards>,
    /// Loaded versions.
    pub models: Arc<Models>,
    /// The cluster's slot hash.
    pub hasher: SlotHasher,
    /// The node's settings.
    pub settings: Arc<Settings>,
    /// Told of each shard's leader, so that it need not search.
    pub gateway: Gateway,
    /// Runs the watches.
    pub supervisor: Supervisor,
}

impl Replicas {
    /// Follows the catalog for the life of the process.
    pub async fn follow(self, mut catalog: watch::Receiver<Arc<Catalog>>) -> Result<()> {
        loop {
            let current = catalog.borrow_and_update().clone();
            for shard in current.shards.values() {
                let mine = shard.replicas.iter().find(|replica| replica.node == self.node);
                if let Some(replica) = mine
                    && self.shards.get(shard.id).is_err()
                {
                    self.open(&current, shard, *replica).await?;
                }
            }
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { return Ok(()) },
                () = self.supervisor.cancelled() => return Ok(()),
            }
        }
    }

    /// A replica that was here before but whose log is gone must not come back: it would vote as if it had never acked anything.
    fn check_log(&self, shard: &Shard, replica: Replica) -> Result<()> {
        let key = format!("replica/{}", shard.id);
        let internal = |error: docent_meta::Error| Error::new(Kind::Internal, error.to_string());
        let known: Option<ReplicaId> = self.meta.get(&key).map_err(internal)?;
        if known == Some(replica.id) && self.journal.group(shard.id.group()).state().vote.is_none() {
            let message = format!(
                "the journal of shard {} (replica {}) is gone from {}: start this node with an empty data directory and a new token",
                shard.id,
                replica.id,
                self.settings.data_dir.display()
            );
            return Err(Error::new(Kind::Corrupt, message));
        }
        Ok(())
    }

    async fn open(&self, catalog: &Catalog, shard: &Shard, replica: Replica) -> Result<()> {
        self.check_log(shard, replica)?;
        let store = self.store.shard(shard.id).map_err(Error::from)?;
        let role = match shard.id.keyspace {
            Keyspace::Users => {
                let vectors = Vectors::new(self.settings.serving.vector_cache_users);
                Role::Users(Arc::new(Users { machine: UserShard::new(self.hasher), vectors }))
            }
            Keyspace::Items => {
                let view = store.view().map_err(Error::from)?;
                let engine = (self.settings.serving.engine, self.settings.index.clone());
                let items = Items::open(shard.slots, engine, self.models.clone(), &view)?;
                items_role(ItemShard::new(self.hasher), items)
            }
        };
        let machine = Arc::new(ShardMachine::new(store.clone(), role.clone()));
        let fatal = |error: docent_raft::Error| {
            Error::new(Kind::Internal, format!("cannot open shard {} (replica {}): {error}", shard.id, replica.id))
        };
        let group = self.host.open(shard.id.group(), replica.id.0, machine).await.map_err(fatal)?;
        group.initialize(members(catalog, shard)).await.map_err(fatal)?;
        if self.journal.group(shard.id.group()).state().vote.is_some() {
            let kept = self.meta.put(&format!("replica/{}", shard.id), &replica.id);
            kept.map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        }
        tracing::info!(shard = %shard.id, replica = %replica.id, "replica opened");
        let told = tell_leader(shard.id, group.clone(), self.gateway.clone(), self.supervisor.clone());
        self.supervisor.spawn("leader watch", OnExit::Log, told);
        self.shards.insert(Arc::new(Hosted {
            id: shard.id,
            replica: replica.id,
            slots: shard.slots,
            group,
            store,
            role,
        }));
        Ok(())
    }
}

/// Tells the gateway of each new leader of a hosted shard.
async fn tell_leader(shard: ShardId, group: Group, gateway: Gateway, supervisor: Supervisor) -> Result<()> {
    let mut status = group.watch();
    loop {
        let leader = status.borrow_and_update().leader.as_ref().map(|leader| NodeId(leader.node));
        if let Some(leader) = leader {
            gateway.note_leader(shard, leader);
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            () = supervisor.cancelled() => return Ok(()),
        }
    }
}

/// The first voters of a shard, as the catalog places them.
fn members(catalog: &Catalog, shard: &Shard) -> Vec<Member> {
    let address =
        |node: NodeId| catalog.nodes.get(&node).map(|member| member.internal_addr.clone()).unwrap_or_default();
    let member = |r: &Replica| Member { replica: r.id.0, node: r.node.0, addr: address(r.node) };
    shard.replicas.iter().map(member).collect()
}
