//! The simulation's own program, `docent-sim`: batches of seeds, and one scenario's schedule.

use crate::check::read;
use anyhow::{Context, Result, bail};
use docent_chaos::run::{self, Trial};
use docent_trial::Scenario;
use docent_trial::scenario::Expect;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where it is: beside this program.
pub(crate) fn program() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("docent-sim");
    if path.is_file() {
        return Ok(path);
    }
    bail!("there is no {}: run `cargo build --release -p docent-sim` first", path.display())
}

/// What a batch says of itself in its last line.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Batch {
    pub(crate) seeds: usize,
    pub(crate) failed: Vec<u64>,
    pub(crate) vacuous: Vec<String>,
    pub(crate) operations: u64,
    pub(crate) simulated_s: f64,
}

/// The command that runs seeds 1 to `seeds`, and those that failed once.
pub(crate) fn batch_command(seeds: u64, jobs: usize, regressions: Option<&Path>) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.args(["batch", "--seeds", &format!("1..{seeds}"), "--jobs", &jobs.to_string(), "--json"]);
    if let Some(path) = regressions {
        command.arg("--regressions").arg(path);
    }
    Ok(command)
}

/// Carries a scenario out in the simulation. Its clients do the simulation's own mixture of calls, at about the scenario's rate.
pub(crate) fn one(scenario: &Scenario, seed: u64, history: Option<&Path>) -> Result<Trial> {
    let dir = tempfile::tempdir()?;
    let (file, own) = (dir.path().join("scenario.json"), dir.path().join("history.jsonl"));
    let history = history.unwrap_or(&own);
    std::fs::write(&file, serde_json::to_vec(scenario)?)?;
    let mut command = Command::new(program()?);
    command.args(["run", "--seed", &seed.to_string(), "--scenario"]).arg(&file).arg("--history").arg(history);
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let recorded =
        read(history).with_context(|| format!("docent-sim ended with {}: {}", output.status, said.trim()))?;
    // When a gateway is well again after its death the simulation does not tell: which queries may fail then is the lab's to judge.
    let expect = Expect { queries_fail_max: u64::MAX, ..scenario.expect.clone() };
    Ok(run::judged(&Scenario { expect, ..scenario.clone() }, recorded))
}
