//! The steward of one replica: while it leads, it makes the group what the catalog says, one step at a time.
//!
//! [`next`] is pure: (group's status, catalog) -> step. Each step can be taken again, by whoever leads then, so that nothing is lost
//! with a leader, and a leader with an old catalog does no harm: it swaps voters only from the set that its catalog names, and no set
//! ever comes back because replica ids are never reused.

use crate::shards::{Hosted, Shards};
use docent_gateway::Gateway;
use docent_meta::Meta;
use docent_placement::leaders;
use docent_placement::moves::Placed;
use docent_raft::{Error, Member, Status};
use docent_runtime::Supervisor;
use docent_types::catalog::{Catalog, Replica, Shard};
use docent_types::placement::NodeState;
use docent_types::{NodeId, Result, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A new replica is caught up when it lacks at most so many entries: it gets the rest while it already votes.
const LAG_MAX: u64 = 64;
/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// Pause after a step that failed.
const RETRY: Duration = Duration::from_millis(250);
/// A leader stays for so long before it hands over only to even the load: after a restart leaderships must not go to and fro.
const TENURE: Duration = Duration::from_secs(10);

/// What a leader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, or something that has to become true first.
    Wait,
    /// Ask again for the voters to which a change that is half done leads.
    Finish(BTreeSet<u64>),
    /// Let a replica catch up without a vote.
    Add(Replica),
    /// Forget a replica that has no vote and that the catalog does not want.
    Drop(u64),
    /// Change the voters in one joint step.
    Swap(BTreeSet<u64>),
    /// Give the leadership to a replica, because this one goes or its node drains.
    HandOver(u64),
    /// The same, only to even the load.
    Balance(u64),
}

/// The next step of a leader, by its group's `status`, its shard in the catalog, whether the replica that comes can answer with the live
/// model, which node should lead, and which nodes live: a group that is handed to one that hangs takes no writes until it elects another.
pub(crate) fn next(
    status: &Status,
    shard: &Shard,
    is_ready: bool,
    wished: Option<NodeId>,
    is_leaving: bool,
    is_alive: impl Fn(NodeId) -> bool,
) -> Step {
    if !status.is_leader() || status.membership_index > status.committed {
        return Step::Wait;
    }
    if status.is_joint {
        return Step::Finish(status.voters.iter().copied().collect());
    }
    let voters: BTreeSet<u64> = status.voters.iter().copied().collect();
    let change = shard.change.filter(|change| !change.is_cancelled);
    let unwanted = status
        .members
        .iter()
        .find(|member| !member.is_voter && change.is_none_or(|change| change.new.id.0 != member.member.replica));
    if let Some(unwanted) = unwanted {
        return Step::Drop(unwanted.member.replica);
    }
    let known: BTreeSet<u64> = shard.replicas.iter().map(|replica| replica.id.0).collect();
    if let Some(change) = change.filter(|_| voters == known) {
        let is_member = status.members.iter().any(|member| member.member.replica == change.new.id.0);
        return match is_member {
            false => Step::Add(change.new),
            true if !is_near(status, change.new.id.0) || !is_ready => Step::Wait,
            true if change.old.is_some_and(|old| old.0 == status.replica) => {
                hand_over(status, |node| is_alive(NodeId(node)))
            }
            true => Step::Swap(shard.target().iter().map(|replica| replica.id.0).collect()),
        };
    }
    let is_wished = |node: u64| wished.is_some_and(|wished| wished.0 == node) && is_alive(NodeId(node));
    match status.leader.as_ref().is_some_and(|me| is_wished(me.node)) || wished.is_none() {
        true => Step::Wait,
        false => match hand_over(status, is_wished) {
            Step::HandOver(to) if !is_leaving => Step::Balance(to),
            step => step,
        },
    }
}

/// Hands over to the voter that has most of the log, of those on nodes that `may` lead.
fn hand_over(status: &Status, may: impl Fn(u64) -> bool) -> Step {
    let others = status.members.iter().filter(|member| {
        let replica = member.member.replica;
        member.is_voter && replica != status.replica && may(member.member.node) && is_near(status, replica)
    });
    let best = others.max_by_key(|member| status.matched.get(&member.member.replica).copied().flatten());
    best.map_or(Step::Wait, |member| Step::HandOver(member.member.replica))
}

fn is_near(status: &Status, replica: u64) -> bool {
    let matched = status.matched.get(&replica).copied().flatten();
    matched.is_some_and(|matched| status.last_log.unwrap_or(0).saturating_sub(matched) <= LAG_MAX)
}

/// Which node should lead each shard, by the newest catalog; worked out once for all stewards of a node.
#[derive(Default)]
pub(crate) struct Wished {
    by_catalog: Mutex<(u64, Arc<BTreeMap<ShardId, NodeId>>)>,
}

impl Wished {
    fn of(&self, catalog: &Catalog) -> Arc<BTreeMap<ShardId, NodeId>> {
        let mut known = self.by_catalog.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != catalog.index {
            *known = (catalog.index, Arc::new(wished(catalog)));
        }
        known.1.clone()
    }
}

/// Only a replica that can answer with the live model is worth leading.
fn wished(catalog: &Catalog) -> BTreeMap<ShardId, NodeId> {
    let able = catalog.nodes.values().filter(|node| node.is_alive && node.state == NodeState::Active);
    let able: BTreeSet<NodeId> = able.map(|node| node.id).collect();
    let placed = |shard: &Shard| {
        let nodes = shard.replicas.iter().map(|replica| replica.node).filter(|node| has_live(catalog, shard.id, *node));
        Placed { shard: shard.id, nodes: nodes.collect() }
    };
    let placed: Vec<Placed> = catalog.shards.values().map(placed).collect();
    leaders::wished(&placed, &able)
}

fn has_live(catalog: &Catalog, shard: ShardId, node: NodeId) -> bool {
    catalog.live_model().is_none_or(|model| model.staged.contains(&(shard, node)))
}

/// What a steward needs.
pub(crate) struct Steward {
    pub(crate) hosted: Arc<Hosted>,
    pub(crate) catalog: watch::Receiver<Arc<Catalog>>,
    pub(crate) shards: Arc<Shards>,
    pub(crate) wished: Arc<Wished>,
    pub(crate) gateway: Gateway,
    pub(crate) meta: Meta,
    pub(crate) node: NodeId,
}

impl Steward {
    /// Follows the group and the catalog until the group is closed.
    pub(crate) async fn run(mut self, supervisor: Supervisor) -> Result<()> {
        let mut status = self.hosted.group.watch();
        let mut told = None;
        let mut led_since = None;
        let mut is_kept = false;
        let mut members: BTreeSet<NodeId> = BTreeSet::new();
        loop {
            let now = status.borrow_and_update().clone();
            if now.is_closed {
                return Ok(());
            }
            if let Some(leader) = &now.leader {
                self.gateway.note_leader(self.hosted.id, NodeId(leader.node));
            }
            if !is_kept && now.last_log.is_some() {
                // From now on an empty log under this id is a lost one.
                let kept = self.meta.put(&replica_key(self.hosted.id), &self.hosted.replica);
                is_kept = kept.is_ok();
            }
            let news = (now.is_leader(), now.membership_index.filter(|_| now.membership_index <= now.committed));
            if told != Some(news) {
                told = Some(news);
                self.shards.beat_now();
                let next = now.members.iter().map(|member| NodeId(member.member.node)).collect();
                self.hosted.departed.note(&members, &next);
                members = next;
            }
            led_since = now.is_leader().then(|| led_since.unwrap_or_else(Instant::now));
            let pause = self.step(&now, led_since).await;
            tokio::select! {
                () = supervisor.cancelled() => return Ok(()),
                changed = status.changed() => if changed.is_err() { return Ok(()) },
                changed = self.catalog.changed() => if changed.is_err() { return Ok(()) },
                () = sleep(pause) => {} // the next try, or the end of a tenure
            }
        }
    }

    /// Takes the next step; how long to wait for the one after, where nothing else may wake this steward.
    async fn step(&mut self, status: &Status, led_since: Option<Instant>) -> Option<Duration> {
        let led_for = led_since?.elapsed();
        let catalog = self.catalog.borrow_and_update().clone();
        let shard = catalog.shards.get(&self.hosted.id)?;
        let is_ready = shard.change.is_none_or(|change| has_live(&catalog, shard.id, change.new.node));
        let wished = self.wished.of(&catalog).get(&shard.id).copied();
        let is_leaving = catalog.nodes.get(&self.node).is_none_or(|node| node.state != NodeState::Active);
        let group = &self.hosted.group;
        let is_alive = |node: NodeId| catalog.nodes.get(&node).is_some_and(|node| node.is_alive);
        let step = next(status, shard, is_ready, wished, is_leaving, is_alive);
        let began = Instant::now();
        let done = match &step {
            Step::Wait => return None,
            Step::Balance(_) if led_for < TENURE => return Some(TENURE - led_for),
            Step::Finish(voters) | Step::Swap(voters) => group.change_replicas(voters.clone(), STEP_WITHIN).await,
            Step::Add(replica) => group.add_learner(member(&catalog, replica), STEP_WITHIN).await,
            Step::Drop(replica) => group.remove_learner(*replica, STEP_WITHIN).await,
            Step::HandOver(to) | Step::Balance(to) => group.transfer_leader(*to, STEP_WITHIN).await,
        };
        self.tell(&step, done, began.elapsed())
    }

    fn tell(&self, step: &Step, done: std::result::Result<(), Error>, took: Duration) -> Option<Duration> {
        let shard = self.hosted.id;
        match done {
            Ok(()) => {
                tracing::info!(%shard, ?step, ?took, "the group was changed");
                Some(Duration::ZERO)
            }
            Err(error) => {
                tracing::debug!(%shard, ?step, %error, "the group was not changed yet");
                Some(RETRY)
            }
        }
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// The key under which the replica of a shard is kept once it has a log.
pub(crate) fn replica_key(shard: ShardId) -> String {
    format!("replica/{shard}")
}

/// A replica as raft wants it.
pub(crate) fn member(catalog: &Catalog, replica: &Replica) -> Member {
    let addr = catalog.nodes.get(&replica.node).map(|node| node.internal_addr.clone()).unwrap_or_default();
    Member { replica: replica.id.0, node: replica.node.0, addr }
}

#[cfg(test)]
#[path = "steward_tests.rs"]
mod tests;
