//! The cluster and models: read from the catalog that every node watches, changed through the coordinator.

use crate::gateway::Gateway;
use crate::route::Repeat;
use docent_proto::internal::coordinator::{Request as Ask, Response as Told};
use docent_proto::internal::shard::Request;
use docent_runtime::Deadline;
use docent_types::catalog::{Activation, Catalog, Model};
use docent_types::command::ItemCommand;
use docent_types::placement::{PlacementChange, PlannedMove};
use docent_types::{Error, Keyspace, Kind, NodeId, Result, ShardId, UserId};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The catalog as that node knows it.
    pub catalog: Arc<Catalog>,
    /// The node that answers.
    pub node: NodeId,
    /// Leaders that it knows.
    pub leaders: BTreeMap<ShardId, NodeId>,
    /// Whether every shard has one.
    pub is_ready: bool,
}

/// How long a look for unknown leaders takes at most.
const PROBE: Duration = Duration::from_millis(1_000);
/// How long a change waits to be seen in this node's own catalog, so that the next read shows it.
pub(crate) const SEEN: Duration = Duration::from_millis(2_000);

impl Gateway {
    /// The cluster as this node sees it.
    ///
    /// # Errors
    /// None so far; `Overloaded` when too many requests are at work.
    pub async fn cluster(&self) -> Result<ClusterStatus> {
        let work = async {
            let is_ready = self.probe().await;
            let catalog = self.shared.route.catalog.borrow().clone();
            let mut leaders = self.shared.route.leaders.all();
            leaders.retain(|shard, _| catalog.shards.contains_key(shard));
            Ok(ClusterStatus { is_ready, catalog, node: self.shared.route.me, leaders })
        };
        self.admit("get_cluster", work).await
    }

    /// Why this node should get no requests now, `None` where it is ready: it does not drain, its own replicas take part, and every
    /// shard has a leader that it knows.
    pub async fn unready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("draining".to_owned());
        }
        if let Some(lack) = self.lack() {
            return Some(format!("not ready: {lack}"));
        }
        (!self.probe().await).then(|| "not ready: some shard has no leader yet".to_owned())
    }

    /// Looks for leaders that are not known; `true` once all are.
    async fn probe(&self) -> bool {
        let Ok(view) = self.view() else { return false };
        let known = self.shared.route.leaders.all();
        let unknown = view.catalog.shards.keys().filter(|shard| !known.contains_key(shard));
        let looks = unknown.map(|shard| self.find_leader(*shard));
        join_all(looks).await.into_iter().all(|outcome| outcome.is_ok())
    }

    /// Asks something that only a leader answers. Item shards have no such read: an empty write does.
    async fn find_leader(&self, shard: ShardId) -> Result<()> {
        let tenant = self.tenant();
        let request = match shard.keyspace {
            Keyspace::Users => Request::GetUser { shard, tenant, user_id: UserId::new("docent-probe")? },
            Keyspace::Items => {
                Request::WriteItems { shard, command: ItemCommand::Ensure { tenant, item_ids: Vec::new() } }
            }
        };
        self.shared.route.leader(shard, &request, Repeat::Deduplicated, Deadline::after(PROBE)).await.map(|_| ())
    }

    /// All models, by version, each with the reason why it does not become live by itself.
    ///
    /// # Errors
    /// `Overloaded` when too many requests are at work.
    pub async fn models(&self) -> Result<Vec<(Model, Option<String>)>> {
        let work = async {
            let catalog = self.shared.route.catalog.borrow().clone();
            Ok(catalog.models.values().map(|model| (model.clone(), catalog.held_back(model))).collect())
        };
        self.admit("list_models", work).await
    }

    /// Makes a staged or retired version live; one that is worse than the live one only by force.
    ///
    /// # Errors
    /// `Conflict` when it is worse; the coordinator's: `NotFound`, `Conflict` when it is not staged, `Unavailable`.
    pub async fn activate(&self, version: u64, is_forced: bool) -> Result<Activation> {
        let work = async {
            let catalog = self.shared.route.catalog.borrow().clone();
            let worse = catalog.models.get(&version).and_then(|model| catalog.worse_than_live(model));
            if let Some(why) = worse.filter(|_| !is_forced) {
                let message = format!("version {version} is not made live: {why}; say force to do it all the same");
                return Err(Error::new(Kind::Conflict, message));
            }
            self.change_live(Ask::Activate(version)).await
        };
        self.admit_write("activate_model", work).await
    }

    /// Makes the previous version live.
    ///
    /// # Errors
    /// The coordinator's: `Conflict` when there is none.
    pub async fn rollback(&self) -> Result<Activation> {
        self.admit_write("rollback_model", self.change_live(Ask::Rollback)).await
    }

    async fn change_live(&self, ask: Ask) -> Result<Activation> {
        match self.shared.coordinators.call(ask, self.write_deadline()).await? {
            Told::Activated(activation) => {
                self.wait_catalog(SEEN, |catalog| catalog.live.is_some_and(|live| live.epoch >= activation.epoch))
                    .await;
                Ok(activation)
            }
            _ => Err(unfitting()),
        }
    }

    /// Changes where replicas live, or with `is_dry_run` only tells the moves that it would lead to.
    ///
    /// # Errors
    /// The coordinator's: `NotFound`, `Conflict` with what has to be done first.
    pub async fn change_placement(&self, change: PlacementChange, is_dry_run: bool) -> Result<Vec<PlannedMove>> {
        let work = async {
            match self.shared.coordinators.call(Ask::Place { change, is_dry_run }, self.write_deadline()).await? {
                Told::Moves(moves) => Ok(moves),
                _ => Err(unfitting()),
            }
        };
        self.admit_write("change_placement", work).await
    }

    /// Waits until this node's catalog satisfies `is_there`, at most `within`.
    pub(crate) async fn wait_catalog(&self, within: Duration, is_there: impl Fn(&Catalog) -> bool) -> bool {
        let mut catalog = self.shared.route.catalog.clone();
        let seen = tokio::time::timeout(within, catalog.wait_for(|catalog| is_there(catalog))).await;
        matches!(seen, Ok(Ok(_)))
    }
}

pub(crate) fn unfitting() -> Error {
    Error::new(Kind::Internal, "the coordinator answered another question than was asked")
}
