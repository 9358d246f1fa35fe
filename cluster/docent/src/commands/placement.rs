//! `docent nodes list|drain|resume|remove` and `docent shards list|move|cancel`: where replicas live.

use crate::cli::Shared;
use crate::client::{self, Client, Cluster, Repeat};
use crate::commands::status;
use crate::failure::{Failure, Result};
use crate::json;
use crate::local::ready;
use crate::show::{self, Progress};
use docent_proto::v1;
use docent_proto::v1::change_placement_request::Change;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at the moves under way.
const LOOK: Duration = Duration::from_millis(300);

/// Nodes of the cluster.
#[derive(Debug, clap::Subcommand)]
pub enum Nodes {
    /// List the members with their replicas and leaderships
    List,
    /// Give a node's leaderships and replicas away, so that it can be removed
    Drain {
        /// The node's id, from `docent nodes list`
        #[arg(value_name = "NODE")]
        id: u64,
        #[command(flatten)]
        how: How,
    },
    /// Take a draining node back
    Resume {
        /// The node's id
        #[arg(value_name = "NODE")]
        id: u64,
        #[command(flatten)]
        how: How,
    },
    /// A drained or dead node will not come back: forget it, make its replicas anew on the others
    Remove {
        /// The node's id
        #[arg(value_name = "NODE")]
        id: u64,
        #[command(flatten)]
        how: How,
    },
}

/// Shards and their replicas.
#[derive(Debug, clap::Subcommand)]
pub enum Shards {
    /// List the shards with their replicas
    List,
    /// Move a replica; with `auto_balance` on, the cluster evens the load again afterwards
    Move {
        /// The shard, such as users/3
        shard: String,
        /// The node that gives its replica
        #[arg(long, value_name = "NODE")]
        from: u64,
        /// The node that gets it
        #[arg(long, value_name = "NODE")]
        to: u64,
        #[command(flatten)]
        how: How,
    },
    /// Give up the move of a shard that is under way
    Cancel {
        /// The shard, such as users/3
        shard: String,
    },
}

/// How a change is made.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct How {
    /// Show the moves that it would lead to and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until every replica is where it should be
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, requires = "wait")]
    wait_timeout: u64,
}

/// Runs a subcommand of `docent nodes`.
pub async fn nodes(shared: &Shared, command: &Nodes) -> Result<()> {
    let cluster = shared.cluster()?;
    match *command {
        Nodes::List => list(shared, &cluster, status::print_members).await,
        Nodes::Drain { id, how } => change(shared, &cluster, Change::Drain(id), how).await,
        Nodes::Resume { id, how } => change(shared, &cluster, Change::Resume(id), how).await,
        Nodes::Remove { id, how } => change(shared, &cluster, Change::Remove(id), how).await,
    }
}

/// Runs a subcommand of `docent shards`.
pub async fn shards(shared: &Shared, command: &Shards) -> Result<()> {
    let cluster = shared.cluster()?;
    match command {
        Shards::List => list(shared, &cluster, status::print_shards).await,
        Shards::Move { shard, from, to, how } => {
            let wanted = v1::MoveReplica { shard: shard.clone(), from: *from, to: *to };
            change(shared, &cluster, Change::Move(wanted), *how).await
        }
        Shards::Cancel { shard } => {
            let how = How { dry_run: false, wait: false, wait_timeout: 0 };
            change(shared, &cluster, Change::Cancel(shard.clone()), how).await
        }
    }
}

async fn list(shared: &Shared, cluster: &Cluster, print: fn(&v1::Cluster)) -> Result<()> {
    let state = ready::look(cluster).await.map_err(client::failure)?;
    match shared.is_json() {
        true => show::json(&json::write::cluster(&state)),
        false => print(&state),
    }
    Ok(())
}

async fn change(shared: &Shared, cluster: &Cluster, change: Change, how: How) -> Result<()> {
    // Each change is refused, or the same, when it is asked for twice; a move that was begun is refused as under way.
    let repeat = if matches!(change, Change::Move(_)) { Repeat::Never } else { Repeat::Safe };
    let request = v1::ChangePlacementRequest { change: Some(change.clone()), dry_run: how.dry_run };
    let call = |mut client: Client| {
        let request = request.clone();
        async move { client.change_placement(request).await }
    };
    let moves = cluster.call(repeat, call).await.map_err(client::failure)?.moves;
    if how.wait {
        wait(cluster, &change, Duration::from_secs(how.wait_timeout)).await?;
    }
    if shared.is_json() {
        let moves: Vec<_> = moves.iter().map(json::write::replica_move).collect();
        show::json(&json!({ "moves": moves, "dry_run": how.dry_run, "done": how.wait }));
        return Ok(());
    }
    print(&moves, how, &change);
    Ok(())
}

fn print(moves: &[v1::ReplicaMove], how: How, change: &Change) {
    let what = match (how.dry_run, how.wait) {
        (true, _) => "would move",
        (_, true) => "moved",
        _ => "will move",
    };
    show::say(format!("{} {what}", show::plural(moves.len() as u64, "replica")));
    if !moves.is_empty() {
        let row = |m: &v1::ReplicaMove| {
            let from = if m.from == 0 { "new".to_owned() } else { format!("node {}", m.from) };
            vec![m.shard.clone(), from, format!("node {}", m.to), m.cause.clone()]
        };
        show::say(show::table(&["shard", "from", "to", "why"], &[], moves.iter().map(row)).to_string());
    }
    match change {
        Change::Drain(node) if how.wait => {
            show::say(format!("node {node} is empty: stop it and run `docent nodes remove {node}`"));
        }
        Change::Drain(_) | Change::Remove(_) | Change::Move(_) if !how.dry_run && !how.wait => {
            show::say("see how far it is with `docent shards list`");
        }
        _ => {}
    }
}

/// Waits until the change is done everywhere and nothing moves any more.
async fn wait(cluster: &Cluster, change: &Change, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    let mut progress = Progress::new("moving", 0);
    let mut most = 0;
    loop {
        match ready::look(cluster).await {
            Ok(state) => {
                let left = left(&state, change);
                if left == 0 {
                    progress.clear();
                    return Ok(());
                }
                most = most.max(left);
                progress.at((most - left) as u64, format!("{left} to go"));
            }
            Err(error) => progress.at(0, error.message),
        }
        if Instant::now() >= deadline {
            return Err(Failure::failed(format!("not done after {} s; the moves go on", within.as_secs()))
                .advise("see how far it is with `docent shards list`"));
        }
        tokio::time::sleep(LOOK).await; // between polls of another process
    }
}

/// How many replicas, or members, are not where the change wants them.
fn left(state: &v1::Cluster, change: &Change) -> usize {
    let under_way = state.shards.iter().filter(|shard| shard.r#move.is_some()).count();
    let on = |node: u64| state.shards.iter().filter(|shard| shard.nodes.contains(&node)).count();
    let left = match change {
        Change::Drain(node) => on(*node),
        Change::Remove(node) => on(*node) + state.nodes.iter().filter(|member| member.id == *node).count(),
        Change::Move(wanted) => {
            let shard = state.shards.iter().find(|shard| shard.id == wanted.shard);
            usize::from(shard.is_some_and(|shard| shard.nodes.contains(&wanted.from)))
        }
        Change::Resume(_) | Change::Cancel(_) => 0,
    };
    left.max(under_way)
}
