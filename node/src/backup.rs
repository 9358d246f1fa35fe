//! A shard's state out, for a backup, and what a shard is while one goes in.

use crate::machine::applied_index;
use crate::shards::Hosted;
use docent_proto::internal::shard::{ExportPage, Standing, StateDigest, StateEnd};
use docent_rpc::caller::Chunks;
use docent_runtime::Deadline;
use docent_shard::digest::Digester;
use docent_shard::restore;
use docent_shard::view::View;
use docent_types::{Error, Result, ShardId, codec};
use futures::StreamExt;
use std::sync::Arc;

/// Payload of one page: with its frame it fits the 1 MiB of a chunk.
const PAGE_BYTES: usize = (1 << 20) - 64;

/// When to ask again.
const RETRY_AFTER_MS: u32 = 1_000;

/// What a write to a shard in restoration is told: it went through the log, so that no other replica knows better.
pub fn restoring(shard: ShardId) -> Error {
    let message = format!("shard {shard} is being restored from a backup and answers when all of it is in");
    Error::unavailable_for(message, RETRY_AFTER_MS)
}

/// Refuses to read a shard of which a part is missing.
pub fn check_whole(hosted: &Hosted) -> Result<()> {
    let view = hosted.store.view().map_err(Error::from)?;
    match restore::lineage(&view, hosted.id.keyspace)? {
        // Another replica may be further.
        Some(lineage) if !lineage.is_whole => Err(Error { retry_after_ms: None, ..restoring(hosted.id) }),
        _ => Ok(()),
    }
}

/// What is added to a log index of this shard to give the stamps of its records.
pub fn stamp_base(view: &dyn View, shard: ShardId) -> Result<u64> {
    Ok(restore::lineage(view, shard.keyspace)?.map_or(0, |lineage| lineage.base))
}

/// What the shard is to a restore; the leader knows.
pub async fn standing(hosted: &Hosted, deadline: Deadline) -> Result<Standing> {
    let read = |view: &dyn View| restore::standing(view, hosted.id.keyspace);
    let (standing, _) = hosted.read_leader(deadline, read).await?;
    Ok(match standing {
        restore::Standing::Empty => Standing::Empty,
        restore::Standing::Restoring(backup, next) => Standing::Restoring(backup, next),
        restore::Standing::Restored(backup) => Standing::Restored(backup),
        restore::Standing::Live => Standing::Live,
    })
}

/// Where a state is on its way out.
enum At {
    After(Option<Vec<u8>>, Digester),
    Last(Digester),
    End,
}

/// The whole state of a shard as it is now, which the caller made sure is the newest.
pub fn state_pages(hosted: &Hosted) -> Result<Chunks> {
    check_whole(hosted)?;
    let view = Arc::new(hosted.store.view().map_err(Error::from)?);
    let position = applied_index(view.applied().map_err(Error::from)?)?;
    let stamp = stamp_base(&*view, hosted.id)?.saturating_add(position);
    let pages = futures::stream::try_unfold(At::After(None, Digester::default()), move |at| {
        let view = view.clone();
        async move {
            let (page, next) = match at {
                At::After(after, mut digester) => {
                    let mut visit = |key: &[u8], value: &[u8]| digester.add(key, value);
                    let page = restore::page(&*view, after.as_deref(), PAGE_BYTES, &mut visit)?;
                    let next = match page.last_key {
                        Some(last) => At::After(Some(last), digester),
                        None => At::Last(digester),
                    };
                    (ExportPage::State(page.records), next)
                }
                At::Last(digester) => {
                    let docent_shard::Digest { records, content, state } = digester.finish();
                    let end = StateEnd { position, stamp, digest: StateDigest { records, content, state } };
                    (ExportPage::StateEnd(end), At::End)
                }
                At::End => return Ok::<_, Error>(None),
            };
            Ok(Some((codec::encode(&page), next)))
        }
    });
    Ok(pages.boxed())
}
