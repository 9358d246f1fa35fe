//! One case a rule of the planner.

use super::*;
use crate::catalog::properties::{Log, cluster, joining};
use docent_types::training::TrainSettings;

const MS: fn(u64) -> Duration = Duration::from_millis;

pub(crate) fn policy() -> Policy {
    Policy {
        me: NodeId(1),
        birth: cluster(1),
        coordinators: vec![(NodeId(1), "c1:1".into()), (NodeId(2), "c2:1".into())],
        format: 1,
        node_timeout: MS(1_000),
        stage_timeout: MS(5_000),
        job_retry: MS(500),
        job_stall: MS(60_000),
        staged_models_max: 2,
        model_records_max: 10,
        moves_at_once: 2,
        repair_after: MS(10_000),
        auto_balance: true,
        auto_finalize: true,
    }
}

/// A cluster with its health, planned at moments that the test sets.
struct Case {
    log: Log,
    health: Health,
}

impl Case {
    /// Placed, with its coordinators registered and every member heard at 0.
    fn placed(nodes: u64) -> Case {
        let mut case = Case { log: Log::placed(nodes), health: Health::default() };
        case.hear_all(0);
        case.settle(0);
        case
    }

    fn members(&self) -> Vec<NodeId> {
        let catalog = self.log.state.catalog();
        catalog.nodes.keys().chain([&NodeId(2)]).copied().collect()
    }

    fn hear_all(&mut self, at: u64) {
        self.members().into_iter().for_each(|member| self.health.hear(member, MS(at)));
    }

    fn next(&mut self, at: u64) -> Vec<Command> {
        self.health.observe(self.log.state.catalog(), MS(at));
        next(&policy(), &self.log.state, &self.health, Moment { monotonic: MS(at), wall_ms: at as i64 })
    }

    /// Does what is due until nothing is.
    fn settle(&mut self, at: u64) {
        for _ in 0..20 {
            let due = self.next(at);
            if due.is_empty() {
                return;
            }
            for command in due {
                self.log.must(command);
            }
        }
        panic!("the plan never ends: {:?}", self.next(at));
    }

    fn queue(&mut self) {
        self.log.must(Command::QueueJob { settings: TrainSettings::default(), now_ms: 0 });
    }
}

#[test]
fn a_new_cluster_is_born_then_told_its_coordinators_then_placed() {
    let mut case = Case { log: Log { state: State::default(), index: 0 }, health: Health::default() };
    assert_eq!(case.next(0), [Command::Birth(cluster(1))]);
    case.log.must(Command::Birth(cluster(1)));
    let register = Command::RegisterCoordinators { members: policy().coordinators, by: NodeId(1), format: 1 };
    assert_eq!(case.next(0), std::slice::from_ref(&register));
    case.log.must(register);
    case.log.must(Command::Join(joining(1, 1)));
    assert_eq!(case.next(0), [], "one of two nodes");
    case.log.must(Command::Join(joining(2, 2)));
    assert_eq!(case.next(0), [Command::PlaceShards]);
    case.log.must(Command::PlaceShards);
    assert_eq!(case.next(0), []);
}

#[test]
fn the_format_rises_when_every_member_understands_a_higher_one_and_never_before() {
    let mut case = Case::placed(2);
    let policy = Policy { format: 4, ..policy() };
    let due = |case: &Case, policy: &Policy| {
        next(policy, &case.log.state, &case.health, Moment { monotonic: MS(0), wall_ms: 0 })
    };
    let format = |case: &Case| case.log.state.catalog().format();
    let register = |by, format| Command::RegisterCoordinators { members: policy.coordinators.clone(), by, format };
    let again = |nonce: u128, format| {
        let previous = Some((docent_types::ClusterId(1), NodeId(100 + nonce as u64)));
        Command::Join(crate::catalog::Join { previous, format, ..joining(nonce, nonce) })
    };
    case.log.must(register(NodeId(1), 4));
    case.log.must(again(1, 4));
    case.log.must(again(2, 3));
    assert_eq!(due(&case, &policy), [], "the other coordinator has not said what it understands");
    let early = case.log.apply(Command::Finalize(3)).unwrap_err();
    assert!(early.message.contains("member 2") && format(&case) == 2, "{early}");
    case.log.must(register(NodeId(2), 4));
    assert_eq!(due(&case, &Policy { auto_finalize: false, ..policy.clone() }), []);
    assert_eq!(due(&case, &policy), [Command::Finalize(3)], "the lowest of all");
    case.log.must(Command::Finalize(3));
    assert_eq!((format(&case), due(&case, &policy)), (3, vec![]));
    case.log.must(Command::Finalize(2));
    assert_eq!(format(&case), 3, "never lower");

    let before = case.log.state.clone();
    for join in [again(1, 2), Command::Join(joining(9, 9))] {
        let older = case.log.apply(join).unwrap_err();
        assert_eq!(older.kind, docent_types::Kind::Unsupported);
        assert!(older.message.contains("newer docent") && older.message.contains("format 3"), "{older}");
    }
    assert_eq!(case.log.state, before, "refused before anything changed");
    case.log.must(again(2, 4));
    assert_eq!(due(&case, &policy), [Command::Finalize(4)]);
    let raises = |command: &Command| matches!(command, Command::Finalize(_));
    let of_older = due(&case, &Policy { format: 3, ..policy });
    assert!(!of_older.iter().any(raises), "a leader raises to nothing that it does not know itself: {of_older:?}");
}

#[test]
fn silence_kills_and_a_word_revives() {
    let mut case = Case::placed(3);
    assert_eq!(case.next(1_000), []);
    case.hear_all(900);
    case.health = {
        let mut h = Health::new(MS(0));
        for m in [2, 101, 102] {
            h.hear(NodeId(m), MS(900));
        }
        h
    };
    assert_eq!(case.next(1_001), [Command::SetAlive(vec![(NodeId(103), false)])]);
    case.settle(1_001);
    case.health.hear(NodeId(103), MS(1_500));
    assert_eq!(case.next(1_500), [Command::SetAlive(vec![(NodeId(103), true)])]);
}

#[test]
fn a_new_leader_gives_everybody_a_whole_time_out_and_revives_nobody() {
    let mut case = Case::placed(3);
    case.log.must(Command::SetAlive(vec![(NodeId(103), false)]));
    case.health = Health::new(MS(10_000));
    assert_eq!(case.next(11_000), [], "the living are not yet silent, the dead one has not spoken");
    let dead = [2, 101, 102].map(|id| (NodeId(id), false));
    assert_eq!(case.next(11_001), [Command::SetAlive(dead.to_vec())]);
}

#[test]
fn jobs_run_one_after_the_other_on_the_first_living_node() {
    let mut case = Case::placed(3);
    case.log.must(Command::SetAlive(vec![(NodeId(101), false)]));
    case.health = Health::new(MS(0));
    case.queue();
    case.queue();
    let driver = NodeId(102);
    assert_eq!(case.next(0), [Command::AssignJob { job: 1, epoch: 1, driver }]);
    case.settle(0);
    assert_eq!(case.next(0), [], "job 2 waits");
    case.log.must(Command::CancelJob(1));
    assert_eq!(case.next(0), [Command::AssignJob { job: 2, epoch: 1, driver }]);
}

#[test]
fn a_dead_drivers_job_goes_to_another_under_a_higher_epoch() {
    let mut case = Case::placed(3);
    case.queue();
    case.settle(0);
    case.log.must(Command::SetAlive(vec![(NodeId(101), false)]));
    case.health = Health::new(MS(0));
    assert_eq!(case.next(0), [Command::AssignJob { job: 1, epoch: 2, driver: NodeId(102) }]);
    case.log.must(Command::SetAlive(vec![(NodeId(102), false), (NodeId(103), false)]));
    case.health = Health::new(MS(0));
    assert_eq!(case.next(0), [], "nobody is there to drive it");
}

#[test]
fn a_failed_attempt_waits_before_the_next() {
    let mut case = Case::placed(3);
    case.queue();
    case.settle(0);
    let attempt = Attempt { job: 1, epoch: 1, driver: NodeId(101) };
    case.log.must(Command::JobFailed { attempt, error: "e".into(), is_retryable: true });
    assert_eq!(case.next(100), []);
    assert_eq!(case.next(599), []);
    assert_eq!(case.next(600), [Command::AssignJob { job: 1, epoch: 2, driver: NodeId(101) }]);
}

#[test]
fn an_attempt_without_progress_fails() {
    let mut case = Case::placed(3);
    case.queue();
    case.settle(0);
    let progress = docent_types::catalog::JobProgress { epoch: 1, ..Default::default() };
    let attempt = Attempt { job: 1, epoch: 1, driver: NodeId(101) };
    case.log.must(Command::JobProgress { attempt, progress });
    case.hear_all(59_500);
    assert_eq!(case.next(59_500), [], "the progress counts from when it was seen");
    case.hear_all(119_500);
    assert_eq!(case.next(119_500), []);
    let due = case.next(119_501);
    assert!(matches!(&due[..], [Command::JobFailed { is_retryable: true, .. }]), "{due:?}");
}

#[test]
fn a_version_is_staged_and_activated_when_every_living_replica_has_it() {
    let mut case = Case::placed(3);
    let version = case.log.train(TrainSettings::default());
    assert_eq!(case.next(0), []);
    let shards: Vec<_> = case.log.state.catalog().shards.keys().copied().collect();
    for node in [101, 102] {
        case.log.must(Command::MarkStaged { node: NodeId(node), version, shards: shards.clone() });
    }
    assert_eq!(case.next(0), [], "node 103 is alive and has not");
    case.log.must(Command::SetAlive(vec![(NodeId(103), false)]));
    case.health = Health::new(MS(0));
    assert_eq!(case.next(0), [Command::Stage(version)]);
    case.log.must(Command::Stage(version));
    assert_eq!(case.next(0), [Command::Activate(version)]);
    case.log.must(Command::Activate(version));
    assert_eq!(case.next(0), []);
}

#[test]
fn laggards_are_left_behind_after_the_time_out_when_two_of_each_shard_are_there() {
    let mut case = Case::placed(3);
    let version = case.log.train(TrainSettings { activate: false, ..Default::default() });
    let shards: Vec<_> = case.log.state.catalog().shards.keys().copied().collect();
    assert_eq!(case.next(0), []);
    case.log.must(Command::MarkStaged { node: NodeId(101), version, shards: shards.clone() });
    case.hear_all(6_000);
    assert_eq!(case.next(6_000), [], "one of three is not enough");
    case.log.must(Command::MarkStaged { node: NodeId(102), version, shards: shards[1..].to_vec() });
    assert_eq!(case.next(6_000), [], "nor for one shard");
    case.log.must(Command::MarkStaged { node: NodeId(102), version, shards });
    assert_eq!(case.next(6_000), [Command::Stage(version)]);
    case.settle(6_000);
    assert!(case.log.state.catalog().live.is_none(), "it was not to be activated");
}

#[test]
fn one_replica_is_enough_where_there_is_one() {
    let mut case = Case::placed(1);
    let version = case.log.train(TrainSettings::default());
    case.log.stage_everywhere(version);
    case.settle(0);
    assert_eq!(case.log.state.catalog().live.map(|live| live.version), Some(version));
}

#[test]
fn a_version_that_too_many_refuse_fails_and_says_who() {
    let mut case = Case::placed(3);
    let version = case.log.train(TrainSettings::default());
    let refuse = |node| Command::RefuseVersion { node: NodeId(node), version, error: "no memory".into() };
    case.log.must(refuse(101));
    assert_eq!(case.next(0), [], "two of three may still do");
    case.log.must(refuse(102));
    let due = case.next(0);
    let [Command::FailModel { error, .. }] = &due[..] else { panic!("{due:?}") };
    assert!(error.contains("node 101: no memory"), "{error}");
    case.settle(0);
}

#[test]
fn a_version_that_never_gets_there_fails_in_the_end() {
    let mut case = Case::placed(3);
    let version = case.log.train(TrainSettings::default());
    assert_eq!(case.next(0), []);
    case.hear_all(50_001);
    let due = case.next(50_001);
    assert!(matches!(&due[..], [Command::FailModel { version: v, .. }] if *v == version), "{due:?}");
}

#[test]
fn a_late_version_never_replaces_a_newer_one_nor_undoes_a_rollback() {
    let mut case = Case::placed(3);
    let first = case.log.train(TrainSettings::default());
    let second = case.log.train(TrainSettings::default());
    case.log.stage_everywhere(second);
    case.settle(0);
    assert_eq!(case.log.state.catalog().live.map(|live| live.version), Some(second));
    case.log.stage_everywhere(first);
    case.settle(0);
    assert_eq!(case.log.state.catalog().live.map(|live| live.version), Some(second));
    let third = case.log.train(TrainSettings::default());
    case.log.stage_everywhere(third);
    case.settle(0);
    case.log.must(Command::Rollback);
    case.settle(0);
    assert_eq!(case.log.state.catalog().live.map(|live| live.version), Some(second));
}

#[test]
fn a_version_worse_than_the_live_one_is_held_back_also_after_a_rollback() {
    let mut case = Case::placed(3);
    let live = |case: &Case| case.log.state.catalog().live.map(|live| live.version);
    let train = |case: &mut Case, ndcg: f64| {
        let figures = [("ndcg@20", ndcg), ("ndcg@20.low", ndcg - 0.01), ("ndcg@20.high", ndcg + 0.01)];
        let version = case.log.train_measured(TrainSettings::default(), &figures);
        case.log.stage_everywhere(version);
        case.settle(0);
        version
    };
    let first = train(&mut case, 0.10);
    let worse = train(&mut case, 0.08);
    assert_eq!(live(&case), Some(first));
    assert_eq!(case.log.state.catalog().models[&worse].state, ModelState::Staged, "it can still be activated by hand");
    let best = train(&mut case, 0.20);
    assert_eq!(live(&case), Some(best));
    train(&mut case, 0.15);
    case.log.must(Command::Rollback);
    case.settle(0);
    assert_eq!(live(&case), Some(first), "better than the live one, but it would undo a rollback");
    let later = train(&mut case, 0.15);
    assert_eq!(live(&case), Some(later));
}

#[test]
fn surplus_versions_are_retired() {
    let mut case = Case::placed(3);
    for _ in 0..4 {
        let version = case.log.train(TrainSettings { activate: false, ..Default::default() });
        case.log.must(Command::Stage(version));
    }
    assert_eq!(case.next(0), [Command::RetireOld { staged_max: 2, records_max: 10 }]);
    case.settle(0);
}

/// A cluster whose members understand everything.
fn upgraded() -> Case {
    let mut case = Case::placed(2);
    let format = docent_types::codec::VERSION.into();
    let coordinators = vec![(NodeId(1), "c1:1".into()), (NodeId(2), "c2:1".into())];
    for by in [NodeId(1), NodeId(2)] {
        case.log.must(Command::RegisterCoordinators { members: coordinators.clone(), by, format });
    }
    for nonce in 1..=2u128 {
        let previous = Some((docent_types::ClusterId(1), NodeId(100 + nonce as u64)));
        case.log.must(Command::Join(crate::catalog::Join { previous, format, ..joining(nonce, nonce) }));
    }
    case.log.must(Command::Finalize(format));
    case
}

/// A cluster with a schedule.
fn scheduled(every_ms: Option<u64>, after_events: Option<u64>) -> Case {
    let mut case = upgraded();
    let settings = TrainSettings::default();
    let schedule = docent_types::schedule::Schedule { name: "s".into(), settings, every_ms, after_events };
    case.log.must(Command::SetSchedule { schedule, now_ms: 0 });
    case
}

impl Case {
    /// The run that the plan asks for.
    fn run_due(&mut self, at: u64) -> Option<Command> {
        self.next(at).into_iter().find(|command| matches!(command, Command::QueueScheduled { .. }))
    }

    /// Ends the running job without a model.
    fn end_job(&mut self, job: u64) {
        self.log.must(Command::CancelJob(job));
    }
}

#[test]
fn a_schedule_queues_its_next_job_when_the_time_has_passed_and_the_last_one_is_over() {
    let mut case = scheduled(Some(60_000), None);
    assert_eq!(case.run_due(59_999), None);
    let first = case.run_due(60_000).unwrap();
    case.log.must(first.clone());
    assert_eq!(case.run_due(500_000), None, "its first job is not over");
    let early = Command::QueueScheduled { name: "s".into(), run: 2, now_ms: 0, events: None };
    assert_eq!(case.log.apply(early).unwrap_err().kind, docent_types::Kind::Conflict);
    case.end_job(1);
    assert_eq!(case.log.apply(first).unwrap_err().kind, docent_types::Kind::Conflict, "a run is queued once");
    let second = case.run_due(500_000).unwrap();
    assert!(matches!(second, Command::QueueScheduled { run: 2, now_ms: 500_000, .. }), "{second:?}");
    case.log.must(second);
    case.end_job(2);
    assert_eq!(case.run_due(559_999), None, "time counts from the last job");
    case.log.must(Command::RemoveSchedule("s".into()));
    assert_eq!(case.run_due(900_000), None);
    assert_eq!(case.log.apply(Command::RemoveSchedule("s".into())).unwrap_err().kind, docent_types::Kind::NotFound);
}

#[test]
fn a_schedule_counts_events_from_its_last_job_even_under_a_new_leader() {
    let mut case = scheduled(None, Some(100));
    assert_eq!(case.run_due(0), None, "nobody has said how many there are");
    let items: Vec<_> =
        case.log.state.catalog().shards_of(docent_types::Keyspace::Items).map(|shard| shard.id).collect();
    let count = |case: &mut Case, events| items.iter().for_each(|shard| case.health.count(*shard, events));
    count(&mut case, 99);
    assert_eq!(case.run_due(0), None);
    count(&mut case, 130);
    let run = case.run_due(0).unwrap();
    case.log.must(run);
    case.end_job(1);
    case.health = Health::new(MS(0));
    case.hear_all(0);
    assert_eq!(case.run_due(0), None, "the new leader was told nothing yet");
    count(&mut case, 229);
    assert_eq!(case.run_due(0), None);
    count(&mut case, 230);
    assert!(case.run_due(0).is_some());
    // Replaced, it goes on counting from its last job.
    let mut replaced = case.log.state.catalog().schedules["s"].schedule.clone();
    replaced.after_events = Some(101);
    case.log.must(Command::SetSchedule { schedule: replaced, now_ms: 7 });
    assert_eq!(case.run_due(0), None);
    count(&mut case, 231);
    assert!(case.run_due(0).is_some());
}

#[test]
fn a_schedule_is_not_set_before_the_whole_cluster_understands_it() {
    let mut case = Case::placed(2);
    let settings = TrainSettings::default();
    let schedule =
        docent_types::schedule::Schedule { name: "s".into(), settings, every_ms: Some(1_000), after_events: None };
    let error = case.log.apply(Command::SetSchedule { schedule, now_ms: 0 }).unwrap_err();
    assert_eq!(error.kind, docent_types::Kind::Unsupported);
}

#[test]
fn a_study_tries_settings_one_after_the_other_and_ends_with_the_best() {
    use docent_types::study::{Dimension, Study, Values};
    let mut case = upgraded();
    let values = Values::Between { low: 1e-4, high: 1e-1, is_log: true };
    let study = Study {
        name: "s".into(),
        settings: TrainSettings::default(),
        space: vec![Dimension { setting: "regularization".into(), values }],
        trials: 3,
        metric: "ndcg@20".into(),
    };
    case.log.must(Command::SetStudy { study, now_ms: 0 });
    let begun = |case: &mut Case| {
        let next = case.next(0).into_iter().find(|command| matches!(command, Command::BeginTrial { .. }));
        let next = next.expect("a trial");
        case.log.must(next.clone());
        assert!(case.log.apply(next).is_err(), "a trial begins once");
        let catalog = case.log.state.catalog();
        catalog.jobs.values().last().unwrap().clone()
    };
    // The second trial is the best, the third fails.
    for (trial, score) in [Some(0.1), Some(0.2), None].into_iter().enumerate() {
        let job = begun(&mut case);
        assert!(!job.settings.activate && !job.settings.refit);
        assert!(
            !case
                .next(0)
                .iter()
                .any(|command| matches!(command, Command::BeginTrial { .. } | Command::EndTrial { .. }))
        );
        match score {
            Some(score) => {
                let driver = NodeId(101);
                case.log.must(Command::AssignJob { job: job.id, epoch: 1, driver });
                let metrics = [("ndcg@20".to_owned(), score)].into();
                let trained = docent_proto::internal::coordinator::TrainedModel {
                    metrics,
                    ..crate::catalog::properties::trained()
                };
                let attempt = Attempt { job: job.id, epoch: 1, driver };
                case.log.must(Command::RegisterModel { attempt, trained, now_ms: 0 });
            }
            None => drop(case.log.must(Command::CancelJob(job.id))),
        }
        let end = Command::EndTrial { name: "s".into(), trial: trial as u32 };
        assert!(case.next(0).contains(&end));
        case.log.must(end);
    }
    let best = begun(&mut case);
    assert!(best.settings.activate && best.settings.refit);
    let studied = case.log.state.catalog().studies["s"].clone();
    let scores: Vec<_> = studied.trials.iter().map(|trial| trial.score).collect();
    assert_eq!(scores, [Some(0.1), Some(0.2), None]);
    assert_eq!(best.settings.algorithm, studied.study.settings_of(&studied.trials[1].values).unwrap().algorithm);
    assert!(studied.is_over() && studied.best_job == Some(best.id));
    assert!(!case.next(0).iter().any(|command| matches!(command, Command::BeginTrial { .. })));
    case.log.must(Command::RemoveStudy("s".into()));
    assert!(!case.log.state.catalog().jobs[&best.id].state.is_over(), "the last job goes on");
}

#[test]
fn a_removed_study_takes_its_trial_along() {
    use docent_types::study::{Dimension, Study, Values};
    let mut case = upgraded();
    let space = vec![Dimension { setting: "dim".into(), values: Values::OneOf(vec![16.0, 32.0]) }];
    let settings = TrainSettings::default();
    let study = Study { name: "s".into(), settings, space, trials: 3, metric: "ndcg@20".into() };
    case.log.must(Command::SetStudy { study: study.clone(), now_ms: 0 });
    let error = case.log.apply(Command::SetStudy { study: Study { trials: 4, ..study }, now_ms: 0 }).unwrap_err();
    assert_eq!(error.kind, docent_types::Kind::Conflict);
    let begin = case.next(0).into_iter().find(|command| matches!(command, Command::BeginTrial { .. })).unwrap();
    case.log.must(begin);
    case.log.must(Command::RemoveStudy("s".into()));
    let jobs: Vec<_> = case.log.state.catalog().jobs.values().map(|job| job.state).collect();
    assert_eq!(jobs, [JobState::Cancelled]);
    assert!(
        !case.next(0).iter().any(|command| matches!(command, Command::BeginTrial { .. } | Command::EndTrial { .. }))
    );
}
