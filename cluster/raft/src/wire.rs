//! Bytes between hosts: a version byte and postcard of openraft's types, and checks of what openraft takes for granted.

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::raft::{Raft, SnapshotMeta, TypeConfig, Vote};
use crate::record::{decode, encode, malformed};
use crate::{Error, Group, MessageKind};

/// What opens a snapshot's stream.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    /// The sending leader's vote.
    pub(crate) vote: Vote,
    /// What the file must hold.
    pub(crate) meta: SnapshotMeta,
    /// Length of the file.
    pub(crate) bytes: u64,
}

pub(crate) type AppendRequest = AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResponse = AppendEntriesResponse<TypeConfig>;

/// Reads an append; refuses entries with holes, which openraft would store.
fn decode_append(body: &[u8]) -> Result<AppendRequest, Error> {
    let what = "append message";
    let request: AppendRequest = decode(what, body)?;
    let mut next = request.prev_log_id.map_or(Some(0), |id| id.index.checked_add(1));
    for entry in &request.entries {
        if Some(entry.log_id.index) != next {
            return Err(malformed(what, format!("entry {} where {next:?} is next", entry.log_id.index)));
        }
        next = entry.log_id.index.checked_add(1);
    }
    Ok(request)
}

/// Set behind an append's answer by a replica whose disk is full; without it there is nothing behind.
const IS_FULL: &[u8] = &[1];

/// The answer to an append, and whether the replica's disk is full.
pub(crate) fn decode_append_answer(body: &[u8]) -> Result<(AppendResponse, bool), Error> {
    if let Some(flagged) = body.strip_suffix(IS_FULL)
        && let Ok(response) = decode("append answer", flagged)
    {
        return Ok((response, true));
    }
    decode("append answer", body).map(|response| (response, false))
}

fn encode_append_answer(response: &AppendResponse, is_full: bool) -> Bytes {
    let answer = encode(response);
    if is_full { [&answer, IS_FULL].concat().into() } else { answer }
}

/// The leader's commit, where that is all that was ever committed: a new leader does not know that before an entry of its own is
/// committed (Ongaro's dissertation, section 6.4), and until then openraft sends what it knew when it last led, or nothing.
fn whole_commit(request: &AppendRequest) -> Option<u64> {
    let commit = request.leader_commit.as_ref()?;
    (commit.leader_id == request.vote.leader_id).then_some(commit.index)
}

/// Hands a message to the group's raft and encodes its answer.
pub(crate) async fn dispatch(hosted: &Group, kind: MessageKind, body: &[u8]) -> Result<Bytes, Error> {
    let (group, raft) = (hosted.id(), hosted.raft());
    let fatal = |error: &dyn std::fmt::Display| Error::Fatal { group, message: error.to_string() };
    match kind {
        MessageKind::Append | MessageKind::Heartbeat => {
            let request = decode_append(body)?;
            let is_low = hosted.is_low();
            if is_low && !request.entries.is_empty() {
                return Err(Error::NoRoom { group });
            }
            let (arrived, commit) = (Instant::now(), whole_commit(&request));
            let response = raft.append_entries(request).await;
            if let (Ok(AppendResponse::Success | AppendResponse::PartialSuccess(_)), Some(commit)) = (&response, commit)
            {
                hosted.note_leader_contact(arrived, commit);
            }
            response.map(|response| encode_append_answer(&response, is_low)).map_err(|error| fatal(&error))
        }
        MessageKind::Vote => {
            let request: VoteRequest<TypeConfig> = decode("vote message", body)?;
            // One that the leader itself asked for is no danger to it.
            if hosted.refuses_votes() && !request.leadership_transfer {
                return Ok(refusal(raft));
            }
            let response = raft.vote(request).await;
            response.map(|response| encode::<VoteResponse<TypeConfig>>(&response)).map_err(|error| fatal(&error))
        }
        MessageKind::PreVote => {
            let request: VoteRequest<TypeConfig> = decode("pre-vote message", body)?;
            if hosted.refuses_votes() {
                return Ok(refusal(raft));
            }
            let response = raft.pre_vote(request).await;
            response.map(|response| encode::<VoteResponse<TypeConfig>>(&response)).map_err(|error| fatal(&error))
        }
        MessageKind::TransferLeader => {
            let request: TransferLeaderRequest<TypeConfig> = decode("transfer message", body)?;
            let response = raft.handle_transfer_leader(request).await;
            let encoded = response.map(|response| encode::<TransferLeaderResponse<TypeConfig>>(&response));
            encoded.map_err(|error| fatal(&error))
        }
    }
}

/// "No", without a word about the log, so that the candidate may ask again as soon as it would have anyway.
fn refusal(raft: &Raft) -> Bytes {
    let vote = raft.metrics().borrow_watched().vote;
    encode(&VoteResponse::<TypeConfig>::new(vote, None, false))
}

pub(crate) fn encode_snapshot_response(response: &SnapshotResponse<TypeConfig>) -> Bytes {
    encode(response)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::raft::{Entry, EntryPayload, LeaderId, LogId, Payload};

    fn entry(index: u64) -> Entry {
        let log_id = LogId::new(LeaderId { term: 1, node_id: 1 }, index);
        Entry { log_id, payload: EntryPayload::Normal(Payload(Bytes::from_static(b"x"))) }
    }

    fn append(prev: Option<u64>, indexes: &[u64]) -> AppendRequest {
        AppendRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: prev.map(|index| entry(index).log_id),
            entries: indexes.iter().map(|index| entry(*index)).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn an_append_comes_back_as_it_was_and_one_with_a_hole_is_refused() {
        let whole = append(Some(4), &[5, 6, 7]);
        assert_eq!(format!("{:?}", decode_append(&encode(&whole)).unwrap()), format!("{whole:?}"));
        assert!(decode_append(&encode(&append(None, &[0, 1]))).is_ok());
        for broken in [append(Some(4), &[6]), append(Some(4), &[5, 7]), append(None, &[1])] {
            assert!(decode_append(&encode(&broken)).is_err(), "{broken:?}");
        }
    }

    /// Found by the lab (move-kill-begun-target): a replica that had just come back took the first words of a new leader, which had not yet
    /// heard of all commits, for all there was, and showed an item that had been taken down.
    #[test]
    fn a_new_leader_without_a_commit_of_its_own_vouches_for_nothing() {
        let by = |term, index| Some(LogId::new(LeaderId { term, node_id: 1 }, index));
        let told = |leader_commit| whole_commit(&AppendRequest { leader_commit, ..append(Some(4), &[]) });
        assert_eq!((told(None), told(by(0, 9)), told(by(1, 9))), (None, None, Some(9)));
        let other_leader_of_the_term = Some(LogId::new(LeaderId { term: 1, node_id: 0 }, 9));
        assert_eq!(told(other_leader_of_the_term), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut versioned = vec![1];
            versioned.extend_from_slice(&body);
            for body in [body, versioned] {
                let _ = decode_append(&body);
                let _ = decode::<VoteRequest<TypeConfig>>("vote", &body);
                let _ = decode::<SnapshotHeader>("header", &body);
            }
        }
    }
}
