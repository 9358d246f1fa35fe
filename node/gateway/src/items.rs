//! Items: metadata, take-down, deletion, and reading them back.

use crate::gateway::Gateway;
use crate::recommend::hydrate;
use crate::route::Repeat;
use crate::route::scatter::Question;
use crate::users::unfitting;
use crate::view::View;
use docent_proto::internal::Service;
use docent_proto::internal::shard::{Request, Response};
use docent_runtime::Deadline;
use docent_types::command::{ItemCommand, ItemOutcome};
use docent_types::item::{Item, ItemState};
use docent_types::{Error, ItemId, Kind, NodeId, Position, Result, ShardId, codec, limits};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two looks at how far the replicas are; a heartbeat carries the commit to them at the latest after 250 ms.
const APPLIED_POLL: Duration = Duration::from_millis(20);

impl Gateway {
    /// Creates items or replaces their metadata. All are checked before the first is written.
    ///
    /// # Errors
    /// The first shard's that failed; items of other shards are stored then. Putting all again is safe.
    pub async fn put_items(&self, items: Vec<Item>) -> Result<()> {
        self.admit("put_items", self.put_items_admitted(items)).await
    }

    async fn put_items_admitted(&self, items: Vec<Item>) -> Result<()> {
        if items.len() > limits::BATCH_MAX {
            return Err(Error::invalid(
                "items",
                format!("{} items in one batch; at most {}", items.len(), limits::BATCH_MAX),
            ));
        }
        let (view, tenant) = (self.view()?, self.tenant());
        for (i, item) in items.iter().enumerate() {
            item.validate().map_err(|error| error.at(&format!("items[{i}]")))?;
        }
        let groups = view.by_item_shard(&tenant, items, |item| &item.item_id)?;
        let writes = groups.into_iter().map(|(shard, items)| {
            let ids: Vec<ItemId> = items.iter().map(|item| item.item_id.clone()).collect();
            let command = ItemCommand::Put { tenant: tenant.clone(), items };
            async move {
                self.write_items(shard, command, self.write_deadline()).await?;
                self.shared.known.insert(ids, self.shared.clock.monotonic());
                Ok(())
            }
        });
        join_all(writes).await.into_iter().collect()
    }

    /// An item, from the presumed leader of its shard (so that a client sees its own writes) or, without it, from any replica.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when no replica answered.
    pub async fn get_item(&self, item_id: ItemId) -> Result<ItemState> {
        let work = async {
            let view = self.view()?;
            self.find_item(&view, &item_id, self.deadline(0)).await
        };
        self.admit("get_item", work).await
    }

    pub(crate) async fn find_item(&self, view: &View, item_id: &ItemId, deadline: Deadline) -> Result<ItemState> {
        let tenant = self.tenant();
        let shard = view.item_shard(&tenant, item_id)?;
        let leader = self.shared.route.leaders.get(shard);
        let question = Question {
            shards: vec![shard],
            request: &|_| Request::GetItems { tenant: tenant.clone(), shards: vec![(shard, vec![item_id.clone()])] },
            parts: hydrate::found,
            prefers: &|_, node| Some(node) == leader,
        };
        let first = self.shared.route.gather(view, &question, self.shared.ids.salt(), deadline).await;
        let found = match (first.parts.get(&shard), first.missing.get(&shard)) {
            (Some(part), _) => part.value.first().cloned().flatten(),
            (None, error) => {
                let silent = || Error::new(Kind::Unavailable, format!("no replica of shard {shard} answered"));
                return Err(error.cloned().unwrap_or_else(silent));
            }
        };
        match found {
            Some(state) => Ok(state),
            // A follower may be a moment behind: what one lacks another may have.
            None => self.ask_every_replica(view, shard, item_id, deadline).await.ok_or_else(no_such_item),
        }
    }

    async fn ask_every_replica(
        &self,
        view: &View,
        shard: ShardId,
        item_id: &ItemId,
        deadline: Deadline,
    ) -> Option<ItemState> {
        let request = Request::GetItems { tenant: self.tenant(), shards: vec![(shard, vec![item_id.clone()])] };
        let body = codec::encode(&request);
        let within = deadline.at_most(Duration::from_millis(self.settings().late_after_ms));
        let calls = view.replicas(shard).into_iter().map(|node| {
            let call = self.shared.route.caller.call(node, Service::Shard, body.clone(), within);
            async move {
                within
                    .bound("the item", call)
                    .await
                    .and_then(|bytes| codec::decode::<Response>("the shard's answer", &bytes))
            }
        });
        let answers = join_all(calls).await.into_iter().flatten();
        answers.filter_map(hydrate::found).flatten().filter_map(|(_, items)| items.ok()).flatten().flatten().next()
    }

    /// Removes an item. When this returns, no node shows it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_item(&self, item_id: ItemId) -> Result<()> {
        let command = ItemCommand::Delete { tenant: self.tenant(), item_id: item_id.clone() };
        let work = async {
            let outcome = self.write_everywhere(&item_id, command).await;
            self.shared.known.forget(&item_id);
            outcome
        };
        self.admit("delete_item", work).await
    }

    /// Takes an item down, or shows it again. When this returns, that holds on every node.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn take_down(&self, item_id: ItemId, is_taken_down: bool) -> Result<()> {
        let command = ItemCommand::SetTakenDown { tenant: self.tenant(), item_id: item_id.clone(), is_taken_down };
        self.admit("take_down_item", self.write_everywhere(&item_id, command)).await
    }

    /// Commits, then waits until every replica has applied it, or until those that have not refuse to answer by themselves.
    async fn write_everywhere(&self, item_id: &ItemId, command: ItemCommand) -> Result<()> {
        let view = self.view()?;
        let shard = view.item_shard(&self.tenant(), item_id)?;
        let (position, outcome) = self.write_items(shard, command, self.write_deadline()).await?;
        if outcome == ItemOutcome::NotFound {
            return Err(no_such_item());
        }
        let bound = Deadline::after(Duration::from_millis(self.settings().staleness_ms_max));
        let waits = view.replicas(shard).into_iter().map(|node| self.wait_applied(node, position, bound));
        join_all(waits).await;
        Ok(())
    }

    /// Until `node` has applied `position`, or `bound` is over.
    async fn wait_applied(&self, node: NodeId, position: Position, bound: Deadline) {
        let body = codec::encode(&Request::Applied { shards: vec![position.shard] });
        while !bound.is_over() {
            let within = bound.at_most(Duration::from_millis(self.settings().late_after_ms));
            let call = self.shared.route.caller.call(node, Service::Shard, body.clone(), within);
            let answer = within.bound("the applied index", call).await;
            let response = answer.and_then(|bytes| codec::decode::<Response>("the shard's answer", &bytes));
            if let Ok(Response::Applied(shards)) = response
                && shards.iter().any(|(shard, applied)| {
                    *shard == position.shard && applied.as_ref().is_ok_and(|i| *i >= position.index)
                })
            {
                return;
            }
            tokio::time::sleep(APPLIED_POLL.min(bound.remaining())).await;
        }
    }

    /// Tells the item shards a user shard's partial counts as of its log index `at`: absolute values, so that a repeat does nothing.
    ///
    /// # Errors
    /// The first shard's that could not be written; the others may have been.
    pub async fn publish_counts(
        &self,
        from: ShardId,
        at: u64,
        counts: Vec<(ItemId, u64)>,
        deadline: Deadline,
    ) -> Result<()> {
        let view = self.view()?;
        let mut by_shard: BTreeMap<ShardId, Vec<(ItemId, u64)>> = BTreeMap::new();
        for (item_id, count) in counts {
            by_shard.entry(view.item_shard(&self.tenant(), &item_id)?).or_default().push((item_id, count));
        }
        for (shard, counts) in by_shard {
            for counts in counts.chunks(limits::BATCH_MAX) {
                let counts = counts.to_vec();
                let command = ItemCommand::Counts { tenant: self.tenant(), from, at, counts };
                self.write_items(shard, command, deadline).await?;
            }
        }
        Ok(())
    }

    async fn write_items(
        &self,
        shard: ShardId,
        command: ItemCommand,
        deadline: Deadline,
    ) -> Result<(Position, ItemOutcome)> {
        let request = Request::WriteItems { shard, command };
        match self.shared.route.leader(shard, &request, Repeat::Never, deadline).await? {
            Response::WroteItems { position, outcome } => Ok((position, outcome)),
            _ => Err(unfitting(shard)),
        }
    }
}

pub(crate) fn no_such_item() -> Error {
    Error { field: Some("item_id".to_owned()), ..Error::new(Kind::NotFound, "there is no such item") }
}
