//! `docent-chaos suite`: what `make chaos` and `make chaos-smoke` run: many simulated clusters, and every lab scenario once.

use crate::list;
use crate::sim::{self, Batch};
use crate::{Ending, NOT_HERE, Output};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use docent_chaos::scenarios;
use docent_trial::WorldKind;
use docent_trial::matrix::State;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Lab scenarios of the smoke: one of each layer that a change breaks most.
const SMOKE: &[&str] = &["leader-loss", "partition-symmetric", "whole-cluster-kill"];
/// A lab scenario that takes longer hangs.
const HANGS_AFTER: Duration = Duration::from_secs(300);
/// Between looks at a process.
const POLL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// 200 seeds and every scenario of the lab
    Full,
    /// A dozen seeds and a few short scenarios
    Smoke,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How much
    #[arg(long, value_enum, default_value_t = Profile::Full)]
    profile: Profile,
    /// Seeds of the simulation [default: 200, or 12 of the smoke]
    #[arg(long)]
    seeds: Option<u64>,
    /// Simulations at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Only these scenarios of the lab; may be repeated
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Seconds after which nothing more is begun: what is left then has not passed
    #[arg(long, default_value_t = 1_800)]
    time_limit: u64,
    /// What this machine does not allow is told, and is no failure
    #[arg(long)]
    may_skip: bool,
    /// Where histories and reports of the runs go
    #[arg(long, value_name = "DIR", default_value = "target/chaos")]
    dir: PathBuf,
    /// Seeds that failed once and must not again, one a line
    #[arg(long, value_name = "FILE")]
    regressions: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Passed,
    Failed,
    /// The machine does not allow it.
    NotHere,
    /// There was no time left.
    NotRun,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Row {
    scenario: String,
    world: WorldKind,
    verdict: Verdict,
    seconds: f64,
    seen: String,
}

pub(crate) fn suite(args: &Args, output: Output) -> Result<Ending> {
    let start = Instant::now();
    let limit = Duration::from_secs(args.time_limit);
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let mut rows = vec![simulated(args, limit)];
    tell(&rows[0]);
    for name in wanted(args)? {
        let left = limit.saturating_sub(start.elapsed());
        let row = if left.is_zero() { not_run(&name) } else { in_lab(&name, args, left) };
        tell(&row);
        rows.push(row);
    }
    let is_good = |row: &Row| row.verdict == Verdict::Passed || (row.verdict == Verdict::NotHere && args.may_skip);
    let is_passed = rows.iter().all(is_good);
    let missing: Vec<String> = list::all()?
        .iter()
        .filter(|one| one.state != State::Built)
        .map(|one| format!("{} in the {}: {}", one.row.name, one.world, one.why()))
        .collect();
    let took = start.elapsed().as_secs_f64();
    match output {
        Output::Json => {
            println!("{:#}", json!({ "rows": rows, "missing": missing, "seconds": took, "is_passed": is_passed }))
        }
        Output::Text => {
            println!("\n{:<33} {:<6} {:<9} {:>7}  seen", "scenario", "world", "verdict", "seconds");
            rows.iter().for_each(|row| println!("{}", line(row)));
            println!("\n{} rows of the matrix are missing, none of them counted as passed:", missing.len());
            missing.iter().for_each(|one| println!("  {one}"));
            let passed = rows.iter().filter(|row| row.verdict == Verdict::Passed).count();
            println!("{passed} of {} passed in {took:.0} s", rows.len());
        }
    }
    Ok(if is_passed { Ending::Passed } else { Ending::Failed })
}

/// The lab's scenarios of this suite.
fn wanted(args: &Args) -> Result<Vec<String>> {
    if !args.scenarios.is_empty() {
        return Ok(args.scenarios.clone());
    }
    if args.profile == Profile::Smoke {
        return Ok(SMOKE.iter().map(|name| (*name).to_owned()).collect());
    }
    let in_lab = scenarios::all()?.into_iter().filter(|scenario| scenario.worlds.contains(&WorldKind::Lab));
    Ok(in_lab.map(|scenario| scenario.name).collect())
}

fn tell(row: &Row) {
    eprintln!("{}", line(row));
}

fn line(row: &Row) -> String {
    let verdict = match row.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::NotHere => "not here",
        Verdict::NotRun => "not run",
    };
    format!("{:<33} {:<6} {verdict:<9} {:>7.1}  {}", row.scenario, row.world, row.seconds, row.seen)
}

fn not_run(name: &str) -> Row {
    let seen = "there was no time left".to_owned();
    Row { scenario: name.to_owned(), world: WorldKind::Lab, verdict: Verdict::NotRun, seconds: 0.0, seen }
}

fn simulated(args: &Args, within: Duration) -> Row {
    let start = Instant::now();
    let seeds = args.seeds.unwrap_or(if args.profile == Profile::Smoke { 12 } else { 200 });
    let outcome = batch(args, seeds, within);
    let (verdict, seen) = match outcome {
        Ok((true, batch)) => (Verdict::Passed, of_batch(&batch)),
        Ok((false, batch)) => (Verdict::Failed, of_batch(&batch)),
        Err(error) => (Verdict::Failed, format!("{error:#}")),
    };
    Row {
        scenario: format!("{seeds} seeds"),
        world: WorldKind::Sim,
        verdict,
        seconds: start.elapsed().as_secs_f64(),
        seen,
    }
}

fn batch(args: &Args, seeds: u64, within: Duration) -> Result<(bool, Batch)> {
    let ended = ended(sim::batch_command(seeds, args.jobs, args.regressions.as_deref())?, within)?;
    let last = ended.out.lines().last().unwrap_or_default();
    let batch: Batch = serde_json::from_str(last)
        .with_context(|| format!("docent-sim ended with {:?}: {}", ended.code, ended.last_words()))?;
    Ok((ended.code == Some(0) && batch.failed.is_empty() && batch.vacuous.is_empty(), batch))
}

fn of_batch(batch: &Batch) -> String {
    let Batch { seeds, failed, vacuous, operations, simulated_s } = batch;
    let mut seen = format!(
        "{} of {seeds} seeds passed, {operations} operations, {simulated_s:.0} s simulated",
        seeds - failed.len()
    );
    if let Some(first) = failed.first() {
        seen += &format!("; failed: {failed:?}, again with docent-sim run --seed {first}");
    }
    if !vacuous.is_empty() {
        seen += &format!("; vacuous: {}", vacuous.join(", "));
    }
    seen
}

/// One scenario in a process of its own, so that whatever becomes of it the others run.
fn in_lab(name: &str, args: &Args, left: Duration) -> Row {
    let start = Instant::now();
    let (verdict, seen) = match lab_process(name, &args.dir, left) {
        Ok(told) => told,
        Err(error) => (Verdict::Failed, format!("{error:#}")),
    };
    Row { scenario: name.to_owned(), world: WorldKind::Lab, verdict, seconds: start.elapsed().as_secs_f64(), seen }
}

fn lab_process(name: &str, dir: &Path, left: Duration) -> Result<(Verdict, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--scenario", name, "--world", "lab", "--output", "json", "--history"]);
    command.arg(dir.join(format!("{name}.jsonl"))).arg("--report").arg(dir.join(format!("{name}.html")));
    let ended = ended(command, left.min(HANGS_AFTER))?;
    std::fs::write(dir.join(format!("{name}.log")), &ended.err)?;
    match ended.code {
        Some(0) => Ok((Verdict::Passed, of_trial(&ended.out))),
        Some(1) => {
            Ok((Verdict::Failed, format!("{}; {}", of_trial(&ended.out), dir.join(format!("{name}.jsonl")).display())))
        }
        Some(code) if code == i32::from(NOT_HERE) => Ok((Verdict::NotHere, ended.last_words())),
        other => bail!("ended with {other:?}: {}", ended.last_words()),
    }
}

/// What a run saw, in a line: who complained first, then the figures.
fn of_trial(text: &str) -> String {
    let trial: Value = serde_json::from_str(text).unwrap_or_default();
    let figures = &trial["figures"];
    let mut seen = Vec::new();
    for pair in trial["judgement"]["verdicts"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let (checker, verdict) = (pair[0].as_str().unwrap_or_default(), &pair[1]);
        match verdict["verdict"].as_str() {
            Some("fail") => seen.push(format!(
                "{checker}: {} violations, such as {}",
                verdict["count"], verdict["evidence"][0]["what"]
            )),
            Some("unknown") => seen.push(format!("{checker} cannot tell: {}", verdict["why"])),
            _ => {}
        }
    }
    let faults = figures["faults"].as_array().map_or(0, |all| all.iter().filter(|one| one["is_end"] == false).count());
    seen.push(format!(
        "{faults} faults, {} events acked, {} lost, {} queries, {} failed",
        figures["events_acked"], figures["events_lost"], figures["queries"], figures["queries_failed"]
    ));
    seen.join("; ")
}

/// A process that has ended.
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    fn last_words(&self) -> String {
        self.err.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
    }
}

fn ended(mut command: Command, within: Duration) -> Result<Ended> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).spawn()?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > within {
            child.kill()?;
            child.wait()?;
            bail!("it did not end in {} s", within.as_secs());
        }
        std::thread::sleep(POLL); // between looks at another process
    };
    Ok(Ended { code: status.code(), out: text(&mut out)?, err: text(&mut err)? })
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
