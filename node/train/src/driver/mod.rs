//! Leads a job through its phases; holds no rows, only Gramians and sums. What families share is here, what is a family's own in its file.
mod admit;
mod ahead;
mod blend;
mod checkpoint;
mod graph;
mod ials;
mod softmax;
mod tower;

use crate::{
    Error, JobPlan, Outcome, PartInfo, Progress, TrainRequest, TrainResponse, VWORKERS, blob,
    message::{Blob, Key, Open, Peers, ReadRequest, Source},
    part::{self, Category, Global},
    plan::{Algorithm, Counts, Phase},
    wire,
};
use bytes::Bytes;
use checkpoint::Saved;
use docent_model::{
    evaluation::{Report, Sums},
    mean::CategorySums,
    tree::{self, Node},
};
use futures::future::{join_all, try_join_all};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time since some fixed moment; the node's clock.
pub type Monotonic = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Longest wait for a host to free a finished or cancelled session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const MEASURE: u8 = 0;
const FINAL: u8 = 1;

/// Runs jobs.
#[derive(Clone)]
pub struct Driver {
    clock: Monotonic,
}

impl Driver {
    /// A driver that tells time by `clock` (for progress alone).
    #[must_use]
    pub fn new(clock: Monotonic) -> Self {
        Self { clock }
    }

    /// Runs a job to its end: parts are with their owners' sinks when this returns. Sessions on the hosts are closed
    /// in any case.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Cancelled`] after `cancel`. A host that is lost fails the job: run it again with a raised
    /// epoch and other hosts, for the same bytes.
    pub async fn run(
        &self,
        plan: JobPlan,
        peers: Arc<dyn Peers>,
        progress: impl FnMut(Progress) + Send,
        cancel: CancellationToken,
    ) -> Result<Outcome, Error> {
        plan.validate()?;
        let started = (self.clock)();
        // What a blend's models leave for one another is in no checkpoint: an attempt begins anew.
        let plan = JobPlan { checkpoints: plan.checkpoints.filter(|_| plan.settings.filter.is_none()), ..plan };
        let run = Run::new(&plan, MEASURE, plan.settings.algorithm.clone(), plan.settings.evaluate.is_some());
        let mut job = Job {
            plan: &plan,
            run,
            peers: &*peers,
            progress,
            clock: &self.clock,
            started,
            bytes_pulled: 0,
            waited_us: AtomicU64::new(0),
            reports: Vec::new(),
            kept: started,
            cancel: &cancel,
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            outcome = job.run() => outcome,
        };
        let key = Key { job: plan.job, epoch: plan.epoch, run: u8::MAX };
        // A host that does not answer drops the session when it opens another, or when it restarts.
        join_all(plan.nodes().into_iter().map(|node| peers.call(node, TrainRequest::Close(key), CLOSE_TIMEOUT))).await;
        outcome
    }
}

struct Job<'a, P> {
    plan: &'a JobPlan,
    run: Run,
    peers: &'a dyn Peers,
    progress: P,
    clock: &'a Monotonic,
    started: Duration,
    bytes_pulled: u64,
    /// See [`Progress::waited_seconds`], in microseconds.
    waited_us: AtomicU64,
    /// Of the model that was measured.
    reports: Vec<Report>,
    /// When the last checkpoint was made.
    kept: Duration,
    cancel: &'a CancellationToken,
}

/// The training of one model; a job has several, one after the other.
#[derive(Clone)]
struct Run {
    key: Key,
    algorithm: Algorithm,
    is_measuring: bool,
}

impl Run {
    fn new(plan: &JobPlan, run: u8, algorithm: Algorithm, is_measuring: bool) -> Self {
        Self { key: Key { job: plan.job, epoch: plan.epoch, run }, algorithm, is_measuring }
    }
}

/// What a model is trained on, read and linked on its hosts.
struct Linked {
    key: Key,
    counts: Counts,
    /// Items of each virtual worker.
    items: Vec<u32>,
}

/// A trained model, still on its hosts.
struct Trained {
    algorithm: Algorithm,
    linked: Linked,
    fitted: Fitted,
}

/// What the driver keeps of a trained model.
enum Fitted {
    Ials(ials::Fitted),
    Graph,
    /// The loss of each epoch.
    Softmax(Vec<f64>),
    Tower(tower::Fitted),
}

impl Trained {
    fn losses(&self) -> &[f64] {
        match &self.fitted {
            Fitted::Ials(fitted) => &fitted.losses,
            Fitted::Graph => &[],
            Fitted::Softmax(losses) => losses,
            Fitted::Tower(fitted) => &fitted.losses,
        }
    }
}

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    async fn run(&mut self) -> Result<Outcome, Error> {
        if let Some(filter) = self.plan.settings.filter {
            return self.blend(filter).await;
        }
        let measure = Run::new(self.plan, MEASURE, self.plan.settings.algorithm.clone(), true);
        let last = Run::new(self.plan, FINAL, self.plan.last(), false);
        let mut saved = self.saved().await;
        let is_measured = saved.as_ref().is_some_and(|saved| saved.barrier.run == FINAL);
        let trained = match &self.plan.settings.evaluate {
            Some(evaluate) if !is_measured => {
                let measured = self.train(measure, saved.take()).await?;
                self.reports = self.evaluate(&measured).await?;
                if evaluate.retrain { self.train(last, None).await? } else { measured }
            }
            _ => self.train(last, saved).await?,
        };
        let parts = self.publish(TrainRequest::Publish(trained.linked.key)).await?;
        let global = self.global(&trained).await?;
        self.outcome(parts, &global, &trained)
    }

    /// What the job leaves; its last model is `trained`.
    fn outcome(&mut self, mut parts: Vec<PartInfo>, global: &Global, trained: &Trained) -> Result<Outcome, Error> {
        let bytes = global.encode().map_err(|error| Error::Diverged(error.to_string()))?;
        parts.push(part::describe(&bytes, None, trained.linked.counts.items, 0));
        self.report(Phase::Publish, trained.algorithm.epochs(), trained.losses().last().copied());
        Ok(Outcome {
            parts,
            global: bytes.into(),
            reports: std::mem::take(&mut self.reports),
            counts: trained.linked.counts,
            losses: trained.losses().to_vec(),
            bytes_pulled: self.bytes_pulled,
        })
    }

    /// Trains from the start, or from what an earlier attempt left.
    async fn train(&mut self, run: Run, saved: Option<Saved>) -> Result<Trained, Error> {
        let (key, algorithm) = (run.key, run.algorithm.clone());
        // Hosts that have their users already may answer before anybody looks whether the job is still wanted.
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.run = run;
        let counts = self.load(key).await?;
        self.report(Phase::Load, 0, None);
        let mut counts = self.admit(key, counts).await?;
        let (items, sums) = self.linked(TrainRequest::Link(key)).await?;
        counts.items = items.iter().map(|count| u64::from(*count)).sum();
        if counts.items == 0 {
            return Err(Error::Diverged("there is not a single positive at the cut".into()));
        }
        self.report(Phase::Link, 0, None);
        let linked = Linked { key, counts, items };
        let start = self.start(&linked, sums, saved).await?;
        let fitted = match &algorithm {
            Algorithm::Ials(settings) => Fitted::Ials(self.passes(settings, &linked, start).await?),
            Algorithm::Graph(_) => {
                self.count(&linked, start).await?;
                Fitted::Graph
            }
            Algorithm::Softmax(settings) => Fitted::Softmax(self.descend(settings, &linked, start).await?),
            Algorithm::Tower(settings) => Fitted::Tower(self.climb(settings, &linked, start).await?),
        };
        Ok(Trained { algorithm, linked, fitted })
    }

    async fn load(&mut self, key: Key) -> Result<Counts, Error> {
        let hold_out = self.plan.settings.evaluate.as_ref().filter(|_| self.run.is_measuring).map(|e| e.hold_out);
        let page_timeout_ms = u64::try_from(self.plan.page_timeout.as_millis()).unwrap_or(u64::MAX);
        let open = Open {
            key,
            algorithm: self.run.algorithm.clone(),
            rows: self.plan.settings.rows,
            loss: self.plan.settings.loss,
            staleness: self.plan.settings.staleness,
            seed: self.plan.settings.seed,
            hosts: self.plan.hosts.clone(),
            hold_out,
            base: self.plan.base.as_ref().filter(|_| self.run.key.run == FINAL).map(|base| base.parts.clone()),
            page_timeout_ms,
        };
        self.all(&self.plan.nodes(), &TrainRequest::Open(open)).await?;
        let mut counts = Counts::default();
        for (node, response) in self.all(&self.plan.hosts.user_nodes(), &TrainRequest::Load(key)).await? {
            let TrainResponse::Loaded(host) = response else { return Err(unexpected(node)) };
            counts.add(host);
        }
        Ok(counts)
    }

    /// Has owners build their side: items of each virtual worker, and sums of the first rows.
    async fn linked(&mut self, request: TrainRequest) -> Result<(Vec<u32>, Vec<Node<Vec<f64>>>), Error> {
        let mut items = vec![0u32; usize::from(VWORKERS)];
        let mut sums = Vec::new();
        for (node, response) in self.all(&self.plan.hosts.item_nodes(), &request).await? {
            let TrainResponse::Linked { items: of_host, sums: partial, bytes_pulled } = response else {
                return Err(unexpected(node));
            };
            for (vworker, count) in of_host {
                *items.get_mut(usize::from(vworker)).ok_or_else(|| unexpected(node))? = count;
            }
            sums.extend(partial);
            self.bytes_pulled += bytes_pulled;
        }
        Ok((items, sums))
    }

    async fn evaluate(&mut self, trained: &Trained) -> Result<Vec<Report>, Error> {
        let Some(evaluate) = &self.plan.settings.evaluate else { return Ok(Vec::new()) };
        self.solve_readers(trained).await?;
        let request = TrainRequest::Evaluate {
            key: trained.linked.key,
            items: trained.linked.items.clone(),
            users: trained.linked.counts.users,
            cutoffs: evaluate.cutoffs.clone(),
            users_max: evaluate.users_max,
        };
        self.measure(trained, &request, &evaluate.cutoffs).await
    }

    /// Sends a request to measure; one report a cut-off.
    async fn measure(
        &mut self,
        trained: &Trained,
        request: &TrainRequest,
        cutoffs: &[u16],
    ) -> Result<Vec<Report>, Error> {
        let mut sums = Vec::new();
        for (node, response) in self.all(&self.plan.hosts.user_nodes(), request).await? {
            let TrainResponse::Evaluated { sums: partial, bytes_pulled } = response else {
                return Err(unexpected(node));
            };
            sums.extend(partial);
            self.bytes_pulled += bytes_pulled;
        }
        let sums = tree::finish(VWORKERS, sums)?;
        let sums: Option<Vec<Sums>> = sums.chunks(Sums::LEN).map(Sums::from_slice).collect();
        let sums = sums.filter(|sums| sums.len() == cutoffs.len());
        let sums = sums.ok_or_else(|| Error::Internal("a measurement of another length".into()))?;
        let items = usize::try_from(trained.linked.counts.items).unwrap_or(usize::MAX);
        let shown = self.shown(trained.linked.key, items.saturating_mul(sums.len())).await?;
        let each = cutoffs.iter().zip(&sums).zip(shown.chunks_exact(items));
        let reports = each.map(|((cutoff, sums), shown)| Report::new(*cutoff, sums, shown)).collect();
        self.report(Phase::Evaluate, trained.algorithm.epochs(), trained.losses().last().copied());
        Ok(reports)
    }

    /// In how many lists each item is, over all hosts: `len` numbers.
    async fn shown(&self, key: Key, len: usize) -> Result<Vec<u32>, Error> {
        let mut shown = vec![0u32; len];
        for node in self.plan.hosts.user_nodes() {
            let blob = self.blob(node, key, Blob::Shown).await?;
            if blob.len() != len * 4 {
                return Err(Error::Malformed { node, reason: "lists over another number of items".into() });
            }
            shown.iter_mut().zip(wire::numbers(&blob)).for_each(|(sum, lists)| *sum = sum.saturating_add(lists));
        }
        Ok(shown)
    }

    /// A blob of a host.
    async fn blob(&self, node: u64, key: Key, blob: Blob) -> Result<Bytes, Error> {
        let request = |offset| ReadRequest { source: Source::Blob { key, blob }, offset };
        blob::fetch(node, |offset| self.peers.read(node, request(offset), self.plan.page_timeout)).await
    }

    /// Has owners write their parts.
    async fn publish(&mut self, request: TrainRequest) -> Result<Vec<PartInfo>, Error> {
        let owners = self.plan.hosts.item_nodes();
        let mut parts = Vec::new();
        for (node, response) in self.all(&owners, &request).await? {
            let TrainResponse::Published { parts: stored } = response else { return Err(unexpected(node)) };
            parts.extend(stored);
        }
        parts.sort_unstable_by_key(|part| part.slots);
        if parts.len() != usize::from(VWORKERS) {
            return Err(Error::Internal(format!("{} parts were stored instead of {VWORKERS}", parts.len())));
        }
        Ok(parts)
    }

    /// The global part of a model whose owners have published.
    async fn global(&self, trained: &Trained) -> Result<Global, Error> {
        let linked = &trained.linked;
        Ok(match (&trained.algorithm, &trained.fitted) {
            (Algorithm::Ials(settings), Fitted::Ials(fitted)) => {
                Global::Ials(self.ials_global(settings, linked, fitted).await?)
            }
            (Algorithm::Graph(settings), Fitted::Graph) => Global::Graph(graph::global(settings, linked)),
            (Algorithm::Softmax(settings), Fitted::Softmax(losses)) => {
                Global::Softmax(self.softmax_global(settings, linked, losses).await?)
            }
            (Algorithm::Tower(settings), Fitted::Tower(fitted)) => {
                Global::Tower(Box::new(self.tower_global(settings, linked, fitted).await?))
            }
            _ => return Err(Error::Internal("a model of another family than its run's".into())),
        })
    }

    /// The mean row of all live items, and of each category's.
    async fn means(&self, linked: &Linked, dim: u16) -> Result<(Vec<f32>, Vec<Category>), Error> {
        let mut sums: Vec<Node<CategorySums>> = Vec::new();
        for node in self.plan.hosts.item_nodes() {
            let blob = self.blob(node, linked.key, Blob::Means).await?;
            let partial: Vec<Node<CategorySums>> =
                postcard::from_bytes(&blob).map_err(|_| Error::Malformed { node, reason: "category sums".into() })?;
            sums.extend(partial);
        }
        let mut sums = tree::finish(VWORKERS, sums)?;
        let all = CategorySums { sums: sums.sums.remove_entry("").into_iter().collect() };
        let mean = all.means(1).pop().map_or_else(|| vec![0.0; usize::from(dim)], |(_, _, mean)| mean);
        let category = |(name, items, mean)| Category { name, items, mean };
        Ok((mean, sums.means(part::CATEGORIES_MAX).into_iter().map(category).collect()))
    }

    /// What `nodes` answer, added up over all virtual workers.
    async fn sums(&mut self, nodes: &[u64], request: &TrainRequest) -> Result<Vec<f64>, Error> {
        let mut sums = Vec::new();
        for (node, response) in self.all(nodes, request).await? {
            let TrainResponse::Stepped { sums: partial, bytes_pulled } = response else { return Err(unexpected(node)) };
            sums.extend(partial);
            self.bytes_pulled += bytes_pulled;
        }
        Ok(tree::finish(VWORKERS, sums)?)
    }

    /// Sends a request that only moves data.
    async fn exchange(&mut self, nodes: &[u64], request: &TrainRequest) -> Result<(), Error> {
        for (node, response) in self.all(nodes, request).await? {
            let TrainResponse::Exchanged { bytes_pulled } = response else { return Err(unexpected(node)) };
            self.bytes_pulled += bytes_pulled;
        }
        Ok(())
    }

    /// Sends a request to all of `nodes` at once; answers in the order of the nodes.
    async fn all(&self, nodes: &[u64], request: &TrainRequest) -> Result<Vec<(u64, TrainResponse)>, Error> {
        let one = |node: u64| async move {
            let call = || self.peers.call(node, request.clone(), self.plan.phase_timeout);
            let response = blob::retry(call).await?;
            Ok::<_, Error>(((node, response), (self.clock)()))
        };
        let answered = try_join_all(nodes.iter().map(|node| one(*node))).await?;
        let (answers, moments): (Vec<_>, Vec<Duration>) = answered.into_iter().unzip();
        let last = moments.iter().max().copied().unwrap_or_default();
        let waited: Duration = moments.iter().map(|moment| last.saturating_sub(*moment)).sum();
        self.waited_us.fetch_add(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(answers)
    }

    fn report(&mut self, phase: Phase, epoch: u16, loss: Option<f64>) {
        let seconds = (self.clock)().saturating_sub(self.started).as_secs_f64();
        tracing::info!(job = self.plan.job, ?phase, epoch, loss, seconds, bytes_pulled = self.bytes_pulled, "training");
        (self.progress)(Progress {
            phase,
            epoch,
            epochs: self.run.algorithm.epochs(),
            is_measuring: self.run.is_measuring,
            loss,
            seconds,
            bytes_pulled: self.bytes_pulled,
            waited_seconds: Duration::from_micros(self.waited_us.load(Ordering::Relaxed)).as_secs_f64(),
            hosts: u32::try_from(self.plan.hosts.nodes().len()).unwrap_or(u32::MAX),
        });
    }
}

fn unexpected(node: u64) -> Error {
    Error::Malformed { node, reason: "an answer to another question".into() }
}
