//! `docent-sabotage`: puts a build with planted bugs before the worlds and prints which bug was caught, by whom, and after how many runs.

use anyhow::Result;
use clap::Parser;
use docent_chaos::prove::{Subject, carry_out, drive};
use std::path::PathBuf;
use std::process::ExitCode;

/// Proves the provers: every planted bug must be caught, and the same build without a bug must pass.
#[derive(Debug, Parser)]
struct Args {
    /// The build with the planted bugs
    #[arg(long, default_value = "target/sabotage/docent", value_name = "FILE")]
    binary: PathBuf,
    /// Only this bug; may be repeated
    #[arg(long = "bug", value_name = "NAME")]
    bugs: Vec<String>,
    /// Without the runs that have no bug
    #[arg(long)]
    no_control: bool,
    /// Writes the table as JSON as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs one probe in this process, as the table's runs do, and prints what it found as JSON
    #[arg(long, value_name = "NAME", conflicts_with = "bugs")]
    probe: Option<String>,
    /// The number of that probe's round
    #[arg(long, default_value_t = 1)]
    round: u64,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(name) = &args.probe {
        let found = carry_out(name, &Subject { binary: Some(args.binary), round: args.round })?;
        println!("{}", serde_json::to_string(&found)?);
        return Ok(ExitCode::SUCCESS);
    }
    let table = drive::run(&args.binary, &args.bugs, !args.no_control)?;
    println!("{table}");
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&table)?)?;
    }
    Ok(if table.is_proof() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
