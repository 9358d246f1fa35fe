//! Publishes the user shards' partial counts of each item to the item shards: absolute values, so that repeats do nothing.

use crate::shards::{Role, Shards};
use docent_gateway::Gateway;
use docent_runtime::{Deadline, Supervisor};
use docent_shard::counts::changed;
use docent_types::{ItemId, Result, ShardId, TenantId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// How long one round may take.
const ROUND: Duration = Duration::from_secs(10);

/// Publishes what changed on the shards that this node leads, at an interval.
pub async fn publish(shards: Arc<Shards>, gateway: Gateway, every: Duration, supervisor: Supervisor) -> Result<()> {
    let mut published: BTreeMap<ShardId, Published> = BTreeMap::new();
    while !supervisor.is_cancelled() {
        for hosted in shards.all() {
            let status = hosted.group.status();
            let (Role::Users(_), true) = (&hosted.role, status.is_leader()) else {
                published.remove(&hosted.id);
                continue;
            };
            let before = published.get(&hosted.id).copied();
            let is_current = before.is_some_and(|p| p.term == status.term && Some(p.through) >= status.applied);
            if is_current {
                continue;
            }
            let since = before.filter(|p| p.term == status.term).map_or(0, |p| p.through);
            match round(&hosted, since, &gateway).await {
                Ok(through) => drop(published.insert(hosted.id, Published { term: status.term, through })),
                Err(error) => tracing::debug!(shard = %hosted.id, %error, "counts were not published; trying again"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {} // the interval
            () = supervisor.cancelled() => {}
        }
    }
    Ok(())
}

/// How far a shard's counts are known to the item shards. A new term starts anew: what the last leader published is not known here.
#[derive(Clone, Copy, Debug)]
struct Published {
    term: u64,
    through: u64,
}

async fn round(hosted: &crate::shards::Hosted, since: u64, gateway: &Gateway) -> Result<u64> {
    let view = hosted.store.view()?;
    let at = crate::machine::applied_index(view.applied()?)?;
    let tenant = TenantId::default();
    let mut counts: Vec<(ItemId, u64)> = Vec::new();
    changed(&view, &tenant, since, &mut |id, count| {
        counts.push((id, count));
        Ok(ControlFlow::Continue(()))
    })?;
    drop(view);
    gateway.publish_counts(hosted.id, at, counts, Deadline::after(ROUND)).await?;
    Ok(at)
}
