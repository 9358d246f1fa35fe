//! What a member stands on, in one value: given to it when it starts, so that a whole node runs in a simulation as it runs on a machine.

use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, RealDisk};
use crate::net::{Net, Tcp};
use crate::threads::Threads;
use std::sync::Arc;
use std::time::Duration;

/// Everything outside of the process. Clones share it.
#[derive(Clone)]
pub struct Platform {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Streams to other processes.
    pub net: Arc<dyn Net>,
    /// Where blocking work is done.
    pub threads: Threads,
    /// What keeps state and metadata.
    pub engine: Engine,
    /// How long the disk takes for the next sync of the journal, where threads are [`Threads::Inline`]: what is written stays unsynced for
    /// that long. A real disk takes its own time.
    pub sync_latency: Arc<dyn Fn() -> Duration + Send + Sync>,
}

/// Which storage engines keep a member's state and metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// fjall and sled, with files and threads of their own.
    Embedded,
    /// Ours, on one thread, in memory, and durable through [`Disk`]. They pass the same tests.
    Twin,
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform").field("threads", &self.threads).field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Platform {
    /// This machine.
    #[must_use]
    pub fn real() -> Platform {
        Platform {
            clock: Arc::new(SystemClock::default()),
            disk: Arc::new(RealDisk),
            net: Arc::new(Tcp),
            threads: Threads::Os,
            engine: Engine::Embedded,
            sync_latency: Arc::new(|| Duration::ZERO),
        }
    }
}
