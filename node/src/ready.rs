//! When this node is ready: everything that the catalog places here is open, has caught up, and can answer with the live model.
//!
//! A rolling restart stops the next node as soon as this one is ready: a group of three would be without a quorum if its replica here
//! were still behind. Once ready, a node stays so: what falls behind later is told by coverage and refused by staleness.

use crate::membership::Staged;
use crate::shards::Shards;
use docent_gateway::Gateway;
use docent_types::catalog::Catalog;
use docent_types::{NodeId, Result, ShardId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Looks at one node.
pub(crate) struct Readiness {
    pub(crate) node: NodeId,
    pub(crate) catalog: watch::Receiver<Arc<Catalog>>,
    pub(crate) shards: Arc<Shards>,
    pub(crate) staged: Staged,
    pub(crate) gateway: Gateway,
    /// A replica is caught up if it had everything of its leader so lately.
    pub(crate) behind_ms_max: u64,
}

impl Readiness {
    /// Tells the gateway what is lacking until nothing is.
    pub(crate) async fn run(self) -> Result<()> {
        loop {
            let catalog = self.catalog.borrow().clone();
            let lack = self.lack(&catalog);
            let is_ready = lack.is_none();
            self.gateway.note_lack(lack);
            if is_ready {
                tracing::info!("everything placed on this node is caught up");
                return Ok(());
            }
            tokio::time::sleep(LOOK).await; // until the next look
        }
    }

    fn lack(&self, catalog: &Catalog) -> Option<String> {
        let placed: Vec<ShardId> =
            catalog.shards.values().filter(|shard| shard.is_on(self.node)).map(|shard| shard.id).collect();
        placed.iter().find_map(|shard| self.lack_of(*shard)).or_else(|| self.lack_of_model(catalog, &placed))
    }

    fn lack_of(&self, shard: ShardId) -> Option<String> {
        let Ok(hosted) = self.shards.get(shard) else {
            return Some(match self.shards.lost(shard) {
                Some(replica) => format!("replica {replica} of shard {shard} is lost and is being made anew"),
                None => format!("the replica of shard {shard} is not open yet"),
            });
        };
        match hosted.group.millis_since_leader_contact() {
            Some(ms) if ms <= self.behind_ms_max => None,
            _ => Some(format!("the replica of shard {shard} has not caught up with its leader yet")),
        }
    }

    /// A version that this node has refused will never be here; the coordinator knows.
    fn lack_of_model(&self, catalog: &Catalog, placed: &[ShardId]) -> Option<String> {
        let version = catalog.live?.version;
        let staged = self.staged.borrow();
        if staged.refused.contains_key(&version) {
            return None;
        }
        let ready = staged.ready.get(&version);
        let lacking = placed.iter().find(|shard| ready.is_none_or(|ready| !ready.contains(shard)));
        lacking.map(|shard| format!("shard {shard} cannot answer with model version {version} yet"))
    }
}
