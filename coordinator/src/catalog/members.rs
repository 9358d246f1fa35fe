//! Birth, coordinators, nodes that join and return, liveness, the finalised format, the initial placement.

use super::{Answer, Applied, Join, State, Step, conflict, unborn};
use docent_placement::initial::{Candidate, place};
use docent_types::catalog::{Cluster, JobState, Member};
use docent_types::placement::NodeState;
use docent_types::{Error, Kind, NodeId, codec};

/// Coordinators have ids from 1 to this, their position in the settings; nodes have higher ones.
pub const LAST_COORDINATOR: u64 = 99;
/// The first node's id; later ones count up and none is ever given twice.
pub const FIRST_NODE: u64 = 101;
/// Replica ids of the placement at log index `i` are `i << REPLICA_BITS ..`: two keyspaces of at most 64 shards with at most
/// 255 replicas each stay below 65,536.
pub(super) const REPLICA_BITS: u32 = 16;

impl State {
    pub(super) fn birth(&mut self, cluster: Cluster) -> Applied {
        if let Some(born) = &self.catalog.cluster {
            return Ok(Step::Same(Answer::Born(born.clone())));
        }
        // The other coordinators have not said yet what they understand: see `finalize`.
        let cluster = Cluster { format: codec::OLDEST.into(), ..cluster };
        self.catalog_mut().cluster = Some(cluster.clone());
        Ok(Step::Changed(Answer::Born(cluster)))
    }

    /// Raises the format of the cluster; it is never lowered.
    pub(super) fn finalize(&mut self, format: u32) -> Applied {
        let cluster = self.catalog.cluster.as_ref().ok_or_else(unborn)?;
        if format <= cluster.format {
            return Ok(Step::Same(Answer::Done));
        }
        let mut members = self.catalog.coordinators.values().chain(self.catalog.nodes.values());
        if self.catalog.coordinators.is_empty() {
            return Err(conflict("the coordinators have not said yet what they understand"));
        }
        if let Some(older) = members.find(|member| member.format < format) {
            return Err(conflict(format!(
                "member {} understands format {}: upgrade it before the cluster can use format {format}",
                older.id, older.format
            )));
        }
        self.catalog_mut().cluster = Some(Cluster { format, ..cluster.clone() });
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn register_coordinators(&mut self, members: &[(NodeId, String)], by: NodeId, format: u32) -> Applied {
        if let Some((id, _)) = members.iter().find(|(id, _)| !(1..=LAST_COORDINATOR).contains(&id.0)) {
            return Err(Error::invalid("id", format!("coordinator id {id} must be 1 to {LAST_COORDINATOR}")));
        }
        let known = &self.catalog.coordinators;
        let next = members.iter().map(|(id, addr)| {
            let old = known.get(id);
            let member = Member {
                id: *id,
                internal_addr: addr.clone(),
                query_addr: String::new(),
                zone: String::new(),
                is_alive: old.is_none_or(|old| old.is_alive),
                // The others' is not known here; the first format is what every binary understands.
                format: if *id == by { format } else { old.map_or(1, |old| old.format) },
                state: NodeState::Active,
            };
            (*id, member)
        });
        let next = next.collect();
        if *known == next {
            return Ok(Step::Same(Answer::Done));
        }
        self.catalog_mut().coordinators = next;
        Ok(Step::Changed(Answer::Done))
    }

    pub(super) fn join(&mut self, join: Join) -> Applied {
        let cluster = self.catalog.cluster.as_ref().ok_or_else(unborn)?;
        if join.format < cluster.format {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "this docent understands formats up to {}, and the cluster has finalised format {}: start this node with a newer \
                     docent; nothing of its data directory was changed",
                    join.format, cluster.format
                ),
            ));
        }
        let ours = cluster.id;
        // A node whose first answer was lost may ask again with another token: its nonce says that it is in already.
        let same = |(&node, &nonce): (&NodeId, &u128)| (nonce == join.nonce).then_some(node);
        let holder = self.book.tokens.get(&join.token).copied().or_else(|| self.book.nonces.iter().find_map(same));
        let id = match (join.previous, holder) {
            (Some((theirs, _)), _) if theirs != ours => {
                return Err(conflict(format!(
                    "the data directory belongs to cluster {theirs}, this is cluster {ours}: \
                     start the node with its own cluster's coordinators, or with an empty data directory"
                )));
            }
            (Some((_, node)), _) => node,
            (None, Some(node)) => node,
            (None, None) => return Ok(self.admit(join, ours)),
        };
        // Returning, or repeating a join whose answer was lost: the nonce tells it from a copy of the token.
        match self.book.nonces.get(&id) {
            None => Err(conflict(format!(
                "node {id} is not a member of cluster {ours}; start it with an empty data directory"
            ))),
            Some(&nonce) if nonce == join.nonce => self.readmit(id, join, ours),
            Some(_) if join.previous.is_some() => Err(conflict(format!(
                "the data directory says node {id}, but it is not the one that joined as node {id}; \
                 start it with an empty data directory and a new token"
            ))),
            Some(_) => Err(conflict(format!(
                "the join token was used by node {id}; create another with `docent token create`"
            ))),
        }
    }

    fn admit(&mut self, join: Join, cluster: docent_types::ClusterId) -> Step {
        self.book.last_node = (self.book.last_node + 1).max(FIRST_NODE);
        let id = NodeId(self.book.last_node);
        self.book.tokens.insert(join.token, id);
        self.book.nonces.insert(id, join.nonce);
        self.catalog_mut().nodes.insert(id, member(id, join));
        Step::Changed(Answer::Joined { cluster, node: id })
    }

    /// A process started on a known data directory: its addresses may be new, and what it drove and had staged before is lost.
    fn readmit(&mut self, id: NodeId, join: Join, cluster: docent_types::ClusterId) -> Applied {
        let answer = Answer::Joined { cluster, node: id };
        let known = self.catalog.nodes.get(&id).map(|node| node.state);
        if known.is_none_or(|state| state == NodeState::Removed) {
            return Err(removed(id));
        }
        let next = Member { state: known.unwrap_or_default(), ..member(id, join) };
        let drives = |job: &docent_types::catalog::Job| job.state == JobState::Running && job.driver == Some(id);
        let staged = self.catalog.models.values().any(|model| model.staged.iter().any(|(_, holder)| *holder == id));
        let is_same = self.catalog.nodes.get(&id) == Some(&next) && !staged && !self.catalog.jobs.values().any(drives);
        if is_same {
            return Ok(Step::Same(answer));
        }
        let catalog = self.catalog_mut();
        catalog.nodes.insert(id, next);
        for model in catalog.models.values_mut() {
            model.staged.retain(|(_, holder)| *holder != id);
        }
        for job in catalog.jobs.values_mut().filter(|job| drives(job)) {
            job.state = JobState::Queued;
            job.driver = None;
            job.progress = None;
            job.error = Some(format!("its driver, node {id}, restarted"));
        }
        Ok(Step::Changed(answer))
    }

    pub(super) fn set_alive(&mut self, changes: &[(NodeId, bool)]) -> Step {
        let differs =
            |&(id, is_alive): &(NodeId, bool)| self.catalog.member(id).is_some_and(|m| m.is_alive != is_alive);
        if !changes.iter().any(differs) {
            return Step::Same(Answer::Done);
        }
        let catalog = self.catalog_mut();
        for (id, is_alive) in changes {
            if let Some(member) = catalog.nodes.get_mut(id).or_else(|| catalog.coordinators.get_mut(id)) {
                member.is_alive = *is_alive;
            }
        }
        Step::Changed(Answer::Done)
    }

    /// Placed over the nodes that are alive, when there are as many as the cluster waits for.
    pub(super) fn place_shards(&mut self, index: u64) -> Applied {
        let cluster = self.catalog.cluster.as_ref().ok_or_else(unborn)?;
        if !self.catalog.shards.is_empty() {
            return Ok(Step::Same(Answer::Done));
        }
        let alive = self.catalog.nodes.values().filter(|node| node.is_alive);
        let candidates: Vec<_> = alive.map(|node| Candidate { node: node.id, zone: node.zone.clone() }).collect();
        if candidates.len() < usize::from(cluster.expect_nodes.max(1)) {
            return Err(super::jobs::unplaced(&self.catalog));
        }
        let replication = cluster.replication.min(u8::try_from(candidates.len()).unwrap_or(u8::MAX));
        let first_replica = index << REPLICA_BITS;
        let shards = place(cluster.user_shards, cluster.item_shards, replication, &candidates, first_replica)
            .map_err(|error| Error::new(Kind::Conflict, format!("no initial placement: {error}")))?;
        self.catalog_mut().shards = shards.into_iter().map(|shard| (shard.id, shard)).collect();
        Ok(Step::Changed(Answer::Done))
    }
}

/// A removed node's replicas live elsewhere by now: what it has is of no use to anybody.
fn removed(node: NodeId) -> Error {
    conflict(format!(
        "node {node} was removed from this cluster; start it with an empty data directory and a new token"
    ))
}

fn member(id: NodeId, join: Join) -> Member {
    Member {
        id,
        internal_addr: join.internal_addr,
        query_addr: join.query_addr,
        zone: join.zone,
        is_alive: true,
        format: join.format,
        state: NodeState::Active,
    }
}
