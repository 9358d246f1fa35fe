//! Blends: two models and popularity, weighed on what is held out.
use crate::{
    fixture::{Cluster, Data, blend_plan, hosts, open},
    hashes, measured,
};
use docent_model::blend::Weights;
use docent_train::{
    Algorithm, Error, Hosts, JobPlan, TrainRequest, TrainResponse,
    message::Key,
    part,
    plan::{JobSettings, Phase},
};
use std::sync::Mutex;
use tokio_util::sync::CancellationToken;

fn global(outcome: &docent_train::Outcome) -> part::BlendGlobal {
    match part::Global::decode(&outcome.global).unwrap() {
        part::Global::Blend(global) => *global,
        _ => panic!("another family"),
    }
}

#[tokio::test]
async fn the_same_blend_comes_out_whatever_the_hosts() {
    let data = Data::planted(400, 120);
    let one = Cluster::healthy(1, &data).run(blend_plan(Hosts::single(1))).await.unwrap();
    assert_eq!(one.parts.len(), 65);
    for (nodes, deal) in [(2, 0), (3, 1), (4, 0), (5, 1)] {
        let many = Cluster::healthy(nodes, &data).run(blend_plan(hosts(nodes, deal))).await.unwrap();
        assert_eq!(hashes(&one), hashes(&many), "{nodes} nodes, deal {deal}");
        assert_eq!((&one.global, &one.reports), (&many.global, &many.reports));
    }
}

#[tokio::test]
async fn a_blend_has_the_parts_of_its_models_and_weights_that_were_earned() {
    let data = Data::planted(400, 120);
    let cluster = Cluster::healthy(3, &data);
    let blended = cluster.run(blend_plan(hosts(3, 0))).await.unwrap();
    let JobPlan { settings, .. } = blend_plan(hosts(3, 0));
    let alone = |algorithm: Algorithm, epoch| {
        let settings = JobSettings { algorithm, filter: None, ..settings.clone() };
        cluster.run(JobPlan { settings, epoch, job: 9, ..blend_plan(hosts(3, 0)) })
    };
    let graph = alone(Algorithm::Graph(settings.filter.unwrap()), 1).await.unwrap();
    let other = alone(settings.algorithm.clone(), 2).await.unwrap();
    let stored = cluster.parts.lock().unwrap();
    for ((blended, graph), other) in blended.parts.iter().zip(&graph.parts).zip(&other.parts).take(64) {
        let part = part::Blended::decode(&stored[&blended.blake3]).unwrap();
        assert_eq!(part.neighbours, part::Neighbours::decode(&stored[&graph.blake3]).unwrap());
        assert_eq!(part.rows, part::Items::decode(&stored[&other.blake3]).unwrap());
    }
    let global = global(&blended);
    assert_eq!(part::Global::Graph(global.graph), part::Global::decode(&graph.global).unwrap());
    assert_eq!(global.with, part::Global::decode(&other.global).unwrap());
    let [first, ..] = &global.blend.channels[..] else { panic!("no channels") };
    assert_eq!(first.weights, Weights { base: 1.0, slope: 0.0 });
    assert!(first.unit > 0.0 && first.is_sum);
    // What it is measured by is the blend: with weights for the graph alone it would be the graph's figures.
    assert_eq!(blended.reports.len(), graph.reports.len());
    let is_moved = global.blend.channels[1..].iter().any(|channel| channel.weights != Weights::default());
    let (of_blend, of_graph) = (blended.reports[1].means.ndcg, graph.reports[1].means.ndcg);
    assert!(is_moved && of_blend > of_graph, "{of_blend} after {of_graph}, {:?}", global.blend);
}

#[tokio::test]
async fn without_a_last_training_the_measured_models_are_published() {
    let data = Data::planted(200, 60);
    let cluster = Cluster::healthy(3, &data);
    let outcome = cluster.run(measured(blend_plan(hosts(3, 0)), false)).await.unwrap();
    assert!(outcome.counts.held_out > 0 && outcome.parts.len() == 65);
    let stored = cluster.parts.lock().unwrap();
    let part = part::Blended::decode(&stored[&outcome.parts[0].blake3]).unwrap();
    assert_eq!(part.rows.items, part.neighbours.items);
}

#[tokio::test]
async fn a_blend_without_anything_held_out_or_of_graphs_alone_is_refused() {
    let data = Data::planted(50, 30);
    let cluster = Cluster::healthy(1, &data);
    let plan = blend_plan(Hosts::single(1));
    let nothing = JobSettings { evaluate: None, ..plan.settings.clone() };
    let graphs = JobSettings { algorithm: Algorithm::Graph(Default::default()), ..plan.settings.clone() };
    for settings in [nothing, graphs] {
        let refused = cluster.run(JobPlan { settings, ..plan.clone() }).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_blend_tells_its_phases_and_ends_when_it_is_cancelled() {
    let data = Data::planted(200, 60);
    let cluster = Cluster::healthy(2, &data);
    let (phases, cancel) = (Mutex::new(Vec::new()), CancellationToken::new());
    let progress = |progress: docent_train::Progress| {
        phases.lock().unwrap().push((progress.phase, progress.is_measuring));
        if progress.phase == Phase::Evaluate {
            cancel.cancel();
        }
    };
    let outcome = cluster.run_until(blend_plan(hosts(2, 0)), progress, cancel.clone()).await;
    assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
    let phases = phases.lock().unwrap();
    let weigh = phases.iter().position(|(phase, _)| *phase == Phase::Weigh).unwrap();
    assert!(phases[..weigh].iter().filter(|(phase, _)| *phase == Phase::Load).count() == 2);
    assert!(phases.iter().all(|(_, is_measuring)| *is_measuring));
}

#[tokio::test]
async fn phases_of_a_blend_out_of_turn_are_refused_with_a_reason() {
    let data = Data::planted(50, 30);
    let cluster = Cluster::healthy(1, &data);
    let worker = cluster.worker(1);
    let key = Key { job: 1, epoch: 1, run: 1 };
    let plan = blend_plan(Hosts::single(1));
    let open = open(key, &plan);
    worker.handle(TrainRequest::Open(open)).await.unwrap();
    worker.handle(TrainRequest::Load(key)).await.unwrap();
    let TrainResponse::Linked { items: counted, .. } = worker.handle(TrainRequest::Link(key)).await.unwrap() else {
        panic!("not linked")
    };
    let mut items = vec![0; 64];
    counted.into_iter().for_each(|(vworker, count)| items[usize::from(vworker)] = count);
    let candidates = TrainRequest::Candidates { key, items, users_max: 0 };
    for early in [candidates, TrainRequest::Compose(key)] {
        let refused = worker.handle(early).await;
        assert!(matches!(refused, Err(Error::OutOfTurn { .. })), "{refused:?}");
    }
    let blend = docent_model::blend::Blend { channels: Vec::new() };
    assert!(worker.handle(TrainRequest::Gains { key, blend, proposals: Vec::new() }).await.is_err());
}
