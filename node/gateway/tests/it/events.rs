//! Events in: order, outcomes, stubs, one proposal a shard.

use crate::world::*;
use docent_gateway::events::{Draft, EventResult};
use docent_proto::internal::shard::Request;
use docent_types::command::{ItemCommand, UserCommand};
use docent_types::*;

fn draft(user: &str, item: &str, id: &str) -> Draft {
    Draft { event_id: Some(id.to_owned()), user_id: user.to_owned(), item_id: item.to_owned(), ..Draft::default() }
}

fn names(results: &[EventResult]) -> Vec<&'static str> {
    results.iter().map(|result| result.outcome.name()).collect()
}

fn appends(fake: &Fake) -> Vec<(ShardId, usize)> {
    let append = |request: &Request| match request {
        Request::WriteUsers { shard, command: UserCommand::Append { events, .. } } => Some((*shard, events.len())),
        _ => None,
    };
    fake.requests(append).into_iter().map(|(_, append)| append).collect()
}

fn ensures(fake: &Fake) -> usize {
    let ensure = |request: &Request| match request {
        Request::WriteItems { command: ItemCommand::Ensure { item_ids, .. }, .. } => Some(item_ids.len()),
        _ => None,
    };
    fake.requests(ensure).into_iter().map(|(_, count)| count).sum()
}

#[tokio::test]
async fn a_bad_event_rejects_only_itself_and_results_keep_the_order() {
    let fake = Fake::new();
    let batch = vec![
        draft("ann", "i1", "a"),
        draft("", "i1", "b"),
        draft("ann", "i1", "a"),
        Draft { value: Some(f32::INFINITY), ..draft("bob", "i1", "c") },
        Draft { timestamp_ms: Some(i64::MAX), ..draft("bob", "i1", "d") },
        Draft { event_id: None, ..draft("bob", "new item", "") },
    ];
    let results = fake.gateway().ingest(batch).await.unwrap();
    assert_eq!(names(&results), ["accepted", "rejected", "duplicate", "rejected", "rejected", "accepted"]);
    let field = |i: usize| results[i].outcome.error().and_then(|error| error.field.clone()).unwrap();
    assert_eq!([field(1), field(3), field(4)], ["events[1].user_id", "events[3].value", "events[4].timestamp"]);
    assert_eq!(results[0].position.unwrap().shard, shard_of(Keyspace::Users, "ann"));
    assert!(results[1].position.is_none());
    assert!(fake.world().things.contains_key(&item_id("new item")), "a stub was made");
}

#[tokio::test]
async fn a_full_batch_is_one_proposal_a_shard_and_known_items_need_no_second_stub() {
    let fake = Fake::new();
    let gateway = fake.gateway();
    let batch = || (0..10_000).map(|i| draft(&format!("u{i}"), &format!("i{}", i % 90), "e")).collect::<Vec<_>>();
    assert!(gateway.ingest(batch()).await.unwrap().iter().all(|result| result.outcome.name() == "accepted"));
    let appends = appends(&fake);
    assert_eq!(appends.len(), 8);
    assert_eq!(appends.iter().map(|(_, events)| events).sum::<usize>(), 10_000);
    assert_eq!(ensures(&fake), 90);
    assert!(gateway.ingest(batch()).await.unwrap().iter().all(|result| result.outcome.name() == "duplicate"));
    assert_eq!(ensures(&fake), 90);
}

#[tokio::test]
async fn a_batch_over_the_limit_is_refused_as_a_whole() {
    let fake = Fake::new();
    let error = fake.gateway().ingest(vec![draft("u", "i", "e"); 10_001]).await.unwrap_err();
    assert_eq!((error.kind, error.field.as_deref()), (Kind::Invalid, Some("events")));
    assert!(fake.world().log.is_empty());
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_repeated_because_events_are_recognised() {
    let fake = Fake::new();
    fake.world().lose_answer.insert(shard_of(Keyspace::Users, "ann"));
    let results = fake.gateway().ingest(vec![draft("ann", "i1", "a")]).await.unwrap();
    assert_eq!(names(&results), ["duplicate"], "it is kept, once");
    assert_eq!(fake.world().kept.len(), 1);
}

/// Two users of different shards.
fn two_users() -> (String, String) {
    let of = |i: u32| format!("u{i}");
    let other = (1..).map(of).find(|id| shard_of(Keyspace::Users, id) != shard_of(Keyspace::Users, "u0"));
    (of(0), other.unwrap())
}

#[tokio::test]
async fn one_shards_trouble_leaves_the_others_events_alone() {
    let fake = Fake::new();
    let (a, b) = two_users();
    let shard = shard_of(Keyspace::Users, &a);
    fake.world().leaders.remove(&shard);
    let results = fake.gateway().ingest(vec![draft(&a, "i1", "x"), draft(&b, "i1", "x")]).await.unwrap();
    assert_eq!(names(&results), ["rejected", "accepted"]);
    assert_eq!(results[0].outcome.error().unwrap().kind, Kind::Unavailable);
}

#[tokio::test]
async fn an_append_to_a_hanging_shard_ends_as_unknown() {
    let fake = Fake::new();
    let gateway = fake.gateway();
    gateway.ingest(vec![draft("ann", "i1", "warm")]).await.unwrap();
    fake.world().hanging.extend((1..=5).map(NodeId));
    let results = gateway.ingest(vec![draft("ann", "i1", "a")]).await.unwrap();
    assert_eq!(names(&results), ["unknown"]);
    assert_eq!(results[0].outcome.error().unwrap().kind, Kind::Unknown);
}

#[tokio::test]
async fn when_every_event_meets_back_pressure_the_request_does() {
    let fake = Fake::new();
    let shards: Vec<ShardId> = fake.world().catalog.shards_of(Keyspace::Users).map(|shard| shard.id).collect();
    fake.world().refuse_writes = shards.into_iter().map(|shard| (shard, Error::overloaded("full", 70))).collect();
    let batch = (0..20).map(|i| draft(&format!("u{i}"), "i1", "e")).collect();
    let error = fake.gateway().ingest(batch).await.unwrap_err();
    assert_eq!((error.kind, error.retry_after_ms), (Kind::Overloaded, Some(70)));
}

#[tokio::test]
async fn an_item_whose_stub_cannot_be_made_keeps_its_events_out() {
    let fake = Fake::new();
    let shard = shard_of(Keyspace::Items, "new item");
    fake.world().leaders.remove(&shard);
    let gateway = fake.gateway();
    let other = (0..).map(|i| format!("n{i}")).find(|id| shard_of(Keyspace::Items, id) != shard).unwrap();
    let results = gateway.ingest(vec![draft("ann", "new item", "a"), draft("ann", &other, "b")]).await.unwrap();
    assert_eq!(names(&results), ["rejected", "accepted"]);
    assert_eq!(fake.world().kept.len(), 1);
}

#[tokio::test]
async fn a_share_too_large_for_one_proposal_goes_in_several_and_results_keep_the_order() {
    let fake = Fake::new();
    let context = || (0..5).map(|i| (format!("k{i}"), "v".repeat(2_000))).collect();
    let large = |i: u32| Draft { context: context(), ..draft("ann", "i1", &format!("e{}", i % 599)) };
    // The last has the id of the first, and is in another proposal.
    let results = fake.gateway().ingest((0..600).map(large).collect()).await.unwrap();
    assert!(results[..599].iter().all(|result| result.outcome.name() == "accepted"));
    assert_eq!(results[599].outcome.name(), "duplicate");
    assert!(results.is_sorted_by_key(|result| result.position.unwrap().index));
    let bytes = |request: &Request| match request {
        Request::WriteUsers { .. } => Some(codec::encode(request).len()),
        _ => None,
    };
    let proposals: Vec<usize> = fake.requests(bytes).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(proposals.len(), 3, "6 MB: {proposals:?}");
    assert!(proposals.iter().all(|bytes| *bytes <= PROPOSAL_BYTES_MAX), "{proposals:?}");
}
