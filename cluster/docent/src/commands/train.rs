//! `docent train`, `jobs`, `cancel`.

use crate::cli::Shared;
use crate::client::{self, Client, Cluster, Repeat};
use crate::commands::models;
use crate::failure::{Failure, Result};
use crate::json;
use crate::show::{self, Progress};
use docent_proto::v1;
use docent_types::{Error, Kind};
use std::time::Duration;
use tokio::time::Instant;

/// How often a waiting command looks.
const POLL: Duration = Duration::from_millis(300);
/// How long it puts up with a cluster that does not answer: elections and restarts pass.
const PATIENCE: Duration = Duration::from_secs(60);

const BLEND: &str = "Settings of blend, beside those of its families";
const VECTORS: &str = "Settings of ials, softmax and tower";
const IALS: &str = "Settings of ials";
const GRAPH: &str = "Settings of graph";
const SOFTMAX: &str = "Settings of softmax and tower";
const TOWER: &str = "Settings of tower";

/// Which model; what is left out takes the cluster's default.
#[derive(Debug, Default, clap::Args)]
pub struct ModelArgs {
    /// The family of the model: ials (matrix factorisation), graph (item-item graph filter), softmax (vectors trained by gradients), tower
    /// (those with hidden layers and categories) or blend (graph, another one and popularity in one ranking)
    #[arg(long)]
    algorithm: Option<String>,
    /// What a blend adds to graph: ials, softmax or tower
    #[arg(long, help_heading = BLEND)]
    blend_with: Option<String>,
    /// Dimensions of the vectors, 1 to 512
    #[arg(long, help_heading = VECTORS)]
    dim: Option<u32>,
    /// Passes over the data
    #[arg(long, help_heading = VECTORS)]
    epochs: Option<u32>,
    /// Regularisation
    #[arg(long, help_heading = IALS)]
    regularization: Option<f64>,
    /// Weight of an unobserved pair
    #[arg(long, help_heading = IALS)]
    unobserved_weight: Option<f64>,
    /// Frequency scaling exponent of the regularisation, 0 to 1
    #[arg(long, help_heading = IALS)]
    frequency_scaling: Option<f64>,
    /// What vectors are rounded to between half passes, and sent between nodes in: f32, or bf16 for half the bytes
    #[arg(long, help_heading = IALS)]
    row_precision: Option<String>,
    /// Go on from the live version, where it is of the same family and dimensions: passes from there, 0 for none. What is measured on held-out
    /// positives is a model from nothing all the same, as the live version has seen them
    #[arg(long, help_heading = IALS)]
    warm_epochs: Option<u32>,
    /// Go on from this version instead
    #[arg(long, help_heading = IALS, requires = "warm_epochs")]
    warm_from: Option<u64>,
    /// Exponent of a user's number of positives, 0 to 2
    #[arg(long, help_heading = GRAPH)]
    user_exponent: Option<f64>,
    /// Exponent of the number of positives of an item in the history, 0 to 2
    #[arg(long, help_heading = GRAPH)]
    source_exponent: Option<f64>,
    /// Exponent of the number of positives of a recommended item, 0 to 2
    #[arg(long, help_heading = GRAPH)]
    target_exponent: Option<f64>,
    /// Power of a weight, above 0 and at most 4
    #[arg(long, help_heading = GRAPH)]
    power: Option<f64>,
    /// Exponent of what the weights of an item in the history add up to, 0 to 2
    #[arg(long, help_heading = GRAPH)]
    source_mass_exponent: Option<f64>,
    /// Exponent of what the weights of a recommended item add up to, 0 to 2
    #[arg(long, help_heading = GRAPH)]
    target_mass_exponent: Option<f64>,
    /// Power of a user's inverse frequency, 0 to 8: those who like little tell more; TF-IDF and BM25 have 2
    #[arg(long, help_heading = GRAPH)]
    idf_power: Option<f64>,
    /// What the exponents of items are of: positives, weights (what those who like it count, so that 0.5 is a cosine) or length (as BM25 has it)
    #[arg(long, help_heading = GRAPH)]
    item_norm: Option<String>,
    /// How far an item's length counts, 0 to 1
    #[arg(long, help_heading = GRAPH)]
    length_share: Option<f64>,
    /// Strongest neighbours kept of each item, 1 to 10,000
    #[arg(long, help_heading = GRAPH)]
    neighbours: Option<u32>,
    /// Positives of a step over all nodes, about: 64 to 16,777,216
    #[arg(long, help_heading = SOFTMAX)]
    batch: Option<u32>,
    /// Negatives drawn a step, 16 to 65,536
    #[arg(long, help_heading = SOFTMAX)]
    negatives: Option<u32>,
    /// Divides scores, 0.02 to 1
    #[arg(long, help_heading = SOFTMAX)]
    temperature: Option<f64>,
    /// Parts that a history is cut into, 2 to 64
    #[arg(long, help_heading = SOFTMAX)]
    folds: Option<u32>,
    /// Length of a vector's first step, above 0 and at most 10
    #[arg(long, help_heading = SOFTMAX)]
    learning_rate: Option<f64>,
    /// Exponent of an item's number of positives in the distribution of negatives, 0 to 2
    #[arg(long, help_heading = SOFTMAX)]
    popularity_exponent: Option<f64>,
    /// Share of the negatives that are drawn uniformly, 0.01 to 1
    #[arg(long, help_heading = SOFTMAX)]
    uniform_share: Option<f64>,
    /// Exponent of an item's number of positives in how much it counts beside its vector, 0 (none) to 2
    #[arg(long, help_heading = SOFTMAX)]
    popularity_bias: Option<f64>,
    /// What is minimised: softmax (an item against all negatives) or bpr (against each by itself)
    #[arg(long, help_heading = SOFTMAX)]
    loss: Option<String>,
    /// Steps that nodes may be apart, 0 to 16: none waits for the slowest so long, and steps read vectors that are as many steps older
    #[arg(long, help_heading = SOFTMAX)]
    staleness: Option<u32>,
    /// Hidden units of the user tower, a multiple of 16 up to 512; 0: none
    #[arg(long, help_heading = TOWER)]
    user_hidden: Option<u32>,
    /// Hidden units of the item tower, likewise
    #[arg(long, help_heading = TOWER)]
    item_hidden: Option<u32>,
    /// First rate of the towers' weights, above 0 and at most 1
    #[arg(long, help_heading = TOWER)]
    dense_rate: Option<f64>,
    /// The same data, settings and seed give the same model
    #[arg(long)]
    seed: Option<u64>,
    /// Share of each user's positives held out for evaluation, 0 to 0.5
    #[arg(long)]
    holdout: Option<f64>,
    /// Which are held out: time (the newest) or random
    #[arg(long)]
    split: Option<String>,
    /// Leave out items with fewer positives: they are served as new ones are
    #[arg(long)]
    min_positives: Option<u32>,
    /// Leave out the least liked items beyond so many
    #[arg(long)]
    items_max: Option<u64>,
}

/// What a job does beside the model.
#[derive(Debug, Default, clap::Args)]
pub struct JobArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Do not train again on everything after the evaluation
    #[arg(long)]
    no_refit: bool,
    /// Do not make the version live
    #[arg(long)]
    no_activate: bool,
}

impl JobArgs {
    /// Whether what comes of it is to become live.
    pub fn activates(&self) -> bool {
        !self.no_activate
    }

    /// The settings that the flags name; the others are left to the cluster.
    pub fn settings(&self) -> v1::TrainSettings {
        v1::TrainSettings {
            refit: self.no_refit.then_some(false),
            activate: self.no_activate.then_some(false),
            ..self.model.settings()
        }
    }
}

/// Flags of `docent train`.
#[derive(Debug, Default, clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Wait until the version is live (or staged, with --no-activate), with progress
    #[arg(long)]
    wait: bool,
    /// Make it live also where it is worse than the live version
    #[arg(long, requires = "wait", conflicts_with = "no_activate")]
    force: bool,
}

/// Flags of `docent cancel`.
#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    /// The job's number, from `docent jobs`
    job: u64,
}

impl ModelArgs {
    /// The settings that the flags name; the others are left to the cluster.
    pub fn settings(&self) -> v1::TrainSettings {
        v1::TrainSettings {
            algorithm: self.algorithm.clone(),
            blend_with: self.blend_with.clone(),
            dim: self.dim,
            epochs: self.epochs,
            unobserved_weight: self.unobserved_weight,
            regularization: self.regularization,
            frequency_scaling: self.frequency_scaling,
            user_exponent: self.user_exponent,
            source_exponent: self.source_exponent,
            target_exponent: self.target_exponent,
            source_mass_exponent: self.source_mass_exponent,
            target_mass_exponent: self.target_mass_exponent,
            idf_power: self.idf_power,
            item_norm: self.item_norm.clone(),
            length_share: self.length_share,
            power: self.power,
            neighbours: self.neighbours,
            batch: self.batch,
            negatives: self.negatives,
            temperature: self.temperature,
            folds: self.folds,
            learning_rate: self.learning_rate,
            popularity_exponent: self.popularity_exponent,
            uniform_share: self.uniform_share,
            popularity_bias: self.popularity_bias,
            loss: self.loss.clone(),
            staleness: self.staleness,
            row_precision: self.row_precision.clone(),
            warm_epochs: self.warm_epochs,
            warm_from: self.warm_from,
            user_hidden: self.user_hidden,
            item_hidden: self.item_hidden,
            dense_rate: self.dense_rate,
            seed: self.seed,
            holdout: self.holdout,
            split: self.split.clone(),
            min_positives: self.min_positives,
            items_max: self.items_max,
            ..v1::TrainSettings::default()
        }
    }
}

/// Starts a job; waits for its version where asked to.
pub async fn train(shared: &Shared, args: &TrainArgs) -> Result<()> {
    let cluster = shared.cluster()?;
    let no_activate = args.job.no_activate;
    let job = start(&cluster, args.job.settings()).await?;
    if !args.wait {
        match shared.is_json() {
            true => show::json(&json::write::job(&job)),
            false => show::say(format!("job {} is {}; follow it with `docent jobs`", job.id, job.state)),
        }
        return Ok(());
    }
    let (job, mut model) = wait(&cluster, job.id, !no_activate).await?;
    if !no_activate && !model.held_back.is_empty() {
        let version = model.version;
        if !args.force {
            return Err(Failure::failed(format!(
                "version {version} is {} and not live: {}; `docent models activate {version} --force` makes it live all the same",
                model.state, model.held_back
            )));
        }
        models::activate(&cluster, version, true).await.map_err(client::failure)?;
        model = v1::Model { state: "live".to_owned(), held_back: String::new(), ..model };
    }
    match shared.is_json() {
        true => show::json(&serde_json::json!({ "job": json::write::job(&job), "model": json::write::model(&model) })),
        false => show::say(summary(&job, &model)),
    }
    Ok(())
}

/// Starts a training job.
pub async fn start(cluster: &Cluster, settings: v1::TrainSettings) -> Result<v1::Job> {
    let request = v1::StartTrainingRequest { settings: Some(settings) };
    let call = |mut client: Client| {
        let request = request.clone();
        async move { client.start_training(request).await }
    };
    cluster.call(Repeat::Never, call).await.map_err(client::failure)
}

/// What came out, in a few lines.
pub fn summary(job: &v1::Job, model: &v1::Model) -> String {
    let progress = job.progress.clone().unwrap_or_default();
    let metrics = quality(model);
    let trained = format!("trained in {:.1} s, {} exchanged", progress.seconds, show::bytes(progress.bytes));
    let metrics = if metrics.is_empty() { String::new() } else { format!("\n{}", metrics.join("  ")) };
    format!("version {} is {}: {trained}{metrics}", model.version, model.state)
}

/// Recall and NDCG at each cut-off with their 95 % intervals, for people; `docent evaluate` shows the rest.
pub fn quality(model: &v1::Model) -> Vec<String> {
    let is_shown = |name: &str| ["recall@", "ndcg@"].iter().any(|start| name.starts_with(start)) && !name.contains('.');
    let shown = model.metrics.iter().filter(|(name, _)| is_shown(name));
    shown.map(|(name, value)| format!("{name} {value:.4}{}", interval(model, name))).collect()
}

/// The 95 % interval of a figure in brackets, where it has one.
pub fn interval(model: &v1::Model, name: &str) -> String {
    let end = |suffix: &str| model.metrics.get(&format!("{name}.{suffix}"));
    end("low").zip(end("high")).map(|(low, high)| format!(" ({low:.4} to {high:.4})")).unwrap_or_default()
}

/// Follows a job until its version is live (`to_live`) or staged. One that is held back stays staged.
pub async fn wait(cluster: &Cluster, id: u64, to_live: bool) -> Result<(v1::Job, v1::Model)> {
    let job = follow(cluster, id).await?;
    let mut progress = Progress::new("staging", 0);
    let mut heard = Instant::now();
    loop {
        match all_models(cluster).await {
            Ok(models) => {
                heard = Instant::now();
                let model = models.into_iter().find(|model| model.version == job.version);
                let state = model.as_ref().map_or("unknown", |model| model.state.as_str()).to_owned();
                match (state.as_str(), model) {
                    ("live", Some(model)) => return Ok((job, model)),
                    ("staged", Some(model)) if !to_live || !model.held_back.is_empty() => return Ok((job, model)),
                    // Superseded between two looks: it was live.
                    ("retired", Some(model)) => return Ok((job, model)),
                    ("failed", Some(model)) => {
                        return Err(Failure::failed(format!("version {} failed: {}", model.version, model.error)));
                    }
                    _ => progress.at(0, format!("version {} is {state}", job.version)),
                }
            }
            Err(error) => bear(error, heard)?,
        }
        tokio::time::sleep(POLL).await; // between polls of another process
    }
}

/// Shows a job's progress until it has succeeded.
async fn follow(cluster: &Cluster, id: u64) -> Result<v1::Job> {
    let mut lines = Lines { progress: Progress::new("training", 0), said: String::new() };
    let mut heard = Instant::now();
    loop {
        match all_jobs(cluster).await {
            Ok(jobs) => {
                heard = Instant::now();
                let job = jobs.into_iter().find(|job| job.id == id);
                let job = job.ok_or_else(|| Failure::failed(format!("the cluster does not know job {id}")))?;
                lines.show(&job);
                match job.state.as_str() {
                    "succeeded" => return Ok(job),
                    "failed" => return Err(Failure::failed(format!("job {id} failed: {}", job.error))),
                    "cancelled" => return Err(Failure::failed(format!("job {id} was cancelled"))),
                    _ => {}
                }
            }
            Err(error) => bear(error, heard)?,
        }
        tokio::time::sleep(POLL).await; // between polls of another process
    }
}

/// A job goes on while nobody answers, so a waiting command bears with that for a while.
pub fn bear(error: Error, heard: Instant) -> Result<()> {
    let passes = error.kind.is_retryable() || matches!(error.kind, Kind::DeadlineExceeded | Kind::Unknown);
    match passes && heard.elapsed() < PATIENCE {
        true => Ok(()),
        false => Err(client::failure(error)),
    }
}

/// A line whenever an epoch or a phase ends; between them the bar moves.
struct Lines {
    progress: Progress,
    said: String,
}

impl Lines {
    fn show(&mut self, job: &v1::Job) {
        let Some(p) = &job.progress else {
            self.progress.at(0, format!("job {} is {}", job.id, job.state));
            return;
        };
        let loss = p.loss.map(|loss| format!("  loss {loss:.5}")).unwrap_or_default();
        let epoch = if p.epochs > 0 { format!(" {}/{}", p.epoch, p.epochs) } else { String::new() };
        let attempt = if job.attempt > 1 { format!("  attempt {}", job.attempt) } else { String::new() };
        let step = format!("{}{epoch}{loss}{attempt}", p.phase);
        let line = format!("{step}  {:.1} s  {}", p.seconds, show::bytes(p.bytes));
        if self.said != step {
            self.progress.note(format!("  {line}"));
            self.said = step;
        }
        self.progress.at(0, line);
    }
}

/// Every job.
pub async fn all_jobs(cluster: &Cluster) -> Result<Vec<v1::Job>, Error> {
    let call = |mut client: Client| async move { client.list_jobs(v1::ListJobsRequest {}).await };
    Ok(cluster.call(Repeat::Safe, call).await?.jobs)
}

/// Every model version.
pub async fn all_models(cluster: &Cluster) -> Result<Vec<v1::Model>, Error> {
    let call = |mut client: Client| async move { client.list_models(v1::ListModelsRequest {}).await };
    Ok(cluster.call(Repeat::Safe, call).await?.models)
}

/// Lists the jobs.
pub async fn jobs(shared: &Shared) -> Result<()> {
    let jobs = all_jobs(&shared.cluster()?).await.map_err(client::failure)?;
    if shared.is_json() {
        show::json(&serde_json::json!({ "jobs": jobs.iter().map(json::write::job).collect::<Vec<_>>() }));
        return Ok(());
    }
    let rows = jobs.iter().map(|job| {
        let p = job.progress.clone().unwrap_or_default();
        let at = if p.epochs > 0 { format!("{} {}/{}", p.phase, p.epoch, p.epochs) } else { p.phase };
        vec![
            job.id.to_string(),
            job.state.clone(),
            at,
            p.loss.map(|loss| format!("{loss:.5}")).unwrap_or_default(),
            format!("{:.1}", p.seconds),
            show::bytes(p.bytes),
            if job.version == 0 { String::new() } else { job.version.to_string() },
            show::time(job.created_ms),
            job.error.clone(),
        ]
    });
    let header = ["job", "state", "phase", "loss", "seconds", "bytes", "version", "created", "error"];
    show::say(show::table(&header, &["job", "loss", "seconds", "version"], rows).to_string());
    Ok(())
}

/// Cancels a job.
pub async fn cancel(shared: &Shared, args: &CancelArgs) -> Result<()> {
    let job = args.job;
    let call = |mut client: Client| async move { client.cancel_job(v1::CancelJobRequest { job }).await };
    let job = shared.cluster()?.call(Repeat::Safe, call).await.map_err(client::failure)?;
    match shared.is_json() {
        true => show::json(&json::write::job(&job)),
        false => show::say(format!("job {} is {}", job.id, job.state)),
    }
    Ok(())
}
