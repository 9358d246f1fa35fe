//! Many runs, each in a process of its own: a batch of seeds, the same seed twice, a schedule made smaller.

use crate::ground;
use crate::judge::Report;
use crate::shape::Shape;
use crate::space;
use anyhow::{Context, Result, bail};
use docent_trial::Schedule;
use docent_trial::history::Sight;
use docent_trial::schedule::{Minimised, minimise};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The line by which a run's process tells its report.
pub const REPORT: &str = "report ";
/// A batch of at least so many seeds in a row sees every theme several times, and must have seen what they are for.
const COVERED_FROM: usize = 24;
/// What the seeds of a batch must have seen together, else it proves nothing.
const WANTED: &[(Sight, u64)] = &[
    (Sight::Elections, 20),
    (Sight::SnapshotInstalls, 1),
    (Sight::MembershipChanges, 1),
    (Sight::Truncations, 3),
    (Sight::LostUnsyncedWrites, 5),
    (Sight::TornWrites, 2),
    (Sight::MessagesLost, 10),
    (Sight::Restarts, 20),
    (Sight::EventsAcked, 1_000),
    (Sight::Duplicates, 5),
    (Sight::Unknowns, 10),
    (Sight::OptOuts, 20),
    (Sight::Blocks, 20),
    (Sight::TakeDowns, 5),
    (Sight::Erasures, 5),
    (Sight::Queries, 500),
    (Sight::PersonalAnswers, 100),
    (Sight::DegradedAnswers, 5),
    (Sight::Versions, 10),
    (Sight::FreshWrites, 100),
    (Sight::Digests, 20),
];
/// A run that takes longer than this much real time hangs.
const HANGS_AFTER: Duration = Duration::from_secs(180);

/// What came of a batch: the line for whoever runs suites.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Runs.
    pub seeds: usize,
    /// Those in which something was wrong.
    pub failed: Vec<u64>,
    /// What the batch should have seen and did not: `elections: 3 of 20`.
    pub vacuous: Vec<String>,
    /// What all runs saw together.
    pub sights: BTreeMap<Sight, u64>,
    /// Operations of clients.
    pub operations: u64,
    /// Simulated seconds.
    pub simulated_s: f64,
}

impl Summary {
    /// Whether nothing is wrong and something was shown.
    pub fn is_pass(&self) -> bool {
        self.seeds > 0 && self.failed.is_empty() && self.vacuous.is_empty()
    }
}

/// Runs seeds, `jobs` at a time; tells each failure as it comes.
///
/// # Errors
/// Where runs cannot be started at all.
pub fn batch(program: &Path, seeds: &[u64], jobs: usize, say: &(dyn Fn(&str) + Sync)) -> Result<Summary> {
    let queue: Mutex<VecDeque<u64>> = Mutex::new(seeds.iter().copied().collect());
    let found: Mutex<Vec<(u64, Result<Report>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(seed) = next else { break };
                    let report = one(program, seed, None);
                    tell(seed, &report, say);
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((seed, report));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(seed, _)| *seed);
    Ok(summarise(found))
}

fn tell(seed: u64, report: &Result<Report>, say: &(dyn Fn(&str) + Sync)) {
    match report {
        Ok(report) if report.is_pass => {
            let Report { operations, simulated_s, trace, .. } = report;
            say(&format!("seed {seed}: pass ({operations} operations, {simulated_s:.0} s simulated, trace {trace})"));
        }
        Ok(report) => {
            say(&format!("seed {seed}: FAIL; again: docent-sim run --seed {seed} --log info"));
            report.complaints().iter().for_each(|line| say(&format!("  {line}")));
        }
        Err(error) => say(&format!("seed {seed}: FAIL: {error:#}")),
    }
}

fn summarise(found: Vec<(u64, Result<Report>)>) -> Summary {
    let mut summary = Summary { seeds: found.len(), ..Summary::default() };
    for (seed, report) in found {
        let Ok(report) = report else {
            summary.failed.push(seed);
            continue;
        };
        if !report.is_pass {
            summary.failed.push(seed);
        }
        for (sight, count) in report.sights {
            *summary.sights.entry(sight).or_default() += count;
        }
        summary.operations += report.operations;
        summary.simulated_s += report.simulated_s;
    }
    if summary.seeds >= COVERED_FROM {
        let lacking = WANTED.iter().filter_map(|(sight, wanted)| {
            let seen = summary.sights.get(sight).copied().unwrap_or(0);
            (seen < *wanted).then(|| format!("{sight}: {seen} of {wanted}"))
        });
        summary.vacuous = lacking.collect();
    }
    summary
}

/// Runs one seed in a process of its own, with its own schedule where none is given.
///
/// # Errors
/// Where it cannot be started, hangs, or ends without a report.
pub fn one(program: &Path, seed: u64, schedule: Option<&Path>) -> Result<Report> {
    let mut command = ground::command(program, seed)?;
    command.args(["run", "--seed", &seed.to_string(), "--report"]);
    if let Some(schedule) = schedule {
        command.arg("--schedule").arg(schedule);
    }
    let output = within(command, HANGS_AFTER)?;
    let line = output.0.lines().find_map(|line| line.strip_prefix(REPORT));
    match line {
        Some(line) => serde_json::from_str(line).context("the report of a run cannot be read"),
        None => bail!("the run ended without a report: {}", output.1.lines().last().unwrap_or("it said nothing")),
    }
}

/// Standard output and error of a process that may take so long.
fn within(mut command: Command, within: Duration) -> Result<(String, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let id = child.id();
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    // Read while it runs: a full pipe would stop it.
    let read = |from: Option<&mut dyn std::io::Read>| {
        let mut text = Vec::new();
        if let Some(from) = from {
            // What cannot be read is missing from the text, and then so is the report.
            let _part = from.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    std::thread::scope(|scope| {
        let out = scope.spawn(move || read(out.as_mut().map(|out| out as &mut dyn std::io::Read)));
        let err = scope.spawn(move || read(err.as_mut().map(|err| err as &mut dyn std::io::Read)));
        let mut waited = Duration::ZERO;
        let step = Duration::from_millis(20);
        while child.try_wait()?.is_none() {
            if waited > within {
                child.kill()?;
                child.wait()?;
                bail!("process {id} hung for {} s and was ended", within.as_secs());
            }
            std::thread::sleep(step); // std tells the end of a process to no one who also has a limit of time: between looks at it
            waited += step;
        }
        let text = |handle: std::thread::ScopedJoinHandle<'_, String>| handle.join().unwrap_or_default();
        Ok((text(out), text(err)))
    })
}

/// Runs a seed twice and compares the traces.
///
/// # Errors
/// Where they differ, or a run has no report.
pub fn twice(program: &Path, seed: u64) -> Result<Report> {
    let (first, second) = (one(program, seed, None)?, one(program, seed, None)?);
    if first.trace != second.trace {
        bail!(
            "seed {seed} is not deterministic: {} lines {} and {} lines {}; compare `docent-sim run --seed {seed} --trace FILE` of two runs",
            first.trace_lines,
            first.trace,
            second.trace_lines,
            second.trace
        );
    }
    Ok(first)
}

/// Makes the schedule of a failing seed as small as it still fails by the same checker.
///
/// # Errors
/// Where the seed does not fail at all.
pub fn shrink(
    program: &Path,
    seed: u64,
    schedule: Option<Schedule>,
    budget: u32,
    say: &dyn Fn(&str),
) -> Result<Minimised> {
    let schedule = match schedule {
        Some(schedule) => schedule,
        None => space::schedule(seed, &Shape::of(seed))?,
    };
    let dir = std::env::temp_dir().join(format!("docent-sim-shrink-{seed}-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("schedule");
    let first = try_schedule(program, seed, &schedule, &file)?;
    if first.is_pass {
        bail!("seed {seed} does not fail");
    }
    let wanted = failing(&first);
    let minimised = minimise(
        &schedule,
        |candidate| {
            let report = try_schedule(program, seed, candidate, &file);
            let still = report.is_ok_and(|report| failing(&report).iter().any(|checker| wanted.contains(checker)));
            say(&format!("{} steps {}", candidate.steps.len(), if still { "still fail" } else { "pass" }));
            still
        },
        budget,
    );
    std::fs::remove_dir_all(&dir)?;
    Ok(minimised)
}

/// The names of the checkers that a run failed, `stuck` among them.
fn failing(report: &Report) -> Vec<String> {
    let named = report.judgement.verdicts.iter().filter(|(_, verdict)| verdict.is_fail());
    let stuck = report.stuck.iter().map(|_| "stuck".to_owned());
    named.map(|(checker, _)| checker.to_string()).chain(stuck).collect()
}

fn try_schedule(program: &Path, seed: u64, schedule: &Schedule, file: &PathBuf) -> Result<Report> {
    let mut to = std::fs::File::create(file)?;
    write!(to, "{schedule}")?;
    one(program, seed, Some(file))
}
