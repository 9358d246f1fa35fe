//! What a model version keeps of items, wherever they are: from this node's own indexes, and one call a node for the rest.

use crate::serving::index::Kept;
use crate::shards::Shards;
use docent_placement::SlotHasher;
use docent_proto::internal::Service;
use docent_proto::internal::shard::{Request, Response};
use docent_rpc::Caller;
use docent_runtime::Deadline;
use docent_types::catalog::Catalog;
use docent_types::{Error, ItemId, Keyspace, Kind, NodeId, Result, ShardId, TenantId, codec};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Finds item rows anywhere in the cluster.
#[derive(Clone)]
pub struct ItemRows {
    shards: Arc<Shards>,
    caller: Arc<dyn Caller>,
    catalog: watch::Receiver<Arc<Catalog>>,
    hasher: SlotHasher,
}

/// Rows by item; items without a row in the version are missing.
pub type Rows = BTreeMap<ItemId, Vec<f32>>;

impl ItemRows {
    /// Rows from `shards` first and over `caller` else.
    pub fn new(
        shards: Arc<Shards>,
        caller: Arc<dyn Caller>,
        catalog: watch::Receiver<Arc<Catalog>>,
        hasher: SlotHasher,
    ) -> ItemRows {
        ItemRows { shards, caller, catalog, hasher }
    }

    /// What `version` keeps of `ids`. Fails unless every shard answered: a vector from half a history would be another user's.
    pub async fn get(
        &self,
        tenant: &TenantId,
        version: u64,
        ids: &[ItemId],
        kept: Kept<'_>,
        deadline: Deadline,
    ) -> Result<Rows> {
        let mut rows = Rows::new();
        let mut remote: BTreeMap<ShardId, Vec<ItemId>> = BTreeMap::new();
        for (shard, ids) in self.by_shard(tenant, ids)? {
            match self.shards.items(shard).and_then(|(_, items)| items.serving.index(version)) {
                Ok(index) => {
                    for id in ids {
                        rows.extend(index.kept(id.as_str(), kept)?.map(|row| (id, row)));
                    }
                }
                Err(_) => drop(remote.insert(shard, ids)),
            }
        }
        let mut attempt = 0;
        while !remote.is_empty() {
            if attempt == ATTEMPTS || deadline.is_over() {
                let shard = remote.keys().next().copied();
                let shard = shard.map(|shard| shard.to_string()).unwrap_or_default();
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("no replica of shard {shard} gave its rows of model {version}"),
                ));
            }
            let asked = self.by_node(&remote, attempt);
            // A replica that hangs must leave time for the others.
            let share = deadline.at_most(deadline.remaining() / u32::try_from(ATTEMPTS - attempt).unwrap_or(1));
            let request = |shards| match kept {
                Kept::Row => Request::ItemRows { tenant: tenant.clone(), version, shards },
                Kept::Weights(sources) => {
                    Request::HistoryWeights { tenant: tenant.clone(), version, sources: sources.to_vec(), shards }
                }
            };
            let calls = asked.into_iter().map(|(node, shards)| self.ask(node, request(shards), share));
            for (id, row) in futures::future::join_all(calls).await.into_iter().flatten() {
                let (shard, found) = (id, row);
                let Some(ids) = remote.remove(&shard) else { continue };
                rows.extend(ids.into_iter().zip(found).filter_map(|(id, row)| row.map(|row| (id, row))));
            }
            attempt += 1;
        }
        Ok(rows)
    }

    fn by_shard(&self, tenant: &TenantId, ids: &[ItemId]) -> Result<BTreeMap<ShardId, Vec<ItemId>>> {
        let catalog = self.catalog.borrow().clone();
        let mut by_shard: BTreeMap<ShardId, Vec<ItemId>> = BTreeMap::new();
        for id in ids {
            let slot = self.hasher.slot(tenant, id.as_str());
            let shard = catalog.shard_of(Keyspace::Items, slot);
            let shard = shard.ok_or_else(|| Error::new(Kind::Unavailable, "the cluster has no shards yet"))?;
            by_shard.entry(shard.id).or_default().push(id.clone());
        }
        Ok(by_shard)
    }

    /// One node a shard, another with each attempt, living ones first.
    fn by_node(
        &self,
        remote: &BTreeMap<ShardId, Vec<ItemId>>,
        attempt: usize,
    ) -> BTreeMap<NodeId, Vec<(ShardId, Vec<ItemId>)>> {
        let catalog = self.catalog.borrow().clone();
        let mut by_node: BTreeMap<NodeId, Vec<(ShardId, Vec<ItemId>)>> = BTreeMap::new();
        for (shard, ids) in remote {
            let Some(replicas) = catalog.shards.get(shard).map(|shard| &shard.replicas) else { continue };
            let is_alive = |node: NodeId| catalog.nodes.get(&node).is_some_and(|member| member.is_alive);
            let mut nodes: Vec<NodeId> = replicas.iter().map(|replica| replica.node).collect();
            nodes.sort_by_key(|node| !is_alive(*node));
            if let Some(node) = nodes.get(attempt % nodes.len().max(1)) {
                by_node.entry(*node).or_default().push((*shard, ids.clone()));
            }
        }
        by_node
    }

    async fn ask(&self, node: NodeId, request: Request, deadline: Deadline) -> Vec<(ShardId, Vec<Option<Vec<f32>>>)> {
        let body = codec::encode_in(request.format(), &request);
        let called = self.caller.call(node, Service::Shard, body, deadline).await;
        match called.and_then(|bytes| codec::decode("item rows", &bytes)) {
            Ok(Response::Rows(rows)) => {
                rows.into_iter().filter_map(|(shard, rows)| Some((shard, rows.ok()?))).collect()
            }
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::debug!(%node, %error, "item rows were not given");
                Vec::new()
            }
        }
    }
}

/// Rounds over a shard's replicas.
const ATTEMPTS: usize = 3;
