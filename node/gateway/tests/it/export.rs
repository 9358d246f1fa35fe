//! Exports: whole or broken off, never a part that looks whole.

use crate::world::*;
use docent_types::*;
use futures::TryStreamExt;

#[tokio::test]
async fn every_item_and_every_row_comes_out_once() {
    let gateway = Fake::new().gateway();
    let pages: Vec<_> = gateway.export_items().await.unwrap().try_collect().await.unwrap();
    assert_eq!((pages.len(), pages.iter().map(Vec::len).sum::<usize>()), (4, 60));
    let pages: Vec<_> = gateway.export_vectors(Keyspace::Items, 0).await.unwrap().try_collect().await.unwrap();
    assert!(pages.iter().all(|page| page.version == VERSION));
    assert_eq!(pages.iter().map(|page| page.vectors.len()).sum::<usize>(), 60);
}

#[tokio::test]
async fn recommendations_are_those_of_the_query_port() {
    let fake = Fake::new();
    fake.world().users.extend((0..700).map(|i| user(&format!("u{i}"), Some(vec![1.0, i as f32]))));
    fake.world().users.extend([user("blank", None)]);
    let gateway = fake.gateway();
    let pages: Vec<_> = gateway.export_recommendations(5).await.unwrap().try_collect().await.unwrap();
    let users: Vec<_> = pages.into_iter().flat_map(|page| page.users).collect();
    assert_eq!(users.len(), 701, "ann and 700 others; the model does not know the last");
    for (user_id, ids) in users.iter().step_by(97) {
        let answer = gateway.recommend(ask(user_id.as_str(), 5)).await.unwrap();
        assert_eq!(*ids, answer.items.into_iter().map(|item| item.item_id).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_export_of_recommendations_breaks_off_where_a_shard_is_missing() {
    let fake = Fake::new();
    fake.world().silent_shards.insert(shard_of(Keyspace::Items, "i0"));
    let pages = fake.gateway().export_recommendations(5).await.unwrap().try_collect::<Vec<_>>().await;
    assert_eq!(pages.unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test]
async fn without_a_live_model_there_are_no_recommendations_to_export() {
    let fake = Fake::new();
    fake.world().catalog.live = None;
    let error = fake.gateway().export_recommendations(5).await.err().unwrap();
    assert_eq!(error.kind, Kind::NotFound);
}

#[tokio::test]
async fn more_exports_than_allowed_are_refused_until_one_ends() {
    let gateway = Fake::new().gateway_with(docent_gateway::GatewaySettings { exports_max: 1, ..settings() });
    let first = gateway.export_items().await.unwrap();
    assert_eq!(gateway.export_items().await.err().unwrap().kind, Kind::Overloaded);
    drop(first);
    assert!(gateway.export_items().await.is_ok());
}
