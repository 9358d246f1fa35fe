//! Pinned views as the trainer's input, and the disk as its sink.

use super::cut::{Cuts, Pinned};
use crate::parts::Parts;
use docent_placement::SlotHasher;
use docent_placement::initial::WORKER_SLOTS;
use docent_rpc::Caller;
use docent_shard::Positives;
use docent_shard::item::items;
use docent_shard::training::{Pair, training_users};
use docent_train::input::Inputs;
use docent_train::{
    Earlier, Error, ItemInfo, ItemInput, ItemNumbers, PartInfo, PartSink, PartSource, Positive, UserHistory, UserInput,
};
use docent_types::{Keyspace, Kind, NodeId, ShardId, SlotRange, TenantId};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The inputs of this node.
pub struct NodeInputs {
    /// What is pinned.
    pub cuts: Arc<Cuts>,
    /// The cluster's slot hash.
    pub hasher: SlotHasher,
    /// What counts as a positive.
    pub positives: Positives,
}

struct Input {
    pinned: BTreeMap<ShardId, Pinned>,
    hasher: SlotHasher,
    positives: Positives,
}

fn input_error(error: impl std::fmt::Display) -> Error {
    Error::Input(error.to_string())
}

impl NodeInputs {
    fn open(&self, job: u64, epoch: u64) -> Result<Arc<Input>, Error> {
        let pinned = self.cuts.get(job, epoch).map_err(input_error)?;
        Ok(Arc::new(Input { pinned, hasher: self.hasher, positives: self.positives.clone() }))
    }
}

impl Inputs for NodeInputs {
    fn users(&self, job: u64, epoch: u64) -> Result<Arc<dyn UserInput>, Error> {
        Ok(self.open(job, epoch)?)
    }

    fn items(&self, job: u64, epoch: u64) -> Result<Arc<dyn ItemInput>, Error> {
        Ok(self.open(job, epoch)?)
    }
}

impl Input {
    /// The pinned shard that owns a virtual worker's slots.
    fn of(&self, keyspace: Keyspace, vworker: u16) -> Result<(&Pinned, SlotRange), Error> {
        let first = vworker * WORKER_SLOTS;
        let slots = SlotRange { first, end: first + WORKER_SLOTS };
        let owner = |(id, pin): &(&ShardId, &Pinned)| id.keyspace == keyspace && pin.slots.overlaps(slots);
        let found = self.pinned.iter().find(owner).map(|(_, pin)| pin);
        let pin =
            found.ok_or_else(|| input_error(format!("slots {first}.. of {keyspace:?} are not pinned on this node")))?;
        Ok((pin, slots))
    }
}

impl UserInput for Input {
    fn users(&self, vworker: u16, items: &mut ItemNumbers) -> Result<Vec<UserHistory>, Error> {
        let (pin, slots) = self.of(Keyspace::Users, vworker)?;
        let tenant = TenantId::default();
        let mut number = |item: &str| {
            let number = items.number(item, || self.hasher.slot(&tenant, item).0);
            number.map_err(|error| docent_types::Error::new(Kind::Corrupt, error.to_string()))
        };
        let mut found = Vec::new();
        training_users(&*pin.view, &tenant, slots, &self.positives, &mut number, &mut |user| {
            let positive =
                |pair: Pair| Positive { item: pair.item, confidence: pair.confidence, last_ts_ms: pair.last_ms };
            let positives = user.positives.into_iter().map(positive).collect();
            found.push(UserHistory { slot: user.slot.0, id: user.user_id.as_arc().clone(), positives });
            Ok(ControlFlow::Continue(()))
        })
        .map_err(input_error)?;
        Ok(found)
    }
}

impl ItemInput for Input {
    fn items(&self, vworker: u16) -> Result<Vec<ItemInfo>, Error> {
        let (pin, slots) = self.of(Keyspace::Items, vworker)?;
        let tenant = TenantId::default();
        let mut found = Vec::new();
        items(&*pin.view, &tenant, slots, &mut |state| {
            found.push(ItemInfo {
                slot: self.hasher.slot(&tenant, state.item.item_id.as_str()).0,
                id: state.item.item_id.as_arc().clone(),
                categories: state.item.categories.iter().map(|category| Arc::from(category.as_str())).collect(),
                live: !state.is_taken_down,
            });
            Ok(ControlFlow::Continue(()))
        })
        .map_err(input_error)?;
        Ok(found)
    }
}

/// Parts of earlier versions, pulled first where they are not here.
pub struct VersionParts {
    /// This node's.
    pub parts: Arc<Parts>,
    /// Other nodes.
    pub caller: Arc<dyn Caller>,
}

impl PartSource for VersionParts {
    fn get<'a>(&'a self, part: &'a Earlier) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        let from: Vec<NodeId> = part.holders.iter().copied().map(NodeId).collect();
        async move {
            let found = self.parts.fetch(&part.blake3, part.bytes, &from, &*self.caller).await;
            found.map_err(|error| input_error(format!("the version to go on from cannot be read: {}", error.message)))
        }
        .boxed()
    }
}

/// Finished parts go to this node's disk, under their hash.
pub struct DiskSink(pub Arc<Parts>);

impl PartSink for DiskSink {
    fn put(&self, part: &PartInfo, bytes: Vec<u8>) -> Result<(), Error> {
        let sink = |error: docent_types::Error| Error::Sink(error.message);
        match self.0.put(&bytes).map_err(sink)? {
            hash if hash == part.blake3 => Ok(()),
            _ => Err(Error::Sink("a part's bytes do not have the hash that it was announced with".to_owned())),
        }
    }
}
