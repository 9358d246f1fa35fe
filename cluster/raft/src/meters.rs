//! Metrics of one group, all under `docent_raft_`, labelled with the group.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// Handles made once a group, so that the write path allocates no labels.
#[derive(Clone)]
pub(crate) struct Meters {
    pub(crate) committed: Counter,
    pub(crate) rejected: Counter,
    pub(crate) unknown: Counter,
    propose_seconds: Histogram,
    pub(crate) apply_batch: Histogram,
    pub(crate) leader_changes: Counter,
    pub(crate) is_leader: Gauge,
    pub(crate) term: Gauge,
    pub(crate) applied: Gauge,
    pub(crate) snapshots_built: Counter,
    pub(crate) snapshots_failed: Counter,
    pub(crate) snapshots_installed: Counter,
    pub(crate) snapshots_sent: Counter,
}

impl Meters {
    pub(crate) fn of(group: u64) -> Self {
        let group = group.to_string();
        let proposals = |outcome: &'static str| counter!("docent_raft_proposals_total", "group" => group.clone(), "outcome" => outcome);
        let snapshots =
            |what: &'static str| counter!("docent_raft_snapshots_total", "group" => group.clone(), "what" => what);
        Self {
            committed: proposals("committed"),
            rejected: proposals("rejected"),
            unknown: proposals("unknown"),
            propose_seconds: histogram!("docent_raft_propose_seconds", "group" => group.clone()),
            apply_batch: histogram!("docent_raft_apply_batch_commands", "group" => group.clone()),
            leader_changes: counter!("docent_raft_leader_changes_total", "group" => group.clone()),
            is_leader: gauge!("docent_raft_is_leader", "group" => group.clone()),
            term: gauge!("docent_raft_term", "group" => group.clone()),
            applied: gauge!("docent_raft_applied_index", "group" => group.clone()),
            snapshots_built: snapshots("built"),
            snapshots_failed: snapshots("failed"),
            snapshots_installed: snapshots("installed"),
            snapshots_sent: snapshots("sent"),
        }
    }

    pub(crate) fn proposed(&self, outcome: &Counter, took: Duration) {
        outcome.increment(1);
        self.propose_seconds.record(took);
    }
}
