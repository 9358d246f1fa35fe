//! What the leader has seen since it leads: who spoke when, and since when things wait. Pure: every moment is given.
//!
//! Never replicated: a new leader starts with nobody heard and gives everybody a whole time-out.

use docent_proto::internal::coordinator::{Condition, Membership, ReplicaReport};
use docent_types::catalog::{Catalog, Job, JobProgress, JobState, ModelState};
use docent_types::{Keyspace, NodeId, ReplicaId, ShardId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Since when the leader knows what. Moments are of its monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Health {
    leading_since: Duration,
    heard: BTreeMap<NodeId, Duration>,
    jobs: BTreeMap<u64, (Stage, Duration)>,
    validated: BTreeMap<u64, Duration>,
    dead: BTreeMap<NodeId, Duration>,
    replicas: BTreeMap<NodeId, Vec<ReplicaReport>>,
    events: BTreeMap<ShardId, u64>,
}

/// What changes while a job is not stuck.
#[derive(Clone, Debug, PartialEq)]
struct Stage {
    state: JobState,
    epoch: u64,
    progress: Option<JobProgress>,
}

impl Health {
    /// Nothing seen yet by a leader since `now`.
    pub fn new(now: Duration) -> Health {
        Health { leading_since: now, ..Health::default() }
    }

    /// A member spoke.
    pub fn hear(&mut self, member: NodeId, now: Duration) {
        let heard = self.heard.entry(member).or_default();
        *heard = now.max(*heard);
    }

    /// What a node said of all its replicas.
    pub fn report(&mut self, node: NodeId, replicas: Vec<ReplicaReport>) {
        self.replicas.insert(node, replicas);
    }

    /// How many events the items of a shard have, as its leader said.
    pub fn count(&mut self, shard: ShardId, events: u64) {
        self.events.insert(shard, events);
    }

    /// Notes what is new in the catalog and forgets what is gone.
    pub fn observe(&mut self, catalog: &Catalog, now: Duration) {
        self.heard.retain(|member, _| catalog.member(*member).is_some());
        self.replicas.retain(|node, _| catalog.nodes.get(node).is_some_and(|node| node.is_alive));
        self.dead.retain(|node, _| catalog.nodes.get(node).is_some_and(|node| !node.is_alive));
        for node in catalog.nodes.values().filter(|node| !node.is_alive) {
            self.dead.entry(node.id).or_insert(now);
        }
        self.jobs.retain(|id, _| catalog.jobs.contains_key(id));
        for job in catalog.jobs.values().filter(|job| matches!(job.state, JobState::Queued | JobState::Running)) {
            let stage = Stage { state: job.state, epoch: job.epoch, progress: job.progress.clone() };
            let (known, since) = self.jobs.entry(job.id).or_insert_with(|| (stage.clone(), now));
            if *known != stage {
                (*known, *since) = (stage, now);
            }
        }
        let is_validated =
            |version: &u64| catalog.models.get(version).is_some_and(|model| model.state == ModelState::Validated);
        self.validated.retain(|version, _| is_validated(version));
        for version in catalog.models.keys().filter(|version| is_validated(version)) {
            self.validated.entry(*version).or_insert(now);
        }
    }

    /// How long nothing was heard of a member; a member never heard counts from when the leader began to lead.
    pub(crate) fn silent_for(&self, member: NodeId, now: Duration) -> Duration {
        now.saturating_sub(self.heard.get(&member).copied().unwrap_or(self.leading_since))
    }

    /// Whether anything was ever heard of a member.
    pub(crate) fn has_heard(&self, member: NodeId) -> bool {
        self.heard.contains_key(&member)
    }

    /// How long a node counts as dead, as far as this leader has seen.
    pub(crate) fn dead_for(&self, node: NodeId, now: Duration) -> Duration {
        self.dead.get(&node).map_or(Duration::ZERO, |since| now.saturating_sub(*since))
    }

    /// The membership of a group by its leader: of two that claim to lead, by the one of the higher term.
    pub(crate) fn membership(&self, shard: ShardId) -> Option<&Membership> {
        let led = self.replicas.values().flatten().filter_map(|report| match &report.condition {
            Condition::Leads(membership) if report.shard == shard => Some(membership),
            _ => None,
        });
        led.max_by_key(|membership| (membership.term, membership.index))
    }

    /// The events of all items, once the leader of every shard of items has said its own.
    pub(crate) fn events(&self, catalog: &Catalog) -> Option<u64> {
        catalog.shards_of(Keyspace::Items).map(|shard| self.events.get(&shard.id)).sum()
    }

    /// Whether a replica was reported as lost.
    pub(crate) fn is_lost(&self, replica: ReplicaId) -> bool {
        let is_lost =
            |report: &ReplicaReport| report.replica == replica && matches!(report.condition, Condition::Lost(_));
        self.replicas.values().flatten().any(is_lost)
    }

    /// How long a job stands where it is.
    pub(crate) fn unchanged_for(&self, job: &Job, now: Duration) -> Duration {
        self.jobs.get(&job.id).map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since))
    }

    /// How long a version waits to be staged.
    pub(crate) fn validated_for(&self, version: u64, now: Duration) -> Duration {
        self.validated.get(&version).map_or(Duration::ZERO, |since| now.saturating_sub(*since))
    }
}
