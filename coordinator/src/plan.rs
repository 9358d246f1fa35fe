//! What the leader does next. Pure: catalog + health + moment -> commands, each of which is done when applied, so that planning
//! again from the result asks for nothing twice.

use crate::catalog::{Attempt, Command, State, has_room, is_job_over, may_queue, old};
use crate::health::Health;
use crate::moves;
use docent_types::catalog::{Catalog, Cluster, Job, JobState, Model, ModelState, Shard};
use docent_types::schedule::Scheduled;
use docent_types::study::Studied;
use docent_types::{NodeId, ShardId};
use std::time::Duration;

/// After this many stage time-outs a version that is still not on enough replicas is given up.
const STAGE_TIMEOUTS_MAX: u32 = 10;

/// What the settings say about planning.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// This coordinator.
    pub me: NodeId,
    /// The identity that a new cluster gets; the id and the key were drawn by this process.
    pub birth: Cluster,
    /// Where the coordinators are.
    pub coordinators: Vec<(NodeId, String)>,
    /// The highest record format of this binary.
    pub format: u32,
    /// Silence after which a member counts as dead.
    pub node_timeout: Duration,
    /// Wait for the last replicas to stage a version.
    pub stage_timeout: Duration,
    /// Pause before a failed job's next attempt.
    pub job_retry: Duration,
    /// Silence after which a running attempt has failed.
    pub job_stall: Duration,
    /// Staged versions that stay beside the live one.
    pub staged_models_max: u32,
    /// Records of retired and failed versions that stay.
    pub model_records_max: u32,
    /// Shards whose replicas change at the same time.
    pub moves_at_once: usize,
    /// A node that is dead for so long is given up: its replicas are made anew on others.
    pub repair_after: Duration,
    /// Whether replicas move only to even the load.
    pub auto_balance: bool,
    /// Whether the cluster's format rises as soon as every member understands a higher one.
    pub auto_finalize: bool,
}

/// A moment: by the monotonic clock of this process, and by its wall clock, on which only schedules go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What health is measured against.
    pub monotonic: Duration,
    /// Milliseconds since 1970.
    pub wall_ms: i64,
}

/// The commands that are due at a moment, in order.
pub fn next(policy: &Policy, state: &State, health: &Health, moment: Moment) -> Vec<Command> {
    let now = moment.monotonic;
    let catalog = state.catalog();
    if catalog.cluster.is_none() {
        return vec![Command::Birth(policy.birth.clone())];
    }
    let mut due = Vec::new();
    due.extend(coordinators(policy, catalog));
    due.extend(finalize(policy, catalog));
    due.extend(liveness(policy, catalog, health, now));
    due.extend(placement(catalog));
    due.extend(moves::due(policy, catalog, health, now));
    due.extend(schedules(catalog, health, moment.wall_ms));
    due.extend(studies(catalog, moment.wall_ms));
    due.extend(jobs(policy, catalog, health, now));
    due.extend(models(policy, state, health, now));
    if !old(catalog, policy.staged_models_max, policy.model_records_max).is_empty() {
        let (staged_max, records_max) = (policy.staged_models_max, policy.model_records_max);
        due.push(Command::RetireOld { staged_max, records_max });
    }
    // One that some coordinator does not know would end that coordinator.
    due.retain(|command| command.check(catalog).is_ok());
    due
}

/// The highest format that everybody understands, this binary included, where that is higher than the cluster's. A member that is away
/// counts as it was heard last: it has to be upgraded too, or removed.
fn finalize(policy: &Policy, catalog: &Catalog) -> Option<Command> {
    let members = catalog.coordinators.values().chain(catalog.nodes.values());
    let lowest = members.map(|member| member.format).min()?.min(policy.format);
    let is_due = policy.auto_finalize && lowest > catalog.format() && !catalog.coordinators.is_empty();
    is_due.then_some(Command::Finalize(lowest))
}

fn coordinators(policy: &Policy, catalog: &Catalog) -> Option<Command> {
    let known = catalog.coordinators.values().map(|member| (member.id, member.internal_addr.as_str()));
    let is_known = known.eq(policy.coordinators.iter().map(|(id, addr)| (*id, addr.as_str())))
        && catalog.coordinators.get(&policy.me).is_some_and(|me| me.format == policy.format);
    (!is_known).then(|| Command::RegisterCoordinators {
        members: policy.coordinators.clone(),
        by: policy.me,
        format: policy.format,
    })
}

fn liveness(policy: &Policy, catalog: &Catalog, health: &Health, now: Duration) -> Option<Command> {
    let members = catalog.coordinators.values().chain(catalog.nodes.values());
    let changes = members.filter_map(|member| {
        let is_alive = member.id == policy.me
            || health.silent_for(member.id, now) <= policy.node_timeout
                && (member.is_alive || health.has_heard(member.id));
        (is_alive != member.is_alive).then_some((member.id, is_alive))
    });
    let changes: Vec<_> = changes.collect();
    (!changes.is_empty()).then_some(Command::SetAlive(changes))
}

fn placement(catalog: &Catalog) -> Option<Command> {
    let wanted = catalog.cluster.as_ref().map_or(0, |cluster| usize::from(cluster.expect_nodes.max(1)));
    (catalog.shards.is_empty() && alive(catalog).count() >= wanted).then_some(Command::PlaceShards)
}

fn alive(catalog: &Catalog) -> impl Iterator<Item = NodeId> + '_ {
    catalog.nodes.values().filter(|node| node.is_alive).map(|node| node.id)
}

fn is_alive(catalog: &Catalog, node: NodeId) -> bool {
    catalog.nodes.get(&node).is_some_and(|node| node.is_alive)
}

/// The next job of every schedule that is due and whose last job is over.
fn schedules(catalog: &Catalog, health: &Health, now_ms: i64) -> impl Iterator<Item = Command> {
    let events = health.events(catalog);
    let is_due = move |scheduled: &&Scheduled| may_queue(catalog, scheduled) && scheduled.is_due(now_ms, events);
    catalog.schedules.values().filter(is_due).map(move |scheduled| Command::QueueScheduled {
        name: scheduled.schedule.name.clone(),
        run: scheduled.runs + 1,
        now_ms,
        events,
    })
}

/// What each study does next: ends the trial whose job is over, begins another one, or queues the job with the best settings.
fn studies(catalog: &Catalog, now_ms: i64) -> impl Iterator<Item = Command> {
    let next = move |studied: &Studied| {
        let (name, trial) = (studied.study.name.clone(), studied.trials.len() as u32);
        if let Some(open) = studied.trials.iter().position(|trial| !trial.is_over) {
            let is_over = is_job_over(catalog, studied.trials[open].job);
            return is_over.then_some(Command::EndTrial { name, trial: open as u32 });
        }
        let values = match studied.trials.len() < studied.study.trials as usize {
            true => studied.draw(),
            false => studied.best()?.values.clone(),
        };
        (has_room(catalog) && !studied.is_over()).then_some(Command::BeginTrial { name, trial, values, now_ms })
    };
    catalog.studies.values().filter_map(next)
}

/// The running job goes first: it is taken from a dead or silent driver. Without one the oldest waiting job starts.
fn jobs(policy: &Policy, catalog: &Catalog, health: &Health, now: Duration) -> Option<Command> {
    let assign = |job: &Job| {
        let driver = alive(catalog).next()?;
        Some(Command::AssignJob { job: job.id, epoch: job.epoch + 1, driver })
    };
    if let Some(job) = catalog.jobs.values().find(|job| job.state == JobState::Running) {
        let driver = job.driver.filter(|&driver| is_alive(catalog, driver));
        let Some(driver) = driver else { return assign(job) };
        let silent = health.unchanged_for(job, now);
        return (silent > policy.job_stall).then(|| Command::JobFailed {
            attempt: Attempt { job: job.id, epoch: job.epoch, driver },
            error: format!("no progress for {} s", silent.as_secs()),
            is_retryable: true,
        });
    }
    let is_due = |job: &&Job| job.epoch == 0 || health.unchanged_for(job, now) >= policy.job_retry;
    let mut waiting = catalog.jobs.values().filter(|job| job.state == JobState::Queued);
    waiting.find(is_due).and_then(assign)
}

fn models(policy: &Policy, state: &State, health: &Health, now: Duration) -> Vec<Command> {
    let catalog = state.catalog();
    let validated = catalog.models.values().filter(|model| model.state == ModelState::Validated);
    let staged = validated.filter_map(|model| stage(policy, state, model, health.validated_for(model.version, now)));
    let is_wished =
        |model: &&Model| model.state == ModelState::Staged && model.activate && catalog.held_back(model).is_none();
    let activate = catalog.models.values().rfind(is_wished).map(|model| Command::Activate(model.version));
    staged.chain(activate).collect()
}

/// A version is staged when every alive replica of every shard has it, or after a time-out at least two of each shard (one where
/// there is one). It fails when refusals make that impossible, or when it takes too long altogether.
fn stage(policy: &Policy, state: &State, model: &Model, waits: Duration) -> Option<Command> {
    let catalog = state.catalog();
    if catalog.shards.is_empty() {
        return None;
    }
    let refused: Vec<(NodeId, &str)> = state.refused(model.version).collect();
    let has_refused = |node: NodeId| refused.iter().find(|(other, _)| *other == node);
    let mut is_everywhere = true;
    let mut is_enough = true;
    for shard in catalog.shards.values() {
        let floor = shard.replicas.len().min(2);
        let willing = shard.replicas.iter().filter(|replica| has_refused(replica.node).is_none()).count();
        if willing < floor {
            return Some(fail(model, shard.id, shard.replicas.iter().find_map(|replica| has_refused(replica.node))));
        }
        let (alive, staged) = replicas(catalog, model, shard);
        is_everywhere &= staged >= floor && staged == alive;
        is_enough &= staged >= floor;
    }
    if is_everywhere || is_enough && waits > policy.stage_timeout {
        return Some(Command::Stage(model.version));
    }
    let error = || format!("not on enough replicas after {} s; train again when the nodes are well", waits.as_secs());
    (waits > policy.stage_timeout * STAGE_TIMEOUTS_MAX)
        .then(|| Command::FailModel { version: model.version, error: error() })
}

/// Replicas of a shard on alive nodes, and how many of those staged the version.
fn replicas(catalog: &Catalog, model: &Model, shard: &Shard) -> (usize, usize) {
    let alive = shard.replicas.iter().filter(|replica| is_alive(catalog, replica.node));
    let staged = alive.clone().filter(|replica| model.staged.contains(&(shard.id, replica.node)));
    (alive.count(), staged.count())
}

fn fail(model: &Model, shard: ShardId, refusal: Option<&(NodeId, &str)>) -> Command {
    let why = refusal.map_or(String::new(), |(node, error)| format!(": node {node}: {error}"));
    Command::FailModel { version: model.version, error: format!("too many replicas of shard {shard} refused it{why}") }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(crate) mod tests;
