//! Events in: validate, fill in, make stubs for unseen items, then one proposal a user shard (more only where it would be too large).
//! Each event has its own outcome.

use crate::batch;
use crate::gateway::Gateway;
use crate::ids::Ids;
use crate::route::Repeat;
use crate::view::View;
use docent_proto::internal::shard::{Request, Response};
use docent_runtime::Deadline;
use docent_types::command::{ItemCommand, UserCommand, UserOutcome};
use docent_types::event::{Event, EventOutcome};
use docent_types::sabotage::{Bug, is};
use docent_types::{Error, EventId, ItemId, Kind, Position, Result, ShardId, UserId, limits};
use futures::future::join_all;
use std::collections::BTreeMap;

/// An event as a client sends it: what may be left out is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// Made by the gateway when absent; a repeat cannot be recognised then.
    pub event_id: Option<String>,
    /// Who.
    pub user_id: String,
    /// With what.
    pub item_id: String,
    /// `view` when absent.
    pub event_type: Option<String>,
    /// Finite.
    pub value: Option<f32>,
    /// The node's clock when absent.
    pub timestamp_ms: Option<i64>,
    /// The client's session.
    pub session_id: Option<String>,
    /// The answer that showed the item.
    pub recommendation_id: Option<String>,
    /// Where in that answer, from 0.
    pub position: Option<u32>,
    /// Free context.
    pub context: BTreeMap<String, String>,
}

/// What became of one event, as its client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct EventResult {
    /// The outcome.
    pub outcome: Outcome,
    /// Where in which log it was settled.
    pub position: Option<Position>,
}

/// See [`EventResult`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Durable on a quorum, counted once.
    Accepted,
    /// Was there already under its id.
    Duplicate,
    /// The user's `collect` consent is off.
    NotCollected,
    /// Nothing was kept.
    Rejected(Error),
    /// It may have been kept; send it again under the same id.
    Unknown(Error),
}

impl Outcome {
    /// The name on the wire and in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::Duplicate => "duplicate",
            Outcome::NotCollected => "not_collected",
            Outcome::Rejected(_) => "rejected",
            Outcome::Unknown(_) => "unknown",
        }
    }

    /// Why, where it went wrong.
    pub fn error(&self) -> Option<&Error> {
        match self {
            Outcome::Rejected(error) | Outcome::Unknown(error) => Some(error),
            _ => None,
        }
    }

    fn of(error: Error) -> Outcome {
        if error.kind == Kind::Unknown { Outcome::Unknown(error) } else { Outcome::Rejected(error) }
    }
}

impl From<EventOutcome> for Outcome {
    fn from(outcome: EventOutcome) -> Outcome {
        match outcome {
            EventOutcome::Accepted => Outcome::Accepted,
            EventOutcome::Duplicate => Outcome::Duplicate,
            EventOutcome::NotCollected => Outcome::NotCollected,
            EventOutcome::Rejected(error) => Outcome::Rejected(error),
        }
    }
}

impl Draft {
    /// The event, checked. `now_ms` is this node's clock.
    fn complete(self, ids: &Ids, now_ms: i64) -> Result<Event> {
        let event = Event {
            event_id: EventId::new(self.event_id.unwrap_or_else(|| ids.next()))?,
            user_id: UserId::new(self.user_id)?,
            item_id: ItemId::new(self.item_id)?,
            event_type: self.event_type.map_or_else(|| "view".into(), Into::into),
            value: self.value,
            timestamp_ms: self.timestamp_ms.unwrap_or(now_ms),
            session_id: self.session_id.map(Into::into),
            recommendation_id: self.recommendation_id.map(Into::into),
            position: self.position,
            context: self.context,
        };
        event.validate(now_ms)?;
        Ok(event)
    }
}

/// Events of a batch on their way, each with its place in the client's order.
type Placed = Vec<(usize, Event)>;
/// Outcomes by place.
type Settled = Vec<(usize, EventResult)>;

/// The same error for each of `places`, each naming its own.
fn all_as(places: &[usize], error: &Error) -> Settled {
    let result = |place: usize| EventResult {
        outcome: Outcome::of(error.clone().at(&format!("events[{place}]"))),
        position: None,
    };
    places.iter().map(|place| (*place, result(*place))).collect()
}

/// What `apply` said of the events at `places`.
fn settled(places: &[usize], outcomes: Vec<EventOutcome>, position: Position) -> Settled {
    let result = |place: usize, outcome: EventOutcome| EventResult {
        outcome: match Outcome::from(outcome) {
            Outcome::Rejected(error) => Outcome::Rejected(error.at(&format!("events[{place}]"))),
            other => other,
        },
        position: Some(position),
    };
    places.iter().zip(outcomes).map(|(place, outcome)| (*place, result(*place, outcome))).collect()
}

impl Gateway {
    /// Takes a batch in; one result an event, in order.
    ///
    /// # Errors
    /// `Invalid` for more than 10,000 events. `Overloaded` or `Unavailable` when that is what happened to every event: nothing was done.
    pub async fn ingest(&self, drafts: Vec<Draft>) -> Result<Vec<EventResult>> {
        self.admit_write("ingest_events", self.ingest_admitted(drafts)).await
    }

    async fn ingest_admitted(&self, drafts: Vec<Draft>) -> Result<Vec<EventResult>> {
        if drafts.len() > limits::BATCH_MAX {
            let message = format!("{} events in one batch; at most {}", drafts.len(), limits::BATCH_MAX);
            return Err(Error::invalid("events", message));
        }
        let view = self.view()?;
        let deadline = self.write_deadline();
        let mut results: Vec<Option<EventResult>> = vec![None; drafts.len()];
        let now_ms = self.shared.clock.now_ms();
        let mut valid: Placed = Vec::with_capacity(drafts.len());
        for (place, draft) in drafts.into_iter().enumerate() {
            match draft.complete(&self.shared.ids, now_ms) {
                Ok(event) => valid.push((place, event)),
                Err(error) => {
                    let outcome = Outcome::Rejected(error.at(&format!("events[{place}]")));
                    results[place] = Some(EventResult { outcome, position: None });
                }
            }
        }
        // A shard without a leader must not eat up the time of the events that do not need it.
        let ensure_by = deadline.at_most(deadline.remaining() * 3 / 5);
        let (ready, without_item) = self.ensure_items(&view, valid, ensure_by).await?;
        let settled = self.append(&view, ready, now_ms, deadline).await?;
        without_item.into_iter().chain(settled).for_each(|(place, result)| results[place] = Some(result));
        let results: Vec<EventResult> = results
            .into_iter()
            .map(|result| result.ok_or_else(|| Error::new(Kind::Internal, "an event of the batch was lost on its way")))
            .collect::<Result<_>>()?;
        results.iter().for_each(|result| {
            metrics::counter!("docent_events_total", "outcome" => result.outcome.name()).increment(1)
        });
        refused_as_a_whole(&results).map_or(Ok(results), Err)
    }

    /// Commits stubs for items that this node has not seen before, so that no kept event names an item that does not exist.
    /// Returns the events to go on with, and the others with why.
    async fn ensure_items(&self, view: &View, events: Placed, deadline: Deadline) -> Result<(Placed, Settled)> {
        let (tenant, now) = (self.tenant(), self.shared.clock.monotonic());
        let unknown = self.shared.known.unknown(events.iter().map(|(_, event)| &event.item_id), now);
        if unknown.is_empty() {
            return Ok((events, Vec::new()));
        }
        let groups = view.by_item_shard(&tenant, unknown, |id| id)?;
        let writes = groups.into_iter().map(|(shard, item_ids)| {
            let tenant = tenant.clone();
            async move {
                for item_ids in batch::split(item_ids) {
                    let command = ItemCommand::Ensure { tenant: tenant.clone(), item_ids: item_ids.clone() };
                    let request = Request::WriteItems { shard, command };
                    match self.shared.route.leader(shard, &request, Repeat::Deduplicated, deadline).await {
                        Ok(_) => self.shared.known.insert(item_ids, now),
                        Err(error) => return Some((shard, error)),
                    }
                }
                None
            }
        });
        let failed: BTreeMap<ShardId, Error> = join_all(writes)
            .await
            .into_iter()
            // A stub without an event harms nobody: whatever became of it, no event was kept.
            .filter_map(|failed| failed.map(|(shard, error)| (shard, not_done(error))))
            .collect();
        if failed.is_empty() {
            return Ok((events, Vec::new()));
        }
        let (mut ready, mut settled) = (Vec::new(), Vec::new());
        for (place, event) in events {
            match failed.get(&view.item_shard(&tenant, &event.item_id)?) {
                Some(error)
                    if self.shared.known.unknown([&event.item_id].into_iter(), now).contains(&event.item_id) =>
                {
                    settled.extend(all_as(&[place], error));
                }
                _ => ready.push((place, event)),
            }
        }
        Ok((ready, settled))
    }

    /// All user shards at once. A share that is too large for one proposal goes in several, one after the other: a user's events keep
    /// their order, and of two with one id the first is the one that counts.
    async fn append(&self, view: &View, events: Placed, received_ms: i64, deadline: Deadline) -> Result<Settled> {
        let tenant = self.tenant();
        let mut groups: BTreeMap<ShardId, Placed> = BTreeMap::new();
        for (place, event) in events {
            groups.entry(view.user_shard(&tenant, &event.user_id)?).or_default().push((place, event));
        }
        let writes = groups.into_iter().map(|(shard, events)| {
            let (places, events): (Vec<usize>, Vec<Event>) = events.into_iter().unzip();
            let tenant = tenant.clone();
            async move {
                let (mut settled, mut places) = (Settled::with_capacity(places.len()), places.as_slice());
                for events in batch::split(events) {
                    let (these, rest) = places.split_at(events.len());
                    let command = UserCommand::Append { tenant: tenant.clone(), events, received_ms };
                    settled.extend(self.append_part(shard, command, these, deadline).await);
                    places = rest;
                }
                settled
            }
        });
        let settled: Vec<Settled> = join_all(writes).await;
        Ok(settled.into_iter().flatten().collect())
    }

    /// One proposal, which may be repeated because events are known by their ids.
    async fn write_events(&self, shard: ShardId, request: Request, deadline: Deadline) -> Result<Response> {
        let renewed = is(Bug::UnknownRetriedWithNewId).then(|| renewed(&request, &self.shared.ids));
        let Some(renewed) = renewed else {
            return self.shared.route.leader(shard, &request, Repeat::Deduplicated, deadline).await;
        };
        match self.shared.route.leader(shard, &request, Repeat::Never, deadline.at_most(deadline.remaining() / 2)).await
        {
            Err(error) if error.kind == Kind::Unknown => {
                self.shared.route.leader(shard, &renewed, Repeat::Deduplicated, deadline).await
            }
            outcome => outcome,
        }
    }

    /// One proposal: what became of its events, which are those of `places`.
    async fn append_part(&self, shard: ShardId, command: UserCommand, places: &[usize], deadline: Deadline) -> Settled {
        let request = Request::WriteUsers { shard, command };
        match self.write_events(shard, request, deadline).await {
            Ok(Response::WroteUsers { position, outcome: UserOutcome::Events(outcomes) })
                if outcomes.len() == places.len() =>
            {
                settled(places, outcomes, position)
            }
            Ok(_) => {
                let message = format!("shard {shard} gave an answer that does not fit its events");
                all_as(places, &Error::new(Kind::Unknown, message))
            }
            Err(error) => all_as(places, &error),
        }
    }
}

/// The same events under new ids, for [`Bug::UnknownRetriedWithNewId`].
fn renewed(request: &Request, ids: &Ids) -> Request {
    let mut renewed = request.clone();
    if let Request::WriteUsers { command: UserCommand::Append { events, .. }, .. } = &mut renewed {
        events.iter_mut().for_each(|event| event.event_id = EventId::new(ids.next()).unwrap_or(event.event_id.clone()));
    }
    renewed
}

/// The error of a step before the write that matters: that write was not made.
fn not_done(error: Error) -> Error {
    match error.kind {
        Kind::Unknown | Kind::DeadlineExceeded => Error { kind: Kind::Unavailable, ..error },
        _ => error,
    }
}

/// Where every event met the same lack of capacity or leader, the whole request did: the client backs off as a whole.
fn refused_as_a_whole(results: &[EventResult]) -> Option<Error> {
    let kind = |result: &EventResult| match &result.outcome {
        Outcome::Rejected(error) if matches!(error.kind, Kind::Overloaded | Kind::Unavailable) => Some(error.kind),
        _ => None,
    };
    let first = results.first()?;
    kind(first).filter(|first| results.iter().all(|result| kind(result) == Some(*first)))?;
    first.outcome.error().map(|error| Error { field: None, ..error.clone() })
}
