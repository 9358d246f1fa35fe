//! A replica that hears of its leader but not from it is not fresh.

use std::sync::atomic::{AtomicBool, Ordering};
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

/// Found by the lab (leader-loss, seed 1): just after an election the new leader had no acknowledgement yet and the deposed one had never
/// followed, so that both refused to show items although neither was behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_leaders_makes_nobody_forget_how_fresh_it_is() {
    let cluster = Cluster::new(options());
    let nodes = cluster.start_all(3).await;
    for round in 0..6 {
        let last = propose(&nodes, &format!("round {round}")).await;
        for node in &nodes {
            node.wait_applied(last.index).await;
        }
        let from = leader(&nodes).await;
        for node in &nodes {
            heartbeats(&cluster, &nodes[from], 2).await;
            assert!(age(node).is_some());
        }
        let to = (from + 1) % 3;
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watching: Vec<_> = [from, to]
                .map(|place| {
                    let (node, is_over) = (&nodes[place], &is_over);
                    scope.spawn(move || {
                        while !is_over.load(Ordering::Relaxed) {
                            assert!(age(node).is_some(), "replica {} forgot how fresh it is in round {round}", node.id);
                        }
                    })
                })
                .into_iter()
                .collect();
            let moved = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    let moved = nodes[from].group.transfer_leader(nodes[to].id, Duration::from_secs(20)).await;
                    propose(&nodes, "after").await;
                    moved
                })
            });
            is_over.store(true, Ordering::Relaxed);
            watching.into_iter().for_each(|thread| thread.join().unwrap());
            moved.unwrap();
        });
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
