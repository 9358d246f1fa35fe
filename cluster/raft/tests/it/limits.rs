//! Bounded in flight, refused beyond.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use docent_raft::{Options, ProposeError};
use docent_runtime::disk::MemDisk;

use crate::cluster::{Cluster, LONG, options, propose};
use crate::durability::GatedDisk;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_beyond_the_limits_are_refused_even_when_their_callers_stopped_waiting() {
    let disk = GatedDisk::default();
    let few = Options { proposals_in_flight_max: 4, ..options() };
    let cluster = Cluster::on(few, Arc::new(disk.clone()));
    let nodes = cluster.start_all(1).await;
    propose(&nodes, "open").await;
    disk.hold_syncs(true);
    let short = Duration::from_millis(50);
    let given_up = (0..4).map(|_| nodes[0].group.propose(Bytes::from_static(b"held"), short));
    for result in futures::future::join_all(given_up).await {
        assert!(matches!(result, Err(ProposeError::Unknown { .. })), "{result:?}");
    }
    let refused = nodes[0].group.propose(Bytes::from_static(b"more"), short).await;
    assert!(matches!(refused, Err(ProposeError::Overloaded { retry_after_ms: 1.., .. })), "{refused:?}");
    disk.hold_syncs(false);
    // Room comes back with the entries.
    nodes[0].wait("all five", |_| nodes[0].machine.payloads().len() == 5).await;
    loop {
        match nodes[0].propose("again").await {
            Ok(_) => break,
            Err(ProposeError::Overloaded { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_in_flight_are_bounded_and_a_huge_proposal_is_refused_by_name() {
    let small = Options { payload_bytes_max: 1_000, proposal_bytes_in_flight_max: 1_500, ..options() };
    let disk = GatedDisk::default();
    let cluster = Cluster::on(small, Arc::new(disk.clone()));
    let nodes = cluster.start_all(1).await;
    propose(&nodes, "open").await;
    let huge = nodes[0].propose(vec![0; 1_001]).await;
    assert!(matches!(huge, Err(ProposeError::TooLarge { bytes: 1_001, bytes_max: 1_000, .. })), "{huge:?}");
    disk.hold_syncs(true);
    let short = Duration::from_millis(50);
    let first = nodes[0].group.propose(vec![1; 1_000].into(), short).await;
    assert!(matches!(first, Err(ProposeError::Unknown { .. })), "{first:?}");
    let second = nodes[0].group.propose(vec![2; 600].into(), short).await;
    assert!(matches!(second, Err(ProposeError::Overloaded { .. })), "{second:?}");
    disk.hold_syncs(false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_proposals_before_it_stops_anything_and_room_brings_them_back() {
    let disk = MemDisk::new();
    let cluster = Cluster::on(options(), Arc::new(disk.clone()));
    let nodes = cluster.start_all(1).await;
    propose(&nodes, "open").await;
    disk.set_capacity(Some(disk.used_bytes()));
    let refused = loop {
        if let Err(error) = nodes[0].propose(vec![0; 256 << 10]).await {
            break error;
        }
    };
    assert!(matches!(refused, ProposeError::Overloaded { retry_after_ms: 1_000, .. }), "{refused:?}");
    let again = nodes[0].propose("small").await;
    assert!(matches!(again, Err(ProposeError::Overloaded { .. })), "{again:?}");
    assert!(nodes[0].group.read_barrier(LONG).await.unwrap().recheck(), "reads go on");
    disk.set_capacity(None);
    loop {
        match nodes[0].propose("room again").await {
            Ok(_) => break,
            Err(ProposeError::Overloaded { retry_after_ms, .. }) => {
                tokio::time::sleep(Duration::from_millis(retry_after_ms)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(nodes[0].group.status().fatal.is_none());
}
