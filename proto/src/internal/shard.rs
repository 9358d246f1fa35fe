//! What gateways ask of shards. Requests to a leader are fenced by the shard id; item requests cover all shards that one node serves.

use docent_types::catalog::Replica;
use docent_types::command::{BackupId, ItemCommand, ItemOutcome, UserCommand, UserOutcome};
use docent_types::event::Event;
use docent_types::item::ItemState;
use docent_types::query::ScoredItem;
use docent_types::user::{Consent, User};
use docent_types::{Error, ItemId, NodeId, Position, ReplicaId, ShardId, TenantId, UserId};
use serde::{Deserialize, Serialize};

/// A request to a node about shards that it hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Propose to the user shard's log; leader only.
    WriteUsers {
        /// Which shard.
        shard: ShardId,
        /// What.
        command: UserCommand,
    },
    /// Propose to the item shard's log; leader only.
    WriteItems {
        /// Which shard.
        shard: ShardId,
        /// What.
        command: ItemCommand,
    },
    /// A user as clients see it; leader only, linearizable.
    GetUser {
        /// Which shard.
        shard: ShardId,
        /// Whose.
        tenant: TenantId,
        /// Who.
        user_id: UserId,
    },
    /// What a query needs of its user; leader only, linearizable.
    UserState {
        /// Which shard.
        shard: ShardId,
        /// Whose.
        tenant: TenantId,
        /// Who.
        user_id: UserId,
        /// The model version to solve the vector in; 0 asks for none.
        version: u64,
    },
    /// Which history items made each candidate's score; leader only.
    Explain {
        /// Which shard.
        shard: ShardId,
        /// Whose.
        tenant: TenantId,
        /// Who.
        user_id: UserId,
        /// The version that scored.
        version: u64,
        /// The answer's items.
        candidates: Vec<ItemId>,
        /// Reasons an item.
        reasons: u32,
    },
    /// The best `n` items of each shard by inner product with `vector`; any replica.
    Scan {
        /// Whose.
        tenant: TenantId,
        /// The version of `vector`; shards answer with the same version or not at all.
        version: u64,
        /// The query, `dim` values.
        vector: Vec<f32>,
        /// How many of each shard.
        n: u32,
        /// The shards and what each must not return.
        shards: Vec<ShardFilter>,
    },
    /// The most popular `n` items of each shard; any replica.
    Popular {
        /// Whose.
        tenant: TenantId,
        /// How many of each shard.
        n: u32,
        /// The shards and what each must not return.
        shards: Vec<ShardFilter>,
    },
    /// Metadata of items; any replica.
    GetItems {
        /// Whose.
        tenant: TenantId,
        /// By shard.
        shards: Vec<(ShardId, Vec<ItemId>)>,
    },
    /// Rows of items in a model version; any replica.
    ItemRows {
        /// Whose.
        tenant: TenantId,
        /// Which version.
        version: u64,
        /// By shard.
        shards: Vec<(ShardId, Vec<ItemId>)>,
    },
    /// Which applied index each hosted replica of these shards has reached: a take-down waits for it.
    Applied {
        /// Which shards.
        shards: Vec<ShardId>,
    },
    /// Marks the state of every shard that this node leads in its log and pins it, as the input of a training job's attempt.
    Cut {
        /// The job.
        job: u64,
        /// The attempt; an older one's pins are dropped.
        epoch: u64,
    },
    /// The digest that this replica took at a `Digest` command; any replica. Waits until it has applied it.
    Digest {
        /// Which shard.
        shard: ShardId,
        /// The command's log index.
        index: u64,
    },
    /// What the shard is to a restore; leader only, linearizable.
    Standing {
        /// Which shard.
        shard: ShardId,
    },
    /// How far this replica's log goes, and whom it follows; any replica.
    ReplicaLog {
        /// Which shard.
        shard: ShardId,
    },
    /// Makes this replica the shard's only one, because the majority is lost for good.
    Recover {
        /// Which shard.
        shard: ShardId,
        /// The replica that an operator chose.
        replica: ReplicaId,
        /// Where its log ended when the operator looked.
        last: u64,
    },
    /// The best `n` items of each shard by the weights that `sources` have for them; any replica. Since format 4.
    ScanHistory {
        /// Whose.
        tenant: TenantId,
        /// The version of the weights; shards answer with the same version or not at all.
        version: u64,
        /// Fingerprints of the items of a history.
        sources: Vec<u64>,
        /// How many of each shard.
        n: u32,
        /// The shards and what each must not return.
        shards: Vec<ShardFilter>,
    },
    /// The weight that each of `sources` has for items, in a model version; any replica. Since format 4.
    HistoryWeights {
        /// Whose.
        tenant: TenantId,
        /// Which version.
        version: u64,
        /// Fingerprints of the items of a history.
        sources: Vec<u64>,
        /// By shard.
        shards: Vec<(ShardId, Vec<ItemId>)>,
    },
    /// Pins replicas at the marks of a cut, or goes on holding them for a newer attempt; any replica. Since format 4.
    Pin {
        /// The job.
        job: u64,
        /// The attempt that reads them.
        epoch: u64,
        /// The marks, one a shard; what the job held elsewhere is dropped.
        positions: Vec<Position>,
    },
    /// What is pinned for a job, whichever attempt pinned it. Since format 4.
    Pinned {
        /// The job.
        job: u64,
    },
    /// The best `n` items of each shard for a user of a blend; any replica. Since format 6.
    ScanBlend {
        /// Whose.
        tenant: TenantId,
        /// The version; shards answer with the same version or not at all.
        version: u64,
        /// The user's vector; empty where there is none.
        vector: Vec<f32>,
        /// Fingerprints of the items of the history.
        sources: Vec<u64>,
        /// How many of each shard.
        n: u32,
        /// The shards and what each must not return.
        shards: Vec<ShardFilter>,
    },
}

impl Request {
    /// The lowest format whose binaries know this request.
    pub fn format(&self) -> u32 {
        match self {
            Request::WriteUsers { command, .. } => command.format(),
            Request::WriteItems { command, .. } => command.format(),
            Request::GetUser { .. }
            | Request::UserState { .. }
            | Request::Explain { .. }
            | Request::Scan { .. }
            | Request::Popular { .. }
            | Request::GetItems { .. }
            | Request::ItemRows { .. }
            | Request::Applied { .. }
            | Request::Cut { .. }
            | Request::Digest { .. }
            | Request::Standing { .. }
            | Request::ReplicaLog { .. }
            | Request::Recover { .. } => 2,
            Request::ScanHistory { .. }
            | Request::HistoryWeights { .. }
            | Request::Pin { .. }
            | Request::Pinned { .. } => 4,
            Request::ScanBlend { .. } => 6,
        }
    }
}

/// How far a replica's log goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLog {
    /// Which replica.
    pub replica: ReplicaId,
    /// Its term.
    pub term: u64,
    /// The last entry of its log.
    pub last: u64,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// Whom it follows.
    pub leader: Option<NodeId>,
    /// Who votes, by its log.
    pub voters: Vec<Replica>,
}

/// A shard and the ids (all of that shard) that it must not return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFilter {
    /// Which shard.
    pub shard: ShardId,
    /// What not to return, sorted by id.
    pub exclude: Vec<ItemId>,
}

/// Every asked shard with its own outcome.
pub type PerShard<T> = Vec<(ShardId, Result<T, Error>)>;

/// The answer to a [`Request`], of the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// To `WriteUsers`.
    WroteUsers {
        /// Where it was committed.
        position: Position,
        /// What became of it.
        outcome: UserOutcome,
    },
    /// To `WriteItems`.
    WroteItems {
        /// Where it was committed.
        position: Position,
        /// What became of it.
        outcome: ItemOutcome,
        /// Nodes that may show the shard's items: a take-down waits for them, whatever its gateway's catalog says.
        holders: Vec<NodeId>,
    },
    /// To `GetUser`.
    User(Option<User>),
    /// To `UserState`.
    UserState(UserState),
    /// To `Explain`: for each candidate its strongest history items and their contributions.
    Explained(Vec<Vec<(ItemId, f32)>>),
    /// To `Scan`, `ScanHistory`, `ScanBlend` and `Popular`.
    Hits(PerShard<ShardHits>),
    /// To `GetItems`: `None` where there is no such item.
    Items(PerShard<Vec<Option<ItemState>>>),
    /// To `ItemRows` and `HistoryWeights`: `None` where the version does not have the item.
    Rows(PerShard<Vec<Option<Vec<f32>>>>),
    /// To `Applied`.
    Applied(PerShard<u64>),
    /// To `Cut`, `Pin` and `Pinned`: the pinned positions. To `Cut` those of the shards that this node leads alone.
    Cut(Vec<Position>),
    /// To `Digest`.
    Digest(StateDigest),
    /// To `Standing`.
    Standing(Standing),
    /// To `ReplicaLog`.
    ReplicaLog(ReplicaLog),
    /// To `Recover`: the log index from which on the replica is alone.
    Recovered(u64),
    /// To `UserState`, in a version of a graph filter: the fingerprints of the history instead of a vector. Since format 4.
    UserHistory(UserState, Vec<u64>),
}

impl Response {
    /// The lowest format whose binaries know this response: that of the request, or of the version that it is about.
    pub fn format(&self) -> u32 {
        match self {
            Response::UserHistory(..) => 4,
            _ => 2,
        }
    }
}

/// A digest of a shard's state; `docent_shard::digest` says of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// Records of content.
    pub records: u64,
    /// Of the content, independent of the log that carried it.
    pub content: [u8; 32],
    /// Of every stored byte.
    pub state: [u8; 32],
}

/// What a shard is to a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Nothing was ever written.
    Empty,
    /// A restore is under way: of this backup, with this part next.
    Restoring(BackupId, u64),
    /// A restore of this backup is complete.
    Restored(BackupId),
    /// It has records of its own.
    Live,
}

/// The end of a shard's state on its way into a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateEnd {
    /// The log index that the state is of.
    pub position: u64,
    /// The newest stamp that a record can have.
    pub stamp: u64,
    /// Of all records sent.
    pub digest: StateDigest,
}

/// What a query needs of its user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserState {
    /// Whether anything is kept about the user.
    pub is_known: bool,
    /// What the user allows; `vector` and the seen set are withheld where `recommend` is off.
    pub consent: Consent,
    /// The user's vector in the asked version, where the history has an item of the model.
    pub vector: Option<Vec<f32>>,
    /// Seen items, sorted by id. Empty where `recommend` is off.
    pub seen: Vec<ItemId>,
    /// Blocked items, sorted by id: these hold whatever else is allowed.
    pub blocks: Vec<ItemId>,
    /// The applied position that this reflects.
    pub position: Position,
    /// The vector could not be solved in time although the user has a history: consent, seen and blocks hold all the same.
    pub is_unsolved: bool,
}

/// A shard's part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardHits {
    /// Best first, by `docent_types::query::rank`.
    pub hits: Vec<ScoredItem>,
    /// Items the shard could have returned before the filter: live, and in the model when scanned.
    pub items: u64,
    /// The replica's applied index.
    pub applied: u64,
    /// The replica is more than a second behind its leader.
    pub is_stale: bool,
}

/// An export of one shard, as a stream of [`ExportPage`]s; leader only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// Which shard.
    pub shard: ShardId,
    /// Whose.
    pub tenant: TenantId,
    /// What.
    pub what: ExportWhat,
}

/// What to export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportWhat {
    /// Events of a user shard.
    Events,
    /// Items of an item shard.
    Items,
    /// Rows of an item shard, or solved vectors of a user shard, in this version.
    Vectors {
        /// Which version.
        version: u64,
    },
    /// Ids of the users of a shard that have kept events.
    Users,
    /// The whole state as raw records, for a backup.
    State,
}

/// A page of an export, at most 1 MiB of payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ExportPage {
    /// Events, by user.
    Events(Vec<Event>),
    /// Items, by id.
    Items(Vec<ItemState>),
    /// Vectors, by id.
    Vectors(Vec<(String, Vec<f32>)>),
    /// Users, by id.
    Users(Vec<UserId>),
    /// Framed records, in key order.
    State(Vec<u8>),
    /// The last page of a state.
    StateEnd(StateEnd),
}
