//! The seams between the trainer and the node that it runs on.
use crate::{Error, ItemNumbers, plan::Earlier};
use futures::future::BoxFuture;
use std::sync::Arc;

/// One positive of a user: an item with everything that the user's events say about it summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Positive {
    /// The item's number.
    pub item: u32,
    /// Confidence, finite and above 0 (`docent_model::confidence`).
    pub confidence: f32,
    /// Time of the newest event of the pair, Unix milliseconds; orders the hold-out and nothing else.
    pub last_ts_ms: i64,
}

/// A user's positives at the cut, consent already obeyed.
#[derive(Debug, Clone, PartialEq)]
pub struct UserHistory {
    /// The user's slot, 0..4096.
    pub slot: u16,
    /// External id.
    pub id: Arc<str>,
    /// One entry per item, in any order.
    pub positives: Vec<Positive>,
}

/// What the item shard knows about an item at the cut.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemInfo {
    /// The item's slot, 0..4096.
    pub slot: u16,
    /// External id.
    pub id: Arc<str>,
    /// Its categories.
    pub categories: Vec<Arc<str>>,
    /// False for an item that was taken down: it keeps its row (users are described by it) but no category mean counts it.
    pub live: bool,
}

/// Training input from this node's replicas of user shards. Called on the worker's compute threads; may block.
pub trait UserInput: Send + Sync {
    /// All users of virtual worker `vworker` (slots `64 * vworker ..`) with at least one positive at the cut, in any order. `items` gives the
    /// numbers of their items, and is asked for those alone.
    ///
    /// # Errors
    /// [`Error::Input`] when the store fails or does not hold these slots at the cut.
    fn users(&self, vworker: u16, items: &mut ItemNumbers) -> Result<Vec<UserHistory>, Error>;
}

/// Item metadata from this node's replicas of item shards. Called on the worker's compute threads; may block.
pub trait ItemInput: Send + Sync {
    /// All items of virtual worker `vworker` at the cut, in any order. Items missing here are trained without categories.
    ///
    /// # Errors
    /// [`Error::Input`] when the store fails or does not hold these slots.
    fn items(&self, vworker: u16) -> Result<Vec<ItemInfo>, Error>;
}

/// Where a worker puts finished parts. Called on the compute thread; may block, and returns when the part is durable.
pub trait PartSink: Send + Sync {
    /// Stores an immutable, content-addressed file. Storing the same one again succeeds.
    ///
    /// # Errors
    /// [`Error::Sink`].
    fn put(&self, part: &crate::PartInfo, bytes: Vec<u8>) -> Result<(), Error>;
}

/// Gives parts of earlier versions.
pub trait PartSource: Send + Sync {
    /// The verified bytes of a part, from this node or another.
    ///
    /// # Errors
    /// [`Error::Input`] where nobody has it any more.
    fn get<'a>(&'a self, part: &'a Earlier) -> BoxFuture<'a, Result<Vec<u8>, Error>>;
}

/// Where a worker keeps checkpoints. Called on the compute thread; may block. Nothing in it need outlive the process.
pub trait CheckpointStore: Send + Sync {
    /// Keeps `bytes` and gives their blake3. Keeping the same ones again succeeds.
    ///
    /// # Errors
    /// [`Error::Sink`].
    fn put(&self, bytes: &[u8]) -> Result<[u8; 32], Error>;
    /// What was kept under this hash, verified.
    ///
    /// # Errors
    /// [`Error::Sink`], also where there is nothing.
    fn get(&self, hash: &[u8; 32]) -> Result<Vec<u8>, Error>;
    /// Removes everything that `is_kept` does not hold for.
    ///
    /// # Errors
    /// [`Error::Sink`].
    fn retain(&self, is_kept: &dyn Fn(&[u8; 32]) -> bool) -> Result<(), Error>;
}

/// Opens a job's inputs on this node when a session starts. The node resolves the job's cut from the job id and epoch.
pub trait Inputs: Send + Sync {
    /// Users at the job's cut.
    ///
    /// # Errors
    /// [`Error::Input`] when this node does not know the job's cut or does not reach it.
    fn users(&self, job: u64, epoch: u64) -> Result<Arc<dyn UserInput>, Error>;
    /// Items at the job's cut.
    ///
    /// # Errors
    /// As [`Self::users`].
    fn items(&self, job: u64, epoch: u64) -> Result<Arc<dyn ItemInput>, Error>;
}
