//! The runner: a scenario on a cluster of real processes, from the first event to the verdicts.
//!
//! Phases: baseline, chaos under load, heal, converge, audit. The world does the faults; clients and watchers are threads here; everything
//! is written on one tape, and what is judged is only what is on it.
//!
//! | module | owns |
//! |---|---|
//! | [`stage`] | what is asked of a world of real processes |
//! | [`gates`] | the nodes that clients use, and when which of them was in trouble |
//! | [`tape`] | the history while it grows |
//! | [`view`], [`watch`] | the cluster as its nodes tell it; looking at it all the time |
//! | [`phases`] | carrying out a schedule, healing, waiting until everything came back |
//! | [`audit`] | what is there in the end |
//! | [`figures`] | what a report tells: times, rates, curves |

pub mod audit;
pub mod figures;
pub mod gates;
mod phases;
pub mod stage;
pub mod tape;
pub mod view;
pub mod watch;

use crate::workload::Clients;
use anyhow::{Context, Result, bail, ensure};
use docent_trial::check::{Checker, Judgement, judge};
use docent_trial::history::{FORMAT, Header, Observed};
use docent_trial::{Fault, Group, History, Layer, Phase, Scenario, Target, WorldKind};
use figures::Figures;
use gates::Gates;
use phases::Run;
use serde::Serialize;
use stage::Stage;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tape::Tape;
use view::View;
use watch::Watch;

/// Events of each user before the baseline.
const SOWN: u32 = 8;

/// How a scenario is run.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Of the schedule and the load.
    pub seed: u64,
    /// Where the history is written while it grows.
    pub history: Option<&'a Path>,
    /// Stands before every id that clients write; empty where the cluster is the run's own.
    pub prefix: &'a str,
    /// Somebody wants the run to end: it heals and tells no verdict.
    pub is_cancelled: &'a AtomicBool,
    /// Prints what happens.
    pub is_loud: bool,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    pub shows: String,
    /// Where it ran.
    pub world: WorldKind,
    /// Of the schedule and the load.
    pub seed: u64,
    /// Whether every judge that was asked passed it.
    pub is_passed: bool,
    /// What they said.
    pub judgement: Judgement,
    /// What a report tells.
    pub figures: Figures,
    /// Everything that happened.
    #[serde(skip)]
    pub history: History,
}

/// Runs a scenario; the cluster is healed whatever happens.
///
/// # Errors
/// The run could not be carried out, or was cancelled: there is no verdict.
pub fn run(stage: &mut dyn Stage, scenario: &Scenario, options: &Options<'_>) -> Result<Trial> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| record(stage, scenario, options)));
    let (history, is_healed) = match outcome {
        Ok(Ok(history)) => (Ok(history), true),
        Ok(Err(error)) => (Err(error), false),
        Err(_) => (Err(anyhow::anyhow!("the runner panicked")), false),
    };
    if !is_healed {
        let healed = stage.apply(&Fault::Heal { on: Target::All, layer: Layer::Everything }, options.seed);
        eprintln!("the run has ended early; healing everything: {healed}");
    }
    let history = history.with_context(|| format!("scenario {} was not carried out", scenario.name))?;
    Ok(judged(scenario, history))
}

/// Lets every judge that a scenario names judge a history.
pub fn judged(scenario: &Scenario, history: History) -> Trial {
    let verdict = |checker: &Checker| (*checker, judge(*checker, &history, &scenario.expect));
    let judgement = Judgement { verdicts: scenario.expect.checkers.iter().map(verdict).collect() };
    Trial {
        scenario: scenario.name.clone(),
        shows: scenario.shows.clone(),
        world: history.header.world,
        seed: history.header.seed,
        is_passed: judgement.is_pass(),
        judgement,
        figures: Figures::of(&history),
        history,
    }
}

fn record(stage: &mut dyn Stage, scenario: &Scenario, options: &Options<'_>) -> Result<History> {
    let schedule = scenario.schedule(options.seed)?;
    let gateways = stage.gateways();
    let view = view::look_through(gateways.iter().map(|(_, addr)| addr.as_str()))?;
    let gates = Arc::new(Gates::new(&gateways));
    let header = header(stage, scenario, options, &view, schedule.to_string());
    let (tape, recorder) = tape::begin(header, gates.clone(), options.history)?;
    let clients = Clients::new(&tape, &gates, &scenario.workload, options.seed, options.prefix);
    prepare(stage, scenario, &clients, &tape, &view)?;

    let is_over = AtomicBool::new(false);
    let watch = Watch { tape: &tape, gates: &gates, is_over: &is_over };
    let mut run = Run::new(stage, scenario, *options, &tape, &gates, &clients);
    let outcome = std::thread::scope(|scope| {
        watch.spawn(scope);
        let load = scope.spawn(|| clients.run());
        let outcome = run.phases(schedule);
        clients.stop();
        let load = load.join().map_err(|_| anyhow::anyhow!("the clients panicked"));
        is_over.store(true, Ordering::SeqCst);
        outcome.and(load.flatten())
    });
    let outcome = outcome.and_then(|()| run.audit());
    tape.end();
    let history = recorder.history();
    outcome?;
    ensure!(!options.is_cancelled.load(Ordering::SeqCst), "somebody ended it");
    history
}

fn header(stage: &dyn Stage, scenario: &Scenario, options: &Options<'_>, view: &View, schedule: String) -> Header {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let of = |is_wanted: fn(Group) -> bool| count(view.shards.iter().filter(|shard| is_wanted(shard.id)).count());
    Header {
        format: FORMAT,
        world: stage.kind(),
        scenario: scenario.name.clone(),
        seed: options.seed,
        schedule,
        nodes: count(view.nodes.len()),
        coordinators: count(view.coordinators.len()),
        replication: view.replication,
        user_shards: of(|group| matches!(group, Group::Users(_))),
        item_shards: of(|group| matches!(group, Group::Items(_))),
        election_timeout_max_ms: stage.election_timeout_max_ms(),
    }
}

/// Events for every user and, where the scenario wants it and the cluster is our own, a model.
fn prepare(stage: &dyn Stage, scenario: &Scenario, clients: &Clients<'_>, tape: &Tape, view: &View) -> Result<()> {
    clients.sow(SOWN)?;
    if !scenario.cluster.has_model || view.live_version > 0 {
        return Ok(());
    }
    match stage.kind() {
        WorldKind::Drill => {
            let text = "the cluster has no model, and a drill trains none: no answer is personal".to_owned();
            tape.see(Observed::Note { text });
        }
        _ => drop(audit::printed(stage, &["train", "--dim", "8", "--epochs", "3", "--holdout", "0", "--wait"])?),
    }
    Ok(())
}

/// Whether a named cluster is large enough for a scenario.
///
/// # Errors
/// What it lacks.
pub fn suits(scenario: &Scenario, view: &View) -> Result<()> {
    let has = [
        ("nodes", view.nodes.len(), scenario.cluster.nodes),
        ("coordinators", view.coordinators.len(), scenario.cluster.coordinators),
    ];
    for (what, there_are, needed) in has {
        if there_are < needed as usize {
            bail!("scenario {} needs {needed} {what}, and the cluster has {there_are}", scenario.name);
        }
    }
    Ok(())
}

/// The phases in order, for a person.
pub fn described(phase: Phase) -> &'static str {
    match phase {
        Phase::Baseline => "load alone",
        Phase::Chaos => "the schedule, under load",
        Phase::Heal => "everything is undone",
        Phase::Converge => "load goes on until everything came back",
        Phase::Audit => "everything is read and exported",
    }
}
