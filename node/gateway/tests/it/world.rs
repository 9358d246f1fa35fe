//! A fake cluster: item and user shards in memory behind the `Caller` seam, with faults by node and by shard.

use bytes::Bytes;
use docent_gateway::{Coordinator, Gateway, GatewaySettings};
use docent_placement::SlotHasher;
use docent_placement::hash::fingerprint;
use docent_placement::initial::{Candidate, place};
use docent_proto::internal::shard::{
    Export, ExportPage, ExportWhat, Request, Response, ShardFilter, ShardHits, StateDigest, UserState,
};
use docent_proto::internal::{Service, coordinator};
use docent_rpc::Caller;
use docent_rpc::caller::{Bulk, Chunks};
use docent_runtime::{Deadline, SystemClock};
use docent_types::catalog::{Activation, Catalog, Cluster, Member, Model, ModelPart, ModelState};
use docent_types::command::{ItemCommand, ItemOutcome, UserCommand, UserOutcome};
use docent_types::event::EventOutcome;
use docent_types::item::{Item, ItemState};
use docent_types::placement::NodeState;
use docent_types::query::{Recommend, ScoredItem, rank};
use docent_types::training::TrainSettings;
use docent_types::user::{Consent, User};
use docent_types::*;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;

pub(crate) const KEY: [u8; 16] = [7; 16];
/// The gateway's own node; it holds no replica of anything.
pub(crate) const ME: NodeId = NodeId(9);
pub(crate) const VERSION: u64 = 3;
/// What a proposal may have at most; raft takes twice as much.
pub(crate) const PROPOSAL_BYTES_MAX: usize = 2 << 20;

/// An item of the fake catalogue.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) state: ItemState,
    pub(crate) row: Option<Vec<f32>>,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) catalog: Catalog,
    /// Who leads; absent: nobody.
    pub(crate) leaders: BTreeMap<ShardId, NodeId>,
    /// What a replica that does not lead hints at; absent: the leader.
    pub(crate) false_hints: BTreeMap<(ShardId, NodeId), NodeId>,
    pub(crate) down: BTreeSet<NodeId>,
    pub(crate) hanging: BTreeSet<NodeId>,
    pub(crate) without_version: BTreeSet<(ShardId, NodeId)>,
    pub(crate) silent_shards: BTreeSet<ShardId>,
    pub(crate) stale: BTreeSet<ShardId>,
    pub(crate) things: BTreeMap<ItemId, Thing>,
    pub(crate) users: BTreeMap<UserId, UserState>,
    /// Histories of users, where the live model is a graph filter.
    pub(crate) histories: BTreeMap<UserId, Vec<&'static str>>,
    /// Kept events: by user and event id.
    pub(crate) kept: BTreeSet<(UserId, EventId)>,
    pub(crate) refuse_writes: BTreeMap<ShardId, Error>,
    /// The next write to these shards is carried out, but its answer is lost.
    pub(crate) lose_answer: BTreeSet<ShardId>,
    /// Scans and popularity show what is taken down: they were asked of replicas that had not applied it.
    pub(crate) is_scan_behind: bool,
    /// Replicas that do not serve the shards that they are asked about.
    pub(crate) refusing: BTreeSet<NodeId>,
    /// Replicas that lag behind every write.
    pub(crate) lagging: BTreeSet<NodeId>,
    /// Replicas whose state is not the others'.
    pub(crate) diverged: BTreeSet<NodeId>,
    pub(crate) log: Vec<(NodeId, Request)>,
    pub(crate) index: u64,
}

#[derive(Clone)]
pub(crate) struct Fake(pub(crate) Arc<Mutex<World>>);

pub(crate) fn item_id(id: &str) -> ItemId {
    ItemId::new(id).unwrap()
}

pub(crate) fn user_id(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

pub(crate) fn shard_of(keyspace: Keyspace, id: &str) -> ShardId {
    let slot = SlotHasher::new(&KEY).slot(&TenantId::default(), id);
    catalog().shard_of(keyspace, slot).unwrap().id
}

/// Five nodes (the gateway's is none of them), eight user and four item shards at RF 3.
pub(crate) fn catalog() -> Catalog {
    let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
    let candidates: Vec<Candidate> = nodes.iter().map(|node| Candidate { node: *node, zone: String::new() }).collect();
    let member = |node: &NodeId| Member {
        id: *node,
        internal_addr: format!("node-{node}:1"),
        query_addr: format!("node-{node}:2"),
        zone: String::new(),
        is_alive: true,
        format: u32::from(codec::VERSION),
        state: NodeState::Active,
    };
    Catalog {
        index: 5,
        cluster: Some(Cluster {
            id: ClusterId(1),
            placement_key: KEY,
            user_shards: 8,
            item_shards: 4,
            replication: 3,
            expect_nodes: 5,
            format: u32::from(codec::VERSION),
        }),
        nodes: nodes.iter().map(|node| (*node, member(node))).collect(),
        shards: place(8, 4, 3, &candidates, 1).unwrap().into_iter().map(|shard| (shard.id, shard)).collect(),
        models: BTreeMap::from([(VERSION, model(TrainSettings::default()))]),
        live: Some(Activation { version: VERSION, epoch: 2, previous: None }),
        ..Catalog::default()
    }
}

/// The live model.
pub(crate) fn model(settings: TrainSettings) -> Model {
    let slots = SlotRange { first: 0, end: SLOTS };
    Model {
        version: VERSION,
        state: ModelState::Live,
        job: 1,
        settings,
        cut: Vec::new(),
        parts: Vec::new(),
        global: ModelPart { keyspace: Keyspace::Items, slots, hash: [0; 32], bytes: 0, holders: Vec::new() },
        metrics: BTreeMap::new(),
        parent: None,
        created_ms: 0,
        staged: BTreeSet::new(),
        activate: true,
        error: None,
    }
}

/// Items `i0..`: rows of two dimensions with ties, popularity `id % 7`.
pub(crate) fn things(count: u32) -> BTreeMap<ItemId, Thing> {
    let thing = |i: u32| {
        let id = item_id(&format!("i{i}"));
        let item = Item { title: Some(format!("Title {i}")), ..Item::stub(id.clone()) };
        let row = Some(vec![(i % 5) as f32, (i % 3) as f32]);
        (id, Thing { state: ItemState { item, is_taken_down: false, events: u64::from(i % 7) }, row })
    };
    (0..count).map(thing).collect()
}

pub(crate) fn user(id: &str, vector: Option<Vec<f32>>) -> (UserId, UserState) {
    let position = Position { shard: shard_of(Keyspace::Users, id), index: 11 };
    let state = UserState {
        is_known: true,
        consent: Consent::default(),
        vector,
        seen: Vec::new(),
        blocks: Vec::new(),
        position,
        is_unsolved: false,
    };
    (user_id(id), state)
}

pub(crate) fn ask(user: &str, n: u32) -> Recommend {
    Recommend { user_id: user_id(user), n, exclude_ids: Vec::new(), explain: false, deadline_ms: 1_000, session: None }
}

/// Quick settings; the deadlines are far above what an answering fake needs.
pub(crate) fn settings() -> GatewaySettings {
    GatewaySettings {
        hedge_after_ms: 20,
        late_after_ms: 60,
        write_deadline_ms: 400,
        staleness_ms_max: 150,
        suspect_ms: 5_000,
        ..GatewaySettings::default()
    }
}

impl Fake {
    /// A cluster where everybody answers, with 60 items and the user `ann`.
    pub(crate) fn new() -> Fake {
        let catalog = catalog();
        let leaders = catalog.shards.values().map(|shard| (shard.id, shard.replicas[0].node)).collect();
        let users = BTreeMap::from([user("ann", Some(vec![1.0, 0.5]))]);
        let world = World { catalog, leaders, things: things(60), users, index: 100, ..World::default() };
        Fake(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    pub(crate) fn gateway(&self) -> Gateway {
        self.gateway_with(settings())
    }

    pub(crate) fn gateway_with(&self, settings: GatewaySettings) -> Gateway {
        // The sender is gone: the catalog stays what it is now.
        let (_, catalog) = watch::channel(Arc::new(self.world().catalog.clone()));
        let caller = Arc::new(self.clone());
        Gateway::new(settings, ME, caller.clone(), catalog, caller, Arc::new(SystemClock::default()))
    }

    /// The requests that `pick` picks, with who got them.
    pub(crate) fn requests<T>(&self, pick: impl Fn(&Request) -> Option<T>) -> Vec<(NodeId, T)> {
        self.world().log.iter().filter_map(|(node, request)| pick(request).map(|picked| (*node, picked))).collect()
    }
}

fn not_leader(world: &World, shard: ShardId, node: NodeId) -> Error {
    let hint = world.false_hints.get(&(shard, node)).or_else(|| world.leaders.get(&shard)).copied();
    Error::new(Kind::NotLeader, format!("node {node} does not lead {shard}")).with_hint(hint)
}

impl World {
    fn hosts(&self, shard: ShardId, node: NodeId) -> bool {
        self.catalog.shards[&shard].replicas.iter().any(|replica| replica.node == node)
    }

    fn led(&self, shard: ShardId, node: NodeId) -> Result<()> {
        if self.leaders.get(&shard) == Some(&node) { Ok(()) } else { Err(not_leader(self, shard, node)) }
    }

    fn serves(&self, shard: ShardId, node: NodeId) -> Result<()> {
        match (self.hosts(shard, node), self.silent_shards.contains(&shard)) {
            (false, _) => Err(Error::new(Kind::WrongShard, "not here")),
            (_, true) => Err(Error::new(Kind::Unavailable, "too stale")),
            _ => Ok(()),
        }
    }

    pub(crate) fn things_of(&self, shard: ShardId) -> impl Iterator<Item = &Thing> {
        self.things.values().filter(move |thing| shard_of(Keyspace::Items, thing.state.item.item_id.as_str()) == shard)
    }

    fn hits(&self, filter: &ShardFilter, n: u32, score: impl Fn(&Thing) -> Option<f32>) -> ShardHits {
        assert!(filter.exclude.is_sorted(), "excluded ids are sorted");
        let live = self.things_of(filter.shard).filter(|thing| self.is_scan_behind || !thing.state.is_taken_down);
        let scored: Vec<ScoredItem> = live
            .filter_map(|thing| {
                score(thing).map(|score| ScoredItem { item_id: thing.state.item.item_id.clone(), score })
            })
            .collect();
        let items = scored.len() as u64;
        let mut hits: Vec<ScoredItem> =
            scored.into_iter().filter(|item| !filter.exclude.contains(&item.item_id)).collect();
        hits.sort_by(rank);
        hits.truncate(n as usize);
        ShardHits { hits, items, applied: self.index, is_stale: self.stale.contains(&filter.shard) }
    }

    fn write_users(&mut self, command: UserCommand) -> UserOutcome {
        match command {
            UserCommand::Append { events, .. } => {
                let outcomes = events.into_iter().map(|event| {
                    assert!(self.things.contains_key(&event.item_id), "a stub is there before its event");
                    let is_new = self.kept.insert((event.user_id, event.event_id));
                    if is_new { EventOutcome::Accepted } else { EventOutcome::Duplicate }
                });
                UserOutcome::Events(outcomes.collect())
            }
            UserCommand::DeleteUser { user_id, .. } if self.users.remove(&user_id).is_none() => UserOutcome::NotFound,
            UserCommand::SetConsent { user_id, consent, .. } => {
                self.users.entry(user_id.clone()).or_insert_with(|| user(user_id.as_str(), None).1).consent = consent;
                UserOutcome::Done
            }
            _ => UserOutcome::Done,
        }
    }

    fn write_items(&mut self, command: ItemCommand) -> ItemOutcome {
        let thing = |item: Item| Thing { state: ItemState { item, is_taken_down: false, events: 0 }, row: None };
        match command {
            ItemCommand::Ensure { item_ids, .. } => {
                for id in item_ids {
                    self.things.entry(id.clone()).or_insert_with(|| thing(Item::stub(id)));
                }
            }
            ItemCommand::Put { items, .. } => items.into_iter().for_each(|item| {
                self.things.insert(item.item_id.clone(), thing(item));
            }),
            ItemCommand::SetTakenDown { item_id, is_taken_down, .. } => match self.things.get_mut(&item_id) {
                Some(thing) => thing.state.is_taken_down = is_taken_down,
                None => return ItemOutcome::NotFound,
            },
            ItemCommand::Delete { item_id, .. } if self.things.remove(&item_id).is_none() => {
                return ItemOutcome::NotFound;
            }
            _ => {}
        }
        ItemOutcome::Done
    }

    fn written(&mut self, shard: ShardId, node: NodeId) -> Result<Position> {
        self.led(shard, node)?;
        if let Some(error) = self.refuse_writes.get(&shard) {
            return Err(error.clone());
        }
        self.index += 1;
        Ok(Position { shard, index: self.index })
    }

    fn answer(&mut self, node: NodeId, request: Request) -> Result<Response> {
        Ok(match request {
            Request::WriteUsers { shard, command } => {
                let position = self.written(shard, node)?;
                let outcome = self.write_users(command);
                if self.lose_answer.remove(&shard) {
                    return Err(Error::new(Kind::Unknown, "the connection broke"));
                }
                Response::WroteUsers { position, outcome }
            }
            Request::WriteItems { shard, command } => {
                let position = self.written(shard, node)?;
                Response::WroteItems { position, outcome: self.write_items(command), holders: Vec::new() }
            }
            Request::GetUser { shard, user_id, .. } => {
                self.led(shard, node)?;
                Response::User(self.users.get(&user_id).map(|state| User {
                    user_id,
                    attributes: BTreeMap::new(),
                    consent: state.consent,
                    blocks: state.blocks.clone(),
                    events: 1,
                }))
            }
            Request::Digest { shard, index } => {
                self.serves(shard, node)?;
                assert_eq!(index, self.index, "replicas are asked about the command's index");
                let state = [u8::from(self.diverged.contains(&node)); 32];
                Response::Digest(StateDigest { records: 1, content: [0; 32], state })
            }
            Request::UserState { shard, user_id, .. } => {
                self.led(shard, node)?;
                let unknown = UserState { is_known: false, ..user(user_id.as_str(), None).1 };
                let state = self.users.get(&user_id).cloned().unwrap_or(unknown);
                match self.histories.get(&user_id) {
                    Some(history) => Response::UserHistory(state, history.iter().map(|id| fingerprint(id)).collect()),
                    None => Response::UserState(state),
                }
            }
            Request::Explain { candidates, .. } => Response::Explained(
                candidates.iter().map(|_| vec![(item_id("i1"), 0.5), (item_id("i2"), 0.25)]).collect(),
            ),
            other => return self.read_items(node, other),
        })
    }

    fn read_items(&self, node: NodeId, request: Request) -> Result<Response> {
        Ok(match request {
            Request::Scan { version, vector, n, shards, .. } => {
                assert_eq!(version, VERSION);
                let one = |filter: ShardFilter| {
                    let dot = |thing: &Thing| thing.row.as_ref().map(|row| row[0] * vector[0] + row[1] * vector[1]);
                    let lacks = self.without_version.contains(&(filter.shard, node));
                    let lacking = || Error::new(Kind::Unavailable, "this replica lacks the version");
                    let hits =
                        self.serves(filter.shard, node).and_then(|()| if lacks { Err(lacking()) } else { Ok(()) });
                    (filter.shard, hits.map(|()| self.hits(&filter, n, dot)))
                };
                Response::Hits(shards.into_iter().map(one).collect())
            }
            Request::ScanHistory { version, sources, n, shards, .. } => {
                assert_eq!(version, VERSION);
                let row = |source: &u64| {
                    let thing = self.things.iter().find(|(id, _)| fingerprint(id.as_str()) == *source);
                    thing.and_then(|(_, thing)| thing.row.clone()).unwrap()
                };
                // An item's weight is the inner product of the two rows.
                let rows: Vec<Vec<f32>> = sources.iter().map(row).collect();
                let sum = |thing: &Thing| {
                    let own = thing.row.as_ref()?;
                    Some(rows.iter().map(|row| row[0] * own[0] + row[1] * own[1]).sum::<f32>())
                };
                let one = |filter: ShardFilter| {
                    (filter.shard, self.serves(filter.shard, node).map(|()| self.hits(&filter, n, sum)))
                };
                Response::Hits(shards.into_iter().map(one).collect())
            }
            Request::Popular { n, shards, .. } => {
                let count = |thing: &Thing| Some(thing.state.events as f32);
                let one = |filter: ShardFilter| {
                    (filter.shard, self.serves(filter.shard, node).map(|()| self.hits(&filter, n, count)))
                };
                Response::Hits(shards.into_iter().map(one).collect())
            }
            Request::GetItems { shards, .. } => {
                let state = |id: ItemId| self.things.get(&id).map(|thing| thing.state.clone());
                let one = |(shard, ids): (ShardId, Vec<ItemId>)| {
                    (shard, self.serves(shard, node).map(|()| ids.into_iter().map(state).collect()))
                };
                Response::Items(shards.into_iter().map(one).collect())
            }
            Request::ItemRows { shards, .. } => {
                let row = |id: ItemId| self.things.get(&id).and_then(|thing| thing.row.clone());
                let one = |(shard, ids): (ShardId, Vec<ItemId>)| {
                    (shard, self.serves(shard, node).map(|()| ids.into_iter().map(row).collect()))
                };
                Response::Rows(shards.into_iter().map(one).collect())
            }
            Request::Applied { shards } => {
                let applied = if self.lagging.contains(&node) { 0 } else { self.index };
                let refused = || Err(Error::new(Kind::WrongShard, "not here"));
                let one = |shard| (shard, if self.refusing.contains(&node) { refused() } else { Ok(applied) });
                Response::Applied(shards.into_iter().map(one).collect())
            }
            other => return Err(Error::new(Kind::Unsupported, format!("no gateway asks {other:?}"))),
        })
    }

    fn export(&self, node: NodeId, export: &Export) -> Result<Vec<ExportPage>> {
        self.led(export.shard, node)?;
        Ok(match export.what {
            ExportWhat::Users => {
                let users = self.users.iter().filter(|(_, state)| state.position.shard == export.shard);
                vec![ExportPage::Users(users.map(|(id, _)| id.clone()).collect())]
            }
            ExportWhat::Items => {
                vec![ExportPage::Items(self.things_of(export.shard).map(|thing| thing.state.clone()).collect())]
            }
            ExportWhat::Vectors { .. } => {
                let row = |thing: &Thing| (thing.state.item.item_id.to_string(), thing.row.clone().unwrap_or_default());
                vec![ExportPage::Vectors(self.things_of(export.shard).map(row).collect())]
            }
            ExportWhat::Events | ExportWhat::State => Vec::new(),
        })
    }
}

impl Caller for Fake {
    fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        _deadline: Deadline,
    ) -> BoxFuture<'static, Result<Bytes>> {
        assert_eq!(service, Service::Shard);
        let request: Request = codec::decode("request", &body).unwrap();
        let mut world = self.world();
        world.log.push((to, request.clone()));
        if world.hanging.contains(&to) {
            return futures::future::pending().boxed();
        }
        let outcome = match world.down.contains(&to) {
            true => Err(Error::new(Kind::Unavailable, format!("node {to}: connection refused"))),
            false => world.answer(to, request),
        };
        futures::future::ready(outcome.map(|response| codec::encode(&response))).boxed()
    }

    fn fetch(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        _deadline: Deadline,
    ) -> BoxFuture<'static, Result<Chunks>> {
        assert_eq!(service, Service::Export);
        let pages = self.world().export(to, &codec::decode("export", &body).unwrap());
        let chunks =
            pages.map(|pages| futures::stream::iter(pages.into_iter().map(|page| Ok(codec::encode(&page)))).boxed());
        futures::future::ready(chunks).boxed()
    }

    fn read(&self, _: NodeId, _: Service, _: Bytes, _: Deadline) -> BoxFuture<'static, Result<Bulk>> {
        unreachable!("a gateway reads nothing in bulk")
    }
}

impl Coordinator for Fake {
    fn call(
        &self,
        request: coordinator::Request,
        _deadline: Deadline,
    ) -> BoxFuture<'static, Result<coordinator::Response>> {
        let outcome = match request {
            coordinator::Request::Activate(VERSION) => {
                Ok(coordinator::Response::Activated(Activation { version: VERSION, epoch: 2, previous: None }))
            }
            coordinator::Request::Activate(_) => Err(Error::new(Kind::NotFound, "there is no such version")),
            _ => Err(Error::new(Kind::Conflict, "there is no previous version")),
        };
        futures::future::ready(outcome).boxed()
    }
}
