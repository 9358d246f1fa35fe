//! Reads of many shards, any replica each: one call a node, failed parts asked of other replicas, slow ones hedged.
//!
//! A part that nobody answers within the deadline is in [`Gathered::missing`]; it is the caller's to say so.

use super::Route;
use crate::recommend::plan;
use crate::view::View;
use docent_proto::internal::Service;
use docent_proto::internal::shard::{Request, Response};
use docent_runtime::Deadline;
use docent_types::{Error, Kind, NodeId, Result, ShardId, codec};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One shard's part of an answer, with who gave it.
#[derive(Clone, Debug)]
pub(crate) struct Part<T> {
    pub(crate) node: NodeId,
    pub(crate) value: T,
}

/// What came together.
#[derive(Clone, Debug)]
pub(crate) struct Gathered<T> {
    pub(crate) parts: BTreeMap<ShardId, Part<T>>,
    pub(crate) missing: BTreeMap<ShardId, Error>,
}

/// An answer by shard, as it is on the wire.
pub(crate) type Parts<T> = Vec<(ShardId, Result<T>)>;

/// A question to many shards.
pub(crate) struct Question<'a, T> {
    /// Which shards.
    pub(crate) shards: Vec<ShardId>,
    /// The request that covers some of them.
    pub(crate) request: &'a (dyn Fn(&[ShardId]) -> Request + Sync),
    /// Takes the parts out of an answer; `None` if it is an answer to something else.
    pub(crate) parts: fn(Response) -> Option<Parts<T>>,
    /// Replicas to ask before others (which hold the version).
    pub(crate) prefers: &'a (dyn Fn(ShardId, NodeId) -> bool + Sync),
}

enum Event {
    Answered {
        call: usize,
        outcome: Result<bytes::Bytes>,
    },
    /// Worth a hedge, if the budget allows.
    Slow {
        call: usize,
    },
    /// Too late to wait any longer.
    Late {
        call: usize,
    },
    Over,
}

struct Call {
    node: NodeId,
    shards: Vec<ShardId>,
    is_open: bool,
    /// Other replicas were asked already.
    is_hedged: bool,
}

/// One question under way.
struct Scatter<'a, 'q, T> {
    route: &'a Route,
    view: &'a View,
    question: &'a Question<'q, T>,
    deadline: Deadline,
    salt: u64,
    calls: Vec<Call>,
    in_flight: Vec<Option<super::health::InFlight<'a>>>,
    running: FuturesUnordered<BoxFuture<'static, Event>>,
    asked: BTreeSet<(ShardId, NodeId)>,
    pending: BTreeSet<ShardId>,
    /// What each replica that was asked said instead of an answer, in the order that it did.
    errors: BTreeMap<ShardId, Vec<(NodeId, Error)>>,
    parts: BTreeMap<ShardId, Part<T>>,
}

impl Route {
    /// Asks `question` of enough nodes to cover its shards.
    pub(crate) async fn gather<T>(
        &self,
        view: &View,
        question: &Question<'_, T>,
        salt: u64,
        deadline: Deadline,
    ) -> Gathered<T> {
        let mut scatter = Scatter {
            route: self,
            view,
            question,
            deadline,
            salt,
            calls: Vec::new(),
            in_flight: Vec::new(),
            running: FuturesUnordered::new(),
            asked: BTreeSet::new(),
            pending: question.shards.iter().copied().collect(),
            errors: BTreeMap::new(),
            parts: BTreeMap::new(),
        };
        scatter.after(deadline.remaining(), Event::Over);
        scatter.launch(question.shards.clone());
        while !scatter.pending.is_empty()
            && scatter.calls.iter().any(|call| call.is_open)
            && let Some(event) = scatter.running.next().await
        {
            if !scatter.digest(event) {
                break;
            }
        }
        scatter.finish()
    }
}

impl<T> Scatter<'_, '_, T> {
    fn after(&self, wait: Duration, event: Event) {
        self.running.push(tokio::time::sleep(wait).map(|()| event).boxed());
    }

    /// Replicas of the shard that were not asked, the most promising class of them.
    fn candidates(&self, shard: ShardId) -> Vec<NodeId> {
        let now = self.route.clock.monotonic();
        let class = |node: NodeId| {
            let is_doubtful = !self.view.is_alive(node) || self.route.health.is_suspect(node, now);
            (is_doubtful && node != self.route.me, !(self.question.prefers)(shard, node))
        };
        let replicas = self.view.replicas(shard);
        let untried = || replicas.iter().copied().filter(|node| !self.asked.contains(&(shard, *node)));
        let best = untried().map(class).min();
        untried().filter(|node| Some(class(*node)) == best).collect()
    }

    /// Asks for `shards` wherever there is somebody left to ask.
    fn launch(&mut self, shards: Vec<ShardId>) {
        let wanted: BTreeMap<ShardId, Vec<NodeId>> =
            shards.into_iter().map(|shard| (shard, self.candidates(shard))).collect();
        for (node, shards) in plan::assign(&wanted, self.route.me, &self.route.health.load(), self.salt) {
            let request = (self.question.request)(&shards);
            let body = codec::encode_in(request.format(), &request);
            let call = self.calls.len();
            self.asked.extend(shards.iter().map(|shard| (*shard, node)));
            self.in_flight.push(Some(self.route.health.begin(node)));
            let answer = self.route.caller.call(node, Service::Shard, body, self.deadline);
            self.running.push(answer.map(move |outcome| Event::Answered { call, outcome }).boxed());
            self.after(Duration::from_millis(self.route.settings.hedge_after_ms), Event::Slow { call });
            self.after(Duration::from_millis(self.route.settings.late_after_ms), Event::Late { call });
            self.calls.push(Call { node, shards, is_open: true, is_hedged: false });
        }
    }

    /// Returns whether to go on.
    fn digest(&mut self, event: Event) -> bool {
        match event {
            Event::Answered { call, outcome } => self.answered(call, outcome),
            Event::Slow { call } => {
                // A hedge that nobody could answer would waste the budget.
                let is_worth = self.calls[call].is_open
                    && self.calls[call]
                        .shards
                        .iter()
                        .any(|shard| self.pending.contains(shard) && !self.candidates(*shard).is_empty());
                if is_worth && self.route.health.may_hedge() {
                    metrics::counter!("docent_hedges_total").increment(1);
                    self.hedge(call);
                }
            }
            Event::Late { call } if self.calls[call].is_open => {
                self.route.suspect(self.calls[call].node);
                self.hedge(call);
            }
            Event::Late { .. } => {}
            Event::Over => return false,
        }
        true
    }

    fn hedge(&mut self, call: usize) {
        if !std::mem::replace(&mut self.calls[call].is_hedged, true) {
            let shards = self.calls[call].shards.iter().copied().filter(|shard| self.pending.contains(shard)).collect();
            self.launch(shards);
        }
    }

    fn answered(&mut self, call: usize, outcome: Result<bytes::Bytes>) {
        self.calls[call].is_open = false;
        self.in_flight[call] = None;
        let node = self.calls[call].node;
        let parts = outcome.and_then(|bytes| {
            let response: Response = codec::decode("the shards' answer", &bytes)?;
            (self.question.parts)(response)
                .ok_or_else(|| Error::new(Kind::Internal, "a shard answered another question"))
        });
        match parts {
            Ok(parts) => {
                self.route.health.trust(node);
                for (shard, part) in parts {
                    match part {
                        Ok(value) if self.pending.remove(&shard) => {
                            drop(self.parts.insert(shard, Part { node, value }))
                        }
                        Ok(_) => {}
                        Err(error) => self.failed(shard, node, error),
                    }
                }
            }
            Err(error) => {
                if matches!(error.kind, Kind::Unavailable | Kind::DeadlineExceeded | Kind::Unknown) {
                    self.route.suspect(node);
                }
                for shard in self.calls[call].shards.clone() {
                    self.failed(shard, node, error.clone());
                }
            }
        }
        // What this call left open, and no hedge asks for already.
        if !self.calls[call].is_hedged {
            self.hedge(call);
        } else {
            let idle = |shard: &&ShardId| {
                let is_asked = self.calls.iter().any(|call| call.is_open && call.shards.contains(shard));
                self.pending.contains(shard) && !is_asked
            };
            let left = self.calls[call].shards.iter().filter(idle).copied().collect();
            self.launch(left);
        }
    }

    fn failed(&mut self, shard: ShardId, node: NodeId, error: Error) {
        self.errors.entry(shard).or_default().push((node, error));
    }

    fn finish(mut self) -> Gathered<T> {
        let mut error = |shard| unanswered(shard, self.errors.remove(&shard).unwrap_or_default());
        let missing = self.pending.iter().map(|shard| (*shard, error(*shard))).collect();
        Gathered { parts: self.parts, missing }
    }
}

/// Why no replica of `shard` answered, from what each of them said; of the kind of the last.
fn unanswered(shard: ShardId, said: Vec<(NodeId, Error)>) -> Error {
    let reasons: Vec<String> = said.iter().map(|(node, error)| format!("node {node}: {}", error.message)).collect();
    match said.into_iter().next_back() {
        None => Error::new(Kind::DeadlineExceeded, format!("no replica of shard {shard} answered in time")),
        Some((_, last)) => {
            let message = format!("no replica of shard {shard} answered: {}", reasons.join("; "));
            Error { message, ..last }
        }
    }
}
