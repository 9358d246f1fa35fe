//! The seam below the store: ordered tables with atomic batches and consistent views. fjall in the product; in a simulation a twin without
//! threads, whose durable image lies on the simulated disk. `tests/it` runs the same promises over both.

mod disk;
mod twin;

use bytes::Bytes;
use std::ops::ControlFlow;

pub(crate) use disk::FjallEngine;
pub(crate) use twin::TwinEngine;

/// What every engine fails with; the twin has only [`fjall::Error::Io`].
pub(crate) type Result<T> = std::result::Result<T, fjall::Error>;

/// One of the two ordered tables of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// Which shard has which key range.
    Meta,
    /// The state of all shards.
    State,
}

/// One record to set, or to remove.
pub(crate) type Write = (Vec<u8>, Option<Bytes>);

/// A visit of records in key order, until it breaks.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// From and to of a scan.
pub(crate) type KeyRange = (std::ops::Bound<Vec<u8>>, std::ops::Bound<Vec<u8>>);

/// Where the tables live.
pub(crate) trait Engine: Send + Sync {
    /// The tables as they are now, whatever is written later.
    fn view(&self) -> Box<dyn Frozen>;

    /// Writes all of a batch or nothing; survives the process at most.
    fn commit(&self, table: Table, writes: Vec<Write>) -> Result<()>;

    /// Makes every earlier commit survive a power loss.
    fn sync(&self) -> Result<()>;

    /// Notes, beyond the end of this process, that what lies on the disk is not to be believed.
    fn note_damage(&self, reason: &str);

    /// Memory and disk taken.
    fn usage(&self) -> Result<crate::Usage>;
}

/// The tables at one moment.
pub(crate) trait Frozen: Send + Sync {
    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>>;

    /// Whether there is the key.
    fn contains(&self, table: Table, key: &[u8]) -> Result<bool>;

    /// Visits the records of a range in key order.
    fn scan(&self, table: Table, range: KeyRange, visit: Visit<'_>) -> Result<()>;

    /// Visits the keys of a range in order.
    fn keys(&self, table: Table, range: KeyRange, visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<()>;
}
