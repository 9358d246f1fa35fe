//! What the catalog promises, whatever the order of its entries.

use super::*;
use docent_proto::internal::coordinator::TrainedModel;
use docent_types::catalog::*;
use docent_types::schedule::Schedule;
use docent_types::study::{Dimension, Study, Values};
use docent_types::training::TrainSettings;
use docent_types::{ClusterId, Keyspace, NodeId, ShardId, SlotRange, codec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) fn cluster(id: u128) -> Cluster {
    Cluster {
        id: ClusterId(id),
        placement_key: [7; 16],
        user_shards: 2,
        item_shards: 1,
        replication: 3,
        expect_nodes: 2,
        format: 2,
    }
}

pub(crate) fn joining(token: u128, nonce: u128) -> Join {
    Join {
        token,
        nonce,
        previous: None,
        internal_addr: format!("10.0.0.{}:7000", nonce % 250),
        query_addr: String::new(),
        zone: format!("z{}", nonce % 2),
        format: 2,
    }
}

pub(crate) fn trained() -> TrainedModel {
    let part = ModelPart {
        keyspace: Keyspace::Items,
        slots: SlotRange { first: 0, end: 4096 },
        hash: [1; 32],
        bytes: 10,
        holders: vec![NodeId(101)],
    };
    TrainedModel { cut: vec![], parts: vec![part.clone()], global: part, metrics: BTreeMap::new() }
}

/// A state and the index of its last entry.
pub(crate) struct Log {
    pub(crate) state: State,
    pub(crate) index: u64,
}

impl Log {
    /// A cluster of `nodes` nodes with its shards placed.
    pub(crate) fn placed(nodes: u64) -> Log {
        let mut log = Log { state: State::default(), index: 0 };
        log.must(Command::Birth(Cluster { expect_nodes: nodes as u16, ..cluster(1) }));
        for nonce in 1..=nodes {
            log.must(Command::Join(joining(u128::from(nonce), u128::from(nonce))));
        }
        log.must(Command::PlaceShards);
        log
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        self.state.apply(self.index, command)
    }

    pub(crate) fn must(&mut self, command: Command) -> Answer {
        self.apply(command).unwrap()
    }

    /// Runs a job to a registered version.
    pub(crate) fn train(&mut self, settings: TrainSettings) -> u64 {
        self.train_measured(settings, &[])
    }

    /// As `train`, to a version with these figures.
    pub(crate) fn train_measured(&mut self, settings: TrainSettings, figures: &[(&str, f64)]) -> u64 {
        let Answer::Job(job) = self.must(Command::QueueJob { settings, now_ms: 5 }) else { panic!("no job") };
        let driver = NodeId(101);
        self.must(Command::AssignJob { job: job.id, epoch: 1, driver });
        let attempt = Attempt { job: job.id, epoch: 1, driver };
        let metrics = figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let trained = TrainedModel { metrics, ..trained() };
        let Answer::Version(version) = self.must(Command::RegisterModel { attempt, trained, now_ms: 6 }) else {
            panic!("no version")
        };
        version
    }

    pub(crate) fn stage_everywhere(&mut self, version: u64) {
        let nodes: Vec<NodeId> = self.state.catalog().nodes.keys().copied().collect();
        let shards: Vec<ShardId> = self.state.catalog().shards.keys().copied().collect();
        for node in nodes {
            self.must(Command::MarkStaged { node, version, shards: shards.clone() });
        }
    }
}

#[test]
fn a_cluster_is_born_once() {
    let mut log = Log { state: State::default(), index: 0 };
    assert_eq!(log.apply(Command::Join(joining(1, 1))).unwrap_err().kind, Kind::Unavailable);
    assert_eq!(log.must(Command::Birth(cluster(1))), Answer::Born(cluster(1)));
    assert_eq!(log.must(Command::Birth(cluster(2))), Answer::Born(cluster(1)));
    assert_eq!(log.state.catalog().cluster.as_ref().map(|c| c.id), Some(ClusterId(1)));
}

#[test]
fn a_repeated_join_gets_the_same_node_and_a_used_token_admits_no_other() {
    let mut log = Log { state: State::default(), index: 0 };
    log.must(Command::Birth(cluster(1)));
    let first = log.must(Command::Join(joining(9, 1)));
    assert_eq!(first, Answer::Joined { cluster: ClusterId(1), node: NodeId(FIRST_NODE) });
    let index = log.state.catalog().index;
    assert_eq!(log.must(Command::Join(joining(9, 1))), first);
    assert_eq!(log.must(Command::Join(joining(10, 1))), first, "the nonce says that it is in already");
    assert_eq!(log.state.catalog().index, index, "nothing changed");
    let error = log.apply(Command::Join(joining(9, 2))).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(error.message.contains("node 101") && error.message.contains("docent token create"), "{error}");
}

#[test]
fn a_returning_node_keeps_its_id_and_brings_its_new_address() {
    let mut log = Log::placed(2);
    log.must(Command::SetAlive(vec![(NodeId(101), false)]));
    let back = Join { previous: Some((ClusterId(1), NodeId(101))), internal_addr: "new:1".into(), ..joining(77, 1) };
    log.must(Command::Join(back.clone()));
    let node = &log.state.catalog().nodes[&NodeId(101)];
    assert!(node.is_alive && node.internal_addr == "new:1");
    assert_eq!(log.state.catalog().nodes.len(), 2);

    let stranger = Join { previous: Some((ClusterId(2), NodeId(101))), ..back.clone() };
    let error = log.apply(Command::Join(stranger)).unwrap_err();
    assert!(error.message.contains(&ClusterId(1).to_string()) && error.message.contains(&ClusterId(2).to_string()));
    let copy = Join { nonce: 99, ..back.clone() };
    assert_eq!(log.apply(Command::Join(copy)).unwrap_err().kind, Kind::Conflict);
    let unknown = Join { previous: Some((ClusterId(1), NodeId(150))), ..back };
    assert_eq!(log.apply(Command::Join(unknown)).unwrap_err().kind, Kind::Conflict);
}

#[test]
fn a_restarted_driver_gives_its_job_back() {
    let mut log = Log::placed(2);
    log.must(Command::QueueJob { settings: TrainSettings::default(), now_ms: 0 });
    log.must(Command::AssignJob { job: 1, epoch: 1, driver: NodeId(101) });
    log.must(Command::Join(Join { previous: Some((ClusterId(1), NodeId(101))), ..joining(1, 1) }));
    let job = &log.state.catalog().jobs[&1];
    assert_eq!((job.state, job.epoch, job.driver), (JobState::Queued, 1, None));
}

#[test]
fn shards_are_placed_once_when_enough_nodes_are_there() {
    let mut log = Log { state: State::default(), index: 0 };
    log.must(Command::Birth(cluster(1)));
    log.must(Command::Join(joining(1, 1)));
    let error = log.apply(Command::PlaceShards).unwrap_err();
    assert!(error.message.contains("1 of 2 nodes"), "{error}");
    assert_eq!(
        log.apply(Command::QueueJob { settings: TrainSettings::default(), now_ms: 0 }).unwrap_err().kind,
        Kind::Unavailable
    );
    log.must(Command::Join(joining(2, 2)));
    log.must(Command::PlaceShards);
    let shards = log.state.catalog().shards.clone();
    let ids: BTreeSet<u64> = shards.values().flat_map(|s| &s.replicas).map(|r| r.id.0).collect();
    assert_eq!(ids.len(), 3 * 2, "replication is at most the number of nodes");
    assert_eq!(ids.first(), Some(&(log.index << 16)));
    log.must(Command::PlaceShards);
    assert_eq!(log.state.catalog().shards, shards);
}

#[test]
fn a_driver_of_an_older_attempt_is_told_to_stop() {
    let mut log = Log::placed(2);
    log.must(Command::QueueJob { settings: TrainSettings::default(), now_ms: 0 });
    log.must(Command::AssignJob { job: 1, epoch: 1, driver: NodeId(101) });
    log.must(Command::AssignJob { job: 1, epoch: 2, driver: NodeId(102) });
    let zombie = Attempt { job: 1, epoch: 1, driver: NodeId(101) };
    let progress = JobProgress::default();
    assert_eq!(log.apply(Command::JobProgress { attempt: zombie, progress }).unwrap_err().kind, Kind::Conflict);
    let error = log.apply(Command::RegisterModel { attempt: zombie, trained: trained(), now_ms: 0 }).unwrap_err();
    assert!(error.message.contains("epoch 2"), "{error}");
    assert!(log.state.catalog().models.is_empty());
}

#[test]
fn a_failing_job_is_tried_three_times_and_a_hopeless_one_once() {
    let mut log = Log::placed(2);
    for (job, is_retryable, states) in
        [(1, true, vec![JobState::Queued, JobState::Queued, JobState::Failed]), (2, false, vec![JobState::Failed])]
    {
        log.must(Command::QueueJob { settings: TrainSettings::default(), now_ms: 0 });
        for (epoch, state) in (1..).zip(states) {
            log.must(Command::AssignJob { job, epoch, driver: NodeId(101) });
            let attempt = Attempt { job, epoch, driver: NodeId(101) };
            log.must(Command::JobFailed { attempt, error: "lost a worker".into(), is_retryable });
            assert_eq!(log.state.catalog().jobs[&job].state, state);
        }
        assert_eq!(log.state.catalog().jobs[&job].error.as_deref(), Some("lost a worker"));
    }
}

#[test]
fn a_job_that_kills_its_drivers_ends_too() {
    let mut log = Log::placed(2);
    log.must(Command::QueueJob { settings: TrainSettings::default(), now_ms: 0 });
    for epoch in 1..=EPOCHS_MAX + 1 {
        log.must(Command::AssignJob { job: 1, epoch, driver: NodeId(101) });
    }
    let job = &log.state.catalog().jobs[&1];
    assert_eq!(job.state, JobState::Failed);
    assert!(job.error.as_deref().unwrap().contains("10 attempts"));
}

#[test]
fn a_cancelled_job_stays_cancelled() {
    let mut log = Log::placed(2);
    log.must(Command::QueueJob { settings: TrainSettings::default(), now_ms: 0 });
    log.must(Command::CancelJob(1));
    log.must(Command::CancelJob(1));
    assert_eq!(
        log.apply(Command::AssignJob { job: 1, epoch: 1, driver: NodeId(101) }).unwrap_err().kind,
        Kind::Conflict
    );
    assert_eq!(log.apply(Command::CancelJob(2)).unwrap_err().kind, Kind::NotFound);
    log.train(TrainSettings::default());
    assert!(log.apply(Command::CancelJob(2)).unwrap_err().message.contains("succeeded"));
}

#[test]
fn a_repeated_registration_makes_one_version() {
    let mut log = Log::placed(2);
    assert_eq!(log.train(TrainSettings::default()), 1);
    let attempt = Attempt { job: 1, epoch: 1, driver: NodeId(101) };
    assert_eq!(log.must(Command::RegisterModel { attempt, trained: trained(), now_ms: 9 }), Answer::Version(1));
    assert_eq!(log.state.catalog().models.len(), 1);
}

#[test]
fn only_a_staged_version_or_the_rollback_target_can_go_live() {
    let mut log = Log::placed(2);
    let versions: Vec<u64> = (0..3).map(|_| log.train(TrainSettings::default())).collect();
    assert_eq!(versions, [1, 2, 3]);
    assert!(log.apply(Command::Rollback).unwrap_err().message.contains("no version is live"));
    assert!(log.apply(Command::Activate(1)).unwrap_err().message.contains("not staged"));
    assert_eq!(log.apply(Command::Activate(9)).unwrap_err().kind, Kind::NotFound);
    for version in [1, 2, 3] {
        log.must(Command::Stage(version));
        let expected = Activation { version, epoch: version, previous: (version > 1).then(|| version - 1) };
        assert_eq!(log.must(Command::Activate(version)), Answer::Activated(expected));
        assert_eq!(log.must(Command::Activate(version)), Answer::Activated(expected), "again changes nothing");
    }
    assert!(log.apply(Command::Activate(1)).unwrap_err().message.contains("retired"));
    let back = Activation { version: 2, epoch: 4, previous: Some(3) };
    assert_eq!(log.must(Command::Rollback), Answer::Activated(back));
    assert_eq!(
        log.must(Command::Activate(3)),
        Answer::Activated(Activation { version: 3, epoch: 5, previous: Some(2) })
    );
    let states: Vec<ModelState> = log.state.catalog().models.values().map(|m| m.state).collect();
    assert_eq!(states, [ModelState::Retired, ModelState::Retired, ModelState::Live]);
}

#[test]
fn old_versions_go_but_never_the_live_one_nor_its_rollback_target() {
    let mut log = Log::placed(2);
    for _ in 0..6 {
        let version = log.train(TrainSettings::default());
        log.must(Command::Stage(version));
    }
    log.must(Command::Activate(1));
    log.must(Command::Activate(2));
    log.must(Command::RetireOld { staged_max: 2, records_max: 1 });
    let states: BTreeMap<u64, ModelState> = log.state.catalog().models.values().map(|m| (m.version, m.state)).collect();
    let expected = [
        (1, ModelState::Retired),
        (2, ModelState::Live),
        (3, ModelState::Retired),
        (4, ModelState::Retired),
        (5, ModelState::Staged),
        (6, ModelState::Staged),
    ];
    assert_eq!(states, BTreeMap::from(expected));
    log.must(Command::RetireOld { staged_max: 2, records_max: 1 });
    assert!(!log.state.catalog().models.contains_key(&3), "the oldest record goes once it is one too many");
    let index = log.state.catalog().index;
    log.must(Command::RetireOld { staged_max: 2, records_max: 1 });
    assert_eq!(log.state.catalog().index, index);
}

#[test]
fn a_node_vouches_only_for_shards_that_it_hosts() {
    let mut log = Log::placed(2);
    log.must(Command::Join(joining(3, 3)));
    let version = log.train(TrainSettings::default());
    let shards: Vec<ShardId> = log.state.catalog().shards.keys().copied().collect();
    log.must(Command::MarkStaged { node: NodeId(103), version, shards: shards.clone() });
    assert!(log.state.catalog().models[&version].staged.is_empty());
    log.must(Command::MarkStaged { node: NodeId(101), version, shards });
    assert_eq!(log.state.catalog().models[&version].staged.len(), 3);
}

#[test]
fn a_node_that_lost_a_version_no_longer_vouches_for_it_and_the_live_one_stays_live() {
    let mut log = Log::placed(2);
    let version = log.train(TrainSettings::default());
    log.stage_everywhere(version);
    log.must(Command::Stage(version));
    log.must(Command::Activate(version));
    let holders = |log: &Log| -> BTreeSet<NodeId> {
        log.state.catalog().models[&version].staged.iter().map(|(_, node)| *node).collect()
    };
    log.must(Command::Join(Join { previous: Some((ClusterId(1), NodeId(101))), ..joining(1, 1) }));
    assert_eq!(holders(&log), BTreeSet::from([NodeId(102)]), "a restarted node has to load it again");
    let shards: Vec<ShardId> = log.state.catalog().shards.keys().copied().collect();
    log.must(Command::Unstage { node: NodeId(102), version, shards: shards.clone() });
    let catalog = log.state.catalog();
    assert!(holders(&log).is_empty());
    assert_eq!(
        (catalog.models[&version].state, catalog.live.map(|live| live.version)),
        (ModelState::Live, Some(version))
    );
    let index = catalog.index;
    log.must(Command::Unstage { node: NodeId(102), version, shards: shards.clone() });
    log.must(Command::Join(Join { previous: Some((ClusterId(1), NodeId(101))), ..joining(1, 1) }));
    assert_eq!(log.state.catalog().index, index, "nothing changed");
    log.must(Command::MarkStaged { node: NodeId(101), version, shards });
    assert_eq!(holders(&log), BTreeSet::from([NodeId(101)]));
}

fn commands() -> impl Strategy<Value = Command> {
    let node = (101u64..106).prop_map(NodeId);
    let attempt = (1u64..4, 1u64..4, node.clone()).prop_map(|(job, epoch, driver)| Attempt { job, epoch, driver });
    let previous = prop_oneof![
        3 => Just(None),
        2 => (1u128..4, 101u64..106).prop_map(|(c, n)| Some((ClusterId(c), NodeId(n)))),
    ];
    prop_oneof![
        (1u128..4).prop_map(|id| Command::Birth(cluster(id))),
        (1u128..6, 1u128..6, previous)
            .prop_map(|(token, nonce, previous)| Command::Join(Join { previous, ..joining(token, nonce) })),
        (node.clone(), any::<bool>()).prop_map(|change| Command::SetAlive(vec![change])),
        Just(Command::PlaceShards),
        any::<bool>().prop_map(|activate| Command::QueueJob {
            settings: TrainSettings { activate, ..TrainSettings::default() },
            now_ms: 1
        }),
        (1u64..4, 1u64..4, node.clone()).prop_map(|(job, epoch, driver)| Command::AssignJob { job, epoch, driver }),
        attempt.clone().prop_map(|attempt| Command::JobProgress { attempt, progress: JobProgress::default() }),
        (attempt.clone(), any::<bool>()).prop_map(|(attempt, is_retryable)| Command::JobFailed {
            attempt,
            error: "e".into(),
            is_retryable
        }),
        (1u64..4).prop_map(Command::CancelJob),
        attempt.prop_map(|attempt| Command::RegisterModel { attempt, trained: trained(), now_ms: 2 }),
        (node.clone(), 1u64..4).prop_map(|(node, version)| Command::MarkStaged {
            node,
            version,
            shards: vec![ShardId { keyspace: Keyspace::Users, index: 0 }]
        }),
        (node.clone(), 1u64..4).prop_map(|(node, version)| Command::Unstage {
            node,
            version,
            shards: vec![ShardId { keyspace: Keyspace::Users, index: 0 }]
        }),
        (node, 1u64..4).prop_map(|(node, version)| Command::RefuseVersion { node, version, error: "e".into() }),
        (1u64..4).prop_map(Command::Stage),
        (1u64..4).prop_map(|version| Command::FailModel { version, error: "e".into() }),
        (1u64..4).prop_map(Command::Activate),
        Just(Command::Rollback),
        schedules(),
        studies(),
        (1u32..4).prop_map(Command::Finalize),
        (0u32..3, 0u32..3).prop_map(|(staged_max, records_max)| Command::RetireOld { staged_max, records_max }),
    ]
}

fn schedule(name: &str, every_ms: u64) -> Schedule {
    let settings = TrainSettings::default();
    Schedule { name: name.into(), settings, every_ms: Some(every_ms), after_events: Some(9) }
}

fn schedules() -> impl Strategy<Value = Command> {
    let name = prop_oneof![Just("a"), Just("b")];
    prop_oneof![
        (name.clone(), 1_000u64..1_003)
            .prop_map(|(name, every)| Command::SetSchedule { schedule: schedule(name, every), now_ms: 3 }),
        name.clone().prop_map(|name| Command::RemoveSchedule(name.into())),
        (name, 1u64..3, proptest::option::of(0u64..20)).prop_map(|(name, run, events)| Command::QueueScheduled {
            name: name.into(),
            run,
            now_ms: 4,
            events
        }),
    ]
}

fn studies() -> impl Strategy<Value = Command> {
    let values = Values::Between { low: 0.001, high: 0.1, is_log: true };
    let study = move |name: &str, trials| Study {
        name: name.into(),
        settings: TrainSettings::default(),
        space: vec![Dimension { setting: "regularization".into(), values: values.clone() }],
        trials,
        metric: "ndcg@20".into(),
    };
    prop_oneof![
        (1u32..3).prop_map(move |trials| Command::SetStudy { study: study("a", trials), now_ms: 3 }),
        Just(Command::RemoveStudy("a".into())),
        (0u32..3, proptest::option::of(0.0f64..0.2)).prop_map(|(trial, value)| Command::BeginTrial {
            name: "a".into(),
            trial,
            values: value.into_iter().collect(),
            now_ms: 4
        }),
        (0u32..3).prop_map(|trial| Command::EndTrial { name: "a".into(), trial }),
    ]
}

/// The members of the logs' clusters, upgraded to the newest format.
fn upgraded() -> Vec<Command> {
    let format = u32::from(codec::VERSION);
    let back = |nonce: u128| {
        let previous = Some((ClusterId(1), NodeId(100 + nonce as u64)));
        Command::Join(Join { previous, format, ..joining(nonce, nonce) })
    };
    vec![back(1), back(2), Command::Finalize(format)]
}

/// A cluster that is born and placed, then anything: the deep states are reached often enough this way.
fn logs() -> impl Strategy<Value = Vec<Command>> {
    let tail = proptest::collection::vec(commands(), 0..120);
    (any::<bool>(), any::<bool>(), tail).prop_map(|(is_placed, is_upgraded, tail)| {
        let head = [
            Command::Birth(cluster(1)),
            Command::Join(joining(1, 1)),
            Command::Join(joining(2, 2)),
            Command::PlaceShards,
            Command::QueueJob { settings: TrainSettings::default(), now_ms: 0 },
            Command::AssignJob { job: 1, epoch: 1, driver: NodeId(101) },
        ];
        let upgraded = upgraded().into_iter().filter(|_| is_placed && is_upgraded);
        head.into_iter().filter(|_| is_placed).chain(upgraded).chain(tail).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_entry_keeps_the_catalogs_promises(log in logs()) {
        let mut state = State::default();
        let mut births = BTreeSet::new();
        let mut nonce_of = BTreeMap::new();
        let mut registered = BTreeSet::new();
        let mut epoch = 0;
        for (index, command) in (1u64..).zip(log) {
            let before = state.clone();
            let outcome = state.apply(index, command.clone());
            let catalog = state.catalog();
            match (&outcome, &command) {
                (Err(error), _) => {
                    prop_assert_eq!(&state, &before, "a refused command changes nothing: {}", error);
                    prop_assert!(!error.message.is_empty());
                }
                (Ok(Answer::Born(cluster)), _) => { births.insert(cluster.id); }
                (Ok(Answer::Joined { node, .. }), Command::Join(join)) => {
                    prop_assert_eq!(*nonce_of.entry(*node).or_insert(join.nonce), join.nonce, "a node id has one owner");
                    prop_assert!(node.0 >= FIRST_NODE);
                }
                (Ok(Answer::Version(version)), Command::RegisterModel { attempt, .. }) => {
                    prop_assert_eq!(catalog.jobs[&attempt.job].version, Some(*version));
                    if !before.catalog().models.contains_key(version) && before.catalog().jobs[&attempt.job].version.is_none() {
                        prop_assert!(registered.insert(*version), "a version number is never given twice");
                    }
                }
                _ => {}
            }
            prop_assert!(births.len() <= 1);
            if catalog != before.catalog() {
                prop_assert_eq!(catalog.index, index);
            }
            let running = catalog.jobs.values().filter(|job| job.state == JobState::Running).count();
            prop_assert!(running <= 1, "{} jobs run", running);
            let now = catalog.live.map_or(0, |live| live.epoch);
            prop_assert!(now == epoch || now == epoch + 1, "the activation epoch goes from {} to {}", epoch, now);
            epoch = now;
            let live: Vec<u64> = catalog.models.values().filter(|m| m.state == ModelState::Live).map(|m| m.version).collect();
            prop_assert_eq!(live, catalog.live.map(|live| live.version).into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_replay_gives_the_same_state_and_a_snapshot_may_stand_for_any_prefix(log in logs(), cut in 0usize..120) {
        let mut whole = State::default();
        let mut resumed = State::default();
        for (index, command) in (1u64..).zip(log) {
            if index as usize == cut {
                resumed = codec::decode("state", &codec::encode_in(resumed.catalog().format(), &resumed)).unwrap();
            }
            // As bytes, as the log holds it.
            let bytes = codec::encode_in(command.format(), &command);
            let decoded: Command = codec::decode("command", &bytes).unwrap();
            prop_assert_eq!(whole.apply(index, command), resumed.apply(index, decoded));
        }
        prop_assert_eq!(&whole, &resumed);
        prop_assert_eq!(codec::encode(&whole), codec::encode(&resumed));
    }

    #[test]
    fn any_bytes_are_a_command_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(command) = codec::decode::<Command>("command", &bytes) {
            let _ = Log::placed(2).apply(command);
        }
    }
}
