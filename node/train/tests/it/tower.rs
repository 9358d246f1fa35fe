//! What two towers have beside the steps of sampled softmax: dense weights, features, and parts that a reader makes users of.
use crate::fixture::{CLUSTERS, Cluster, Data, biased_plan, blob, hosts, open, tower_plan};
use docent_model::{
    Kernel,
    tower::{Dense, FEATURES_MAX, user},
};
use docent_train::{
    Algorithm, Error, Hosts, JobPlan, TrainRequest, TrainResponse,
    message::{At, Blob, Key},
    part,
    plan::JobSettings,
};
use std::sync::Arc;

fn packed(weights: &[f32]) -> bytes::Bytes {
    weights.iter().flat_map(|weight| weight.to_le_bytes()).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn dense_weights_and_features_out_of_turn_or_range_are_refused_with_a_reason() {
    let data = Data::planted(50, 30);
    let cluster = Cluster::healthy(1, &data);
    let worker = cluster.worker(1);
    let key = Key { job: 1, epoch: 1, run: 1 };
    let plan = tower_plan(Hosts::single(1));
    let Algorithm::Tower(tower) = plan.settings.algorithm.clone() else { panic!("another family") };
    let open = open(key, &plan);
    worker.handle(TrainRequest::Open(open)).await.unwrap();
    worker.handle(TrainRequest::Load(key)).await.unwrap();
    assert!(matches!(worker.handle(TrainRequest::Survey(key)).await, Err(Error::OutOfTurn { .. })), "link comes first");
    worker.handle(TrainRequest::Link(key)).await.unwrap();
    let choose = |names: Vec<Arc<str>>| TrainRequest::Choose { key, names };
    assert!(matches!(worker.handle(choose(vec![])).await, Err(Error::OutOfTurn { .. })), "a survey comes first");
    let TrainResponse::Surveyed { names } = worker.handle(TrainRequest::Survey(key)).await.unwrap() else { panic!() };
    assert_eq!(names.len(), CLUSTERS as usize);
    let names: Vec<Arc<str>> = names.into_iter().map(|(name, _)| name).collect();
    let backwards = names.iter().rev().cloned().collect();
    let many = (0..=FEATURES_MAX).map(|n| format!("{n:05}").into()).collect();
    for wrong in [backwards, many] {
        assert!(matches!(worker.handle(choose(wrong)).await, Err(Error::Invalid(_))));
    }
    worker.handle(choose(names.clone())).await.unwrap();
    let at = |step| At { epoch: 0, step, steps: 2 };
    assert!(
        matches!(worker.read(blob(key, Blob::Trained, 0)).await, Err(Error::OutOfTurn { .. })),
        "rows are not what is read"
    );
    let weights = Dense::first(&tower, names.len()).unwrap().to_vec();
    let dense = |at, weights: &[f32]| TrainRequest::Dense { key, at, weights: packed(weights) };
    let one_less = Dense::first(&tower, names.len() - 1).unwrap().to_vec();
    let not_finite = vec![f32::NAN; weights.len()];
    for wrong in [&[][..], &weights[1..], &one_less, &not_finite] {
        assert!(worker.handle(dense(at(0), wrong)).await.is_err(), "{} weights", wrong.len());
    }
    assert!(matches!(worker.handle(dense(at(1), &weights)).await, Err(Error::OutOfTurn { .. })), "a step ahead");
    worker.handle(dense(at(0), &weights)).await.unwrap();
    worker.read(blob(key, Blob::Trained, 0)).await.unwrap();
    assert!(worker.handle(TrainRequest::Apply { key, at: at(0) }).await.is_err(), "its gradients come first");
}

#[tokio::test]
async fn a_reader_makes_users_of_the_published_parts() {
    let data = Data::planted(300, 90);
    let cluster = Cluster::healthy(3, &data);
    let plan = tower_plan(hosts(3, 0));
    let Algorithm::Tower(settings) = plan.settings.algorithm.clone() else { panic!("another family") };
    let outcome = cluster.run(plan).await.unwrap();
    let part::Global::Tower(global) = part::Global::decode(&outcome.global).unwrap() else { panic!("another family") };
    let names: Vec<Arc<str>> = (0..CLUSTERS).map(|cluster| format!("cluster-{cluster}").into()).collect();
    assert_eq!(global.features, names);
    let (dense, first) = (global.dense().unwrap(), Dense::first(&settings, names.len()).unwrap());
    assert!(dense.users != first.users && dense.items != first.items && dense.features != first.features);
    let stored = cluster.parts.lock().unwrap();
    let mut of_cluster = vec![Vec::new(); CLUSTERS as usize];
    for info in &outcome.parts[..64] {
        let part = part::Items::decode(&stored[&info.blake3]).unwrap();
        for (at, item) in part.items.iter().enumerate() {
            let number: u32 = item.id.trim_start_matches("item-").parse().unwrap();
            of_cluster[(number % CLUSTERS) as usize].push(part.vector(at).unwrap().to_vec());
        }
    }
    let tower = dense.user_tower(&settings).unwrap();
    assert!(of_cluster.iter().flatten().all(|vector| (dot(vector, vector) - 1.0).abs() < 1e-5));
    // Who likes items of one cluster is told the others of it.
    let history: Vec<(&[f32], f32)> = of_cluster[0][..3].iter().map(|vector| (&vector[..], 1.0)).collect();
    let user = user::vector(Kernel::detect(), tower.as_ref(), 12, &history).unwrap();
    let mean = |items: &[Vec<f32>]| items.iter().map(|item| dot(&user, item)).sum::<f32>() / items.len() as f32;
    assert!(mean(&of_cluster[0][3..]) > mean(&of_cluster[1]) + 0.2);
}

/// `docent_model` has the loss with odds; here is what a reader takes.
#[tokio::test]
async fn published_rows_have_the_bias_that_their_odds_make_behind_the_vector() {
    let data = Data::planted(300, 90);
    let cluster = Cluster::healthy(3, &data);
    let plan = biased_plan(hosts(3, 0));
    let (Algorithm::Softmax(settings), exponent) = (plan.settings.algorithm.clone(), plan.settings.bias) else {
        panic!("another family")
    };
    let wrong = |settings: JobSettings| cluster.run(JobPlan { settings, ..biased_plan(hosts(3, 0)) });
    let of_ials = JobSettings { bias: 0.5, ..crate::fixture::plan(hosts(3, 0)).settings };
    let large = JobSettings { bias: f32::NAN, ..biased_plan(hosts(3, 0)).settings };
    assert!(matches!(wrong(of_ials).await, Err(Error::Invalid(_))));
    assert!(matches!(wrong(large).await, Err(Error::Invalid(_))));
    let outcome = cluster.run(plan).await.unwrap();
    let part::Global::Softmax(global) = part::Global::decode(&outcome.global).unwrap() else {
        panic!("another family")
    };
    assert_eq!(global.mean.len(), 13);
    let stored = cluster.parts.lock().unwrap();
    for info in &outcome.parts[..64] {
        let part = part::Items::decode(&stored[&info.blake3]).unwrap();
        assert_eq!(part.dim, 13);
        for (at, item) in part.items.iter().enumerate() {
            let (bias, vector) = part.vector(at).unwrap().split_last().unwrap();
            assert!((dot(vector, vector) - 1.0).abs() < 1e-5);
            let expected = settings.temperature * (item.positives as f32 + 1.0).powf(exponent).ln();
            assert!((bias - expected).abs() < 1e-5, "{bias}, {expected}");
        }
    }
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}
