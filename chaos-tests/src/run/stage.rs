//! What the runner asks of a world of real processes beside [`World`]: where clients reach it, and what it saw. The lab and a named
//! cluster are stages; the simulation has a runner of its own, because its clients live in its time.

use crate::lab::{self, world::LabWorld};
use crate::logs;
use docent_trial::history::Observed;
use docent_trial::{Member, World};
use std::path::PathBuf;

/// A cluster of real processes that a trial runs on.
pub trait Stage: World {
    /// Where clients reach each node: every node that ever was a member, dead ones too, in the order of their numbers. Asked again and
    /// again, because nodes join.
    fn gateways(&self) -> Vec<(Member, String)>;

    /// What it saw since it was asked last: lines of logs ([`Observed::Log`]: every line of WARN, ERROR or panic, others as it likes), and
    /// counts of what nobody else can count ([`Observed::Seen`]: restarts, packets lost, ...).
    fn observe(&mut self) -> Vec<Observed>;

    /// The `docent` tool, for exports and the comparison of replicas.
    fn tool(&self) -> PathBuf;

    /// The longest time that a member waits before it wants an election: its setting `raft.election_timeout_max_ms`.
    fn election_timeout_max_ms(&self) -> u64 {
        1_500
    }

    /// The logs that can be read here.
    fn logs(&self) -> Vec<(Member, PathBuf)>;
}

impl Stage for LabWorld {
    fn gateways(&self) -> Vec<(Member, String)> {
        let named = |(node, number): (&lab::Member, u32)| (Member::node(number), node.query_addr.clone());
        self.lab().nodes.iter().zip(1..).map(named).collect()
    }

    fn observe(&mut self) -> Vec<Observed> {
        LabWorld::observe(self)
    }

    fn tool(&self) -> PathBuf {
        // The lab has found it before it started anybody.
        lab::docent().unwrap_or_else(|_| PathBuf::from("docent"))
    }

    fn logs(&self) -> Vec<(Member, PathBuf)> {
        let coordinators =
            self.lab().coordinators.iter().zip(1..).map(|(one, number)| (Member::coordinator(number), one));
        let nodes = self.lab().nodes.iter().zip(1..).map(|(one, number)| (Member::node(number), one));
        coordinators.chain(nodes).map(|(name, one)| (name, one.log().to_owned())).collect()
    }
}

/// The last lines of every log that can be read, for a person who looks for what went wrong.
pub fn tails(stage: &dyn Stage, lines: usize) -> String {
    stage.logs().into_iter().map(|(member, path)| format!("--- {member}\n{}\n", logs::tail(&path, lines))).collect()
}
