//! The way to the writer: a bounded queue that blocks where a thread empties it, and calls where a task does.

use std::sync::Arc;

use crossbeam::channel::{Sender, TrySendError};
use tokio::sync::Notify;

use crate::writer::Command;

pub(crate) struct Queue {
    sender: Sender<Command>,
    /// Told of every command, if a task waits for them instead of a thread.
    queued: Option<Arc<Notify>>,
}

impl Queue {
    pub(crate) fn of_thread(sender: Sender<Command>) -> Self {
        Self { sender, queued: None }
    }

    pub(crate) fn of_task(sender: Sender<Command>, queued: Arc<Notify>) -> Self {
        Self { sender, queued: Some(queued) }
    }

    pub(crate) fn is_of_task(&self) -> bool {
        self.queued.is_some()
    }

    /// Gives the command back if the writer is gone, or if it could not take it before this thread goes on.
    pub(crate) fn send(&self, command: Command) -> Result<(), Box<Command>> {
        let Some(queued) = &self.queued else {
            return self.sender.send(command).map_err(|unsent| Box::new(unsent.0));
        };
        let sent = self.sender.try_send(command);
        queued.notify_one();
        sent.map_err(|error| match error {
            TrySendError::Full(command) => {
                tracing::error!("the journal's queue is full and its writer has no thread: raise queue_records_max");
                Box::new(command)
            }
            TrySendError::Disconnected(command) => Box::new(command),
        })
    }
}
