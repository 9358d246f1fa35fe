//! Snapshots and purging.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use docent_raft::{Error, MessageKind, Options};
use futures::StreamExt;

use crate::cluster::{Cluster, GROUP, leader, options, propose};
use crate::machine::recorder;
use crate::network::Damage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lags_behind_the_purge_catches_up_by_the_snapshot_kept_over_a_restart() {
    let cluster = Cluster::new(options());
    let mut nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    propose(&nodes, "before").await;
    let away = nodes.remove((place + 1) % 3);
    let id = away.id;
    let machine = away.stop(&cluster.net).await;
    for n in 0..100 {
        propose(&nodes, &format!("payload number {n}")).await;
    }
    // Both others purge everything that the missing one would need ...
    for node in &nodes {
        let index = node.group.snapshot_now().await.unwrap().unwrap();
        node.wait("the purge", |status| status.purged == Some(index)).await;
    }
    let last = propose(&nodes, "after the snapshot").await;
    for node in &nodes {
        node.wait_applied(last.index).await;
    }
    // ... and restart, so that only the file on disk can help.
    let mut restarted = Vec::new();
    for node in nodes {
        let id = node.id;
        let machine = node.stop(&cluster.net).await;
        restarted.push(cluster.start(id, machine).await);
    }
    let back = cluster.start(id, machine).await;
    leader(&restarted).await;
    back.wait_applied(last.index).await;
    assert_eq!(back.machine.installs.load(Ordering::SeqCst), 1);
    assert_eq!(back.machine.payloads(), restarted[0].machine.payloads());
    assert_eq!(back.machine.payloads().len(), 102);
    let last = propose(&restarted, "and on").await;
    back.wait_applied(last.index).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_purged_that_the_machine_has_not_made_durable() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(1).await;
    let node = &nodes[0];
    for n in 0..20 {
        propose(&nodes, &format!("p{n}")).await;
    }
    node.machine.never_flush.store(true, Ordering::SeqCst);
    let index = node.group.snapshot_now().await.unwrap().unwrap();
    assert_eq!(node.group.status().purged, None);
    node.machine.never_flush.store(false, Ordering::SeqCst);
    assert_eq!(node.group.snapshot_now().await.unwrap(), Some(index));
    node.wait("the purge", |status| status.purged == Some(index)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_makes_snapshots_and_purges_by_itself_with_the_margin_kept() {
    let own = Options { snapshot_entries: 50, purge_margin_entries: 10, compaction_interval_ms: 20, ..options() };
    let cluster = Cluster::new(own);
    let nodes = cluster.start_all(1).await;
    for n in 0..60 {
        propose(&nodes, &format!("p{n}")).await;
    }
    let status = nodes[0].wait("a purge", |status| status.purged.is_some()).await;
    assert!(status.purged.unwrap() + 10 <= status.snapshot.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_lost_everything_is_rebuilt_from_snapshot_and_journal() {
    let cluster = Cluster::new(options());
    let mut nodes = cluster.start_all(1).await;
    for n in 0..30 {
        propose(&nodes, &format!("p{n}")).await;
    }
    nodes[0].group.snapshot_now().await.unwrap();
    let last = propose(&nodes, "tail").await;
    let before = nodes[0].machine.payloads();
    nodes.remove(0).stop(&cluster.net).await;
    let node = cluster.start(1, recorder()).await;
    node.wait_applied(last.index).await;
    assert_eq!(node.machine.payloads(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_from_the_wire_is_refused_and_leaves_nothing_behind() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(1).await;
    let committed = propose(&nodes, "kept").await;
    let host = &nodes[0].host;
    let chunks = |bytes: &'static [u8]| futures::stream::iter([Ok(Bytes::from_static(bytes))]).boxed();
    for header in [&b""[..], b"\x01", b"\x09abc", b"\x01\xff\xff\xff\xff"] {
        let answer = host.handle_snapshot(GROUP, 1, Bytes::from_static(header), chunks(b"junk")).await;
        assert!(matches!(answer, Err(Error::Malformed { .. })), "{answer:?}");
    }
    for kind in [MessageKind::Append, MessageKind::Vote, MessageKind::PreVote, MessageKind::TransferLeader] {
        let answer = host.handle(GROUP, 1, kind, Bytes::from_static(b"\x01junk")).await;
        assert!(matches!(answer, Err(Error::Malformed { .. })), "{answer:?}");
    }
    nodes[0].wait_applied(committed.index).await;
    let names = std::fs::read_dir(cluster.dir(1).join("snapshots")).unwrap().count();
    assert_eq!(names, 0, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_and_a_cut_snapshot_are_refused_and_the_next_whole_one_is_installed() {
    let cluster = Cluster::new(options());
    let mut nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    let away = nodes.remove((place + 1) % 3);
    let id = away.id;
    let machine = away.stop(&cluster.net).await;
    for n in 0..100 {
        propose(&nodes, &format!("payload number {n}")).await;
    }
    for node in &nodes {
        let index = node.group.snapshot_now().await.unwrap().unwrap();
        node.wait("the purge", |status| status.purged == Some(index)).await;
    }
    *cluster.net.damage.lock().unwrap() = vec![Damage::Cut, Damage::Flip];
    let back = cluster.start(id, machine).await;
    let last = propose(&nodes, "after").await;
    back.wait_applied(last.index).await;
    assert!(cluster.net.damage.lock().unwrap().is_empty(), "both damaged streams were tried");
    assert_eq!(back.machine.installs.load(Ordering::SeqCst), 1);
    assert_eq!(back.machine.payloads().len(), 101);
    let names = std::fs::read_dir(cluster.dir(id).join("snapshots")).unwrap().count();
    assert_eq!(names, 1, "only the snapshot itself is left");
}
