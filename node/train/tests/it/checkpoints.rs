//! Attempts that end in the middle, and those that go on from what they left.
use crate::{
    fixture::{Cluster, Data, PLANS, hosts, kept},
    hashes, measured,
};
use docent_train::{Error, Hosts, JobPlan, Outcome, TrainRequest, message::Key};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

/// Whether a request computes something that a checkpoint saves; equal for all hosts of a step.
fn step(request: &TrainRequest) -> Option<(Key, u32)> {
    match request {
        TrainRequest::Step { key, step, .. } => Some((*key, *step)),
        TrainRequest::Count { key, round, .. } => Some((*key, u32::from(*round))),
        TrainRequest::Gradients { key, at } | TrainRequest::Apply { key, at } => Some((*key, at.version())),
        _ => None,
    }
}

/// A cluster of three whose third node dies when `dies` says so, and the steps that were asked for.
type Steps = Arc<Mutex<Vec<(Key, u32)>>>;

fn mortal(data: &Arc<Data>, dies: impl Fn(Key, u32) -> bool + Send + Sync + 'static) -> (Cluster, Steps) {
    let (dead, steps) = (AtomicU64::new(0), Steps::default());
    let seen = steps.clone();
    let lost = move |node: u64, request: &TrainRequest| {
        if let Some((key, at)) = step(request) {
            seen.lock().unwrap().push((key, at));
            dead.fetch_max(dies(key, at).into(), Ordering::Relaxed);
        }
        node == 3 && dead.load(Ordering::Relaxed) > 0
    };
    (Cluster::new(3, data, Box::new(lost)), steps)
}

fn first_step(steps: &Steps, epoch: u64, run: u8) -> Option<u32> {
    let of_run = |(key, _): &&(Key, u32)| (key.epoch, key.run) == (epoch, run);
    steps.lock().unwrap().iter().find(of_run).map(|(_, at)| *at)
}

/// Steps of an epoch of these plans.
const STEPS: u32 = 12;

/// A step in the middle of a plan's job, and the one that another attempt goes on from: hosts that are apart meet when an epoch is over.
fn middle(plan: &JobPlan, at: u32) -> (u32, u32) {
    if plan.settings.staleness == 0 { (at, at) } else { (at * STEPS + at, at * STEPS) }
}

#[tokio::test]
async fn another_attempt_goes_on_where_the_first_was_when_a_host_died() {
    let data = Data::planted(150, 60);
    for plan in PLANS {
        let expected = Cluster::healthy(1, &data).run(plan(Hosts::single(1))).await.unwrap();
        for at in [1, 4] {
            let (at, kept_at) = middle(&plan(Hosts::single(1)), at);
            let (cluster, steps) = mortal(&data, move |_, step| step == at);
            let failed = cluster.run(kept(plan(hosts(3, 0)), 3)).await;
            assert!(matches!(failed, Err(Error::Peer { node: 3, .. })), "{failed:?}");
            let outcome = cluster.run(JobPlan { epoch: 2, ..kept(plan(hosts(2, 0)), 2) }).await.unwrap();
            same(&expected, &outcome);
            assert_eq!(first_step(&steps, 2, 1), Some(kept_at), "what was done is done");
            for node in 1..=3 {
                cluster.worker(node).retain(|_| true);
                assert!(cluster.kept[&node].len() > 0 || node == 3);
                cluster.worker(node).retain(|job| job != 5);
                assert_eq!(cluster.kept[&node].len(), 0, "a job that is over leaves nothing");
            }
        }
    }
}

fn same(expected: &Outcome, outcome: &Outcome) {
    assert_eq!(hashes(expected), hashes(outcome));
    assert_eq!(expected.global, outcome.global);
    assert_eq!(expected.losses, outcome.losses);
    assert_eq!(expected.reports, outcome.reports);
    assert_eq!(expected.counts, outcome.counts);
}

#[tokio::test]
async fn what_was_measured_is_not_measured_again() {
    let data = Data::planted(200, 60);
    for plan in PLANS {
        let whole = |hosts| measured(plan(hosts), true);
        let expected = Cluster::healthy(1, &data).run(whole(Hosts::single(1))).await.unwrap();
        for (run, at) in [(0, 3), (1, 0), (1, 3)] {
            let (at, kept_at) = middle(&plan(Hosts::single(1)), at);
            let (cluster, steps) = mortal(&data, move |key, step| key.run == run && step == at);
            assert!(cluster.run(kept(whole(hosts(3, 0)), 3)).await.is_err());
            let outcome = cluster.run(JobPlan { epoch: 2, ..kept(whole(hosts(2, 0)), 2) }).await.unwrap();
            same(&expected, &outcome);
            assert_eq!(first_step(&steps, 2, 0), (run == 0).then_some(kept_at));
            assert_eq!(first_step(&steps, 2, 1), Some(if run == 0 { 0 } else { kept_at }));
        }
    }
}

#[tokio::test]
async fn states_of_another_input_and_states_that_are_gone_are_not_gone_on_from() {
    let data = Data::planted(150, 60);
    for plan in PLANS {
        let expected = Cluster::healthy(1, &data).run(plan(Hosts::single(1))).await.unwrap();
        let (cluster, steps) = mortal(&data, |_, step| step == 3);
        assert!(cluster.run(kept(plan(hosts(3, 0)), 3)).await.is_err());
        let mut other = JobPlan { epoch: 2, ..kept(plan(hosts(2, 0)), 2) };
        if let Some(checkpoints) = &mut other.checkpoints {
            checkpoints.input = [8; 32];
        }
        same(&expected, &cluster.run(other).await.unwrap());
        assert_eq!(first_step(&steps, 2, 1), Some(0), "another input");

        let (cluster, steps) = mortal(&data, |_, step| step == 3);
        assert!(cluster.run(kept(plan(hosts(3, 0)), 3)).await.is_err());
        cluster.worker(1).retain(|_| false);
        same(&expected, &cluster.run(JobPlan { epoch: 2, ..kept(plan(hosts(2, 0)), 2) }).await.unwrap());
        assert_eq!(first_step(&steps, 2, 1), Some(0), "a node that forgot");

        // The list is there and the bytes are not: found out while they are read.
        let (cluster, steps) = mortal(&data, |_, step| step == 3);
        assert!(cluster.run(kept(plan(hosts(3, 0)), 3)).await.is_err());
        cluster.kept[&1].forget();
        same(&expected, &cluster.run(JobPlan { epoch: 2, ..kept(plan(hosts(2, 0)), 2) }).await.unwrap());
        assert_eq!(first_step(&steps, 2, 1), Some(0), "a disk that lost it");
    }
}

#[tokio::test]
async fn figures_of_an_evaluation_outlive_the_states_beside_them() {
    let data = Data::planted(150, 60);
    for plan in PLANS {
        let whole = |hosts| measured(plan(hosts), true);
        let expected = Cluster::healthy(1, &data).run(whole(Hosts::single(1))).await.unwrap();
        let (cluster, steps) = mortal(&data, |key, step| key.run == 1 && step == 3);
        assert!(cluster.run(kept(whole(hosts(3, 0)), 3)).await.is_err());
        cluster.kept[&1].forget();
        same(&expected, &cluster.run(JobPlan { epoch: 2, ..kept(whole(hosts(2, 0)), 2) }).await.unwrap());
        assert_eq!((first_step(&steps, 2, 0), first_step(&steps, 2, 1)), (None, Some(0)));
    }
}

#[tokio::test]
async fn requests_that_come_twice_change_nothing() {
    let data = Data::planted(150, 60);
    for plan in PLANS {
        let expected = Cluster::healthy(1, &data).run(plan(Hosts::single(1))).await.unwrap();
        let cluster = Cluster::healthy(3, &data).doubling();
        same(&expected, &cluster.run(kept(plan(hosts(3, 0)), 3)).await.unwrap());
    }
}
