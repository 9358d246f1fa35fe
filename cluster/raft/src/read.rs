//! The barrier before a linearizable read, and the look back after it.
//!
//! A leader that a quorum acknowledged less than half a lease ago reads at once (a lease read); otherwise it asks the
//! quorum first (read-index). Then the state machine must have applied all that was committed before the read began.
//! After the value was read, [`ReadGuard::recheck`] says whether leadership still held *then*: a process that was
//! stopped between the barrier and the answer finds out here.

use std::time::Duration;

use docent_runtime::sabotage::{self, Bug};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Instant as _, ServerState};
use tokio::time::{Instant, timeout_at};

use crate::group::Group;
use crate::status::is_sole_voter;
use crate::{ReadError, raft};

/// Proof that a read begun now sees every write acknowledged before it. Read, then [`ReadGuard::recheck`].
#[must_use = "read the value and then recheck"]
#[derive(Debug)]
pub struct ReadGuard {
    group: Group,
    term: u64,
    /// A quorum is known to have acknowledged this leader at this time or later.
    confirmed: Instant,
    /// Everything up to here is in the state that may be read.
    index: u64,
}

impl ReadGuard {
    /// The state holds everything up to this log index.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether this replica was still the one leader while the value was read. If not, the value must not be shown.
    ///
    /// By the monotonic clock, with an eighth of the lease kept back for clocks that run at different speeds. A
    /// suspended virtual machine stops that clock and is not seen here.
    pub fn recheck(&self) -> bool {
        let receiver = self.group.raft().metrics();
        let metrics = receiver.borrow_watched();
        let leads = metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && metrics.current_term == self.term
            && metrics.membership_config.voter_ids().any(|voter| voter == metrics.id)
            && !self.group.is_transferring(self.term);
        if !leads || is_sole_voter(&metrics) || sabotage::is(Bug::LeaseNotRechecked) {
            return leads;
        }
        let confirmed = self.confirmed.elapsed();
        let age = metrics.last_quorum_acked.map_or(confirmed, |acked| acked.elapsed().min(confirmed));
        age < lease(self.group.lease_ms()) * 7 / 8
    }
}

fn lease(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) async fn barrier(group: &Group, within: Duration) -> Result<ReadGuard, ReadError> {
    let id = group.id();
    let until = Instant::now() + within;
    let age = lease(group.lease_ms()) / 2;
    let (started, status) = (Instant::now(), group.status());
    let term = status.term;
    // openraft caps any age at its own lease: who ignores the lease does not ask openraft either.
    if sabotage::is(Bug::LeaseNotRechecked) && status.is_leader() {
        return Ok(ReadGuard { group: group.clone(), term, confirmed: started, index: status.applied.unwrap_or(0) });
    }
    let timed_out = || ReadError::TimedOut { group: id };
    let option = LinearizerOption::new(Some(age), true).with_wait_timeout(within);
    let linearizer = timeout_at(until, group.raft().get_read_linearizer(option)).await.map_err(|_| timed_out())?;
    let linearizer = linearizer.map_err(|error| explain(id, error))?;
    let left = until.saturating_duration_since(Instant::now());
    let ready = linearizer.try_await_ready(group.raft(), Some(left)).await;
    let ready = ready.map_err(|error| ReadError::Fatal { group: id, message: error.to_string() })?;
    let ready = ready.map_err(|_| timed_out())?;
    let log_id = ready.read_log_id().log_id();
    // A guard of the term that answered: the barrier may have been asked just as that term began.
    let term = term.max(group.status().term);
    let confirmed = started.checked_sub(age).unwrap_or(started);
    Ok(ReadGuard { group: group.clone(), term, confirmed, index: log_id.index })
}

fn explain(group: u64, error: RaftError<raft::TypeConfig, LinearizableReadError<raft::TypeConfig>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            ReadError::NotLeader { group, hint: raft::hint(forward) }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::TimedOut { group },
        RaftError::Fatal(error) => ReadError::Fatal { group, message: error.to_string() },
    }
}
