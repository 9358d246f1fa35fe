//! Nodes with real journals in a temporary directory, one raft group over them, on the in-process network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use docent_journal::Journal;
use docent_raft::{Committed, Group, Host, Member, Options, ProposeError, Status};
use docent_runtime::disk::{Disk, RealDisk};
use docent_runtime::{Platform, Supervisor};
use tempfile::TempDir;

use crate::machine::{Recorder, recorder};
use crate::network::{End, Net};

/// The one group of these tests.
pub(crate) const GROUP: u64 = 7;
/// Far longer than anything here takes, even on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) host: Host,
    pub(crate) group: Group,
    pub(crate) machine: Arc<Recorder>,
    pub(crate) supervisor: Supervisor,
    journal: Journal,
}

pub(crate) struct Cluster {
    pub(crate) net: Arc<Net>,
    pub(crate) options: Options,
    pub(crate) disk: Arc<dyn Disk>,
    dir: TempDir,
}

/// Short timers, but not so short that a busy machine elects all the time.
pub(crate) fn options() -> Options {
    Options {
        heartbeat_interval_ms: 60,
        election_timeout_min_ms: 300,
        election_timeout_max_ms: 600,
        purge_margin_entries: 0,
        // Tests ask for compaction themselves.
        compaction_interval_ms: 3_600_000,
        chunk_bytes: 512,
        ..Options::default()
    }
}

pub(crate) fn member(node: u64) -> Member {
    Member { replica: node, node, addr: format!("node-{node}") }
}

impl Cluster {
    pub(crate) fn new(options: Options) -> Cluster {
        Cluster::on(options, Arc::new(RealDisk))
    }

    pub(crate) fn on(options: Options, disk: Arc<dyn Disk>) -> Cluster {
        Cluster { net: Arc::new(Net::default()), options, disk, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn dir(&self, node: u64) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    pub(crate) fn host(&self, node: u64) -> (Host, Journal, Supervisor) {
        let dir = self.dir(node);
        let journal = docent_journal::Options::new(dir.join("journal"));
        let journal = Journal::open(journal, Arc::clone(&self.disk)).unwrap();
        let supervisor = Supervisor::new();
        let end = Arc::new(End { node, net: Arc::clone(&self.net) });
        let platform = Platform { disk: Arc::clone(&self.disk), ..Platform::real() };
        let (snapshots, options) = (dir.join("snapshots"), self.options.clone());
        let host = Host::new(journal.clone(), &platform, snapshots, end, supervisor.clone(), options).unwrap();
        (host, journal, supervisor)
    }

    /// Starts a node (again), with the machine that its last life left.
    pub(crate) async fn start(&self, id: u64, machine: Arc<Recorder>) -> Node {
        let (host, journal, supervisor) = self.host(id);
        let group = host.open(GROUP, id, machine.clone()).await.unwrap();
        self.net.plug(id, host.clone());
        Node { id, host, group, machine, supervisor, journal }
    }

    /// Starts nodes `1..=count`, gives the group its members and waits out the elections that all of them then call.
    pub(crate) async fn start_all(&self, count: u64) -> Vec<Node> {
        let mut nodes = Vec::new();
        for id in 1..=count {
            nodes.push(self.start(id, recorder()).await);
        }
        for node in &nodes {
            node.group.initialize((1..=count).map(member).collect()).await.unwrap();
        }
        agreed(&nodes).await;
        nodes
    }

    /// As [`Cluster::start_all`], but node 1 alone gives the group its members and stands: where timers are so long that a split vote
    /// would never be mended.
    pub(crate) async fn start_led(&self, count: u64) -> Vec<Node> {
        let mut nodes = Vec::new();
        for id in 1..=count {
            nodes.push(self.start(id, recorder()).await);
        }
        nodes[0].group.initialize((1..=count).map(member).collect()).await.unwrap();
        agreed(&nodes).await;
        nodes
    }
}

impl Node {
    /// Stops the node in order and returns its machine for the next life.
    pub(crate) async fn stop(self, net: &Net) -> Arc<Recorder> {
        net.unplug(self.id);
        self.host.shutdown().await;
        assert!(self.supervisor.shutdown(LONG).await);
        self.journal.close();
        self.machine
    }

    pub(crate) async fn propose(&self, payload: impl Into<Bytes>) -> Result<Committed, ProposeError> {
        self.group.propose(payload.into(), LONG).await
    }

    /// Waits until the status is as it should be.
    pub(crate) async fn wait(&self, what: &str, is_there: impl Fn(&Status) -> bool) -> Status {
        let mut watch = self.group.watch();
        let found = tokio::time::timeout(LONG, watch.wait_for(is_there)).await;
        match found {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("node {} never got to {what}: {:?}", self.id, self.group.status()),
        }
    }

    pub(crate) async fn wait_applied(&self, index: u64) {
        self.wait("its index", |status| status.applied >= Some(index)).await;
    }
}

/// Waits until all nodes go by the same leader of the same term; no older election can then still end otherwise.
pub(crate) async fn agreed(nodes: &[Node]) {
    let mut term = 0;
    loop {
        let has_leader = |status: &Status| status.leader.is_some() && status.term >= term;
        let waits = nodes.iter().map(|node| node.wait("a leader", has_leader));
        let seen = futures::future::join_all(waits).await;
        if seen.iter().all(|status| status.term == seen[0].term && status.leader == seen[0].leader) {
            return;
        }
        term = seen.iter().map(|status| status.term).max().unwrap_or(0);
        tokio::task::yield_now().await;
    }
}

/// Waits until some node leads and knows it; returns its place in `nodes`.
pub(crate) async fn leader(nodes: &[Node]) -> usize {
    let waits = nodes.iter().map(|node| Box::pin(node.wait("leadership", Status::is_leader)));
    futures::future::select_all(waits).await.1
}

/// Proposes through whoever leads, following the changes of leader.
pub(crate) async fn propose(nodes: &[Node], payload: &str) -> Committed {
    loop {
        let place = leader(nodes).await;
        match nodes[place].propose(payload.to_owned()).await {
            Ok(committed) => return committed,
            Err(ProposeError::NotLeader { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{payload}: {error}"),
        }
    }
}
