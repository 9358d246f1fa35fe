//! Comparison of replicas, backup and restore over gRPC: decode, call the gateway, encode.

use super::{Answer, Stream, answer};
use crate::backup::{StatePage, Step, placement_proof};
use crate::gateway::Gateway;
use crate::verify::Verdict;
use docent_proto::convert::error::status;
use docent_proto::convert::{catalog, shard_id};
use docent_proto::internal::shard::{Standing, StateDigest};
use docent_proto::v1;
use docent_types::catalog::{Catalog, Replica};
use docent_types::command::{BackupId, RestoreEnd, RestorePart};
use docent_types::{Error, Result, ShardId};
use futures::{StreamExt, TryStreamExt};
use tonic::Status;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) async fn verify_shards(
    gateway: &Gateway,
    request: v1::VerifyShardsRequest,
) -> Answer<Stream<v1::ShardVerdict>> {
    let shards = request.shards.iter().map(|shard| shard_id(shard)).collect::<Result<Vec<_>>>().map_err(status)?;
    let verdicts = gateway.verify(shards, request.deadline_ms).await;
    answer(verdicts, |verdicts| verdicts.map(|(shard, outcome)| Ok(verdict(shard, outcome))).boxed())
}

fn verdict(shard: ShardId, outcome: Result<Verdict>) -> v1::ShardVerdict {
    match outcome {
        Err(error) => {
            v1::ShardVerdict { shard: shard.to_string(), error: Some(error.into()), ..v1::ShardVerdict::default() }
        }
        Ok(verdict) => {
            let wrong = verdict.disagreement().map(|found| found.replicas).unwrap_or_default();
            let agrees = verdict.agrees();
            let replicas = verdict.replicas.into_iter().map(|(of, digest)| replica(of, digest, wrong.contains(&of)));
            let replicas = replicas.collect();
            v1::ShardVerdict { shard: shard.to_string(), index: verdict.index, replicas, agrees, error: None }
        }
    }
}

fn replica(of: Replica, digest: Result<StateDigest>, differs: bool) -> v1::ReplicaDigest {
    let named = v1::ReplicaDigest { node: of.node.0, replica: of.id.0, differs, ..v1::ReplicaDigest::default() };
    match digest {
        Err(error) => v1::ReplicaDigest { error: Some(error.into()), ..named },
        Ok(digest) => v1::ReplicaDigest {
            records: digest.records,
            content: hex(&digest.content),
            state: hex(&digest.state),
            ..named
        },
    }
}

pub(super) async fn describe_placement(
    gateway: &Gateway,
    request: v1::DescribePlacementRequest,
) -> Answer<v1::Placement> {
    answer(gateway.placement().await, |catalog| placement(&catalog, request.with_key))
}

fn placement(catalog: &Catalog, with_key: bool) -> v1::Placement {
    let key = catalog.cluster.as_ref().map(|cluster| cluster.placement_key);
    v1::Placement {
        cluster_id: catalog.cluster.as_ref().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
        placement_key: key.filter(|_| with_key).map(|key| hex(&key)).unwrap_or_default(),
        placement_proof: key.map(|key| hex(&placement_proof(&key))).unwrap_or_default(),
        shards: catalog.shards.values().map(|shard| catalog::shard(shard, None)).collect(),
        live_model: catalog.live_model().map(Into::into),
    }
}

pub(super) async fn backup_shard(gateway: &Gateway, request: v1::BackupShardRequest) -> Answer<Stream<v1::BackupPage>> {
    let shard = shard_id(&request.shard).map_err(status)?;
    answer(gateway.backup_shard(shard).await, |pages| pages.map_ok(page).map_err(status).boxed())
}

fn page(page: StatePage) -> v1::BackupPage {
    match page {
        StatePage::Records(records) => v1::BackupPage { records: records.into(), end: None },
        StatePage::End(end) => {
            let end = v1::BackupEnd {
                position: end.position,
                stamp: end.stamp,
                records: end.digest.records,
                content: end.digest.content.to_vec().into(),
            };
            v1::BackupPage { end: Some(end), ..v1::BackupPage::default() }
        }
    }
}

pub(super) async fn get_standing(gateway: &Gateway, request: v1::GetStandingRequest) -> Answer<v1::Standing> {
    let shard = shard_id(&request.shard).map_err(status)?;
    answer(gateway.standing(shard).await, standing)
}

pub(super) async fn restore_shard(gateway: &Gateway, request: v1::RestoreShardRequest) -> Answer<v1::Standing> {
    let shard = shard_id(&request.shard).map_err(status)?;
    let step = step(request)?;
    answer(gateway.restore_shard(shard, step).await, standing)
}

fn fixed<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], Status> {
    let wrong = |_| status(Error::invalid(field, format!("{field} must have {N} bytes")));
    bytes.try_into().map_err(wrong)
}

fn step(request: v1::RestoreShardRequest) -> Result<Step, Status> {
    let (backup, seq): (BackupId, u64) = (fixed("backup", &request.backup)?, request.seq);
    Ok(match request.end {
        None => Step::Part(RestorePart { backup, seq, records: request.records.into() }),
        Some(end) => {
            let content = fixed("end.content", &end.content)?;
            Step::End(RestoreEnd { backup, seq, stamp: end.stamp, records: end.records, content })
        }
    })
}

fn standing(standing: Standing) -> v1::Standing {
    let (name, backup, next) = match standing {
        Standing::Empty => ("empty", None, 0),
        Standing::Restoring(backup, next) => ("restoring", Some(backup), next),
        Standing::Restored(backup) => ("restored", Some(backup), 0),
        Standing::Live => ("live", None, 0),
    };
    let backup = backup.map(|backup| backup.to_vec()).unwrap_or_default();
    v1::Standing { standing: name.to_owned(), backup: backup.into(), next }
}
