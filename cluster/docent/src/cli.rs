//! Flags, dispatch, and the last step of every command: its message and exit code.

use crate::client::Cluster;
use crate::commands::{
    backup, demo, evaluate, export, generate, import, items, member, models, placement, recommend, recover, report,
    schedule, secret, status, train, tune, up, users, verify,
};
use crate::failure::{Exit, Failure, Result};
use crate::json;
use crate::show::{self, Output};
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

/// What `--version` says: nobody must take a build with planted bugs for a real one.
const VERSION: &str = match docent_types::sabotage::IS_BUILT_IN {
    false => env!("CARGO_PKG_VERSION"),
    true => {
        concat!(env!("CARGO_PKG_VERSION"), " SABOTAGE (breaks its promises on purpose; for the proof of the checkers)")
    }
};

/// A recommender you run like a database: one binary, several machines, no other servers.
#[derive(Debug, Parser)]
#[command(
    name = "docent",
    version = VERSION,
    after_help = "Exit codes: 0 success, 1 failed, 2 wrong usage, 3 cluster unreachable or not ready, 4 too many rejected lines."
)]
pub struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command that talks to a cluster.
#[derive(Clone, Debug, Args)]
pub struct Shared {
    /// Query address of a node; several (repeated, or separated by commas) are tried in turn
    #[arg(
        id = "node",
        long = "node",
        global = true,
        env = "DOCENT_NODES",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:7501"
    )]
    pub nodes: Vec<String>,
    /// Tables for people or JSON for scripts
    #[arg(long, global = true, env = "DOCENT_OUTPUT", value_enum, default_value_t)]
    pub output: Output,
    /// How long one call may take
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30.0)]
    pub timeout: f64,
}

impl Shared {
    /// The cluster that the flags name.
    pub fn cluster(&self) -> Result<Cluster> {
        let timeout = Duration::try_from_secs_f64(self.timeout).ok().filter(|timeout| !timeout.is_zero());
        let timeout = timeout
            .ok_or_else(|| Failure::usage(format!("--timeout {}: must be more than 0 seconds", self.timeout)))?;
        Cluster::new(&self.nodes, timeout)
    }

    /// Whether a script reads the output.
    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a local cluster of separate processes in the foreground
    Up(up::Args),
    /// Show it all: start a cluster, import, train, recommend, stop
    Demo(demo::Args),
    /// Run one coordinator
    Coordinator(member::Args),
    /// Run one node
    Node(member::Args),
    /// The cluster's secret
    #[command(subcommand)]
    Secret(secret::Secret),
    /// Join tokens of nodes
    #[command(subcommand)]
    Token(secret::Token),
    /// Members, shards, live model, readiness
    Status(status::Args),
    /// Nodes: drain, resume, remove
    #[command(subcommand)]
    Nodes(placement::Nodes),
    /// Shards: where their replicas are, and moving them
    #[command(subcommand)]
    Shards(placement::Shards),
    /// Shards that lost their majority for good: look, and go on from a survivor
    Recover(recover::Args),
    /// Compare the replicas of every shard by digest
    Verify(verify::Args),
    /// Backups: create, list, show, restore
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Recommend items to a user
    Recommend(recommend::RecommendArgs),
    /// Items like an item
    Similar(recommend::SimilarArgs),
    /// The most popular items
    Popular(recommend::PopularArgs),
    /// Train a model and make it live
    Train(train::TrainArgs),
    /// How good a model is on what was held out: of a version, or of settings that are tried
    Evaluate(evaluate::EvaluateArgs),
    /// Training jobs
    Jobs,
    /// Search for settings: training jobs tried on held-out data, and the best of them
    #[command(subcommand)]
    Tune(tune::Tune),
    /// A training job as a page: how good its model is, and how the job went
    Report(report::ReportArgs),
    /// Cancel a training job
    Cancel(train::CancelArgs),
    /// Training that begins by itself: every so often, or after so many new events
    #[command(subcommand)]
    Schedule(schedule::Schedule),
    /// Model versions
    #[command(subcommand)]
    Models(models::Models),
    /// Users: profile, consent, blocks, erasure
    #[command(subcommand)]
    Users(users::Users),
    /// Items: metadata, take-down
    #[command(subcommand)]
    Items(items::Items),
    /// Data out
    Export(export::Args),
    /// Data in
    Import(import::Args),
    /// Generate a data set
    Generate(generate::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_json = cli.shared.is_json();
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            match is_json {
                true => show::note(json::write::error(&failure.error).to_string()),
                false => show::note(format!("error: {failure}")),
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn start(cli: Cli) -> Result<()> {
    if matches!(cli.command, Command::Coordinator(_) | Command::Node(_)) {
        // Before there are other threads: the kernel ties the request to the thread that makes it.
        crate::local::children::follow_parent()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(run(cli));
    // A reader thread may wait for a disk; nothing that it would still do matters.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run(cli: Cli) -> Result<()> {
    let shared = &cli.shared;
    match cli.command {
        Command::Up(args) => up::run(shared, &args).await,
        Command::Demo(args) => demo::run(&args).await,
        Command::Coordinator(args) => member::coordinator(&args).await,
        Command::Node(args) => member::node(&args).await,
        Command::Secret(command) => secret::secret(&command),
        Command::Token(command) => secret::token(shared, &command),
        Command::Status(args) => status::run(shared, &args).await,
        Command::Nodes(command) => placement::nodes(shared, &command).await,
        Command::Shards(command) => placement::shards(shared, &command).await,
        Command::Recover(args) => recover::run(shared, &args).await,
        Command::Verify(args) => verify::run(shared, &args).await,
        Command::Backup(command) => backup::run(shared, &command).await,
        Command::Recommend(args) => recommend::recommend(shared, &args).await,
        Command::Similar(args) => recommend::similar(shared, &args).await,
        Command::Popular(args) => recommend::popular(shared, &args).await,
        Command::Train(args) => train::train(shared, &args).await,
        Command::Evaluate(args) => evaluate::run(shared, &args).await,
        Command::Jobs => train::jobs(shared).await,
        Command::Tune(command) => tune::run(shared, &command).await,
        Command::Report(args) => report::run(shared, &args).await,
        Command::Cancel(args) => train::cancel(shared, &args).await,
        Command::Schedule(command) => schedule::run(shared, &command).await,
        Command::Models(command) => models::run(shared, &command).await,
        Command::Users(command) => users::run(shared, &command).await,
        Command::Items(command) => items::run(shared, &command).await,
        Command::Export(args) => export::run(shared, &args).await,
        Command::Import(args) => import::run(shared, &args).await,
        Command::Generate(args) => generate::run(&args),
    }
}

// clap ends a process of wrong usage by itself, with the code that we promise.
const _: () = assert!(Exit::Usage as u8 == 2);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nodes_may_be_repeated_or_separated_by_commas() {
        let cli = Cli::try_parse_from(["docent", "jobs", "--node", "a:1,b:2", "--node", "c:3"]).unwrap();
        assert_eq!(cli.shared.nodes, ["a:1", "b:2", "c:3"]);
        assert!(Cli::try_parse_from(["docent", "jobs", "--timeout", "x"]).is_err());
        // A global flag must not share its id with a command's own: clap notices only when both are read.
        assert!(Cli::try_parse_from(["docent", "up", "--nodes", "3", "--node", "a:1"]).is_ok());
    }
}
