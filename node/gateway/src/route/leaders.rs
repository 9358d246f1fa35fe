//! Which replica leads a shard, as far as this node knows: learnt from answers and hints, forgotten on failures.

use docent_types::{NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A cache of leaders. Always a guess: the group itself is the truth.
#[derive(Debug, Default)]
pub(crate) struct Leaders {
    known: Mutex<BTreeMap<ShardId, NodeId>>,
}

impl Leaders {
    /// The presumed leader.
    pub(crate) fn get(&self, shard: ShardId) -> Option<NodeId> {
        self.locked().get(&shard).copied()
    }

    /// Notes a leader.
    pub(crate) fn set(&self, shard: ShardId, leader: NodeId) {
        self.locked().insert(shard, leader);
    }

    /// Forgets `node` as the leader; another that was learnt meanwhile stays.
    pub(crate) fn forget(&self, shard: ShardId, node: NodeId) {
        let mut known = self.locked();
        if known.get(&shard) == Some(&node) {
            known.remove(&shard);
        }
    }

    /// All that is known.
    pub(crate) fn all(&self) -> BTreeMap<ShardId, NodeId> {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<ShardId, NodeId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::Keyspace;

    #[test]
    fn forgetting_a_deposed_leader_keeps_its_successor() {
        let shard = ShardId { keyspace: Keyspace::Users, index: 0 };
        let leaders = Leaders::default();
        leaders.set(shard, NodeId(1));
        leaders.set(shard, NodeId(2));
        leaders.forget(shard, NodeId(1));
        assert_eq!(leaders.get(shard), Some(NodeId(2)));
        leaders.forget(shard, NodeId(2));
        assert_eq!(leaders.get(shard), None);
    }
}
