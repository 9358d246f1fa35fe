//! Workers in one process, a transport that encodes every message, and a small planted data set.
use bytes::Bytes;
use docent_model::{Settings, graph, softmax, tower};
use docent_train::{
    Algorithm, CheckpointStore, Checkpoints, Earlier, Error, Evaluate, HoldOut, Hosts, ItemInfo, ItemInput,
    ItemNumbers, JobPlan, JobSettings, Outcome, PartInfo, PartSink, PartSource, Peers, Positive, Precision, Progress,
    ReadRequest, Reading, TrainRequest, TrainResponse, UserHistory, UserInput, Worker,
    driver::Driver,
    input::Inputs,
    message::{Blob, Key, Open, Source},
    plan::Admission,
    worker::{Options, Parts},
};
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

pub(crate) fn slot(id: &str) -> u16 {
    u16::from_le_bytes(*blake3::hash(id.as_bytes()).as_bytes().first_chunk().unwrap()) % 4096
}

/// Users like the items of their own cluster; an item's category is its cluster.
pub(crate) struct Data {
    pub(crate) users: Vec<User>,
    items: Vec<ItemInfo>,
}

/// A user's slot and id, and (item, confidence, time) of the positives.
#[derive(Clone)]
pub(crate) struct User {
    slot: u16,
    id: Arc<str>,
    pub(crate) positives: Vec<(Arc<str>, f32, i64)>,
}

pub(crate) const CLUSTERS: u32 = 6;

impl Data {
    pub(crate) fn planted(users: u32, items: u32) -> Arc<Self> {
        let item_id = |item: u32| -> Arc<str> { format!("item-{item}").into() };
        let history = |user: u32| {
            let mut chosen = BTreeSet::new();
            for n in 0..4 + user % 9 {
                let random = blake3::hash(&[user.to_le_bytes(), n.to_le_bytes()].concat());
                let random = u32::from_le_bytes(*random.as_bytes().first_chunk().unwrap());
                chosen.insert(random % (items / CLUSTERS) * CLUSTERS + user % CLUSTERS);
            }
            let time = |item: u32| i64::from((item * 7919 + user * 104_729) % 100);
            let positive = |item: u32| (item_id(item), 1.0 + (item % 3) as f32, time(item));
            let id: Arc<str> = format!("user-{user}").into();
            User { slot: slot(&id), id, positives: chosen.into_iter().map(positive).collect() }
        };
        let info = |item: u32| ItemInfo {
            slot: slot(&item_id(item)),
            id: item_id(item),
            categories: vec![format!("cluster-{}", item % CLUSTERS).into()],
            live: item != 3,
        };
        Arc::new(Self { users: (0..users).map(history).collect(), items: (0..items).map(info).collect() })
    }

    /// Without the positives of items with fewer than `least`, and without users that have no others.
    pub(crate) fn admitted(&self, least: u32) -> Arc<Self> {
        let mut positives: BTreeMap<Arc<str>, u32> = BTreeMap::new();
        let all = self.users.iter().flat_map(|user| &user.positives);
        all.for_each(|(id, ..)| *positives.entry(id.clone()).or_default() += 1);
        let of_user = |user: &User| {
            let mut user = user.clone();
            user.positives.retain(|(id, ..)| positives[id] >= least);
            (!user.positives.is_empty()).then_some(user)
        };
        Arc::new(Self { users: self.users.iter().filter_map(of_user).collect(), items: self.items.clone() })
    }

    /// The first users without the positives of later items, and without their newest one.
    pub(crate) fn before(&self, users: usize, items: usize) -> Arc<Self> {
        let known = &self.items[..items.min(self.items.len())];
        let of_user = |user: &User| {
            let mut user = user.clone();
            user.positives.retain(|(id, ..)| known.iter().any(|item| item.id == *id));
            user.positives.sort_by_key(|(_, _, time)| *time);
            user.positives.pop();
            user
        };
        Arc::new(Self { users: self.users.iter().take(users).map(of_user).collect(), items: known.to_vec() })
    }
}

/// The whole data, as the node `reversed` would read it from its store: in another order.
struct View {
    data: Arc<Data>,
    reversed: bool,
}

impl UserInput for View {
    fn users(&self, vworker: u16, items: &mut ItemNumbers) -> Result<Vec<UserHistory>, Error> {
        let mut users: Vec<_> = self.data.users.iter().filter(|user| user.slot / 64 == vworker).cloned().collect();
        if self.reversed {
            users.reverse();
            users.iter_mut().for_each(|user| user.positives.reverse());
        }
        let mut positive = |(item, confidence, last_ts_ms): &(Arc<str>, f32, i64)| {
            let item = items.number(item, || slot(item))?;
            Ok(Positive { item, confidence: *confidence, last_ts_ms: *last_ts_ms })
        };
        let history = |User { slot, id, positives }: User| {
            let positives = positives.iter().map(&mut positive).collect::<Result<_, Error>>()?;
            Ok(UserHistory { slot, id, positives })
        };
        users.into_iter().map(history).collect()
    }
}

impl ItemInput for View {
    fn items(&self, vworker: u16) -> Result<Vec<ItemInfo>, Error> {
        Ok(self.data.items.iter().filter(|item| item.slot / 64 == vworker).cloned().collect())
    }
}

struct Store {
    data: Arc<Data>,
    reversed: bool,
    parts: Arc<Mutex<BTreeMap<[u8; 32], Vec<u8>>>>,
}

impl Inputs for Store {
    fn users(&self, _: u64, _: u64) -> Result<Arc<dyn UserInput>, Error> {
        Ok(Arc::new(View { data: self.data.clone(), reversed: self.reversed }))
    }
    fn items(&self, _: u64, _: u64) -> Result<Arc<dyn ItemInput>, Error> {
        Ok(Arc::new(View { data: self.data.clone(), reversed: self.reversed }))
    }
}

impl PartSource for Store {
    fn get<'a>(&'a self, part: &'a Earlier) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        let found = self.parts.lock().unwrap().get(&part.blake3).cloned();
        Box::pin(async move { found.ok_or_else(|| Error::Input("nobody has the part".into())) })
    }
}

impl PartSink for Store {
    fn put(&self, part: &PartInfo, bytes: Vec<u8>) -> Result<(), Error> {
        self.parts.lock().unwrap().insert(part.blake3, bytes);
        Ok(())
    }
}

/// A node's checkpoints, in memory.
#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<[u8; 32], Vec<u8>>>);

impl Memory {
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn forget(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl CheckpointStore for Memory {
    fn put(&self, bytes: &[u8]) -> Result<[u8; 32], Error> {
        let hash = *blake3::hash(bytes).as_bytes();
        self.0.lock().unwrap().insert(hash, bytes.to_vec());
        Ok(hash)
    }
    fn get(&self, hash: &[u8; 32]) -> Result<Vec<u8>, Error> {
        self.0.lock().unwrap().get(hash).cloned().ok_or_else(|| Error::Sink("nothing is kept".into()))
    }
    fn retain(&self, is_kept: &dyn Fn(&[u8; 32]) -> bool) -> Result<(), Error> {
        self.0.lock().unwrap().retain(|hash, _| is_kept(hash));
        Ok(())
    }
}

/// Called with every message before it is delivered; true loses its answer.
pub(crate) type LosesAnswer = Box<dyn Fn(u64, &TrainRequest) -> bool + Send + Sync>;

/// Called with every stream that is opened; true breaks it in the middle.
pub(crate) type Breaks = Box<dyn Fn() -> bool + Send + Sync>;

/// Awaited before a message is delivered.
pub(crate) type Gate = Box<dyn Fn(u64, &TrainRequest) -> BoxFuture<'static, ()> + Send + Sync>;

pub(crate) struct Network {
    workers: OnceLock<BTreeMap<u64, Arc<Worker>>>,
    loses_answer: LosesAnswer,
    gate: OnceLock<Gate>,
    breaks: OnceLock<Breaks>,
    /// Every request comes twice, the second time once the first is answered.
    doubles: AtomicBool,
}

impl Peers for Network {
    fn call(&self, node: u64, request: TrainRequest, _: Duration) -> BoxFuture<'_, Result<TrainResponse, Error>> {
        Box::pin(async move {
            let lost = (self.loses_answer)(node, &request);
            if let Some(gate) = self.gate.get() {
                gate(node, &request).await;
            }
            let bytes = postcard::to_stdvec(&request).unwrap();
            let deliver =
                async || self.workers.get().unwrap()[&node].handle(postcard::from_bytes(&bytes).unwrap()).await;
            let answer = deliver().await?;
            if self.doubles.load(Ordering::Relaxed) {
                assert_eq!(deliver().await.as_ref(), Ok(&answer), "{request:?}");
            }
            if lost {
                return Err(Error::Peer { node, reason: "the answer was lost".into() });
            }
            Ok(postcard::from_bytes(&postcard::to_stdvec(&answer).unwrap()).unwrap())
        })
    }

    fn read(&self, node: u64, request: ReadRequest, _: Duration) -> BoxFuture<'_, Result<Reading, Error>> {
        Box::pin(async move {
            let bytes = postcard::to_stdvec(&request).unwrap();
            let worker = &self.workers.get().unwrap()[&node];
            let open = async || worker.read(postcard::from_bytes(&bytes).unwrap()).await;
            let Reading { bytes, pages } = open().await?;
            let all: Vec<Bytes> = pages.try_collect().await?;
            let mut all = all.concat();
            if self.doubles.load(Ordering::Relaxed) {
                let again: Vec<Bytes> = open().await?.pages.try_collect().await?;
                assert_eq!(all, again.concat(), "{request:?}");
            }
            let breaks = self.breaks.get().is_some_and(|breaks| breaks());
            let broken = breaks.then(|| Err(Error::Peer { node, reason: "the stream broke".into() }));
            if breaks {
                all.truncate(all.len() * 2 / 3);
            }
            // Cut where no row ends.
            let pieces: Vec<_> = all.chunks(1_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            Ok(Reading { bytes, pages: stream::iter(pieces.into_iter().chain(broken)).boxed() })
        })
    }
}

pub(crate) struct Cluster {
    pub(crate) network: Arc<Network>,
    pub(crate) parts: Arc<Mutex<BTreeMap<[u8; 32], Vec<u8>>>>,
    pub(crate) kept: BTreeMap<u64, Arc<Memory>>,
}

impl Cluster {
    pub(crate) fn new(nodes: u64, data: &Arc<Data>, loses_answer: LosesAnswer) -> Self {
        let (workers, gate, breaks) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let network = Arc::new(Network { workers, loses_answer, gate, breaks, doubles: AtomicBool::new(false) });
        let parts: Arc<Mutex<BTreeMap<_, _>>> = Arc::default();
        let kept: BTreeMap<u64, Arc<Memory>> = (1..=nodes).map(|node| (node, Arc::default())).collect();
        let worker = |node: u64| {
            let store = Arc::new(Store { data: data.clone(), reversed: node.is_multiple_of(2), parts: parts.clone() });
            let compute = docent_runtime::Threads::Os;
            let options = Options { node, threads: 1 + node as usize % 2, compute, niceness: 0, sessions_max: 2 };
            let checkpoints = kept[&node].clone();
            let parts = Parts {
                inputs: store.clone(),
                sink: store.clone(),
                source: store,
                checkpoints,
                peers: network.clone(),
            };
            (node, Arc::new(Worker::new(options, parts).unwrap()))
        };
        let _ = network.workers.set((1..=nodes).map(worker).collect());
        Self { network, parts, kept }
    }

    pub(crate) fn healthy(nodes: u64, data: &Arc<Data>) -> Self {
        Self::new(nodes, data, Box::new(|_, _| false))
    }

    pub(crate) fn doubling(self) -> Self {
        self.network.doubles.store(true, Ordering::Relaxed);
        self
    }

    pub(crate) fn breaking(self, breaks: Breaks) -> Self {
        assert!(self.network.breaks.set(breaks).is_ok(), "streams break in one way");
        self
    }

    pub(crate) fn gated(self, gate: Gate) -> Self {
        assert!(self.network.gate.set(gate).is_ok(), "one gate");
        self
    }

    pub(crate) fn worker(&self, node: u64) -> &Worker {
        &self.network.workers.get().unwrap()[&node]
    }

    pub(crate) async fn run(&self, plan: JobPlan) -> Result<Outcome, Error> {
        self.run_until(plan, |_| (), CancellationToken::new()).await
    }

    pub(crate) async fn run_until(
        &self,
        plan: JobPlan,
        progress: impl FnMut(Progress) + Send,
        cancel: CancellationToken,
    ) -> Result<Outcome, Error> {
        Driver::new(Arc::new(|| Duration::ZERO)).run(plan, self.network.clone(), progress, cancel).await
    }
}

/// A request to read a blob.
pub(crate) fn blob(key: Key, blob: Blob, offset: u64) -> ReadRequest {
    ReadRequest { source: Source::Blob { key, blob }, offset }
}

/// Virtual workers dealt out to `nodes` in some order that depends on `deal`.
pub(crate) fn hosts(nodes: u64, deal: u64) -> Hosts {
    let node = |vworker: u64, salt: u64| {
        let hash = blake3::hash(&[vworker, deal, salt].map(u64::to_le_bytes).concat());
        1 + u64::from(hash.as_bytes()[0]) % nodes
    };
    Hosts { users: (0..64).map(|w| node(w, 0)).collect(), items: (0..64).map(|w| node(w, 1)).collect() }
}

/// The settings of [`plan`].
pub(crate) fn ials() -> Settings {
    Settings { dim: 12, epochs: 5, alpha0: 0.02, regularization: 0.01, seed: 7, ..Settings::default() }
}

pub(crate) fn plan(hosts: Hosts) -> JobPlan {
    job(Algorithm::Ials(ials()), hosts)
}

/// iALS with rows of 16 bits.
pub(crate) fn rounded_plan(hosts: Hosts) -> JobPlan {
    let JobPlan { settings, .. } = plan(hosts.clone());
    JobPlan { settings: JobSettings { rows: Precision::Bf16, ..settings }, ..plan(hosts) }
}

pub(crate) fn graph_plan(hosts: Hosts) -> JobPlan {
    let masses =
        graph::Settings { source_mass_exponent: 0.5, target_mass_exponent: 0.25, ..graph::Settings::default() };
    job(Algorithm::Graph(graph::Settings { neighbours: 15, ..masses }), hosts)
}

/// Item-kNN by TF-IDF.
pub(crate) fn tf_idf_plan(hosts: Hosts) -> JobPlan {
    let halves =
        graph::Settings { user_exponent: 0.0, source_exponent: 0.5, target_exponent: 0.5, ..Default::default() };
    let weighted = graph::Settings { idf_power: 2.0, item_norm: graph::ItemNorm::Weights, power: 1.0, ..halves };
    job(Algorithm::Graph(graph::Settings { neighbours: 15, ..weighted }), hosts)
}

pub(crate) fn softmax_plan(hosts: Hosts) -> JobPlan {
    let settings = softmax::Settings { dim: 12, epochs: 6, batch: 300, negatives: 64, seed: 7, ..Default::default() };
    job(Algorithm::Softmax(settings), hosts)
}

pub(crate) fn tower_plan(hosts: Hosts) -> JobPlan {
    let base = softmax::Settings { dim: 12, epochs: 6, batch: 300, negatives: 64, seed: 7, ..Default::default() };
    let settings = tower::Settings { base, user_hidden: 16, item_hidden: 32, dense_rate: 0.01 };
    job(Algorithm::Tower(settings), hosts)
}

/// Sampled softmax with a bias by popularity.
pub(crate) fn biased_plan(hosts: Hosts) -> JobPlan {
    let JobPlan { settings, .. } = softmax_plan(hosts.clone());
    JobPlan { settings: JobSettings { bias: 0.5, ..settings }, ..softmax_plan(hosts) }
}

/// The same told from each negative by itself.
pub(crate) fn bpr_plan(hosts: Hosts) -> JobPlan {
    let JobPlan { settings, .. } = softmax_plan(hosts.clone());
    JobPlan { settings: JobSettings { loss: softmax::Loss::Bpr, ..settings }, ..softmax_plan(hosts) }
}

/// The same with hosts that are up to two steps apart.
pub(crate) fn stale_plan(hosts: Hosts) -> JobPlan {
    let JobPlan { settings, .. } = softmax_plan(hosts.clone());
    JobPlan { settings: JobSettings { staleness: 2, ..settings }, ..softmax_plan(hosts) }
}

/// Every family's plan.
pub(crate) const PLANS: [fn(Hosts) -> JobPlan; 9] =
    [plan, rounded_plan, graph_plan, tf_idf_plan, softmax_plan, tower_plan, biased_plan, bpr_plan, stale_plan];

/// A blend of the graph filter and iALS.
pub(crate) fn blend_plan(hosts: Hosts) -> JobPlan {
    let Algorithm::Graph(filter) = graph_plan(hosts.clone()).settings.algorithm else { panic!("another family") };
    let JobPlan { settings, .. } = plan(hosts.clone());
    let evaluate = Evaluate { hold_out: HoldOut::Random(0.25), cutoffs: vec![5, 20], ..Evaluate::default() };
    let settings = JobSettings { filter: Some(filter), evaluate: Some(evaluate), ..settings };
    JobPlan { settings, ..plan(hosts) }
}

/// The plan with a checkpoint at every barrier; the second copy is with the node behind the host.
pub(crate) fn kept(plan: JobPlan, nodes: u64) -> JobPlan {
    let next = |host: &u64| host % nodes + 1;
    let Hosts { users, items } = &plan.hosts;
    let keepers = Hosts { users: users.iter().map(next).collect(), items: items.iter().map(next).collect() };
    let checkpoints = Checkpoints { input: [7; 32], keepers, nodes: (1..=nodes).collect(), every: Duration::ZERO };
    JobPlan { checkpoints: Some(checkpoints), ..plan }
}

/// The opening of a plan's last run.
pub(crate) fn open(key: Key, plan: &JobPlan) -> Open {
    let JobSettings { algorithm, rows, loss, staleness, seed, .. } = plan.settings.clone();
    let hosts = plan.hosts.clone();
    Open { key, algorithm, rows, loss, staleness, seed, hosts, hold_out: None, base: None, page_timeout_ms: 1000 }
}

fn job(algorithm: Algorithm, hosts: Hosts) -> JobPlan {
    JobPlan {
        job: 5,
        epoch: 1,
        settings: JobSettings {
            algorithm,
            filter: None,
            bias: 0.0,
            rows: Precision::F32,
            loss: softmax::Loss::Softmax,
            staleness: 0,
            admission: Admission::default(),
            seed: 7,
            evaluate: None,
        },
        base: None,
        hosts,
        checkpoints: None,
        phase_timeout: Duration::from_secs(60),
        page_timeout: Duration::from_secs(60),
    }
}
