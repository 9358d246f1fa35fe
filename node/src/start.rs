//! Composition of a node, and its end.

use crate::disk;
use crate::export::ExportService;
use crate::identity::Identity;
use crate::membership::{self, CATALOG, Coordinators, Staged, StagedModels};
use crate::parts::{Parts, PartsHandler};
use crate::personal::Personal;
use crate::ready::Readiness;
use crate::replicas::Replicas;
use crate::rows::ItemRows;
use crate::service::{ShardService, Staleness};
use crate::serving::models::Models;
use crate::settings::Settings;
use crate::shards::{Hosted, Shards};
use crate::staging::Staging;
use crate::training::checkpoints::DiskCheckpoints;
use crate::training::cut::Cuts;
use crate::training::drive::Drive;
use crate::training::exchange::{TrainPeers, TrainService};
use crate::training::input::{DiskSink, NodeInputs, VersionParts};
use docent_gateway::Gateway;
use docent_journal::Journal;
use docent_meta::Meta;
use docent_placement::SlotHasher;
use docent_proto::internal::Service;
use docent_raft::Host;
use docent_rpc::{Caller, Handler, Peers, RaftTransport, Server};
use docent_runtime::disk::Reserve;
use docent_runtime::net::Listen;
use docent_runtime::telemetry::Metrics;
use docent_runtime::{Engine, OnExit, Platform, Supervisor};
use docent_shard::Positives;
use docent_store::Store;
use docent_train::Worker;
use docent_types::catalog::Catalog;
use docent_types::{Error, Kind, NodeId, ReplicaId, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a new node waits for its cluster.
const JOIN_NEW: Duration = Duration::from_secs(120);
/// How long a known node waits before it goes on with the catalog that it kept.
const JOIN_KNOWN: Duration = Duration::from_secs(3);

/// How long one leadership may take to go elsewhere.
const HAND_OVER: Duration = Duration::from_secs(1);
/// How often a node that ends tries that.
const HAND_OVER_ROUNDS: usize = 3;

/// A running node.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Where clients reach it.
    pub query_addr: std::net::SocketAddr,
    settings: Arc<Settings>,
    supervisor: Supervisor,
    gateway: Gateway,
    shards: Arc<Shards>,
    host: Host,
    journal: Journal,
    store: Store,
    reserve: Reserve,
}

/// What the parts of a node share while it is put together.
struct Ground {
    settings: Arc<Settings>,
    supervisor: Supervisor,
    platform: Platform,
    meta: Meta,
    peers: Peers,
    coordinators: Coordinators,
}

/// What is on this node's disk.
struct Disk {
    reserve: Reserve,
    journal: Journal,
    store: Store,
    parts: Arc<Parts>,
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, error.to_string())
}

impl Node {
    /// Starts a node on `platform`: opens its directory, joins or returns to its cluster, opens its replicas, serves.
    pub async fn start(
        settings: Settings,
        platform: Platform,
        supervisor: Supervisor,
        metrics: Option<Metrics>,
    ) -> Result<Node> {
        settings.validate()?;
        let settings = Arc::new(settings);
        // Ports first: one in use must fail before anything is written or joined.
        let internal_listener = listen(&platform, "internal_listen", &settings.internal_listen).await?;
        let query_listener = listen(&platform, "query_listen", &settings.query_listen).await?;
        let dir = &settings.data_dir;
        platform.disk.create_private_dir(dir).map_err(|error| {
            Error::invalid("data_dir", format!("cannot use data directory {}: {error}", dir.display()))
        })?;
        // Before anything is opened: a disk that is full gets its ballast back, and what opens has room.
        let reserve = Reserve::open(platform.disk.clone(), dir, settings.disk_reserve_bytes).map_err(internal)?;
        let meta = disk::open_meta(dir, &platform)?;
        let process = Arc::new(docent_rpc::Identity::default());
        let mut identity = Identity::open(&meta, process.clone())?;
        let peers = Peers::new(process, platform.net.clone());
        let coordinators = Coordinators::new(peers.clone(), settings.coordinators.clone());
        let disk = open_disk(&settings, &platform, &supervisor, reserve)?;
        disk::check_identity(dir, &identity, &disk.journal)?;
        let wait = if identity.record.member.is_some() { JOIN_KNOWN } else { JOIN_NEW };
        let id = membership::join(&settings, &coordinators, &mut identity, wait).await?;
        tracing::info!(node = %id, "member of the cluster");
        let ground = Ground { settings, supervisor, platform, meta, peers, coordinators };
        let catalog = ground.watch_catalog().await?;
        ground.compose(id, disk, catalog, internal_listener, query_listener, metrics).await
    }

    /// The raft groups that are open here.
    #[must_use]
    pub fn groups(&self) -> Vec<docent_raft::Group> {
        self.host.groups_open()
    }

    /// This node's query port, without the port.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Ends in order: load balancers are told, leaders go elsewhere, requests at work are answered, everything is flushed. `false` if
    /// something did not end in time; nothing acked is lost either way.
    pub async fn shutdown(self) -> bool {
        self.gateway.drain();
        self.reserve.close();
        let within = Duration::from_millis(self.settings.shutdown_ms);
        // First, while everything is still served here: a shard that is led from here has no leader for the time of an election else.
        hand_over(&self.shards, within / 3).await;
        // Groups first: requests still at work here go on through other nodes.
        let closed = tokio::time::timeout(within / 3, self.host.shutdown()).await.is_ok();
        let ended = self.supervisor.shutdown(within / 3).await;
        let flushed = self.store.flush();
        if let Err(error) = &flushed {
            tracing::warn!(%error, "state was not flushed; it is rebuilt from the journal");
        }
        self.journal.close();
        ended && closed && flushed.is_ok()
    }
}

impl Ground {
    /// Starts following the catalog; returns once there is one that names the cluster.
    async fn watch_catalog(&self) -> Result<watch::Receiver<Arc<Catalog>>> {
        let kept: Option<Catalog> = self.meta.get(CATALOG).map_err(internal)?;
        let kept = kept.unwrap_or_default();
        self.peers.identity().learn_all(&kept);
        let (sender, mut receiver) = watch::channel(Arc::new(kept));
        let follow = membership::follow(self.coordinators.clone(), self.meta.clone(), sender);
        self.supervisor.spawn_cancellable("catalog watch", OnExit::Fatal, follow);
        let known = receiver.wait_for(|catalog| catalog.cluster.is_some());
        match tokio::time::timeout(JOIN_NEW, known).await {
            Ok(Ok(_)) => {}
            _ => return Err(Error::new(Kind::Unavailable, "no coordinator gave the catalog of the cluster")),
        }
        Ok(receiver)
    }

    async fn compose(
        self,
        id: NodeId,
        disk: Disk,
        catalog: watch::Receiver<Arc<Catalog>>,
        internal_listener: Box<dyn Listen>,
        query_listener: Box<dyn Listen>,
        metrics: Option<Metrics>,
    ) -> Result<Node> {
        let cluster = catalog.borrow().cluster.clone().ok_or_else(|| internal("the catalog names no cluster"))?;
        let hasher = SlotHasher::new(&cluster.placement_key);
        let caller: Arc<dyn Caller> = Arc::new(self.peers.clone());
        let (shards, models, cuts) =
            (Arc::new(Shards::default()), Arc::new(Models::default()), Arc::new(Cuts::default()));
        let host = self.raft_host(&disk)?;
        host.keep_within(disk.reserve.clone());
        self.watch_disk(&disk, &shards);
        let rows = ItemRows::new(shards.clone(), caller.clone(), catalog.clone(), hasher);
        // One rule for the whole cluster: nodes that differed would train and fold in differently.
        let (positives, history_max) = (Positives::default(), self.settings.serving.history_max);
        let personal = Personal::new(models.clone(), rows, positives, history_max);
        let worker = Arc::new(self.worker(id, &cuts, &disk.parts, &caller, hasher)?);

        let handlers = self.handlers(&shards, &personal, &cuts, &disk.parts, worker.clone());
        for (service, handler) in &handlers {
            self.peers.serve_locally(*service, handler.clone());
        }
        let identity = self.peers.identity().clone();
        Server::new(self.supervisor.clone(), identity, handlers, Some(host.clone())).serve(internal_listener);

        let gateway = Gateway::new(
            self.settings.gateway.clone(),
            id,
            caller.clone(),
            catalog.clone(),
            Arc::new(self.coordinators.clone()),
            self.platform.clock.clone(),
        );
        gateway.note_lack(Some("this node is starting".to_owned()));
        let query_addr = query_listener.local_addr().map_err(internal)?;
        self.serve_queries(&gateway, query_listener, metrics);

        let (settings, supervisor) = (self.settings.clone(), self.supervisor.clone());
        let replicas = Replicas {
            node: id,
            meta: self.meta.clone(),
            journal: disk.journal.clone(),
            host: host.clone(),
            store: disk.store.clone(),
            shards: shards.clone(),
            models: models.clone(),
            hasher,
            settings: settings.clone(),
            gateway: gateway.clone(),
            supervisor: supervisor.clone(),
            threads: self.platform.threads,
            wished: Arc::default(),
            buried: watch::channel(BTreeSet::new()).0,
        };
        let buried = replicas.buried.subscribe();
        supervisor.spawn_cancellable("replicas", OnExit::Fatal, replicas.follow(catalog.clone()));
        let staged = self.spawn_model_tasks(id, &shards, models, &disk.parts, &caller, cuts, worker, &catalog, buried);
        let ready = Readiness {
            node: id,
            catalog: catalog.clone(),
            shards: shards.clone(),
            staged,
            gateway: gateway.clone(),
            behind_ms_max: settings.serving.stale_after_ms,
        };
        supervisor.spawn_cancellable("readiness", OnExit::FatalIfFailed, ready.run());
        self.spawn_rounds(&shards, &gateway);
        let Disk { reserve, journal, store, .. } = disk;
        Ok(Node { id, query_addr, settings, supervisor, gateway, shards, host, journal, store, reserve })
    }

    fn watch_disk(&self, disk: &Disk, shards: &Arc<Shards>) {
        let (dir, reserve) = (self.settings.data_dir.clone(), disk.reserve.clone());
        let (store, threads) = (disk.store.clone(), self.platform.threads);
        let watch = disk::Watch { dir, reserve, store, shards: shards.clone(), threads };
        self.supervisor.spawn_cancellable("disk", OnExit::Fatal, watch.run());
    }

    fn raft_host(&self, disk: &Disk) -> Result<Host> {
        let transport = Arc::new(RaftTransport::new(self.peers.clone(), self.supervisor.clone()));
        let snapshots = self.settings.data_dir.join("snapshots");
        let options = self.settings.raft.clone();
        Host::new(disk.journal.clone(), &self.platform, snapshots, transport, self.supervisor.clone(), options)
            .map_err(internal)
    }

    fn worker(
        &self,
        id: NodeId,
        cuts: &Arc<Cuts>,
        parts: &Arc<Parts>,
        caller: &Arc<dyn Caller>,
        hasher: SlotHasher,
    ) -> Result<Worker> {
        let threads = match self.settings.train.threads {
            0 => self.platform.threads.parallelism(),
            threads => threads,
        };
        let positives = Positives::default();
        let seams = docent_train::worker::Parts {
            inputs: Arc::new(NodeInputs { cuts: cuts.clone(), hasher, positives }),
            sink: Arc::new(DiskSink(parts.clone())),
            source: Arc::new(VersionParts { parts: parts.clone(), caller: caller.clone() }),
            checkpoints: Arc::new(DiskCheckpoints::open(&self.platform, &self.settings.data_dir.join("checkpoints"))?),
            peers: Arc::new(TrainPeers(caller.clone())),
        };
        let options = docent_train::worker::Options {
            node: id.0,
            threads,
            compute: self.platform.threads,
            niceness: self.settings.train.niceness,
            sessions_max: 2,
        };
        Worker::new(options, seams).map_err(internal)
    }

    fn handlers(
        &self,
        shards: &Arc<Shards>,
        personal: &Personal,
        cuts: &Arc<Cuts>,
        parts: &Arc<Parts>,
        worker: Arc<Worker>,
    ) -> Vec<(Service, Arc<dyn Handler>)> {
        let serving = &self.settings.serving;
        let staleness = Staleness { stale_after_ms: serving.stale_after_ms, refuse_after_ms: serving.refuse_after_ms };
        let service =
            ShardService::new(shards.clone(), personal.clone(), staleness, cuts.clone(), self.platform.threads);
        vec![
            (Service::Shard, Arc::new(service)),
            (Service::Export, Arc::new(ExportService::new(shards.clone(), personal.clone()))),
            (Service::Parts, Arc::new(PartsHandler(parts.clone()))),
            (Service::Train, Arc::new(TrainService(worker))),
        ]
    }

    #[allow(clippy::too_many_arguments, reason = "composition")]
    fn spawn_model_tasks(
        &self,
        id: NodeId,
        shards: &Arc<Shards>,
        models: Arc<Models>,
        parts: &Arc<Parts>,
        caller: &Arc<dyn Caller>,
        cuts: Arc<Cuts>,
        worker: Arc<Worker>,
        catalog: &watch::Receiver<Arc<Catalog>>,
        buried: watch::Receiver<BTreeSet<ReplicaId>>,
    ) -> Staged {
        let supervisor = &self.supervisor;
        let (staged, told) = watch::channel(StagedModels::default());
        let ready = told.clone();
        let staging = Staging {
            shards: shards.clone(),
            models,
            parts: parts.clone(),
            caller: caller.clone(),
            staged,
            node: id,
            threads: self.platform.threads,
        };
        supervisor.spawn_cancellable("staging", OnExit::Fatal, staging.follow(catalog.clone()));
        let every = Duration::from_millis(self.settings.heartbeat_interval_ms);
        let coordinators = self.coordinators.clone();
        let beat = membership::beat(id, every, coordinators, told, shards.clone(), buried, catalog.clone());
        supervisor.spawn_cancellable("heartbeat", OnExit::Fatal, beat);
        let drive = Drive {
            node: id,
            caller: caller.clone(),
            coordinators: self.coordinators.clone(),
            parts: parts.clone(),
            cuts,
            worker,
            checkpoint_every: Duration::from_millis(self.settings.train.checkpoint_interval_ms),
            clock: self.platform.clock.clone(),
        };
        supervisor.spawn("training", OnExit::Fatal, drive.follow(catalog.clone(), supervisor.clone()));
        ready
    }

    /// What is done once in a while.
    fn spawn_rounds(&self, shards: &Arc<Shards>, gateway: &Gateway) {
        let (settings, supervisor) = (&self.settings, &self.supervisor);
        let every = Duration::from_millis(settings.serving.counts_interval_ms);
        let publish = crate::counts::publish(shards.clone(), gateway.clone(), every, supervisor.clone());
        supervisor.spawn_cancellable("item counts", OnExit::Fatal, publish);
        if settings.verify_interval_s > 0 {
            let every = Duration::from_secs(settings.verify_interval_s);
            let clock = self.platform.clock.clone();
            let verify = crate::digest::verify(shards.clone(), gateway.clone(), every, clock, supervisor.clone());
            supervisor.spawn_cancellable("verify", OnExit::Fatal, verify);
        }
    }

    fn serve_queries(&self, gateway: &Gateway, listener: Box<dyn Listen>, metrics: Option<Metrics>) {
        let render = Arc::new(move || metrics.as_ref().map(Metrics::render).unwrap_or_default());
        docent_gateway::serve(gateway.clone(), render, listener, &self.supervisor);
    }
}

/// Gives every leadership away. Again where it did not work or came back, but not for long: at the end of a whole cluster there is
/// nobody to take it.
async fn hand_over(shards: &Shards, within: Duration) {
    let rounds = async {
        for _ in 0..HAND_OVER_ROUNDS {
            let led: Vec<_> = shards.all().into_iter().filter(|hosted| hosted.group.status().is_leader()).collect();
            if led.is_empty() {
                return;
            }
            let given = futures::future::join_all(led.iter().map(|hosted| give_away(hosted))).await;
            if !given.contains(&true) {
                return;
            }
        }
    };
    if tokio::time::timeout(within, rounds).await.is_err() {
        tracing::debug!("leadership of some shards was not handed over in time");
    }
}

/// Hands one leadership to the voter that has most of the log; whether it went.
async fn give_away(hosted: &Hosted) -> bool {
    let status = hosted.group.status();
    let others = status.voters.iter().filter(|replica| **replica != status.replica && hosted.group.has_room(**replica));
    let next = others.max_by_key(|replica| status.matched.get(replica).copied().flatten());
    let Some(next) = next else { return false };
    let given = hosted.group.transfer_leader(*next, HAND_OVER).await;
    if let Err(error) = &given {
        tracing::debug!(shard = %hosted.id, %error, "leadership was not handed over");
    }
    given.is_ok()
}

async fn listen(platform: &Platform, key: &str, addr: &str) -> Result<Box<dyn Listen>> {
    let bound = platform.net.listen(addr).await;
    bound.map_err(|error| {
        let message = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("{key} {addr} is in use: stop what listens there or choose another port")
            }
            _ => format!("cannot listen on {key} {addr}: {error}"),
        };
        Error::new(Kind::Conflict, message)
    })
}

/// Opens what is precious first: the journal is the truth, the store is rebuilt from it.
fn open_disk(settings: &Settings, platform: &Platform, supervisor: &Supervisor, reserve: Reserve) -> Result<Disk> {
    let dir = &settings.data_dir;
    let limits = &settings.journal;
    let options = docent_journal::Options {
        dir: dir.join("journal"),
        segment_bytes_max: limits.segment_bytes_max,
        queue_records_max: limits.queue_records_max,
        cache_bytes_max: limits.cache_bytes_max,
    };
    let journal = Journal::start(options, reserve.disk(), platform, supervisor).map_err(internal)?;
    let store = match platform.engine {
        Engine::Embedded => Store::open(dir.join("state"), &settings.store),
        Engine::Twin => Store::open_twin(platform.disk.clone(), dir.join("state")),
    };
    let store = store.map_err(Error::from)?;
    store.keep_within(reserve.clone());
    let parts = Arc::new(Parts::open(platform, &dir.join("parts"))?);
    Ok(Disk { reserve, journal, store, parts })
}
