//! One running coordinator: the composition of everything here.

use crate::data_dir::DataDir;
use crate::handler::Handler;
use crate::health::Health;
use crate::machine::CatalogMachine;
use crate::proposer::Proposer;
use crate::reconcile::{Reconcile, beat};
use crate::secret::Secret;
use crate::settings::Settings;
use crate::watching::Watching;
use docent_journal::Journal;
use docent_proto::internal::Service;
use docent_raft::{Group, Host, Machine, Member};
use docent_rpc::{Identity, Peers, RaftTransport, Server};
use docent_runtime::net::Listen;
use docent_runtime::{Clock, OnExit, Platform, Supervisor, Threads, entropy};
use docent_types::catalog::Catalog;
use docent_types::{ClusterId, Error, Kind, NodeId, Result};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The coordinators' raft group; shards have higher ones (`ShardId::group`).
pub const GROUP: u64 = 0;
/// Beats a time-out, so that two lost ones do no harm.
const BEATS_PER_TIMEOUT: u32 = 4;
/// What a leader that ends gives to handing over.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);

/// A running coordinator.
pub struct Coordinator {
    settings: Settings,
    cluster: ClusterId,
    supervisor: Supervisor,
    threads: Threads,
    peers: Peers,
    host: Host,
    group: Group,
    machine: Arc<CatalogMachine>,
    journal: Journal,
    _dir: DataDir,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator")
            .field("id", &self.settings.id)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl Coordinator {
    /// Opens the data directory, joins the other coordinators and serves `settings.listen`. Returns before there is a leader; a failure
    /// later on is told to `supervisor`.
    ///
    /// # Errors
    /// Bad settings, secret or data directory, a port in use, storage that cannot be read: each names the setting or the path.
    pub async fn start(settings: Settings, platform: Platform, supervisor: Supervisor) -> Result<Coordinator> {
        settings.validate()?;
        // The port first: one in use must fail before anything is written.
        let listener = platform.net.listen(&settings.listen).await.map_err(|error| {
            let message = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("{} is in use; stop that process or change listen", settings.listen)
                }
                _ => format!("cannot listen on {}: {error}", settings.listen),
            };
            Error::invalid("listen", message)
        })?;
        let secret = Secret::read(&settings.secret_file)?;
        let coordinator = Coordinator::open(settings, secret.cluster(), &platform, &supervisor).await?;
        coordinator.serve(listener, secret, platform.clock)?;
        coordinator.initialize().await?;
        Ok(coordinator)
    }

    /// From disk to an open raft group, nothing served yet.
    async fn open(
        settings: Settings,
        cluster: ClusterId,
        platform: &Platform,
        supervisor: &Supervisor,
    ) -> Result<Coordinator> {
        let (owned, ground, tasks) = (settings.clone(), platform.clone(), supervisor.clone());
        let opened = platform.threads.blocking(move || storage(&owned, cluster, &ground, &tasks)).await;
        let (dir, journal, machine) = opened.map_err(|error| internal("open the data directory", error))??;
        let identity = Arc::new(Identity::default());
        identity.set_cluster(cluster)?;
        identity.set_node(settings.node())?;
        settings.members().iter().for_each(|(node, addr)| identity.learn(*node, addr));
        let peers = Peers::new(identity, platform.net.clone());
        let transport = Arc::new(RaftTransport::new(peers.clone(), supervisor.clone()));
        let raft = settings.raft.clone();
        let host = Host::new(journal.clone(), platform, dir.snapshots(), transport, supervisor.clone(), raft);
        let host = host.map_err(|error| internal("start raft", error))?;
        let group = host.open(GROUP, settings.id, machine.clone()).await;
        let group = group.map_err(|error| internal("open the coordinators' raft group", error))?;
        let (supervisor, threads) = (supervisor.clone(), platform.threads);
        Ok(Coordinator { settings, cluster, supervisor, threads, peers, host, group, machine, journal, _dir: dir })
    }

    /// Every coordinator initialises the group with the same members; who comes late finds it done.
    async fn initialize(&self) -> Result<()> {
        let member = |(node, addr): (NodeId, String)| Member { replica: node.0, node: node.0, addr };
        let members = self.settings.members().into_iter().map(member).collect();
        let initialized = self.group.initialize(members).await;
        initialized.map_err(|error| internal("initialise the coordinators' raft group", error))
    }

    fn serve(&self, listener: Box<dyn Listen>, secret: Secret, clock: Arc<dyn Clock>) -> Result<()> {
        let proposer = Proposer::new(self.group.clone());
        let health = Arc::new(Mutex::new(Health::new(clock.monotonic())));
        let drawn_key = entropy::bytes().map_err(|error| internal("draw a placement key", error))?;
        let policy = Arc::new(self.settings.policy(self.cluster, drawn_key)?);
        let requests = Arc::new(Handler {
            policy: policy.clone(),
            proposer: proposer.clone(),
            machine: self.machine.clone(),
            secret,
            clock: clock.clone(),
            health: health.clone(),
        });
        let handlers: Vec<(Service, Arc<dyn docent_rpc::Handler>)> =
            vec![(Service::Coordinator, requests), (Service::Catalog, Arc::new(Watching::new(self.catalog())))];
        for (service, handler) in &handlers {
            self.peers.serve_locally(*service, handler.clone());
        }
        let identity = self.peers.identity().clone();
        Server::new(self.supervisor.clone(), identity, handlers, Some(self.host.clone())).serve(listener);

        let (me, beats) = (policy.me, policy.node_timeout / BEATS_PER_TIMEOUT);
        let interval = Duration::from_millis(self.settings.reconcile_interval_ms);
        let machine = self.machine.clone();
        let told = machine.clone();
        let reconcile = Reconcile { policy, proposer: proposer.clone(), machine, health, clock, interval };
        let supervisor = &self.supervisor;
        supervisor.spawn("coordinator plan", OnExit::Fatal, reconcile.run(supervisor.clone()));
        let beat = beat(me, proposer, self.peers.clone(), told, beats, supervisor.clone());
        supervisor.spawn("coordinator heartbeat", OnExit::Fatal, beat);
        Ok(())
    }

    /// The cluster's id.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The catalog as applied here, and its changes.
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.machine.watch()
    }

    /// The coordinators' raft group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Hands leadership over, ends every task of the supervisor, and leaves a data directory that opens without replay. `false` if
    /// some task did not end within `within`; nothing is lost by that.
    pub async fn shutdown(self, within: Duration) -> bool {
        self.hand_over().await;
        // The group first: its last writes need the journal's task, where that is one.
        let closed = tokio::time::timeout(within, self.host.shutdown()).await.is_ok();
        let is_orderly = self.supervisor.shutdown(within).await && closed;
        let (machine, journal, dir) = (self.machine, self.journal, self._dir);
        let closed = self.threads.blocking(move || {
            if let Err(error) = machine.flush() {
                tracing::warn!(%error, "the catalog's file could not be written; the next start replays the journal");
            }
            journal.close();
            drop(dir);
        });
        is_orderly && closed.await.is_ok()
    }

    /// An election less for the others to wait for. Best effort: without it they hold one.
    async fn hand_over(&self) {
        let status = self.group.status();
        if !status.is_leader() {
            return;
        }
        let others = status.matched.iter().filter(|(replica, _)| **replica != self.settings.id);
        if let Some((to, _)) = others.max_by_key(|(_, matched)| **matched)
            && let Err(error) = self.group.transfer_leader(*to, HAND_OVER_WITHIN).await
        {
            tracing::debug!(%error, "leadership was not handed over");
        }
    }
}

/// Everything that blocks on the disk.
fn storage(
    settings: &Settings,
    cluster: ClusterId,
    platform: &Platform,
    supervisor: &Supervisor,
) -> Result<(DataDir, Journal, Arc<CatalogMachine>)> {
    let dir = DataDir::open(platform.disk.as_ref(), &settings.data_dir, cluster, settings.id)?;
    let machine = CatalogMachine::open(platform.disk.clone(), dir.catalog_file())?;
    let options = docent_journal::Options {
        segment_bytes_max: settings.journal.segment_bytes_max,
        cache_bytes_max: settings.journal.cache_bytes_max,
        ..docent_journal::Options::new(dir.journal())
    };
    let journal = Journal::start(options, platform.disk.clone(), platform, supervisor)
        .map_err(|error| internal("open the journal", error))?;
    Ok((dir, journal, Arc::new(machine)))
}

/// The whole chain of causes, because nobody asks this error for its source any more.
fn internal(action: &str, error: impl std::error::Error) -> Error {
    let mut message = format!("cannot {action}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Error::new(Kind::Internal, message)
}
