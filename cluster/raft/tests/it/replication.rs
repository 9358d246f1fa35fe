//! Proposing, following, reading.

use std::time::Duration;

use bytes::Bytes;
use docent_raft::{ProposeError, ReadError, Status};

use crate::cluster::{Cluster, LONG, leader, options, propose};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_applies_the_same_proposals_in_the_same_order() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    let proposals = (0..200).map(|n| nodes[place].propose(format!("p{n}")));
    let committed = futures::future::try_join_all(proposals).await.unwrap();
    let last = committed.iter().map(|committed| committed.index).max().unwrap();
    for node in &nodes {
        node.wait_applied(last).await;
        assert_eq!(node.machine.payloads(), nodes[0].machine.payloads());
        assert_eq!(node.machine.payloads().len(), 200);
    }
    let payloads = nodes[place].machine.payloads();
    for committed in committed {
        let response = String::from_utf8(committed.response.to_vec()).unwrap();
        let (position, payload) = response.split_once(':').unwrap();
        assert_eq!(payloads[position.parse::<usize>().unwrap()], Bytes::from(payload.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_proposals_and_reads_and_names_the_leader() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    let expected = Some(crate::cluster::member(nodes[place].id));
    for (other, node) in nodes.iter().enumerate().filter(|(other, _)| *other != place) {
        node.wait("a leader", |status| status.leader.is_some()).await;
        let hint = match node.propose("x").await.unwrap_err() {
            ProposeError::NotLeader { hint, .. } => hint,
            error => panic!("{other}: {error}"),
        };
        assert_eq!(hint, expected);
        let error = node.group.read_barrier(LONG).await.unwrap_err();
        assert!(matches!(error, ReadError::NotLeader { hint, .. } if hint == expected));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_at_the_first_moment_of_leadership_is_accepted_without_a_retry_by_the_caller() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    // The lease is not there yet: openraft refuses, we wait it out inside.
    nodes[place].propose("first").await.unwrap();
    for (to, node) in nodes.iter().enumerate().filter(|(to, _)| *to != place) {
        let from = leader(&nodes).await;
        nodes[from].group.transfer_leader(node.id, LONG).await.unwrap();
        node.wait("leadership", Status::is_leader).await;
        nodes[to].propose("again").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_with_its_data_catches_up() {
    let cluster = Cluster::new(options());
    let mut nodes = cluster.start_all(3).await;
    propose(&nodes, "before").await;
    let place = leader(&nodes).await;
    let away = nodes.remove((place + 1) % 3);
    let id = away.id;
    let machine = away.stop(&cluster.net).await;
    let mut last = 0;
    for n in 0..50 {
        last = propose(&nodes, &format!("p{n}")).await.index;
    }
    let back = cluster.start(id, machine).await;
    back.wait_applied(last).await;
    assert_eq!(back.machine.payloads(), nodes[0].machine.payloads());
    assert_eq!(back.machine.installs.load(std::sync::atomic::Ordering::SeqCst), 0, "the log was enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_behind_the_barrier_sees_every_acknowledged_write() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    for n in 0..20 {
        let committed = propose(&nodes, &format!("p{n}")).await;
        let place = leader(&nodes).await;
        let guard = nodes[place].group.read_barrier(LONG).await.unwrap();
        assert!(guard.index() >= committed.index);
        assert!(nodes[place].machine.payloads().len() > n);
        assert!(guard.recheck());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_gives_no_reads_and_takes_back_those_it_began() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    nodes[place].propose("x").await.unwrap();
    let guard = nodes[place].group.read_barrier(LONG).await.unwrap();
    assert!(guard.recheck());
    cluster.net.isolate(nodes[place].id, 1..=3);
    // Its old lease may serve a few more reads; then none.
    loop {
        match nodes[place].group.read_barrier(Duration::from_millis(300)).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(ReadError::TimedOut { .. } | ReadError::NotLeader { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let others: Vec<_> = (0..3).filter(|other| *other != place).map(|other| &nodes[other]).collect();
    let elected = others.iter().map(|node| Box::pin(node.wait("leadership", Status::is_leader)));
    futures::future::select_all(elected).await;
    assert!(!guard.recheck(), "another leader may have written since");
    // A deadline beyond the patience with a lost lease: a shorter one may pass while an answer is on its way, and the
    // outcome is unknown then.
    let error = nodes[place].group.propose(Bytes::from_static(b"lost"), LONG).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotLeader { .. }), "{error}");
}
