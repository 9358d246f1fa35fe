//! What a world sees of its cluster beside what clients are told.

use crate::name::{Group, Member};
use crate::target::Scene;
use crate::text::named;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

named! {
    /// How loud a line of a log is.
    "level" Level {
        /// Worth knowing.
        Info = "info",
        /// Something is wrong and was dealt with.
        Warn = "warn",
        /// A person must act.
        Error = "error",
        /// A thread panicked.
        Panic = "panic",
    }
}

named! {
    /// What a run may have to see so that it proves something. Those that follow from a history are counted by its checker
    /// ([`crate::check::coverage`]); the others are told by the world with [`Observed::Seen`].
    "sight" Sight {
        /// Leaders that were elected after the first of each group; from [`Observed::Leader`].
        Elections = "elections",
        /// Followers that removed entries of their log.
        Truncations = "truncations",
        /// Snapshots that were installed.
        SnapshotInstalls = "snapshot-installs",
        /// Memberships that a group took; from [`Observed::Membership`].
        MembershipChanges = "membership-changes",
        /// Writes proposed to a leader that had lost its majority.
        MinorityLeaderWrites = "minority-leader-writes",
        /// Writes that were not synced and are gone.
        LostUnsyncedWrites = "lost-unsynced-writes",
        /// Records that were cut because they were torn.
        TornWrites = "torn-writes",
        /// Messages that the network lost.
        MessagesLost = "messages-lost",
        /// Messages that came twice.
        MessagesDuplicated = "messages-duplicated",
        /// Messages that came out of order.
        MessagesReordered = "messages-reordered",
        /// Starts of members that had been there before.
        Restarts = "restarts",
        /// Syncs that failed.
        SyncErrors = "sync-errors",
        /// Replicas that moved; from [`Observed::Move`].
        Moves = "moves",
        /// Training jobs that ended well.
        Trainings = "trainings",
        /// Attempts of training jobs after the first.
        TrainingRetries = "training-retries",
        /// Groups that refused damaged records and were made anew.
        Quarantines = "quarantines",
        /// Faults that were installed, of any kind.
        Faults = "faults",
        /// Events that were acked.
        EventsAcked = "events-acked",
        /// Events that were sent again and recognised.
        Duplicates = "duplicates",
        /// Calls whose outcome is not known.
        Unknowns = "unknowns",
        /// Calls that were refused.
        Refusals = "refusals",
        /// Queries that were answered.
        Queries = "queries",
        /// Answers from a user's own vector.
        PersonalAnswers = "personal-answers",
        /// Answers that missed something and said so.
        DegradedAnswers = "degraded-answers",
        /// Opt-outs that were acked.
        OptOuts = "opt-outs",
        /// Block lists that were acked.
        Blocks = "blocks",
        /// Take-downs that were acked.
        TakeDowns = "take-downs",
        /// Erasures that were acked.
        Erasures = "erasures",
        /// Activations and rollbacks that were acked.
        Activations = "activations",
        /// Model versions of which answers were.
        Versions = "versions",
        /// Events acked after everything was healed.
        FreshWrites = "fresh-writes",
        /// Replicas whose state was compared.
        Digests = "digests",
        /// Answers that were held against the true one.
        OracleAnswers = "oracle-answers",
    }
}

/// Something seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "snake_case")]
pub enum Observed {
    /// A replica says that it leads.
    Leader {
        /// What.
        group: Group,
        /// In which term.
        term: u64,
        /// Who.
        member: Member,
    },
    /// A replica says where it is.
    Replica {
        /// Of what.
        group: Group,
        /// Whose.
        member: Member,
        /// Its id; never reused. 0 where it is not known.
        #[serde(default)]
        replica: u64,
        /// Its term.
        term: u64,
        /// The last entry of its log.
        last: u64,
        /// The last entry that it knows to be committed.
        committed: u64,
        /// The last entry that it applied.
        applied: u64,
    },
    /// A replica applied an entry.
    Applied {
        /// Of what.
        group: Group,
        /// Whose.
        member: Member,
        /// Its id; 0 where it is not known.
        #[serde(default)]
        replica: u64,
        /// Which entry.
        index: u64,
        /// Its term.
        term: u64,
        /// Of its content.
        hash: String,
    },
    /// A replica's state as of an entry.
    Digest {
        /// Of what.
        group: Group,
        /// Whose.
        member: Member,
        /// Its id; 0 where it is not known.
        #[serde(default)]
        replica: u64,
        /// As of which entry.
        index: u64,
        /// Of every stored byte.
        digest: String,
    },
    /// The committed membership of a group.
    Membership {
        /// Of what.
        group: Group,
        /// The entry that made it.
        index: u64,
        /// Who votes.
        voters: BTreeSet<Member>,
        /// Who learns.
        #[serde(default)]
        learners: BTreeSet<Member>,
        /// Two sets of voters have to agree.
        is_joint: bool,
    },
    /// A replica is on its way, or arrived, or was given up.
    Move {
        /// Of what.
        shard: Group,
        /// From whom; `None` where the shard only grows.
        #[serde(default)]
        from: Option<Member>,
        /// To whom.
        to: Member,
        /// Whether it is over.
        is_over: bool,
    },
    /// A shard went on from one survivor of those that were lost for good: what had been acked beyond the end of its log is gone.
    Recovered {
        /// Which.
        shard: Group,
        /// Where that log ended.
        last: u64,
    },
    /// Whether any replica of a group can serve, by what the world knows of its processes: false only where all of them are dead, paused or
    /// cut off from every gateway for certain.
    Served {
        /// What.
        group: Group,
        /// From now on.
        is_served: bool,
    },
    /// What scores of answers of a version can be, where the world scaled its vectors so that a mixture shows.
    ScoreRange {
        /// Of which version.
        version: u64,
        /// The lowest.
        min: f32,
        /// The highest.
        max: f32,
    },
    /// A line of a member's log.
    Log {
        /// Whose.
        member: Member,
        /// How loud.
        level: Level,
        /// The whole line.
        line: String,
    },
    /// A member's log was read to its end: what it says was told line by line, at least from [`Level::Warn`] on.
    LogEnd {
        /// Whose.
        member: Member,
        /// How many lines it had.
        lines: u64,
    },
    /// An event that the cluster has at the audit.
    Exported {
        /// Its id.
        event_id: String,
        /// Whose.
        user: String,
        /// Of what.
        item: String,
    },
    /// The export was complete.
    ExportEnd {
        /// Of how many events.
        events: u64,
    },
    /// A thing that happened so many more times.
    Seen {
        /// What.
        what: Sight,
        /// How often.
        count: u64,
    },
    /// The cluster's roles, when they changed.
    Scene {
        /// As they are.
        scene: Scene,
    },
    /// What a person should read in the report.
    Note {
        /// In words.
        text: String,
    },
}
