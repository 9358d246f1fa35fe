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
async fn a_take_down_waits_for_a_replica_that_answers_that_it_lags_however_long_ago_the_commit_was() {
    let fake = Fake::new();
    let lagging = fake.world().catalog.shards[&shard_of(Keyspace::Items, "i1")].replicas[1].node;
    fake.world().lagging.insert(lagging);
    let slow = docent_gateway::GatewaySettings { staleness_ms_max: 1, write_deadline_ms: 60_000, ..settings() };
    let gateway = fake.gateway_with(slow);
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
async fn a_take_down_is_not_acknowledged_while_a_replica_may_show_the_item() {
    let fake = Fake::new();
    let lagging = fake.world().catalog.shards[&shard_of(Keyspace::Items, "i1")].replicas[1].node;
    fake.world().lagging.insert(lagging);
    let error = fake.gateway().take_down(item_id("i1"), true).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unknown, "committed, but it may be seen: {error}");
}

#[tokio::test]
async fn a_take_down_does_not_wait_for_ever_for_a_dead_or_a_refusing_replica() {
    let fake = Fake::new();
    let replicas = fake.world().catalog.shards[&shard_of(Keyspace::Items, "i1")].replicas.clone();
    fake.world().down.insert(replicas[1].node);
    fake.world().refusing.insert(replicas[2].node);
    fake.gateway().take_down(item_id("i1"), true).await.unwrap();
}

#[tokio::test]
async fn a_batch_too_large_for_one_proposal_goes_in_several() {
    let fake = Fake::new();
    let home = shard_of(Keyspace::Items, "i1");
    let large = |i: u32| {
        let id = item_id(&format!("large{i}"));
        item::Item { description: Some("d".repeat(16_000)), ..item::Item::stub(id) }
    };
    let of_home = |item: &item::Item| shard_of(Keyspace::Items, item.item_id.as_str()) == home;
    let items: Vec<item::Item> = (0..).map(large).filter(of_home).take(200).collect();
    fake.gateway().put_items(items.clone()).await.unwrap();
    let put = |request: &Request| match request {
        Request::WriteItems { command: command::ItemCommand::Put { items, .. }, .. } => {
            assert!(codec::encode(request).len() <= PROPOSAL_BYTES_MAX);
            Some(items.clone())
        }
        _ => None,
    };
    let puts: Vec<_> = fake.requests(put).into_iter().map(|(_, items)| items).collect();
    assert_eq!(puts.len(), 2);
    assert_eq!(puts.concat(), items, "in the client's order");
}

#[tokio::test]
async fn taking_down_or_deleting_what_is_not_there_is_not_found() {
    let gateway = Fake::new().gateway();
    assert_eq!(gateway.take_down(item_id("nothing"), true).await.unwrap_err().kind, Kind::NotFound);
    assert_eq!(gateway.delete_item(item_id("nothing")).await.unwrap_err().kind, Kind::NotFound);
    gateway.delete_item(item_id("i1")).await.unwrap();
    assert_eq!(gateway.get_item(item_id("i1")).await.unwrap_err().kind, Kind::NotFound);
}
