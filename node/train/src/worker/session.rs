//! A job on one host: its input, tables and phases.
use super::Context;
use crate::{
    Error, TrainRequest, TrainResponse, VWORKERS,
    link::{self, ItemSide},
    load::{self, UserSide},
    message::{Blob, Open, Side},
    page,
    plan::Hosts,
};
use bytes::Bytes;
use docent_model::{Adjacency, gramian, init, rows::HalfPass, tree};
use futures::future::try_join_all;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub(super) struct Session {
    pub(super) context: Arc<Context>,
    pub(super) open: Arc<Open>,
    pub(super) stop: Arc<AtomicBool>,
    /// Serialises phases and remembers the last one's answer, for a driver that asks again.
    last: tokio::sync::Mutex<Option<(TrainRequest, TrainResponse)>>,
    state: Mutex<State>,
    bytes_pulled: AtomicU64,
}

/// What phases leave for later ones and for peers.
#[derive(Default)]
pub(super) struct State {
    pub(super) users: Option<Arc<Users>>,
    pub(super) items: Option<Arc<ItemSide>>,
    pub(super) user_rows: Option<Rows>,
    pub(super) item_rows: Option<Rows>,
    pub(super) means: Option<Bytes>,
    pub(super) shown: Option<Bytes>,
    /// Touched items as they were written last, by virtual worker: the pages of one are asked for one after the other.
    touched: VecDeque<(u16, Bytes)>,
}

/// Readers of touched items that are served at a time without writing them anew for each page.
const TOUCHED_MAX: usize = 16;

/// This host's users and what it exchanges with each owner.
pub(super) struct Users {
    pub(super) side: UserSide,
    /// Per owner, touched items in the order of its rows.
    pub(super) touched: BTreeMap<u64, Vec<u32>>,
    /// Per owner, the user rows that it reads.
    readers: BTreeMap<u64, Vec<u32>>,
}

/// What half a pass solves: a side's positives, and which rows are which virtual worker's.
trait Half {
    fn adjacency(&self) -> &Adjacency;
    fn vworkers(&self) -> &[(u16, Range<usize>)];
}

impl Half for Users {
    fn adjacency(&self) -> &Adjacency {
        &self.side.adjacency
    }
    fn vworkers(&self) -> &[(u16, Range<usize>)] {
        &self.side.vworkers
    }
}

impl Half for ItemSide {
    fn adjacency(&self) -> &Adjacency {
        &self.adjacency
    }
    fn vworkers(&self) -> &[(u16, Range<usize>)] {
        &self.vworkers
    }
}

/// A side's rows on this host after `version` half passes of that side.
#[derive(Clone)]
pub(super) struct Rows {
    version: u32,
    pub(super) values: Arc<Vec<f32>>,
}

/// What half a pass starts from.
enum Start {
    /// Each row's value after the pass before: it is moved towards its optimum.
    From(Arc<Vec<f32>>),
    /// Nothing: each row is solved exactly.
    Nowhere,
}

impl Session {
    pub(super) fn new(context: Arc<Context>, open: Open) -> Self {
        Self {
            context,
            open: Arc::new(open),
            stop: Arc::default(),
            last: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            bytes_pulled: AtomicU64::new(0),
        }
    }

    /// Ends whatever is computing.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Runs a phase, once however often it is asked for.
    pub(super) async fn phase(&self, request: TrainRequest) -> Result<TrainResponse, Error> {
        let mut last = self.last.lock().await;
        if let Some((asked, answer)) = &*last
            && *asked == request
        {
            return Ok(answer.clone());
        }
        self.bytes_pulled.store(0, Ordering::Relaxed);
        let answer = match &request {
            TrainRequest::Load(_) => self.load().await,
            TrainRequest::Link(_) => self.link().await,
            TrainRequest::Step { side: Side::Users, step, gramian, others, .. } => {
                self.solve_users(*step, page::doubles(gramian), *others).await
            }
            TrainRequest::Step { side: Side::Items, step, gramian, others, .. } => {
                self.solve_items(*step, page::doubles(gramian), *others).await
            }
            TrainRequest::Evaluate { version, items, users, cutoffs, users_max, .. } => {
                self.evaluate(*version, (items, *users), cutoffs, *users_max).await
            }
            TrainRequest::Publish(_) => self.publish().await,
            TrainRequest::Open(_) | TrainRequest::Close(_) | TrainRequest::Pull { .. } => {
                Err(Error::Internal("not a phase".into()))
            }
        }?;
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        *last = Some((request, answer.clone()));
        Ok(answer)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Fields are replaced whole, so a panic elsewhere leaves the state usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn users(&self) -> Result<Arc<Users>, Error> {
        self.state().users.clone().ok_or_else(|| Error::out_of_turn("of users", "load comes first"))
    }

    pub(super) fn items(&self) -> Result<Arc<ItemSide>, Error> {
        self.state().items.clone().ok_or_else(|| Error::out_of_turn("of items", "link comes first"))
    }

    /// The rows of a side when they are at `version`.
    pub(super) fn rows(&self, side: Side, version: u32) -> Result<Arc<Vec<f32>>, Error> {
        let state = self.state();
        let rows = match side {
            Side::Users => &state.user_rows,
            Side::Items => &state.item_rows,
        };
        match rows {
            Some(rows) if rows.version == version => Ok(rows.values.clone()),
            Some(rows) => Err(Error::out_of_turn("for rows", &format!("they are at {}, not {version}", rows.version))),
            None => Err(Error::out_of_turn("for rows", "there are none yet")),
        }
    }

    pub(super) fn bytes_pulled(&self) -> u64 {
        self.bytes_pulled.load(Ordering::Relaxed)
    }

    fn dim(&self) -> usize {
        usize::from(self.open.settings.dim)
    }

    async fn load(&self) -> Result<TrainResponse, Error> {
        let (context, open, stop) = (self.context.clone(), self.open.clone(), self.stop.clone());
        let users = self.context.compute.run(move || load_users(&context, &open, &stop)).await??;
        let counts = users.side.counts();
        *self.state() = State { users: Some(Arc::new(users)), ..State::default() };
        Ok(TrainResponse::Loaded(counts))
    }

    async fn link(&self) -> Result<TrainResponse, Error> {
        let own = Hosts::vworkers_of(&self.open.hosts.items, self.context.options.node);
        let nodes = self.open.hosts.user_nodes();
        let blobs = try_join_all(nodes.iter().map(|node| {
            let own = &own;
            async move {
                let mut blobs = Vec::with_capacity(own.len());
                for vworker in own {
                    blobs.push(self.pull(*node, Blob::Touched { vworker: *vworker }).await?);
                }
                Ok::<_, Error>((*node, blobs))
            }
        }))
        .await?;
        let (open, kernel, threads) = (self.open.clone(), self.context.kernel, self.context.options.threads);
        let work = move || {
            let mut touched = BTreeMap::new();
            for (node, blobs) in blobs {
                let lists =
                    own.iter().zip(blobs).map(|(vworker, blob)| link::decode(node, &open.hosts, *vworker, &blob));
                touched.insert(node, lists.collect::<Result<Vec<_>, _>>()?);
            }
            let side = link::build(&own, touched)?;
            let dim = usize::from(open.settings.dim);
            let mut rows = vec![0.0; side.items.len() * dim];
            for ((_, id), row) in side.items.iter().zip(rows.chunks_exact_mut(dim)) {
                init::fill(open.settings.seed, id, open.settings.init_deviation, row);
            }
            let losses = vec![[0.0; 2]; side.vworkers.len()];
            let sums = partial_sums(kernel, threads, dim, &rows, &side.vworkers, &losses);
            Ok::<_, Error>((side, rows, sums))
        };
        let (side, rows, sums) = self.context.compute.run(work).await??;
        let items = side.vworkers.iter().map(|(vworker, rows)| (*vworker, rows.len() as u32)).collect();
        let mut state = self.state();
        state.items = Some(Arc::new(side));
        state.item_rows = Some(Rows { version: 0, values: Arc::new(rows) });
        Ok(TrainResponse::Linked { items, sums, bytes_pulled: self.bytes_pulled() })
    }

    /// Item rows at version `step` -> user rows at `step + 1`.
    async fn solve_users(&self, step: u32, gramian: Vec<f64>, others: u64) -> Result<TrainResponse, Error> {
        let users = self.users()?;
        let dim = self.dim();
        let pulled = self.pull_rows(Side::Items, step, users.touched.keys().copied()).await?;
        let panel = move |users: &Users| {
            let mut panel = vec![0.0; users.side.touched.len() * dim];
            for (node, bytes) in pulled {
                let places = users.touched.get(&node).map_or(&[][..], Vec::as_slice);
                if bytes.len() != places.len() * dim * 4 {
                    return Err(Error::Malformed { node, reason: "item rows of another number".into() });
                }
                for (place, row) in places.iter().zip(bytes.chunks_exact(dim * 4)) {
                    let at = *place as usize * dim;
                    panel[at..at + dim].iter_mut().zip(page::floats(row)).for_each(|(to, value)| *to = value);
                }
            }
            Ok(panel)
        };
        // The first pass starts from zero, and what is measured with is what a reader solves from the items alone.
        let start = match step {
            step if step == u32::from(self.open.settings.epochs) => Start::Nowhere,
            0 => Start::From(Arc::new(vec![0.0; users.side.adjacency.rows() * dim])),
            step => Start::From(self.rows(Side::Users, step)?),
        };
        let (rows, sums) = self.half_pass(users, panel, (gramian, others), Side::Users, start).await?;
        self.state().user_rows = Some(Rows { version: step + 1, values: Arc::new(rows) });
        Ok(TrainResponse::Stepped { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// User rows at version `step + 1` -> item rows at `step + 1`.
    async fn solve_items(&self, step: u32, gramian: Vec<f64>, others: u64) -> Result<TrainResponse, Error> {
        let items = self.items()?;
        let dim = self.dim();
        let pulled = self.pull_rows(Side::Users, step + 1, items.panel.keys().copied()).await?;
        let panel = move |items: &ItemSide| {
            let mut panel = Vec::with_capacity(items.panel.values().sum::<usize>() * dim);
            for (node, bytes) in pulled {
                if Some(&(bytes.len() / 4 / dim)) != items.panel.get(&node) || bytes.len() % (4 * dim) != 0 {
                    return Err(Error::Malformed { node, reason: "user rows of another number".into() });
                }
                panel.extend(page::floats(&bytes));
            }
            Ok(panel)
        };
        let start = Start::From(self.rows(Side::Items, step)?);
        let (rows, sums) = self.half_pass(items, panel, (gramian, others), Side::Items, start).await?;
        self.state().item_rows = Some(Rows { version: step + 1, values: Arc::new(rows) });
        Ok(TrainResponse::Stepped { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// Puts the other side's rows together (`panel`), solves a side's rows and sums up their Gramian and losses: on the compute thread, because tens
    /// of megabytes are too much for one that queries wait for.
    async fn half_pass<T: Half + Send + Sync + 'static>(
        &self,
        data: Arc<T>,
        panel: impl FnOnce(&T) -> Result<Vec<f32>, Error> + Send + 'static,
        (gramian, others): (Vec<f64>, u64),
        side: Side,
        start: Start,
    ) -> Result<(Vec<f32>, Vec<tree::Node<Vec<f64>>>), Error> {
        let (context, open, stop) = (self.context.clone(), self.open.clone(), self.stop.clone());
        let work = move || {
            let (adjacency, vworkers, panel) = (data.adjacency(), data.vworkers(), panel(&data)?);
            let (settings, threads, dim) = (&open.settings, context.options.threads, usize::from(open.settings.dim));
            let pass = HalfPass::new(settings, context.kernel, threads, &gramian, &panel, others, &stop)?;
            let rows = match start {
                Start::From(rows) => {
                    let mut rows = rows.to_vec();
                    pass.refine(adjacency, &mut rows)?;
                    rows
                }
                Start::Nowhere => {
                    let mut rows = vec![0.0; adjacency.rows() * dim];
                    pass.solve(adjacency, &mut rows)?;
                    rows
                }
            };
            let ranges: Vec<_> = vworkers.iter().map(|(_, range)| range.clone()).collect();
            let losses = match side {
                // The error over positives is counted on the items' side, after both halves.
                Side::Users => pass.penalties(adjacency, &rows, &ranges)?,
                Side::Items => pass.losses(adjacency, &rows, &ranges)?,
            };
            let sums = partial_sums(context.kernel, threads, dim, &rows, vworkers, &losses);
            Ok((rows, sums))
        };
        self.context.compute.run(work).await?
    }

    /// The rows of `side` that this host needs from each of `nodes`.
    async fn pull_rows(
        &self,
        side: Side,
        version: u32,
        nodes: impl Iterator<Item = u64>,
    ) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let blob = Blob::Rows { side, version, reader: self.context.options.node };
        try_join_all(nodes.map(|node| async move { Ok((node, self.pull(node, blob).await?)) })).await
    }

    /// A blob of any host; of this one without the network.
    pub(super) async fn pull(&self, node: u64, blob: Blob) -> Result<Vec<u8>, Error> {
        if node == self.context.options.node {
            return page::fetch(node, |offset| self.serve(blob, offset)).await;
        }
        let deadline = Duration::from_millis(self.open.page_timeout_ms);
        let request = |offset| TrainRequest::Pull { key: self.open.key, blob, offset };
        let bytes = page::fetch(node, |offset| self.context.parts.peers.call(node, request(offset), deadline)).await?;
        self.bytes_pulled.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        metrics::counter!("docent_train_pulled_bytes_total").increment(bytes.len() as u64);
        Ok(bytes)
    }

    /// What this host's users touched of an item virtual worker.
    async fn touched(&self, vworker: u16) -> Result<Bytes, Error> {
        let users = self.users()?;
        let written =
            self.state().touched.iter().find(|(written, _)| *written == vworker).map(|(_, blob)| blob.clone());
        if let Some(blob) = written {
            return Ok(blob);
        }
        let blob: Bytes = self.context.compute.run(move || link::encode(&users.side, vworker)).await?.into();
        let mut state = self.state();
        state.touched.truncate(TOUCHED_MAX - 1);
        state.touched.push_front((vworker, blob.clone()));
        Ok(blob)
    }

    /// A page of one of this host's blobs.
    pub(super) async fn serve(&self, blob: Blob, offset: u64) -> Result<TrainResponse, Error> {
        let unknown = |reader: u64| Error::Invalid(format!("node {reader} is no host of this job"));
        let row_bytes = self.dim() * 4;
        match blob {
            Blob::Touched { vworker } if vworker < VWORKERS => page::cut(&self.touched(vworker).await?, offset),
            Blob::Touched { vworker } => Err(Error::Invalid(format!("there is no virtual worker {vworker}"))),
            Blob::Rows { side: Side::Users, version, reader } => {
                let (users, rows) = (self.users()?, self.rows(Side::Users, version)?);
                let list = users.readers.get(&reader).ok_or_else(|| unknown(reader))?;
                page::of_rows(list.len(), row_bytes, offset, |n, bytes| push_row(&rows, list[n], self.dim(), bytes))
            }
            Blob::Rows { side: Side::Items, version, reader } => {
                let (items, rows) = (self.items()?, self.rows(Side::Items, version)?);
                let list = items.places.get(&reader).ok_or_else(|| unknown(reader))?;
                page::of_rows(list.len(), row_bytes, offset, |n, bytes| push_row(&rows, list[n], self.dim(), bytes))
            }
            Blob::Table { version } => {
                let rows = self.rows(Side::Items, version)?;
                let count = rows.len() / self.dim();
                page::of_rows(count, row_bytes, offset, |n, bytes| push_row(&rows, n as u32, self.dim(), bytes))
            }
            Blob::Places { reader } => {
                let items = self.items()?;
                let list = items.places.get(&reader).ok_or_else(|| unknown(reader))?;
                page::of_rows(list.len(), 4, offset, |n, bytes| bytes.extend(list[n].to_le_bytes()))
            }
            Blob::Means => {
                let means = self.state().means.clone();
                page::cut(&means.ok_or_else(|| Error::out_of_turn("for means", "publish comes first"))?, offset)
            }
            Blob::Positives => {
                let items = self.items()?;
                let positives = |n| u32::try_from(items.adjacency.row(n).0.len()).unwrap_or(u32::MAX);
                page::of_rows(items.items.len(), 4, offset, |n, bytes| bytes.extend(positives(n).to_le_bytes()))
            }
            Blob::Shown => {
                let shown = self.state().shown.clone();
                page::cut(&shown.ok_or_else(|| Error::out_of_turn("for lists", "evaluation comes first"))?, offset)
            }
        }
    }
}

/// Appends row `at`, zeros where there is none (an item that is not in the model).
fn push_row(rows: &[f32], at: u32, dim: usize, bytes: &mut Vec<u8>) {
    match rows.get((at as usize).saturating_mul(dim)..).and_then(|rest| rest.get(..dim)) {
        Some(row) => page::push_floats(row, bytes),
        None => bytes.resize(bytes.len() + dim * 4, 0),
    }
}

/// Reads and sorts every user virtual worker of this host, several at a time.
fn load_users(context: &Context, open: &Open, stop: &AtomicBool) -> Result<Users, Error> {
    let input = context.parts.inputs.users(open.key.job, open.key.epoch)?;
    let own = Hosts::vworkers_of(&open.hosts.users, context.options.node);
    let mut loaded: Vec<Option<Result<load::Loaded, Error>>> = own.iter().map(|_| None).collect();
    let tasks = own.iter().zip(&mut loaded).collect();
    docent_model::parallel::for_each(
        context.options.threads,
        tasks,
        || (),
        |(), (vworker, slot)| {
            if !stop.load(Ordering::Relaxed) {
                let users = input.users(*vworker);
                *slot = Some(users.and_then(|users| load::vworker(*vworker, users, open.hold_out, open.settings.seed)));
            }
        },
    );
    let loaded = loaded.into_iter().map(|loaded| loaded.unwrap_or(Err(Error::Cancelled))).collect::<Result<_, _>>()?;
    let side = load::join(loaded, open.settings.seed)?;
    let (touched, readers) = (side.touched_by_owner(&open.hosts), side.readers(&open.hosts));
    Ok(Users { side, touched, readers })
}

/// Per virtual worker the packed Gramian of its rows and its losses, added up as far as this host has the tree.
fn partial_sums(
    kernel: docent_model::Kernel,
    threads: usize,
    dim: usize,
    rows: &[f32],
    vworkers: &[(u16, Range<usize>)],
    losses: &[[f64; 2]],
) -> Vec<tree::Node<Vec<f64>>> {
    let ranges: Vec<_> = vworkers.iter().map(|(_, range)| range.clone()).collect();
    let gramians = gramian::of_ranges(kernel, threads, dim, rows, &ranges);
    let mut leaves = Vec::with_capacity(ranges.len());
    for (((index, _), mut value), loss) in vworkers.iter().zip(gramians).zip(losses) {
        value.extend(loss);
        leaves.push(tree::Node { level: 0, index: *index, value });
    }
    tree::fold(leaves)
}
