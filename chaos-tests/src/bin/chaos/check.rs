//! `docent-chaos check`: a history from anywhere, judged.

use crate::{Ending, Output, refuse, tell};
use anyhow::{Context, Result};
use docent_chaos::{run, scenarios};
use docent_trial::{History, Scenario};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The history, JSON lines
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
    /// What must come of it: a scenario's name or file [default: the one that the history names, else every judge with its defaults]
    #[arg(long, value_name = "NAME|FILE")]
    scenario: Option<String>,
    /// Writes the report here: a page, or JSON where the name ends in .json
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub(crate) fn check(args: &Args, output: Output) -> Result<Ending> {
    let history = read(&args.history).map_err(refuse)?;
    let scenario = match &args.scenario {
        Some(name) => scenarios::find(name).map_err(refuse)?,
        None => named_by(&history)?,
    };
    let trial = run::judged(&scenario, history);
    tell::trial(&trial, output)?;
    if let Some(path) = &args.report {
        tell::report(&trial, path)?;
    }
    Ok(if trial.is_passed { Ending::Passed } else { Ending::Failed })
}

/// A history of a file.
pub(crate) fn read(path: &Path) -> Result<History> {
    let file = File::open(path).with_context(|| format!("cannot read the history {}", path.display()))?;
    History::read(BufReader::new(file)).with_context(|| path.display().to_string())
}

/// The scenario that a history names; one that asks every judge where nobody knows it.
pub(crate) fn named_by(history: &History) -> Result<Scenario> {
    if let Ok(scenario) = scenarios::find(&history.header.scenario) {
        return Ok(scenario);
    }
    eprintln!("scenario {} is not known here: every judge is asked, with its defaults", history.header.scenario);
    Ok(Scenario::from_toml("name = \"unknown\"\nshows = \"what was recorded\"\n")?)
}
