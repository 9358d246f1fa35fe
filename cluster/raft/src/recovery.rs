//! The way out when the majority of a group is lost for good: a survivor becomes its only voter.
//!
//! It breaks raft's promise knowingly: what the lost majority had committed and this replica has not is gone, and should the lost ones
//! ever come back as they were, there would be two groups. So the caller makes sure that they never do, and that a person decided.

use std::collections::{BTreeMap, BTreeSet};

use docent_journal::GroupLog;
use openraft::Membership;
use tokio::sync::oneshot;

use crate::log::Log;
use crate::raft::{Entry, EntryPayload, LogId, Peer};
use crate::{Error, Member, record};

/// Appends a membership of this replica alone to its log, as if a leader had. All that the log has before it will be committed by it,
/// also what the lost majority never confirmed. Gives the index of the entry.
pub(crate) async fn force_sole_voter(
    group: u64,
    records: GroupLog,
    member: &Member,
    expected_last: u64,
    read_bytes_max: u64,
) -> Result<u64, Error> {
    let storage = |message: String| Error::Storage { group, message };
    let refused = |message: String| Error::Membership { group, message };
    let log = Log::open(group, member.replica, records.clone(), read_bytes_max)?;
    let last = log.last_log_id().map_err(|error| storage(error.to_string()))?;
    let last = last.ok_or_else(|| refused("the replica has no log at all".to_owned()))?;
    if last.index != expected_last {
        return Err(refused(format!("the log ends at {}, not at {expected_last}; look again", last.index)));
    }
    let peers = BTreeMap::from([(member.replica, Peer::of(member))]);
    let membership = Membership::new(vec![BTreeSet::from([member.replica])], peers);
    let membership = membership.map_err(|error| refused(error.to_string()))?;
    let id = LogId::new(last.leader_id, last.index + 1);
    let entry = Entry { log_id: id, payload: EntryPayload::Membership(membership) };
    let (sender, receiver) = oneshot::channel();
    let appended = docent_journal::Entry {
        index: Log::position(id.index),
        term: id.leader_id.term,
        payload: record::encode_entry(&entry),
    };
    let done = Box::new(move |result| {
        // Nobody waits any more where the caller was dropped.
        sender.send(result).ok();
    });
    records.append(vec![appended], done);
    match receiver.await {
        Ok(result) => result.map(|()| id.index).map_err(|error| storage(error.to_string())),
        Err(_) => Err(storage("the journal was closed before the entry was synced".to_owned())),
    }
}
