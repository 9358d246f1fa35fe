//! Runs the jobs that the catalog gives to this node.

use super::ask::Asking;
use super::cut::Cuts;
use super::exchange::TrainPeers;
use crate::membership::Coordinators;
use crate::parts::Parts;
use docent_model::blend::Channel;
use docent_model::evaluation::Report;
use docent_proto::internal::coordinator::{JobReport, JobUpdate, Request, TrainedModel};
use docent_rpc::Caller;
use docent_runtime::{Clock, Deadline, OnExit, Supervisor};
use docent_train::driver::Driver;
use docent_train::part::Global;
use docent_train::plan::Phase;
use docent_train::{
    Base, Checkpoints, Earlier, Evaluate, HoldOut, JobPlan, JobSettings, Outcome, PartInfo, Progress, Worker,
};
use docent_types::catalog::{Catalog, Job, JobProgress, JobState, ModelPart, Step};
use docent_types::training::{
    Admission, Algorithm, Graph, Ials, ItemNorm, Loss, Partner, Precision, Softmax, Split, Tower, TrainSettings, Warm,
};
use docent_types::{Error, Keyspace, Kind, NodeId, Position, Result, SLOTS, SlotRange};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long the coordinator may take to hear of a job.
const REPORT: Duration = Duration::from_secs(30);
/// The format whose coordinators take steps.
const STEPS: u32 = 6;
/// How long one phase may take on a host.
const PHASE: Duration = Duration::from_secs(3_000);
/// How long one page between hosts may take.
const PAGE: Duration = Duration::from_secs(60);

/// Drives jobs from this node.
#[derive(Clone)]
pub struct Drive {
    /// This node.
    pub node: NodeId,
    /// Other nodes.
    pub caller: Arc<dyn Caller>,
    /// Where jobs are reported.
    pub coordinators: Coordinators,
    /// Where the global part goes.
    pub parts: Arc<Parts>,
    /// Pins of this node, dropped when their job is over.
    pub cuts: Arc<Cuts>,
    /// This node's share of the work; forgets the checkpoints of jobs that are over.
    pub worker: Arc<Worker>,
    /// Least time between two checkpoints.
    pub checkpoint_every: Duration,
    /// For progress and checkpoints alone.
    pub clock: Arc<dyn Clock>,
}

impl Drive {
    /// Follows the catalog: starts attempts that are this node's, ends those that are not any more.
    pub async fn follow(self, mut catalog: watch::Receiver<Arc<Catalog>>, supervisor: Supervisor) -> Result<()> {
        let mut attempts: BTreeMap<(u64, u64), CancellationToken> = BTreeMap::new();
        loop {
            let current = catalog.borrow_and_update().clone();
            let is_mine = |job: &&Job| job.state == JobState::Running && job.driver == Some(self.node);
            let mine: BTreeMap<(u64, u64), &Job> =
                current.jobs.values().filter(is_mine).map(|job| ((job.id, job.epoch), job)).collect();
            attempts.iter().filter(|(attempt, _)| !mine.contains_key(attempt)).for_each(|(_, cancel)| cancel.cancel());
            attempts.retain(|attempt, _| mine.contains_key(attempt));
            for (attempt, job) in mine {
                attempts.entry(attempt).or_insert_with(|| self.start(job.clone(), catalog.clone(), &supervisor));
            }
            self.cuts.retain(|job| !is_over(&current, job));
            self.worker.retain(|job| !is_over(&current, job));
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { return Ok(()) },
                () = supervisor.cancelled() => {
                    attempts.values().for_each(CancellationToken::cancel);
                    return Ok(());
                }
            }
        }
    }

    fn start(&self, job: Job, catalog: watch::Receiver<Arc<Catalog>>, supervisor: &Supervisor) -> CancellationToken {
        let cancel = CancellationToken::new();
        let (drive, token, inner) = (self.clone(), cancel.clone(), supervisor.clone());
        supervisor.spawn_cancellable("training driver", OnExit::Log, async move {
            tracing::info!(job = job.id, attempt = job.epoch, "training starts");
            let (sender, receiver) = mpsc::channel(64);
            let reporter = drive.clone();
            let attempt = (job.id, job.epoch);
            let seen = catalog.clone();
            inner.spawn_cancellable("training reports", OnExit::Log, async move {
                reporter.report_progress(attempt, receiver, seen).await
            });
            let update = match drive.run(&job, &catalog, sender, token.clone()).await {
                Ok(model) => JobUpdate::Finished(model),
                Err(_) if token.is_cancelled() => return Ok(()),
                Err(error) => {
                    tracing::warn!(job = job.id, attempt = job.epoch, %error, "training attempt failed");
                    let is_retryable = !matches!(error.kind, Kind::Invalid);
                    JobUpdate::Failed { error: error.message, is_retryable }
                }
            };
            drive.report_end(attempt, update).await
        });
        cancel
    }

    /// Reports an end until it is heard: a finished model is not thrown away because no coordinator answers just now.
    async fn report_end(&self, attempt: (u64, u64), update: JobUpdate) -> Result<()> {
        loop {
            match self.report(attempt, update.clone()).await {
                Err(error) if error.kind == Kind::Unavailable => {
                    tracing::warn!(job = attempt.0, %error, "the end of a training job was not heard; telling it again");
                }
                heard => return heard,
            }
        }
    }

    async fn report(&self, (job, epoch): (u64, u64), update: JobUpdate) -> Result<()> {
        let report = Request::ReportJob(JobReport { job, epoch, driver: self.node, update });
        self.coordinators.call(&report, Deadline::after(REPORT)).await.map(drop)
    }

    /// Reports the newest progress; older ones that wait are skipped.
    async fn report_progress(
        &self,
        attempt: (u64, u64),
        mut progress: mpsc::Receiver<Step>,
        catalog: watch::Receiver<Arc<Catalog>>,
    ) -> Result<()> {
        while let Some(mut newest) = progress.recv().await {
            while let Ok(newer) = progress.try_recv() {
                newest = newer;
            }
            let is_known = catalog.borrow().format() >= STEPS;
            let update = if is_known { JobUpdate::Step(newest) } else { JobUpdate::Progress(newest.progress) };
            if let Err(error) = self.report(attempt, update).await {
                tracing::debug!(%error, "progress was not heard");
            }
        }
        Ok(())
    }

    async fn run(
        &self,
        job: &Job,
        catalog: &watch::Receiver<Arc<Catalog>>,
        progress: mpsc::Sender<Step>,
        cancel: CancellationToken,
    ) -> Result<TrainedModel> {
        let input = Asking { caller: &*self.caller, job, catalog }.input().await?;
        let plan = JobPlan {
            job: job.id,
            epoch: job.epoch,
            settings: job_settings(&job.settings),
            base: base(&catalog.borrow(), &job.settings.algorithm)?,
            hosts: input.hosts,
            checkpoints: input.keepers.map(|keepers| Checkpoints {
                input: input.identity,
                keepers,
                nodes: input.nodes,
                every: self.checkpoint_every,
            }),
            phase_timeout: PHASE,
            page_timeout: PAGE,
        };
        let clock = self.clock.clone();
        let driver = Driver::new(Arc::new(move || clock.monotonic()));
        let peers = Arc::new(TrainPeers(self.caller.clone()));
        // A full queue means that newer progress is on its way.
        let tell = move |step: Progress| {
            measure(&step);
            drop(progress.try_send(job_step(&step)));
        };
        let outcome = driver.run(plan, peers, tell, cancel).await.map_err(train_error)?;
        let hash = self.parts.put(&outcome.global)?;
        trained(self.node, input.positions, &outcome, hash)
    }
}

/// The parts of the version that a job goes on from. The job names it since it was queued, so that every attempt goes on from the same one.
fn base(catalog: &Catalog, algorithm: &Algorithm) -> Result<Option<Base>> {
    let Some(Warm { epochs, from: Some(version) }) = algorithm.warm() else { return Ok(None) };
    let model = catalog.models.get(&version).ok_or_else(|| {
        let message = format!("version {version}, which the job goes on from, is forgotten; start another job");
        Error::new(Kind::Invalid, message)
    })?;
    let alive = || catalog.nodes.values().filter(|member| member.is_alive).map(|member| member.id.0);
    let part = |part: &ModelPart| Earlier {
        blake3: part.hash,
        bytes: part.bytes,
        holders: part.holders.iter().map(|node| node.0).chain(alive()).collect(),
    };
    let parts = model.parts.iter().map(part).collect();
    Ok(Some(Base { parts, epochs: u16::try_from(epochs).unwrap_or(u16::MAX) }))
}

/// Whether this catalog knows that nothing more comes of a job. An older catalog than the driver's has it queued, or does not know it: what
/// is pinned for it stays.
fn is_over(catalog: &Catalog, job: u64) -> bool {
    catalog.jobs.get(&job).is_some_and(|job| job.state.is_over())
}

fn job_settings(settings: &TrainSettings) -> JobSettings {
    // Ranges were checked when the job was queued.
    let seed = settings.seed;
    let (algorithm, filter) = match &settings.algorithm {
        Algorithm::Ials(ials) => (ials_settings(ials, seed), None),
        Algorithm::Graph(graph) => (docent_train::Algorithm::Graph(graph_settings(graph)), None),
        Algorithm::Softmax(softmax) => (docent_train::Algorithm::Softmax(softmax_settings(softmax, seed)), None),
        Algorithm::Tower(tower) => (tower_settings(tower, seed), None),
        Algorithm::Blend(blend) => {
            let with = match &blend.with {
                Partner::Ials(ials) => ials_settings(ials, seed),
                Partner::Softmax(softmax) => docent_train::Algorithm::Softmax(softmax_settings(softmax, seed)),
                Partner::Tower(tower) => tower_settings(tower, seed),
            };
            (with, Some(graph_settings(&blend.graph)))
        }
    };
    let share = settings.holdout as f32;
    let hold_out = match settings.split {
        Split::Time => HoldOut::Newest(share),
        Split::Random => HoldOut::Random(share),
    };
    let evaluate = (share > 0.0).then(|| Evaluate { hold_out, retrain: settings.refit, ..Evaluate::default() });
    let loss = match settings.algorithm.softmax().map(|softmax| softmax.loss) {
        Some(Loss::Bpr) => docent_model::softmax::Loss::Bpr,
        Some(Loss::Softmax) | None => docent_model::softmax::Loss::Softmax,
    };
    let rows = match settings.algorithm.row_precision() {
        Precision::F32 => docent_train::Precision::F32,
        Precision::Bf16 => docent_train::Precision::Bf16,
    };
    let Admission { min_positives, items_max } = settings.admission;
    let admission = docent_train::plan::Admission { min_positives, items_max };
    let (bias, staleness) = (settings.algorithm.popularity_bias() as f32, settings.algorithm.staleness());
    JobSettings { algorithm, filter, bias, rows, loss, staleness, admission, seed, evaluate }
}

fn ials_settings(ials: &Ials, seed: u64) -> docent_train::Algorithm {
    docent_train::Algorithm::Ials(docent_model::Settings {
        dim: u16::try_from(ials.dim).unwrap_or(u16::MAX),
        epochs: u16::try_from(ials.epochs).unwrap_or(u16::MAX),
        alpha0: ials.unobserved_weight as f32,
        regularization: ials.regularization as f32,
        frequency_exponent: ials.frequency_scaling as f32,
        seed,
        ..docent_model::Settings::default()
    })
}

fn graph_settings(graph: &Graph) -> docent_model::graph::Settings {
    docent_model::graph::Settings {
        user_exponent: graph.user_exponent as f32,
        source_exponent: graph.source_exponent as f32,
        target_exponent: graph.target_exponent as f32,
        power: graph.power as f32,
        neighbours: graph.neighbours,
        source_mass_exponent: graph.source_mass_exponent as f32,
        target_mass_exponent: graph.target_mass_exponent as f32,
        idf_power: graph.idf_power as f32,
        item_norm: match graph.item_norm {
            ItemNorm::Positives => docent_model::graph::ItemNorm::Positives,
            ItemNorm::Weights => docent_model::graph::ItemNorm::Weights,
            ItemNorm::Length(share) => docent_model::graph::ItemNorm::Length { share: share as f32 },
        },
    }
}

fn tower_settings(tower: &Tower, seed: u64) -> docent_train::Algorithm {
    docent_train::Algorithm::Tower(docent_model::tower::Settings {
        base: softmax_settings(&tower.softmax, seed),
        user_hidden: u16::try_from(tower.user_hidden).unwrap_or(u16::MAX),
        item_hidden: u16::try_from(tower.item_hidden).unwrap_or(u16::MAX),
        dense_rate: tower.dense_rate as f32,
    })
}

fn softmax_settings(softmax: &Softmax, seed: u64) -> docent_model::softmax::Settings {
    docent_model::softmax::Settings {
        dim: u16::try_from(softmax.dim).unwrap_or(u16::MAX),
        epochs: u16::try_from(softmax.epochs).unwrap_or(u16::MAX),
        batch: softmax.batch,
        negatives: softmax.negatives,
        temperature: softmax.temperature as f32,
        folds: u16::try_from(softmax.folds).unwrap_or(u16::MAX),
        learning_rate: softmax.learning_rate as f32,
        popularity_exponent: softmax.popularity_exponent as f32,
        uniform_share: softmax.uniform_share as f32,
        seed,
    }
}

fn measure(step: &Progress) {
    metrics::gauge!("docent_train_epoch").set(f64::from(step.epoch));
    metrics::gauge!("docent_train_seconds").set(step.seconds);
    metrics::gauge!("docent_train_waited_seconds").set(step.waited_seconds);
    metrics::gauge!("docent_train_bytes_exchanged").set(step.bytes_pulled as f64);
    if let Some(loss) = step.loss {
        metrics::gauge!("docent_train_loss").set(loss);
    }
}

fn job_step(step: &Progress) -> Step {
    let phase = match (step.phase, step.is_measuring) {
        (Phase::Load, _) => "load",
        (Phase::Link, _) => "link",
        (Phase::Epoch, true) => "train to evaluate",
        (Phase::Epoch, false) => "train",
        (Phase::Count, true) => "count to evaluate",
        (Phase::Count, false) => "count",
        (Phase::Weigh, _) => "weigh",
        (Phase::Evaluate, _) => "evaluate",
        (Phase::Publish, _) => "publish",
    };
    let progress = JobProgress {
        phase: phase.to_owned(),
        epoch: u32::from(step.epoch),
        epochs: u32::from(step.epochs),
        loss: step.loss,
        seconds: step.seconds,
        bytes: step.bytes_pulled,
    };
    Step { progress, waited_seconds: step.waited_seconds, hosts: step.hosts }
}

fn trained(node: NodeId, cut: Vec<Position>, outcome: &Outcome, global: [u8; 32]) -> Result<TrainedModel> {
    let is_global = |part: &&PartInfo| part.slots.is_none();
    let all = SlotRange { first: 0, end: SLOTS };
    let part = |info: &PartInfo, slots: SlotRange, holder: u64| ModelPart {
        keyspace: Keyspace::Items,
        slots,
        hash: info.blake3,
        bytes: info.bytes,
        holders: vec![NodeId(holder)],
    };
    let info = outcome.parts.iter().find(is_global);
    let info = info.ok_or_else(|| Error::new(Kind::Internal, "the trainer gave no global part"))?;
    if info.blake3 != global {
        return Err(Error::new(Kind::Internal, "the global part does not have the hash that it was announced with"));
    }
    let rows = outcome.parts.iter().filter_map(|info| {
        let (first, end) = info.slots?;
        Some(part(info, SlotRange { first, end }, info.node))
    });
    Ok(TrainedModel { cut, parts: rows.collect(), global: part(info, all, node.0), metrics: metrics(outcome) })
}

fn metrics(outcome: &Outcome) -> BTreeMap<String, f64> {
    let mut named = BTreeMap::from([
        ("users".to_owned(), outcome.counts.users as f64),
        ("items".to_owned(), outcome.counts.items as f64),
        ("positives".to_owned(), outcome.counts.positives as f64),
        ("bytes_exchanged".to_owned(), outcome.bytes_pulled as f64),
    ]);
    if let Some(loss) = outcome.losses.last() {
        named.insert("loss".to_owned(), *loss);
    }
    named.extend(outcome.reports.iter().flat_map(Report::figures));
    if let Ok(Global::Blend(global)) = Global::decode(&outcome.global) {
        let channels = ["blend_graph", "blend_with", "blend_popularity"].into_iter().zip(global.blend.channels);
        named.extend(channels.flat_map(|(name, Channel { unit, weights, .. })| {
            let figures = [("unit", unit), ("weight", weights.base), ("slope", weights.slope)];
            figures.map(|(figure, value)| (format!("{name}_{figure}"), f64::from(value)))
        }));
    }
    named
}

fn train_error(error: docent_train::Error) -> Error {
    let kind = match &error {
        docent_train::Error::Invalid(_) | docent_train::Error::Diverged(_) => Kind::Invalid,
        docent_train::Error::Peer { .. } | docent_train::Error::Overloaded => Kind::Unavailable,
        _ => Kind::Internal,
    };
    Error::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the lab (take-down-race, seed 1): a host that heard of the job's start after it was asked for its input dropped that input,
    /// and the attempt failed.
    #[test]
    fn what_is_pinned_for_a_job_stays_until_the_job_is_known_to_be_over() {
        let with = |state| {
            let job = Job {
                id: 1,
                state,
                settings: TrainSettings::default(),
                epoch: 1,
                driver: None,
                progress: None,
                version: None,
                error: None,
                created_ms: 0,
            };
            Catalog { jobs: BTreeMap::from([(1, job)]), ..Catalog::default() }
        };
        for state in [JobState::Queued, JobState::Running] {
            assert!(!is_over(&with(state), 1), "{state:?}");
        }
        for state in [JobState::Succeeded, JobState::Failed, JobState::Cancelled] {
            assert!(is_over(&with(state), 1), "{state:?}");
        }
        assert!(!is_over(&Catalog::default(), 1));
    }
}
