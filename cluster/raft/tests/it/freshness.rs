//! A replica that hears of its leader but not from it is not fresh.

use std::time::Duration;

use docent_raft::MessageKind;
use tokio::time::Instant;

use crate::cluster::{Cluster, Node, leader, options, propose};

/// Waits for that many more heartbeats of a leader with two followers.
async fn heartbeats(cluster: &Cluster, leader: &Node, rounds: u64) {
    let sent = cluster.net.count(leader.id, MessageKind::Heartbeat);
    cluster.net.wait_sent(leader.id, MessageKind::Heartbeat, sent + 2 * rounds).await;
}

fn age(node: &Node) -> Option<Duration> {
    node.group.millis_since_leader_contact().map(Duration::from_millis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_gets_heartbeats_but_no_entries_grows_stale() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    let last = propose(&nodes, "before").await;
    let place = leader(&nodes).await;
    let (lead, starved) = (&nodes[place], &nodes[(place + 1) % 3]);
    starved.wait_applied(last.index).await;
    cluster.net.starve(starved.id);
    let missed = lead.propose("missed").await.unwrap();
    // Heartbeats that were on their way before the commit.
    heartbeats(&cluster, lead, 2).await;
    let since = Instant::now();
    heartbeats(&cluster, lead, 5).await;
    let floor = since.elapsed() - Duration::from_millis(1);
    assert!(age(starved).unwrap() >= floor, "heard for {floor:?}, but caught up {:?} ago", age(starved));
    cluster.net.heal();
    starved.wait_applied(missed.index).await;
    let healed = Instant::now();
    while age(starved).unwrap() > healed.elapsed() {
        heartbeats(&cluster, lead, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_comes_back_far_behind_is_not_fresh_before_it_has_caught_up() {
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
    cluster.net.starve(id);
    let back = cluster.start(id, machine).await;
    let place = leader(&nodes).await;
    heartbeats(&cluster, &nodes[place], 5).await;
    assert_eq!(age(&back), None, "it hears of a commit that it has not got");
    cluster.net.heal();
    while age(&back).is_none() {
        heartbeats(&cluster, &nodes[place], 1).await;
    }
    assert!(back.group.status().applied >= Some(last) || back.machine.payloads().len() == 51);
}
