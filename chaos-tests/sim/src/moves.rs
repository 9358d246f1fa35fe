//! Replicas on their way: what the newest catalog says of them, and how far their groups are.

use crate::cluster::{Cluster, Life, group};
use crate::shape;
use docent_raft::Status;
use docent_trial::history::Observed;
use docent_trial::schedule::MovePhase;
use docent_trial::{Group, Member};
use docent_types::NodeId;
use docent_types::catalog::{Catalog, ModelState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A replica on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    from: Option<Member>,
    to: Member,
    /// The replica that comes.
    new: u64,
}

/// What is on its way, and what was last.
#[derive(Default)]
pub struct Moves {
    catalog: Arc<Catalog>,
    now: BTreeMap<Group, Way>,
    last: Option<(Group, Way)>,
}

impl Moves {
    /// Source and target of the move that is under way, or was last: a replica that leaves is still there when the catalog has done with it.
    pub fn parties(&self) -> Option<(Option<Member>, Option<Member>)> {
        self.last.map(|(_, way)| (way.from, Some(way.to)))
    }
}

impl Cluster {
    /// Looks at the newest catalog that a living coordinator has, and tells which moves began and ended.
    pub fn follow_moves(&mut self) {
        let known = self.hosts.values().filter_map(|host| host.body.catalog()).max_by_key(|catalog| catalog.index);
        let Some(catalog) = known.filter(|catalog| catalog.index > self.moves.catalog.index) else { return };
        let at = self.now();
        let before = std::mem::take(&mut self.moves.now);
        for shard in catalog.shards.values() {
            let (Some(change), group) = (shard.change, group(shard.id.group())) else { continue };
            let old = shard.replicas.iter().find(|replica| Some(replica.id) == change.old);
            let Some(to) = self.member_of(&catalog, change.new.node) else { continue };
            let from = old.and_then(|old| self.member_of(&catalog, old.node));
            // The catalog shows the new replicas before it has done with the change.
            let way = before.get(&group).copied().filter(|way| way.new == change.new.id.0);
            let way = way.unwrap_or(Way { from, to, new: change.new.id.0 });
            if self.moves.now.insert(group, way).is_none() && before.get(&group) != Some(&way) {
                self.seen.push((at, Observed::Move { shard: group, from: way.from, to: way.to, is_over: false }));
                self.moves.last = Some((group, way));
            }
        }
        for (shard, way) in before.iter().filter(|(group, way)| self.moves.now.get(group) != Some(way)) {
            self.seen.push((at, Observed::Move { shard: *shard, from: way.from, to: way.to, is_over: true }));
        }
        self.moves.catalog = catalog;
    }

    fn member_of(&self, catalog: &Catalog, node: NodeId) -> Option<Member> {
        let addr = &catalog.nodes.get(&node)?.internal_addr;
        let found = self.hosts.iter().find(|(_, host)| shape::internal_addr(host.body.host) == *addr);
        found.map(|(member, _)| *member)
    }

    /// Whether the last move is so far.
    pub fn is_moving(&self, phase: MovePhase) -> bool {
        let Some((group, way)) = self.moves.last else { return false };
        let is_begun = self.moves.now.contains_key(&group);
        let leader = self.leader_of(group);
        let learns = |leader: &Status| leader.members.iter().any(|one| one.member.replica == way.new && !one.is_voter);
        match phase {
            MovePhase::Begun => is_begun,
            MovePhase::Learner => is_begun && leader.is_some_and(|leader| learns(&leader)),
            // Joint memberships are too short to be met: that the learner has what the leader has is taken for one, as in the lab.
            MovePhase::Joint => leader.is_some_and(|leader| {
                let has_all = leader.matched.get(&way.new).is_some_and(|matched| *matched == leader.last_log);
                leader.is_joint || (learns(&leader) && has_all)
            }),
            MovePhase::Leaving => leader.is_some_and(|leader| !leader.is_joint && leader.voters.contains(&way.new)),
        }
    }

    /// What the leader of a group says; of several that believe to lead, the one of the highest term.
    fn leader_of(&self, wanted: Group) -> Option<Status> {
        let up = self.hosts.values().filter(|host| host.life == Life::Up);
        let statuses = up.flat_map(|host| host.body.groups());
        statuses.filter(|status| group(status.group) == wanted && status.is_leader()).max_by_key(|status| status.term)
    }

    /// Of several sources the newest replica goes, so that the same order twice moves it there and back; of several targets the first that
    /// has none gets it.
    pub fn way_of(&self, shard: Group, from: &BTreeSet<Member>, to: &BTreeSet<Member>) -> Option<(Member, Member)> {
        let replica = |member: &Member| {
            let groups = self.hosts.get(member)?.body.groups();
            groups.into_iter().find(|status| group(status.group) == shard).map(|status| status.replica)
        };
        let is_up = |member: &&Member| self.hosts.get(*member).is_some_and(|host| host.life == Life::Up);
        let source = from.iter().filter(|member| replica(member).is_some()).max_by_key(|member| replica(member));
        let target = to.iter().filter(is_up).find(|member| replica(member).is_none());
        source.copied().zip(target.copied())
    }

    /// The newest version that waits to go live, or was live.
    pub fn waiting_version(&self) -> Option<u64> {
        let waits = |state: ModelState| matches!(state, ModelState::Staged | ModelState::Retired);
        self.moves.catalog.models.values().filter(|model| waits(model.state)).map(|model| model.version).max()
    }

    /// Whether a version waits for its activation.
    pub fn is_staged(&self) -> bool {
        self.moves.catalog.models.values().any(|model| model.state == ModelState::Staged)
    }
}
