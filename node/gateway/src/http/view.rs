//! Answers as JSON. Names are those of `docent.v1`; absent stays absent.

use super::problem;
use crate::admin::ClusterStatus;
use crate::events;
use docent_proto::convert::catalog::{job_state_name, model_state_name};
use docent_proto::convert::query::source_name;
use docent_proto::convert::{keyspace_name, position_text};
use docent_types::catalog::{self, JobProgress};
use docent_types::placement::{Cause, NodeState, PlannedMove};
use docent_types::training::TrainSettings;
use docent_types::{ItemId, query};
use serde::Serialize;
use std::collections::BTreeMap;

/// `{}`.
#[derive(Serialize)]
pub(crate) struct Done {}

/// A block list.
#[derive(Serialize)]
pub(crate) struct Blocks {
    pub(crate) item_ids: Vec<ItemId>,
}

/// Results of a batch of events, in order.
#[derive(Serialize)]
pub(crate) struct EventResults {
    results: Vec<EventResult>,
}

#[derive(Serialize)]
struct EventResult {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<problem::View>,
}

impl From<Vec<events::EventResult>> for EventResults {
    fn from(results: Vec<events::EventResult>) -> EventResults {
        let result = |result: events::EventResult| EventResult {
            outcome: result.outcome.name(),
            position: result.position.map(position_text),
            error: result.outcome.error().cloned().map(Into::into),
        };
        EventResults { results: results.into_iter().map(result).collect() }
    }
}

/// An item's metadata.
#[derive(Serialize)]
pub(crate) struct Item {
    item_id: ItemId,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    categories: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<String>,
    attributes: BTreeMap<String, String>,
}

impl From<docent_types::item::Item> for Item {
    fn from(item: docent_types::item::Item) -> Item {
        // Out of jiff's range (years -9999 to 9999) is left out rather than refused: it is metadata.
        let published =
            item.published_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).map(|at| at.to_string());
        let docent_types::item::Item { item_id, title, categories, description, attributes, .. } = item;
        Item { item_id, title, categories, description, published, attributes }
    }
}

/// An item as its shard keeps it.
#[derive(Serialize)]
pub(crate) struct ItemState {
    #[serde(flatten)]
    item: Item,
    is_taken_down: bool,
    events: u64,
}

impl From<docent_types::item::ItemState> for ItemState {
    fn from(state: docent_types::item::ItemState) -> ItemState {
        ItemState { item: state.item.into(), is_taken_down: state.is_taken_down, events: state.events }
    }
}

/// An answer to a query.
#[derive(Serialize)]
pub(crate) struct Answer {
    recommendation_id: String,
    items: Vec<Recommended>,
    model: Model,
    coverage: Coverage,
    session: String,
    took_ms: f32,
}

#[derive(Serialize)]
struct Recommended {
    id: ItemId,
    score: f32,
    source: &'static str,
    reasons: Vec<query::Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<Item>,
}

#[derive(Serialize)]
struct Model {
    version: u64,
}

#[derive(Serialize)]
struct Coverage {
    asked: u32,
    answered: u32,
    items: u64,
    degraded: Vec<Degraded>,
}

#[derive(Serialize)]
struct Degraded {
    what: &'static str,
    shard: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u64>,
}

impl From<query::Degraded> for Degraded {
    fn from(degraded: query::Degraded) -> Degraded {
        let (what, shard, node) = match degraded {
            query::Degraded::MissingShard { shard } => ("missing_shard", shard, None),
            query::Degraded::UserState { shard } => ("user_state", shard, None),
            query::Degraded::StaleItems { shard, node } => ("stale_items", shard, Some(node.0)),
        };
        Degraded { what, shard: shard.to_string(), node }
    }
}

impl From<query::Answer> for Answer {
    fn from(answer: query::Answer) -> Answer {
        let recommended = |item: query::RecommendedItem| Recommended {
            id: item.item_id,
            score: item.score,
            source: source_name(item.source),
            reasons: item.reasons,
            item: item.item.map(Into::into),
        };
        let query::Coverage { asked, answered, items, degraded } = answer.coverage;
        Answer {
            recommendation_id: answer.recommendation_id,
            items: answer.items.into_iter().map(recommended).collect(),
            model: Model { version: answer.model.version },
            coverage: Coverage { asked, answered, items, degraded: degraded.into_iter().map(Into::into).collect() },
            session: answer.session,
            took_ms: answer.took_ms,
        }
    }
}

/// The cluster as one node sees it.
#[derive(Serialize)]
pub(crate) struct Cluster {
    cluster_id: Option<String>,
    node: u64,
    is_ready: bool,
    live_version: u64,
    replication: u8,
    catalog_index: u64,
    format: u32,
    coordinators: Vec<Member>,
    nodes: Vec<Member>,
    shards: Vec<Shard>,
}

#[derive(Serialize)]
struct Member {
    id: u64,
    internal_addr: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    query_addr: String,
    zone: String,
    is_alive: bool,
    format: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<NodeState>,
}

/// A replica on its way, or in a plan.
#[derive(Serialize)]
pub(crate) struct Move {
    shard: String,
    from: Option<u64>,
    to: u64,
    cause: Cause,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_cancelled: bool,
}

impl From<PlannedMove> for Move {
    fn from(planned: PlannedMove) -> Move {
        Move {
            shard: planned.shard.to_string(),
            from: planned.from.map(|from| from.0),
            to: planned.to.0,
            cause: planned.cause,
            is_cancelled: false,
        }
    }
}

/// The moves that a change of the placement leads to.
#[derive(Serialize)]
pub(crate) struct Moves {
    pub(crate) moves: Vec<Move>,
    pub(crate) dry_run: bool,
}

fn under_way(shard: &catalog::Shard) -> Option<Move> {
    let change = shard.change?;
    let from = shard.replicas.iter().find(|replica| Some(replica.id) == change.old);
    Some(Move {
        shard: shard.id.to_string(),
        from: from.map(|from| from.node.0),
        to: change.new.node.0,
        cause: change.cause,
        is_cancelled: change.is_cancelled,
    })
}

#[derive(Serialize)]
struct Shard {
    id: String,
    slot_first: u16,
    slot_end: u16,
    nodes: Vec<u64>,
    leader: Option<u64>,
    #[serde(rename = "move", skip_serializing_if = "Option::is_none")]
    under_way: Option<Move>,
    replicas: Vec<catalog::Replica>,
}

impl From<ClusterStatus> for Cluster {
    fn from(status: ClusterStatus) -> Cluster {
        let catalog = &status.catalog;
        let member = |member: &catalog::Member| Member {
            id: member.id.0,
            internal_addr: member.internal_addr.clone(),
            query_addr: member.query_addr.clone(),
            zone: member.zone.clone(),
            is_alive: member.is_alive,
            format: member.format,
            state: (!member.query_addr.is_empty()).then_some(member.state),
        };
        let shard = |shard: &catalog::Shard| Shard {
            id: shard.id.to_string(),
            slot_first: shard.slots.first,
            slot_end: shard.slots.end,
            nodes: shard.replicas.iter().map(|replica| replica.node.0).collect(),
            leader: status.leaders.get(&shard.id).map(|node| node.0),
            under_way: under_way(shard),
            replicas: shard.replicas.clone(),
        };
        Cluster {
            cluster_id: catalog.cluster.as_ref().map(|cluster| cluster.id.to_string()),
            node: status.node.0,
            is_ready: status.is_ready,
            live_version: catalog.live.map_or(0, |live| live.version),
            replication: catalog.cluster.as_ref().map_or(0, |cluster| cluster.replication),
            catalog_index: catalog.index,
            format: catalog.format(),
            coordinators: catalog.coordinators.values().map(member).collect(),
            nodes: catalog.nodes.values().map(member).collect(),
            shards: catalog.shards.values().map(shard).collect(),
        }
    }
}

/// All models.
#[derive(Serialize)]
pub(crate) struct Models {
    pub(crate) models: Vec<RegisteredModel>,
}

/// A model of the registry.
#[derive(Serialize)]
pub(crate) struct RegisteredModel {
    version: u64,
    state: &'static str,
    job: u64,
    settings: TrainSettings,
    metrics: BTreeMap<String, f64>,
    created_ms: i64,
    parts: Vec<Part>,
    global: Part,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_back: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Part {
    keyspace: &'static str,
    slot_first: u16,
    slot_end: u16,
    hash: String,
    bytes: u64,
}

impl From<(catalog::Model, Option<String>)> for RegisteredModel {
    fn from((model, held_back): (catalog::Model, Option<String>)) -> RegisteredModel {
        let part = |part: &catalog::ModelPart| Part {
            keyspace: keyspace_name(part.keyspace),
            slot_first: part.slots.first,
            slot_end: part.slots.end,
            hash: part.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            bytes: part.bytes,
        };
        RegisteredModel {
            version: model.version,
            state: model_state_name(model.state),
            job: model.job,
            parts: model.parts.iter().map(part).collect(),
            global: part(&model.global),
            settings: model.settings,
            metrics: model.metrics,
            created_ms: model.created_ms,
            parent: model.parent,
            held_back,
            error: model.error,
        }
    }
}

/// A step of a job's course.
#[derive(Serialize)]
pub(crate) struct Step {
    #[serde(flatten)]
    progress: JobProgress,
    waited_seconds: f64,
    hosts: u32,
}

impl From<catalog::Step> for Step {
    fn from(step: catalog::Step) -> Step {
        Step { progress: step.progress, waited_seconds: step.waited_seconds, hosts: step.hosts }
    }
}

/// All jobs.
#[derive(Serialize)]
pub(crate) struct Jobs {
    pub(crate) jobs: Vec<Job>,
}

/// A training job.
#[derive(Serialize)]
pub(crate) struct Job {
    id: u64,
    state: &'static str,
    settings: TrainSettings,
    attempt: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<JobProgress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    created_ms: i64,
    /// Of the latest jobs: the last progress told of each phase and epoch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    course: Vec<Step>,
}

impl From<(catalog::Job, Vec<catalog::Step>)> for Job {
    fn from((job, course): (catalog::Job, Vec<catalog::Step>)) -> Job {
        Job { course: course.into_iter().map(Into::into).collect(), ..job.into() }
    }
}

impl From<catalog::Job> for Job {
    fn from(job: catalog::Job) -> Job {
        Job {
            id: job.id,
            state: job_state_name(job.state),
            settings: job.settings,
            attempt: job.epoch,
            driver: job.driver.map(|node| node.0),
            progress: job.progress,
            error: job.error,
            version: job.version,
            created_ms: job.created_ms,
            course: Vec::new(),
        }
    }
}
