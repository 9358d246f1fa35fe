//! Waiting until every node of a cluster answers and every shard has a leader.

use crate::client::{Cluster, Repeat};
use crate::failure::{Failure, Result};
use crate::local::children::{Children, log_tail};
use crate::local::layout::Layout;
use crate::show::Progress;
use docent_proto::v1;
use std::time::Duration;
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(200);

/// One look at one node.
pub async fn look(cluster: &Cluster) -> Result<v1::Cluster, docent_types::Error> {
    cluster.call(Repeat::Safe, |mut client| async move { client.get_cluster(v1::GetClusterRequest {}).await }).await
}

/// What is still missing, for a person.
pub fn missing(state: &v1::Cluster) -> String {
    let alive = state.nodes.iter().filter(|node| node.is_alive).count();
    let led = state.shards.iter().filter(|shard| shard.leader != 0).count();
    match state.shards.len() {
        0 => format!("{alive} nodes have joined, no shards are placed yet"),
        shards => format!("{alive} of {} nodes are alive, {led} of {shards} shards have a leader", state.nodes.len()),
    }
}

/// Waits until every node says that it is ready. A child that dies meanwhile is a failure that shows its log.
pub async fn wait(layout: &Layout, children: &mut Children, within: Duration) -> Result<v1::Cluster> {
    let deadline = Instant::now() + within;
    let nodes = layout.query_addrs();
    let nodes: Vec<Cluster> = nodes
        .iter()
        .map(|addr| Cluster::new(std::slice::from_ref(addr), Duration::from_secs(2)))
        .collect::<Result<_>>()?;
    let mut progress = Progress::new("starting", 0);
    loop {
        let mut state = None;
        let (mut ready, mut why) = (0, String::new());
        for node in &nodes {
            match look(node).await {
                Ok(answer) if answer.is_ready && answer.nodes.len() == nodes.len() => {
                    ready += 1;
                    state = Some(answer);
                }
                Ok(answer) => why = missing(&answer),
                Err(error) => why = error.message,
            }
        }
        if let Some(state) = state.filter(|_| ready == nodes.len()) {
            return Ok(state);
        }
        progress.at(0, format!("{ready} of {} nodes ready; {why}", nodes.len()));
        tokio::select! {
            Some(ended) = children.next_ended() => {
                progress.clear();
                let message = format!("{}\n{}", ended.describe(), log_tail(layout, ended.member));
                return Err(Failure::failed(message.trim_end()));
            }
            () = tokio::time::sleep(POLL) => {}
        }
        if Instant::now() >= deadline {
            let message = format!("the cluster is not ready after {} s: {why}", within.as_secs());
            return Err(Failure::unreachable(message).advise(format!("the logs are in {}", layout.dir.display())));
        }
    }
}
