//! Leads a job through its phases; holds no rows, only Gramians and sums.
use crate::{
    Error, JobPlan, Outcome, PartInfo, Progress, TrainRequest, TrainResponse, VWORKERS,
    message::{Blob, Key, Open, Peers, Side},
    page,
    part::{self, Category, Global},
    plan::{Counts, Phase},
};
use docent_model::{
    evaluation::{Report, Sums},
    gramian,
    mean::CategorySums,
    tree::{self, Node},
};
use futures::future::{join_all, try_join_all};
use std::{sync::Arc, time::Duration};
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
        plan.settings.validate()?;
        plan.hosts.validate()?;
        let started = (self.clock)();
        let mut job = Job { plan: &plan, peers: &*peers, progress, clock: &self.clock, started, bytes_pulled: 0 };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            outcome = job.run() => outcome,
        };
        let key = Key { job: plan.job, epoch: plan.epoch, run: FINAL };
        // A host that does not answer drops the session when it opens another, or when it restarts.
        join_all(plan.hosts.nodes().into_iter().map(|node| peers.call(node, TrainRequest::Close(key), CLOSE_TIMEOUT)))
            .await;
        outcome
    }
}

struct Job<'a, P> {
    plan: &'a JobPlan,
    peers: &'a dyn Peers,
    progress: P,
    clock: &'a Monotonic,
    started: Duration,
    bytes_pulled: u64,
}

/// A trained model, still on its hosts.
struct Trained {
    key: Key,
    counts: Counts,
    items: Vec<u32>,
    item_gramian: Vec<f64>,
    losses: Vec<f64>,
}

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    async fn run(&mut self) -> Result<Outcome, Error> {
        let mut reports = Vec::new();
        let trained = match &self.plan.settings.evaluate {
            None => self.train(FINAL).await?,
            Some(evaluate) => {
                let measured = self.train(MEASURE).await?;
                reports = self.evaluate(&measured).await?;
                if evaluate.retrain { self.train(FINAL).await? } else { measured }
            }
        };
        let (parts, global) = self.publish(&trained).await?;
        self.report(&trained.key, Phase::Publish, self.plan.settings.model.epochs, trained.losses.last().copied());
        Ok(Outcome {
            parts,
            global: global.into(),
            reports,
            counts: trained.counts,
            losses: trained.losses,
            bytes_pulled: self.bytes_pulled,
        })
    }

    async fn train(&mut self, run: u8) -> Result<Trained, Error> {
        let key = Key { job: self.plan.job, epoch: self.plan.epoch, run };
        let mut counts = self.load(key).await?;
        self.report(&key, Phase::Load, 0, None);
        let (items, sums) = self.link(key).await?;
        counts.items = items.iter().map(|count| u64::from(*count)).sum();
        if counts.items == 0 {
            return Err(Error::Diverged("there is not a single positive at the cut".into()));
        }
        self.report(&key, Phase::Link, 0, None);
        let mut trained = Trained { key, counts, items, item_gramian: self.gramian(sums)?.0, losses: Vec::new() };
        for step in 0..self.plan.settings.model.epochs {
            let loss = self.pass(&mut trained, u32::from(step)).await?;
            trained.losses.push(loss);
            self.report(&key, Phase::Epoch, step + 1, Some(loss));
        }
        Ok(trained)
    }

    async fn load(&mut self, key: Key) -> Result<Counts, Error> {
        let hold_out = self.plan.settings.evaluate.as_ref().filter(|_| key.run == MEASURE).map(|e| e.hold_out);
        let page_timeout_ms = u64::try_from(self.plan.page_timeout.as_millis()).unwrap_or(u64::MAX);
        let open =
            Open { key, settings: self.plan.settings.model, hosts: self.plan.hosts.clone(), hold_out, page_timeout_ms };
        self.all(&self.plan.hosts.nodes(), &TrainRequest::Open(open)).await?;
        let mut counts = Counts::default();
        for (node, response) in self.all(&self.plan.hosts.user_nodes(), &TrainRequest::Load(key)).await? {
            let TrainResponse::Loaded(host) = response else { return Err(unexpected(node)) };
            counts.users += host.users;
            counts.positives += host.positives;
            counts.held_out += host.held_out;
        }
        Ok(counts)
    }

    async fn link(&mut self, key: Key) -> Result<(Vec<u32>, Vec<Node<Vec<f64>>>), Error> {
        let mut items = vec![0u32; usize::from(VWORKERS)];
        let mut sums = Vec::new();
        for (node, response) in self.all(&self.plan.hosts.item_nodes(), &TrainRequest::Link(key)).await? {
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

    /// One pass over users and items; gives the objective after it.
    async fn pass(&mut self, trained: &mut Trained, step: u32) -> Result<f64, Error> {
        let settings = &self.plan.settings.model;
        let (users, user_losses) = self.half(trained, step, Side::Users, &trained.item_gramian.clone()).await?;
        let (items, item_losses) = self.half(trained, step, Side::Items, &users).await?;
        let everywhere = gramian::product(usize::from(settings.dim), &users, &items);
        let loss = item_losses[0] + f64::from(settings.alpha0) * everywhere + user_losses[1] + item_losses[1];
        if !loss.is_finite() {
            return Err(Error::Diverged(format!(
                "the loss is not finite after pass {}; raise regularization",
                step + 1
            )));
        }
        trained.item_gramian = items;
        Ok(loss)
    }

    async fn half(
        &mut self,
        trained: &Trained,
        step: u32,
        side: Side,
        gramian: &[f64],
    ) -> Result<(Vec<f64>, [f64; 2]), Error> {
        let (nodes, others) = match side {
            Side::Users => (self.plan.hosts.user_nodes(), trained.counts.items),
            Side::Items => (self.plan.hosts.item_nodes(), trained.counts.users),
        };
        let gramian = page::pack_doubles(gramian);
        let mut sums = Vec::new();
        let request = TrainRequest::Step { key: trained.key, side, step, gramian, others };
        for (node, response) in self.all(&nodes, &request).await? {
            let TrainResponse::Stepped { sums: partial, bytes_pulled } = response else { return Err(unexpected(node)) };
            sums.extend(partial);
            self.bytes_pulled += bytes_pulled;
        }
        self.gramian(sums)
    }

    /// The root of partial sums: Gramian, and the two losses.
    fn gramian(&self, sums: Vec<Node<Vec<f64>>>) -> Result<(Vec<f64>, [f64; 2]), Error> {
        let len = gramian::packed_len(usize::from(self.plan.settings.model.dim));
        if sums.iter().any(|node| node.value.len() != len + 2) {
            return Err(Error::Internal("partial sums of another length".into()));
        }
        let mut root = tree::finish(VWORKERS, sums)?;
        let losses = [root[len], root[len + 1]];
        root.truncate(len);
        Ok((root, losses))
    }

    async fn evaluate(&mut self, trained: &Trained) -> Result<Vec<Report>, Error> {
        let Some(evaluate) = &self.plan.settings.evaluate else { return Ok(Vec::new()) };
        let version = u32::from(self.plan.settings.model.epochs);
        // Users as a reader solves them: against the items that are published.
        self.half(trained, version, Side::Users, &trained.item_gramian).await?;
        let request = TrainRequest::Evaluate {
            key: trained.key,
            version,
            items: trained.items.clone(),
            users: trained.counts.users,
            cutoffs: evaluate.cutoffs.clone(),
            users_max: evaluate.users_max,
        };
        let mut sums = Vec::new();
        for (node, response) in self.all(&self.plan.hosts.user_nodes(), &request).await? {
            let TrainResponse::Evaluated { sums: partial, bytes_pulled } = response else {
                return Err(unexpected(node));
            };
            sums.extend(partial);
            self.bytes_pulled += bytes_pulled;
        }
        let sums = tree::finish(VWORKERS, sums)?;
        let sums: Option<Vec<Sums>> = sums.chunks(Sums::LEN).map(Sums::from_slice).collect();
        let sums = sums.filter(|sums| sums.len() == evaluate.cutoffs.len());
        let sums = sums.ok_or_else(|| Error::Internal("a measurement of another length".into()))?;
        let items = usize::try_from(trained.counts.items).unwrap_or(usize::MAX);
        let shown = self.shown(trained.key, items.saturating_mul(sums.len())).await?;
        let each = evaluate.cutoffs.iter().zip(&sums).zip(shown.chunks_exact(items));
        let reports = each.map(|((cutoff, sums), shown)| Report::new(*cutoff, sums, shown)).collect();
        self.report(&trained.key, Phase::Evaluate, self.plan.settings.model.epochs, trained.losses.last().copied());
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
            shown.iter_mut().zip(page::numbers(&blob)).for_each(|(sum, lists)| *sum = sum.saturating_add(lists));
        }
        Ok(shown)
    }

    /// A blob of a host.
    async fn blob(&self, node: u64, key: Key, blob: Blob) -> Result<Vec<u8>, Error> {
        let request = |offset| TrainRequest::Pull { key, blob, offset };
        page::fetch(node, |offset| self.peers.call(node, request(offset), self.plan.page_timeout)).await
    }

    async fn publish(&mut self, trained: &Trained) -> Result<(Vec<PartInfo>, Vec<u8>), Error> {
        let owners = self.plan.hosts.item_nodes();
        let mut parts = Vec::new();
        for (node, response) in self.all(&owners, &TrainRequest::Publish(trained.key)).await? {
            let TrainResponse::Published { parts: stored } = response else { return Err(unexpected(node)) };
            parts.extend(stored);
        }
        parts.sort_unstable_by_key(|part| part.slots);
        if parts.len() != usize::from(VWORKERS) {
            return Err(Error::Internal(format!("{} parts were stored instead of {VWORKERS}", parts.len())));
        }
        let mut sums: Vec<Node<CategorySums>> = Vec::new();
        for node in owners {
            let blob = self.blob(node, trained.key, Blob::Means).await?;
            let partial: Vec<Node<CategorySums>> =
                postcard::from_bytes(&blob).map_err(|_| Error::Malformed { node, reason: "category sums".into() })?;
            sums.extend(partial);
        }
        let global = self.global(trained, tree::finish(VWORKERS, sums)?);
        let bytes = global.encode().map_err(|error| Error::Diverged(error.to_string()))?;
        parts.push(part::describe(&bytes, None, trained.counts.items, 0));
        Ok((parts, bytes))
    }

    fn global(&self, trained: &Trained, mut sums: CategorySums) -> Global {
        let settings = self.plan.settings.model;
        let all = CategorySums { sums: sums.sums.remove_entry("").into_iter().collect() };
        let mean = all.means(1).pop().map_or_else(|| vec![0.0; usize::from(settings.dim)], |(_, _, mean)| mean);
        let category = |(name, items, mean)| Category { name, items, mean };
        Global {
            settings,
            numerics: Global::numerics(),
            users: trained.counts.users,
            items: trained.counts.items,
            positives: trained.counts.positives,
            loss: trained.losses.last().copied().unwrap_or_default(),
            item_gramian: trained.item_gramian.clone(),
            mean,
            categories: sums.means(part::CATEGORIES_MAX).into_iter().map(category).collect(),
        }
    }

    /// Sends a request to all of `nodes` at once; answers in the order of the nodes.
    async fn all(&self, nodes: &[u64], request: &TrainRequest) -> Result<Vec<(u64, TrainResponse)>, Error> {
        let one = |node: u64| async move {
            let call = || self.peers.call(node, request.clone(), self.plan.phase_timeout);
            Ok((node, page::retry(call).await?))
        };
        try_join_all(nodes.iter().map(|node| one(*node))).await
    }

    fn report(&mut self, key: &Key, phase: Phase, epoch: u16, loss: Option<f64>) {
        let seconds = (self.clock)().saturating_sub(self.started).as_secs_f64();
        tracing::info!(job = key.job, ?phase, epoch, loss, seconds, bytes_pulled = self.bytes_pulled, "training");
        (self.progress)(Progress {
            phase,
            epoch,
            epochs: self.plan.settings.model.epochs,
            is_measuring: key.run == MEASURE,
            loss,
            seconds,
            bytes_pulled: self.bytes_pulled,
        });
    }
}

fn unexpected(node: u64) -> Error {
    Error::Malformed { node, reason: "an answer to another question".into() }
}
