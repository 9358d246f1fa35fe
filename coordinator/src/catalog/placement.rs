//! Nodes that drain or go, and replicas that move: what the catalog allows and remembers. The groups' own memberships are the truth;
//! the catalog says what they should become, and learns from their leaders what they are.

use super::members::REPLICA_BITS;
use super::{Answer, Applied, State, Step, conflict, not_found, unborn};
use docent_types::catalog::{Catalog, Member, Replica, Shard};
use docent_types::placement::{Cause, Change, Grave, NodeState};
use docent_types::sabotage::{Bug, is};
use docent_types::{Error, NodeId, ReplicaId, ShardId};

impl State {
    /// Whether a node may hold replicas. What must not happen is refused here, whoever asks and however late.
    pub(super) fn set_node_state(&mut self, id: NodeId, state: NodeState) -> Applied {
        let node = node(&self.catalog, id)?;
        match (node.state, state) {
            (now, wanted) if now == wanted => return Ok(Step::Same(Answer::Done)),
            (NodeState::Removed, _) => {
                return Err(conflict(format!(
                    "node {id} is being removed; a node comes in anew with an empty data directory and a new token"
                )));
            }
            (_, NodeState::Draining) => drainable(&self.catalog, id)?,
            (_, NodeState::Removed) => removable(&self.catalog, node)?,
            (_, NodeState::Active) => {}
        }
        if let Some(node) = self.catalog_mut().nodes.get_mut(&id) {
            node.state = state;
        }
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn begin_change(
        &mut self,
        index: u64,
        id: ShardId,
        old: Option<ReplicaId>,
        to: NodeId,
        cause: Cause,
    ) -> Applied {
        let target = node(&self.catalog, to)?;
        let shard = shard(&self.catalog, id)?;
        if let Some(change) = shard.change {
            return Err(conflict(format!(
                "a replica of shard {id} is on its way to node {} already; wait for it or cancel it",
                change.new.node
            )));
        }
        let moved = match old {
            Some(old) => Some(shard.replicas.iter().find(|replica| replica.id == old).ok_or_else(|| {
                conflict(format!("shard {id} has no replica {old}; it may have moved since you looked"))
            })?),
            None => None,
        };
        // A lost replica may be made anew where it lay.
        let stay = shard.replicas.iter().filter(|replica| Some(replica.id) != old);
        if stay.clone().any(|replica| replica.node == to) {
            return Err(conflict(format!("node {to} has a replica of shard {id} already")));
        }
        if moved.is_some_and(|moved| moved.node == to && cause != Cause::Repair) {
            return Err(conflict(format!("the replica of shard {id} is on node {to} already")));
        }
        if target.state != NodeState::Active || !target.is_alive {
            let state = if target.is_alive { target.state.name() } else { "dead" };
            return Err(conflict(format!("node {to} is {state} and takes no replicas")));
        }
        let fresh = ReplicaId(index << REPLICA_BITS);
        let new = Replica { id: old.filter(|_| is(Bug::ReplicaIdReused)).unwrap_or(fresh), node: to };
        let change = Change { new, old, cause, is_cancelled: false };
        self.shard_mut(id)?.change = Some(change);
        Ok(Step::Changed(Answer::Done))
    }

    /// The new replica goes into its grave, from which the group may still save it: see [`State::observe_membership`].
    pub(super) fn cancel_change(&mut self, id: ShardId) -> Applied {
        let Some(change) = shard(&self.catalog, id)?.change else {
            return Err(conflict(format!("no replica of shard {id} is on its way; there is nothing to cancel")));
        };
        if change.is_cancelled {
            return Ok(Step::Same(Answer::Done));
        }
        self.shard_mut(id)?.change = Some(Change { is_cancelled: true, ..change });
        let grave = Grave { shard: id, node: change.new.node };
        self.catalog_mut().graves.insert(change.new.id, grave);
        Ok(Step::Changed(Answer::Done))
    }

    /// What a group's log says of its members is so, whatever was planned. Committed memberships are ordered by their index, so an
    /// old report says nothing.
    pub(super) fn observe_membership(&mut self, id: ShardId, index: u64, replicas: Vec<Replica>) -> Applied {
        let shard = shard(&self.catalog, id)?;
        if index <= shard.membership || replicas.is_empty() {
            return Ok(Step::Same(Answer::Done));
        }
        let gone: Vec<Replica> =
            shard.replicas.iter().copied().filter(|known| !replicas.iter().any(|now| now.id == known.id)).collect();
        let is_in = |replica: ReplicaId| replicas.iter().any(|now| now.id == replica);
        let is_done =
            shard.change.is_some_and(|change| is_in(change.new.id) && change.old.is_none_or(|old| !is_in(old)));
        let next = Shard {
            change: shard.change.filter(|_| !is_done),
            replicas: in_order(&shard.replicas, &replicas),
            membership: index,
            ..shard.clone()
        };
        let catalog = self.catalog_mut();
        for replica in &next.replicas {
            catalog.graves.remove(&replica.id);
        }
        catalog.graves.extend(gone.into_iter().map(|gone| (gone.id, Grave { shard: id, node: gone.node })));
        for model in catalog.models.values_mut() {
            model.staged.retain(|(shard, node)| *shard != id || next.is_on(*node));
        }
        catalog.shards.insert(id, next);
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn bury(&mut self, node: NodeId, replicas: &[ReplicaId]) -> Step {
        let is_here = |id: &ReplicaId| self.catalog.graves.get(id).is_some_and(|grave| grave.node == node);
        let buried: Vec<ReplicaId> = replicas.iter().copied().filter(is_here).collect();
        if buried.is_empty() {
            return Step::Same(Answer::Done);
        }
        let catalog = self.catalog_mut();
        catalog.graves.retain(|id, _| !buried.contains(id));
        for shard in catalog.shards.values_mut() {
            shard.change = shard.change.filter(|change| !(change.is_cancelled && buried.contains(&change.new.id)));
        }
        Step::Changed(Answer::Done)
    }

    pub(super) fn forget_node(&mut self, id: NodeId) -> Applied {
        let Some(node) = self.catalog.nodes.get(&id) else { return Ok(Step::Same(Answer::Done)) };
        if node.state != NodeState::Removed || holds(&self.catalog, id).next().is_some() {
            return Err(conflict(format!("node {id} still has replicas, or is not removed")));
        }
        self.book.nonces.remove(&id);
        let catalog = self.catalog_mut();
        catalog.nodes.remove(&id);
        catalog.graves.retain(|_, grave| grave.node != id);
        for shard in catalog.shards.values_mut() {
            // A cancelled change whose grave is gone with the node is over.
            shard.change = shard.change.filter(|change| !(change.is_cancelled && change.new.node == id));
        }
        for model in catalog.models.values_mut() {
            model.staged.retain(|(_, holder)| *holder != id);
        }
        Ok(Step::Changed(Answer::Done))
    }

    fn shard_mut(&mut self, id: ShardId) -> Result<&mut Shard, Error> {
        self.catalog_mut().shards.get_mut(&id).ok_or_else(|| not_found(format!("there is no shard {id}")))
    }
}

/// Known replicas keep their order, whose first is the wished leader; new ones follow.
fn in_order(known: &[Replica], now: &[Replica]) -> Vec<Replica> {
    let stay = known.iter().copied().filter(|known| now.iter().any(|replica| replica.id == known.id));
    let new = now.iter().copied().filter(|replica| !known.iter().any(|known| known.id == replica.id));
    stay.chain(new).collect()
}

/// The shards of which the node has a replica, or is to get one, or gives one back by a change that is not done.
pub(crate) fn holds(catalog: &Catalog, node: NodeId) -> impl Iterator<Item = &Shard> {
    catalog.shards.values().filter(move |shard| shard.is_on(node))
}

fn node(catalog: &Catalog, id: NodeId) -> Result<&Member, Error> {
    catalog.nodes.get(&id).ok_or_else(|| not_found(format!("there is no node {id}; see `docent nodes list`")))
}

fn shard(catalog: &Catalog, id: ShardId) -> Result<&Shard, Error> {
    catalog.shards.get(&id).ok_or_else(|| not_found(format!("there is no shard {id}; see `docent shards list`")))
}

/// The others must be able to hold every replica.
fn drainable(catalog: &Catalog, id: NodeId) -> Result<(), Error> {
    let wanted = usize::from(catalog.cluster.as_ref().ok_or_else(unborn)?.replication);
    let widest = catalog.shards.values().map(|shard| shard.replicas.len()).max().unwrap_or(0);
    let others =
        catalog.nodes.values().filter(|other| other.id != id && other.state == NodeState::Active && other.is_alive);
    let (others, needed) = (others.count(), widest.min(wanted).max(1));
    if others < needed {
        return Err(conflict(format!(
            "without node {id} there are {others} active nodes for {needed} replicas of each shard: add a node first"
        )));
    }
    Ok(())
}

/// A node may go when it has nothing left, or when it is dead and every shard lives on without it.
fn removable(catalog: &Catalog, node: &Member) -> Result<(), Error> {
    let id = node.id;
    let held = holds(catalog, id).count();
    if node.is_alive && held > 0 {
        return Err(conflict(format!(
            "node {id} is alive and has replicas of {held} shards: run `docent nodes drain {id}` and remove it when it is empty"
        )));
    }
    let lost = catalog.shards.values().find(|shard| {
        let is_left = |replica: &&Replica| {
            replica.node != id && catalog.nodes.get(&replica.node).is_some_and(|node| node.state != NodeState::Removed)
        };
        shard.replicas.iter().any(|replica| replica.node == id)
            && shard.replicas.iter().filter(is_left).count() * 2 <= shard.replicas.len()
    });
    match lost {
        Some(shard) => Err(conflict(format!(
            "without node {id} shard {} has no majority left and could not go on: bring the node back, or see `docent recover`",
            shard.id
        ))),
        None => Ok(()),
    }
}
