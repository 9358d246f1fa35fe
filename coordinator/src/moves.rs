//! What the leader does about where replicas live. Pure, as [`crate::plan`]: the catalog says what is, the members' reports say how the
//! groups are, `docent_placement` says what would be right, and this module says which steps are due.

use crate::catalog::{Command, holds};
use crate::health::Health;
use crate::plan::Policy;
use docent_placement::initial::Candidate;
use docent_placement::moves::{self, Placed};
use docent_types::catalog::{Catalog, JobState, Replica, Shard};
use docent_types::placement::{Cause, NodeState, PlannedMove};
use docent_types::{NodeId, ReplicaId};
use std::collections::BTreeSet;
use std::time::Duration;

/// A move that is wanted, and the replica that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) planned: PlannedMove,
    pub(crate) old: Option<ReplicaId>,
}

/// The commands that are due at `now`: facts first, then what was given up, then what begins.
pub(crate) fn due(policy: &Policy, catalog: &Catalog, health: &Health, now: Duration) -> Vec<Command> {
    if catalog.shards.is_empty() {
        return Vec::new();
    }
    let observed: Vec<Command> = catalog.shards.values().filter_map(|shard| observe(shard, health)).collect();
    if !observed.is_empty() {
        return observed;
    }
    let cancelled = catalog.shards.values().filter(|shard| is_hopeless(catalog, shard, health));
    let cancelled = cancelled.map(|shard| Command::CancelChange(shard.id));
    let gone = catalog.nodes.values().filter(|node| node.state == NodeState::Removed);
    let gone = gone.filter(|node| holds(catalog, node.id).next().is_none()).map(|node| Command::ForgetNode(node.id));
    let due: Vec<Command> = cancelled.chain(gone).collect();
    if !due.is_empty() {
        return due;
    }
    begin(policy, catalog, health, now)
}

/// What a leader reported and the catalog does not say yet.
fn observe(shard: &Shard, health: &Health) -> Option<Command> {
    let membership = health.membership(shard.id).filter(|membership| membership.is_settled)?;
    let differs = ids(&membership.voters) != ids(&shard.replicas);
    (differs && membership.index > shard.membership).then(|| Command::ObserveMembership {
        shard: shard.id,
        index: membership.index,
        replicas: membership.voters.clone(),
    })
}

fn ids(replicas: &[Replica]) -> BTreeSet<ReplicaId> {
    replicas.iter().map(|replica| replica.id).collect()
}

/// A change whose target cannot take the replica any more. What the group has done of it by then, its leader will report.
fn is_hopeless(catalog: &Catalog, shard: &Shard, health: &Health) -> bool {
    let Some(change) = shard.change.filter(|change| !change.is_cancelled) else { return false };
    let target = catalog.nodes.get(&change.new.node);
    let is_able = target.is_some_and(|node| node.is_alive && node.state == NodeState::Active);
    !is_able || health.is_lost(change.new.id)
}

fn begin(policy: &Policy, catalog: &Catalog, health: &Health, now: Duration) -> Vec<Command> {
    let under_way = catalog.shards.values().filter(|shard| shard.change.is_some()).count();
    let room = policy.moves_at_once.saturating_sub(under_way);
    let is_quiet = catalog.nodes.values().all(|node| node.is_alive || node.state == NodeState::Removed)
        && !catalog.jobs.values().any(|job| job.state == JobState::Running);
    let is_due = |wanted: &Wanted| {
        let shard = catalog.shards.get(&wanted.planned.shard);
        let is_able = catalog.nodes.get(&wanted.planned.to).is_some_and(|node| node.is_alive);
        // What is only nicer waits until nothing else is going on.
        let is_time = wanted.planned.cause != Cause::Balance || policy.auto_balance && is_quiet;
        is_able && is_time && shard.is_some_and(|shard| shard.change.is_none() && is_led(shard, health))
    };
    let wanted = wanted(policy, catalog, health, now).into_iter().filter(is_due).take(room);
    let begin = |wanted: Wanted| Command::BeginChange {
        shard: wanted.planned.shard,
        old: wanted.old,
        to: wanted.planned.to,
        cause: wanted.planned.cause,
    };
    wanted.map(begin).collect()
}

/// Whether the shard has a leader whose group is as the catalog says.
fn is_led(shard: &Shard, health: &Health) -> bool {
    let membership = health.membership(shard.id);
    membership.is_some_and(|membership| membership.is_settled && ids(&membership.voters) == ids(&shard.replicas))
}

/// All moves that bring the cluster to rest from where the moves under way will leave it, most urgent first.
pub(crate) fn wanted(policy: &Policy, catalog: &Catalog, health: &Health, now: Duration) -> Vec<Wanted> {
    let replication = catalog.cluster.as_ref().map_or(1, |cluster| cluster.replication);
    let is_given_up = |id: NodeId| {
        catalog.nodes.get(&id).is_none_or(|node| {
            node.state != NodeState::Active || !node.is_alive && health.dead_for(id, now) >= policy.repair_after
        })
    };
    let candidates: Vec<Candidate> = catalog
        .nodes
        .values()
        .filter(|node| !is_given_up(node.id))
        .map(|node| Candidate { node: node.id, zone: node.zone.clone() })
        .collect();
    let placed = |shard: &Shard| {
        let kept = shard.target().into_iter().filter(|replica| !health.is_lost(replica.id));
        Placed { shard: shard.id, nodes: kept.map(|replica| replica.node).collect() }
    };
    let placed: Vec<Placed> = catalog.shards.values().map(placed).collect();
    let changes = moves::plan(&placed, &candidates, replication);
    let wanted = |change: moves::Change| {
        let replicas = &catalog.shards.get(&change.shard)?.replicas;
        let old = match change.from {
            Some(from) => replicas.iter().find(|replica| replica.node == from),
            None => replicas.iter().find(|replica| health.is_lost(replica.id)),
        };
        let cause = match change.from.and_then(|from| catalog.nodes.get(&from)) {
            Some(from) if from.state == NodeState::Draining => Cause::Drain,
            Some(from) if !is_given_up(from.id) => Cause::Balance,
            _ => Cause::Repair,
        };
        let from = change.from.or(old.map(|old| old.node));
        let planned = PlannedMove { shard: change.shard, from, to: change.to, cause };
        Some(Wanted { planned, old: old.map(|old| old.id) })
    };
    changes.into_iter().filter_map(wanted).collect()
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
