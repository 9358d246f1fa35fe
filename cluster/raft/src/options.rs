//! Settings of all raft groups of a process.

use serde::{Deserialize, Serialize};

use crate::Error;

/// The journal takes records of 16 MiB, ours have a header.
const PAYLOAD_BYTES_MOST: usize = 15 << 20;

/// Numbers that every group of a host shares. The default suits small shared machines; see [`Options::fast`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How often a leader tells its followers that it lives.
    pub heartbeat_interval_ms: u64,
    /// Shortest wait before a follower that hears nothing stands for election (after the lease below has run out).
    pub election_timeout_min_ms: u64,
    /// Longest such wait. Also the leader's lease: followers refuse votes for this long after they heard from it.
    pub election_timeout_max_ms: u64,
    /// Deadline of one append, vote or heartbeat is raft's own; this one is for handing over a whole snapshot.
    pub snapshot_timeout_ms: u64,
    /// A snapshot is made when this many entries were applied since the last one ...
    pub snapshot_entries: u64,
    /// ... or this many bytes of payload.
    pub snapshot_bytes: u64,
    /// Entries kept in the journal behind the last snapshot, so that a follower a little behind needs no snapshot.
    pub purge_margin_entries: u64,
    /// How often a group looks whether a snapshot or a purge is due.
    pub compaction_interval_ms: u64,
    /// Size of a snapshot chunk, in the file and on the wire.
    pub chunk_bytes: usize,
    /// Largest snapshot that is received.
    pub snapshot_bytes_max: u64,
    /// Snapshots built at the same time in this process, and as many received.
    pub snapshots_at_once: usize,
    /// Largest payload of one proposal.
    pub payload_bytes_max: usize,
    /// Proposals of one group that are not answered yet.
    pub proposals_in_flight_max: usize,
    /// Bytes of those proposals.
    pub proposal_bytes_in_flight_max: usize,
    /// Entries in one append message.
    pub append_entries_max: u64,
    /// Bytes of entries in one append message or one read of the journal (at least one entry always goes).
    pub append_bytes_max: u64,
    /// Commands in one call of `Machine::apply`.
    pub apply_batch_max: usize,
    /// Bytes of payload in one call of `Machine::apply` (at least one command always goes).
    pub apply_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 250,
            election_timeout_min_ms: 750,
            election_timeout_max_ms: 1_500,
            snapshot_timeout_ms: 600_000,
            snapshot_entries: 20_000,
            snapshot_bytes: 64 << 20,
            purge_margin_entries: 10_000,
            compaction_interval_ms: 1_000,
            chunk_bytes: 1 << 20,
            snapshot_bytes_max: 64 << 30,
            snapshots_at_once: 1,
            payload_bytes_max: 4 << 20,
            proposals_in_flight_max: 4_096,
            proposal_bytes_in_flight_max: 32 << 20,
            append_entries_max: 1_024,
            append_bytes_max: 2 << 20,
            apply_batch_max: 1_024,
            apply_bytes_max: 8 << 20,
        }
    }
}

impl Options {
    /// Timers for real hardware with a quiet network, and for tests.
    pub fn fast() -> Self {
        Self {
            heartbeat_interval_ms: 50,
            election_timeout_min_ms: 150,
            election_timeout_max_ms: 300,
            compaction_interval_ms: 100,
            ..Self::default()
        }
    }

    /// Refuses numbers that cannot work together.
    pub fn validate(&self) -> Result<(), Error> {
        let refuse = |message: &str| Err(Error::Options { message: message.to_owned() });
        if self.heartbeat_interval_ms == 0 || self.heartbeat_interval_ms >= self.election_timeout_min_ms {
            return refuse("heartbeat_interval_ms must be above 0 and below election_timeout_min_ms");
        }
        if self.election_timeout_min_ms >= self.election_timeout_max_ms {
            return refuse("election_timeout_min_ms must be below election_timeout_max_ms");
        }
        if !(1..=(16 << 20)).contains(&self.chunk_bytes) {
            return refuse("chunk_bytes must be between 1 and 16 MiB");
        }
        if !(1..=PAYLOAD_BYTES_MOST).contains(&self.payload_bytes_max)
            || self.payload_bytes_max > self.proposal_bytes_in_flight_max
            || u32::try_from(self.proposal_bytes_in_flight_max).is_err()
        {
            return refuse(
                "payload_bytes_max must be at most 15 MiB and proposal_bytes_in_flight_max, that below 4 GiB",
            );
        }
        let counts = [
            self.snapshot_timeout_ms,
            self.snapshot_entries,
            self.snapshot_bytes,
            self.compaction_interval_ms,
            self.snapshots_at_once as u64,
            self.proposals_in_flight_max as u64,
            self.append_entries_max,
            self.append_bytes_max,
            self.apply_batch_max as u64,
            self.apply_bytes_max as u64,
        ];
        if counts.contains(&0) {
            return refuse("no count, size or interval may be 0 (only purge_margin_entries may)");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_profiles_are_valid_and_nonsense_is_refused() {
        Options::default().validate().unwrap();
        Options::fast().validate().unwrap();
        let nonsense = [
            Options { heartbeat_interval_ms: 0, ..Options::default() },
            Options { heartbeat_interval_ms: 900, ..Options::default() },
            Options { election_timeout_min_ms: 2_000, ..Options::default() },
            Options { chunk_bytes: 0, ..Options::default() },
            Options { payload_bytes_max: 33 << 20, ..Options::default() },
            Options { apply_batch_max: 0, ..Options::default() },
        ];
        for options in nonsense {
            assert!(options.validate().is_err(), "{options:?}");
        }
    }
}
