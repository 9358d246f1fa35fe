//! Every task of a process: named, counted, ended in order. Nothing else spawns.

use docent_types::{Error, Result};
use futures::FutureExt;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// What the end of a task by an error or a panic means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// The process cannot go on without it: it ends.
    Fatal,
    /// It may come to its end, with what it looked after; but if it fails the process ends.
    FatalIfFailed,
    /// It served one peer or one request: the error is logged.
    Log,
}

/// Spawns, watches and ends the tasks of one process. Clones share everything.
#[derive(Clone, Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tracker: TaskTracker,
    cancel: CancellationToken,
    fatal: watch::Sender<Option<String>>,
    running: Mutex<BTreeMap<&'static str, usize>>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor::new()
    }
}

impl Supervisor {
    /// A supervisor with no tasks yet.
    pub fn new() -> Supervisor {
        let shared = Shared {
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
            fatal: watch::channel(None).0,
            running: Mutex::default(),
        };
        Supervisor { shared: Arc::new(shared) }
    }

    /// Runs `task` until it ends; it must end soon after [`Supervisor::cancelled`].
    pub fn spawn(&self, name: &'static str, on_exit: OnExit, task: impl Future<Output = Result<()>> + Send + 'static) {
        let supervisor = self.clone();
        self.count(name, 1);
        let supervised = async move {
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            supervisor.count(name, -1);
            supervisor.ended(name, on_exit, outcome.unwrap_or_else(|panic| Err(panicked(&*panic))));
        };
        #[allow(clippy::disallowed_methods, reason = "this is the one supervised spawn")]
        let _detached = self.shared.tracker.spawn(supervised);
    }

    /// As [`Supervisor::spawn`], for a task that may be dropped at any await when the process shuts down.
    pub fn spawn_cancellable(
        &self,
        name: &'static str,
        on_exit: OnExit,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        let supervisor = self.clone();
        self.spawn(name, on_exit, async move {
            tokio::select! {
                outcome = task => outcome,
                () = supervisor.cancelled() => Ok(()),
            }
        });
    }

    fn count(&self, name: &'static str, by: isize) {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.entry(name).or_default();
        *count = count.saturating_add_signed(by);
    }

    /// Names of the tasks that run, with how many of each.
    pub fn running(&self) -> Vec<(&'static str, usize)> {
        let running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (*name, *count)).collect()
    }

    fn ended(&self, name: &'static str, on_exit: OnExit, outcome: Result<()>) {
        match (outcome, on_exit) {
            (Ok(()), OnExit::Log | OnExit::FatalIfFailed) => {}
            (Ok(()), OnExit::Fatal) if self.is_cancelled() => {}
            (Ok(()), OnExit::Fatal) => self.fatal(format!("task {name} ended by itself")),
            (Err(error), OnExit::Fatal | OnExit::FatalIfFailed) => self.fatal(format!("task {name} failed: {error}")),
            (Err(error), OnExit::Log) => tracing::debug!(task = name, %error, "task failed"),
        }
    }

    /// Ends when the process is shutting down.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.shared.cancel.cancelled()
    }

    /// Whether the process is shutting down.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancel.is_cancelled()
    }

    /// Says that the process cannot go on; the first message counts.
    pub fn fatal(&self, message: String) {
        tracing::error!(%message, "cannot go on");
        self.shared.fatal.send_if_modified(|slot| {
            let is_first = slot.is_none();
            slot.get_or_insert(message);
            is_first
        });
    }

    /// Ends with the message once some task was fatal.
    pub async fn wait_fatal(&self) -> String {
        let mut receiver = self.shared.fatal.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(message) => message.clone().unwrap_or_default(),
            Err(_) => "the supervisor is gone".to_owned(),
        }
    }

    /// Asks every task to end and waits; `false` if some did not within `within`.
    pub async fn shutdown(&self, within: Duration) -> bool {
        self.shared.cancel.cancel();
        self.shared.tracker.close();
        let ended = tokio::time::timeout(within, self.shared.tracker.wait()).await.is_ok();
        if !ended {
            tracing::warn!(running = ?self.running(), "tasks did not end in time");
        }
        ended
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::new(docent_types::Kind::Internal, format!("panic: {}", text.unwrap_or("no message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_fatal_task_is_told() {
        let supervisor = Supervisor::new();
        supervisor.spawn("fragile", OnExit::Fatal, async { panic!("boom") });
        let message = supervisor.wait_fatal().await;
        assert!(message.contains("fragile") && message.contains("boom"), "{message}");
    }

    #[tokio::test]
    async fn shutdown_waits_for_every_task() {
        let supervisor = Supervisor::new();
        let inner = supervisor.clone();
        supervisor.spawn("patient", OnExit::Fatal, async move {
            inner.cancelled().await;
            Ok(())
        });
        assert!(supervisor.shutdown(Duration::from_secs(5)).await);
        assert!(supervisor.is_cancelled());
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_told() {
        let supervisor = Supervisor::new();
        supervisor.spawn("stubborn", OnExit::Log, std::future::pending());
        assert!(!supervisor.shutdown(Duration::from_millis(10)).await);
        assert_eq!(supervisor.running(), [("stubborn", 1)]);
    }
}
