//! Replicas come, go, and are never mistaken for one another.

use std::collections::BTreeSet;

use bytes::Bytes;
use docent_raft::{Error, MessageKind};

use crate::cluster::{Cluster, GROUP, LONG, leader, member, options, propose};
use crate::machine::recorder;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_learns_then_votes_and_an_old_one_is_forgotten() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let last = propose(&nodes, "before").await;
    let place = leader(&nodes).await;
    let (old, lead) = (nodes[(place + 1) % 3].id, &nodes[place]);
    let new = cluster.start(4, recorder()).await;
    lead.group.add_learner(member(4), LONG).await.unwrap();
    new.wait_applied(last.index).await;
    assert!(lead.group.status().members.iter().any(|status| status.member == member(4) && !status.is_voter));
    let voters: BTreeSet<u64> = (1..=4).filter(|id| *id != old).collect();
    lead.group.change_replicas(voters.clone(), LONG).await.unwrap();
    let is_new = |status: &docent_raft::Status| {
        status.members.iter().all(|member| member.is_voter)
            && status.members.iter().map(|member| member.member.replica).collect::<BTreeSet<_>>() == voters
    };
    let status = lead.wait("the new voters", is_new).await;
    assert!(!status.is_joint);
    new.wait("the new voters", is_new).await;
    // Asking again is harmless.
    lead.group.change_replicas(voters, LONG).await.unwrap();
    lead.propose("after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initialising_again_changes_nothing() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    propose(&nodes, "x").await;
    for node in &nodes {
        node.group.initialize((1..=3).map(member).collect()).await.unwrap();
    }
    let lone = cluster.start(9, recorder()).await;
    let error = lone.group.initialize((1..=3).map(member).collect()).await.unwrap_err();
    assert!(matches!(error, Error::Membership { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_and_openings_as_another_replica_are_refused() {
    let cluster = Cluster::new(options());
    let mut nodes = cluster.start_all(1).await;
    propose(&nodes, "x").await;
    let host = &nodes[0].host;
    let answer = host.handle(GROUP, 2, MessageKind::Append, Bytes::new()).await;
    assert!(matches!(answer, Err(Error::WrongReplica { ours: 1, theirs: 2, .. })), "{answer:?}");
    let answer = host.handle(GROUP + 1, 1, MessageKind::Append, Bytes::new()).await;
    assert!(matches!(answer, Err(Error::NoGroup { .. })), "{answer:?}");
    let answer = host.open(GROUP, 1, recorder()).await;
    assert!(matches!(answer, Err(Error::Open { .. })), "{answer:?}");

    let machine = nodes.remove(0).stop(&cluster.net).await;
    let (host, journal, supervisor) = cluster.host(1);
    let answer = host.open(GROUP, 2, machine.clone()).await;
    assert!(matches!(answer, Err(Error::WrongReplica { ours: 1, theirs: 2, .. })), "{answer:?}");
    // The place was given back, and the right one opens.
    let group = host.open(GROUP, 1, machine).await.unwrap();
    assert_eq!(group.replica(), 1);
    host.shutdown().await;
    assert!(supervisor.shutdown(LONG).await);
    journal.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_replica_leaves_nothing_and_makes_room_for_a_new_one() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(1).await;
    propose(&nodes, "x").await;
    nodes[0].group.snapshot_now().await.unwrap();
    let host = nodes[0].host.clone();
    host.destroy(GROUP, 1).await.unwrap();
    assert!(host.get(GROUP).is_none());
    let group = host.open(GROUP, 2, recorder()).await.unwrap();
    let status = group.status();
    assert_eq!((status.last_log, status.applied, status.snapshot), (None, None, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_of_a_lost_majority_goes_on_alone_and_grows_again() {
    let cluster = Cluster::new(options());
    let mut nodes = cluster.start_all(3).await;
    let last = propose(&nodes, "before").await;
    let survivor = nodes.remove(0);
    survivor.wait_applied(last.index).await;
    for lost in nodes {
        lost.stop(&cluster.net).await;
    }
    let end = survivor.group.status().last_log.unwrap();
    let refused = survivor.host.force_sole_voter(GROUP, &member(1), end + 1).await.unwrap_err();
    assert!(refused.to_string().contains("look again"), "{refused}");
    let index = survivor.host.force_sole_voter(GROUP, &member(1), end).await.unwrap();
    assert_eq!(index, end + 1);
    let machine = survivor.stop(&cluster.net).await;
    let alone = cluster.start(1, machine).await;
    alone.wait("to lead alone", |status| status.is_leader() && status.members.len() == 1).await;
    alone.propose("after").await.unwrap();
    assert!(alone.machine.payloads().iter().any(|payload| payload == "before"));
    let new = cluster.start(4, recorder()).await;
    alone.group.add_learner(member(4), LONG).await.unwrap();
    alone.group.change_replicas(BTreeSet::from([1, 4]), LONG).await.unwrap();
    let both = alone.propose("both").await.unwrap();
    new.wait_applied(both.index).await;
}
