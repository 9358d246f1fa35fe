//! A job on one host: its input, tables and phases.
use super::{
    Context,
    blend::{Chosen, Shelf},
    graph, ials,
    odds::Odds,
    order::Order,
    pulled::Owners,
    softmax, tower,
    users::Users,
};
use crate::{
    Error, TrainRequest, TrainResponse, VWORKERS,
    blob::{self, Content},
    link::{self, ItemSide},
    message::{Blob, Open, ReadRequest, Reading, Source},
    plan::{Algorithm, Hosts},
    wire,
};
use bytes::Bytes;
use futures::future::{BoxFuture, try_join_all};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::OnceCell;

pub(super) struct Session {
    pub(super) context: Arc<Context>,
    pub(super) open: Arc<Open>,
    /// Shared with the other runs of the attempt.
    pub(super) shelf: Arc<Shelf>,
    pub(super) stop: Arc<AtomicBool>,
    /// What runs one after the other: phases, and the steps of an owner beside them.
    phases: Lane,
    steps: Lane,
    state: Mutex<State>,
    bytes_pulled: AtomicU64,
}

/// Serialises phases and remembers the last one's answer, for a driver that asks again.
type Lane = tokio::sync::Mutex<Option<(TrainRequest, TrainResponse)>>;

/// What phases leave for later ones and for peers.
#[derive(Default)]
pub(super) struct State {
    pub(super) users: Option<Arc<Users>>,
    pub(super) items: Option<Arc<ItemSide>>,
    pub(super) rows: ials::Rows,
    pub(super) means: Option<Bytes>,
    pub(super) shown: Option<Bytes>,
    /// On a user host: the number of each touched item, and who owns which.
    located: Option<(Arc<Vec<u32>>, Arc<Owners>)>,
    /// Of a graph model, while and after it is counted.
    pub(super) graph: graph::Graph,
    /// Of a model that is trained by gradients.
    pub(super) softmax: softmax::Softmax,
    /// Where items count beside their rows.
    pub(super) odds: Option<Arc<Odds>>,
    /// Of two towers, beside what they share with the one before.
    pub(super) tower: tower::Towers,
    /// Of a blend's last measured run: what weights are found on.
    pub(super) chosen: Option<Arc<Chosen>>,
    /// Blobs as they were written last, or are being written.
    written: VecDeque<(Blob, Arc<OnceCell<Bytes>>)>,
}

/// Blobs that are kept for others that ask for them.
const WRITTEN_MAX: usize = 16;

impl Session {
    pub(super) fn new(context: Arc<Context>, open: Open, shelf: Arc<Shelf>) -> Self {
        Self {
            context,
            open: Arc::new(open),
            shelf,
            stop: Arc::default(),
            phases: Lane::default(),
            steps: Lane::default(),
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
        // With a staleness this host's users are steps ahead of its items.
        let is_step = matches!(request, TrainRequest::Apply { .. });
        let mut last = if is_step { &self.steps } else { &self.phases }.lock().await;
        if let Some((asked, answer)) = &*last
            && *asked == request
        {
            return Ok(answer.clone());
        }
        let answer = match &request {
            TrainRequest::Load(_) => self.load().await,
            TrainRequest::Tally(_) => self.tally().await,
            TrainRequest::Admit { items, least, .. } => self.admit(&Order::new(items)?, *least).await,
            TrainRequest::Link(_) => self.link().await,
            TrainRequest::Step { side, step, gramian, others, .. } => {
                self.step(*side, *step, wire::doubles(gramian), *others).await
            }
            TrainRequest::Locate { items, .. } => self.locate(&Order::new(items)?).await,
            TrainRequest::Weigh(_) => self.weigh(),
            TrainRequest::Prepare { masses, .. } => self.prepare(masses),
            TrainRequest::Survey(_) => self.survey().await,
            TrainRequest::Choose { names, .. } => self.choose(names),
            TrainRequest::Dense { at, weights, .. } => self.dense(*at, weights.clone()).await,
            TrainRequest::Gradients { at, .. } => self.gradients(*at).await,
            TrainRequest::Apply { at, .. } => self.apply(*at).await,
            TrainRequest::Count { items, round, .. } => self.count(Order::new(items)?, *round).await,
            TrainRequest::Evaluate { items, users, cutoffs, users_max, .. } => {
                self.evaluate(&Order::new(items)?, *users, cutoffs, *users_max).await
            }
            TrainRequest::Rank { items, .. } => self.rank(&Order::new(items)?).await,
            TrainRequest::Candidates { items, users_max, .. } => self.candidates(&Order::new(items)?, *users_max).await,
            TrainRequest::Gains { blend, proposals, .. } => self.gains(blend, proposals).await,
            TrainRequest::Judge { items, users, cutoffs, users_max, blend, .. } => {
                self.judge(&Order::new(items)?, *users, cutoffs, *users_max, blend).await
            }
            TrainRequest::Odds { items, exponent, .. } => self.odds(&Order::new(items)?, *exponent).await,
            TrainRequest::Publish(_) => self.publish(None).await,
            TrainRequest::Shelve(_) => self.publish(Some(self.shelf.clone())).await,
            TrainRequest::Compose(_) => self.compose().await,
            TrainRequest::Keep { barrier, keepers, memo, .. } => self.keep(*barrier, keepers, memo).await,
            TrainRequest::Restore { barrier, holders, items, .. } => {
                self.restore(*barrier, holders, Order::new(items)?).await
            }
            TrainRequest::Open(_) | TrainRequest::Close(_) | TrainRequest::Kept { .. } => {
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

    /// Bytes pulled that no answer has told yet.
    pub(super) fn bytes_pulled(&self) -> u64 {
        self.bytes_pulled.swap(0, Ordering::Relaxed)
    }

    async fn load(&self) -> Result<TrainResponse, Error> {
        let (context, open, stop) = (self.context.clone(), self.open.clone(), self.stop.clone());
        let known = self.shelf.users();
        let users = self.context.compute.run(move || Users::of(known, &context, &open, &stop)).await??;
        let counts = users.side.counts();
        self.shelf.put_users(self.open.hold_out, users.clone());
        *self.state() = State { users: Some(users), ..State::default() };
        Ok(TrainResponse::Loaded(counts))
    }

    /// Goes on with these users. The items stay: other hosts ask for what is liked of them until theirs are admitted.
    pub(super) fn replace_users(&self, users: Arc<Users>) {
        let mut state = self.state();
        state.users = Some(users);
        state.graph = graph::Graph::default();
        state.written.clear();
    }

    /// This owner's items, from what each user host touched.
    pub(super) async fn item_side(&self) -> Result<ItemSide, Error> {
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
        let (open, threads) = (self.open.clone(), self.context.options.threads);
        self.context.compute.run(move || link::build(threads, &open.hosts, &own, blobs)).await?
    }

    async fn link(&self) -> Result<TrainResponse, Error> {
        let (side, base) = (self.item_side().await?, self.base().await?);
        let (open, kernel, threads) = (self.open.clone(), self.context.kernel, self.context.options.threads);
        let work = move || {
            let (mut rows, mut softmax, mut sums) = (ials::Rows::default(), softmax::Softmax::default(), Vec::new());
            match &open.algorithm {
                Algorithm::Ials(settings) => {
                    let first = ials::first_rows(settings, open.rows, (kernel, threads), &side, &base)?;
                    (rows, sums) = first;
                }
                Algorithm::Graph(_) => {}
                Algorithm::Softmax(settings) => softmax = softmax::first_rows(settings, kernel, &side)?,
                Algorithm::Tower(settings) => softmax = tower::first_rows(settings, kernel, &side)?,
            }
            Ok::<_, Error>((side, rows, softmax, sums))
        };
        let (side, rows, softmax, sums) = self.context.compute.run(work).await??;
        let items = side.vworkers.iter().map(|(vworker, rows)| (*vworker, rows.len() as u32)).collect();
        let mut state = self.state();
        state.items = Some(Arc::new(side));
        state.rows = rows;
        state.softmax = softmax;
        Ok(TrainResponse::Linked { items, sums, bytes_pulled: self.bytes_pulled() })
    }

    /// The parts of the version that the job goes on from, of the virtual workers that this host owns; none where it trains from nothing.
    async fn base(&self) -> Result<Vec<Vec<u8>>, Error> {
        let Some(parts) = &self.open.base else { return Ok(Vec::new()) };
        let own = Hosts::vworkers_of(&self.open.hosts.items, self.context.options.node);
        let of_own = own.iter().filter_map(|vworker| parts.get(usize::from(*vworker)));
        try_join_all(of_own.map(|part| self.context.parts.source.get(part))).await
    }

    /// Numbers this host's touched items in the order of all.
    async fn locate(&self, order: &Order) -> Result<TrainResponse, Error> {
        let places = self.places(&*self.users()?, order).await?;
        let owners = Owners::new(order, &self.open.hosts);
        self.state().located = Some((Arc::new(places), Arc::new(owners)));
        Ok(TrainResponse::Exchanged { bytes_pulled: self.bytes_pulled() })
    }

    /// The number of each touched item, `u32::MAX` for one that is not in the model.
    pub(super) fn located(&self) -> Result<Arc<Vec<u32>>, Error> {
        let located = self.state().located.as_ref().map(|(places, _)| places.clone());
        located.ok_or_else(|| Error::out_of_turn("for numbers of items", "locate comes first"))
    }

    pub(super) fn owners(&self) -> Result<Arc<Owners>, Error> {
        let located = self.state().located.as_ref().map(|(_, owners)| owners.clone());
        located.ok_or_else(|| Error::out_of_turn("for owners of items", "locate comes first"))
    }

    fn count_pulled(&self, bytes: usize) {
        self.bytes_pulled.fetch_add(bytes as u64, Ordering::Relaxed);
        metrics::counter!("docent_train_pulled_bytes_total").increment(bytes as u64);
    }

    /// A blob of any host; of this one without the network.
    pub(super) async fn pull(&self, node: u64, blob: Blob) -> Result<Bytes, Error> {
        if node == self.context.options.node {
            return self.serve(blob).await?.whole();
        }
        self.read_whole(node, Source::Blob { key: self.open.key, blob }).await
    }

    /// All bytes of another host's blob.
    pub(super) async fn read_whole(&self, node: u64, source: Source) -> Result<Bytes, Error> {
        let bytes = blob::fetch(node, |offset| self.open_stream(node, &source, offset)).await?;
        self.count_pulled(bytes.len());
        Ok(bytes)
    }

    /// Another host's blob of units of `unit` bytes, as it comes (`blob::fetch_each`); gives its length.
    pub(super) async fn read_each(
        &self,
        node: u64,
        unit: usize,
        source: Source,
        take: impl FnMut(u64, u64, Bytes) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let total = blob::fetch_each(node, unit, |offset| self.open_stream(node, &source, offset), take).await?;
        self.count_pulled(total as usize);
        Ok(total)
    }

    fn open_stream(&self, node: u64, source: &Source, offset: u64) -> BoxFuture<'_, Result<Reading, Error>> {
        let deadline = Duration::from_millis(self.open.page_timeout_ms);
        self.context.parts.peers.read(node, ReadRequest { source: source.clone(), offset }, deadline)
    }

    /// What one of this host's blobs is read from.
    pub(super) async fn serve(&self, blob: Blob) -> Result<Content, Error> {
        match blob {
            Blob::Touched { vworker } | Blob::Pairs { vworker } | Blob::State { vworker, .. }
                if vworker >= VWORKERS =>
            {
                Err(Error::Invalid(format!("there is no virtual worker {vworker}")))
            }
            Blob::Touched { vworker } => {
                let users = self.users()?;
                self.written(blob, move || Ok(link::encode(&users.side, vworker))).await.map(Content::Whole)
            }
            Blob::Rows { side, version, reader } => self.serve_rows(side, version, reader),
            Blob::Table { version } => self.serve_table(version),
            Blob::Places { reader } => {
                let items = self.items()?;
                let list = items.places.get(&reader).ok_or_else(|| no_host(reader))?.clone();
                Ok(Content::of_rows(list.len(), 4, move |n, bytes| bytes.extend(list[n].to_le_bytes())))
            }
            Blob::Means => {
                let means = self.state().means.clone();
                means.map(Content::Whole).ok_or_else(|| Error::out_of_turn("for means", "publish comes first"))
            }
            Blob::Positives => {
                let items = self.items()?;
                let count = items.items.len();
                let positives = move |n| u32::try_from(items.adjacency.row(n).0.len()).unwrap_or(u32::MAX);
                Ok(Content::of_rows(count, 4, move |n, bytes| bytes.extend(positives(n).to_le_bytes())))
            }
            Blob::Shown => {
                let shown = self.state().shown.clone();
                shown.map(Content::Whole).ok_or_else(|| Error::out_of_turn("for lists", "evaluation comes first"))
            }
            Blob::Fingerprints => self.serve_fingerprints(),
            Blob::Pairs { .. } | Blob::Units | Blob::Neighbours | Blob::Weights { .. } => {
                self.graph_blob(blob).await.map(Content::Whole)
            }
            Blob::Negatives { .. } | Blob::Push { .. } => self.softmax_blob(blob).await.map(Content::Whole),
            Blob::Trained => self.serve_trained(),
            Blob::State { side, vworker, step } => self.state_blob(side, vworker, step).await.map(Content::Whole),
        }
    }

    /// A blob that is written whole, once for all that ask for it in this phase (and for who asks again where a stream broke).
    pub(super) async fn written(
        &self,
        blob: Blob,
        write: impl FnOnce() -> Result<Vec<u8>, Error> + Send + 'static,
    ) -> Result<Bytes, Error> {
        let cell = {
            let mut state = self.state();
            let known = state.written.iter().find(|(known, _)| *known == blob).map(|(_, cell)| cell.clone());
            known.unwrap_or_else(|| {
                let cell = Arc::<OnceCell<Bytes>>::default();
                state.written.truncate(WRITTEN_MAX - 1);
                state.written.push_front((blob, cell.clone()));
                cell
            })
        };
        let bytes = cell.get_or_try_init(|| async { Ok(self.context.compute.run(write).await??.into()) }).await;
        bytes.cloned()
    }
}

/// The refusal of a reader that has no part in the job.
pub(super) fn no_host(reader: u64) -> Error {
    Error::Invalid(format!("node {reader} is no host of this job"))
}
