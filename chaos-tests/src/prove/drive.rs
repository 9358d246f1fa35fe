//! One run after another, each in a process of its own with the bug in its environment, until the bug is caught; and the table.

use super::Finding;
use super::plan::{self, PLANS, Plan, World};
use anyhow::{Context, Result, bail, ensure};
use docent_trial::check::{Checker, Judgement, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The environment variable that chooses a bug.
const BUG: &str = "DOCENT_SABOTAGE";
/// No run lasts longer; one that hangs is ended with everything that it started.
const RUN_MAX: Duration = Duration::from_secs(400);

/// How the hunt for one bug ended.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which bug; empty for a run without one.
    pub bug: String,
    /// The world that caught it, or had to pass without it.
    pub world: String,
    /// Who saw it.
    pub checker: Option<Checker>,
    /// What was seen first.
    pub evidence: String,
    /// Runs until then.
    pub runs: u64,
    /// How long they took.
    pub seconds: f64,
    /// Whether it is as it has to be: a bug caught, a run without one clean.
    pub is_good: bool,
}

/// The outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// A row a bug, and a row a run without one.
    pub rows: Vec<Row>,
}

impl Table {
    /// Whether every bug was caught, and nothing was found where there is none.
    pub fn is_proof(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.is_good)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |to: &mut fmt::Formatter<'_>, cells: [&str; 6]| {
            let [bug, caught, world, checker, runs, seconds] = cells;
            writeln!(to, "{bug:<30} {caught:<10} {world:<32} {checker:<10} {runs:>4} {seconds:>7}")
        };
        line(to, ["bug", "", "world", "checker", "runs", "seconds"])?;
        for row in &self.rows {
            let caught = match (row.bug.is_empty(), row.is_good) {
                (false, true) => "caught",
                (false, false) => "NOT CAUGHT",
                (true, true) => "clean",
                (true, false) => "NOT CLEAN",
            };
            let bug = if row.bug.is_empty() { "(none)" } else { &row.bug };
            let checker = row.checker.map(|checker| checker.to_string()).unwrap_or_default();
            let (runs, seconds) = (row.runs.to_string(), format!("{:.0}", row.seconds));
            line(to, [bug, caught, &row.world, &checker, &runs, &seconds])?;
            if !row.is_good {
                writeln!(to, "    {}", row.evidence)?;
            }
        }
        Ok(())
    }
}

/// Hunts `bugs`, or all where none is named; with `has_control` every world passes without a bug first. Beside `binary` lie `docent-sim` and
/// `docent-chaos`, where a plan needs them.
///
/// # Errors
/// A binary without planted bugs, an unknown bug.
pub fn run(binary: &Path, bugs: &[String], has_control: bool) -> Result<Table> {
    check_binary(binary)?;
    let plans: Vec<&Plan> = match bugs.is_empty() {
        true => PLANS.iter().collect(),
        false => bugs.iter().map(|bug| plan::of(bug).with_context(|| unknown(bug))).collect::<Result<_>>()?,
    };
    let mut rows = Vec::new();
    if has_control {
        let worlds: BTreeSet<World> =
            plans.iter().flat_map(|plan| plan.attempts).map(|attempt| attempt.world).collect();
        rows.extend(worlds.into_iter().map(|world| tell(control(binary, world))));
    }
    rows.extend(plans.into_iter().map(|plan| tell(hunt(binary, plan))));
    Ok(Table { rows })
}

fn unknown(bug: &str) -> String {
    let names: Vec<&str> = PLANS.iter().map(|plan| plan.bug).collect();
    format!("there is no bug {bug:?}; there are: {}", names.join(", "))
}

/// Each row when it is known: all of them take long.
fn tell(row: Row) -> Row {
    let bug = if row.bug.is_empty() { "no bug" } else { &row.bug };
    let how = if row.is_good { "as it has to be" } else { "NOT AS IT HAS TO BE" };
    eprintln!("{bug}: {how}: {} after {} runs, {:.0} s: {}", row.world, row.runs, row.seconds, row.evidence);
    row
}

/// A build without bugs would prove nothing.
fn check_binary(binary: &Path) -> Result<()> {
    let output = Command::new(binary).arg("--version").output();
    let output = output.with_context(|| format!("{} does not run: use `make sabotage`", binary.display()))?;
    let version = String::from_utf8_lossy(&output.stdout);
    ensure!(version.contains("SABOTAGE"), "{} has no planted bugs: use `make sabotage`", binary.display());
    Ok(())
}

/// A run without a bug must find nothing.
fn control(binary: &Path, world: World) -> Row {
    let start = Instant::now();
    let outcome = once(binary, None, world, 1);
    let seconds = start.elapsed().as_secs_f64();
    let (is_good, evidence, checker) = match outcome {
        Ok(found) => match found.into_iter().next() {
            None => (true, "nothing".to_owned(), None),
            Some(first) => (false, first.what, Some(first.checker)),
        },
        Err(error) => (false, format!("{error:#}"), None),
    };
    Row { bug: String::new(), world: world.to_string(), checker, evidence, runs: 1, seconds, is_good }
}

fn hunt(binary: &Path, plan: &Plan) -> Row {
    let (start, mut runs, mut seen) = (Instant::now(), 0, Vec::new());
    for attempt in plan.attempts {
        for seed in 1..=attempt.seeds {
            runs += 1;
            match capture(binary, plan, attempt.world, seed) {
                Ok(Ok(first)) => {
                    return Row {
                        bug: plan.bug.to_owned(),
                        world: attempt.world.to_string(),
                        checker: Some(first.checker),
                        evidence: first.what,
                        runs,
                        seconds: start.elapsed().as_secs_f64(),
                        is_good: true,
                    };
                }
                Ok(Err(others)) => seen.extend(others),
                Err(error) => seen.push(format!("{}, seed {seed}: {error:#}", attempt.world)),
            }
        }
    }
    let worlds: Vec<String> = plan.attempts.iter().map(|attempt| attempt.world.to_string()).collect();
    Row {
        bug: plan.bug.to_owned(),
        world: worlds.join("; "),
        checker: None,
        evidence: if seen.is_empty() { "nothing was found".to_owned() } else { seen.join("; ") },
        runs,
        seconds: start.elapsed().as_secs_f64(),
        is_good: false,
    }
}

/// What one of the checkers that owe the capture saw in one run, and would not have seen there without the bug; else what the others saw.
fn capture(binary: &Path, plan: &Plan, world: World, seed: u64) -> Result<Result<Finding, Vec<String>>> {
    let found = once(binary, Some(plan.bug), world, seed)?;
    let (ours, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|finding: &Finding| plan.checkers.contains(&finding.checker));
    let told = |other: Finding| format!("{} (not whose business it is): {}", other.checker, other.what);
    let mut told: Vec<String> = others.into_iter().map(told).collect();
    if world == World::Sim && !ours.is_empty() {
        // The control does not run every seed: this one, then.
        let anyway = once(binary, None, world, seed)?;
        if let Some(same) = anyway.into_iter().find(|anyway| ours.iter().any(|ours| ours.checker == anyway.checker)) {
            told.push(format!("{} speaks up in seed {seed} without the bug too: {}", same.checker, same.what));
            return Ok(Err(told));
        }
    }
    Ok(ours.into_iter().next().ok_or(told))
}

/// One run in a process of its own.
fn once(binary: &Path, bug: Option<&str>, world: World, seed: u64) -> Result<Vec<Finding>> {
    let seed = seed.to_string();
    let mut command = match world {
        World::Sim => Command::new(binary.with_file_name("docent-sim")),
        World::Scenario(_) => Command::new(binary.with_file_name("docent-chaos")),
        World::Probe(_) => Command::new(std::env::current_exe()?),
    };
    match world {
        World::Sim => command.args(["run", "--report", "--seed", &seed]),
        World::Scenario(name) => command.args(["run", "--output", "json", "--scenario", name, "--seed", &seed]),
        World::Probe(name) => command.args(["--probe", name, "--round", &seed, "--binary"]).arg(binary),
    };
    command.env_remove(BUG).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(bug) = bug {
        command.env(BUG, bug);
    }
    let output = within(command, RUN_MAX)?;
    let found = match world {
        World::Probe(_) => output.status.success().then(|| Ok(serde_json::from_slice(&output.stdout)?)),
        World::Sim => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().find_map(|line| line.strip_prefix("report ")).map(|report| judged(report.as_bytes()))
        }
        World::Scenario(_) => output.stdout.starts_with(b"{").then(|| judged(&output.stdout)),
    };
    let Some(found) = found else {
        let text = String::from_utf8_lossy(&output.stderr);
        let from = text.lines().count().saturating_sub(8);
        bail!("the run ended with {}: {}", output.status, text.lines().skip(from).collect::<Vec<_>>().join(" | "));
    };
    found.context("the run's findings cannot be read")
}

/// What the judges of a report found wrong. A run that got stuck is a matter of liveness.
fn judged(report: &[u8]) -> Result<Vec<Finding>> {
    #[derive(Deserialize)]
    struct Report {
        judgement: Judgement,
        #[serde(default)]
        stuck: Option<String>,
    }
    let report: Report = serde_json::from_slice(report)?;
    let stuck = report.stuck.map(|why| Finding::new(Checker::Liveness, format!("stuck: {why}")));
    let failed = report.judgement.verdicts.into_iter().filter_map(|(checker, verdict)| match verdict {
        Verdict::Fail { evidence, .. } => {
            let first = evidence.into_iter().next();
            let what = first.map_or_else(|| "fails".to_owned(), |first| format!("{}: {}", first.kind, first.what));
            Some(Finding::new(checker, what))
        }
        _ => None,
    });
    Ok(failed.chain(stuck).collect())
}

/// Runs a command to its end, or kills it. What it started ends with it: members follow their parent.
fn within(mut command: Command, limit: Duration) -> Result<std::process::Output> {
    let child = command.spawn()?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    let (ended, deadline) = std::sync::mpsc::sync_channel::<()>(1);
    let guard = std::thread::spawn(move || {
        let is_late = deadline.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if is_late {
            // Not waited for yet, so the id is nobody else's; one that is gone already is what we want.
            let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        is_late
    });
    let output = child.wait_with_output();
    drop(ended);
    let is_late = guard.join().unwrap_or(false);
    ensure!(!is_late, "the run did not end within {limit:?}");
    Ok(output?)
}
