//! What the coordinator replicates and everybody watches: members, the shard map, the model registry, jobs.
//!
//! This is the data alone; the commands that change it and the rules they obey are `docent-coordinator`'s. A watcher gets whole
//! catalogs with a rising [`Catalog::index`] and never goes back to a lower one.

mod stored;

use crate::codec;
use crate::error::{Error, Kind, Result};
use crate::id::{ClusterId, NodeId, ReplicaId};
use crate::placement::{Change, Grave, NodeState};
use crate::schedule::Scheduled;
use crate::shard::{Keyspace, Position, ShardId, Slot, SlotRange};
use crate::study::Studied;
use crate::training::TrainSettings;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The replicated catalog at one log index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// The coordinator log index that this catalog reflects.
    pub index: u64,
    /// The cluster's identity, once born.
    pub cluster: Option<Cluster>,
    /// Coordinators, by id.
    pub coordinators: BTreeMap<NodeId, Member>,
    /// Nodes, by id.
    pub nodes: BTreeMap<NodeId, Member>,
    /// The shard map: a hint, the group's own membership is the truth. Empty until the initial placement.
    pub shards: BTreeMap<ShardId, Shard>,
    /// The model registry, by version.
    pub models: BTreeMap<u64, Model>,
    /// The live version.
    pub live: Option<Activation>,
    /// Jobs, by id.
    pub jobs: BTreeMap<u64, Job>,
    /// Replicas that belong to no group any more and must be destroyed where they lie.
    pub graves: BTreeMap<ReplicaId, Grave>,
    /// Training that begins by itself, by name.
    pub schedules: BTreeMap<String, Scheduled>,
    /// Searches for settings, by name.
    pub studies: BTreeMap<String, Studied>,
    /// How far each of the latest jobs was when, oldest first. Each step is the last one told of its phase and epoch, of the current attempt.
    pub courses: BTreeMap<u64, Vec<Step>>,
}

/// What is fixed at the birth of a cluster, and the format that its members agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Who we are; in every frame.
    pub id: ClusterId,
    /// The key of the slot hash; never changes.
    pub placement_key: [u8; 16],
    /// User shards of the initial placement.
    pub user_shards: u16,
    /// Item shards of the initial placement.
    pub item_shards: u16,
    /// Replicas of each shard, at most the number of nodes.
    pub replication: u8,
    /// The initial placement happens when this many nodes have joined.
    pub expect_nodes: u16,
    /// The finalised format: every member understands it, only rises. Records of a higher one are not written.
    #[serde(skip, default = "oldest")]
    pub format: u32,
}

fn oldest() -> u32 {
    codec::OLDEST.into()
}

/// A coordinator or a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id, never reused.
    pub id: NodeId,
    /// Its internal address, `host:port`.
    pub internal_addr: String,
    /// Its query address; empty for a coordinator.
    pub query_addr: String,
    /// Its failure zone; replicas of a shard spread over zones.
    pub zone: String,
    /// Whether the coordinator's leader heard of it lately.
    pub is_alive: bool,
    /// The highest version of records and messages it understands.
    pub format: u32,
    /// What it may hold; a coordinator is always active.
    pub state: NodeState,
}

/// A shard of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Which.
    pub id: ShardId,
    /// What it owns.
    pub slots: SlotRange,
    /// Where it lives.
    pub replicas: Vec<Replica>,
    /// The index, in the shard's own log, of the membership that `replicas` shows; 0 for the first placement.
    pub membership: u64,
    /// The change of its replicas that is under way.
    pub change: Option<Change>,
}

/// A replica of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its id, never reused.
    pub id: ReplicaId,
    /// Where.
    pub node: NodeId,
}

/// The one entry that makes a version live everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The live version.
    pub version: u64,
    /// Rises with each activation and rollback.
    pub epoch: u64,
    /// The version that was live before; nodes keep it for rollback.
    pub previous: Option<u64>,
}

/// Where a model stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// Trained, evaluated and registered; replicas fetch, verify and probe it.
    Validated,
    /// Enough replicas of every shard can answer with it.
    Staged,
    /// Answers use it.
    Live,
    /// Was live; parts are kept while it is the rollback target.
    Retired,
    /// Cannot be used.
    Failed,
}

/// A model version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Rises by one with each registered model.
    pub version: u64,
    /// Where it stands.
    pub state: ModelState,
    /// The job that made it.
    pub job: u64,
    /// How it was trained.
    pub settings: TrainSettings,
    /// What it was trained on.
    pub cut: Vec<Position>,
    /// The item rows, one part a virtual worker, sorted by slot range.
    pub parts: Vec<ModelPart>,
    /// Gramian, category means, settings: needed on every node.
    pub global: ModelPart,
    /// Held-out metrics (`recall@20`, ...) and counts.
    pub metrics: BTreeMap<String, f64>,
    /// The version that was live when it was registered.
    pub parent: Option<u64>,
    /// When it was registered, by the proposer's clock.
    pub created_ms: i64,
    /// Which replicas hold, verified and probed it.
    pub staged: BTreeSet<(ShardId, NodeId)>,
    /// Activate as soon as it is staged.
    pub activate: bool,
    /// Why it failed.
    pub error: Option<String>,
}

/// An immutable file, content-addressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPart {
    /// Which keyspace its rows are of.
    pub keyspace: Keyspace,
    /// Which slots.
    pub slots: SlotRange,
    /// blake3 of the bytes.
    pub hash: [u8; 32],
    /// Length.
    pub bytes: u64,
    /// Nodes that had it when it was registered.
    pub holders: Vec<NodeId>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for the job before it, or for a driver.
    Queued,
    /// A node drives it.
    Running,
    /// Registered its model.
    Succeeded,
    /// Gave up; see `error`.
    Failed,
    /// Ended by command.
    Cancelled,
}

impl JobState {
    /// Nothing more will come of it. A job that failed once may be queued again, as another attempt.
    pub fn is_over(self) -> bool {
        !matches!(self, JobState::Queued | JobState::Running)
    }
}

/// A training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: u64,
    /// Where it stands.
    pub state: JobState,
    /// What it does.
    pub settings: TrainSettings,
    /// Rises with each attempt; messages of an older epoch are dropped everywhere.
    pub epoch: u64,
    /// The node that drives the current attempt.
    pub driver: Option<NodeId>,
    /// How far the current attempt is.
    pub progress: Option<JobProgress>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// The version it made.
    pub version: Option<u64>,
    /// When it was asked for, by the proposer's clock.
    pub created_ms: i64,
}

/// Progress of a running job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    /// `load`, `train`, `evaluate`, `refit`, `publish`.
    pub phase: String,
    /// The epoch, from 1.
    pub epoch: u32,
    /// Of how many.
    pub epochs: u32,
    /// The objective's value.
    pub loss: Option<f64>,
    /// Since the attempt began.
    pub seconds: f64,
    /// Bytes exchanged between nodes so far.
    pub bytes: u64,
}

/// A step of a job's course.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// How far it was.
    pub progress: JobProgress,
    /// What hosts spent since the attempt began between their own answers and the slowest host's, in seconds, summed over hosts.
    pub waited_seconds: f64,
    /// How many hosts there were.
    pub hosts: u32,
}

impl Shard {
    /// Its replicas as they will be, and while a change is under way the one that comes too.
    pub fn hosts(&self) -> impl Iterator<Item = Replica> + '_ {
        self.replicas.iter().copied().chain(self.change.map(|change| change.new).filter(|new| !self.has(new.id)))
    }

    /// Whether the node has one of these.
    pub fn is_on(&self, node: NodeId) -> bool {
        self.hosts().any(|replica| replica.node == node)
    }

    /// Whether the replica is one of those that the group counts, as far as is known.
    pub fn has(&self, replica: ReplicaId) -> bool {
        self.replicas.iter().any(|known| known.id == replica)
    }

    /// The replicas once the change under way is done.
    pub fn target(&self) -> Vec<Replica> {
        let Some(change) = self.change.filter(|change| !change.is_cancelled) else { return self.replicas.clone() };
        let stay = self.replicas.iter().copied().filter(|replica| Some(replica.id) != change.old);
        stay.chain([change.new].into_iter().filter(|new| !self.has(new.id))).collect()
    }
}

/// When to ask again for a format that every member understands: coordinators look after it about twice a second.
const RISES_MS: u32 = 500;

impl Catalog {
    /// The shard that owns `slot`.
    pub fn shard_of(&self, keyspace: Keyspace, slot: Slot) -> Option<&Shard> {
        self.shards_of(keyspace).find(|shard| shard.slots.contains(slot))
    }

    /// All shards of a keyspace, by index.
    pub fn shards_of(&self, keyspace: Keyspace) -> impl Iterator<Item = &Shard> {
        let first = ShardId { keyspace, index: 0 };
        let last = ShardId { keyspace, index: u16::MAX };
        self.shards.range(first..=last).map(|(_, shard)| shard)
    }

    /// The live model.
    pub fn live_model(&self) -> Option<&Model> {
        self.live.and_then(|live| self.models.get(&live.version))
    }

    /// The finalised format.
    pub fn format(&self) -> u32 {
        self.cluster.as_ref().map_or_else(oldest, |cluster| cluster.format)
    }

    /// Whether records of `format` may be written. Every proposer of a command asks this with the command's format.
    ///
    /// # Errors
    /// `Unsupported`, with what to do; `Unavailable` where every member understands it and the cluster is only about to use it, as a new one is in
    /// its first moments.
    pub fn require(&self, format: u32) -> Result<()> {
        let ours = self.format();
        if ours >= format {
            return Ok(());
        }
        let mut members = self.nodes.values().chain(self.coordinators.values()).peekable();
        let is_about_to = members.peek().is_some() && members.all(|member| member.format >= format);
        let problem = format!("this needs format {format} and the cluster is at format {ours}");
        if is_about_to {
            let why = format!("{problem}, which rises in a moment, unless its coordinators have auto_finalize off");
            return Err(Error::unavailable_for(why, RISES_MS));
        }
        let way_out = "upgrade every member first (`docent status` shows the format that each understands)";
        Err(Error::new(Kind::Unsupported, format!("{problem}: {way_out}")))
    }

    /// A member of either kind.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.nodes.get(&id).or_else(|| self.coordinators.get(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(format: u32) -> Catalog {
        let cluster = Cluster {
            id: ClusterId(1),
            placement_key: [7; 16],
            user_shards: 2,
            item_shards: 1,
            replication: 3,
            expect_nodes: 2,
            format,
        };
        Catalog { index: 5, cluster: Some(cluster), ..Catalog::default() }
    }

    fn member(id: u64, format: u32) -> Member {
        let (internal_addr, query_addr, zone) = (format!("a:{id}"), String::new(), String::new());
        Member { id: NodeId(id), internal_addr, query_addr, zone, is_alive: true, format, state: NodeState::Active }
    }

    #[test]
    fn a_catalog_of_the_oldest_format_has_the_layout_of_then() {
        /// The layout of format 2.
        #[derive(Serialize)]
        struct Then {
            id: ClusterId,
            placement_key: [u8; 16],
            shards: (u16, u16, u8, u16),
        }
        let then = Then { id: ClusterId(1), placement_key: [7; 16], shards: (2, 1, 3, 2) };
        let then = codec::encode(&(5u64, Some(then), [0u8; 4], None::<u8>, [0u8; 2]));
        assert_eq!(codec::encode_in(2, &catalog(2)), then, "see docs/decisions/0012-versions.md");
        for catalog in [catalog(2), catalog(3), Catalog::default()] {
            let bytes = codec::encode_in(catalog.format(), &catalog);
            assert_eq!(u32::from(bytes[0]), catalog.format());
            assert_eq!(codec::decode::<Catalog>("the catalog", &bytes).unwrap(), catalog);
        }
    }

    #[test]
    fn what_needs_a_higher_format_is_refused_with_what_to_do() {
        assert!(
            catalog(3).require(2).is_ok() && catalog(3).require(3).is_ok() && Catalog::default().require(2).is_ok()
        );
        let error = catalog(2).require(3).unwrap_err();
        assert!(error.kind == Kind::Unsupported && error.message.contains("upgrade every member"), "{error}");
        let mut upgraded = catalog(2);
        upgraded.nodes.insert(NodeId(101), member(101, 3));
        upgraded.coordinators.insert(NodeId(1), member(1, 3));
        let error = upgraded.require(3).unwrap_err();
        assert!(error.kind == Kind::Unavailable && error.retry_after_ms.is_some(), "{error}");
        assert_eq!(upgraded.require(4).unwrap_err().kind, Kind::Unsupported);
        upgraded.nodes.insert(NodeId(102), member(102, 2));
        assert_eq!(upgraded.require(3).unwrap_err().kind, Kind::Unsupported, "one is left");
    }
}
