//! `docent-chaos run` and `replay`: one scenario, in a lab or on a named cluster.

use crate::check::{named_by, read};
use crate::{Ending, NotHere, Output, refuse, sim, tell};
use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use docent_chaos::drill::Drill;
use docent_chaos::drill::file::Cluster;
use docent_chaos::lab::world::LabWorld;
use docent_chaos::run::stage::{Stage, tails};
use docent_chaos::run::{self, Options, Trial};
use docent_chaos::{drill, scenarios};
use docent_trial::{Kind, Scenario, Schedule, Target, World, WorldKind};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which: a name of `docent-chaos list`, or a file
    #[arg(long, value_name = "NAME|FILE")]
    scenario: String,
    #[command(flatten)]
    place: Place,
    /// Decides everything that is drawn: load, targets, and the faults of a scenario that draws them
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes the history here, JSON lines, while it grows
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The history, JSON lines
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
    /// Writes the new history here
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// One run of a scenario.
struct Once<'a> {
    scenario: &'a Scenario,
    seed: u64,
    place: &'a Place,
    history: Option<&'a Path>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Where {
    /// A cluster that is started for this, on this machine
    Lab,
    /// A simulated cluster: its shape, its clients and all chance follow from the seed
    Sim,
    /// The cluster of --cluster
    Cluster,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Where it runs [default: lab, or cluster where --cluster is given]
    #[arg(long, value_enum)]
    world: Option<Where>,
    /// The cluster to break: a file that names its members and how each is reached (docs/drills.md)
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// I know that this breaks the cluster of --cluster on purpose
    #[arg(long)]
    yes_break_this_cluster: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Writes the report here: a page, or JSON where the name ends in .json
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leaves the users and items of a drill in the cluster
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(args: &Args, output: Output) -> Result<Ending> {
    let scenario = scenarios::find(&args.scenario).map_err(refuse)?;
    let once = Once { scenario: &scenario, seed: args.seed, place: &args.place, history: args.history.as_deref() };
    once.carry_out(output)
}

pub(crate) fn replay(args: &ReplayArgs, output: Output) -> Result<Ending> {
    let history = read(&args.history).map_err(refuse)?;
    let header = &history.header;
    if header.world == WorldKind::Sim {
        return Err(refuse(anyhow!("this history is of the simulation: run `docent-sim run --seed {}`", header.seed)));
    }
    let schedule: Schedule = header.schedule.parse().context("the history's schedule").map_err(refuse)?;
    let scenario = Scenario { steps: schedule.steps, space: None, ..named_by(&history)? };
    Once { scenario: &scenario, seed: header.seed, place: &args.place, history: args.to.as_deref() }.carry_out(output)
}

impl Once<'_> {
    fn carry_out(&self, output: Output) -> Result<Ending> {
        let place = self.place;
        let default = if place.cluster.is_some() { Where::Cluster } else { Where::Lab };
        let trial = match (place.world.unwrap_or(default), &place.cluster) {
            (Where::Cluster, Some(file)) => self.on_cluster(file)?,
            (Where::Cluster, None) => {
                return Err(refuse(anyhow!(
                    "--world cluster needs --cluster FILE: which cluster, and how its members are reached"
                )));
            }
            (Where::Lab | Where::Sim, Some(_)) => {
                return Err(refuse(anyhow!("--cluster names a cluster, and --world lab or sim makes one: choose")));
            }
            (Where::Lab, None) => self.in_lab()?,
            (Where::Sim, None) => self.in_sim()?,
        };
        let Some(trial) = trial else { return Ok(Ending::Passed) };
        tell::trial(&trial, output)?;
        if let Some(path) = &place.report {
            tell::report(&trial, path)?;
            eprintln!("the report is {}", path.display());
        }
        Ok(if trial.is_passed { Ending::Passed } else { Ending::Failed })
    }

    /// `None` where it was only told.
    fn in_lab(&self) -> Result<Option<Trial>> {
        let Once { scenario, seed, place, history } = *self;
        is_for(scenario, WorldKind::Lab)?;
        let schedule = scenario.schedule(seed).map_err(refuse)?;
        announce(scenario, &schedule);
        if place.dry_run {
            return Ok(None);
        }
        let is_cancelled = listen()?;
        let mut world = LabWorld::for_needs(&scenario.cluster)?;
        let lacks = lacks(&world, scenario, &schedule);
        if !lacks.is_empty() {
            return Err(NotHere(lacks.join("; ")).into());
        }
        let options = Options { seed, history, prefix: "", is_cancelled: &is_cancelled, is_loud: true };
        match run::run(&mut world, scenario, &options) {
            Ok(trial) => Ok(Some(trial)),
            Err(error) => {
                eprintln!("{}", tails(&world, 20));
                Err(error)
            }
        }
    }

    fn in_sim(&self) -> Result<Option<Trial>> {
        let Once { scenario, seed, place, history } = *self;
        is_for(scenario, WorldKind::Sim)?;
        let schedule = scenario.schedule(seed).map_err(refuse)?;
        announce(scenario, &schedule);
        if place.dry_run {
            return Ok(None);
        }
        sim::one(scenario, seed, history).map(Some)
    }

    fn on_cluster(&self, file: &Path) -> Result<Option<Trial>> {
        let Once { scenario, seed, place, history } = *self;
        is_for(scenario, WorldKind::Drill)?;
        let cluster = Cluster::read(file).map_err(refuse)?;
        let schedule = scenario.schedule(seed).map_err(refuse)?;
        let mut drill = Drill::of(&cluster)?;
        let lacks = lacks(&drill, scenario, &schedule);
        if !lacks.is_empty() {
            return Err(refuse(anyhow!(
                "scenario {} cannot be done to this cluster: {}",
                scenario.name,
                lacks.join("; ")
            )));
        }
        run::suits(scenario, &drill.view()?).map_err(refuse)?;
        announce(scenario, &schedule);
        aim(&mut drill, &schedule);
        if place.dry_run {
            return Ok(None);
        }
        if !place.yes_break_this_cluster {
            return Err(refuse(anyhow!(
                "this breaks the cluster of {} on purpose; say --yes-break-this-cluster",
                file.display()
            )));
        }
        let is_cancelled = listen()?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("drill-{:x}-", since.as_secs());
        let options = Options { seed, history, prefix: &prefix, is_cancelled: &is_cancelled, is_loud: true };
        let trial = run::run(&mut drill, scenario, &options);
        match place.keep {
            true => eprintln!("users and items that begin with {prefix} stay in the cluster"),
            false => eprintln!("{}", drill::sweep(&drill.gateways(), &scenario.workload, &prefix)),
        }
        trial.map(Some)
    }
}

fn is_for(scenario: &Scenario, world: WorldKind) -> Result<()> {
    if scenario.worlds.contains(&world) {
        return Ok(());
    }
    let worlds: Vec<&str> = scenario.worlds.iter().map(|world| world.name()).collect();
    Err(refuse(anyhow!("scenario {} does not run in the {world}; it runs in: {}", scenario.name, worlds.join(", "))))
}

fn announce(scenario: &Scenario, schedule: &Schedule) {
    let Scenario { name, shows, phases, workload, .. } = scenario;
    eprintln!("{name}: {shows}");
    eprintln!(
        "  {:.0} writes and {:.0} reads a second; {:.1} s of load, {:.1} s of chaos, then healing and at most {:.1} s to come back",
        workload.writes_per_s,
        workload.reads_per_s,
        phases.baseline_ms as f64 / 1e3,
        phases.chaos_ms as f64 / 1e3,
        phases.converge_ms as f64 / 1e3
    );
    schedule.steps.iter().for_each(|step| eprintln!("  {step}"));
}

/// Why a world cannot do what a scenario must have done; what it may skip is no reason.
fn lacks(world: &impl World, scenario: &Scenario, schedule: &Schedule) -> Vec<String> {
    let planned: BTreeSet<Kind> = schedule.steps.iter().map(|step| step.fault.kind()).collect();
    let needed =
        planned.into_iter().filter(|kind| scenario.space.is_none() || scenario.expect.faults.contains_key(kind));
    needed.filter_map(|kind| world.can(kind).err().map(|why| format!("{kind}: {why}"))).collect()
}

/// Who would be hit if it were done now.
fn aim(drill: &mut Drill, schedule: &Schedule) {
    let scene = drill.scene();
    for step in &schedule.steps {
        if let Some(target) = step.fault.target().filter(|target| !matches!(target, Target::Member(_))) {
            let hit: Vec<String> =
                target.resolve(&scene, schedule.seed_of(step)).iter().map(ToString::to_string).collect();
            let who = if hit.is_empty() { "nobody".to_owned() } else { hit.join(", ") };
            eprintln!("  {target} is now {who}");
        }
    }
}

/// Ctrl-C ends the run in order: everything is healed. The second one ends this program at once.
fn listen() -> Result<Arc<AtomicBool>> {
    let is_cancelled = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, is_cancelled.clone())?;
        signal_hook::flag::register(signal, is_cancelled.clone())?;
    }
    Ok(is_cancelled)
}
