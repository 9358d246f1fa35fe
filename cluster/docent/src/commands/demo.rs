//! `docent demo`: the product in a minute. Starts a cluster of separate processes, imports, trains, recommends from every node, stops.

use crate::client::Cluster;
use crate::commands::generate::Size;
use crate::commands::member::Signals;
use crate::commands::up::{self, STOP_WITHIN};
use crate::commands::{import, recommend, train, users};
use crate::failure::{Failure, Result};
use crate::import::pipeline::Options;
use crate::import::report::Report;
use crate::local::children::Children;
use crate::local::layout::{Layout, Wanted};
use crate::local::ready;
use crate::show;
use docent_proto::v1;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

const READY_WITHIN: Duration = Duration::from_secs(120);
const CALL_WITHIN: Duration = Duration::from_secs(30);
/// A user with this many events has a taste to show.
const EVENTS_MIN: u64 = 20;
/// Users looked at for one with a taste.
const CANDIDATES: u64 = 50;

/// Flags of `docent demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A MovieLens directory; a generated data set if left out
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave the cluster running (in the foreground) and its directory in place
    #[arg(long)]
    keep: bool,
    /// Where the cluster is kept [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// As for `docent up`
    #[arg(long, value_name = "P")]
    base_port: Option<u16>,
    /// Dimensions of the model
    #[arg(long)]
    dim: Option<u32>,
    /// For whom to recommend [default: one with a history]
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    size: Size,
}

/// A temporary directory that goes away with its handle, if it is ours to remove.
struct Place {
    dir: PathBuf,
    is_temporary: bool,
}

impl Place {
    fn new(args: &Args) -> Place {
        match &args.data_dir {
            Some(dir) => Place { dir: dir.clone(), is_temporary: false },
            None => {
                let dir = std::env::temp_dir().join(format!("docent-demo-{}", std::process::id()));
                Place { dir, is_temporary: !args.keep }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_temporary {
            // Best effort: it is in the temporary directory anyway.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Runs the demo; whatever happens, nothing is left running.
pub async fn run(args: &Args) -> Result<()> {
    let mut signals = Signals::listen()?;
    let mut place = Place::new(args);
    let wanted = Wanted { base_port: args.base_port, ..Wanted::default() };
    let layout = Layout::prepare(&place.dir, &wanted)?;
    let shape = &layout.shape;
    step(&format!("starting {} coordinators and {} nodes, each a process of its own", shape.coordinators, shape.nodes));
    let mut children = Children::start(&layout)?;
    let outcome = tokio::select! {
        outcome = tour(args, &layout, &mut children) => outcome,
        _ = signals.next() => Err(Failure::failed("interrupted")),
    };
    if args.keep && outcome.is_ok() {
        let node = layout.query_addr(1);
        step("the cluster keeps running; Ctrl-C stops it");
        show::say(format!(
            "  docent status --node {node}\n  docent recommend USER --explain --node {node}\n  curl -s http://{node}/v1/popular"
        ));
        show::say(format!(
            "  its directory is {}; `docent up --data-dir` starts it again from there",
            layout.dir.display()
        ));
        let watched = up::watch(&layout, &mut children, &mut signals).await;
        children.stop(STOP_WITHIN).await;
        return watched;
    }
    step("stopping");
    children.stop(STOP_WITHIN).await;
    if outcome.is_err() && place.is_temporary {
        place.is_temporary = false;
        show::note(format!("the logs are kept in {}", layout.dir.display()));
    }
    if outcome.is_ok() {
        show::say(
            "  nothing is left running; keep a cluster with `make demo KEEP=1`, or start your own with `docent up`",
        );
    }
    outcome
}

async fn tour(args: &Args, layout: &Layout, children: &mut Children) -> Result<()> {
    let started = Instant::now();
    let state = ready::wait(layout, children, READY_WITHIN).await?;
    let shards = state.shards.len();
    let taken = started.elapsed().as_secs_f64();
    say(&format!("ready after {taken:.1} s: {shards} shards, {} replicas of each", state.replication));
    let nodes = layout.query_addrs();
    let first = Cluster::new(&nodes[..1], CALL_WITHIN)?;
    data(args, &first, &nodes[0]).await?;
    learn(args, &first).await?;
    let user = match &args.user {
        Some(user) => user.clone(),
        None => pick(&first, args.data.is_some()).await,
    };
    answers(&nodes, &user).await
}

/// Imports through the first node.
async fn data(args: &Args, to: &Cluster, node: &str) -> Result<()> {
    let mut report = Report::new(0, None)?;
    match &args.data {
        Some(dir) => {
            step(&format!("importing {} through {node}", dir.display()));
            import::movielens(to, dir, Options::default(), &mut report).await?;
        }
        None => {
            let Size { users, items, events, .. } = args.size;
            let size =
                format!("{} users, {} items, {} events", show::count(users), show::count(items), show::count(events));
            step(&format!("importing a generated data set through {node}: {size}"));
            import::generated(to, args.size.world()?, Options::default(), &mut report).await?;
        }
    }
    for part in report.parts() {
        let counts = &part.counts;
        let again = if counts.duplicate > 0 {
            format!(", {} were there before", show::count(counts.duplicate))
        } else {
            String::new()
        };
        let seconds = part.elapsed.as_secs_f64();
        say(&format!(
            "{} {} in {seconds:.1} s, each on a majority of disks{again}",
            show::count(counts.accepted),
            part.what
        ));
    }
    Ok(())
}

async fn learn(args: &Args, cluster: &Cluster) -> Result<()> {
    step("training across the nodes, on each the users that it hosts");
    let job = train::start(cluster, v1::TrainSettings { dim: args.dim, ..v1::TrainSettings::default() }).await?;
    let (job, model) = train::wait(cluster, job.id, true).await?;
    for line in train::summary(&job, &model).lines() {
        say(line);
    }
    Ok(())
}

/// The first user with a history, of those that a data set surely has.
async fn pick(cluster: &Cluster, is_movielens: bool) -> String {
    let prefix = if is_movielens { "" } else { "u" };
    for n in 1..=CANDIDATES {
        let user = format!("{prefix}{n}");
        if users::get(cluster, &user).await.is_ok_and(|user| user.events >= EVENTS_MIN) {
            return user;
        }
    }
    format!("{prefix}1")
}

/// Asks every node for the same user.
async fn answers(nodes: &[String], user: &str) -> Result<()> {
    let mut first: Option<Vec<String>> = None;
    let mut is_same = true;
    for (number, node) in (1..).zip(nodes) {
        step(&format!("user {user} asks node {number} ({node})"));
        let cluster = Cluster::new(std::slice::from_ref(node), CALL_WITHIN)?;
        let request =
            v1::RecommendRequest { user_id: user.to_owned(), n: 5, explain: true, ..v1::RecommendRequest::default() };
        let answer = recommend::ask(&cluster, request).await?;
        if answer.items.is_empty() {
            return Err(Failure::failed(format!("node {number} returned no items for user {user}")));
        }
        show::say(recommend::table(&answer).to_string());
        say(&recommend::footer(&answer));
        let ids: Vec<String> = answer.items.into_iter().map(|item| item.id).collect();
        is_same &= *first.get_or_insert_with(|| ids.clone()) == ids;
    }
    if is_same {
        show::say("");
        say("any node answers, and each gave the same answer");
    }
    Ok(())
}

fn step(text: &str) {
    show::say(format!("\n== {text}"));
}

fn say(text: &str) {
    show::say(format!("   {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        let size = Size { users: 1, items: 1, events: 1, seed: 1 };
        Args { data: None, keep: false, data_dir: None, base_port: None, dim: None, user: None, size }
    }

    #[test]
    fn only_a_temporary_directory_is_removed() {
        let place = Place::new(&args());
        assert!(place.dir.starts_with(std::env::temp_dir()));
        std::fs::create_dir_all(&place.dir).unwrap();
        let dir = place.dir.clone();
        drop(place);
        assert!(!dir.exists());
        let kept = tempfile::tempdir().unwrap();
        drop(Place::new(&Args { data_dir: Some(kept.path().to_owned()), ..args() }));
        assert!(kept.path().exists());
    }
}
