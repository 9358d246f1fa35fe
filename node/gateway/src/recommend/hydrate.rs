//! Metadata for the items of an answer, from any replica. What does not come in time is left out: an answer without a title is one still.

use crate::gateway::Gateway;
use crate::route::scatter::{Parts, Question};
use crate::view::View;
use docent_proto::internal::shard::{Request, Response};
use docent_runtime::Deadline;
use docent_types::item::ItemState;
use docent_types::{ItemId, Result, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// Items by id.
pub(crate) type Items = BTreeMap<ItemId, ItemState>;

/// Items of one shard in the order they were asked for.
pub(crate) type Found = Vec<Option<ItemState>>;

/// The parts of an answer to [`Request::GetItems`].
pub(crate) fn found(response: Response) -> Option<Parts<Found>> {
    match response {
        Response::Items(parts) => Some(parts),
        _ => None,
    }
}

/// Those of `ids` that exist and whose shard answers in time.
pub(crate) async fn items(gateway: &Gateway, view: &View, ids: &BTreeSet<ItemId>, deadline: Deadline) -> Result<Items> {
    if ids.is_empty() {
        return Ok(Items::new());
    }
    let tenant = gateway.tenant();
    let groups = view.by_item_shard(&tenant, ids.iter().cloned(), |id| id)?;
    let question = Question {
        shards: groups.keys().copied().collect(),
        request: &|shards| {
            let ids = |shard: &ShardId| (*shard, groups.get(shard).cloned().unwrap_or_default());
            Request::GetItems { tenant: tenant.clone(), shards: shards.iter().map(ids).collect() }
        },
        parts: found,
        prefers: &|_, _| true,
    };
    let gathered = gateway.shared.route.gather(view, &question, gateway.shared.ids.salt(), deadline).await;
    let states = gathered.parts.into_values().flat_map(|part| part.value).flatten();
    Ok(states.map(|state| (state.item.item_id.clone(), state)).collect())
}
