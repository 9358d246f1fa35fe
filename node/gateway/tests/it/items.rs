//! Take-downs: acknowledged only when no replica can show the item any more.

use crate::world::*;
use docent_proto::internal::shard::Request;
use docent_types::*;
use std::collections::BTreeSet;

fn asked(fake: &Fake) -> BTreeSet<NodeId> {
    fake.requests(|request| matches!(request, Request::Applied { .. }).then_some(()))
        .into_iter()
        .map(|(node, ())| node)
        .collect()
}

#[tokio::test]
async fn a_take_down_asks_every_replica_whether_it_has_applied_it() {
    let fake = Fake::new();
    let gateway = fake.gateway();
    gateway.take_down(item_id("i1"), true).await.unwrap();
    let shard = shard_of(Keyspace::Items, "i1");
    let replicas = fake.world().catalog.shards[&shard].replicas.iter().map(|replica| replica.node).collect();
    assert_eq!(asked(&fake), replicas);
    assert!(gateway.get_item(item_id("i1")).await.unwrap().is_taken_down);
}

#[tokio::test]
async fn a_take_down_waits_for_a_lagging_replica() {
    let fake = Fake::new();
    let lagging = fake.world().catalog.shards[&shard_of(Keyspace::Items, "i1")].replicas[1].node;
    fake.world().lagging.insert(lagging);
    let gateway = fake.gateway_with(docent_gateway::GatewaySettings { staleness_ms_max: 60_000, ..settings() });
    let take_down = gateway.take_down(item_id("i1"), true);
    tokio::pin!(take_down);
    let polls = || fake.requests(|request| matches!(request, Request::Applied { .. }).then_some(())).len();
    while polls() < 6 {
        let waited = tokio::time::timeout(std::time::Duration::from_millis(5), &mut take_down).await;
        assert!(waited.is_err(), "not acknowledged while a replica lags");
    }
    fake.world().lagging.clear();
    take_down.await.unwrap();
}

#[tokio::test]
async fn a_take_down_does_not_wait_for_ever_for_a_dead_replica() {
    let fake = Fake::new();
    let dead = fake.world().catalog.shards[&shard_of(Keyspace::Items, "i1")].replicas[1].node;
    fake.world().down.insert(dead);
    fake.gateway().take_down(item_id("i1"), true).await.unwrap();
}

#[tokio::test]
async fn taking_down_or_deleting_what_is_not_there_is_not_found() {
    let gateway = Fake::new().gateway();
    assert_eq!(gateway.take_down(item_id("nothing"), true).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(gateway.delete_item(item_id("nothing")).await.unwrap_err().kind, Kind::NotFound);
    gateway.delete_item(item_id("i1")).await.unwrap();
    assert_eq!(gateway.get_item(item_id("i1")).await.unwrap_err().kind, Kind::NotFound);
}
