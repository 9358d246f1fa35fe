//! What coordinators promise together, over real sockets, journals and disks.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod cluster;

use cluster::{Cluster, process};
use docent_coordinator::Settings;
use docent_proto::internal::coordinator::{Heartbeat, JobReport, JobUpdate, Join, Request, Response, TrainedModel};
use docent_types::catalog::{JobState, ModelPart, ModelState};
use docent_types::training::TrainSettings;
use docent_types::{ClusterId, Keyspace, Kind, NodeId, ShardId, SlotRange};
use std::collections::BTreeMap;

fn as_given(_: &mut Settings) {}

#[test]
fn three_coordinators_give_birth_to_one_cluster_and_keep_it() {
    let mut cluster = Cluster::start(3, as_given);
    let born = cluster.wait("a birth", |catalog| catalog.cluster.is_some() && catalog.coordinators.len() == 3);
    let identity = born.cluster.clone().unwrap();
    assert_eq!(identity.id, cluster.cluster());
    assert_eq!(born.coordinators.keys().map(|id| id.0).collect::<Vec<_>>(), [1, 2, 3]);
    // Each drew a placement key of its own: another leader must not bring in its own.
    let first = cluster.leader();
    cluster.kill(first);
    cluster.leader();
    cluster.join(1);
    let now = cluster.wait("a node", |catalog| catalog.nodes.len() == 1);
    assert_eq!(now.cluster, Some(identity));
}

#[test]
fn a_join_is_idempotent_and_a_token_admits_one_node() {
    let cluster = Cluster::start(3, as_given);
    let join = cluster.joining(1);
    let joined = cluster.request(&Request::Join(join.clone())).unwrap();
    assert_eq!(joined, Response::Joined { cluster: cluster.cluster(), node: NodeId(101) });
    assert_eq!(cluster.request(&Request::Join(join.clone())).unwrap(), joined);
    let refused = |join: Join| cluster.request(&Request::Join(join)).unwrap_err();
    let error = refused(Join { nonce: 2, ..join.clone() });
    assert_eq!(error.kind, Kind::Conflict);
    assert!(error.message.contains("used by node 101"), "{error}");
    let stranger = ClusterId(5);
    let error = refused(Join { previous: Some((stranger, NodeId(101))), ..join.clone() });
    assert!(error.message.contains(&stranger.to_string()) && error.message.contains(&cluster.cluster().to_string()));
    assert_eq!(refused(Join { token: "0".repeat(97), ..join.clone() }).kind, Kind::Unauthenticated);
    assert_eq!(refused(Join { internal_addr: "nowhere".into(), ..join }).field.as_deref(), Some("internal_addr"));
    assert_eq!(cluster.join(2), NodeId(102));
}

#[test]
fn a_coordinator_that_does_not_lead_names_the_one_that_does() {
    let cluster = Cluster::start(3, as_given);
    cluster.wait("a birth", |catalog| catalog.cluster.is_some());
    let leader = cluster.leader();
    let error = cluster.ask((leader + 1) % 3, &Request::Rollback).unwrap_err();
    assert_eq!((error.kind, error.hint), (Kind::NotLeader, Some(NodeId(leader as u64 + 1))));
    assert_eq!(cluster.ask(leader, &Request::Rollback).unwrap_err().kind, Kind::Conflict);
    assert_eq!(
        cluster
            .ask(leader, &Request::StartTraining(TrainSettings { holdout: 0.9, ..Default::default() }))
            .unwrap_err()
            .kind,
        Kind::Invalid
    );
}

#[test]
fn a_killed_leader_takes_nothing_with_it_and_no_watch_goes_back() {
    let mut cluster = Cluster::start(3, as_given);
    cluster.wait("a birth", |catalog| catalog.cluster.is_some());
    let leader = cluster.leader();
    let mut watch = cluster.watch(leader, 0).unwrap();
    let mut seen = vec![cluster.next(&mut watch).unwrap().index];
    let joined: Vec<NodeId> = (1..=3).map(|nonce| cluster.join(nonce)).collect();
    let acked = cluster.wait("three nodes", |catalog| catalog.nodes.len() == 3).index;
    cluster.kill(leader);
    while let Some(catalog) = cluster.next(&mut watch) {
        seen.push(catalog.index);
    }
    // The watcher goes to another coordinator with what it has.
    let other = (leader + 1) % 3;
    let mut watch = cluster.watch(other, *seen.last().unwrap()).unwrap();
    seen.push(cluster.next(&mut watch).unwrap().index);
    let fourth = cluster.join(4);
    let catalog = loop {
        let catalog = cluster.next(&mut watch).unwrap();
        seen.push(catalog.index);
        if catalog.nodes.contains_key(&fourth) {
            break catalog;
        }
    };
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(catalog.index > acked);
    assert_eq!(catalog.nodes.keys().copied().collect::<Vec<_>>(), [joined, vec![fourth]].concat());
    assert_eq!(fourth, NodeId(104), "no id is given twice");
    cluster.restart(leader);
    cluster.wait("the killed one to catch up", |catalog| catalog.nodes.len() == 4);
}

#[test]
fn everything_is_there_after_all_were_killed_at_once() {
    let mut cluster = Cluster::start(3, as_given);
    for nonce in 1..=3 {
        cluster.join(nonce);
    }
    let before = cluster.wait("the placement", |catalog| catalog.shards.len() == 12);
    (0..3).for_each(|at| cluster.kill(at));
    (0..3).for_each(|at| cluster.restart(at));
    let after = cluster.wait("the catalog", |catalog| catalog.index >= before.index);
    assert_eq!((&after.nodes, &after.shards, &after.cluster), (&before.nodes, &before.shards, &before.cluster));
    assert_eq!(cluster.join(2), NodeId(102));
    assert_eq!(cluster.join(4), NodeId(104));
}

#[test]
fn an_orderly_end_hands_over_and_leaves_a_catalog_file() {
    let mut cluster = Cluster::start(3, as_given);
    cluster.join(1);
    let leader = cluster.leader();
    cluster.stop(leader);
    assert!(cluster.dir.path().join(format!("c{}/catalog.bin", leader + 1)).exists());
    assert_ne!(cluster.leader(), leader);
    cluster.restart(leader);
    cluster.wait("the catalog", |catalog| catalog.nodes.len() == 1);
}

/// Reports and beats as a node does.
struct Node<'a> {
    cluster: &'a Cluster,
    id: NodeId,
}

impl Node<'_> {
    fn report(&self, job: u64, epoch: u64, update: JobUpdate) -> Result<Response, docent_types::Error> {
        self.cluster.request(&Request::ReportJob(JobReport { job, epoch, driver: self.id, update }))
    }

    fn staged(&self, version: u64, shards: Vec<ShardId>) {
        let beat = Heartbeat { node: self.id, staged: vec![(version, shards)], ..Heartbeat::default() };
        self.cluster.request(&Request::Heartbeat(beat)).unwrap();
    }
}

fn trained() -> TrainedModel {
    let slots = SlotRange { first: 0, end: 4096 };
    let part = ModelPart { keyspace: Keyspace::Items, slots, hash: [1; 32], bytes: 1, holders: vec![NodeId(101)] };
    TrainedModel {
        cut: vec![],
        parts: vec![part.clone()],
        global: part,
        metrics: BTreeMap::from([("recall@20".into(), 0.5)]),
    }
}

#[test]
fn one_coordinator_takes_a_job_from_the_queue_to_a_live_version_and_back() {
    let cluster = Cluster::start(1, |settings| {
        settings.expect_nodes = 2;
        settings.job_retry_ms = 0;
    });
    let too_early = cluster.request(&Request::Rollback).unwrap_err();
    assert_eq!(too_early.kind, Kind::Conflict);
    let nodes: Vec<Node<'_>> = (1..=2).map(|nonce| Node { cluster: &cluster, id: cluster.join(nonce) }).collect();
    let placed = cluster.wait("the placement", |catalog| catalog.shards.len() == 12);
    assert!(placed.shards.values().all(|shard| shard.replicas.len() == 2), "as many replicas as there are nodes");
    let shards: Vec<ShardId> = placed.shards.keys().copied().collect();

    for version in 1..=2 {
        let settings = TrainSettings { seed: version, ..Default::default() };
        let Response::Job(job) = cluster.request(&Request::StartTraining(settings)).unwrap() else { panic!("no job") };
        cluster.wait("a driver", |catalog| catalog.jobs[&job.id].state == JobState::Running);
        let failed = JobUpdate::Failed { error: "lost a worker".into(), is_retryable: true };
        nodes[0].report(job.id, 1, failed).unwrap();
        cluster.wait("another attempt", |catalog| catalog.jobs[&job.id].epoch == 2);
        let zombie = nodes[0].report(job.id, 1, JobUpdate::Finished(trained())).unwrap_err();
        assert_eq!(zombie.kind, Kind::Conflict);
        nodes[0].report(job.id, 2, JobUpdate::Finished(trained())).unwrap();
        nodes[0].report(job.id, 2, JobUpdate::Finished(trained())).unwrap();
        nodes[0].staged(version, shards.clone());
        let half = cluster.wait("the version", |catalog| catalog.models.contains_key(&version));
        assert_eq!(half.models[&version].state, ModelState::Validated, "node 102 has not staged it");
        nodes[1].staged(version, shards.clone());
        cluster.wait("the activation", |catalog| catalog.live.is_some_and(|live| live.version == version));
    }
    let Response::Activated(back) = cluster.request(&Request::Rollback).unwrap() else { panic!("no rollback") };
    assert_eq!((back.version, back.epoch, back.previous), (1, 3, Some(2)));
    assert_eq!(cluster.request(&Request::CancelJob(1)).unwrap_err().kind, Kind::Conflict);
}

#[test]
fn a_silent_member_is_told_and_a_word_revives_it() {
    let mut cluster = Cluster::start(3, |settings| {
        settings.node_timeout_ms = 1_500;
        settings.expect_nodes = 1;
    });
    let node = cluster.join(1);
    cluster.wait("silence", |catalog| catalog.nodes.get(&node).is_some_and(|node| !node.is_alive));
    cluster.beat(node);
    cluster.wait("a word", |catalog| catalog.nodes[&node].is_alive);
    assert!(cluster.wait("everybody", |_| true).coordinators.values().all(|member| member.is_alive));
    let follower = (cluster.leader() + 1) % 3;
    cluster.kill(follower);
    let id = NodeId(follower as u64 + 1);
    cluster.wait("a dead coordinator", |catalog| !catalog.coordinators[&id].is_alive);
    let stranger = Request::Heartbeat(Heartbeat { node: NodeId(150), ..Heartbeat::default() });
    assert_eq!(cluster.request(&stranger).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn a_start_that_cannot_work_says_what_to_change() {
    let mut cluster = Cluster::start(1, as_given);
    let settings = cluster.settings[0].clone();
    let refused = |settings: Settings| {
        let error = process(None, &settings).err().unwrap();
        (error.field.unwrap_or_default(), error.message)
    };
    let (field, message) = refused(settings.clone());
    assert_eq!(field, "listen");
    assert!(message.contains("in use"), "{message}");
    cluster.kill(0);
    let other = docent_coordinator::Secret::create(&cluster.dir.path().join("other")).unwrap();
    let (field, message) = refused(Settings { secret_file: cluster.dir.path().join("other"), ..settings.clone() });
    assert_eq!(field, "data_dir");
    assert!(message.contains(&other.cluster().to_string()) && message.contains(&cluster.cluster().to_string()));
    let elsewhere = vec!["127.0.0.1:1".to_owned(), settings.listen.clone()];
    let (_, message) = refused(Settings { id: 2, coordinators: elsewhere, ..settings.clone() });
    assert!(message.contains("belongs to coordinator 1"), "{message}");
    let (field, message) = refused(Settings { secret_file: "/nonexistent/secret".into(), ..settings.clone() });
    assert_eq!(field, "secret_file");
    assert!(message.contains("/nonexistent/secret"), "{message}");
    cluster.restart(0);
    cluster.wait("the cluster", |catalog| catalog.cluster.is_some());
}
