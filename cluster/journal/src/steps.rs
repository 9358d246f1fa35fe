//! The writer without a thread: driven step by step from a task, so that a simulation decides when it writes and when a sync is over.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Sender;
use docent_runtime::disk::Disk;
use docent_runtime::{OnExit, Platform, Supervisor, Threads};
use tokio::sync::Notify;

use crate::queue::Queue;
use crate::writer::{Command, Writer};
use crate::{Error, Journal, Options};

/// The writer's side of a journal that was opened with [`Journal::open_in_steps`].
pub struct Steps {
    writer: Writer,
    queued: Arc<Notify>,
    /// What is written and not synced: completions wait in it.
    unsynced: Option<Unsynced>,
}

struct Unsynced {
    batch: Vec<Command>,
    written: Result<(), Error>,
    is_last: bool,
}

impl Journal {
    /// Opens the journal on `disk` as `platform` has it: with a thread for its writer, or with a task of `supervisor` that lets
    /// `platform.sync_latency` pass between each write and its sync.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn start(
        options: Options,
        disk: Arc<dyn Disk>,
        platform: &Platform,
        supervisor: &Supervisor,
    ) -> Result<Journal, Error> {
        match platform.threads {
            Threads::Os => Journal::open(options, disk),
            Threads::Inline => {
                let (journal, steps) = Journal::open_in_steps(options, disk)?;
                let latency = Arc::clone(&platform.sync_latency);
                let run = steps.run(latency, supervisor.clone());
                supervisor.spawn("journal", OnExit::FatalIfFailed, async move {
                    run.await;
                    Ok(())
                });
                Ok(journal)
            }
        }
    }
}

impl Steps {
    pub(crate) fn of(queue: Sender<Command>, writer: Writer) -> (Queue, Steps) {
        let queued = Arc::new(Notify::new());
        (Queue::of_task(queue, Arc::clone(&queued)), Steps { writer, queued, unsynced: None })
    }

    /// Ends when there is something to write.
    pub async fn wait(&mut self) {
        while self.writer.queue.is_empty() && self.writer.moving.is_empty() {
            self.queued.notified().await;
        }
    }

    /// Writes what is queued. Until [`Steps::sync`] a power loss may take it away again.
    pub fn write(&mut self) {
        if self.unsynced.is_none() {
            let (batch, is_last) = self.writer.batch_from(self.writer.queue.try_recv());
            let written = self.writer.write(&batch);
            self.unsynced = Some(Unsynced { batch, written, is_last });
        }
    }

    /// Syncs what was written and answers its callers. `false` once the journal was closed: there is nothing left to do.
    pub fn sync(&mut self) -> bool {
        let Some(Unsynced { batch, written, is_last }) = self.unsynced.take() else { return true };
        self.writer.settle(batch, written);
        let step = if is_last { Writer::finish } else { Writer::tidy };
        self.writer.attend(step);
        !is_last
    }

    /// Step after step until the journal is closed or the process ends; what is queued by then is still written.
    async fn run(mut self, latency: Arc<dyn Fn() -> Duration + Send + Sync>, supervisor: Supervisor) {
        loop {
            tokio::select! {
                biased;
                () = self.wait() => {}
                () = supervisor.cancelled() => break,
            }
            self.write();
            tokio::time::sleep(latency()).await; // the disk at work
            if !self.sync() {
                return;
            }
        }
        self.writer.attend(Writer::finish);
    }
}
