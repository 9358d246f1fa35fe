//! One request's view of the catalog: where ids live, which replicas there are, which version is live.

use docent_placement::SlotHasher;
use docent_types::catalog::{Catalog, Shard};
use docent_types::{Error, ItemId, Keyspace, Kind, NodeId, Result, ShardId, TenantId, UserId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A catalog and the hash of its cluster. Fixed for a request, so that its version and its map are of one moment.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The catalog.
    pub(crate) catalog: Arc<Catalog>,
    hasher: SlotHasher,
}

impl View {
    /// Fails while the cluster has no shards yet.
    pub(crate) fn new(catalog: Arc<Catalog>) -> Result<View> {
        let unborn =
            || Error::new(Kind::Unavailable, "the cluster has no shards yet: it waits for its first nodes to join");
        let hasher = SlotHasher::new(&catalog.cluster.as_ref().ok_or_else(unborn)?.placement_key);
        if catalog.shards.is_empty() {
            return Err(unborn());
        }
        Ok(View { catalog, hasher })
    }

    /// The home of a user.
    pub(crate) fn user_shard(&self, tenant: &TenantId, user_id: &UserId) -> Result<ShardId> {
        self.shard(Keyspace::Users, tenant, user_id.as_str())
    }

    /// The home of an item.
    pub(crate) fn item_shard(&self, tenant: &TenantId, item_id: &ItemId) -> Result<ShardId> {
        self.shard(Keyspace::Items, tenant, item_id.as_str())
    }

    fn shard(&self, keyspace: Keyspace, tenant: &TenantId, id: &str) -> Result<ShardId> {
        let slot = self.hasher.slot(tenant, id);
        let shard = self.catalog.shard_of(keyspace, slot).map(|shard| shard.id);
        shard.ok_or_else(|| Error::new(Kind::Unavailable, format!("slot {} has no shard in the catalog", slot.0)))
    }

    /// Groups items by their shard, keeping the order.
    pub(crate) fn by_item_shard<T>(
        &self,
        tenant: &TenantId,
        values: impl IntoIterator<Item = T>,
        id: impl Fn(&T) -> &ItemId,
    ) -> Result<BTreeMap<ShardId, Vec<T>>> {
        let mut groups: BTreeMap<ShardId, Vec<T>> = BTreeMap::new();
        for value in values {
            groups.entry(self.item_shard(tenant, id(&value))?).or_default().push(value);
        }
        Ok(groups)
    }

    /// All shards of a keyspace.
    pub(crate) fn shards(&self, keyspace: Keyspace) -> Vec<ShardId> {
        self.catalog.shards_of(keyspace).map(|shard| shard.id).collect()
    }

    /// Where the shard's replicas are, by the catalog.
    pub(crate) fn replicas(&self, shard: ShardId) -> Vec<NodeId> {
        let nodes = |shard: &Shard| shard.replicas.iter().map(|replica| replica.node).collect();
        self.catalog.shards.get(&shard).map(nodes).unwrap_or_default()
    }

    /// Whether the coordinator has heard of the node lately. A hint: without a coordinator quorum it is frozen.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        self.catalog.nodes.get(&node).is_some_and(|member| member.is_alive)
    }

    /// The live version, 0 while there is none.
    pub(crate) fn version(&self) -> u64 {
        self.catalog.live.map_or(0, |live| live.version)
    }

    /// The live activation's epoch, 0 while there is none.
    pub(crate) fn epoch(&self) -> u64 {
        self.catalog.live.map_or(0, |live| live.epoch)
    }

    /// Whether the replica is known to hold the version.
    pub(crate) fn has_staged(&self, version: u64, shard: ShardId, node: NodeId) -> bool {
        self.catalog.models.get(&version).is_some_and(|model| model.staged.contains(&(shard, node)))
    }
}
