//! HTTP/JSON through the port's router: what bad input gets, and the shape of good answers.

use crate::world::*;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use docent_gateway::{Gateway, GatewaySettings};
use docent_types::*;
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt;

async fn send(gateway: &Gateway, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let router = docent_gateway::service(gateway.clone(), Arc::new(|| "docent_up 1\n".to_owned()));
    let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), 16 << 20).await.unwrap();
    let value =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (status, value)
}

/// Method, path, body, status, kind, field ("" for none).
type Case = (&'static str, &'static str, &'static str, u16, &'static str, &'static str);

const CASES: &[Case] = &[
    ("POST", "/v1/events", "{", 400, "invalid", "body"),
    ("POST", "/v1/events", "{}", 400, "invalid", "events"),
    ("POST", "/v1/events", r#"{"events":[],"x":1}"#, 400, "invalid", "x"),
    ("POST", "/v1/events", r#"{"events":[{"user_id":1,"item_id":"i"}]}"#, 400, "invalid", "events[0].user_id"),
    (
        "POST",
        "/v1/events",
        r#"{"events":[{"user_id":"u","item_id":"i","value":1e999}]}"#,
        400,
        "invalid",
        "events[0].value",
    ),
    ("POST", "/v1/recommend", r#"{"user_id":"ann","n":0}"#, 400, "invalid", "n"),
    ("POST", "/v1/recommend", r#"{"user_id":"ann","n":1001}"#, 400, "invalid", "n"),
    ("POST", "/v1/recommend", r#"{"user_id":"ann","n":-1}"#, 400, "invalid", "n"),
    ("POST", "/v1/recommend", r#"{"user_id":""}"#, 400, "invalid", "user_id"),
    ("POST", "/v1/recommend", r#"{"user_id":"ann","exclude_ids":["a",""]}"#, 400, "invalid", "exclude_ids[1]"),
    ("POST", "/v1/recommend", r#"{"user_id":"ann","deadline_ms":60001}"#, 400, "invalid", "deadline_ms"),
    ("POST", "/v1/recommend", r#"{"user_id":"ann","session":"zz"}"#, 400, "invalid", "session"),
    ("POST", "/v1/recommend", r#"{"user_id":"ann","cursor":"c"}"#, 501, "unsupported", "cursor"),
    ("POST", "/v1/recommend", r#"{"user_id":"ann","min_coverage":0.5}"#, 501, "unsupported", "min_coverage"),
    ("GET", "/v1/users/ann/recommendations?n=0", "", 400, "invalid", "n"),
    ("GET", "/v1/users/ann/recommendations?n=ten", "", 400, "invalid", "n"),
    ("GET", "/v1/users/ann/recommendations?n=1&n=2", "", 400, "invalid", "n"),
    ("GET", "/v1/users/ann/recommendations?colour=red", "", 400, "invalid", "colour"),
    ("GET", "/v1/users/ann/recommendations?diversity=1", "", 501, "unsupported", "diversity"),
    ("GET", "/v1/users/ann/recommendations?exclude_ids=%ff", "", 400, "invalid", "exclude_ids"),
    ("GET", "/v1/users/%ff/recommendations", "", 400, "invalid", "path"),
    ("GET", "/v1/popular?explain=true", "", 400, "invalid", "explain"),
    ("GET", "/v1/users/nobody", "", 404, "not_found", "user_id"),
    ("GET", "/v1/users/nobody/consent", "", 404, "not_found", "user_id"),
    ("DELETE", "/v1/users/nobody", "", 404, "not_found", "user_id"),
    ("PUT", "/v1/users/ann/consent", r#"{"collect":true}"#, 400, "invalid", "recommend"),
    ("PUT", "/v1/users/ann/blocks", r#"{"item_ids":[""]}"#, 400, "invalid", "item_ids[0]"),
    ("PUT", "/v1/users", r#"{"users":[{"user_id":"a"},{"user_id":""}]}"#, 400, "invalid", "users[1].user_id"),
    ("PUT", "/v1/items/i1", r#"{"published":"tomorrow"}"#, 400, "invalid", "published"),
    ("PUT", "/v1/items/i1", r#"{"categories":[""]}"#, 400, "invalid", "categories"),
    ("PUT", "/v1/items", r#"{"items":[{"item_id":"a","titel":"x"}]}"#, 400, "invalid", "items[0].titel"),
    ("GET", "/v1/items/nothing", "", 404, "not_found", "item_id"),
    ("GET", "/v1/items/nothing/similar", "", 404, "not_found", "item_id"),
    ("POST", "/v1/items/nothing:take-down", "", 404, "not_found", "item_id"),
    ("POST", "/v1/items/i1:explode", "", 400, "invalid", "path"),
    ("POST", "/v1/models/77:activate", "", 404, "not_found", ""),
    ("POST", "/v1/models/x:activate", "", 400, "invalid", "version"),
    ("POST", "/v1/models/77:activate?force=perhaps", "", 400, "invalid", "query"),
    ("POST", "/v1/models/77:activate?sure=true", "", 400, "invalid", "query"),
    ("POST", "/v1/models/77:activate?force=true", "", 404, "not_found", ""),
    ("POST", "/v1/models:rollback", "", 409, "conflict", ""),
    ("POST", "/v1/jobs", r#"{"dim":0}"#, 400, "invalid", "dim"),
    ("POST", "/v1/jobs", r#"{"depth":3}"#, 400, "invalid", "depth"),
    ("GET", "/v1/nowhere", "", 404, "not_found", ""),
    ("PATCH", "/v1/popular", "", 405, "invalid", "method"),
];

#[tokio::test]
async fn bad_input_gets_its_status_kind_and_field() {
    let gateway = Fake::new().gateway();
    for (method, path, body, status, kind, field) in CASES {
        let (got, answer) = send(&gateway, method, path, *body).await;
        let error = &answer["error"];
        let wanted = (*status, *kind, *field);
        assert_eq!(
            (got.as_u16(), error["kind"].as_str().unwrap_or(""), error["field"].as_str().unwrap_or("")),
            wanted,
            "{method} {path} {body}: {answer}"
        );
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_or_too_large_is_refused() {
    let gateway = Fake::new().gateway();
    let (status, answer) = send(&gateway, "POST", "/v1/events", b"{\"events\":\n[\"\xff\"]}".to_vec()).await;
    assert_eq!(status, 400);
    assert!(answer["error"]["message"].as_str().unwrap().contains("line 2"), "{answer}");
    let large = "x".repeat((8 << 20) + 1);
    assert_eq!(send(&gateway, "POST", "/v1/events", large.clone()).await.0, 413);
    let chunks = futures::stream::iter(
        large.as_bytes().chunks(1 << 20).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>(),
    );
    let (status, answer) = send(&gateway, "POST", "/v1/events", Body::from_stream(chunks)).await;
    assert_eq!((status.as_u16(), answer["error"]["kind"].as_str()), (413, Some("invalid")));
}

#[tokio::test]
async fn events_profiles_and_items_go_in_and_come_back() {
    let fake = Fake::new();
    let gateway = fake.gateway();
    let body = r#"{"events":[
        {"event_id":"e1","user_id":"ann","item_id":"i1","type":"rating","value":4.5,"timestamp":"2020-01-01T00:00:00Z"},
        {"user_id":"ann","item_id":"i1","timestamp":1600000000000,"context":{"device":"phone"}},
        {"user_id":"ann","item_id":"i1","timestamp":-5},
        {"event_id":"","user_id":"ann","item_id":"i1"}]}"#;
    let (status, answer) = send(&gateway, "POST", "/v1/events", body).await;
    assert_eq!(status, 200);
    let outcomes: Vec<&str> =
        answer["results"].as_array().unwrap().iter().map(|r| r["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["accepted", "accepted", "rejected", "rejected"]);
    assert_eq!(answer["results"][2]["error"]["field"], "events[2].timestamp");
    assert!(answer["results"][0]["position"].as_str().unwrap().starts_with("users/"));

    assert_eq!(
        send(&gateway, "PUT", "/v1/users/ann/consent", r#"{"collect":true,"recommend":false,"train":true}"#).await.0,
        200
    );
    assert_eq!(send(&gateway, "GET", "/v1/users/ann/consent", "").await.1["recommend"], false);
    assert_eq!(send(&gateway, "GET", "/v1/users/ann", "").await.1["user_id"], "ann");
    let item = r#"{"title":"Heat","categories":["crime"],"published":"1995-12-15T00:00:00Z"}"#;
    assert_eq!(send(&gateway, "PUT", "/v1/items/a%2Fb:c", item).await.0, 200);
    let (_, item) = send(&gateway, "GET", "/v1/items/a%2Fb:c", "").await;
    assert_eq!((item["item_id"].as_str(), item["published"].as_str()), (Some("a/b:c"), Some("1995-12-15T00:00:00Z")));
    assert_eq!(send(&gateway, "POST", "/v1/items/a%2Fb:c:take-down", "").await.0, 200);
    assert_eq!(send(&gateway, "GET", "/v1/items/a%2Fb:c", "").await.1["is_taken_down"], true);
}

#[tokio::test]
async fn an_answer_tells_model_coverage_and_reasons() {
    let gateway = Fake::new().gateway();
    let (status, answer) =
        send(&gateway, "GET", "/v1/users/ann/recommendations?n=3&explain=true&exclude_ids=i4&exclude_ids=i9", "").await;
    assert_eq!(status, 200);
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    assert!(items.iter().all(|item| item["id"] != "i4" && item["id"] != "i9" && item["source"] == "model"));
    assert_eq!(items[0]["reasons"][0]["title"], "Title 1");
    assert!(items[0]["item"]["title"].as_str().unwrap().starts_with("Title"));
    assert_eq!(
        (&answer["model"]["version"], &answer["coverage"]["answered"]),
        (&Value::from(VERSION), &Value::from(4))
    );
    assert!(answer["recommendation_id"].as_str().unwrap().len() == 32 && answer["took_ms"].is_number());
    assert_eq!(send(&gateway, "GET", "/v1/items/i1/similar?n=2", "").await.1["items"].as_array().unwrap().len(), 2);
    assert_eq!(send(&gateway, "GET", "/v1/popular?n=2", "").await.1["items"][0]["source"], "popular");
}

#[tokio::test]
async fn health_readiness_and_metrics_are_served() {
    let fake = Fake::new();
    let shard = shard_of(Keyspace::Users, "ann");
    let leader = fake.world().leaders.remove(&shard).unwrap();
    let gateway = fake.gateway();
    assert_eq!(send(&gateway, "GET", "/healthz", "").await.0, 200);
    assert_eq!(send(&gateway, "GET", "/readyz", "").await.0, 503, "a shard has no leader");
    fake.world().leaders.insert(shard, leader);
    assert_eq!(send(&gateway, "GET", "/readyz", "").await.0, 200);
    let (_, cluster) = send(&gateway, "GET", "/v1/cluster", "").await;
    assert_eq!((&cluster["is_ready"], cluster["shards"].as_array().unwrap().len()), (&Value::Bool(true), 12));
    let (_, listed) = send(&gateway, "GET", "/v1/models", "").await;
    assert_eq!(listed["models"][0]["settings"]["algorithm"], "ials", "{listed}");
    assert_eq!(send(&gateway, "GET", "/metrics", "").await.1, "docent_up 1\n");
    gateway.drain();
    assert_eq!(send(&gateway, "GET", "/readyz", "").await.0, 503);
}

#[tokio::test]
async fn before_the_cluster_is_placed_everything_is_unavailable() {
    let fake = Fake::new();
    fake.world().catalog.shards.clear();
    let gateway = fake.gateway();
    let (status, answer) = send(&gateway, "GET", "/v1/popular", "").await;
    assert_eq!((status.as_u16(), answer["error"]["kind"].as_str()), (503, Some("unavailable")));
    assert_eq!(send(&gateway, "GET", "/readyz", "").await.0, 503);
    assert_eq!(send(&gateway, "GET", "/v1/cluster", "").await.0, 200);
}

#[tokio::test]
async fn load_beyond_the_limit_is_shed_with_a_hint() {
    let fake = Fake::new();
    fake.world().hanging.extend((1..=5).map(NodeId));
    let gateway = fake.gateway_with(GatewaySettings { in_flight_max: 1, ..settings() });
    let slow = send(&gateway, "GET", "/v1/users/ann?", "");
    tokio::pin!(slow);
    let _ = tokio::time::timeout(std::time::Duration::from_millis(20), &mut slow).await;
    let (status, answer) = send(&gateway, "GET", "/v1/users/ann", "").await;
    assert_eq!((status.as_u16(), answer["error"]["retry_after_ms"].as_u64()), (429, Some(100)));
}
