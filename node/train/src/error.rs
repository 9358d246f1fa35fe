//! What can go wrong in a job; travels between hosts as it is.
use serde::{Deserialize, Serialize};

/// An error of a worker, a peer or a driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// The request belongs to an older epoch or run of the job: its sender is a zombie and must stop.
    #[error("training job {job} is at epoch {epoch} run {run} here; the request's is older")]
    Stale {
        /// The job.
        job: u64,
        /// The newest epoch seen here.
        epoch: u64,
        /// The newest run seen here.
        run: u8,
    },
    /// This host has no session for the job (it restarted or closed it); the job must be opened again under a new epoch.
    #[error("training job {job} is not open on this node; run it again under a new epoch")]
    NotOpen {
        /// The job.
        job: u64,
    },
    /// The request came before the phase that it needs.
    #[error("training request {request} came out of turn: {reason}")]
    OutOfTurn {
        /// The request.
        request: String,
        /// What is missing.
        reason: String,
    },
    /// A field of a request, plan or setting is out of range.
    #[error("training plan: {0}")]
    Invalid(String),
    /// The node's store gave input that breaks the contract, or failed.
    #[error("training input: {0}")]
    Input(String),
    /// A peer sent bytes that do not fit what was asked for.
    #[error("node {node} sent malformed training data: {reason}")]
    Malformed {
        /// Sender.
        node: u64,
        /// What is wrong.
        reason: String,
    },
    /// A peer could not be reached or did not answer in time; the call may be repeated.
    #[error("node {node} did not answer a training call: {reason}")]
    Peer {
        /// The node that was called.
        node: u64,
        /// What the transport said.
        reason: String,
    },
    /// The host has as much training work queued as it takes; the call may be repeated later.
    #[error("the node's training queue is full; try again later")]
    Overloaded,
    /// A part could not be stored.
    #[error("model part could not be stored: {0}")]
    Sink(String),
    /// The model has no item or a value that is not finite.
    #[error("training did not give a model: {0}")]
    Diverged(String),
    /// The job was cancelled or its session closed.
    #[error("training was cancelled")]
    Cancelled,
    /// A defect of this program.
    #[error("internal training error: {0}")]
    Internal(String),
}

impl Error {
    /// Whether the same call may succeed when repeated as it is.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Peer { .. } | Self::Overloaded)
    }

    pub(crate) fn out_of_turn(request: &str, reason: &str) -> Self {
        Self::OutOfTurn { request: request.to_owned(), reason: reason.to_owned() }
    }
}

impl From<docent_model::Error> for Error {
    fn from(error: docent_model::Error) -> Self {
        match error {
            docent_model::Error::Stopped => Self::Cancelled,
            docent_model::Error::Setting { .. } => Self::Invalid(error.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}
