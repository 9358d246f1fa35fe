//! Items: metadata, take-down, deletion, and reading them back.

use crate::batch;
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
use docent_types::sabotage::{Bug, is};
use docent_types::{Error, ItemId, Kind, NodeId, Position, Result, ShardId, codec, limits};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two looks at how far the replicas are; a heartbeat carries the commit to them at the latest after 250 ms.
const APPLIED_POLL: Duration = Duration::from_millis(20);

impl Gateway {
    /// Creates items or replaces their metadata. All are checked before the first is written.
    ///
    /// # Errors
    /// The first shard's that failed; items of other shards, and the first ones of that shard, may be stored then. Putting all again is
    /// safe.
    pub async fn put_items(&self, items: Vec<Item>) -> Result<()> {
        self.admit_write("put_items", self.put_items_admitted(items)).await
    }

    async fn put_items_admitted(&self, items: Vec<Item>) -> Result<()> {
        if items.len() > limits::BATCH_MAX {
            return Err(Error::invalid(
                "items",
                format!("{} items in one batch; at most {}", items.len(), limits::BATCH_MAX),
            ));
        }
        let (view, tenant, deadline) = (self.view()?, self.tenant(), self.write_deadline());
        for (i, item) in items.iter().enumerate() {
            item.validate().map_err(|error| error.at(&format!("items[{i}]")))?;
        }
        let groups = view.by_item_shard(&tenant, items, |item| &item.item_id)?;
        let writes = groups.into_iter().map(|(shard, items)| {
            let tenant = tenant.clone();
            async move {
                // One after the other: of two items under one id the last is to stay.
                for items in batch::split(items) {
                    let ids: Vec<ItemId> = items.iter().map(|item| item.item_id.clone()).collect();
                    let command = ItemCommand::Put { tenant: tenant.clone(), items };
                    self.write_items(shard, command, deadline).await?;
                    self.shared.known.insert(ids, self.shared.clock.monotonic());
                }
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
    /// `NotFound`; `Unknown` where it is removed, but a replica that answers had not applied that in time: repeat it, or wait.
    pub async fn delete_item(&self, item_id: ItemId) -> Result<()> {
        let command = ItemCommand::Delete { tenant: self.tenant(), item_id: item_id.clone() };
        let work = async {
            let outcome = self.write_everywhere(&item_id, command).await;
            self.shared.known.forget(&item_id);
            outcome
        };
        self.admit_write("delete_item", work).await
    }

    /// Takes an item down, or shows it again. When this returns, that holds on every node.
    ///
    /// # Errors
    /// `NotFound`; `Unknown` where it is committed, but a replica that answers had not applied it in time: repeat it.
    pub async fn take_down(&self, item_id: ItemId, is_taken_down: bool) -> Result<()> {
        let command = ItemCommand::SetTakenDown { tenant: self.tenant(), item_id: item_id.clone(), is_taken_down };
        self.admit_write("take_down_item", self.write_everywhere(&item_id, command)).await
    }

    /// Commits, then waits until every replica has applied it; those that cannot be reached refuse to show anything by themselves soon.
    async fn write_everywhere(&self, item_id: &ItemId, command: ItemCommand) -> Result<()> {
        let view = self.view()?;
        let shard = view.item_shard(&self.tenant(), item_id)?;
        let deadline = self.write_deadline();
        let (position, outcome, holders) = self.write_items(shard, command, deadline).await?;
        if outcome == ItemOutcome::NotFound {
            return Err(no_such_item());
        }
        if is(Bug::TakeDownAckedEarly) {
            return Ok(());
        }
        let silence = self.silence();
        // A late commit leaves no less time than an unreachable replica takes.
        let deadline = deadline.max(silence);
        // Some gateways still ask by an older map, and others by a newer one than this.
        let nodes: BTreeSet<NodeId> = view.replicas(shard).into_iter().chain(holders).collect();
        let waits = nodes.into_iter().map(|node| self.wait_applied(node, position, silence, deadline));
        join_all(waits).await.into_iter().collect()
    }

    /// A replica that says nothing from now until then shows nothing any more.
    fn silence(&self) -> Deadline {
        Deadline::after(Duration::from_millis(self.settings().staleness_ms_max))
    }

    /// Until `node` has applied `position`. One that cannot be reached or refuses is waited for until `silence` is over. One that answers
    /// that it is behind hears from its leader and may show the item still: it is waited for until `deadline`, and a silence counts from its
    /// last answer.
    ///
    /// # Errors
    /// `Unknown` when `deadline` is over and the replica may show the item still.
    async fn wait_applied(
        &self,
        node: NodeId,
        position: Position,
        mut silence: Deadline,
        deadline: Deadline,
    ) -> Result<()> {
        loop {
            let is_last = deadline.is_over();
            match self.applied(node, position.shard, deadline).await {
                Ok(index) if index >= position.index => return Ok(()),
                Ok(_) => silence = self.silence(),
                // Its replica is gone; one that comes anew begins with what its leader has.
                Err(Kind::WrongShard) => return Ok(()),
                Err(_) if silence.is_over() => return Ok(()),
                Err(_) => {}
            }
            if is_last {
                let shard = position.shard;
                let message =
                    format!("node {node} has not applied the write to shard {shard} yet and may show the item");
                return Err(Error::new(Kind::Unknown, message));
            }
            tokio::time::sleep(APPLIED_POLL.min(deadline.remaining())).await;
        }
    }

    /// The index that `node` has applied of `shard`; what kind of error it is if it cannot be reached or refuses.
    async fn applied(&self, node: NodeId, shard: ShardId, deadline: Deadline) -> std::result::Result<u64, Kind> {
        let body = codec::encode(&Request::Applied { shards: vec![shard] });
        let within = deadline.at_most(Duration::from_millis(self.settings().late_after_ms));
        let call = self.shared.route.caller.call(node, Service::Shard, body, within);
        let answer = within.bound("the applied index", call).await.map_err(|error| error.kind)?;
        match codec::decode::<Response>("the shard's answer", &answer).map_err(|error| error.kind)? {
            Response::Applied(shards) => {
                let found = shards.into_iter().find(|(answered, _)| *answered == shard);
                found.map_or(Err(Kind::Internal), |(_, applied)| applied.map_err(|error| error.kind))
            }
            _ => Err(Kind::Internal),
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
            for counts in batch::split(counts) {
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
    ) -> Result<(Position, ItemOutcome, Vec<NodeId>)> {
        let request = Request::WriteItems { shard, command };
        match self.shared.route.leader(shard, &request, Repeat::Never, deadline).await? {
            Response::WroteItems { position, outcome, holders } => Ok((position, outcome, holders)),
            _ => Err(unfitting(shard)),
        }
    }
}

pub(crate) fn no_such_item() -> Error {
    Error { field: Some("item_id".to_owned()), ..Error::new(Kind::NotFound, "there is no such item") }
}
