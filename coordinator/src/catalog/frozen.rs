//! The layouts of every format, frozen: what a cluster wrote is read by every later docent, and what a later docent writes before a format is
//! finalised is read by the older ones beside it.
//!
//! A difference here means that a layout changed under its format, and a rolling upgrade would break. Put it back and add the new
//! layout under a new format: `docs/decisions/0012-versions.md`.

use super::properties::{cluster, joining, trained};
use super::*;
use docent_proto::internal::coordinator::{
    Condition, Heartbeat, JobReport, JobUpdate, Join as Asks, Membership, ReplicaReport, Request, Response, Watch,
};
use docent_proto::internal::shard;
use docent_types::catalog::{Cluster, Job, JobProgress, JobState, Replica, Step};
use docent_types::command::{ItemCommand, ItemOutcome, RestoreEnd, RestorePart, UserCommand, UserOutcome};
use docent_types::event::{Event, EventOutcome};
use docent_types::item::Item;
use docent_types::placement::{Cause, NodeState, PlacementChange};
use docent_types::schedule::{Schedule, Scheduled};
use docent_types::study::{Dimension, Studied, Study, Trial, Values};
use docent_types::training::{
    Admission, Algorithm, Blend, Graph, Ials, ItemNorm, Loss, Partner, Precision, Softmax, Split, Tower, TrainSettings,
    Warm,
};
use docent_types::user::{Consent, Profile};
use docent_types::{
    ClusterId, EventId, ItemId, Keyspace, Position, ReplicaId, ShardId, SlotRange, TenantId, UserId, codec,
};
use serde::Serialize;

const SHARD: ShardId = ShardId { keyspace: Keyspace::Items, index: 3 };

/// Names and bytes of the values, in the format that each is written in.
#[derive(Default)]
struct Bytes(String);

impl Bytes {
    fn add<T: Serialize>(&mut self, name: &str, format: u32, value: &T) {
        let hex: String = codec::encode_in(format, value).iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push_str(&format!("{name} {hex}\n"));
    }

    fn each<T: Serialize>(&mut self, name: &str, values: &[T], format: impl Fn(&T) -> u32) {
        values.iter().enumerate().for_each(|(at, value)| self.add(&format!("{name}.{at}"), format(value), value));
    }
}

fn commands() -> Vec<Command> {
    let attempt = Attempt { job: 1, epoch: 2, driver: NodeId(101) };
    let replica = Replica { id: ReplicaId(65_536), node: NodeId(101) };
    vec![
        Command::Birth(cluster(1)),
        Command::RegisterCoordinators { members: vec![(NodeId(1), "a:1".into())], by: NodeId(1), format: 2 },
        Command::Join(Join { previous: Some((ClusterId(1), NodeId(101))), ..joining(1, 2) }),
        Command::SetAlive(vec![(NodeId(101), false)]),
        Command::PlaceShards,
        Command::QueueJob { settings: TrainSettings::default(), now_ms: 5 },
        Command::AssignJob { job: 1, epoch: 2, driver: NodeId(101) },
        Command::JobProgress { attempt, progress: JobProgress::default() },
        Command::JobFailed { attempt, error: "e".into(), is_retryable: true },
        Command::CancelJob(1),
        Command::RegisterModel { attempt, trained: trained(), now_ms: 6 },
        Command::MarkStaged { node: NodeId(101), version: 1, shards: vec![SHARD] },
        Command::RefuseVersion { node: NodeId(101), version: 1, error: "e".into() },
        Command::Stage(1),
        Command::FailModel { version: 1, error: "e".into() },
        Command::Activate(1),
        Command::Rollback,
        Command::RetireOld { staged_max: 2, records_max: 3 },
        Command::Unstage { node: NodeId(101), version: 1, shards: vec![SHARD] },
        Command::SetNodeState { node: NodeId(101), state: NodeState::Draining },
        Command::BeginChange { shard: SHARD, old: Some(ReplicaId(7)), to: NodeId(102), cause: Cause::Repair },
        Command::CancelChange(SHARD),
        Command::ObserveMembership { shard: SHARD, index: 9, replicas: vec![replica] },
        Command::Bury { node: NodeId(101), replicas: vec![ReplicaId(7)] },
        Command::ForgetNode(NodeId(101)),
        Command::Finalize(3),
    ]
}

/// A catalog with something in every field.
fn state() -> State {
    let mut log = super::properties::Log::placed(2);
    let version = log.train(TrainSettings::default());
    log.stage_everywhere(version);
    log.must(Command::Stage(version));
    log.must(Command::Activate(version));
    log.must(Command::RegisterCoordinators { members: vec![(NodeId(1), "a:1".into())], by: NodeId(1), format: 3 });
    let shard = *log.state.catalog().shards.keys().next().unwrap();
    let old = log.state.catalog().shards[&shard].replicas[0].id;
    log.must(Command::Join(joining(3, 3)));
    log.must(Command::BeginChange { shard, old: Some(old), to: NodeId(103), cause: Cause::Command });
    log.must(Command::CancelChange(shard));
    log.state
}

fn user_commands() -> Vec<UserCommand> {
    let (tenant, user_id) = (TenantId::default(), UserId::new("u").unwrap());
    let event = Event {
        event_id: EventId::new("e").unwrap(),
        user_id: user_id.clone(),
        item_id: ItemId::new("i").unwrap(),
        event_type: "click".into(),
        value: Some(1.5),
        timestamp_ms: -2,
        session_id: Some("s".into()),
        recommendation_id: Some("r".into()),
        position: Some(3),
        context: [("k".to_owned(), "v".to_owned())].into(),
    };
    let profile = Profile { user_id: user_id.clone(), attributes: [("k".to_owned(), "v".to_owned())].into() };
    vec![
        UserCommand::Append { tenant: tenant.clone(), events: vec![event], received_ms: 7 },
        UserCommand::PutProfiles { tenant: tenant.clone(), profiles: vec![profile] },
        UserCommand::SetConsent { tenant: tenant.clone(), user_id: user_id.clone(), consent: Consent::default() },
        UserCommand::SetBlocks {
            tenant: tenant.clone(),
            user_id: user_id.clone(),
            blocks: vec![ItemId::new("i").unwrap()],
        },
        UserCommand::DeleteUser { tenant, user_id },
        UserCommand::Digest,
        UserCommand::Restore(part()),
        UserCommand::RestoreDone(end()),
    ]
}

fn part() -> RestorePart {
    RestorePart { backup: [1; 16], seq: 2, records: vec![3, 4] }
}

fn end() -> RestoreEnd {
    RestoreEnd { backup: [1; 16], seq: 2, stamp: 3, records: 4, content: [5; 32] }
}

fn item_commands() -> Vec<ItemCommand> {
    let (tenant, item_id) = (TenantId::default(), ItemId::new("i").unwrap());
    let item = Item {
        title: Some("t".into()),
        categories: vec!["c".into()],
        description: Some("d".into()),
        published_ms: Some(-1),
        attributes: [("k".to_owned(), "v".to_owned())].into(),
        ..Item::stub(item_id.clone())
    };
    let from = ShardId { keyspace: Keyspace::Users, index: 1 };
    vec![
        ItemCommand::Ensure { tenant: tenant.clone(), item_ids: vec![item_id.clone()] },
        ItemCommand::Put { tenant: tenant.clone(), items: vec![item] },
        ItemCommand::SetTakenDown { tenant: tenant.clone(), item_id: item_id.clone(), is_taken_down: true },
        ItemCommand::Delete { tenant: tenant.clone(), item_id: item_id.clone() },
        ItemCommand::Counts { tenant, from, at: 9, counts: vec![(item_id, 300)] },
        ItemCommand::Digest,
        ItemCommand::Restore(part()),
        ItemCommand::RestoreDone(end()),
    ]
}

fn requests() -> Vec<Request> {
    let voters = vec![Replica { id: ReplicaId(7), node: NodeId(101) }];
    let leads = Condition::Leads(Membership { term: 1, index: 2, is_settled: true, voters });
    let report = |condition| ReplicaReport { shard: SHARD, replica: ReplicaId(7), condition };
    let join = Asks {
        token: "t".into(),
        nonce: 1,
        previous: None,
        internal_addr: "a:1".into(),
        query_addr: "a:2".into(),
        zone: "z".into(),
        format: 2,
    };
    let beat = Heartbeat {
        node: NodeId(101),
        staged: vec![(1, vec![SHARD])],
        refused: vec![(2, "e".into())],
        replicas: vec![report(Condition::Follows), report(leads), report(Condition::Lost("e".into()))],
        buried: vec![ReplicaId(8)],
    };
    let job = |update| Request::ReportJob(JobReport { job: 1, epoch: 2, driver: NodeId(101), update });
    vec![
        Request::Join(join),
        Request::Heartbeat(beat),
        job(JobUpdate::Progress(JobProgress::default())),
        job(JobUpdate::Failed { error: "e".into(), is_retryable: false }),
        job(JobUpdate::Finished(trained())),
        Request::StartTraining(TrainSettings::default()),
        Request::CancelJob(1),
        Request::Activate(1),
        Request::Rollback,
        Request::Place {
            change: PlacementChange::Move { shard: SHARD, from: NodeId(1), to: NodeId(2) },
            is_dry_run: true,
        },
    ]
}

fn actual() -> String {
    let mut bytes = Bytes::default();
    bytes.each("command", &commands(), Command::format);
    bytes.each("user_command", &user_commands(), UserCommand::format);
    bytes.each("item_command", &item_commands(), ItemCommand::format);
    bytes.each("request", &requests(), Request::format);
    let state = state();
    bytes.add("state", state.catalog().format(), &state);
    let raised = Catalog { cluster: Some(Cluster { format: 3, ..cluster(1) }), ..Catalog::default() };
    bytes.add("catalog.raised", raised.format(), &raised);
    let position = Position { shard: SHARD, index: 5 };
    let outcomes = [
        UserOutcome::Events(vec![EventOutcome::Accepted, EventOutcome::Duplicate]),
        UserOutcome::Done,
        UserOutcome::NotFound,
        UserOutcome::Restoring,
    ];
    bytes.each("user_outcome", &outcomes, |_| 2);
    bytes.each("item_outcome", &[ItemOutcome::Done, ItemOutcome::NotFound, ItemOutcome::Restoring], |_| 2);
    let users = shard::Request::WriteUsers { shard: SHARD, command: UserCommand::Digest };
    let state_of = shard::Request::UserState {
        shard: SHARD,
        tenant: TenantId::default(),
        user_id: UserId::new("u").unwrap(),
        version: 1,
    };
    bytes.each("shard_request", &[users, state_of], |_| 2);
    bytes.add("shard_response", 2, &shard::Response::WroteUsers { position, outcome: UserOutcome::Done });
    bytes.add("response.joined", 2, &Response::Joined { cluster: ClusterId(1), node: NodeId(101) });
    bytes.add("response.index", 2, &Response::Index(7));
    bytes.add("watch", 2, &Watch { after: 7 });
    let job = Job {
        id: 1,
        state: JobState::Running,
        settings: TrainSettings::default(),
        epoch: 1,
        driver: Some(NodeId(101)),
        progress: None,
        error: None,
        version: None,
        created_ms: 1,
    };
    bytes.add("answer.job", 2, &Answer::Job(Box::new(job)));
    bytes.add("answer.born", 2, &Answer::Born(cluster(1)));
    bytes.add("slots", 2, &SlotRange { first: 0, end: 4096 });
    bytes.add("error", 2, &Error::overloaded("e", 5).at("f").with_hint(Some(NodeId(1))));
    graph(&mut bytes, position);
    bytes.0
}

/// What came with families of models, in format 4.
fn graph(bytes: &mut Bytes, position: Position) {
    let graph = TrainSettings { algorithm: Algorithm::Graph(Graph::default()), ..TrainSettings::default() };
    let random = TrainSettings { split: Split::Random, ..TrainSettings::default() };
    bytes.each("settings", &[graph.clone(), random], TrainSettings::format);
    let masses = Graph { source_mass_exponent: 0.5, ..Graph::default() };
    let masses = TrainSettings { algorithm: Algorithm::Graph(masses), ..TrainSettings::default() };
    bytes.each("settings.masses", &[masses], TrainSettings::format);
    bytes.add("command.graph", 4, &Command::QueueJob { settings: graph, now_ms: 5 });
    let (tenant, version, sources) = (TenantId::default(), 1, vec![7, u64::MAX]);
    let scan = shard::Request::ScanHistory {
        tenant: tenant.clone(),
        version,
        sources: sources.clone(),
        n: 10,
        shards: vec![shard::ShardFilter { shard: SHARD, exclude: Vec::new() }],
    };
    let shards = vec![(SHARD, vec![ItemId::new("i").unwrap()])];
    let weights = shard::Request::HistoryWeights { tenant, version, sources: sources.clone(), shards };
    bytes.each("shard_request.history", &[scan, weights], shard::Request::format);
    let pin = shard::Request::Pin { job: 1, epoch: 2, positions: vec![position] };
    bytes.each("shard_request.pin", &[pin, shard::Request::Pinned { job: 1 }], shard::Request::format);
    let state = shard::UserState {
        is_known: true,
        consent: Consent::default(),
        vector: None,
        seen: Vec::new(),
        blocks: Vec::new(),
        position,
        is_unsolved: false,
    };
    let history = shard::Response::UserHistory(state, sources);
    bytes.add("shard_response.history", history.format(), &history);
    let softmax = TrainSettings { algorithm: Algorithm::Softmax(Box::default()), ..TrainSettings::default() };
    bytes.add("settings.softmax", softmax.format(), &softmax);
    let tower = Tower { user_hidden: 32, item_hidden: 64, dense_rate: 0.25, softmax: Softmax::default() };
    let tower = TrainSettings { algorithm: Algorithm::Tower(Box::new(tower)), ..TrainSettings::default() };
    bytes.add("settings.tower", tower.format(), &tower);
    let with_softmax = Blend { with: Partner::Softmax(Softmax::default()), ..Blend::default() };
    let blends = [Blend::default(), with_softmax]
        .map(|blend| TrainSettings { algorithm: Algorithm::Blend(Box::new(blend)), ..TrainSettings::default() });
    bytes.each("settings.blend", &blends, TrainSettings::format);
    let biased = Softmax { popularity_bias: 0.5, ..Softmax::default() };
    let tower = Tower { softmax: biased.clone(), ..Tower::default() };
    let blend = Blend { with: Partner::Softmax(biased.clone()), ..Blend::default() };
    let biased =
        [Algorithm::Softmax(Box::new(biased)), Algorithm::Tower(Box::new(tower)), Algorithm::Blend(Box::new(blend))]
            .map(|algorithm| TrainSettings { algorithm, ..TrainSettings::default() });
    bytes.each("settings.biased", &biased, TrainSettings::format);
    extras(bytes);
    admission(bytes);
    let blended = shard::Request::ScanBlend {
        tenant: TenantId::default(),
        version: 1,
        vector: vec![0.5],
        sources: vec![7],
        n: 10,
        shards: vec![shard::ShardFilter { shard: SHARD, exclude: Vec::new() }],
    };
    bytes.add("shard_request.blend", blended.format(), &blended);
    schedules(bytes);
}

/// Settings that no family's first layout has a place for, in format 7.
fn extras(bytes: &mut Bytes) {
    let warm = Ials { warm: Some(Warm { epochs: 2, from: Some(7) }), ..Ials::default() };
    let bpr = Softmax { loss: Loss::Bpr, popularity_bias: 0.5, ..Softmax::default() };
    let blend = Blend { with: Partner::Softmax(bpr.clone()), ..Blend::default() };
    let tower = Tower { softmax: bpr.clone(), ..Tower::default() };
    let rounded = Ials { row_precision: Precision::Bf16, ..Ials::default() };
    let latest = [
        Algorithm::Ials(rounded),
        Algorithm::Ials(warm),
        Algorithm::Softmax(Box::new(bpr)),
        Algorithm::Tower(Box::new(tower)),
        Algorithm::Blend(Box::new(blend)),
    ];
    let latest = latest.map(|algorithm| TrainSettings { algorithm, ..TrainSettings::default() });
    bytes.each("settings.with", &latest, TrainSettings::format);
}

/// What format 8 came with: items that are left out, nodes that are steps apart, and other weights of a graph filter.
fn admission(bytes: &mut Bytes) {
    let admission = Admission { min_positives: 5, items_max: Some(1_000) };
    let stale = Softmax { staleness: 3, ..Softmax::default() };
    let blend = Blend { with: Partner::Softmax(stale.clone()), ..Blend::default() };
    let of = |admission, algorithm| TrainSettings { admission, algorithm, ..TrainSettings::default() };
    let all = [
        of(admission, Algorithm::Ials(Ials::default())),
        of(admission, Algorithm::Softmax(Box::new(stale.clone()))),
        of(Admission::default(), Algorithm::Softmax(Box::new(stale))),
        of(Admission { items_max: None, ..admission }, Algorithm::Blend(Box::new(blend))),
    ];
    bytes.each("settings.admission", &all, TrainSettings::format);
    let tf_idf = Graph { idf_power: 2.0, item_norm: ItemNorm::Weights, ..Graph::default() };
    let bm25 = Graph { item_norm: ItemNorm::Length(0.75), ..tf_idf.clone() };
    let weighted = [tf_idf, bm25].map(|graph| of(Admission::default(), Algorithm::Graph(graph)));
    bytes.each("settings.weighted", &weighted, TrainSettings::format);
}

/// Training that begins by itself, and courses of jobs.
fn schedules(bytes: &mut Bytes) {
    let settings = TrainSettings::default();
    let schedule = Schedule { name: "s".into(), settings, every_ms: Some(60_000), after_events: Some(9) };
    let set = Command::SetSchedule { schedule: schedule.clone(), now_ms: 5 };
    let queue = Command::QueueScheduled { name: "s".into(), run: 1, now_ms: 6, events: Some(7) };
    bytes.each("command.schedule", &[set, Command::RemoveSchedule("s".into()), queue], Command::format);
    let progress = JobProgress { phase: "train".into(), loss: Some(0.5), ..JobProgress::default() };
    let step = Step { progress, waited_seconds: 1.5, hosts: 3 };
    let attempt = Attempt { job: 1, epoch: 2, driver: NodeId(101) };
    bytes.add("command.step", 6, &Command::JobStep { attempt, step: step.clone() });
    let update = JobUpdate::Step(step.clone());
    let report = Request::ReportJob(JobReport { job: 1, epoch: 2, driver: NodeId(101), update });
    bytes.add("request.step", report.format(), &report);
    let tell = Request::TellEvents { node: NodeId(101), events: vec![(SHARD, 300)] };
    let requests = [Request::SetSchedule(schedule.clone()), Request::RemoveSchedule("s".into()), tell];
    bytes.each("request.schedule", &requests, Request::format);
    let studied = study(bytes);
    let scheduled = Scheduled { schedule, runs: 1, since_ms: 6, since_events: 7, last_job: Some(2) };
    let catalog = Catalog {
        cluster: Some(Cluster { format: 6, ..cluster(1) }),
        schedules: [("s".to_owned(), scheduled)].into(),
        courses: [(2, vec![step])].into(),
        studies: [("s".to_owned(), studied)].into(),
        ..Catalog::default()
    };
    bytes.add("catalog.schedules", catalog.format(), &catalog);
}

fn study(bytes: &mut Bytes) -> Studied {
    let between = Values::Between { low: 0.5, high: 2.0, is_log: true };
    let space = [("power", between), ("neighbours", Values::OneOf(vec![20.0, 50.0]))];
    let dimension = |(setting, values): (&str, Values)| Dimension { setting: setting.into(), values };
    let settings = TrainSettings { algorithm: Algorithm::Graph(Graph::default()), ..TrainSettings::default() };
    let space = space.map(dimension).into();
    let study = Study { name: "s".into(), settings, space, trials: 3, metric: "ndcg@20".into() };
    let begin = Command::BeginTrial { name: "s".into(), trial: 1, values: vec![0.5, 20.0], now_ms: 6 };
    let end = Command::EndTrial { name: "s".into(), trial: 1 };
    let set = Command::SetStudy { study: study.clone(), now_ms: 5 };
    bytes.each("command.study", &[set, Command::RemoveStudy("s".into()), begin, end], Command::format);
    let requests = [Request::SetStudy(study.clone()), Request::RemoveStudy("s".into())];
    bytes.each("request.study", &requests, Request::format);
    let trial = Trial { job: 2, values: vec![0.5, 20.0], is_over: true, score: Some(0.25) };
    Studied { study, trials: vec![trial], best_job: Some(3), created_ms: 5 }
}

#[test]
fn layouts_of_a_format_never_change() {
    let (actual, frozen) = (actual(), include_str!("frozen.txt"));
    let differs = actual.lines().zip(frozen.lines()).find(|(actual, frozen)| actual != frozen);
    assert!(
        differs.is_none() && actual.lines().count() == frozen.lines().count(),
        "{differs:#?}\nall of it:\n{actual}"
    );
}

#[test]
fn what_was_frozen_is_still_read() {
    let bytes = |name: &str| -> Vec<u8> {
        let line = include_str!("frozen.txt").lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let line = line.unwrap_or_else(|| panic!("no {name}"));
        (0..line.len() / 2).map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).unwrap()).collect()
    };
    assert_eq!(codec::decode::<State>("a state", &bytes("state")).unwrap(), state());
    for (at, command) in commands().into_iter().enumerate() {
        assert_eq!(codec::decode::<Command>("a command", &bytes(&format!("command.{at}"))).unwrap(), command);
    }
    for (at, request) in requests().into_iter().enumerate() {
        assert_eq!(codec::decode::<Request>("a request", &bytes(&format!("request.{at}"))).unwrap(), request);
    }
}
