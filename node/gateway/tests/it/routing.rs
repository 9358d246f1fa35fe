//! Finding leaders and replicas.

use crate::world::*;
use docent_gateway::recommend::Similar;
use docent_proto::internal::shard::Request;
use docent_types::query::Degraded;
use docent_types::user::Consent;
use docent_types::*;

fn home() -> ShardId {
    shard_of(Keyspace::Users, "ann")
}

fn replicas(fake: &Fake, shard: ShardId) -> Vec<NodeId> {
    fake.world().catalog.shards[&shard].replicas.iter().map(|replica| replica.node).collect()
}

fn user_reads(fake: &Fake) -> Vec<NodeId> {
    fake.requests(|request| matches!(request, Request::GetUser { .. }).then_some(()))
        .into_iter()
        .map(|(node, ())| node)
        .collect()
}

#[tokio::test]
async fn a_new_leader_is_found_by_the_old_ones_hint_and_remembered() {
    let fake = Fake::new();
    let gateway = fake.gateway();
    gateway.get_user(user_id("ann")).await.unwrap();
    let replicas = replicas(&fake, home());
    fake.world().leaders.insert(home(), replicas[2]);
    gateway.get_user(user_id("ann")).await.unwrap();
    gateway.get_user(user_id("ann")).await.unwrap();
    assert_eq!(user_reads(&fake), [replicas[0], replicas[0], replicas[2], replicas[2]]);
}

#[tokio::test]
async fn a_dead_leader_does_not_stop_reads_once_another_leads() {
    let fake = Fake::new();
    let gateway = fake.gateway();
    gateway.get_user(user_id("ann")).await.unwrap();
    let replicas = replicas(&fake, home());
    fake.world().down.insert(replicas[0]);
    fake.world().leaders.insert(home(), replicas[1]);
    // The third still believes in the dead one.
    fake.world().false_hints.insert((home(), replicas[2]), replicas[0]);
    gateway.get_user(user_id("ann")).await.unwrap();
}

#[tokio::test]
async fn replicas_that_point_at_each_other_end_in_unavailable_within_the_deadline() {
    let fake = Fake::new();
    let replicas = replicas(&fake, home());
    fake.world().leaders.remove(&home());
    fake.world().false_hints.insert((home(), replicas[0]), replicas[1]);
    fake.world().false_hints.insert((home(), replicas[1]), replicas[0]);
    let gateway = fake.gateway();
    let error = gateway.set_consent(user_id("ann"), Consent::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "nothing was done: {error}");
    let writes = fake.requests(|request| matches!(request, Request::WriteUsers { .. }).then_some(()));
    assert!(writes.len() < 40, "{} tries: the search backs off", writes.len());
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_unknown_and_not_repeated() {
    let fake = Fake::new();
    fake.world().lose_answer.insert(home());
    let error = fake.gateway().set_consent(user_id("ann"), Consent::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unknown);
    assert_eq!(fake.requests(|request| matches!(request, Request::WriteUsers { .. }).then_some(())).len(), 1);
}

#[tokio::test]
async fn a_write_to_a_hanging_leader_is_unknown() {
    let fake = Fake::new();
    let leader = fake.world().leaders[&home()];
    fake.world().hanging.insert(leader);
    let error = fake.gateway().set_consent(user_id("ann"), Consent::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unknown);
}

#[tokio::test]
async fn back_pressure_reaches_the_client_with_a_hint() {
    let fake = Fake::new();
    fake.world().refuse_writes.insert(home(), Error::overloaded("the queue is full", 150));
    let error = fake.gateway().set_consent(user_id("ann"), Consent::default()).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after_ms), (Kind::Overloaded, Some(150)));
}

#[tokio::test]
async fn what_the_leader_says_for_the_whole_shard_ends_the_search() {
    let fake = Fake::new();
    fake.world().refuse_writes.insert(home(), Error::unavailable_for("the shard is being restored", 700));
    let error = fake.gateway().set_consent(user_id("ann"), Consent::default()).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after_ms), (Kind::Unavailable, Some(700)));
    assert_eq!(fake.requests(|request| matches!(request, Request::WriteUsers { .. }).then_some(())).len(), 1);
}

#[tokio::test]
async fn a_shard_that_nobody_answers_for_names_what_each_replica_said() {
    let fake = Fake::new();
    let shard = shard_of(Keyspace::Items, "i1");
    let replicas = replicas(&fake, shard);
    fake.world().down.insert(replicas[0]);
    fake.world().silent_shards.insert(shard);
    let similar = Similar { item_id: item_id("i1"), n: 3, exclude_ids: Vec::new(), deadline_ms: 1_000 };
    let error = fake.gateway().similar(similar).await.unwrap_err();
    for node in replicas {
        assert!(error.message.contains(&format!("node {node}: ")), "{error}");
    }
    assert!(error.message.contains(&shard.to_string()) && error.message.contains("too stale"), "{error}");
}

#[tokio::test]
async fn with_one_node_dead_every_query_is_whole() {
    let fake = Fake::new();
    fake.world().down.insert(NodeId(2));
    let homes: Vec<ShardId> = fake.world().catalog.shards.keys().copied().collect();
    for shard in homes {
        let survivor = replicas(&fake, shard).into_iter().find(|node| *node != NodeId(2)).unwrap();
        fake.world().leaders.insert(shard, survivor);
    }
    let gateway = fake.gateway();
    for _ in 0..20 {
        let answer = gateway.recommend(ask("ann", 10)).await.unwrap();
        assert_eq!((answer.items.len(), answer.coverage.answered), (10, 4));
        assert!(answer.coverage.degraded.is_empty(), "{:?}", answer.coverage);
    }
}

#[tokio::test]
async fn a_hanging_node_is_replaced_within_the_deadline() {
    let fake = Fake::new();
    let leader = fake.world().leaders[&home()];
    let hanging = (1..=5).map(NodeId).find(|node| *node != leader).unwrap();
    fake.world().hanging.insert(hanging);
    let gateway = fake.gateway();
    for _ in 0..10 {
        let answer = gateway.recommend(ask("ann", 10)).await.unwrap();
        assert_eq!(answer.coverage.answered, 4);
        assert!(answer.coverage.degraded.is_empty(), "{:?}", answer.coverage);
    }
}

#[tokio::test]
async fn a_replica_without_the_version_is_not_the_last_word() {
    let fake = Fake::new();
    let shard = shard_of(Keyspace::Items, "i0");
    let replicas = replicas(&fake, shard);
    fake.world().without_version.extend(replicas[..2].iter().map(|node| (shard, *node)));
    let gateway = fake.gateway();
    for _ in 0..5 {
        assert!(gateway.recommend(ask("ann", 5)).await.unwrap().coverage.degraded.is_empty());
    }
    fake.world().without_version.insert((shard, replicas[2]));
    let coverage = gateway.recommend(ask("ann", 5)).await.unwrap().coverage;
    assert_eq!(coverage.degraded, [Degraded::MissingShard { shard }]);
    assert_eq!((coverage.asked, coverage.answered), (4, 3));
}

#[tokio::test]
async fn stuck_writes_shut_out_other_writes_but_no_query() {
    let fake = Fake::new();
    let few = docent_gateway::GatewaySettings { in_flight_max: 1, writes_in_flight_max: 1, ..settings() };
    let gateway = fake.gateway_with(few);
    let leader = fake.world().leaders[&home()];
    fake.world().hanging.insert(leader);
    let stuck = gateway.set_consent(user_id("ann"), Consent::default());
    tokio::pin!(stuck);
    assert!(futures::poll!(&mut stuck).is_pending());
    let error = gateway.set_consent(user_id("ann"), Consent::default()).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after_ms), (Kind::Overloaded, Some(100)));
    let answer = gateway.recommend(ask("ann", 3)).await.unwrap();
    assert_eq!(answer.items.len(), 3);
    assert_eq!(stuck.await.unwrap_err().kind, Kind::Unknown);
}
