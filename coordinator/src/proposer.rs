//! Puts commands into the coordinator's log and says what became of them.

use crate::catalog::{Answer, Command, Outcome};
use docent_raft::{Group, Member, ProposeError};
use docent_types::{Error, Kind, NodeId, Result, codec};
use std::time::Duration;

/// A handle on the log. Clones share it.
#[derive(Clone, Debug)]
pub struct Proposer {
    group: Group,
}

impl Proposer {
    /// Proposes to `group`.
    pub fn new(group: Group) -> Proposer {
        Proposer { group }
    }

    /// Waits until the command is applied here. `Kind::Unknown` means that it may yet be.
    pub async fn propose(&self, command: &Command, within: Duration) -> Result<Answer> {
        let outcome = match self.group.propose(codec::encode_in(command.format(), command), within).await {
            Ok(committed) => {
                codec::decode::<Outcome>("a catalog answer", &committed.response).and_then(|outcome| outcome)
            }
            Err(error) => Err(refused(error)),
        };
        let kind = outcome.as_ref().map_or_else(|error| error.kind.name(), |_| "ok");
        metrics::counter!("docent_coordinator_proposals_total", "outcome" => kind).increment(1);
        outcome
    }

    /// `NotLeader` with a hint unless this coordinator leads, as far as it knows.
    pub fn lead(&self) -> Result<()> {
        let status = self.group.status();
        if status.is_leader() { Ok(()) } else { Err(not_leader(status.leader)) }
    }

    /// The group.
    pub fn group(&self) -> &Group {
        &self.group
    }
}

fn not_leader(hint: Option<Member>) -> Error {
    let message = match &hint {
        Some(leader) => format!("this coordinator does not lead; coordinator {} does", leader.replica),
        None => "the coordinators have no leader now; try again in a moment".to_owned(),
    };
    Error::new(Kind::NotLeader, message).with_hint(hint.map(|leader| NodeId(leader.node)))
}

fn refused(error: ProposeError) -> Error {
    match error {
        ProposeError::NotLeader { hint, .. } => not_leader(hint),
        ProposeError::Overloaded { retry_after_ms, .. } => {
            let message = "the coordinator has too many changes in flight; try again in a moment";
            Error::overloaded(message, u32::try_from(retry_after_ms).unwrap_or(u32::MAX))
        }
        ProposeError::TooLarge { bytes, bytes_max, .. } => Error::new(
            Kind::Invalid,
            format!("the change has {bytes} bytes; the coordinator takes at most {bytes_max}"),
        ),
        // Everything else may have been, or may yet be, committed; that is never reported as a failure.
        error => Error::new(Kind::Unknown, format!("the coordinator cannot say whether the change happened: {error}")),
    }
}
