//! The handle: what every request shares, and the one gate that each passes.

use crate::ids::Ids;
use crate::known::KnownItems;
use crate::route::Route;
use crate::route::health::Health;
use crate::route::leaders::Leaders;
use crate::settings::GatewaySettings;
use crate::view::View;
use docent_proto::internal::coordinator;
use docent_rpc::Caller;
use docent_runtime::{Clock, Deadline};
use docent_types::catalog::Catalog;
use docent_types::{Error, Kind, NodeId, Result, ShardId, TenantId};
use futures::future::BoxFuture;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The seam to the coordinator's leader. The implementation finds the leader within the deadline.
pub trait Coordinator: Send + Sync + 'static {
    /// One request, one answer.
    fn call(
        &self,
        request: coordinator::Request,
        deadline: Deadline,
    ) -> BoxFuture<'static, Result<coordinator::Response>>;
}

/// Any node's query port, below its protocols. Clones share everything.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) settings: Arc<GatewaySettings>,
    pub(crate) route: Route,
    pub(crate) coordinators: Arc<dyn Coordinator>,
    pub(crate) ids: Ids,
    pub(crate) known: KnownItems,
    pub(crate) clock: Arc<dyn Clock>,
    queries: Semaphore,
    writes: Semaphore,
    exports: Arc<Semaphore>,
    is_draining: AtomicBool,
    lack: Mutex<Option<String>>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("node", &self.shared.route.me).finish_non_exhaustive()
    }
}

impl Gateway {
    /// The gateway of node `me`.
    pub fn new(
        settings: GatewaySettings,
        me: NodeId,
        caller: Arc<dyn Caller>,
        catalog: watch::Receiver<Arc<Catalog>>,
        coordinators: Arc<dyn Coordinator>,
        clock: Arc<dyn Clock>,
    ) -> Gateway {
        let settings = Arc::new(settings);
        let (leaders, health) = (Leaders::default(), Health::default());
        let shared = Shared {
            route: Route { caller, me, catalog, clock: clock.clone(), settings: settings.clone(), leaders, health },
            coordinators,
            ids: Ids::new(&*clock),
            known: KnownItems::new(settings.known_items_max, Duration::from_millis(settings.known_items_ms)),
            clock,
            queries: permits(settings.in_flight_max),
            writes: permits(settings.writes_in_flight_max),
            exports: Arc::new(permits(settings.exports_max)),
            is_draining: AtomicBool::new(false),
            lack: Mutex::default(),
            settings,
        };
        Gateway { shared: Arc::new(shared) }
    }

    /// Notes the leader of a shard, learnt outside of requests (a hosted replica's raft status).
    pub fn note_leader(&self, shard: ShardId, leader: NodeId) {
        self.shared.route.leaders.confirm(shard, leader, false);
    }

    /// From now on the node says that it is not ready; requests are still answered.
    pub fn drain(&self) {
        self.shared.is_draining.store(true, Ordering::Relaxed);
    }

    /// What the node itself still lacks before it is ready, for a person.
    pub fn note_lack(&self, lack: Option<String>) {
        *self.shared.lack.lock().unwrap_or_else(PoisonError::into_inner) = lack;
    }

    /// See [`Gateway::note_lack`].
    pub fn lack(&self) -> Option<String> {
        self.shared.lack.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether [`Gateway::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining.load(Ordering::Relaxed)
    }

    /// The one tenant until tenants exist.
    pub(crate) fn tenant(&self) -> TenantId {
        TenantId::default()
    }

    pub(crate) fn view(&self) -> Result<View> {
        self.shared.route.view()
    }

    pub(crate) fn settings(&self) -> &GatewaySettings {
        &self.shared.settings
    }

    /// A client's deadline, 0 for the default.
    pub(crate) fn deadline(&self, deadline_ms: u32) -> Deadline {
        let ms = if deadline_ms == 0 { self.settings().deadline_ms_default } else { u64::from(deadline_ms) };
        Deadline::after(Duration::from_millis(ms))
    }

    pub(crate) fn write_deadline(&self) -> Deadline {
        Deadline::after(Duration::from_millis(self.settings().write_deadline_ms))
    }

    /// Every query passes here: refused at once when too many are at work, counted and timed under `method`.
    pub(crate) async fn admit<T>(&self, method: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.admit_by(&self.shared.queries, method, work).await
    }

    /// Like [`Gateway::admit`] for a write. Writes have permits of their own: those that wait for a lost quorum until their deadline
    /// must not shut out the queries, which go on without one.
    pub(crate) async fn admit_write<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.admit_by(&self.shared.writes, method, work).await
    }

    async fn admit_by<T>(
        &self,
        permits: &Semaphore,
        method: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let started = self.shared.clock.monotonic();
        let outcome = match permits.try_acquire() {
            Ok(_permit) => work.await,
            Err(_) => Err(self.overloaded()),
        };
        self.count(method, started, outcome.as_ref().err());
        outcome
    }

    /// Like [`Gateway::admit`] for a stream: the permit is held as long as the stream lives.
    pub(crate) async fn admit_export<T>(
        &self,
        method: &'static str,
        open: impl Future<Output = Result<T>>,
    ) -> Result<(T, OwnedSemaphorePermit)> {
        let started = self.shared.clock.monotonic();
        let outcome = match self.shared.exports.clone().try_acquire_owned() {
            Ok(permit) => open.await.map(|opened| (opened, permit)),
            Err(_) => Err(self.overloaded()),
        };
        self.count(method, started, outcome.as_ref().err());
        outcome
    }

    fn overloaded(&self) -> Error {
        Error::overloaded(
            "this node has as many requests at work as it may; try again or ask another node",
            self.settings().retry_after_ms,
        )
    }

    fn count(&self, method: &'static str, started: Duration, error: Option<&Error>) {
        let code = error.map_or("ok", |error| error.kind.name());
        let seconds = self.shared.clock.monotonic().saturating_sub(started).as_secs_f64();
        metrics::counter!("docent_requests_total", "method" => method, "code" => code).increment(1);
        metrics::histogram!("docent_request_seconds", "method" => method).record(seconds);
        if let Some(error) = error
            && matches!(error.kind, Kind::Internal | Kind::Corrupt)
        {
            // Messages of these kinds are ours and name no user.
            tracing::warn!(method, %error, "a request failed by a defect");
        }
    }
}

fn permits(max: usize) -> Semaphore {
    Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS))
}
