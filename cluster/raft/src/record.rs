//! Bytes on disk: what the journal, the state machine and the snapshot file keep for us. Every record opens with its
//! version byte, so that a change of openraft's types is a new version and not a misread.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::raft::{Entry, EntryPayload, LeaderId, LogId, Payload, StoredMembership, Vote};
use crate::{Applied, Error, LogMark};

const VERSION: u8 = 1;

/// Entry header: version, kind, the proposing leader's replica id.
const ENTRY_HEAD: usize = 1 + 1 + 8;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// `version | postcard`.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    match postcard::to_extend(value, vec![VERSION]) {
        Ok(bytes) => bytes.into(),
        // Writing to memory cannot fail, and none of our types refuses to be serialised.
        Err(error) => unreachable!("serialising a record to memory: {error}"),
    }
}

/// Reads what [`encode`] wrote; refuses newer versions and trailing bytes.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Error> {
    let body = strip_version(what, bytes)?;
    let (value, rest) = postcard::take_from_bytes(body).map_err(|error| malformed(what, error))?;
    if rest.is_empty() { Ok(value) } else { Err(malformed(what, format!("{} bytes too many", rest.len()))) }
}

fn strip_version<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((version, _)) => Err(malformed(what, format!("format version {version}, this binary knows {VERSION}"))),
        None => Err(malformed(what, "no bytes")),
    }
}

pub(crate) fn malformed(what: &'static str, message: impl ToString) -> Error {
    Error::Malformed { what, message: message.to_string() }
}

/// A vote, together with the replica that cast it: the replica id that lives in this journal.
pub(crate) fn encode_vote(replica: u64, vote: &Vote) -> Bytes {
    encode(&(replica, vote))
}

pub(crate) fn decode_vote(bytes: &[u8]) -> Result<(u64, Vote), Error> {
    decode("vote record", bytes)
}

/// An entry's payload record; term and index are the journal's own fields.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let (kind, body): (u8, Bytes) = match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(payload) => (NORMAL, payload.0.clone()),
        EntryPayload::Membership(membership) => (MEMBERSHIP, encode(membership)),
    };
    let mut bytes = BytesMut::with_capacity(ENTRY_HEAD + body.len());
    bytes.put_u8(VERSION);
    bytes.put_u8(kind);
    bytes.put_u64_le(entry.log_id.leader_id.node_id);
    bytes.put_slice(&body);
    bytes.freeze()
}

/// Reads what [`encode_entry`] wrote; a proposal's bytes are not copied.
pub(crate) fn decode_entry(index: u64, term: u64, record: &Bytes) -> Result<Entry, Error> {
    let what = "log entry";
    let head = record.get(..ENTRY_HEAD).ok_or_else(|| malformed(what, "shorter than its header"))?;
    let head = strip_version(what, head)?;
    let mut proposer = [0; 8];
    proposer.copy_from_slice(&head[1..]);
    let body = record.slice(ENTRY_HEAD..);
    let payload = match head[0] {
        BLANK if body.is_empty() => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Payload(body)),
        MEMBERSHIP => EntryPayload::Membership(decode("membership entry", &body)?),
        kind => return Err(malformed(what, format!("unknown kind {kind}"))),
    };
    let leader_id = LeaderId { term, node_id: u64::from_le_bytes(proposer) };
    Ok(Entry { log_id: LogId::new(leader_id, index), payload })
}

/// The position a state machine keeps with its state.
pub(crate) fn encode_applied(last: Option<LogId>, membership: &StoredMembership) -> Applied {
    Applied {
        last: last.map(|id| LogMark { term: id.leader_id.term, index: id.index }),
        mark: encode(&(last, membership)),
    }
}

pub(crate) fn decode_applied(applied: &Applied) -> Result<(Option<LogId>, StoredMembership), Error> {
    let what = "applied position";
    if applied.mark.is_empty() && applied.last.is_none() {
        return Ok((None, StoredMembership::default()));
    }
    let (last, membership): (Option<LogId>, StoredMembership) = decode(what, &applied.mark)?;
    let mark = last.map(|id| LogMark { term: id.leader_id.term, index: id.index });
    if mark != applied.last {
        return Err(malformed(what, format!("mark says {mark:?}, position says {:?}", applied.last)));
    }
    Ok((last, membership))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::raft::Peer;

    fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId::new(LeaderId { term, node_id }, index)
    }

    fn membership() -> openraft::Membership<u64, Peer> {
        let peers: BTreeMap<u64, Peer> = (1..=3).map(|id| (id, Peer { node: id, addr: format!("a{id}") })).collect();
        openraft::Membership::new(vec![BTreeSet::from([1, 2])], peers).unwrap()
    }

    #[test]
    fn entries_of_every_kind_come_back_as_they_were() {
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from_static(b"hello"))),
            EntryPayload::Normal(Payload(Bytes::new())),
            EntryPayload::Membership(membership()),
        ];
        for payload in payloads {
            let entry = Entry { log_id: log_id(7, 3, 11), payload };
            assert_eq!(decode_entry(11, 7, &encode_entry(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn positions_come_back_and_a_mark_of_another_position_is_refused() {
        let stored = StoredMembership::new(Some(log_id(1, 1, 0)), membership());
        let applied = encode_applied(Some(log_id(2, 1, 9)), &stored);
        assert_eq!(decode_applied(&applied).unwrap(), (Some(log_id(2, 1, 9)), stored));
        assert_eq!(decode_applied(&Applied::default()).unwrap(), (None, StoredMembership::default()));
        assert!(decode_applied(&Applied { last: None, ..applied }).is_err());
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut bytes = encode_vote(1, &Vote::new(3, 1)).to_vec();
        bytes[0] = 9;
        let error = decode_vote(&bytes).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut versioned = vec![VERSION];
            versioned.extend_from_slice(&bytes);
            for bytes in [bytes, versioned] {
                let record = Bytes::from(bytes);
                let _ = decode_vote(&record);
                let _ = decode_entry(1, 1, &record);
                let _ = decode_applied(&Applied { last: Some(LogMark { term: 1, index: 1 }), mark: record });
            }
        }
    }
}
