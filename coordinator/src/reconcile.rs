//! The loops of a coordinator: the leader plans and proposes, the others tell the leader that they live.

use crate::catalog::Command;
use crate::health::Health;
use crate::machine::CatalogMachine;
use crate::plan::{self, Moment, Policy};
use crate::proposer::Proposer;
use docent_proto::internal::Service;
use docent_proto::internal::coordinator::{Heartbeat, Request};
use docent_rpc::Caller;
use docent_runtime::{Clock, Deadline, Supervisor};
use docent_types::catalog::Catalog;
use docent_types::{NodeId, Result, codec};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// A plan's command is proposed again by the next plan; this only bounds one try.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);
/// What the loops work on.
pub(crate) struct Reconcile {
    pub(crate) policy: Arc<Policy>,
    pub(crate) proposer: Proposer,
    pub(crate) machine: Arc<CatalogMachine>,
    pub(crate) health: Arc<Mutex<Health>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) interval: Duration,
}

impl Reconcile {
    /// Plans at every tick, change of the catalog and change of leadership, while this coordinator leads.
    pub(crate) async fn run(self, supervisor: Supervisor) -> Result<()> {
        let mut status = self.proposer.group().watch();
        let mut catalog = self.machine.watch();
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut led_term = None;
        loop {
            tokio::select! {
                () = supervisor.cancelled() => return Ok(()),
                _ = tick.tick() => {}
                changed = status.changed() => if changed.is_err() { return self.ended(&supervisor).await },
                changed = catalog.changed() => if changed.is_err() { return self.ended(&supervisor).await },
            }
            let term = {
                let status = status.borrow_and_update();
                status.is_leader().then_some(status.term)
            };
            catalog.mark_unchanged();
            if term != led_term && term.is_some() {
                tracing::info!(coordinator = %self.policy.me, term, "this coordinator leads");
                *self.health() = Health::new(self.clock.monotonic());
            }
            led_term = term;
            if term.is_some() {
                tokio::select! {
                    () = supervisor.cancelled() => return Ok(()),
                    () = self.step() => {}
                }
            }
            observe(&catalog.borrow(), term.is_some());
        }
    }

    /// One plan. Its commands stand on each other, so that the first that fails ends it; the next plan starts from what came of it.
    async fn step(&self) {
        let now = self.clock.monotonic();
        let due = self.machine.read(|state| {
            let mut health = self.health();
            health.observe(state.catalog(), now);
            plan::next(&self.policy, state, &health, Moment { monotonic: now, wall_ms: self.clock.now_ms() })
        });
        for command in due {
            tell(&command);
            if let Err(error) = self.proposer.propose(&command, PROPOSE_WITHIN).await {
                tracing::debug!(%error, ?command, "a planned change did not happen");
                return;
            }
        }
    }

    /// The group was closed: that is the end of the process, and not for this task to tell.
    async fn ended(&self, supervisor: &Supervisor) -> Result<()> {
        supervisor.cancelled().await;
        Ok(())
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the leader at every `interval` that this coordinator lives.
pub(crate) async fn beat<C: Caller>(
    me: NodeId,
    proposer: Proposer,
    peers: C,
    machine: Arc<CatalogMachine>,
    interval: Duration,
    supervisor: Supervisor,
) -> Result<()> {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let beat = codec::encode(&Request::Heartbeat(Heartbeat { node: me, ..Heartbeat::default() }));
    let format = u32::from(codec::VERSION);
    let news = Request::TellFormat { coordinator: me, format };
    let news = codec::encode_in(news.format(), &news);
    loop {
        tokio::select! {
            () = supervisor.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let status = proposer.group().status();
        let Some(leader) = status.leader.filter(|leader| leader.node != me.0) else { continue };
        let is_known = |catalog: &Catalog| catalog.coordinators.get(&me).is_some_and(|known| known.format == format);
        let has_news = !machine.read(|state| is_known(state.catalog()));
        let calls = async {
            for body in [Some(&beat), Some(&news).filter(|_| has_news)].into_iter().flatten() {
                let within = Deadline::after(interval);
                peers.call(NodeId(leader.node), Service::Coordinator, body.clone(), within).await?;
            }
            Ok::<_, docent_types::Error>(())
        };
        tokio::select! {
            () = supervisor.cancelled() => return Ok(()),
            beaten = calls => if let Err(error) = beaten {
                tracing::debug!(%error, leader = leader.node, "the leader did not take a heartbeat");
            },
        }
    }
}

/// Changes that a person may want to find in the log later.
fn tell(command: &Command) {
    match command {
        Command::Birth(cluster) => tracing::info!(cluster = %cluster.id, "the cluster is born"),
        Command::SetAlive(changes) => changes.iter().for_each(|(member, is_alive)| {
            tracing::info!(%member, is_alive, "a member's liveness changed");
        }),
        Command::PlaceShards => tracing::info!("the shards are placed"),
        Command::AssignJob { job, epoch, driver } => tracing::info!(job, epoch, %driver, "a job starts"),
        Command::QueueScheduled { name, run, .. } => tracing::info!(schedule = name, run, "a scheduled job is due"),
        Command::BeginTrial { name, trial, .. } => tracing::info!(study = name, trial, "a trial begins"),
        Command::JobFailed { attempt, error, .. } => tracing::info!(job = attempt.job, error, "a job's attempt failed"),
        Command::Stage(version) => tracing::info!(version, "a version is staged"),
        Command::Activate(version) => tracing::info!(version, "a version goes live"),
        Command::BeginChange { shard, old, to, cause } => {
            tracing::info!(%shard, old = old.map(|old| old.0), %to, cause = cause.name(), "a replica moves");
        }
        Command::CancelChange(shard) => tracing::info!(%shard, "a replica's move is given up"),
        Command::ObserveMembership { shard, index, replicas } => {
            let nodes: Vec<u64> = replicas.iter().map(|replica| replica.node.0).collect();
            tracing::info!(%shard, index, ?nodes, "a shard's replicas changed");
        }
        Command::ForgetNode(node) => tracing::info!(%node, "a removed node is forgotten"),
        Command::Finalize(format) => {
            tracing::info!(format, "every member understands this format: the cluster uses it")
        }
        Command::FailModel { version, error } => tracing::warn!(version, error, "a version failed"),
        _ => {}
    }
}

fn observe(catalog: &Catalog, is_leader: bool) {
    let alive = |members: &std::collections::BTreeMap<NodeId, docent_types::catalog::Member>| {
        members.values().filter(|member| member.is_alive).count() as f64
    };
    metrics::gauge!("docent_coordinator_is_leader").set(f64::from(u8::from(is_leader)));
    metrics::gauge!("docent_catalog_nodes").set(catalog.nodes.len() as f64);
    metrics::gauge!("docent_catalog_nodes_alive").set(alive(&catalog.nodes));
    metrics::gauge!("docent_catalog_coordinators_alive").set(alive(&catalog.coordinators));
    metrics::gauge!("docent_catalog_models").set(catalog.models.len() as f64);
    metrics::gauge!("docent_catalog_live_version").set(catalog.live.map_or(0, |live| live.version) as f64);
}
