//! `docent-chaos`: failover drills on your own cluster, scenarios in a lab of real processes, judgements of recorded histories.
#![allow(clippy::disallowed_methods, reason = "drives real processes in real time")]

mod check;
mod list;
mod run;
mod sim;
mod suite;
mod tell;

use clap::{Parser, Subcommand, ValueEnum};
use std::process::ExitCode;

const EXIT_CODES: &str = "Exit codes: 0 everything passed; 1 a judge found something wrong, could not tell, or the run showed nothing; \
2 wrong usage, a wrong file, or refused; 3 it could not be carried out; 4 this machine does not allow it.";

/// The exit code of what this machine does not allow.
const NOT_HERE: u8 = 4;

/// Breaks clusters on purpose, and says what held.
#[derive(Debug, Parser)]
#[command(name = "docent-chaos", version, after_help = EXIT_CODES)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Text for people or one JSON document on stdout
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Text
    Text,
    /// One JSON document on stdout; everything else on stderr
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every scenario that there should be, and whether it is there
    List,
    /// Run a scenario: in a lab of its own, or on a cluster that you name
    Run(run::Args),
    /// Judge a recorded history, wherever it is from
    Check(check::Args),
    /// Run what a history records once more: the same seed, the same faults at the same times
    Replay(run::ReplayArgs),
    /// Many simulated clusters and every lab scenario once
    Suite(suite::Args),
}

/// How a command ended that did what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Passed,
    Failed,
}

/// Wrong usage or a wrong file, or what is refused: nothing was done.
#[derive(Debug)]
struct Refused(anyhow::Error);

impl std::fmt::Display for Refused {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{:#}", self.0)
    }
}

impl std::error::Error for Refused {}

/// What needs more than this machine allows, such as root.
#[derive(Debug)]
struct NotHere(String);

impl std::fmt::Display for NotHere {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "this machine does not allow it: {}", self.0)
    }
}

impl std::error::Error for NotHere {}

fn refuse<E: Into<anyhow::Error>>(error: E) -> anyhow::Error {
    anyhow::Error::new(Refused(error.into()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ending = match args.command {
        Command::List => list::list(args.output),
        Command::Run(run) => run::run(&run, args.output),
        Command::Check(check) => check::check(&check, args.output),
        Command::Replay(replay) => run::replay(&replay, args.output),
        Command::Suite(suite) => suite::suite(&suite, args.output),
    };
    match ending {
        Ok(Ending::Passed) => ExitCode::SUCCESS,
        Ok(Ending::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("docent-chaos: {error:#}");
            ExitCode::from(match error {
                error if error.is::<Refused>() => 2,
                error if error.is::<NotHere>() => NOT_HERE,
                _ => 3,
            })
        }
    }
}
