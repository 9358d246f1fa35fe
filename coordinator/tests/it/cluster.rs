//! Coordinators on real sockets and real disks, each on a runtime of its own so that one can be killed.

use bytes::Bytes;
use docent_coordinator::{Coordinator, Secret, Settings};
use docent_proto::internal::Service;
use docent_proto::internal::coordinator::{Heartbeat, Join, Request, Response, Watch};
use docent_rpc::caller::Chunks;
use docent_rpc::{Identity, Peers};
use docent_runtime::net::{Listen, Net, Socket, Tcp};
use docent_runtime::{Deadline, Platform, Supervisor};
use docent_types::catalog::Catalog;
use docent_types::{ClusterId, Error, Kind, NodeId, codec};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Nothing here takes this long; a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Process {
    runtime: Runtime,
    pub(crate) coordinator: Coordinator,
}

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) secret: Secret,
    pub(crate) settings: Vec<Settings>,
    pub(crate) processes: Vec<Option<Process>>,
    runtime: Runtime,
    pub(crate) client: Peers,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Timers that hold on two busy cores.
fn raft() -> docent_raft::Options {
    docent_raft::Options {
        heartbeat_interval_ms: 100,
        election_timeout_min_ms: 400,
        election_timeout_max_ms: 700,
        ..docent_raft::Options::fast()
    }
}

impl Cluster {
    /// `coordinators` running coordinators of a new cluster.
    pub(crate) fn start(coordinators: usize, change: impl Fn(&mut Settings)) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let secret_file = dir.path().join("secret");
        let secret = Secret::create(&secret_file).unwrap();
        let listeners: Vec<TcpListener> =
            (0..coordinators).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs: Vec<String> = listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        let settings = (1u64..).zip(&addrs).map(|(id, addr)| {
            let mut settings = Settings {
                data_dir: dir.path().join(format!("c{id}")),
                listen: addr.clone(),
                id,
                coordinators: addrs.clone(),
                secret_file: secret_file.clone(),
                reconcile_interval_ms: 100,
                node_timeout_ms: 120_000,
                raft: raft(),
                ..Settings::default()
            };
            change(&mut settings);
            settings
        });
        let settings: Vec<Settings> = settings.collect();
        let identity = Identity::default();
        identity.set_cluster(secret.cluster()).unwrap();
        let client = Peers::new(Arc::new(identity), Arc::new(Tcp));
        let processes = listeners.into_iter().zip(&settings).map(|(l, s)| Some(process(Some(l), s).unwrap())).collect();
        Cluster { dir, secret, settings, processes, runtime: runtime(), client }
    }

    /// Starts coordinator `at` again (from 0) on what it has on disk.
    pub(crate) fn restart(&mut self, at: usize) {
        self.processes[at] = Some(process(None, &self.settings[at]).unwrap());
    }

    /// Ends a coordinator without a word: nothing is flushed, nothing handed over.
    pub(crate) fn kill(&mut self, at: usize) {
        let Process { runtime, coordinator } = self.processes[at].take().unwrap();
        runtime.shutdown_timeout(PATIENCE);
        drop(coordinator);
    }

    /// Ends a coordinator in order. Not asserted: that every task ended in time, because an incoming raft stream of `docent-rpc` ends
    /// only when the other side closes it; assert it here once those end with their supervisor.
    pub(crate) fn stop(&mut self, at: usize) {
        let Process { runtime, coordinator } = self.processes[at].take().unwrap();
        let _is_orderly = runtime.block_on(coordinator.shutdown(Duration::from_secs(2)));
        runtime.shutdown_timeout(PATIENCE);
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Coordinator)> {
        let running = self.processes.iter().enumerate();
        running.filter_map(|(at, process)| process.as_ref().map(|process| (at, &process.coordinator)))
    }

    /// Waits until some running coordinator leads.
    pub(crate) fn leader(&self) -> usize {
        self.poll("a leader", || self.running().find(|(_, c)| c.group().status().is_leader()).map(|(at, _)| at))
    }

    /// Waits until every running coordinator's catalog is as wished, and gives one of them.
    pub(crate) fn wait(&self, what: &str, is_there: impl Fn(&Catalog) -> bool) -> Arc<Catalog> {
        self.poll(what, || {
            let catalogs: Vec<_> = self.running().map(|(_, c)| c.catalog().borrow().clone()).collect();
            catalogs.iter().all(|catalog| is_there(catalog)).then(|| catalogs[0].clone())
        })
    }

    fn poll<T>(&self, what: &str, ready: impl Fn() -> Option<T>) -> T {
        let deadline = Deadline::after(PATIENCE);
        loop {
            if let Some(value) = ready() {
                return value;
            }
            assert!(!deadline.is_over(), "{what} did not come");
            // Several processes and no common event to wait for.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks one coordinator.
    pub(crate) fn ask(&self, at: usize, request: &Request) -> Result<Response, Error> {
        let addr = &self.settings[at].coordinators[at];
        let (body, deadline) = (codec::encode(request), Deadline::after(Duration::from_secs(5)));
        let answer = self.runtime.block_on(self.client.call_address(addr, Service::Coordinator, body, deadline))?;
        codec::decode("a response", &answer)
    }

    /// Asks whoever leads, as a member does: from one to the other until one takes it.
    pub(crate) fn request(&self, request: &Request) -> Result<Response, Error> {
        let deadline = Deadline::after(PATIENCE);
        let mut at = 0;
        loop {
            match self.ask(at, request) {
                Err(error)
                    if error.kind.is_retryable()
                        || error.kind == Kind::Unknown
                        || error.kind == Kind::DeadlineExceeded =>
                {
                    assert!(!deadline.is_over(), "nobody takes {request:?}: {error}");
                    let hint = error.hint.map(|node| node.0 as usize - 1);
                    at = hint.filter(|&hint| hint != at).unwrap_or((at + 1) % self.settings.len());
                    std::thread::sleep(Duration::from_millis(20));
                }
                answer => return answer,
            }
        }
    }

    pub(crate) fn joining(&self, nonce: u128) -> Join {
        Join {
            token: self.secret.token().unwrap().to_string(),
            nonce,
            previous: None,
            internal_addr: format!("127.0.0.1:{}", 10_000 + nonce),
            query_addr: format!("127.0.0.1:{}", 20_000 + nonce),
            zone: String::new(),
            format: u32::from(codec::VERSION),
        }
    }

    pub(crate) fn join(&self, nonce: u128) -> NodeId {
        match self.request(&Request::Join(self.joining(nonce))).unwrap() {
            Response::Joined { node, cluster } if cluster == self.cluster() => node,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn beat(&self, node: NodeId) {
        let beat = Heartbeat { node, ..Heartbeat::default() };
        assert!(matches!(self.request(&Request::Heartbeat(beat)).unwrap(), Response::Index(_)));
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.secret.cluster()
    }

    /// Opens a catalog watch at one coordinator.
    pub(crate) fn watch(&self, at: usize, after: u64) -> Result<Chunks, Error> {
        let (body, deadline) = (codec::encode(&Watch { after }), Deadline::after(Duration::from_secs(5)));
        let addr = &self.settings[at].coordinators[at];
        self.runtime.block_on(self.client.fetch_address(addr, Service::Catalog, body, deadline))
    }

    /// The next catalog of a watch; `None` when it broke or ended.
    pub(crate) fn next(&self, chunks: &mut Chunks) -> Option<Catalog> {
        let next = async { tokio::time::timeout(PATIENCE, chunks.next()).await };
        let chunk: Option<Result<Bytes, Error>> =
            self.runtime.block_on(next).expect("a watch says something or breaks");
        chunk?.ok().map(|bytes| codec::decode("a catalog", &bytes).unwrap())
    }
}

/// TCP with a port that was bound before: nobody else can take it in between.
struct Bound(Mutex<Option<TcpListener>>);

impl Net for Bound {
    fn listen(&self, addr: &str) -> BoxFuture<'static, std::io::Result<Box<dyn Listen>>> {
        let Some(bound) = self.0.lock().unwrap().take() else { return Tcp.listen(addr) };
        bound.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(bound);
        async { Ok(Box::new(listener?) as Box<dyn Listen>) }.boxed()
    }

    fn connect(&self, addr: &str) -> BoxFuture<'static, std::io::Result<Box<dyn Socket>>> {
        Tcp.connect(addr)
    }
}

/// A coordinator on a runtime of its own.
pub(crate) fn process(listener: Option<TcpListener>, settings: &Settings) -> Result<Process, Error> {
    let runtime = runtime();
    let settings = settings.clone();
    let started = runtime.block_on(async {
        let platform = Platform { net: Arc::new(Bound(Mutex::new(listener))), ..Platform::real() };
        Coordinator::start(settings, platform, Supervisor::new()).await
    });
    started.map(|coordinator| Process { runtime, coordinator })
}
