//! Acknowledged means kept, and nothing is acknowledged before it is synced.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use docent_raft::{ProposeError, Status};
use docent_runtime::disk::{Disk, DiskFile, DiskLock, RealDisk, Space};

use crate::cluster::{Cluster, leader, options, propose};

/// The real disk with a gate before every sync of a file.
#[derive(Clone, Default)]
pub(crate) struct GatedDisk {
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl GatedDisk {
    pub(crate) fn hold_syncs(&self, hold: bool) {
        *self.gate.0.lock().unwrap() = hold;
        self.gate.1.notify_all();
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(GatedFile { file, gate: self.gate.clone() })
    }
}

struct GatedFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl DiskFile for GatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<Duration> {
        drop(self.gate.1.wait_while(self.gate.0.lock().unwrap(), |held| *held).unwrap());
        self.file.sync()
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

impl Disk for GatedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path).map(|file| self.file(file))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path).map(|file| self.file(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        RealDisk.lock(path)
    }
    fn space(&self, dir: &Path) -> io::Result<Space> {
        RealDisk.space(dir)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_is_not_answered_before_its_sync() {
    let disk = GatedDisk::default();
    let cluster = Cluster::on(options(), Arc::new(disk.clone()));
    let nodes = cluster.start_all(1).await;
    propose(&nodes, "open").await;
    disk.hold_syncs(true);
    let held = nodes[0].group.propose(Bytes::from_static(b"held"), Duration::from_millis(300)).await;
    assert!(matches!(held, Err(ProposeError::Unknown { .. })), "{held:?}");
    assert_eq!(nodes[0].machine.payloads().len(), 1, "nothing is applied before it is durable");
    disk.hold_syncs(false);
    // Unknown was the right word: it is committed after all.
    propose(&nodes, "after").await;
    assert_eq!(nodes[0].machine.payloads(), ["open", "held", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_loss_of_every_state_machine() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    for n in 0..40 {
        propose(&nodes, &format!("p{n}")).await;
    }
    let mut machines = Vec::new();
    for node in nodes {
        let id = node.id;
        let machine = node.stop(&cluster.net).await;
        machine.lose_power();
        assert!(machine.payloads().is_empty());
        machines.push((id, machine));
    }
    let mut nodes = Vec::new();
    for (id, machine) in machines {
        nodes.push(cluster.start(id, machine).await);
    }
    let last = propose(&nodes, "after").await;
    for node in &nodes {
        node.wait_applied(last.index).await;
        let expected: Vec<Bytes> = (0..40).map(|n| format!("p{n}").into()).chain(["after".into()]).collect();
        assert_eq!(node.machine.payloads(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_committed_position_survives_a_restart_without_any_peer() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    let last = nodes[place].propose("x").await.unwrap();
    let mut machines = Vec::new();
    for node in nodes {
        let id = node.id;
        machines.push((id, node.stop(&cluster.net).await));
    }
    let (id, machine) = machines.swap_remove(place);
    machine.lose_power();
    // Alone it can neither lead nor hear of a commit: what it applies comes from its own disk.
    let node = cluster.start(id, machine).await;
    node.wait_applied(last.index).await;
    assert!(!node.group.status().is_leader());
    assert_eq!(node.machine.payloads(), ["x"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_machine_that_fails_stops_the_group_and_tells_the_supervisor() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(1).await;
    propose(&nodes, "fine").await;
    nodes[0].machine.fail.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = nodes[0].propose("fatal").await.unwrap_err();
    assert!(error.outcome_is_unknown(), "{error}");
    nodes[0].wait("the end", |status: &Status| status.fatal.is_some()).await;
    let message = nodes[0].supervisor.wait_fatal().await;
    assert!(message.contains("raft group 7"), "{message}");
    let error = nodes[0].propose("after").await.unwrap_err();
    assert!(matches!(error, ProposeError::Fatal { .. } | ProposeError::Unknown { .. }), "{error}");
}
