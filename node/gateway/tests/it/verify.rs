//! Comparing replicas: every one of the catalog is asked, and who differs or is silent is named.

use crate::world::*;
use docent_runtime::Deadline;
use docent_types::*;
use futures::StreamExt;
use std::time::Duration;

fn minute() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

#[tokio::test]
async fn a_healthy_cluster_agrees_on_every_shard() {
    let verdicts: Vec<_> = Fake::new().gateway().verify(Vec::new(), 0).await.unwrap().collect().await;
    assert_eq!(verdicts.len(), 12);
    for (shard, verdict) in verdicts {
        let verdict = verdict.unwrap();
        assert!(verdict.agrees() && verdict.replicas.len() == 3, "{shard}: {verdict:?}");
    }
}

#[tokio::test]
async fn a_replica_that_differs_and_one_that_is_down_are_told_apart() {
    let fake = Fake::new();
    let shard = shard_of(Keyspace::Users, "ann");
    let replicas = fake.world().catalog.shards[&shard].replicas.clone();
    // Not the leader: it takes the command.
    fake.world().diverged.insert(replicas[1].node);
    let verdict = fake.gateway().verify_shard(shard, minute()).await.unwrap();
    let found = verdict.disagreement().unwrap();
    assert_eq!((found.replicas, found.index, found.majority.is_some()), (vec![replicas[1]], verdict.index, true));

    fake.world().diverged.clear();
    fake.world().down.insert(replicas[2].node);
    let verdict = fake.gateway().verify_shard(shard, minute()).await.unwrap();
    assert!(verdict.disagreement().is_none() && verdict.lacks_some() && !verdict.agrees());
    assert_eq!(verdict.replicas[2].1.as_ref().unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test]
async fn an_older_member_is_not_sent_a_command_that_it_does_not_know() {
    let fake = Fake::new();
    let shard = shard_of(Keyspace::Items, "i1");
    fake.world().catalog.cluster.as_mut().unwrap().format = 1;
    let error = fake.gateway().verify_shard(shard, minute()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "all understand it, and will use it in a moment");
    fake.world().catalog.nodes.values_mut().next().unwrap().format = 1;
    let error = fake.gateway().verify_shard(shard, minute()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(fake.requests(|_| Some(())).is_empty(), "nothing was sent");
}

#[tokio::test]
async fn an_unknown_shard_is_refused_by_name() {
    let unknown = ShardId { keyspace: Keyspace::Users, index: 99 };
    let error = fake_error(Fake::new().gateway().verify(vec![unknown], 0).await);
    assert!(error.message.contains("users/99"), "{error}");
}

fn fake_error<T>(outcome: Result<T>) -> Error {
    outcome.err().unwrap()
}
