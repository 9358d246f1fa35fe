//! gRPC through the port's router.

use crate::world::*;
use docent_proto::convert::error::from_status;
use docent_proto::v1;
use docent_proto::v1::docent_client::DocentClient;
use docent_types::Kind;
use std::sync::Arc;

fn client(fake: &Fake) -> DocentClient<axum::Router> {
    DocentClient::new(docent_gateway::service(fake.gateway(), Arc::new(String::new)))
}

#[tokio::test]
async fn both_protocols_share_the_port() {
    let mut client = client(&Fake::new());
    let event = v1::Event { user_id: "ann".into(), item_id: "i1".into(), ..Default::default() };
    let bad = v1::Event { user_id: "ann".into(), ..Default::default() };
    let results =
        client.ingest_events(v1::IngestEventsRequest { events: vec![event, bad] }).await.unwrap().into_inner().results;
    assert_eq!(results[0].outcome, "accepted");
    assert!(results[0].position.starts_with("users/"));
    assert_eq!(results[1].error.as_ref().unwrap().field, "events[1].item_id");
    let request = v1::RecommendRequest { user_id: "ann".into(), ..Default::default() };
    let answer = client.recommend(request).await.unwrap().into_inner();
    assert_eq!((answer.items.len(), answer.model.unwrap().version), (10, VERSION));
    let cluster = client.get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner();
    assert!(cluster.is_ready && cluster.shards.iter().all(|shard| shard.leader != 0));
    let mut pages = client.export_items(v1::ExportRequest {}).await.unwrap().into_inner();
    let mut items = 0;
    while let Some(page) = pages.message().await.unwrap() {
        items += page.items.len();
    }
    assert_eq!(items, 60);
}

#[tokio::test]
async fn errors_keep_their_kind_and_field() {
    let mut client = client(&Fake::new());
    let request = v1::RecommendRequest { user_id: "ann".into(), n: 1_001, ..Default::default() };
    let error = from_status(&client.recommend(request).await.unwrap_err());
    assert_eq!((error.kind, error.field.as_deref()), (Kind::Invalid, Some("n")));
    let request = v1::RecommendRequest { user_id: "ann".into(), filter: "x".into(), ..Default::default() };
    assert_eq!(from_status(&client.recommend(request).await.unwrap_err()).kind, Kind::Unsupported);
    let request = v1::GetUserRequest { user_id: "nobody".into() };
    assert_eq!(from_status(&client.get_user(request).await.unwrap_err()).kind, Kind::NotFound);
    let request = v1::ActivateModelRequest { version: 77, force: false };
    assert_eq!(from_status(&client.activate_model(request).await.unwrap_err()).kind, Kind::NotFound);
    let request = v1::SetConsentRequest { user_id: "ann".into(), consent: None };
    assert_eq!(from_status(&client.set_consent(request).await.unwrap_err()).field.as_deref(), Some("consent"));
}

#[tokio::test]
async fn a_request_over_8_mib_is_refused() {
    let mut client = client(&Fake::new());
    let items =
        (0..600).map(|i| v1::Item { item_id: format!("x{i}"), description: "d".repeat(16_000), ..Default::default() });
    let status = client.put_items(v1::PutItemsRequest { items: items.collect() }).await.unwrap_err();
    assert_eq!(from_status(&status).kind, Kind::Invalid);
}
