//! What a group says about itself, for routing, health and the coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ServerState};

use tokio::time::Instant;

use crate::Member;
use crate::raft::{Fatal, Metrics, Raft};

/// Part that a replica plays now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Receives the log, has no vote (also before it is initialised).
    #[default]
    Learner,
    /// Receives the log and votes.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads: accepts proposals while a quorum answers.
    Leader,
}

/// One replica as the membership has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who and where.
    pub member: Member,
    /// Whether it votes; a learner does not.
    pub is_voter: bool,
}

/// A group as seen from this replica. Old as soon as it is read; never a basis for correctness.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Group id.
    pub group: u64,
    /// This replica.
    pub replica: u64,
    /// What it does now.
    pub role: Role,
    /// Who leads, if known.
    pub leader: Option<Member>,
    /// Current term.
    pub term: u64,
    /// Last entry in the log, durable or not.
    pub last_log: Option<u64>,
    /// Last entry known committed here.
    pub committed: Option<u64>,
    /// Last entry applied here.
    pub applied: Option<u64>,
    /// Last entry in the last snapshot.
    pub snapshot: Option<u64>,
    /// Last entry purged from the journal.
    pub purged: Option<u64>,
    /// Index of the membership below.
    pub membership_index: Option<u64>,
    /// The membership this replica goes by.
    pub members: Arc<[MemberStatus]>,
    /// Whether a change of voters is half done (joint): [`crate::Group::change_replicas`] to `voters` finishes it.
    pub is_joint: bool,
    /// The voters of the membership; of a joint one, those that it leads to.
    pub voters: Arc<[u64]>,
    /// On the leader: milliseconds since a quorum last acknowledged it, as of the last change of this status.
    pub millis_since_quorum_ack: Option<u64>,
    /// On the leader: last entry known to be on each other replica; `None` when nothing is known yet.
    pub matched: BTreeMap<u64, Option<u64>>,
    /// Why the group stopped for good. The process must end when this is set.
    pub fatal: Option<String>,
    /// Whether the group was closed in an orderly way.
    pub is_closed: bool,
}

impl Status {
    /// Whether this replica believes that it leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }
}

/// What openraft says about positions, for housekeeping.
pub(crate) struct Progress {
    pub(crate) applied: Option<u64>,
    pub(crate) snapshot: Option<u64>,
    pub(crate) purged: Option<u64>,
}

impl Progress {
    pub(crate) fn of(raft: &Raft) -> Self {
        let receiver = raft.metrics();
        let metrics = receiver.borrow_watched();
        Self {
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
        }
    }
}

/// The status that openraft's metrics amount to. `before` lends its member list where the membership is the same.
pub(crate) fn of_metrics(group: u64, metrics: &Metrics, before: &Status) -> Status {
    let role = match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower => Role::Follower,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    };
    let membership_index = metrics.membership_config.log_id().as_ref().map(|id| id.index);
    let is_same = membership_index.is_some()
        && membership_index == before.membership_index
        && before.term == metrics.current_term;
    let (members, voters) = match is_same {
        true => (Arc::clone(&before.members), Arc::clone(&before.voters)),
        false => (members_of(metrics), voters_of(metrics)),
    };
    let leader = metrics.current_leader.and_then(|replica| {
        members.iter().find(|status| status.member.replica == replica).map(|status| status.member.clone())
    });
    let matched = metrics.replication.iter().flatten();
    let fatal = match &metrics.running_state {
        Ok(()) | Err(Fatal::Stopped) => None,
        Err(error) => Some(error.to_string()),
    };
    Status {
        group,
        replica: metrics.id,
        role,
        leader,
        term: metrics.current_term,
        last_log: metrics.last_log_index,
        committed: metrics.local_committed.map(|id| id.index),
        applied: metrics.last_applied.map(|id| id.index),
        snapshot: metrics.snapshot.map(|id| id.index),
        purged: metrics.purged.map(|id| id.index),
        membership_index,
        members,
        voters,
        is_joint: metrics.membership_config.get_joint_config().len() > 1,
        millis_since_quorum_ack: millis_since_quorum_ack(metrics),
        matched: matched
            .filter(|(replica, _)| **replica != metrics.id)
            .map(|(replica, id)| (*replica, id.map(|id| id.index)))
            .collect(),
        fatal,
        is_closed: matches!(metrics.running_state, Err(Fatal::Stopped)),
    }
}

fn voters_of(metrics: &Metrics) -> Arc<[u64]> {
    let configs = metrics.membership_config.get_joint_config();
    configs.last().map(|voters| voters.iter().copied().collect()).unwrap_or_default()
}

fn members_of(metrics: &Metrics) -> Arc<[MemberStatus]> {
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let members = membership
        .nodes()
        .map(|(replica, peer)| MemberStatus { member: peer.member(*replica), is_voter: voters.contains(replica) });
    members.collect()
}

/// As [`millis_since_quorum_ack`], by openraft's metrics as they are now.
pub(crate) fn quorum_ack_now(raft: &Raft) -> Option<u64> {
    millis_since_quorum_ack(&raft.metrics().borrow_watched())
}

/// On a leader: when a quorum last acknowledged it, and the end of what it knows to be committed. `None` before it has committed an entry
/// of its own: until then it does not know all that is (Ongaro's dissertation, section 6.4).
pub(crate) fn own_contact(raft: &Raft) -> Option<(Instant, u64)> {
    let receiver = raft.metrics();
    let metrics = receiver.borrow_watched();
    let commit = metrics.local_committed.as_ref()?;
    let age = Duration::from_millis(millis_since_quorum_ack(&metrics)?);
    let at = Instant::now().checked_sub(age)?;
    (commit.leader_id == metrics.vote.leader_id).then_some((at, commit.index))
}

/// The last entry applied here, by openraft's metrics as they are now.
pub(crate) fn applied_now(raft: &Raft) -> Option<u64> {
    raft.metrics().borrow_watched().last_applied.map(|id| id.index)
}

/// Milliseconds since a quorum acknowledged the leader, at the time of the metrics; a sole voter always has itself.
fn millis_since_quorum_ack(metrics: &Metrics) -> Option<u64> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    if is_sole_voter(metrics) {
        return Some(0);
    }
    let acked = metrics.last_quorum_acked?;
    Some(u64::try_from(acked.elapsed().as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn is_sole_voter(metrics: &Metrics) -> bool {
    metrics.membership_config.voter_ids().all(|voter| voter == metrics.id)
        && metrics.membership_config.voter_ids().next().is_some()
}
