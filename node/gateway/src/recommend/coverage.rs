//! Pure: how much of the catalogue an answer saw. What did not answer is told, never hidden.

use docent_proto::internal::shard::ShardHits;
use docent_types::query::{Coverage, Degraded};
use docent_types::sabotage::{Bug, is};
use docent_types::{NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// Collects what each asked shard said in each phase of a query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    asked: BTreeSet<ShardId>,
    missing: BTreeSet<ShardId>,
    items: BTreeMap<ShardId, u64>,
    stale: BTreeMap<ShardId, NodeId>,
    user_state: Option<ShardId>,
}

impl Tally {
    /// A phase asks these shards.
    pub(crate) fn ask(&mut self, shards: impl IntoIterator<Item = ShardId>) {
        self.asked.extend(shards);
    }

    /// A shard answered. Where two phases did, the one that saw more items counts.
    pub(crate) fn answered(&mut self, shard: ShardId, node: NodeId, hits: &ShardHits) {
        let items = self.items.entry(shard).or_default();
        *items = hits.items.max(*items);
        if hits.is_stale {
            self.stale.insert(shard, node);
        }
    }

    /// A shard did not answer a phase.
    pub(crate) fn missed(&mut self, shard: ShardId) {
        if !is(Bug::MergeIgnoresMissingShard) {
            self.missing.insert(shard);
        }
    }

    /// The user's shard had no leader in time, or its leader could not solve the vector in time.
    pub(crate) fn without_user_state(&mut self, shard: ShardId) {
        self.user_state = Some(shard);
    }

    /// Whether no asked shard answered any phase.
    pub(crate) fn is_blind(&self) -> bool {
        !self.asked.is_empty() && self.items.is_empty()
    }

    /// What the answer says. A shard counts as answered only if it answered every phase that asked it.
    pub(crate) fn finish(self) -> Coverage {
        let missing = self.missing.iter().map(|shard| Degraded::MissingShard { shard: *shard });
        let stale = self.stale.iter().map(|(shard, node)| Degraded::StaleItems { shard: *shard, node: *node });
        let user = self.user_state.iter().map(|shard| Degraded::UserState { shard: *shard });
        Coverage {
            asked: self.asked.len() as u32,
            answered: (self.asked.len() - self.missing.len()) as u32,
            items: self.items.values().sum(),
            degraded: user.chain(missing).chain(stale).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::Keyspace;

    fn shard(index: u16) -> ShardId {
        ShardId { keyspace: Keyspace::Items, index }
    }

    fn hits(items: u64, is_stale: bool) -> ShardHits {
        ShardHits { hits: Vec::new(), items, applied: 1, is_stale }
    }

    #[test]
    fn a_shard_that_missed_one_phase_is_missing() {
        let mut tally = Tally::default();
        tally.ask([shard(0), shard(1), shard(2)]);
        tally.answered(shard(0), NodeId(1), &hits(10, false));
        tally.answered(shard(1), NodeId(2), &hits(5, true));
        tally.missed(shard(2));
        tally.answered(shard(2), NodeId(3), &hits(7, false));
        let coverage = tally.finish();
        assert_eq!((coverage.asked, coverage.answered, coverage.items), (3, 2, 22));
        let stale = Degraded::StaleItems { shard: shard(1), node: NodeId(2) };
        assert_eq!(coverage.degraded, [Degraded::MissingShard { shard: shard(2) }, stale]);
    }

    #[test]
    fn no_answer_at_all_is_no_answer() {
        let mut tally = Tally::default();
        tally.ask([shard(0)]);
        tally.missed(shard(0));
        assert!(tally.is_blind());
    }
}
