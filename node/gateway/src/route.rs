//! Finding who answers: the leader of a shard ([`Route::leader`]), or any replica of many shards ([`scatter`]).
//!
//! | module | owns |
//! |---|---|
//! | [`leaders`] | which replica leads, as far as is known |
//! | [`health`] | load, suspicion, the hedging budget |
//! | [`scatter`] | reads of many shards with retries and hedges |

pub(crate) mod health;
pub(crate) mod leaders;
pub(crate) mod scatter;

use crate::settings::GatewaySettings;
use crate::view::View;
use bytes::Bytes;
use docent_proto::internal::Service;
use docent_proto::internal::shard::{Request, Response};
use docent_rpc::Caller;
use docent_rpc::caller::Chunks;
use docent_runtime::{Clock, Deadline};
use docent_types::catalog::Catalog;
use docent_types::{Error, Kind, NodeId, Result, ShardId, codec};
use futures::StreamExt;
use futures::future::BoxFuture;
use health::Health;
use leaders::Leaders;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What may be done when it is not known whether a request was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A read: ask again anywhere.
    Read,
    /// A write that the state machine recognises when it comes twice (events, by their id).
    Deduplicated,
    /// Any other write: a late first copy could undo a newer write, so the client is told that the outcome is unknown.
    Never,
}

/// The first wait when every replica was asked in vain; doubles up to [`BACKOFF_MAX`].
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// An election takes about a second: five looks at it are enough.
const BACKOFF_MAX: Duration = Duration::from_millis(200);
/// A search that another one does the asking for looks again by itself after this.
const FOLLOW_MAX: Duration = Duration::from_millis(500);
/// A try is not cut shorter than this.
const TRY_MIN: Duration = Duration::from_millis(100);

/// Routes requests to nodes.
pub(crate) struct Route {
    pub(crate) caller: Arc<dyn Caller>,
    pub(crate) me: NodeId,
    pub(crate) catalog: watch::Receiver<Arc<Catalog>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Arc<GatewaySettings>,
    pub(crate) leaders: Leaders,
    pub(crate) health: Health,
}

/// What one search for a leader has met so far.
struct Search {
    shard: ShardId,
    repeat: Repeat,
    failures: usize,
    backoff: Duration,
    /// Some try may have been carried out.
    is_unsure: bool,
    last: Option<Error>,
    /// Hints followed in this round.
    hinted: BTreeSet<NodeId>,
}

impl Route {
    /// The catalog as this node knows it.
    pub(crate) fn view(&self) -> Result<View> {
        View::new(self.catalog.borrow().clone())
    }

    /// Asks the leader of `shard`, searching for it within the deadline and the settings' number of tries.
    ///
    /// # Errors
    /// The leader's own; `Unavailable` when no leader was found (nothing was done); `Unknown` when a write may have been carried out;
    /// `Unsupported` for a command that the cluster's format does not have yet.
    pub(crate) async fn leader(
        &self,
        shard: ShardId,
        request: &Request,
        repeat: Repeat,
        deadline: Deadline,
    ) -> Result<Response> {
        // A replica that does not know a command of its log would stop there.
        let format = request.format();
        self.catalog.borrow().require(format)?;
        let body = codec::encode_in(format, request);
        let ask = |to: NodeId, within: Deadline| self.caller.call(to, Service::Shard, body.clone(), within);
        let bytes = self.search(shard, repeat, deadline, ask).await?;
        codec::decode("the shard's answer", &bytes)
    }

    /// Opens a stream at the leader of `shard`; failures before its first chunk are tried elsewhere.
    pub(crate) async fn leader_stream(
        &self,
        shard: ShardId,
        service: Service,
        body: Bytes,
        deadline: Deadline,
    ) -> Result<Chunks> {
        let ask = |to: NodeId, within: Deadline| -> BoxFuture<'static, Result<Chunks>> {
            let opening = self.caller.fetch(to, service, body.clone(), within);
            Box::pin(async move {
                let mut chunks = opening.await?;
                match chunks.next().await {
                    None => Ok(futures::stream::empty().boxed()),
                    Some(Err(error)) => Err(error),
                    Some(Ok(first)) => Ok(futures::stream::iter([Ok(first)]).chain(chunks).boxed()),
                }
            })
        };
        self.search(shard, Repeat::Read, deadline, ask).await
    }

    async fn search<T>(
        &self,
        shard: ShardId,
        repeat: Repeat,
        deadline: Deadline,
        ask: impl Fn(NodeId, Deadline) -> BoxFuture<'static, Result<T>>,
    ) -> Result<T> {
        let mut search = Search {
            shard,
            repeat,
            failures: 0,
            backoff: BACKOFF_FIRST,
            is_unsure: false,
            last: None,
            hinted: BTreeSet::new(),
        };
        let mut scout = None;
        let mut seen = self.leaders.news(shard);
        // An election takes as long as it takes: tries are only counted where nothing was waited for in between.
        let mut tries = 0;
        while tries < self.settings.tries_max && !deadline.is_over() {
            tries += 1;
            let replicas = self.replicas(shard);
            let Some(target) = self.target(&search, &replicas) else {
                return Err(Error::new(
                    Kind::Unavailable,
                    format!("shard {shard} is not placed in this node's catalog yet"),
                ));
            };
            let within = match repeat {
                Repeat::Never => deadline,
                Repeat::Read | Repeat::Deduplicated => deadline.at_most((deadline.remaining() / 3).max(TRY_MIN)),
            };
            let call = self.health.begin(target);
            let outcome = within.bound("the shard's answer", ask(target, within)).await;
            drop(call);
            match outcome {
                Ok(answer) => {
                    self.health.trust(target);
                    self.leaders.confirm(shard, target, search.failures > 0);
                    return Ok(answer);
                }
                Err(error) => {
                    let is_overload = error.kind == Kind::Overloaded;
                    let mut wait = self.failed(&mut search, target, replicas.len(), error)?;
                    if wait.is_zero() {
                        continue;
                    }
                    if !is_overload {
                        scout = scout.or_else(|| self.leaders.scout(shard));
                        wait = if scout.is_some() { wait } else { FOLLOW_MAX };
                    }
                    tokio::select! {
                        () = tokio::time::sleep(wait.min(deadline.remaining())) => {} // the next round
                        () = self.leaders.more_news(shard, seen), if !is_overload => {}
                    }
                    seen = self.leaders.news(shard);
                    tries = if is_overload { tries } else { 0 };
                }
            }
        }
        Err(search.give_up())
    }

    /// Replicas by the catalog, those presumed dead or late last.
    fn replicas(&self, shard: ShardId) -> Vec<NodeId> {
        let Ok(view) = self.view() else { return Vec::new() };
        let now = self.clock.monotonic();
        let mut replicas = view.replicas(shard);
        replicas.sort_by_key(|node| (!view.is_alive(*node), self.health.is_suspect(*node, now)));
        replicas
    }

    /// The presumed leader, else the replicas in turn. A replica that has just moved leads before this node's catalog shows it.
    fn target(&self, search: &Search, replicas: &[NodeId]) -> Option<NodeId> {
        let known = self.leaders.get(search.shard);
        known.or_else(|| replicas.get(search.failures % replicas.len().max(1)).copied())
    }

    /// Digests a failed try: how long to wait before the next, or the error to give up with.
    fn failed(&self, search: &mut Search, target: NodeId, replicas: usize, error: Error) -> Result<Duration> {
        match error.kind {
            Kind::NotLeader | Kind::WrongShard => {
                self.leaders.forget(search.shard, target);
                // Two deposed replicas may each hint at the other: a hint is followed once a round.
                if let Some(hint) = error.hint.filter(|hint| *hint != target)
                    && search.hinted.insert(hint)
                {
                    self.leaders.set(search.shard, hint);
                    search.last = Some(error);
                    return Ok(Duration::ZERO);
                }
            }
            Kind::Overloaded => {
                let wait =
                    Duration::from_millis(u64::from(error.retry_after_ms.unwrap_or(self.settings.retry_after_ms)));
                search.last = Some(error);
                return Ok(wait);
            }
            // The leader speaks for the whole shard.
            Kind::Unavailable if error.retry_after_ms.is_some() => return Err(error),
            Kind::Unavailable => {
                self.leaders.forget(search.shard, target);
                self.suspect(target);
            }
            Kind::DeadlineExceeded | Kind::Unknown => {
                self.leaders.forget(search.shard, target);
                if error.kind == Kind::DeadlineExceeded {
                    self.suspect(target);
                }
                search.is_unsure = true;
                if search.repeat == Repeat::Never {
                    search.last = Some(error);
                    return Err(search.give_up());
                }
            }
            _ => return Err(error),
        }
        search.last = Some(error);
        Ok(search.next_wait(replicas))
    }

    /// Asks `node` last for a while.
    pub(crate) fn suspect(&self, node: NodeId) {
        if node != self.me {
            self.health.suspect(node, self.clock.monotonic() + Duration::from_millis(self.settings.suspect_ms));
        }
    }
}

impl Search {
    /// No wait while there are replicas not asked in this round.
    fn next_wait(&mut self, replicas: usize) -> Duration {
        self.failures += 1;
        if !self.failures.is_multiple_of(replicas.max(1)) {
            return Duration::ZERO;
        }
        self.hinted.clear();
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF_MAX);
        wait
    }

    /// The error once time or tries are used up.
    fn give_up(&mut self) -> Error {
        let shard = self.shard;
        let last = self.last.take();
        let detail = last.as_ref().map_or_else(|| "the deadline was over".to_owned(), |error| error.message.clone());
        match (self.is_unsure, self.repeat) {
            (true, Repeat::Read) => {
                Error::new(Kind::DeadlineExceeded, format!("shard {shard} gave no answer in time: {detail}"))
            }
            (true, _) => {
                let message = format!("shard {shard} did not confirm the write in time and may have kept it: {detail}");
                Error::new(Kind::Unknown, message)
            }
            (false, _) => match last {
                Some(error) if error.kind == Kind::Overloaded => error,
                _ => Error::new(
                    Kind::Unavailable,
                    format!("shard {shard} has no reachable leader, nothing was done: {detail}"),
                ),
            },
        }
    }
}
