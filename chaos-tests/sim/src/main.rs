//! `docent-sim`: runs of the simulation, by seed.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use docent_sim::judge::Report;
use docent_sim::run::{self, Plan};
use docent_sim::shape::Shape;
use docent_sim::{batch, ground, space};
use docent_trial::{Scenario, Schedule};
use docent_types::sabotage;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Whole clusters of Docent in one process, on simulated time, network and disks: the same seed gives the same run
#[derive(Parser)]
#[command(name = "docent-sim", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one seed and judge it
    Run(RunArgs),
    /// Run many seeds, each in a process of its own
    Batch {
        /// From and to, both included: 1..200
        #[arg(long, value_name = "A..B", default_value = "")]
        seeds: String,
        /// Seeds that failed once and must not again, one a line
        #[arg(long, value_name = "FILE")]
        regressions: Option<PathBuf>,
        /// Runs at the same time
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Print one line of JSON at the end, and nothing else
        #[arg(long)]
        json: bool,
    },
    /// Run one seed twice and compare the traces
    Twice {
        /// Which
        #[arg(long)]
        seed: u64,
    },
    /// Make the schedule of a failing seed as small as it still fails
    Shrink {
        /// Which
        #[arg(long)]
        seed: u64,
        /// Begin with this schedule instead of the seed's own
        #[arg(long, value_name = "FILE")]
        schedule: Option<PathBuf>,
        /// Runs at most
        #[arg(long, default_value_t = 100)]
        budget: u32,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// Decides everything
    #[arg(long)]
    seed: u64,
    /// Carry out this schedule instead of the seed's own
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
    /// Start the cluster of this scenario (JSON) and carry it out, instead of the seed's own
    #[arg(long, value_name = "FILE", conflicts_with = "schedule")]
    scenario: Option<PathBuf>,
    /// Write what happens, a line a message, fault, applied entry and log line
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the history that the checkers judge, as JSON lines
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Print what members say, from this loudness on: warn, info, debug
    #[arg(long, value_name = "LEVEL")]
    log: Option<tracing::Level>,
    /// Print the schedule and run nothing
    #[arg(long)]
    print_schedule: bool,
    /// Tell the verdict as one line of JSON
    #[arg(long)]
    report: bool,
}

fn main() -> Result<ExitCode> {
    match Args::parse().command {
        Command::Run(args) => run_one(&args),
        Command::Batch { seeds, regressions, jobs, json } => run_batch(&seeds, regressions.as_deref(), jobs, json),
        Command::Twice { seed } => {
            let report = batch::twice(&program()?, seed)?;
            println!("seed {seed}: {} lines, trace {}, twice", report.trace_lines, report.trace);
            Ok(ExitCode::SUCCESS)
        }
        Command::Shrink { seed, schedule, budget } => shrink(seed, schedule.as_deref(), budget),
    }
}

fn program() -> Result<PathBuf> {
    std::env::current_exe().context("where is this program")
}

fn read(path: &Path) -> Result<Schedule> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.parse().with_context(|| format!("read {}", path.display()))
}

fn read_scenario(path: &Path) -> Result<Scenario> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let scenario: Scenario = serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?;
    scenario.check()?;
    Ok(scenario)
}

fn run_one(args: &RunArgs) -> Result<ExitCode> {
    let scenario = args.scenario.as_deref().map(read_scenario).transpose()?;
    let shape = scenario.as_ref().map_or_else(|| Shape::of(args.seed), Shape::for_scenario);
    let schedule = match (&scenario, &args.schedule) {
        (Some(scenario), _) => scenario.schedule(args.seed)?,
        (None, Some(path)) => read(path)?,
        (None, None) => space::schedule(args.seed, &shape)?,
    };
    if args.print_schedule {
        print!("{schedule}");
        return Ok(ExitCode::SUCCESS);
    }
    if !ground::is_laid(args.seed) {
        ground::stand_on(args.seed)?;
    }
    if let Some(bug) = std::env::var("DOCENT_SABOTAGE").ok().filter(|bug| !bug.is_empty()) {
        sabotage::choose(&bug).map_err(anyhow::Error::msg)?;
    }
    let ran = run::run(&Plan { seed: args.seed, shape, schedule, trace: args.trace.clone(), verbose: args.log })?;
    if let Some(path) = &args.history {
        let file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
        ran.history.write(&mut std::io::BufWriter::new(file))?;
    }
    let report = Report::of(args.seed, &ran);
    match args.report {
        true => println!("{}{}", batch::REPORT, serde_json::to_string(&report)?),
        false => tell(&report),
    }
    Ok(if report.is_pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(report: &Report) {
    for (checker, verdict) in &report.judgement.verdicts {
        println!("{checker:>10}: {verdict}");
    }
    if let Some(why) = &report.stuck {
        println!("     stuck: {why}");
    }
    for (sight, count) in &report.sights {
        println!("{count:>10} {sight}");
    }
    let Report { seed, operations, simulated_s, trace, trace_lines, .. } = report;
    let verdict = if report.is_pass { "pass" } else { "FAIL" };
    println!(
        "seed {seed}: {verdict}; {operations} operations, {simulated_s:.1} s simulated, trace {trace} of {trace_lines} lines"
    );
}

fn run_batch(seeds: &str, regressions: Option<&Path>, jobs: usize, json: bool) -> Result<ExitCode> {
    let mut all = Vec::new();
    if let Some(path) = regressions {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        for line in lines.filter(|line| !line.is_empty()) {
            all.push(line.parse::<u64>().with_context(|| format!("{line:?} in {} is no seed", path.display()))?);
        }
    }
    if !seeds.is_empty() {
        let range =
            seeds.split_once("..").and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
        let Some((from, to)) = range else { bail!("--seeds {seeds:?}: A..B was expected, such as 1..200") };
        all.extend(from..=to);
    }
    if all.is_empty() {
        bail!("no seeds: give --seeds A..B, --regressions FILE, or both");
    }
    let say = |line: &str| {
        if !json {
            println!("{line}")
        }
    };
    let summary = batch::batch(&program()?, &all, jobs, &say)?;
    for line in &summary.vacuous {
        say(&format!("vacuous: {line}"));
    }
    println!("{}", serde_json::to_string(&summary)?);
    Ok(if summary.is_pass() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shrink(seed: u64, schedule: Option<&Path>, budget: u32) -> Result<ExitCode> {
    let schedule = schedule.map(read).transpose()?;
    let found = batch::shrink(&program()?, seed, schedule, budget, &|line| eprintln!("{line}"))?;
    println!(
        "# {} runs; {}",
        found.tries,
        if found.is_minimal { "nothing smaller fails" } else { "the budget ended first" }
    );
    print!("{}", found.schedule);
    Ok(ExitCode::SUCCESS)
}
