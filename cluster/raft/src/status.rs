//! What a group says about itself, for routing, health and the coordinator.

use std::collections::BTreeMap;

use crate::Member;

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
    pub members: Vec<MemberStatus>,
    /// Whether a change of voters is half done (joint): the coordinator must finish it by asking again.
    pub is_joint: bool,
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
