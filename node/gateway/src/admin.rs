//! The cluster, models, jobs and schedules: read from the catalog that every node watches, changed through the coordinator.

use crate::gateway::Gateway;
use crate::route::Repeat;
use docent_proto::internal::coordinator::{Request as Ask, Response as Told};
use docent_proto::internal::shard::Request;
use docent_runtime::Deadline;
use docent_types::catalog::{Activation, Catalog, Job, JobState, Model, Step};
use docent_types::command::ItemCommand;
use docent_types::placement::{PlacementChange, PlannedMove};
use docent_types::schedule::{Schedule, Scheduled, check_name};
use docent_types::training::TrainSettings;
use docent_types::{Error, Keyspace, Kind, NodeId, Result, ShardId, UserId};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The catalog as that node knows it.
    pub catalog: Arc<Catalog>,
    /// The node that answers.
    pub node: NodeId,
    /// Leaders that it knows.
    pub leaders: BTreeMap<ShardId, NodeId>,
    /// Whether every shard has one.
    pub is_ready: bool,
}

/// How long a look for unknown leaders takes at most.
const PROBE: Duration = Duration::from_millis(1_000);
/// How long a change waits to be seen in this node's own catalog, so that the next read shows it.
const SEEN: Duration = Duration::from_millis(2_000);

impl Gateway {
    /// The cluster as this node sees it.
    ///
    /// # Errors
    /// None so far; `Overloaded` when too many requests are at work.
    pub async fn cluster(&self) -> Result<ClusterStatus> {
        let work = async {
            let is_ready = self.probe().await;
            let catalog = self.shared.route.catalog.borrow().clone();
            let mut leaders = self.shared.route.leaders.all();
            leaders.retain(|shard, _| catalog.shards.contains_key(shard));
            Ok(ClusterStatus { is_ready, catalog, node: self.shared.route.me, leaders })
        };
        self.admit("get_cluster", work).await
    }

    /// Why this node should get no requests now, `None` where it is ready: it does not drain, its own replicas take part, and every
    /// shard has a leader that it knows.
    pub async fn unready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("draining".to_owned());
        }
        if let Some(lack) = self.lack() {
            return Some(format!("not ready: {lack}"));
        }
        (!self.probe().await).then(|| "not ready: some shard has no leader yet".to_owned())
    }

    /// Looks for leaders that are not known; `true` once all are.
    async fn probe(&self) -> bool {
        let Ok(view) = self.view() else { return false };
        let known = self.shared.route.leaders.all();
        let unknown = view.catalog.shards.keys().filter(|shard| !known.contains_key(shard));
        let looks = unknown.map(|shard| self.find_leader(*shard));
        join_all(looks).await.into_iter().all(|outcome| outcome.is_ok())
    }

    /// Asks something that only a leader answers. Item shards have no such read: an empty write does.
    async fn find_leader(&self, shard: ShardId) -> Result<()> {
        let tenant = self.tenant();
        let request = match shard.keyspace {
            Keyspace::Users => Request::GetUser { shard, tenant, user_id: UserId::new("docent-probe")? },
            Keyspace::Items => {
                Request::WriteItems { shard, command: ItemCommand::Ensure { tenant, item_ids: Vec::new() } }
            }
        };
        self.shared.route.leader(shard, &request, Repeat::Deduplicated, Deadline::after(PROBE)).await.map(|_| ())
    }

    /// All models, by version, each with the reason why it does not become live by itself.
    ///
    /// # Errors
    /// `Overloaded` when too many requests are at work.
    pub async fn models(&self) -> Result<Vec<(Model, Option<String>)>> {
        let work = async {
            let catalog = self.shared.route.catalog.borrow().clone();
            Ok(catalog.models.values().map(|model| (model.clone(), catalog.held_back(model))).collect())
        };
        self.admit("list_models", work).await
    }

    /// All jobs, by id, the latest with their course.
    ///
    /// # Errors
    /// `Overloaded` when too many requests are at work.
    pub async fn jobs(&self) -> Result<Vec<(Job, Vec<Step>)>> {
        let work = async {
            let catalog = self.shared.route.catalog.borrow().clone();
            let course = |job: &Job| catalog.courses.get(&job.id).cloned().unwrap_or_default();
            Ok(catalog.jobs.values().map(|job| (job.clone(), course(job))).collect())
        };
        self.admit("list_jobs", work).await
    }

    /// Makes a staged or retired version live; one that is worse than the live one only by force.
    ///
    /// # Errors
    /// `Conflict` when it is worse; the coordinator's: `NotFound`, `Conflict` when it is not staged, `Unavailable`.
    pub async fn activate(&self, version: u64, is_forced: bool) -> Result<Activation> {
        let work = async {
            let catalog = self.shared.route.catalog.borrow().clone();
            let worse = catalog.models.get(&version).and_then(|model| catalog.worse_than_live(model));
            if let Some(why) = worse.filter(|_| !is_forced) {
                let message = format!("version {version} is not made live: {why}; say force to do it all the same");
                return Err(Error::new(Kind::Conflict, message));
            }
            self.change_live(Ask::Activate(version)).await
        };
        self.admit_write("activate_model", work).await
    }

    /// Makes the previous version live.
    ///
    /// # Errors
    /// The coordinator's: `Conflict` when there is none.
    pub async fn rollback(&self) -> Result<Activation> {
        self.admit_write("rollback_model", self.change_live(Ask::Rollback)).await
    }

    async fn change_live(&self, ask: Ask) -> Result<Activation> {
        match self.shared.coordinators.call(ask, self.write_deadline()).await? {
            Told::Activated(activation) => {
                self.wait_catalog(SEEN, |catalog| catalog.live.is_some_and(|live| live.epoch >= activation.epoch))
                    .await;
                Ok(activation)
            }
            _ => Err(unfitting()),
        }
    }

    /// Queues a training job.
    ///
    /// # Errors
    /// `Invalid` naming the setting; `Unsupported` for what the cluster's format does not have yet; the coordinator's.
    pub async fn start_training(&self, settings: TrainSettings) -> Result<Job> {
        let work = async {
            settings.validate()?;
            self.view()?.catalog.require(settings.format())?;
            self.change_job(Ask::StartTraining(settings)).await
        };
        self.admit_write("start_training", work).await
    }

    /// Ends a job.
    ///
    /// # Errors
    /// The coordinator's: `NotFound`, `Conflict` when it has ended already.
    pub async fn cancel_job(&self, job: u64) -> Result<Job> {
        self.admit_write("cancel_job", self.change_job(Ask::CancelJob(job))).await
    }

    async fn change_job(&self, ask: Ask) -> Result<Job> {
        match self.shared.coordinators.call(ask, self.write_deadline()).await? {
            Told::Job(job) => {
                // A queued job may run already when it is seen; an ended one stays as it is.
                let is_seen = |seen: &Job| job.state == JobState::Queued || seen.state == job.state;
                self.wait_catalog(SEEN, |catalog| catalog.jobs.get(&job.id).is_some_and(is_seen)).await;
                Ok(*job)
            }
            _ => Err(unfitting()),
        }
    }

    /// All schedules, by name.
    ///
    /// # Errors
    /// `Overloaded` when too many requests are at work.
    pub async fn schedules(&self) -> Result<Vec<Scheduled>> {
        let work = async { Ok(self.shared.route.catalog.borrow().schedules.values().cloned().collect()) };
        self.admit("list_schedules", work).await
    }

    /// Lets training begin by itself from now on. A schedule of the same name is replaced and goes on counting from its last job.
    ///
    /// # Errors
    /// `Invalid` naming the field; `Unsupported` for what the cluster's format does not have yet; the coordinator's: `Conflict` where
    /// there are too many.
    pub async fn set_schedule(&self, schedule: Schedule) -> Result<Scheduled> {
        let work = async {
            schedule.validate()?;
            self.view()?.catalog.require(schedule.format())?;
            let name = schedule.name.clone();
            self.change_schedules(Ask::SetSchedule(schedule)).await?;
            let set = self.shared.route.catalog.borrow().schedules.get(&name).cloned();
            set.ok_or_else(|| Error::new(Kind::Unavailable, "the schedule is set, and this node has not seen it yet"))
        };
        self.admit_write("set_schedule", work).await
    }

    /// Ends a schedule; jobs that it has queued go on.
    ///
    /// # Errors
    /// `NotFound`; `Unsupported` in a cluster whose format has no schedules yet.
    pub async fn remove_schedule(&self, name: String) -> Result<()> {
        let work = async {
            check_name(&name)?;
            let ask = Ask::RemoveSchedule(name);
            self.view()?.catalog.require(ask.format())?;
            self.change_schedules(ask).await
        };
        self.admit_write("remove_schedule", work).await
    }

    async fn change_schedules(&self, ask: Ask) -> Result<()> {
        match self.shared.coordinators.call(ask, self.write_deadline()).await? {
            Told::Index(index) => {
                self.wait_catalog(SEEN, |catalog| catalog.index >= index).await;
                Ok(())
            }
            _ => Err(unfitting()),
        }
    }

    /// Changes where replicas live, or with `is_dry_run` only tells the moves that it would lead to.
    ///
    /// # Errors
    /// The coordinator's: `NotFound`, `Conflict` with what has to be done first.
    pub async fn change_placement(&self, change: PlacementChange, is_dry_run: bool) -> Result<Vec<PlannedMove>> {
        let work = async {
            match self.shared.coordinators.call(Ask::Place { change, is_dry_run }, self.write_deadline()).await? {
                Told::Moves(moves) => Ok(moves),
                _ => Err(unfitting()),
            }
        };
        self.admit_write("change_placement", work).await
    }

    /// Waits until this node's catalog satisfies `is_there`, at most `within`.
    pub(crate) async fn wait_catalog(&self, within: Duration, is_there: impl Fn(&Catalog) -> bool) -> bool {
        let mut catalog = self.shared.route.catalog.clone();
        let seen = tokio::time::timeout(within, catalog.wait_for(|catalog| is_there(catalog))).await;
        matches!(seen, Ok(Ok(_)))
    }
}

fn unfitting() -> Error {
    Error::new(Kind::Internal, "the coordinator answered another question than was asked")
}
