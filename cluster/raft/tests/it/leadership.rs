//! Elections: who may disturb whom, and handing over.

use std::time::Duration;

use docent_raft::{Error, MessageKind, Options, Status};

use crate::cluster::{Cluster, LONG, leader, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_follower_that_comes_back_does_not_raise_the_term() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    let term = nodes[place].group.status().term;
    let flapping = &nodes[(place + 1) % 3];
    flapping.wait("the leader", |status| status.leader.is_some()).await;
    let votes = cluster.net.count(flapping.id, MessageKind::Vote);
    for round in 1..=2 {
        let asked = cluster.net.count(flapping.id, MessageKind::PreVote);
        cluster.net.isolate(flapping.id, 1..=3);
        // It stands several times, in vain.
        cluster.net.wait_sent(flapping.id, MessageKind::PreVote, asked + 4).await;
        cluster.net.heal();
        let committed = nodes[place].propose(format!("round {round}")).await.unwrap();
        flapping.wait_applied(committed.index).await;
    }
    assert_eq!(cluster.net.count(flapping.id, MessageKind::Vote), votes, "no pre-vote was granted");
    for node in &nodes {
        assert_eq!(node.group.status().term, term);
    }
    assert!(nodes[place].group.status().is_leader());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfer_leader_moves_the_leader_without_waiting_for_an_election_timer() {
    // Timers so long that only the transfer itself can make a new leader within the test's patience.
    let slow = Options { election_timeout_min_ms: 300_000, election_timeout_max_ms: 600_000, ..options() };
    let cluster = Cluster::new(slow);
    let nodes = cluster.start_led(3).await;
    let place = leader(&nodes).await;
    nodes[place].propose("x").await.unwrap();
    for to in (0..3).filter(|to| *to != place).chain([place]) {
        let from = leader(&nodes).await;
        nodes[from].group.transfer_leader(nodes[to].id, LONG).await.unwrap();
        nodes[to].wait("leadership", Status::is_leader).await;
        nodes[to].propose("y").await.unwrap();
        nodes[from].wait("stepping down", |status| !status.is_leader()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_hands_over_and_only_to_a_voter() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    let follower = &nodes[(place + 1) % 3];
    follower.wait("the leader", |status| status.leader.is_some()).await;
    let error = follower.group.transfer_leader(follower.id, LONG).await.unwrap_err();
    assert!(matches!(error, Error::NotLeader { hint: Some(_), .. }), "{error}");
    let short = std::time::Duration::from_millis(200);
    let error = nodes[place].group.transfer_leader(99, short).await.unwrap_err();
    assert!(matches!(error, Error::Membership { .. } | Error::TimedOut { .. }), "{error}");
    nodes[place].propose("still leading").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_gone_another_takes_over_with_every_acknowledged_write() {
    let cluster = Cluster::new(options());
    let mut nodes = cluster.start_all(3).await;
    let place = leader(&nodes).await;
    for n in 0..30 {
        nodes[place].propose(format!("p{n}")).await.unwrap();
    }
    nodes.remove(place).stop(&cluster.net).await;
    let last = crate::cluster::propose(&nodes, "after").await;
    for node in &nodes {
        node.wait_applied(last.index).await;
        assert_eq!(node.machine.payloads().len(), 31);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_restart_elect_nobody_while_the_old_leader_may_still_count_on_them() {
    let slow = Options { election_timeout_min_ms: 300_000, election_timeout_max_ms: 600_000, ..options() };
    let cluster = Cluster::new(slow);
    let mut nodes = cluster.start_led(3).await;
    let place = leader(&nodes).await;
    let lead = nodes.swap_remove(place);
    let last = lead.propose("x").await.unwrap();
    for node in &nodes {
        node.wait_applied(last.index).await;
    }
    cluster.net.isolate(lead.id, 1..=3);
    let mut back = Vec::new();
    for node in nodes {
        let id = node.id;
        let machine = node.stop(&cluster.net).await;
        back.push(cluster.start(id, machine).await);
    }
    for node in &back {
        node.group.elect().await.unwrap();
    }
    // Nothing tells that an election did not come; one would be over by then.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(back.iter().all(|node| node.group.status().term == last.term && !node.group.status().is_leader()));
    cluster.net.heal();
    let last = lead.propose("y").await.unwrap();
    // Only once the target is reached again: a transfer that meets a broken connection is not repeated.
    back[0].wait_applied(last.index).await;
    // A transfer is the leader's own wish.
    lead.group.transfer_leader(back[0].id, LONG).await.unwrap();
    back[0].wait("leadership", Status::is_leader).await;
}
