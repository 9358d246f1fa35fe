//! `docent recover`: the way out for a shard whose majority is lost for good.

use crate::cli::Shared;
use crate::client::{self, Client, Repeat};
use crate::failure::{Failure, Result};
use crate::show;
use docent_proto::v1;
use serde_json::json;
use std::collections::BTreeMap;

/// Flags of `docent recover`. Without any it only looks.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shard to recover, such as users/3
    #[arg(long, value_name = "SHARD", requires = "from", requires = "last", requires = "accept_loss")]
    shard: Option<String>,
    /// The node whose replica survives
    #[arg(long, value_name = "NODE", requires = "shard")]
    from: Option<u64>,
    /// Where that replica's log ends, as `docent recover` shows it
    #[arg(long, value_name = "INDEX", requires = "shard")]
    last: Option<u64>,
    /// What the lost majority had acknowledged beyond that index is gone, and the lost nodes are never started again
    #[arg(long, requires = "shard")]
    accept_loss: bool,
}

/// Looks, or recovers one shard.
pub async fn run(shared: &Shared, args: &Args) -> Result<()> {
    match (&args.shard, args.from, args.last) {
        (Some(shard), Some(node), Some(last)) => recover(shared, shard.clone(), node, last).await,
        _ => look(shared).await,
    }
}

async fn recover(shared: &Shared, shard: String, node: u64, last: u64) -> Result<()> {
    let request = v1::RecoverShardRequest { shard: shard.clone(), node, last };
    let call = |mut client: Client| {
        let request = request.clone();
        async move { client.recover_shard(request).await }
    };
    let done = shared.cluster()?.call(Repeat::Never, call).await.map_err(client::failure)?;
    match shared.is_json() {
        true => show::json(&json!({ "shard": shard, "node": node, "index": done.index })),
        false => {
            show::say(format!("shard {shard} goes on from node {node} alone, from log index {} on", done.index));
            show::say("remove the lost nodes with `docent nodes remove`; the shard grows again where there are nodes");
        }
    }
    Ok(())
}

async fn look(shared: &Shared) -> Result<()> {
    let call = |mut client: Client| async move { client.survey_replicas(v1::SurveyReplicasRequest {}).await };
    let replicas = shared.cluster()?.call(Repeat::Safe, call).await.map_err(client::failure)?.replicas;
    let mut shards: BTreeMap<&str, Vec<&v1::SurveyedReplica>> = BTreeMap::new();
    for replica in &replicas {
        shards.entry(&replica.shard).or_default().push(replica);
    }
    shards.retain(|_, replicas| is_lost(replicas));
    if shared.is_json() {
        let lost: Vec<_> = shards.values().flatten().map(|replica| json(replica)).collect();
        show::json(&json!({ "lost": lost }));
        return Ok(());
    }
    if shards.is_empty() {
        show::say("every shard has a majority of its replicas; there is nothing to recover");
        return Ok(());
    }
    print(&shards)
}

/// Whether too few replicas answer for the shard to go on.
fn is_lost(replicas: &[&v1::SurveyedReplica]) -> bool {
    replicas.iter().filter(|replica| replica.error.is_empty()).count() * 2 <= replicas.len()
}

/// The survivor that has most: the highest term, then the longest log.
fn best<'a>(replicas: &[&'a v1::SurveyedReplica]) -> Option<&'a v1::SurveyedReplica> {
    let alive = replicas.iter().filter(|replica| replica.error.is_empty());
    alive.max_by_key(|replica| (replica.committed, replica.last)).copied()
}

fn print(shards: &BTreeMap<&str, Vec<&v1::SurveyedReplica>>) -> Result<()> {
    let rows = shards.values().flatten().map(|replica| {
        let state = match replica.error.as_str() {
            "" => format!("log to {}, committed to {} as far as it knows", replica.last, replica.committed),
            error => error.to_owned(),
        };
        vec![replica.shard.clone(), format!("node {}", replica.node), state]
    });
    show::say(show::table(&["shard", "replica", "state"], &[], rows).to_string());
    show::say(
        "Start the silent nodes first: their disks have what was acknowledged. Only if they are lost for good:\n",
    );
    for (shard, replicas) in shards {
        match best(replicas) {
            Some(best) => show::say(format!(
                "  docent recover --shard {shard} --from {} --last {} --accept-loss\n    loses what was acknowledged beyond index {} of {shard}; how much that is, nobody left can say",
                best.node, best.last, best.last
            )),
            None => show::say(format!("  {shard}: no replica answers; restore a backup into a new cluster")),
        }
    }
    Err(Failure::failed(format!("{} lost their majority", show::plural(shards.len() as u64, "shard"))))
}

fn json(replica: &v1::SurveyedReplica) -> serde_json::Value {
    json!({
        "shard": replica.shard, "node": replica.node, "replica": replica.replica, "last": replica.last,
        "committed": replica.committed, "error": replica.error,
    })
}
