//! Members, shards, models, jobs, schedules and training settings.

use super::keyspace_name;
use crate::v1;
use docent_types::catalog::{
    Activation, Job, JobProgress, JobState, Member, Model, ModelPart, ModelState, Shard, Step,
};
use docent_types::placement::{PlacementChange, PlannedMove};
use docent_types::schedule::{Schedule, Scheduled};
use docent_types::training::{GivenSettings, TrainSettings};
use docent_types::{Error, NodeId, Result};

impl From<&Member> for v1::Member {
    fn from(member: &Member) -> v1::Member {
        v1::Member {
            id: member.id.0,
            internal_addr: member.internal_addr.clone(),
            query_addr: member.query_addr.clone(),
            zone: member.zone.clone(),
            is_alive: member.is_alive,
            state: match member.query_addr.is_empty() {
                true => String::new(),
                false => member.state.name().to_owned(),
            },
            format: member.format,
        }
    }
}

/// The replica of a shard that is on its way.
fn under_way(shard: &Shard) -> Option<v1::ReplicaMove> {
    let change = shard.change?;
    let from = shard.replicas.iter().find(|replica| Some(replica.id) == change.old);
    Some(v1::ReplicaMove {
        shard: shard.id.to_string(),
        from: from.map_or(0, |from| from.node.0),
        to: change.new.node.0,
        cause: change.cause.name().to_owned(),
        is_cancelled: change.is_cancelled,
    })
}

impl From<PlannedMove> for v1::ReplicaMove {
    fn from(planned: PlannedMove) -> v1::ReplicaMove {
        v1::ReplicaMove {
            shard: planned.shard.to_string(),
            from: planned.from.unwrap_or_default().0,
            to: planned.to.0,
            cause: planned.cause.name().to_owned(),
            is_cancelled: false,
        }
    }
}

/// What a client asks of the placement.
///
/// # Errors
/// `Invalid` naming the field.
pub fn placement_change(request: v1::ChangePlacementRequest) -> Result<PlacementChange> {
    use v1::change_placement_request::Change;
    let change = request
        .change
        .ok_or_else(|| Error::invalid("change", "say what to change: drain, resume, remove, move or cancel"))?;
    Ok(match change {
        Change::Drain(node) => PlacementChange::Drain(NodeId(node)),
        Change::Resume(node) => PlacementChange::Resume(NodeId(node)),
        Change::Remove(node) => PlacementChange::Remove(NodeId(node)),
        Change::Cancel(shard) => PlacementChange::Cancel(shard.parse()?),
        Change::Move(v1::MoveReplica { shard, from, to }) => {
            PlacementChange::Move { shard: shard.parse()?, from: NodeId(from), to: NodeId(to) }
        }
    })
}

/// A shard with its leader, where the answering node knows it.
pub fn shard(shard: &Shard, leader: Option<NodeId>) -> v1::Shard {
    v1::Shard {
        id: shard.id.to_string(),
        slot_first: shard.slots.first.into(),
        slot_end: shard.slots.end.into(),
        nodes: shard.replicas.iter().map(|replica| replica.node.0).collect(),
        leader: leader.unwrap_or_default().0,
        r#move: under_way(shard),
        replicas: shard.replicas.iter().map(|replica| v1::Replica { id: replica.id.0, node: replica.node.0 }).collect(),
    }
}

/// The wire's name of a model's state.
pub fn model_state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Validated => "validated",
        ModelState::Staged => "staged",
        ModelState::Live => "live",
        ModelState::Retired => "retired",
        ModelState::Failed => "failed",
    }
}

/// The wire's name of a job's state.
pub fn job_state_name(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

impl From<&ModelPart> for v1::ModelPart {
    fn from(part: &ModelPart) -> v1::ModelPart {
        v1::ModelPart {
            keyspace: keyspace_name(part.keyspace).to_owned(),
            slot_first: part.slots.first.into(),
            slot_end: part.slots.end.into(),
            hash: part.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            bytes: part.bytes,
        }
    }
}

impl From<&Model> for v1::Model {
    fn from(model: &Model) -> v1::Model {
        v1::Model {
            version: model.version,
            state: model_state_name(model.state).to_owned(),
            job: model.job,
            settings: Some((&model.settings).into()),
            metrics: model.metrics.clone(),
            created_ms: model.created_ms,
            parts: model.parts.iter().map(Into::into).collect(),
            global: Some((&model.global).into()),
            error: model.error.clone().unwrap_or_default(),
            parent: model.parent.unwrap_or_default(),
            // Known to whoever has the catalog.
            held_back: String::new(),
        }
    }
}

impl From<Activation> for v1::ActivateModelResponse {
    fn from(activation: Activation) -> v1::ActivateModelResponse {
        v1::ActivateModelResponse { version: activation.version, epoch: activation.epoch }
    }
}

impl From<GivenSettings> for v1::TrainSettings {
    fn from(given: GivenSettings) -> v1::TrainSettings {
        v1::TrainSettings {
            algorithm: given.algorithm,
            blend_with: given.blend_with,
            dim: given.dim,
            epochs: given.epochs,
            unobserved_weight: given.unobserved_weight,
            regularization: given.regularization,
            frequency_scaling: given.frequency_scaling,
            user_exponent: given.user_exponent,
            source_exponent: given.source_exponent,
            target_exponent: given.target_exponent,
            source_mass_exponent: given.source_mass_exponent,
            target_mass_exponent: given.target_mass_exponent,
            idf_power: given.idf_power,
            item_norm: given.item_norm,
            length_share: given.length_share,
            power: given.power,
            neighbours: given.neighbours,
            batch: given.batch,
            negatives: given.negatives,
            temperature: given.temperature,
            folds: given.folds,
            learning_rate: given.learning_rate,
            popularity_exponent: given.popularity_exponent,
            uniform_share: given.uniform_share,
            popularity_bias: given.popularity_bias,
            loss: given.loss,
            staleness: given.staleness,
            row_precision: given.row_precision,
            warm_epochs: given.warm_epochs,
            warm_from: given.warm_from,
            user_hidden: given.user_hidden,
            item_hidden: given.item_hidden,
            dense_rate: given.dense_rate,
            seed: given.seed,
            holdout: given.holdout,
            split: given.split,
            min_positives: given.min_positives,
            items_max: given.items_max,
            refit: given.refit,
            activate: given.activate,
        }
    }
}

impl From<v1::TrainSettings> for GivenSettings {
    fn from(given: v1::TrainSettings) -> GivenSettings {
        GivenSettings {
            algorithm: given.algorithm,
            blend_with: given.blend_with,
            dim: given.dim,
            epochs: given.epochs,
            unobserved_weight: given.unobserved_weight,
            regularization: given.regularization,
            frequency_scaling: given.frequency_scaling,
            user_exponent: given.user_exponent,
            source_exponent: given.source_exponent,
            target_exponent: given.target_exponent,
            source_mass_exponent: given.source_mass_exponent,
            target_mass_exponent: given.target_mass_exponent,
            idf_power: given.idf_power,
            item_norm: given.item_norm,
            length_share: given.length_share,
            power: given.power,
            neighbours: given.neighbours,
            batch: given.batch,
            negatives: given.negatives,
            temperature: given.temperature,
            folds: given.folds,
            learning_rate: given.learning_rate,
            popularity_exponent: given.popularity_exponent,
            uniform_share: given.uniform_share,
            popularity_bias: given.popularity_bias,
            loss: given.loss,
            staleness: given.staleness,
            row_precision: given.row_precision,
            warm_epochs: given.warm_epochs,
            warm_from: given.warm_from,
            user_hidden: given.user_hidden,
            item_hidden: given.item_hidden,
            dense_rate: given.dense_rate,
            seed: given.seed,
            holdout: given.holdout,
            split: given.split,
            min_positives: given.min_positives,
            items_max: given.items_max,
            refit: given.refit,
            activate: given.activate,
        }
    }
}

impl From<&TrainSettings> for v1::TrainSettings {
    fn from(settings: &TrainSettings) -> v1::TrainSettings {
        GivenSettings::from(settings).into()
    }
}

impl From<&JobProgress> for v1::JobProgress {
    fn from(progress: &JobProgress) -> v1::JobProgress {
        v1::JobProgress {
            phase: progress.phase.clone(),
            epoch: progress.epoch,
            epochs: progress.epochs,
            loss: progress.loss,
            seconds: progress.seconds,
            bytes: progress.bytes,
        }
    }
}

impl From<&Job> for v1::Job {
    fn from(job: &Job) -> v1::Job {
        v1::Job {
            id: job.id,
            state: job_state_name(job.state).to_owned(),
            settings: Some((&job.settings).into()),
            attempt: job.epoch,
            driver: job.driver.unwrap_or_default().0,
            progress: job.progress.as_ref().map(Into::into),
            error: job.error.clone().unwrap_or_default(),
            version: job.version.unwrap_or_default(),
            created_ms: job.created_ms,
            course: Vec::new(),
        }
    }
}

/// A job with its course.
pub fn job((job, course): &(Job, Vec<Step>)) -> v1::Job {
    v1::Job { course: course.iter().map(Into::into).collect(), ..job.into() }
}

impl From<&Step> for v1::JobStep {
    fn from(step: &Step) -> v1::JobStep {
        v1::JobStep { progress: Some((&step.progress).into()), waited_seconds: step.waited_seconds, hosts: step.hosts }
    }
}

impl TryFrom<v1::Schedule> for Schedule {
    type Error = Error;

    fn try_from(given: v1::Schedule) -> Result<Schedule> {
        let settings = GivenSettings::from(given.settings.unwrap_or_default()).settings()?;
        Ok(Schedule { name: given.name, settings, every_ms: given.every_ms, after_events: given.after_events })
    }
}

impl From<&Scheduled> for v1::Schedule {
    fn from(scheduled: &Scheduled) -> v1::Schedule {
        let schedule = &scheduled.schedule;
        v1::Schedule {
            name: schedule.name.clone(),
            settings: Some((&schedule.settings).into()),
            every_ms: schedule.every_ms,
            after_events: schedule.after_events,
            runs: scheduled.runs,
            last_job: scheduled.last_job.unwrap_or_default(),
            since_ms: scheduled.since_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_from_the_wire() {
        let sent = v1::TrainSettings { algorithm: Some("graph".into()), neighbours: Some(7), ..Default::default() };
        let settings = GivenSettings::from(sent).settings().unwrap();
        assert_eq!(GivenSettings::from(v1::TrainSettings::from(&settings)).settings().unwrap(), settings);
    }
}
