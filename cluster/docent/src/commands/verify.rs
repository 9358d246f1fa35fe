//! `docent verify`: whether all replicas of each shard have the same state at one index of its log.

use crate::cli::Shared;
use crate::client::{self, Client, Repeat};
use crate::failure::{Failure, Result};
use crate::show::{self, Progress};
use docent_proto::v1;
use serde_json::{Value, json};
use std::time::Duration;

/// Flags of `docent verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this shard, such as users/3; may be repeated
    #[arg(long = "shard", value_name = "SHARD")]
    shards: Vec<String>,
    /// How long one shard may take; all of it is read
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    within: u32,
}

/// Compares; fails where a replica differs or gave no digest.
pub async fn run(shared: &Shared, args: &Args) -> Result<()> {
    if !(1..=3_600).contains(&args.within) {
        return Err(Failure::usage(format!("--within {}: must be 1 to 3600 seconds", args.within)));
    }
    let cluster = shared.cluster()?;
    let call = |mut client: Client| {
        let request = v1::VerifyShardsRequest { shards: args.shards.clone(), deadline_ms: args.within * 1_000 };
        async move { client.verify_shards(request).await }
    };
    let mut stream = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
    let mut progress = Progress::new("verifying", 0);
    let mut verdicts: Vec<v1::ShardVerdict> = Vec::new();
    // Two shards may wait for their turn on a node, and the answer needs a moment.
    let patience = Duration::from_secs(u64::from(args.within) * 2 + 10);
    loop {
        let next = tokio::time::timeout(patience, stream.message()).await;
        let next = next.map_err(|_| Failure::unreachable(format!("no answer within {} s", patience.as_secs())))?;
        match next.map_err(|status| client::failure(docent_proto::convert::error::from_status(&status)))? {
            None => break,
            Some(verdict) => {
                verdicts.push(verdict);
                progress.at(verdicts.len() as u64, show::plural(verdicts.len() as u64, "shard"));
            }
        }
    }
    drop(progress);
    match shared.is_json() {
        true => show::json(&json!({
            "agrees": verdicts.iter().all(|verdict| verdict.agrees),
            "shards": verdicts.iter().map(value).collect::<Vec<_>>(),
        })),
        false => print(&verdicts),
    }
    judge(&verdicts)
}

/// What most replicas have, or the first that answered.
fn main_digest(verdict: &v1::ShardVerdict) -> Option<&v1::ReplicaDigest> {
    let answered = || verdict.replicas.iter().filter(|replica| replica.error.is_none());
    answered().find(|replica| !replica.differs).or_else(|| answered().next())
}

fn value(verdict: &v1::ShardVerdict) -> Value {
    let message = |error: &Option<v1::ErrorDetail>| error.as_ref().map(|error| error.message.clone());
    let replica = |replica: &v1::ReplicaDigest| {
        json!({
            "node": replica.node, "replica": replica.replica, "records": replica.records, "digest": replica.content,
            "state": replica.state, "differs": replica.differs, "error": message(&replica.error),
        })
    };
    let digest = main_digest(verdict);
    json!({
        "shard": verdict.shard, "index": verdict.index, "agrees": verdict.agrees, "error": message(&verdict.error),
        "records": digest.map(|digest| digest.records), "digest": digest.map(|digest| digest.content.clone()),
        "replicas": verdict.replicas.iter().map(replica).collect::<Vec<_>>(),
    })
}

fn print(verdicts: &[v1::ShardVerdict]) {
    let rows = verdicts.iter().map(|verdict| {
        let digest = main_digest(verdict);
        let answered = verdict.replicas.iter().filter(|replica| replica.error.is_none()).count();
        vec![
            verdict.shard.clone(),
            verdict.index.to_string(),
            format!("{answered} of {}", verdict.replicas.len()),
            digest.map_or_else(String::new, |digest| show::count(digest.records)),
            digest.map_or_else(String::new, |digest| digest.content.chars().take(16).collect()),
            if verdict.agrees { "agree" } else { "DO NOT AGREE" }.to_owned(),
        ]
    });
    let header = ["shard", "index", "replicas", "records", "digest", "states"];
    show::say(show::table(&header, &["index", "records"], rows).to_string());
}

fn judge(verdicts: &[v1::ShardVerdict]) -> Result<()> {
    let mut wrong = Vec::new();
    for verdict in verdicts.iter().filter(|verdict| !verdict.agrees) {
        if let Some(error) = &verdict.error {
            wrong.push(format!("shard {}: {}", verdict.shard, error.message));
        }
        for replica in &verdict.replicas {
            match &replica.error {
                Some(error) => {
                    wrong.push(format!(
                        "shard {}: node {} gave no digest: {}",
                        verdict.shard, replica.node, error.message
                    ));
                }
                None if replica.differs => {
                    wrong.push(format!(
                        "shard {}: node {} has another state than it should",
                        verdict.shard, replica.node
                    ));
                }
                None => {}
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => {
            let advice = "a node that gave no digest: see that it runs (`docent status`), then verify again; one whose state differs: \
                          move its replica of that shard away, so that it is made anew (`docent shards move`)";
            Err(Failure::failed(wrong.join("\n")).advise(advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_and_a_missing_replica_are_told_by_node_and_shard() {
        let replica = |node, content: &str, differs| v1::ReplicaDigest {
            node,
            content: content.into(),
            differs,
            ..v1::ReplicaDigest::default()
        };
        let silent = v1::ReplicaDigest {
            node: 3,
            error: Some(v1::ErrorDetail { message: "down".into(), ..v1::ErrorDetail::default() }),
            ..v1::ReplicaDigest::default()
        };
        let verdict = v1::ShardVerdict {
            shard: "users/1".into(),
            replicas: vec![replica(1, "bad", true), replica(2, "good", false), silent],
            ..v1::ShardVerdict::default()
        };
        let told = judge(std::slice::from_ref(&verdict)).unwrap_err().to_string();
        assert!(told.contains("users/1: node 1 has another state"), "{told}");
        assert!(told.contains("users/1: node 3 gave no digest: down"), "{told}");
        assert!(!told.contains("node 2"), "{told}");
        assert_eq!(value(&verdict)["digest"], "good");
        assert!(judge(&[v1::ShardVerdict { agrees: true, ..verdict }]).is_ok());
    }
}
