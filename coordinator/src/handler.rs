//! What members ask of the coordinator: decode, check, propose, encode. The rules are the catalog's.

use crate::catalog::{Answer, Attempt, Command, Join as Joining};
use crate::health::Health;
use crate::machine::CatalogMachine;
use crate::moves;
use crate::plan::Policy;
use crate::proposer::Proposer;
use crate::secret::Secret;
use bytes::Bytes;
use docent_proto::internal::coordinator::{Heartbeat, JobReport, JobUpdate, Join, Request, Response};
use docent_runtime::{Clock, Deadline};
use docent_types::catalog::Catalog;
use docent_types::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
use docent_types::placement::{Cause, NodeState, PlacementChange, PlannedMove};
use docent_types::{Error, Keyspace, Kind, NodeId, Result, ShardId, codec};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of an address: a DNS name and a port.
const ADDR_BYTES_MAX: usize = 259;
/// Versions of one heartbeat: far more than nodes hold.
const VERSIONS_MAX: usize = 1_000;
/// Replicas of one heartbeat: both keyspaces have at most 64 shards, and few graves lie on one node.
const REPLICAS_MAX: usize = 1_000;

/// Serves `Service::Coordinator`. Clones share everything.
#[derive(Clone)]
pub struct Handler {
    pub(crate) policy: Arc<Policy>,
    pub(crate) proposer: Proposer,
    pub(crate) machine: Arc<CatalogMachine>,
    pub(crate) secret: Secret,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) health: Arc<Mutex<Health>>,
}

impl docent_rpc::Handler for Handler {
    fn call(&self, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Bytes>> {
        let handler = self.clone();
        async move {
            let request = codec::decode("a coordinator request", &body)?;
            let name = name(&request);
            let response = handler.handle(request, deadline).await;
            let outcome = response.as_ref().map_or_else(|error| error.kind.name(), |_| "ok");
            metrics::counter!("docent_coordinator_requests_total", "request" => name, "outcome" => outcome)
                .increment(1);
            response.map(|response| codec::encode(&response))
        }
        .boxed()
    }
}

impl Handler {
    async fn handle(&self, request: Request, deadline: Deadline) -> Result<Response> {
        match request {
            Request::Join(join) => self.join(join, deadline).await,
            Request::Heartbeat(heartbeat) => self.heartbeat(heartbeat, deadline).await,
            Request::ReportJob(report) => {
                let driver = report.driver;
                self.propose(self.report(report), deadline).await?;
                self.hear(driver);
                Ok(self.index())
            }
            Request::StartTraining(settings) => {
                settings.validate()?;
                self.job(Command::QueueJob { settings, now_ms: self.clock.now_ms() }, deadline).await
            }
            Request::CancelJob(job) => self.job(Command::CancelJob(job), deadline).await,
            Request::Activate(version) => self.activation(Command::Activate(version), deadline).await,
            Request::Rollback => self.activation(Command::Rollback, deadline).await,
            Request::Place { change, is_dry_run } => self.place(change, is_dry_run, deadline).await,
            Request::SetSchedule(schedule) => {
                schedule.validate()?;
                let now_ms = self.clock.now_ms();
                self.propose(Command::SetSchedule { schedule, now_ms }, deadline).await.map(|_| self.index())
            }
            Request::RemoveSchedule(name) => {
                self.propose(Command::RemoveSchedule(name), deadline).await.map(|_| self.index())
            }
            Request::SetStudy(study) => {
                study.validate()?;
                let now_ms = self.clock.now_ms();
                self.propose(Command::SetStudy { study, now_ms }, deadline).await.map(|_| self.index())
            }
            Request::RemoveStudy(name) => {
                self.propose(Command::RemoveStudy(name), deadline).await.map(|_| self.index())
            }
            Request::TellEvents { node, events } => self.tell_events(node, &events),
            Request::TellFormat { coordinator, format } => self.tell_format(coordinator, format, deadline).await,
        }
    }

    /// Changes the placement, or only tells what would come of it.
    async fn place(&self, change: PlacementChange, is_dry_run: bool, deadline: Deadline) -> Result<Response> {
        self.proposer.lead()?;
        let now = self.clock.monotonic();
        let (command, planned) = self.machine.read(|state| {
            let command = placement_command(state.catalog(), change)?;
            let mut after = state.clone();
            after.apply(state.catalog().index + 1, command.clone())?;
            let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            let planned = match change {
                PlacementChange::Move { shard, from, to } => {
                    vec![PlannedMove { shard, from: Some(from), to, cause: Cause::Command }]
                }
                PlacementChange::Cancel(_) => Vec::new(),
                _ => {
                    let wanted = moves::wanted(&self.policy, after.catalog(), &health, now);
                    wanted.into_iter().map(|wanted| wanted.planned).collect()
                }
            };
            Ok::<_, Error>((command, planned))
        })?;
        if !is_dry_run {
            self.propose(command, deadline).await?;
            tracing::info!(?change, "an operator changed the placement");
        }
        Ok(Response::Moves(planned))
    }

    async fn join(&self, join: Join, deadline: Deadline) -> Result<Response> {
        check_join(&join)?;
        // A returning node proves itself by the nonce that it drew when it was new: its token may be gone by now.
        let token = match (join.previous, join.token.is_empty()) {
            (Some(_), true) => 0,
            _ => self.secret.verify(&join.token)?.id,
        };
        let command = Command::Join(Joining {
            token,
            nonce: join.nonce,
            previous: join.previous,
            internal_addr: join.internal_addr,
            query_addr: join.query_addr,
            zone: join.zone,
            format: join.format,
        });
        match self.propose(command, deadline).await? {
            Answer::Joined { cluster, node } => {
                self.hear(node);
                tracing::info!(%node, "node joined");
                Ok(Response::Joined { cluster, node })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Only what is new goes into the log: a beat that says nothing new costs no entry.
    async fn heartbeat(&self, beat: Heartbeat, deadline: Deadline) -> Result<Response> {
        self.proposer.lead()?;
        let news = self.machine.read(|state| {
            if state.catalog().member(beat.node).is_none() {
                let message = format!("node {} is not a member of this cluster; it has to join first", beat.node);
                return Err(Error::new(Kind::NotFound, message));
            }
            news(state, &beat)
        })?;
        self.hear(beat.node);
        self.health.lock().unwrap_or_else(PoisonError::into_inner).report(beat.node, beat.replicas);
        for command in news {
            self.propose(command, deadline).await?;
        }
        Ok(self.index())
    }

    /// Kept beside what else only the leader hears; a new leader is told within a heartbeat.
    fn tell_events(&self, node: NodeId, events: &[(ShardId, u64)]) -> Result<Response> {
        self.proposer.lead()?;
        if events.len() > REPLICAS_MAX {
            return Err(Error::invalid("events", format!("a node may tell of at most {REPLICAS_MAX} shards")));
        }
        let hosts = |catalog: &Catalog, shard: &ShardId| {
            catalog.shards.get(shard).is_some_and(|known| shard.keyspace == Keyspace::Items && known.is_on(node))
        };
        let known: Vec<_> = self
            .machine
            .read(|state| events.iter().filter(|(shard, _)| hosts(state.catalog(), shard)).copied().collect());
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        known.into_iter().for_each(|(shard, events)| health.count(shard, events));
        drop(health);
        Ok(self.index())
    }

    /// Only the leader writes what coordinators understand; the others tell it.
    async fn tell_format(&self, coordinator: NodeId, format: u32, deadline: Deadline) -> Result<Response> {
        self.proposer.lead()?;
        let known = self.machine.read(|state| state.catalog().coordinators.get(&coordinator).map(|known| known.format));
        let members = self.policy.coordinators.clone();
        match known {
            None => return Err(Error::new(Kind::NotFound, format!("there is no coordinator {coordinator}"))),
            Some(known) if known == format => {}
            Some(_) => {
                let told = Command::RegisterCoordinators { members, by: coordinator, format };
                self.propose(told, deadline).await.map(drop)?;
            }
        }
        self.hear(coordinator);
        Ok(self.index())
    }

    fn report(&self, report: JobReport) -> Command {
        let attempt = Attempt { job: report.job, epoch: report.epoch, driver: report.driver };
        match report.update {
            JobUpdate::Progress(mut progress) => {
                shorten(&mut progress.phase, NAME_BYTES_MAX);
                Command::JobProgress { attempt, progress }
            }
            JobUpdate::Step(mut step) => {
                shorten(&mut step.progress.phase, NAME_BYTES_MAX);
                Command::JobStep { attempt, step }
            }
            JobUpdate::Failed { mut error, is_retryable } => {
                shorten(&mut error, TEXT_BYTES_MAX);
                Command::JobFailed { attempt, error, is_retryable }
            }
            JobUpdate::Finished(trained) => Command::RegisterModel { attempt, trained, now_ms: self.clock.now_ms() },
        }
    }

    async fn job(&self, command: Command, deadline: Deadline) -> Result<Response> {
        match self.propose(command, deadline).await? {
            Answer::Job(job) => Ok(Response::Job(job)),
            other => Err(unexpected(&other)),
        }
    }

    async fn activation(&self, command: Command, deadline: Deadline) -> Result<Response> {
        match self.propose(command, deadline).await? {
            Answer::Activated(activation) => Ok(Response::Activated(activation)),
            other => Err(unexpected(&other)),
        }
    }

    async fn propose(&self, command: Command, deadline: Deadline) -> Result<Answer> {
        self.machine.read(|state| command.check(state.catalog()))?;
        self.proposer.propose(&command, deadline.remaining()).await
    }

    fn hear(&self, member: NodeId) {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).hear(member, self.clock.monotonic());
    }

    fn index(&self) -> Response {
        Response::Index(self.machine.read(|state| state.catalog().index))
    }
}

/// The command that does what an operator asks.
fn placement_command(catalog: &Catalog, change: PlacementChange) -> Result<Command> {
    Ok(match change {
        PlacementChange::Drain(node) => Command::SetNodeState { node, state: NodeState::Draining },
        PlacementChange::Resume(node) => Command::SetNodeState { node, state: NodeState::Active },
        PlacementChange::Remove(node) => Command::SetNodeState { node, state: NodeState::Removed },
        PlacementChange::Cancel(shard) => Command::CancelChange(shard),
        PlacementChange::Move { shard, from, to } => {
            let known = catalog.shards.get(&shard);
            let known = known.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no shard {shard}")))?;
            let old = known.replicas.iter().find(|replica| replica.node == from).ok_or_else(|| {
                let nodes: Vec<String> = known.replicas.iter().map(|replica| replica.node.to_string()).collect();
                let message = format!("shard {shard} has no replica on node {from}; it is on {}", nodes.join(", "));
                Error::new(Kind::Conflict, message)
            })?;
            Command::BeginChange { shard, old: Some(old.id), to, cause: Cause::Command }
        }
    })
}

/// What a heartbeat says that the state does not know yet. Versions that the catalog has forgotten are none.
fn news(state: &crate::catalog::State, beat: &Heartbeat) -> Result<Vec<Command>> {
    if beat.staged.len() + beat.refused.len() > VERSIONS_MAX {
        return Err(Error::invalid("staged", format!("a heartbeat may name at most {VERSIONS_MAX} versions")));
    }
    if beat.replicas.len() + beat.buried.len() > REPLICAS_MAX {
        return Err(Error::invalid("replicas", format!("a heartbeat may name at most {REPLICAS_MAX} replicas")));
    }
    let (node, catalog) = (beat.node, state.catalog());
    let hosts = |shard: &ShardId| catalog.shards.get(shard).is_some_and(|shard| shard.is_on(node));
    let buried: Vec<_> = beat
        .buried
        .iter()
        .copied()
        .filter(|id| catalog.graves.get(id).is_some_and(|grave| grave.node == node))
        .collect();
    let buried = (!buried.is_empty()).then_some(Command::Bury { node, replicas: buried });
    let staged = beat.staged.iter().filter_map(|(version, shards)| {
        let known = &catalog.models.get(version)?.staged;
        let new: Vec<_> =
            shards.iter().copied().filter(|shard| hosts(shard) && !known.contains(&(*shard, node))).collect();
        (!new.is_empty()).then_some(Command::MarkStaged { node, version: *version, shards: new })
    });
    // A beat tells all that the node has: what it does not tell is gone.
    let has =
        |version: u64, shard: &ShardId| beat.staged.iter().any(|(v, shards)| *v == version && shards.contains(shard));
    let gone = catalog.models.values().filter_map(|model| {
        let mine = model.staged.iter().filter(|(shard, holder)| *holder == node && !has(model.version, shard));
        let shards: Vec<_> = mine.map(|(shard, _)| *shard).collect();
        (!shards.is_empty()).then_some(Command::Unstage { node, version: model.version, shards })
    });
    let refused = beat.refused.iter().filter_map(|(version, error)| {
        catalog.models.get(version)?;
        let is_known = state.refused(*version).any(|(other, _)| other == node);
        let mut error = error.clone();
        shorten(&mut error, TEXT_BYTES_MAX);
        (!is_known).then_some(Command::RefuseVersion { node, version: *version, error })
    });
    Ok(gone.chain(staged).chain(refused).chain(buried).collect())
}

fn check_join(join: &Join) -> Result<()> {
    for (field, addr) in [("internal_addr", &join.internal_addr), ("query_addr", &join.query_addr)] {
        let port =
            addr.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok())?);
        if addr.len() > ADDR_BYTES_MAX || port.is_none_or(|port| port == 0) {
            let message = format!("{field} must be host:port with a port above 0 and at most {ADDR_BYTES_MAX} bytes");
            return Err(Error::invalid(field, message));
        }
    }
    if join.zone.len() > NAME_BYTES_MAX {
        return Err(Error::invalid("zone", format!("zone has {} bytes; at most {NAME_BYTES_MAX}", join.zone.len())));
    }
    Ok(())
}

/// Cuts at a character's end.
fn shorten(text: &mut String, bytes_max: usize) {
    let fits = (0..=bytes_max.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(fits.unwrap_or(0));
}

fn unexpected(answer: &Answer) -> Error {
    Error::new(Kind::Internal, format!("the catalog gave an unexpected answer: {answer:?}"))
}

fn name(request: &Request) -> &'static str {
    match request {
        Request::Join(_) => "join",
        Request::Heartbeat(_) => "heartbeat",
        Request::ReportJob(_) => "report_job",
        Request::StartTraining(_) => "start_training",
        Request::CancelJob(_) => "cancel_job",
        Request::Activate(_) => "activate",
        Request::Rollback => "rollback",
        Request::Place { .. } => "place",
        Request::TellFormat { .. } => "tell_format",
        Request::SetSchedule(_) => "set_schedule",
        Request::RemoveSchedule(_) => "remove_schedule",
        Request::TellEvents { .. } => "tell_events",
        Request::SetStudy(_) => "set_study",
        Request::RemoveStudy(_) => "remove_study",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::properties::Log;
    use docent_types::training::TrainSettings;

    #[test]
    fn a_heartbeat_that_says_nothing_new_makes_no_entry() {
        let mut log = Log::placed(2);
        let version = log.train(TrainSettings::default());
        let shards: Vec<_> = log.state.catalog().shards.keys().copied().collect();
        let beat = Heartbeat {
            node: NodeId(101),
            staged: vec![(version, shards), (99, vec![])],
            refused: vec![(version, "\u{e9}".repeat(5_000)), (99, String::new())],
            ..Heartbeat::default()
        };
        let first = news(&log.state, &beat).unwrap();
        assert_eq!(first.len(), 2, "one staged, one refused; a forgotten version is none");
        first.into_iter().for_each(|command| drop(log.must(command)));
        assert_eq!(news(&log.state, &beat).unwrap(), []);
        let restarted = Heartbeat { staged: vec![], ..beat.clone() };
        let gone = news(&log.state, &restarted).unwrap();
        assert!(matches!(gone[..], [Command::Unstage { node: NodeId(101), .. }]), "{gone:?}");
        gone.into_iter().for_each(|command| drop(log.must(command)));
        assert!(log.state.catalog().models[&version].staged.is_empty());
        assert_eq!(news(&log.state, &restarted).unwrap(), []);
        let flood = Heartbeat { staged: vec![(1, vec![]); VERSIONS_MAX + 1], ..beat };
        assert_eq!(news(&log.state, &flood).unwrap_err().kind, Kind::Invalid);
    }

    #[test]
    fn a_join_with_a_bad_field_is_refused_by_name() {
        let join = Join {
            token: String::new(),
            nonce: 1,
            previous: None,
            internal_addr: "n1:7001".into(),
            query_addr: "[::1]:7002".into(),
            zone: "a".into(),
            format: 1,
        };
        assert!(check_join(&join).is_ok());
        let field = |join: Join| check_join(&join).unwrap_err().field.unwrap();
        for addr in ["", ":1", "host", "host:", "host:0", "host:70000", &"h".repeat(300)] {
            assert_eq!(field(Join { internal_addr: addr.into(), ..join.clone() }), "internal_addr", "{addr}");
            assert_eq!(field(Join { query_addr: addr.into(), ..join.clone() }), "query_addr", "{addr}");
        }
        assert_eq!(field(Join { zone: "z".repeat(65), ..join.clone() }), "zone");
    }
}
