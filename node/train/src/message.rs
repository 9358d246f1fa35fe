//! What hosts and drivers say to one another. Messages are serde enums; the carrier (the node's RPC) encodes them.
//!
//! Anything large is a *blob*, a byte string that a host can make again at any time within a phase. It is read as a stream ([`Peers::read`]), which is sent
//! in pages of at most [`PAGE_BYTES_MAX`], and from any offset: a reader whose stream broke goes on where it got to. Rows are packed little-endian f32.
use crate::{
    Error, Hosts, PartInfo, Precision,
    plan::{Algorithm, Counts, Earlier, HoldOut},
};
use bytes::Bytes;
use docent_model::{
    blend::{Blend, Weights},
    softmax::Loss,
    tree::Node,
};
use futures::{future::BoxFuture, stream::BoxStream};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// Largest page in bytes: what is packed, sent and read in a fraction of a millisecond, because a query waits for it (decision 0022).
pub const PAGE_BYTES_MAX: usize = 64 << 10;

/// Rounds in which owners count neighbours: in each, the virtual workers whose number leaves this remainder.
pub const COUNT_ROUNDS: u16 = 8;

/// Identifies a session; ordered by age within a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The job.
    pub job: u64,
    /// Its epoch.
    pub epoch: u64,
    /// 0 while measuring, 1 on everything; of a blend, whose models come one after the other, 0 and 1, 2 and 3.
    pub run: u8,
}

/// A step of a model that is trained by gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// From 0.
    pub epoch: u32,
    /// From 0 in each epoch.
    pub step: u32,
    /// Steps of an epoch.
    pub steps: u32,
}

impl At {
    /// Steps before this one.
    #[must_use]
    pub fn version(self) -> u32 {
        self.epoch.saturating_mul(self.steps).saturating_add(self.step)
    }

    /// The version of the rows that it reads: of the step so many before, but not before the epoch's first.
    #[must_use]
    pub fn reads(self, staleness: u32) -> u32 {
        self.version().saturating_sub(staleness.min(self.step))
    }
}

/// A moment of a job to which it can go back: nothing is under way, and every row is at the same step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Barrier {
    /// As in [`Key`].
    pub run: u8,
    /// Passes, rounds or steps of gradients that are done.
    pub step: u32,
    /// What the job was trained on ([`crate::Checkpoints::input`]).
    pub input: [u8; 32],
}

/// What a node keeps of a job at a barrier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// When.
    pub barrier: Barrier,
    /// The driver's own notes, postcard.
    #[serde(with = "crate::packed")]
    pub memo: Bytes,
    /// Virtual workers of users whose state is here.
    pub users: Vec<u16>,
    /// Virtual workers of items whose state is here.
    pub items: Vec<u16>,
}

/// Opens a session on a host, ending older ones of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The session.
    pub key: Key,
    /// The model's family and settings.
    pub algorithm: Algorithm,
    /// See [`crate::JobSettings::rows`].
    pub rows: Precision,
    /// See [`crate::JobSettings::loss`].
    pub loss: Loss,
    /// See [`crate::JobSettings::staleness`].
    pub staleness: u32,
    /// See [`crate::JobSettings::seed`].
    pub seed: u64,
    /// Who hosts what.
    pub hosts: Hosts,
    /// Set while measuring.
    pub hold_out: Option<HoldOut>,
    /// By virtual worker of items, the parts that the first rows are from; none: they are drawn.
    pub base: Option<Vec<Earlier>>,
    /// Longest wait for one page from a peer.
    pub page_timeout_ms: u64,
}

/// A side of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// Users.
    Users,
    /// Items.
    Items,
}

/// What a page can be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blob {
    /// From a user host: items of virtual worker `vworker` that its users touched, with the touching rows (`link`).
    Touched {
        /// Item virtual worker.
        vworker: u16,
    },
    /// Rows of `side` at `version` that `reader` needs, in the order that both sides derive from the link phase.
    Rows {
        /// Whose rows.
        side: Side,
        /// Half passes of that side done so far.
        version: u32,
        /// The host that asks.
        reader: u64,
    },
    /// From an owner: all its item rows, in order.
    Table {
        /// As in `Rows`.
        version: u32,
    },
    /// From an owner: for each item that `reader` touched, its place among the owner's items (u32, `u32::MAX`: not in the model).
    Places {
        /// The host that asks.
        reader: u64,
    },
    /// From a user host that has located: for each of its touched items of virtual worker `vworker` what is liked together with it (`pairs`).
    Pairs {
        /// Item virtual worker of the sources.
        vworker: u16,
    },
    /// From a user host that has located: what the users of each of its touched items add to a pair, as the list of one item (`pairs`).
    Units,
    /// From an owner that has counted: the neighbours of each of its items, in order (`pairs`).
    Neighbours,
    /// From an owner: the fingerprints of its items (u64), in order.
    Fingerprints,
    /// From an owner that has counted: the weights that its items have for those of `reader` (`pairs`).
    Weights {
        /// The owner that asks.
        reader: u64,
    },
    /// From an owner: the negatives that it draws in a step, with their rows.
    Negatives {
        /// The step.
        at: At,
    },
    /// From a user host: what its users push to `reader` in a step.
    Push {
        /// The step.
        at: At,
        /// The owner that asks.
        reader: u64,
    },
    /// From an owner of rows that are trained by gradients: all of them as they are, in order.
    Trained,
    /// From a host: what it needs of a virtual worker to go on from a step (`worker::checkpoint`).
    State {
        /// Of users or of items.
        side: Side,
        /// Which.
        vworker: u16,
        /// Steps that are done.
        step: u32,
    },
    /// From an owner that has published: postcard of its `Vec<Node<CategorySums>>`.
    Means,
    /// From an owner: the positives of each of its items (u32), in order.
    Positives,
    /// From a user host that has measured: in how many of its users' lists each item is (u32), cut-off by cut-off, in the order of everything.
    Shown,
}

/// A request to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TrainRequest {
    /// Opens a session.
    Open(Open),
    /// Reads and sorts this host's users. Answer: [`TrainResponse::Loaded`].
    Load(Key),
    /// Counts what is liked of this owner's items, for [`TrainRequest::Admit`]. Answer: [`TrainResponse::Linked`], without sums.
    Tally(Key),
    /// Leaves out items with less than `least` positives on this user host. Answer: [`TrainResponse::Loaded`].
    Admit {
        /// The session.
        key: Key,
        /// Items of each virtual worker.
        items: Vec<u32>,
        /// Positives.
        least: u32,
    },
    /// Builds this owner's item table from all user hosts. Answer: [`TrainResponse::Linked`].
    Link(Key),
    /// Solves all of a side's rows on this host. Answer: [`TrainResponse::Stepped`].
    Step {
        /// The session.
        key: Key,
        /// Which rows are solved.
        side: Side,
        /// From 0.
        step: u32,
        /// The other side's packed Gramian, little-endian f64.
        #[serde(with = "crate::packed")]
        gramian: Bytes,
        /// The other side's number of rows in the cluster.
        others: u64,
    },
    /// Places this user host's touched items in the order of all items. Answer: [`TrainResponse::Exchanged`].
    Locate {
        /// The session.
        key: Key,
        /// Items of each virtual worker.
        items: Vec<u32>,
    },
    /// Counts the neighbours of a share of this owner's items. Answer: [`TrainResponse::Exchanged`].
    Count {
        /// The session.
        key: Key,
        /// Items of each virtual worker.
        items: Vec<u32>,
        /// Which share, below [`COUNT_ROUNDS`].
        round: u16,
    },
    /// How much of all negatives falls to each virtual worker of this owner. Answer: [`TrainResponse::Weighed`].
    Weigh(Key),
    /// Tells this owner what it needs to draw negatives.
    Prepare {
        /// The session.
        key: Key,
        /// Of each virtual worker of items.
        masses: Vec<[f64; 2]>,
    },
    /// Computes what this host's users push in a step. Answer: [`TrainResponse::Stepped`] with the sums of loss and weight, then those of the user
    /// tower's gradient.
    Gradients {
        /// The session.
        key: Key,
        /// The step.
        at: At,
    },
    /// Applies what all users pushed in a step to this owner's rows. Answer: [`TrainResponse::Exchanged`], with towers [`TrainResponse::Stepped`] with the
    /// sums of the item side's dense gradient.
    Apply {
        /// The session.
        key: Key,
        /// The step.
        at: At,
    },
    /// Which features this owner's items have. Answer: [`TrainResponse::Surveyed`].
    Survey(Key),
    /// Tells this owner which features have a row, in their order; those of no rank are left out. Answer: [`TrainResponse::Done`].
    Choose {
        /// The session.
        key: Key,
        /// Sorted.
        names: Vec<Arc<str>>,
    },
    /// Tells a host the dense weights of a step (of the one after the last, once all are done). Answer: [`TrainResponse::Done`].
    Dense {
        /// The session.
        key: Key,
        /// The step.
        at: At,
        /// Packed f32 (`docent_model::tower::Dense::to_vec`).
        #[serde(with = "crate::packed")]
        weights: Bytes,
    },
    /// Measures this host's held-out positives with the trained model. Answer: [`TrainResponse::Evaluated`].
    Evaluate {
        /// The session.
        key: Key,
        /// Items of each virtual worker.
        items: Vec<u32>,
        /// Users in the cluster.
        users: u64,
        /// Cut-offs.
        cutoffs: Vec<u16>,
        /// See [`crate::Evaluate::users_max`].
        users_max: u32,
    },
    /// Keeps the state of virtual workers on this node's disk: of its own, and of those that it keeps for others. Answer:
    /// [`TrainResponse::Exchanged`].
    Keep {
        /// The session.
        key: Key,
        /// The step, and what it is of.
        barrier: Barrier,
        /// Who keeps a second copy of each virtual worker.
        keepers: Hosts,
        /// The driver's own notes.
        #[serde(with = "crate::packed")]
        memo: Bytes,
    },
    /// What this node keeps of a job, whichever attempt it is of. Answer: [`TrainResponse::Kept`].
    Kept {
        /// The job.
        job: u64,
    },
    /// Takes up the state of this host's virtual workers. Answer: [`TrainResponse::Stepped`] with the sums that half a pass over items leaves.
    Restore {
        /// The session.
        key: Key,
        /// The step, and what it is of.
        barrier: Barrier,
        /// Who has the state of each virtual worker.
        holders: Hosts,
        /// Items of each virtual worker.
        items: Vec<u32>,
    },
    /// Writes this owner's parts. Answer: [`TrainResponse::Published`].
    Publish(Key),
    /// Ends a session and frees its memory. Answer: [`TrainResponse::Done`], also when there is none.
    Close(Key),
    /// Keeps what ranks by this run's model, for the blend that it is part of. Answer: [`TrainResponse::Exchanged`].
    Rank {
        /// The session.
        key: Key,
        /// Items of each virtual worker.
        items: Vec<u32>,
    },
    /// Scores what the models of a blend find for users with something held out. Answer: [`TrainResponse::Stepped`] with the sums of the graph filter's
    /// best scores (`docent_model::blend::Bests`).
    Candidates {
        /// The session.
        key: Key,
        /// Items of each virtual worker.
        items: Vec<u32>,
        /// As in `Evaluate`.
        users_max: u32,
    },
    /// By how much proposed weights are ahead of a blend's. Answer: [`TrainResponse::Stepped`] with users, sum and squares of each proposal.
    Gains {
        /// The session.
        key: Key,
        /// The blend as it is.
        blend: Blend,
        /// One weight a channel.
        proposals: Vec<Vec<Weights>>,
    },
    /// As `Evaluate`, by a blend.
    Judge {
        /// The session.
        key: Key,
        /// Items of each virtual worker.
        items: Vec<u32>,
        /// Users in the cluster.
        users: u64,
        /// Cut-offs.
        cutoffs: Vec<u16>,
        /// See [`crate::Evaluate::users_max`].
        users_max: u32,
        /// Ranks.
        blend: Blend,
    },
    /// As `Publish`, but keeps the parts for the blend that they are part of. Answer: [`TrainResponse::Published`].
    Shelve(Key),
    /// Tells a host how much each item counts beside its row. Answer: [`TrainResponse::Exchanged`].
    Odds {
        /// The session.
        key: Key,
        /// Items of each virtual worker.
        items: Vec<u32>,
        /// Of the items' positives, above 0.
        exponent: f32,
    },
    /// Writes this owner's parts of a blend. Answer: [`TrainResponse::Published`].
    Compose(Key),
}

/// A worker's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TrainResponse {
    /// Done, nothing to say.
    Done,
    /// After [`TrainRequest::Load`] and [`TrainRequest::Admit`].
    Loaded(Counts),
    /// After [`TrainRequest::Link`] and [`TrainRequest::Tally`].
    Linked {
        /// Items of each of this owner's virtual workers.
        items: Vec<(u16, u32)>,
        /// Partial sums of the first rows' packed Gramian; none for a model without rows.
        sums: Vec<Node<Vec<f64>>>,
        /// Bytes pulled from peers.
        bytes_pulled: u64,
    },
    /// After [`TrainRequest::Step`], [`TrainRequest::Gradients`], [`TrainRequest::Restore`], [`TrainRequest::Candidates`] and [`TrainRequest::Gains`].
    Stepped {
        /// Partial sums over virtual workers. Of half a pass: packed Gramian of the solved side, then weighted squared error (0 for users), then
        /// regularisation.
        sums: Vec<Node<Vec<f64>>>,
        /// Bytes pulled from peers.
        bytes_pulled: u64,
    },
    /// After [`TrainRequest::Weigh`].
    Weighed {
        /// Of each of this owner's virtual workers.
        masses: Vec<(u16, [f64; 2])>,
    },
    /// After [`TrainRequest::Survey`].
    Surveyed {
        /// Feature, and how many items have it: of each virtual worker those that most have, added up.
        names: Vec<(Arc<str>, u64)>,
    },
    /// After [`TrainRequest::Locate`], [`TrainRequest::Count`], [`TrainRequest::Apply`], [`TrainRequest::Keep`] and [`TrainRequest::Rank`].
    Exchanged {
        /// Bytes pulled from peers.
        bytes_pulled: u64,
    },
    /// After [`TrainRequest::Evaluate`] and [`TrainRequest::Judge`].
    Evaluated {
        /// Partial sums of the measurement, cut-off by cut-off (`docent_model::evaluation::Sums::to_vec`).
        sums: Vec<Node<Vec<f64>>>,
        /// Bytes pulled from peers.
        bytes_pulled: u64,
    },
    /// After [`TrainRequest::Publish`].
    Published {
        /// What was stored.
        parts: Vec<PartInfo>,
    },
    /// After [`TrainRequest::Kept`].
    Kept(Vec<Checkpoint>),
}

/// What can be read from a worker: the same bytes whenever it is asked for, as long as the phase is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// A blob of a session.
    Blob {
        /// The session.
        key: Key,
        /// Which.
        blob: Blob,
    },
    /// Rows of an owner at a step, as they are asked for.
    Rows {
        /// The session.
        key: Key,
        /// The step.
        at: At,
        /// Places among the owner's items.
        places: Vec<u32>,
    },
    /// A state that the node keeps of a job, whichever attempt it is of.
    Kept {
        /// The job.
        job: u64,
        /// When.
        barrier: Barrier,
        /// Of users or of items.
        side: Side,
        /// Which virtual worker.
        vworker: u16,
    },
}

/// A request for bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadRequest {
    /// What is read.
    pub source: Source,
    /// The first byte.
    pub offset: u64,
}

/// Bytes on their way.
pub struct Reading {
    /// How many come.
    pub bytes: u64,
    /// They, cut anywhere; an error that [may be repeated](Error::is_retryable) where the way broke.
    pub pages: BoxStream<'static, Result<Bytes, Error>>,
}

/// How hosts and drivers reach workers, this node's own included.
pub trait Peers: Send + Sync {
    /// Sends `request` to `node`; fails with [`Error::Peer`] when there is no answer within `deadline`.
    fn call(&self, node: u64, request: TrainRequest, deadline: Duration)
    -> BoxFuture<'_, Result<TrainResponse, Error>>;

    /// Opens a stream of bytes from `node`; fails, and ends, with [`Error::Peer`] when nothing comes within `deadline`.
    fn read(&self, node: u64, request: ReadRequest, deadline: Duration) -> BoxFuture<'_, Result<Reading, Error>>;
}
