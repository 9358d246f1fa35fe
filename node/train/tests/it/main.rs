//! Whole jobs over several workers in one process.
#![allow(clippy::unwrap_used, reason = "a test's helper fails by panicking")]
mod admit;
mod blend;
mod checkpoints;
mod fixture;
mod tower;
mod warm;

use docent_model::{Adjacency, FoldIn, Kernel, Settings, gramian, graph, mean};
use docent_train::{
    Algorithm, Error, Evaluate, HoldOut, Hosts, JobPlan, JobSettings, Outcome, ReadRequest, TrainRequest,
    TrainResponse,
    message::{At, Blob, Key, Side, Source},
    part,
    plan::Phase,
};
use fixture::{
    CLUSTERS, Cluster, Data, PLANS, blob, graph_plan, hosts, ials, open, plan, rounded_plan, slot, softmax_plan,
    stale_plan,
};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn hashes(outcome: &Outcome) -> Vec<[u8; 32]> {
    outcome.parts.iter().map(|part| part.blake3).collect()
}

fn measured(plan: JobPlan, retrain: bool) -> JobPlan {
    let evaluate = Evaluate { hold_out: HoldOut::Newest(0.25), cutoffs: vec![5, 10], users_max: 0, retrain };
    JobPlan { settings: JobSettings { evaluate: Some(evaluate), ..plan.settings }, ..plan }
}

#[tokio::test]
async fn the_same_parts_come_out_whatever_the_hosts() {
    let data = Data::planted(400, 120);
    for plan in PLANS {
        let one = Cluster::healthy(1, &data).run(plan(Hosts::single(1))).await.unwrap();
        assert_eq!(one.parts.len(), 65);
        assert_eq!(one.bytes_pulled, 0, "a single host needs no network");
        assert_eq!(one.counts.users, 400);
        for (nodes, deal) in [(2, 0), (3, 0), (3, 1), (4, 0), (5, 0), (5, 1)] {
            let many = Cluster::healthy(nodes, &data).run(plan(hosts(nodes, deal))).await.unwrap();
            assert_eq!(hashes(&one), hashes(&many), "{nodes} nodes, deal {deal}");
            assert_eq!(one.losses, many.losses);
            assert_eq!(one.global, many.global);
            assert!(many.bytes_pulled > 0);
        }
    }
}

#[tokio::test]
async fn rounded_rows_take_half_the_bytes_for_almost_the_same_objective() {
    let data = Data::planted(400, 120);
    let of = async |plan| Cluster::healthy(3, &data).run(plan).await.unwrap();
    let (whole, rounded): (Outcome, Outcome) = (of(plan(hosts(3, 0))).await, of(rounded_plan(hosts(3, 0))).await);
    assert!(rounded.bytes_pulled * 10 < whole.bytes_pulled * 7, "{} {}", rounded.bytes_pulled, whole.bytes_pulled);
    assert_ne!(hashes(&whole), hashes(&rounded));
    assert!((rounded.losses[4] / whole.losses[4] - 1.0).abs() < 0.01, "{:?} {:?}", rounded.losses, whole.losses);
}

#[tokio::test]
async fn hosts_get_as_many_steps_apart_as_they_may_and_the_model_is_the_same() {
    let data = Data::planted(400, 120);
    let expected = Cluster::healthy(1, &data).run(stale_plan(Hosts::single(1))).await.unwrap();
    // The second host begins a step when the first one has begun the last that it may be ahead with: else it waits for ever.
    let begun = Arc::new(watch::Sender::new(0));
    let gate = move |node: u64, request: &TrainRequest| -> BoxFuture<'static, ()> {
        let TrainRequest::Gradients { at, .. } = *request else { return Box::pin(async {}) };
        let ahead = at.version() + (at.steps - 1 - at.step).min(2);
        let begun = begun.clone();
        Box::pin(async move {
            if node == 1 {
                begun.send_modify(|begun| *begun = at.version());
            } else {
                begun.subscribe().wait_for(|begun| *begun >= ahead).await.unwrap();
            }
        })
    };
    let apart = Cluster::healthy(2, &data).gated(Box::new(gate)).run(stale_plan(hosts(2, 0))).await.unwrap();
    assert_eq!(hashes(&apart), hashes(&expected));
    let together = Cluster::healthy(2, &data).run(softmax_plan(hosts(2, 0))).await.unwrap();
    assert_ne!(hashes(&together), hashes(&expected), "older rows make another model");
    // Of planted clusters, one that is as good.
    let (stale, fresh) = (expected.losses[5], together.losses[5]);
    assert!((stale / fresh - 1.0).abs() < 0.05, "{stale} {fresh}");
}

#[tokio::test]
async fn another_seed_gives_other_parts() {
    let data = Data::planted(100, 60);
    let cluster = Cluster::healthy(1, &data);
    let first = cluster.run(plan(Hosts::single(1))).await.unwrap();
    let mut other = plan(Hosts::single(1));
    other.epoch = 2;
    other.settings.algorithm = Algorithm::Ials(Settings { seed: 8, ..ials() });
    assert_ne!(hashes(&first)[64], hashes(&cluster.run(other).await.unwrap())[64]);
}

#[tokio::test]
async fn the_loss_falls_with_every_pass() {
    let data = Data::planted(300, 90);
    let outcome = Cluster::healthy(2, &data).run(plan(hosts(2, 3))).await.unwrap();
    assert_eq!(outcome.losses.len(), 5);
    assert!(outcome.losses.windows(2).all(|pair| pair[1] < pair[0]), "{:?}", outcome.losses);
}

#[tokio::test]
async fn measuring_gives_equal_metrics_on_any_hosts_and_leaves_the_model_alone() {
    for plan in PLANS {
        measuring(plan).await;
    }
}

async fn measuring(plan: fn(Hosts) -> JobPlan) {
    let data = Data::planted(400, 120);
    let plain = Cluster::healthy(1, &data).run(plan(Hosts::single(1))).await.unwrap();
    let one = Cluster::healthy(1, &data).run(measured(plan(Hosts::single(1)), true)).await.unwrap();
    let three = Cluster::healthy(3, &data).run(measured(plan(hosts(3, 2)), true)).await.unwrap();
    assert_eq!(one.reports, three.reports);
    assert_eq!(hashes(&plain), hashes(&one), "measuring first must not change what is published");
    assert_eq!(hashes(&plain), hashes(&three));
    let report = &one.reports[1];
    assert_eq!(report.cutoff, 10);
    let metrics = report.means;
    // 20 items of the own cluster out of 120: chance is about .1, the planted structure gives about half.
    assert!(metrics.users > 300.0 && metrics.recall > 0.4, "{metrics:?}");
    assert!(report.low.recall < metrics.recall && metrics.recall < report.high.recall, "{report:?}");
    let of_classes: f64 = report.by_user.iter().map(|class| class.users).sum();
    assert_eq!(of_classes, metrics.users);
    // 300 lists of ten over 120 items that are liked alike: every item is in some list, and none in very many.
    assert!(report.coverage > 0.9 && report.gini < 0.5, "{report:?}");
    assert!((3.0..9.0).contains(&report.novelty), "{report:?}");

    let measured_only = Cluster::healthy(2, &data).run(measured(plan(hosts(2, 1)), false)).await.unwrap();
    assert_eq!(measured_only.reports, one.reports);
    assert!(measured_only.counts.held_out > 0);
    assert_ne!(hashes(&plain), hashes(&measured_only));
}

#[tokio::test]
async fn answers_lost_and_streams_broken_on_the_way_change_nothing() {
    let data = Data::planted(150, 60);
    for plan in PLANS {
        let quiet = Cluster::healthy(3, &data).run(plan(hosts(3, 0))).await.unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let (counter, lost) = (calls.clone(), Mutex::new(BTreeMap::<_, u32>::new()));
        // Every sixth answer is lost after the worker did what it was asked, but of no message more than two: whoever
        // gets none at all gives up.
        let is_lost = move |node: u64, request: &TrainRequest| {
            let is_sixth = counter.fetch_add(1, Ordering::Relaxed) % 6 == 5;
            let mut lost = lost.lock().unwrap();
            let times = lost.entry((node, postcard::to_stdvec(request).unwrap())).or_default();
            let loses = is_sixth && *times < 2;
            *times += u32::from(loses);
            loses
        };
        let streams = Arc::new(AtomicU64::new(0));
        let counter = streams.clone();
        let breaks = move || counter.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        let cluster = Cluster::new(3, &data, Box::new(is_lost)).breaking(Box::new(breaks));
        let outcome = cluster.run(plan(hosts(3, 0))).await.unwrap();
        assert_eq!(hashes(&quiet), hashes(&outcome));
        assert!(calls.load(Ordering::Relaxed) > 30 && streams.load(Ordering::Relaxed) > 30);
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_fails_the_job_and_a_new_epoch_on_other_hosts_gives_the_same_bytes() {
    let data = Data::planted(150, 60);
    for plan in PLANS {
        let expected = Cluster::healthy(1, &data).run(plan(Hosts::single(1))).await.unwrap();
        let is_late = |request: &TrainRequest| {
            matches!(request, TrainRequest::Step { step: 2, .. } | TrainRequest::Count { round: 4, .. })
                || matches!(request, TrainRequest::Apply { at, .. } if at.version() >= 7)
        };
        let is_dead = move |node: u64, request: &TrainRequest| {
            node == 3 && is_late(request) || matches!(request, TrainRequest::Close(_))
        };
        let cluster = Cluster::new(3, &data, Box::new(is_dead));
        let failed = cluster.run(plan(hosts(3, 0))).await;
        assert!(matches!(failed, Err(Error::Peer { node: 3, .. })), "{failed:?}");
        let again = cluster.run(JobPlan { epoch: 2, ..plan(hosts(2, 0)) }).await.unwrap();
        assert_eq!(hashes(&expected), hashes(&again));
    }
}

#[tokio::test]
async fn a_zombie_of_an_older_epoch_is_refused() {
    let data = Data::planted(50, 30);
    let cluster = Cluster::healthy(1, &data);
    cluster.run(JobPlan { epoch: 3, ..plan(Hosts::single(1)) }).await.unwrap();
    let failed = cluster.run(JobPlan { epoch: 2, ..plan(Hosts::single(1)) }).await;
    assert_eq!(failed.unwrap_err(), Error::Stale { job: 5, epoch: 3, run: 1 });
    let old = Key { job: 5, epoch: 2, run: 1 };
    let table = blob(old, Blob::Table { version: 0 }, 0);
    assert!(matches!(cluster.worker(1).read(table).await, Err(Error::Stale { .. })));
    let closed = TrainRequest::Load(Key { epoch: 3, ..old });
    assert!(matches!(cluster.worker(1).handle(closed).await, Err(Error::NotOpen { job: 5 })));
}

#[tokio::test]
async fn requests_out_of_turn_or_out_of_range_are_refused_with_a_reason() {
    let data = Data::planted(50, 30);
    let cluster = Cluster::healthy(1, &data);
    let worker = cluster.worker(1);
    let key = Key { job: 1, epoch: 1, run: 1 };
    let plan = plan(Hosts::single(1));
    let open = open(key, &plan);
    let mut short = open.clone();
    short.hosts.users.pop();
    assert!(matches!(worker.handle(TrainRequest::Open(short)).await, Err(Error::Invalid(_))));
    assert_eq!(worker.handle(TrainRequest::Open(open)).await, Ok(TrainResponse::Done));

    let gramian = bytes::Bytes::from(vec![0; 78 * 8]);
    let step = TrainRequest::Step { key, side: Side::Users, step: 0, gramian, others: 30 };
    assert!(matches!(worker.handle(step).await, Err(Error::OutOfTurn { .. })));
    assert!(matches!(worker.handle(TrainRequest::Publish(key)).await, Err(Error::OutOfTurn { .. })));
    worker.handle(TrainRequest::Load(key)).await.unwrap();
    worker.handle(TrainRequest::Link(key)).await.unwrap();
    let step = |bytes: usize| TrainRequest::Step {
        key,
        side: Side::Users,
        step: 0,
        gramian: vec![0; bytes].into(),
        others: 30,
    };
    assert!(worker.handle(step(8)).await.is_err(), "a Gramian of another dimension");
    worker.handle(step(78 * 8)).await.unwrap();
    for (blob, offset) in [
        (Blob::Table { version: 9 }, 0),
        (Blob::Table { version: 0 }, u64::MAX),
        (Blob::Touched { vworker: 64 }, 0),
        (Blob::Places { reader: 77 }, 0),
        (Blob::Rows { side: Side::Items, version: 0, reader: 77 }, 0),
        (Blob::Means, 0),
        (Blob::Positives, u64::MAX),
        (Blob::Shown, 0),
        (Blob::Fingerprints, u64::MAX),
        // An iALS job has no neighbours.
        (Blob::Pairs { vworker: 0 }, 0),
        (Blob::Neighbours, 0),
        (Blob::Weights { reader: 1 }, 0),
    ] {
        assert!(worker.read(self::blob(key, blob, offset)).await.is_err(), "{blob:?} {offset}");
    }
    let count = TrainRequest::Count { key, items: vec![0; 64], round: 0 };
    assert!(matches!(worker.handle(count).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn counting_out_of_turn_is_refused_with_a_reason() {
    let data = Data::planted(50, 30);
    let cluster = Cluster::healthy(1, &data);
    let worker = cluster.worker(1);
    let key = Key { job: 1, epoch: 1, run: 1 };
    let plan = graph_plan(Hosts::single(1));
    let open = open(key, &plan);
    worker.handle(TrainRequest::Open(open)).await.unwrap();
    worker.handle(TrainRequest::Load(key)).await.unwrap();
    let TrainResponse::Linked { items, .. } = worker.handle(TrainRequest::Link(key)).await.unwrap() else { panic!() };
    let items: Vec<u32> = items.into_iter().map(|(_, count)| count).collect();
    let count = |items: &[u32]| TrainRequest::Count { key, items: items.to_vec(), round: 0 };
    assert!(matches!(worker.handle(count(&items)).await, Err(Error::OutOfTurn { .. })), "locate comes first");
    assert!(matches!(worker.handle(TrainRequest::Publish(key)).await, Err(Error::OutOfTurn { .. })));
    for wrong in [vec![1; 63], vec![u32::MAX; 64], vec![0; 64]] {
        let locate = TrainRequest::Locate { key, items: wrong.clone() };
        assert!(worker.handle(locate).await.is_err(), "{wrong:?}");
    }
    worker.handle(TrainRequest::Locate { key, items: items.clone() }).await.unwrap();
    worker.handle(count(&items)).await.unwrap();
    let weights = blob(key, Blob::Weights { reader: 77 }, 0);
    assert!(matches!(worker.read(weights).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn steps_out_of_turn_or_out_of_range_are_refused_with_a_reason() {
    let data = Data::planted(50, 30);
    let cluster = Cluster::healthy(1, &data);
    let worker = cluster.worker(1);
    let key = Key { job: 1, epoch: 1, run: 1 };
    let plan = softmax_plan(Hosts::single(1));
    let open = open(key, &plan);
    worker.handle(TrainRequest::Open(open)).await.unwrap();
    worker.handle(TrainRequest::Load(key)).await.unwrap();
    let TrainResponse::Linked { items, .. } = worker.handle(TrainRequest::Link(key)).await.unwrap() else { panic!() };
    let items: Vec<u32> = items.into_iter().map(|(_, count)| count).collect();
    let at = |step| At { epoch: 0, step, steps: 2 };
    let gradients = |at| TrainRequest::Gradients { key, at };
    assert!(matches!(worker.handle(gradients(at(0))).await, Err(Error::OutOfTurn { .. })), "locate comes first");
    worker.handle(TrainRequest::Locate { key, items }).await.unwrap();
    assert!(matches!(worker.handle(gradients(at(0))).await, Err(Error::OutOfTurn { .. })), "prepare comes first");
    let TrainResponse::Weighed { masses } = worker.handle(TrainRequest::Weigh(key)).await.unwrap() else { panic!() };
    let masses: Vec<[f64; 2]> = masses.into_iter().map(|(_, mass)| mass).collect();
    for wrong in [vec![[1.0; 2]; 3], vec![[f64::NAN; 2]; 64], vec![[0.0; 2]; 64]] {
        assert!(worker.handle(TrainRequest::Prepare { key, masses: wrong }).await.is_err());
    }
    worker.handle(TrainRequest::Prepare { key, masses }).await.unwrap();
    let apply = |at| TrainRequest::Apply { key, at };
    assert!(worker.handle(apply(at(0))).await.is_err(), "its gradients come first");
    for wrong in [at(2), At { steps: u32::MAX, ..at(0) }, at(1)] {
        assert!(worker.handle(gradients(wrong)).await.is_err(), "{wrong:?}");
    }
    let computed = worker.handle(gradients(at(0))).await.unwrap();
    assert!(worker.handle(apply(at(1))).await.is_err(), "a step ahead");
    let applied = worker.handle(apply(at(0))).await.unwrap();
    assert_eq!(worker.handle(apply(at(0))).await, Ok(applied), "asked again, it is not applied again");
    assert_eq!(worker.handle(gradients(at(0))).await, Ok(computed), "nor computed again");
    worker.handle(gradients(at(1))).await.unwrap();
    assert!(worker.handle(gradients(at(0))).await.is_err(), "a step back");
    let rows = |places| ReadRequest { source: Source::Rows { key, at: at(1), places }, offset: 0 };
    assert!(worker.read(rows(vec![u32::MAX])).await.is_err());
    assert_eq!(worker.read(rows(vec![0, 0])).await.unwrap().bytes, 2 * 12 * 4);
    let later = At { epoch: 1, ..at(0) };
    for blob in
        [Blob::Push { at: at(0), reader: 1 }, Blob::Push { at: at(1), reader: 7 }, Blob::Negatives { at: later }]
    {
        assert!(worker.read(self::blob(key, blob, 0)).await.is_err(), "{blob:?}");
    }
}

#[tokio::test]
async fn a_cancelled_job_stops_and_frees_its_sessions() {
    let data = Data::planted(100, 60);
    let cluster = Cluster::healthy(2, &data);
    let cancel = CancellationToken::new();
    let seen = Mutex::new(Vec::new());
    let progress = |progress: docent_train::Progress| {
        seen.lock().unwrap().push((progress.phase, progress.epoch));
        if progress.epoch == 2 {
            cancel.cancel();
        }
    };
    let failed = cluster.run_until(plan(hosts(2, 0)), progress, cancel.clone()).await;
    assert_eq!(failed.unwrap_err(), Error::Cancelled);
    assert_eq!(*seen.lock().unwrap(), [(Phase::Load, 0), (Phase::Link, 0), (Phase::Epoch, 1), (Phase::Epoch, 2)]);
    let key = Key { job: 5, epoch: 1, run: 1 };
    for node in [1, 2] {
        assert_eq!(cluster.worker(node).handle(TrainRequest::Load(key)).await, Err(Error::NotOpen { job: 5 }));
    }
    assert!(cluster.parts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn published_parts_hold_the_model() {
    let data = Data::planted(300, 90);
    let cluster = Cluster::healthy(3, &data);
    let outcome = cluster.run(plan(hosts(3, 0))).await.unwrap();
    let part::Global::Ials(global) = part::Global::decode(&outcome.global).unwrap() else { panic!("another family") };
    let stored = cluster.parts.lock().unwrap();
    let mut rows = Vec::new();
    let mut sums = mean::CategorySums::default();
    for (at, info) in outcome.parts[..64].iter().enumerate() {
        let bytes = &stored[&info.blake3];
        assert_eq!(info.bytes, bytes.len() as u64);
        let part = part::Items::decode(bytes).unwrap();
        assert_eq!(Some(part.slots), info.slots);
        assert_eq!(part.slots.0, at as u16 * 64);
        for (n, item) in part.items.iter().enumerate() {
            assert_eq!(item.slot, slot(&item.id));
            let number: u32 = item.id.trim_start_matches("item-").parse().unwrap();
            if number != 3 {
                sums.push([&Arc::from(format!("cluster-{}", number % CLUSTERS))], part.vector(n).unwrap());
            }
        }
        rows.extend(part.vectors);
    }
    assert_eq!(global.items, rows.len() as u64 / 12);
    let gramian = gramian::packed(Kernel::detect(), 12, &rows);
    assert!(gramian.iter().zip(&global.item_gramian).all(|(a, b)| (a - b).abs() < 1e-9));
    assert_eq!(global.categories.len(), CLUSTERS as usize);
    for (category, (name, items, mean)) in global.categories.iter().zip(sums.means(99)) {
        assert_eq!((&category.name, category.items), (&name, items));
        assert!(category.mean.iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-6));
    }
    // A reader can fold a user in with nothing but the parts.
    let fold = FoldIn::new(global.settings, Kernel::detect(), &global.item_gramian, global.items).unwrap();
    assert!(fold.solve(&[(&rows[..12], 1.0)]).unwrap().vector().iter().any(|value| *value != 0.0));
}

#[tokio::test]
async fn published_neighbours_are_those_of_the_formula() {
    let data = Data::planted(300, 90);
    let cluster = Cluster::healthy(3, &data);
    let plan = graph_plan(hosts(3, 0));
    let Algorithm::Graph(settings) = plan.settings.algorithm.clone() else { panic!("another family") };
    let outcome = cluster.run(plan).await.unwrap();

    let mut keys: Vec<_> =
        data.users.iter().flat_map(|user| &user.positives).map(|(item, ..)| (slot(item), item.clone())).collect();
    keys.sort();
    keys.dedup();
    let mut users = Adjacency::new();
    for user in &data.users {
        let mut items: Vec<u32> = user
            .positives
            .iter()
            .map(|(item, ..)| keys.binary_search(&(slot(item), item.clone())).unwrap() as u32)
            .collect();
        items.sort_unstable();
        users.push_row(items.into_iter().map(|item| (item, 1.0)));
    }
    let by_item = users.transposed(keys.len());
    let positives: Vec<u32> = (0..keys.len()).map(|item| by_item.row(item).0.len() as u32).collect();
    let units: Vec<u64> = (0..users.rows()).map(|user| settings.unit(users.row(user).0.len(), keys.len())).collect();
    let (mut counter, weights) = (graph::Counter::new(keys.len()), graph::Weights::new(&settings, &positives, &[]));
    let mut by_source = Adjacency::new();
    for source in 0..keys.len() {
        let sums = counter.count(source as u32, by_item.row(source).0, &users, &units);
        by_source.push_row(weights.neighbours(source as u32, &sums));
    }
    let balanced = graph::balance(&settings, &by_source, keys.len());
    assert_ne!(balanced, by_source);
    let mut expected = BTreeMap::new();
    for (source, (_, id)) in keys.iter().enumerate() {
        let (targets, weights) = balanced.row(source);
        let print = docent_placement::hash::fingerprint(id);
        expected.extend(targets.iter().zip(weights).map(|(target, w)| ((print, keys[*target as usize].clone()), *w)));
    }

    let stored = cluster.parts.lock().unwrap();
    let mut found = BTreeMap::new();
    for info in &outcome.parts[..64] {
        let part = part::Neighbours::decode(&stored[&info.blake3]).unwrap();
        for item in &part.items {
            let at = keys.binary_search(&(item.slot, item.id.clone())).unwrap();
            assert_eq!(item.positives, positives[at]);
        }
        found.extend(part.neighbours.iter().map(|n| {
            let target = &part.items[n.at as usize];
            ((n.source, (target.slot, target.id.clone())), n.weight)
        }));
    }
    assert!(expected.len() > 500);
    assert_eq!(found, expected);
    let global = part::Global::decode(&outcome.global).unwrap();
    let sizes = part::GraphGlobal { settings, users: 300, items: keys.len() as u64, positives: users.entries() as u64 };
    assert_eq!(global, part::Global::Graph(sizes));
}

#[tokio::test]
async fn no_positives_is_an_error_not_an_empty_model() {
    let failed = Cluster::healthy(1, &Data::planted(0, 30)).run(plan(Hosts::single(1))).await;
    assert!(matches!(failed, Err(Error::Diverged(_))));
}
