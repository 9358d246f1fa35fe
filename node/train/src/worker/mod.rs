//! One host's side of training: sessions by job, fenced by epoch.
mod admit;
mod blend;
mod checkpoint;
mod compute;
mod evaluate;
mod graph;
mod ials;
mod odds;
mod order;
mod panel;
mod publish;
mod pulled;
mod registry;
mod session;
mod softmax;
mod tower;
mod users;
mod versioned;

use crate::{
    CheckpointStore, Error, PartSink, PartSource, Peers, TrainRequest, TrainResponse, VWORKERS,
    blob::Content,
    input::Inputs,
    message::{Key, Open, ReadRequest, Reading, Source},
};
use checkpoint::Kept;
use compute::Compute;
use docent_model::Kernel;
use docent_runtime::Threads;
use registry::Registry;
use session::Session;
use std::sync::{Arc, Mutex, PoisonError};

/// What a worker needs from its node.
#[derive(Clone)]
pub struct Parts {
    /// Users and items at a job's cut.
    pub inputs: Arc<dyn Inputs>,
    /// Where finished parts go.
    pub sink: Arc<dyn PartSink>,
    /// Where parts of earlier versions come from.
    pub source: Arc<dyn PartSource>,
    /// Where states are kept on the way.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// Other hosts.
    pub peers: Arc<dyn Peers>,
}

/// Settings of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// This node's id.
    pub node: u64,
    /// Threads of the kernels, at least 1. Results do not depend on it.
    pub threads: usize,
    /// Where phases are computed.
    pub compute: Threads,
    /// How far training steps back behind serving, 0 to 20 (`Threads::step_back`).
    pub niceness: u8,
    /// Jobs held at a time; opening one more ends the oldest.
    pub sessions_max: usize,
}

/// A node's worker. Share it in an `Arc`.
pub struct Worker {
    context: Arc<Context>,
    registry: Mutex<Registry>,
}

/// What all sessions of a worker share.
struct Context {
    options: Options,
    parts: Parts,
    kernel: Kernel,
    compute: Compute,
    kept: Kept,
}

impl Worker {
    /// Starts a worker and its compute thread, if it has one, which ends with it.
    ///
    /// # Errors
    /// [`Error::Internal`] when the thread cannot be started.
    pub fn new(options: Options, parts: Parts) -> Result<Self, Error> {
        let compute = Compute::start(options.compute, options.niceness)?;
        let kernel = Kernel::detect();
        tracing::info!(kernel = kernel.name(), threads = options.threads, "training worker is ready");
        let registry = Mutex::new(Registry::new(options.sessions_max));
        let context = Context { options, parts, kernel, compute, kept: Kept::default() };
        Ok(Self { context: Arc::new(context), registry })
    }

    /// Answers a request. Any request may be repeated, also while its first copy is still being worked on.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Stale`] for a request of an older epoch or run.
    pub async fn handle(&self, request: TrainRequest) -> Result<TrainResponse, Error> {
        match request {
            TrainRequest::Open(open) => self.open(open),
            TrainRequest::Close(key) => {
                self.registry().close(key);
                Ok(TrainResponse::Done)
            }
            TrainRequest::Kept { job } => Ok(TrainResponse::Kept(self.context.kept.of(job))),
            TrainRequest::Load(key)
            | TrainRequest::Tally(key)
            | TrainRequest::Admit { key, .. }
            | TrainRequest::Link(key)
            | TrainRequest::Step { key, .. }
            | TrainRequest::Locate { key, .. }
            | TrainRequest::Count { key, .. }
            | TrainRequest::Weigh(key)
            | TrainRequest::Prepare { key, .. }
            | TrainRequest::Survey(key)
            | TrainRequest::Choose { key, .. }
            | TrainRequest::Dense { key, .. }
            | TrainRequest::Gradients { key, .. }
            | TrainRequest::Apply { key, .. }
            | TrainRequest::Evaluate { key, .. }
            | TrainRequest::Keep { key, .. }
            | TrainRequest::Restore { key, .. }
            | TrainRequest::Rank { key, .. }
            | TrainRequest::Candidates { key, .. }
            | TrainRequest::Gains { key, .. }
            | TrainRequest::Judge { key, .. }
            | TrainRequest::Odds { key, .. }
            | TrainRequest::Shelve(key)
            | TrainRequest::Compose(key)
            | TrainRequest::Publish(key) => self.session(key)?.phase(request).await,
        }
    }

    /// Opens a stream of bytes. Any may be opened again, and from any offset.
    ///
    /// # Errors
    /// As [`Worker::handle`]; the stream itself ends with an error where its rows are gone.
    pub async fn read(&self, ReadRequest { source, offset }: ReadRequest) -> Result<Reading, Error> {
        let content = match source {
            Source::Blob { key, blob } => self.session(key)?.serve(blob).await?,
            Source::Rows { key, at, places } => self.session(key)?.rows_at(at, places)?,
            Source::Kept { job, barrier, side, vworker } => {
                let context = self.context.clone();
                let work = move || context.kept_state(job, &barrier, side, vworker);
                Content::Whole(self.context.compute.run(work).await??)
            }
        };
        content.read(offset)
    }

    /// Forgets the checkpoints of jobs that are not running any more.
    pub fn retain(&self, is_running: impl Fn(u64) -> bool) {
        if self.context.kept.retain(is_running)
            && let Err(error) = self.context.sweep()
        {
            tracing::warn!(%error, "checkpoints of a finished training job are still on the disk");
        }
    }

    fn open(&self, open: Open) -> Result<TrainResponse, Error> {
        open.algorithm.validate()?;
        open.hosts.validate()?;
        if open.base.as_ref().is_some_and(|parts| parts.len() != usize::from(VWORKERS)) {
            return Err(Error::Invalid("a version has another number of parts".into()));
        }
        let key = open.key;
        let make = |shelf| Arc::new(Session::new(self.context.clone(), open, shelf));
        self.registry().open(key, make).map(|()| TrainResponse::Done)
    }

    fn session(&self, key: Key) -> Result<Arc<Session>, Error> {
        self.registry().get(key)
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        // Every change to the registry is whole after each statement, so a panic elsewhere leaves it usable.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
