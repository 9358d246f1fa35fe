//! Whole shards out, as one position of their logs each, and into the empty shards of another cluster.

use crate::gateway::Gateway;
use crate::route::Repeat;
use crate::verify::unfitting;
use docent_proto::internal::Service;
use docent_proto::internal::shard::{Export, ExportPage, ExportWhat, Request, Response, Standing, StateEnd};
use docent_runtime::Deadline;
use docent_types::catalog::Catalog;
use docent_types::command::{
    BackupId, ItemCommand, ItemOutcome, RestoreEnd, RestoreOutcome, RestorePart, UserCommand, UserOutcome,
};
use docent_types::{Error, Keyspace, Kind, Result, ShardId, codec};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::Duration;

/// Framed records of a part at most: one block list may have 2.5 MiB, and a proposal takes 4.
const PART_BYTES_MAX: usize = 3 << 20;

/// A page of a shard's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatePage {
    /// Framed records, in key order.
    Records(Vec<u8>),
    /// The last page.
    End(StateEnd),
}

/// One step of a shard's restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Records.
    Part(RestorePart),
    /// All parts are in.
    End(RestoreEnd),
}

/// Tells whether two clusters have the same placement key, without giving it away.
pub fn placement_proof(placement_key: &[u8; 16]) -> [u8; 32] {
    blake3::derive_key("docent 2026-11 proof of a placement key", placement_key)
}

impl Gateway {
    /// The catalog, for its cluster and its shards.
    ///
    /// # Errors
    /// `Unavailable` while the cluster has no shards.
    pub async fn placement(&self) -> Result<Arc<Catalog>> {
        self.admit("describe_placement", async { Ok(self.view()?.catalog) }).await
    }

    /// The whole state of a shard as it is now, behind a read barrier at its leader.
    ///
    /// # Errors
    /// `Overloaded`; `Unavailable` without a leader or while the shard is restored. An error in the stream ends it.
    pub async fn backup_shard(&self, shard: ShardId) -> Result<BoxStream<'static, Result<StatePage>>> {
        let deadline = Deadline::after(Duration::from_millis(self.settings().export_deadline_ms));
        let open = async {
            self.known(shard)?;
            let body = codec::encode(&Export { shard, tenant: self.tenant(), what: ExportWhat::State });
            let opening = deadline.at_most(Duration::from_millis(self.settings().write_deadline_ms));
            self.shared.route.leader_stream(shard, Service::Export, body, opening).await
        };
        let (chunks, permit) = self.admit_export("backup_shard", open).await?;
        // A stream that stalls is ours to bound.
        let stall = Duration::from_millis(self.settings().write_deadline_ms);
        let pages = futures::stream::try_unfold(chunks, move |mut chunks| async move {
            let next = async { chunks.next().await.transpose() };
            let bytes = deadline.at_most(stall).bound("the next page of a backup", next).await?;
            Ok::<_, Error>(bytes.map(|bytes| (bytes, chunks)))
        });
        let pages = pages.and_then(move |bytes| {
            let _held = &permit;
            std::future::ready(page(shard, &bytes))
        });
        Ok(pages.boxed())
    }

    /// What a shard is to a restore.
    ///
    /// # Errors
    /// `Invalid` for a shard that is not there; `Unavailable` without a leader.
    pub async fn standing(&self, shard: ShardId) -> Result<Standing> {
        let work = async {
            self.known(shard)?;
            match self
                .shared
                .route
                .leader(shard, &Request::Standing { shard }, Repeat::Read, self.write_deadline())
                .await?
            {
                Response::Standing(standing) => Ok(standing),
                _ => Err(unfitting(shard)),
            }
        };
        self.admit("get_standing", work).await
    }

    /// One step of a shard's restore. A repeat does nothing, so it may be sent until it is answered.
    ///
    /// # Errors
    /// `Conflict` where the shard is not empty, is restored from another backup, or wants another part; `Corrupt` where the part cannot be
    /// of this shard, or the whole is not what the backup says.
    pub async fn restore_shard(&self, shard: ShardId, step: Step) -> Result<Standing> {
        let work = async {
            self.known(shard)?;
            let backup = match &step {
                Step::Part(part) if part.records.len() > PART_BYTES_MAX => {
                    return Err(Error::invalid("records", format!("a part has at most {PART_BYTES_MAX} bytes")));
                }
                Step::Part(part) => part.backup,
                Step::End(end) => end.backup,
            };
            let request = request(shard, step);
            let outcome =
                match self.shared.route.leader(shard, &request, Repeat::Deduplicated, self.write_deadline()).await? {
                    Response::WroteUsers { outcome: UserOutcome::Restore(outcome), .. }
                    | Response::WroteItems { outcome: ItemOutcome::Restore(outcome), .. } => outcome,
                    _ => return Err(unfitting(shard)),
                };
            answer(shard, backup, outcome)
        };
        self.admit_write("restore_shard", work).await
    }

    fn known(&self, shard: ShardId) -> Result<()> {
        match self.view()?.catalog.shards.contains_key(&shard) {
            true => Ok(()),
            false => Err(Error::invalid("shard", format!("there is no shard {shard}"))),
        }
    }
}

fn page(shard: ShardId, bytes: &[u8]) -> Result<StatePage> {
    match codec::decode("a page of a backup", bytes)? {
        ExportPage::State(records) => Ok(StatePage::Records(records)),
        ExportPage::StateEnd(end) => Ok(StatePage::End(end)),
        _ => Err(unfitting(shard)),
    }
}

fn request(shard: ShardId, step: Step) -> Request {
    match (shard.keyspace, step) {
        (Keyspace::Users, Step::Part(part)) => Request::WriteUsers { shard, command: UserCommand::Restore(part) },
        (Keyspace::Users, Step::End(end)) => Request::WriteUsers { shard, command: UserCommand::RestoreDone(end) },
        (Keyspace::Items, Step::Part(part)) => Request::WriteItems { shard, command: ItemCommand::Restore(part) },
        (Keyspace::Items, Step::End(end)) => Request::WriteItems { shard, command: ItemCommand::RestoreDone(end) },
    }
}

fn answer(shard: ShardId, backup: BackupId, outcome: RestoreOutcome) -> Result<Standing> {
    let refuse = |kind, message: String| Err(Error::new(kind, format!("shard {shard} {message}")));
    match outcome {
        RestoreOutcome::Next(next) => Ok(Standing::Restoring(backup, next)),
        RestoreOutcome::Whole => Ok(Standing::Restored(backup)),
        RestoreOutcome::NotEmpty => refuse(
            Kind::Conflict,
            "has data of its own, and a restore never overwrites: restore into a new, empty cluster".to_owned(),
        ),
        RestoreOutcome::OtherBackup => refuse(
            Kind::Conflict,
            "is being restored from another backup: finish that one, or start a new, empty cluster".to_owned(),
        ),
        RestoreOutcome::OutOfOrder(next) => refuse(Kind::Conflict, format!("wants part {next} of the backup next")),
        RestoreOutcome::Damaged(place) => refuse(
            Kind::Corrupt,
            format!("refused a part: its record {place} is damaged or not of this shard under this placement key"),
        ),
        RestoreOutcome::WrongDigest => refuse(
            Kind::Corrupt,
            "is not what the backup says after all its parts are in, and stays closed: start a new, empty cluster"
                .to_owned(),
        ),
    }
}
