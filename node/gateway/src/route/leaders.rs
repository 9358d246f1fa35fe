//! Which replica leads a shard, as far as this node knows: learnt from answers and hints, forgotten on failures.

use docent_types::{NodeId, ShardId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A cache of leaders. Always a guess: the group itself is the truth.
#[derive(Debug)]
pub(crate) struct Leaders {
    known: Mutex<BTreeMap<ShardId, Known>>,
    /// Wakes searches when a leader has answered, or a local replica has heard of one.
    confirmed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Known {
    leader: Option<NodeId>,
    /// Who led last for certain, and how often that was news.
    confirmed: Option<NodeId>,
    news: u64,
    /// Whether a search asks around for it; the others wait for what that one finds.
    is_scouted: bool,
}

impl Default for Leaders {
    fn default() -> Self {
        Leaders { known: Mutex::default(), confirmed: watch::channel(()).0 }
    }
}

/// The right to ask around for a shard's leader.
#[derive(Debug)]
pub(crate) struct Scout<'a> {
    leaders: &'a Leaders,
    shard: ShardId,
}

impl Drop for Scout<'_> {
    fn drop(&mut self) {
        self.leaders.locked().entry(self.shard).or_default().is_scouted = false;
    }
}

impl Leaders {
    /// The presumed leader.
    pub(crate) fn get(&self, shard: ShardId) -> Option<NodeId> {
        self.locked().get(&shard).and_then(|known| known.leader)
    }

    /// Notes a leader by hearsay.
    pub(crate) fn set(&self, shard: ShardId, leader: NodeId) {
        self.locked().entry(shard).or_default().leader = Some(leader);
    }

    /// Notes a leader for certain: it answered after a search (`is_found`), or a local replica follows it.
    pub(crate) fn confirm(&self, shard: ShardId, leader: NodeId, is_found: bool) {
        let is_news = {
            let mut known = self.locked();
            let known = known.entry(shard).or_default();
            let is_news = is_found || known.confirmed != Some(leader);
            (known.leader, known.confirmed) = (Some(leader), Some(leader));
            known.news += u64::from(is_news);
            is_news
        };
        if is_news {
            self.confirmed.send_replace(());
        }
    }

    /// How often it was news who leads `shard`.
    pub(crate) fn news(&self, shard: ShardId) -> u64 {
        self.locked().get(&shard).map_or(0, |known| known.news)
    }

    /// Ends when there are more news than `seen`.
    pub(crate) async fn more_news(&self, shard: ShardId, seen: u64) {
        let mut confirmed = self.confirmed.subscribe();
        while self.news(shard) <= seen && confirmed.changed().await.is_ok() {}
    }

    /// The right to ask around for the leader of `shard`, if nobody has it.
    pub(crate) fn scout(&self, shard: ShardId) -> Option<Scout<'_>> {
        let was_scouted = std::mem::replace(&mut self.locked().entry(shard).or_default().is_scouted, true);
        (!was_scouted).then_some(Scout { leaders: self, shard })
    }

    /// Forgets `node` as the leader; another that was learnt meanwhile stays.
    pub(crate) fn forget(&self, shard: ShardId, node: NodeId) {
        if let Some(known) = self.locked().get_mut(&shard) {
            known.leader = known.leader.filter(|leader| *leader != node);
        }
    }

    /// All that is known.
    pub(crate) fn all(&self) -> BTreeMap<ShardId, NodeId> {
        self.locked().iter().filter_map(|(shard, known)| Some((*shard, known.leader?))).collect()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<ShardId, Known>> {
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

    #[tokio::test]
    async fn a_search_wakes_when_a_leader_is_certain_and_not_by_hearsay() {
        let shard = ShardId { keyspace: Keyspace::Users, index: 0 };
        let leaders = Leaders::default();
        leaders.confirm(shard, NodeId(1), false);
        let seen = leaders.news(shard);
        leaders.set(shard, NodeId(2));
        leaders.confirm(shard, NodeId(1), false);
        assert_eq!(leaders.news(shard), seen, "what was known is no news");
        let ((), ()) = tokio::join!(leaders.more_news(shard, seen), async { leaders.confirm(shard, NodeId(2), false) });
        let seen = leaders.news(shard);
        let ((), ()) = tokio::join!(leaders.more_news(shard, seen), async { leaders.confirm(shard, NodeId(2), true) });
    }

    #[test]
    fn one_search_a_shard_asks_around() {
        let shard = ShardId { keyspace: Keyspace::Users, index: 0 };
        let leaders = Leaders::default();
        let scout = leaders.scout(shard);
        assert!(scout.is_some() && leaders.scout(shard).is_none());
        drop(scout);
        assert!(leaders.scout(shard).is_some());
    }
}
