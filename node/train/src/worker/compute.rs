//! One thread for everything that computes for long, so that the async runtime never waits for it; none where a simulation has but one.
use crate::Error;
use docent_runtime::Threads;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

type Task = Box<dyn FnOnce() + Send>;

/// Tasks that may wait; a session has at most a phase and a blob under way.
const QUEUE: usize = 64;

pub(super) struct Compute {
    /// `None` where work is done by who asks for it.
    queue: Option<SyncSender<Task>>,
}

impl Compute {
    /// `niceness` is that of the thread and of the kernels' threads, which it starts.
    pub(super) fn start(threads: Threads, niceness: u8) -> Result<Self, Error> {
        if threads == Threads::Inline {
            return Ok(Self { queue: None });
        }
        let (queue, tasks) = sync_channel::<Task>(QUEUE);
        std::thread::Builder::new()
            .name("docent-train".to_owned())
            .spawn(move || {
                if let Err(error) = threads.step_back(niceness) {
                    tracing::warn!(%error, niceness, "training competes with serving for the processors");
                }
                // Ends when the worker drops the queue's other end. A panicking task drops its answer, which its waiter reports.
                for task in tasks {
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
                }
            })
            .map_err(|error| Error::Internal(format!("no compute thread: {error}")))?;
        Ok(Self { queue: Some(queue) })
    }

    /// Runs `work` after what is queued.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let Some(queue) = &self.queue else { return Ok(work()) };
        let (answer, waiting) = oneshot::channel();
        let task = Box::new(move || {
            // Nobody waits any more when the request was dropped.
            let _ = answer.send(work());
        });
        queue.try_send(task).map_err(|error| match error {
            TrySendError::Full(_) => Error::Overloaded,
            TrySendError::Disconnected(_) => Error::Internal("the compute thread has ended".into()),
        })?;
        waiting.await.map_err(|_| Error::Internal("a compute task panicked".into()))
    }
}
