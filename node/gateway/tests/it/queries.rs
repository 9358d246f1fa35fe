//! What an answer holds: exactness, exclusions, fallbacks, coverage, reasons, sessions.

use crate::world::*;
use docent_gateway::recommend::{Popular, Similar};
use docent_proto::internal::shard::Request;
use docent_types::query::{Answer, Degraded, Recommend, ScoredItem, Source, rank};
use docent_types::training::{Algorithm, Graph, TrainSettings};
use docent_types::*;
use std::collections::BTreeSet;

fn ids(answer: &Answer) -> Vec<&str> {
    answer.items.iter().map(|item| item.item_id.as_str()).collect()
}

fn brute(fake: &Fake, vector: [f32; 2], excluded: &[&str], n: usize) -> Vec<ScoredItem> {
    let world = fake.world();
    let live = world.things.values().filter(|thing| !thing.state.is_taken_down);
    let mut scored: Vec<ScoredItem> = live
        .filter_map(|thing| {
            let row = thing.row.as_ref()?;
            let item_id = thing.state.item.item_id.clone();
            Some(ScoredItem { item_id, score: row[0] * vector[0] + row[1] * vector[1] })
        })
        .filter(|item| !excluded.contains(&item.item_id.as_str()))
        .collect();
    scored.sort_by(rank);
    scored.truncate(n);
    scored
}

fn scored(answer: &Answer) -> Vec<ScoredItem> {
    answer.items.iter().map(|item| ScoredItem { item_id: item.item_id.clone(), score: item.score }).collect()
}

#[tokio::test]
async fn the_merged_top_k_equals_brute_force_ties_included() {
    let fake = Fake::new();
    {
        let mut world = fake.world();
        let ann = world.users.get_mut(&user_id("ann")).unwrap();
        (ann.seen, ann.blocks) = (vec![item_id("i14"), item_id("i29")], vec![item_id("i44")]);
    }
    let gateway = fake.gateway();
    for n in [1, 7, 40] {
        let request = Recommend { exclude_ids: vec![item_id("i59")], ..ask("ann", n) };
        let answer = gateway.recommend(request).await.unwrap();
        assert_eq!(scored(&answer), brute(&fake, [1.0, 0.5], &["i14", "i29", "i44", "i59"], n as usize));
        assert!(answer.items.iter().all(|item| item.source == Source::Model));
        assert_eq!((answer.model.version, answer.coverage.items, answer.coverage.answered), (VERSION, 60, 4));
        assert!(answer.items.iter().all(|item| item.item.as_ref().is_some_and(|item| item.title.is_some())));
    }
}

#[tokio::test]
async fn exactly_n_items_come_back_while_as_many_are_allowed() {
    let fake = Fake::new();
    // Half of the items have no row: only popularity can find them.
    fake.world()
        .things
        .values_mut()
        .enumerate()
        .for_each(|(i, thing)| thing.row = thing.row.take().filter(|_| i % 2 == 0));
    let gateway = fake.gateway();
    let answer = gateway.recommend(ask("ann", 50)).await.unwrap();
    assert_eq!(answer.items.len(), 50);
    assert_eq!(ids(&answer).into_iter().collect::<BTreeSet<_>>().len(), 50, "nothing comes twice");
    let sources: Vec<Source> = answer.items.iter().map(|item| item.source).collect();
    assert!(sources[..30].iter().all(|source| *source == Source::Model));
    assert!(sources[30..].iter().all(|source| *source == Source::Popular));
    let all = gateway.recommend(ask("ann", 1_000)).await.unwrap();
    assert_eq!(all.items.len(), 60, "fewer only where no more are allowed");
}

#[tokio::test]
async fn unknown_users_and_those_who_opted_out_get_what_is_popular_without_their_blocks() {
    let fake = Fake::new();
    {
        let mut world = fake.world();
        let ann = world.users.get_mut(&user_id("ann")).unwrap();
        (ann.consent.recommend, ann.blocks) = (false, vec![item_id("i6")]);
    }
    let gateway = fake.gateway();
    let unknown = gateway.recommend(ask("nobody", 8)).await.unwrap();
    assert!(unknown.items.iter().all(|item| item.source == Source::Popular));
    assert!(unknown.coverage.degraded.is_empty());
    assert_eq!(ids(&unknown)[..3], ["i13", "i20", "i27"], "six events each, by id");
    assert!(ids(&unknown).contains(&"i6"));
    let opted_out = gateway.recommend(ask("ann", 8)).await.unwrap();
    assert!(opted_out.items.iter().all(|item| item.source == Source::Popular) && !ids(&opted_out).contains(&"i6"));
    assert_eq!(fake.requests(|request| matches!(request, Request::Scan { .. }).then_some(())).len(), 0);
}

#[tokio::test]
async fn without_a_leader_of_the_users_shard_the_answer_is_popular_and_says_so() {
    let fake = Fake::new();
    let shard = shard_of(Keyspace::Users, "ann");
    fake.world().leaders.remove(&shard);
    let answer = fake.gateway().recommend(Recommend { deadline_ms: 300, ..ask("ann", 5) }).await.unwrap();
    assert!(answer.items.len() == 5 && answer.items.iter().all(|item| item.source == Source::Popular));
    assert_eq!(answer.coverage.degraded, [Degraded::UserState { shard }]);
}

#[tokio::test]
async fn a_shard_that_nobody_answers_for_is_told_with_the_true_share_of_items() {
    let fake = Fake::new();
    let shard = shard_of(Keyspace::Items, "i0");
    fake.world().silent_shards.insert(shard);
    let lost = fake.world().things_of(shard).count();
    let answer = fake.gateway().recommend(ask("ann", 10)).await.unwrap();
    assert_eq!(answer.coverage.degraded, [Degraded::MissingShard { shard }]);
    assert_eq!((answer.coverage.asked, answer.coverage.answered), (4, 3));
    assert_eq!(answer.coverage.items, 60 - lost as u64);
    assert_eq!(answer.items.len(), 10);
}

#[tokio::test]
async fn no_answer_of_any_item_shard_is_an_error_and_a_stale_one_is_flagged() {
    let fake = Fake::new();
    let shards: Vec<ShardId> = fake.world().catalog.shards_of(Keyspace::Items).map(|shard| shard.id).collect();
    fake.world().stale.extend([shards[1]]);
    let degraded = fake.gateway().recommend(ask("ann", 3)).await.unwrap().coverage.degraded;
    assert!(matches!(degraded[..], [Degraded::StaleItems { shard, .. }] if shard == shards[1]), "{degraded:?}");
    fake.world().silent_shards.extend(shards);
    assert_eq!(fake.gateway().recommend(ask("ann", 3)).await.unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test]
async fn reasons_have_titles_and_never_name_what_is_blocked_or_taken_down() {
    let fake = Fake::new();
    let explain = || Recommend { explain: true, ..ask("ann", 4) };
    let answer = fake.gateway().recommend(explain()).await.unwrap();
    let first = &answer.items[0].reasons;
    assert_eq!(
        first.iter().map(|reason| reason.title.as_deref()).collect::<Vec<_>>(),
        [Some("Title 1"), Some("Title 2")]
    );
    fake.world().things.get_mut(&item_id("i1")).unwrap().state.is_taken_down = true;
    fake.world().users.get_mut(&user_id("ann")).unwrap().blocks = vec![item_id("i2")];
    let answer = fake.gateway().recommend(explain()).await.unwrap();
    assert!(answer.items.iter().all(|item| item.reasons.is_empty()));
}

#[tokio::test]
async fn each_shard_is_sent_only_its_own_exclusions() {
    let fake = Fake::new();
    let seen: Vec<ItemId> = fake.world().things.keys().cloned().collect();
    fake.world().users.get_mut(&user_id("ann")).unwrap().seen = seen;
    assert!(fake.gateway().recommend(ask("ann", 5)).await.unwrap().items.is_empty());
    let filters = fake.requests(|request| match request {
        Request::Scan { shards, .. } => Some(shards.clone()),
        _ => None,
    });
    let mut excluded = 0;
    for filter in filters.iter().flat_map(|(_, filters)| filters) {
        assert!(filter.exclude.iter().all(|id| shard_of(Keyspace::Items, id.as_str()) == filter.shard));
        excluded += filter.exclude.len();
    }
    assert_eq!(excluded, 60);
}

#[tokio::test]
async fn without_a_live_model_answers_are_popular_at_version_0() {
    let fake = Fake::new();
    fake.world().catalog.live = None;
    let answer = fake.gateway().recommend(ask("ann", 5)).await.unwrap();
    assert_eq!(answer.model.version, 0);
    assert!(answer.items.len() == 5 && answer.items.iter().all(|item| item.source == Source::Popular));
}

#[tokio::test]
async fn similar_items_leave_out_the_item_itself_and_unknown_items_are_not_found() {
    let fake = Fake::new();
    fake.world().things.get_mut(&item_id("i2")).unwrap().row = None;
    let gateway = fake.gateway();
    let similar = |id: &str| Similar { item_id: item_id(id), n: 5, exclude_ids: Vec::new(), deadline_ms: 1_000 };
    let answer = gateway.similar(similar("i4")).await.unwrap();
    assert_eq!(scored(&answer), brute(&fake, [4.0, 1.0], &["i4"], 5));
    assert!(answer.items.iter().all(|item| item.source == Source::Similar));
    assert!(gateway.similar(similar("i2")).await.unwrap().items.is_empty(), "an item without a row has no neighbours");
    assert_eq!(gateway.similar(similar("nothing")).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn a_graph_filter_is_asked_for_the_neighbours_of_a_history() {
    let fake = Fake::new();
    let graph = TrainSettings { algorithm: Algorithm::Graph(Graph::default()), ..TrainSettings::default() };
    {
        let mut world = fake.world();
        world.catalog.models.insert(VERSION, model(graph));
        world.histories.insert(user_id("ann"), vec!["i4", "i2"]);
        world.users.get_mut(&user_id("ann")).unwrap().vector = None;
    }
    let gateway = fake.gateway();
    let answer = gateway.recommend(ask("ann", 5)).await.unwrap();
    assert_eq!(scored(&answer), brute(&fake, [6.0, 3.0], &[], 5));
    assert!(answer.items.iter().all(|item| item.source == Source::Model));
    let similar = Similar { item_id: item_id("i4"), n: 5, exclude_ids: Vec::new(), deadline_ms: 1_000 };
    assert_eq!(scored(&gateway.similar(similar).await.unwrap()), brute(&fake, [4.0, 1.0], &["i4"], 5));
    // Nothing personal without consent, and nothing to look for without a history.
    fake.world().users.get_mut(&user_id("ann")).unwrap().consent.recommend = false;
    let opted_out = gateway.recommend(ask("ann", 5)).await.unwrap();
    assert!(opted_out.items.iter().all(|item| item.source == Source::Popular));
    fake.world().users.get_mut(&user_id("ann")).unwrap().consent.recommend = true;
    fake.world().histories.insert(user_id("ann"), Vec::new());
    let new = gateway.recommend(ask("ann", 5)).await.unwrap();
    assert!(new.items.iter().all(|item| item.source == Source::Popular) && new.coverage.degraded.is_empty());
}

#[tokio::test]
async fn popular_items_are_merged_by_count() {
    let popular = Popular { n: 9, exclude_ids: vec![item_id("i13")], deadline_ms: 1_000 };
    let answer = Fake::new().gateway().popular(popular).await.unwrap();
    assert_eq!(ids(&answer), ["i20", "i27", "i34", "i41", "i48", "i55", "i6", "i12", "i19"]);
}

#[tokio::test]
async fn a_session_token_is_taken_back_and_any_other_refused() {
    let gateway = Fake::new().gateway();
    let answer = gateway.recommend(ask("ann", 1)).await.unwrap();
    let with = |session: &str| Recommend { session: Some(session.to_owned()), ..ask("ann", 1) };
    assert_eq!(gateway.recommend(with(&answer.session)).await.unwrap().session, answer.session);
    let error = gateway.recommend(with("made up")).await.unwrap_err();
    assert_eq!((error.kind, error.field.as_deref()), (Kind::Invalid, Some("session")));
}

#[tokio::test]
async fn a_vector_not_solved_in_time_leaves_consent_seen_and_blocks_in_force_and_is_told() {
    let fake = Fake::new();
    {
        let mut world = fake.world();
        let ann = world.users.get_mut(&user_id("ann")).unwrap();
        (ann.vector, ann.is_unsolved) = (None, true);
        (ann.seen, ann.blocks) = (vec![item_id("i13")], vec![item_id("i20")]);
    }
    let answer = fake.gateway().recommend(ask("ann", 3)).await.unwrap();
    assert_eq!(ids(&answer), ["i27", "i34", "i41"], "popular, without i13 and i20");
    let shard = shard_of(Keyspace::Users, "ann");
    assert_eq!(answer.coverage.degraded, [Degraded::UserState { shard }]);
}

#[tokio::test]
async fn what_is_taken_down_between_scan_and_metadata_leaves_no_gap() {
    let fake = Fake::new();
    let best = brute(&fake, [1.0, 0.5], &[], 5);
    for item in &best[..4] {
        fake.world().things.get_mut(&item.item_id).unwrap().state.is_taken_down = true;
    }
    fake.world().is_scan_behind = true;
    let gateway = fake.gateway();
    let answer = gateway.recommend(ask("ann", 10)).await.unwrap();
    assert_eq!(scored(&answer), brute(&fake, [1.0, 0.5], &[], 10));
    let popular = gateway.popular(Popular { n: 10, exclude_ids: Vec::new(), deadline_ms: 1_000 }).await.unwrap();
    assert_eq!(popular.items.len(), 10);
    let similar = Similar { item_id: item_id("i1"), n: 10, exclude_ids: Vec::new(), deadline_ms: 1_000 };
    assert_eq!(scored(&gateway.similar(similar).await.unwrap()), brute(&fake, [1.0, 1.0], &["i1"], 10));
}
