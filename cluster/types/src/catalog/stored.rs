//! The layouts of the catalog (decision 0012): whoever writes one marks it with [`Catalog::format`], and what a format does not have is not there.

use super::{Activation, Catalog, Cluster, Job, Member, Model, Shard, Step, oldest};
use crate::id::{NodeId, ReplicaId};
use crate::placement::Grave;
use crate::schedule::Scheduled;
use crate::shard::ShardId;
use crate::study::Studied;
use serde::de::{Error, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// The format that came with schedules and courses.
const LATER: u32 = 6;

/// What every format has. A cluster of format 2 is laid out as it was before there were others; from 3 on, the format stands behind it.
#[derive(Deserialize)]
struct First {
    index: u64,
    cluster: Born,
    coordinators: BTreeMap<NodeId, Member>,
    nodes: BTreeMap<NodeId, Member>,
    shards: BTreeMap<ShardId, Shard>,
    models: BTreeMap<u64, Model>,
    live: Option<Activation>,
    jobs: BTreeMap<u64, Job>,
    graves: BTreeMap<ReplicaId, Grave>,
}

/// [`First`] of a catalog that is only lent.
#[derive(Serialize)]
struct Lent<'a> {
    index: u64,
    cluster: Born,
    coordinators: &'a BTreeMap<NodeId, Member>,
    nodes: &'a BTreeMap<NodeId, Member>,
    shards: &'a BTreeMap<ShardId, Shard>,
    models: &'a BTreeMap<u64, Model>,
    live: Option<Activation>,
    jobs: &'a BTreeMap<u64, Job>,
    graves: &'a BTreeMap<ReplicaId, Grave>,
}

/// What came with format 6, behind the rest.
type Later = (BTreeMap<String, Scheduled>, BTreeMap<u64, Vec<Step>>, BTreeMap<String, Studied>);

/// postcard writes the first two as `None` and `Some` of an `Option`.
#[derive(Serialize, Deserialize)]
enum Born {
    No,
    Oldest(Cluster),
    Raised(Cluster, u32),
}

impl From<&Option<Cluster>> for Born {
    fn from(cluster: &Option<Cluster>) -> Born {
        match cluster.clone() {
            None => Born::No,
            Some(cluster) if cluster.format <= oldest() => Born::Oldest(cluster),
            Some(cluster) => Born::Raised(cluster.clone(), cluster.format),
        }
    }
}

impl From<Born> for Option<Cluster> {
    fn from(born: Born) -> Option<Cluster> {
        match born {
            Born::No => None,
            Born::Oldest(cluster) => Some(cluster),
            Born::Raised(cluster, format) => Some(Cluster { format, ..cluster }),
        }
    }
}

impl Serialize for Catalog {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_later = self.format() >= LATER;
        let mut tuple = serializer.serialize_tuple(1 + usize::from(is_later))?;
        tuple.serialize_element(&Lent {
            index: self.index,
            cluster: (&self.cluster).into(),
            coordinators: &self.coordinators,
            nodes: &self.nodes,
            shards: &self.shards,
            models: &self.models,
            live: self.live,
            jobs: &self.jobs,
            graves: &self.graves,
        })?;
        if is_later {
            tuple.serialize_element(&(&self.schedules, &self.courses, &self.studies))?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Catalog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Catalog, D::Error> {
        // Two at most: the second is asked for only where the first says that it is there.
        deserializer.deserialize_tuple(2, Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Catalog;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a catalog")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Catalog, A::Error> {
        let first: First = parts.next_element()?.ok_or_else(|| Error::invalid_length(0, &self))?;
        let mut catalog = Catalog {
            index: first.index,
            cluster: first.cluster.into(),
            coordinators: first.coordinators,
            nodes: first.nodes,
            shards: first.shards,
            models: first.models,
            live: first.live,
            jobs: first.jobs,
            graves: first.graves,
            ..Catalog::default()
        };
        if catalog.format() >= LATER {
            let later: Later = parts.next_element()?.ok_or_else(|| Error::invalid_length(1, &self))?;
            (catalog.schedules, catalog.courses, catalog.studies) = later;
        }
        Ok(catalog)
    }
}
