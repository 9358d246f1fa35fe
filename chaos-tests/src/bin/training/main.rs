//! `make bench-training`: how long iALS takes on one node and on three of the same machine, beside implicit's ALS from PyPI; with `--live`, what
//! training does to the queries of a cluster that serves meanwhile, with `--scaling` what a sample costs on one to four nodes, with `--kills` what a
//! killed node costs a job, and with `--size` how a pass grows with the events.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real processes in real time")]

mod beside;
mod kills;
mod live;
mod scaling;
mod size;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use docent_chaos::cost::load_average;
use docent_chaos::datasets::Split;
use std::path::{Path, PathBuf};

/// Of every system.
const THREADS: &str = "2";

/// Trains the same model with Docent and with implicit, side by side.
#[derive(Debug, Parser)]
struct Args {
    /// Dimensions
    #[arg(long, value_delimiter = ',', default_value = "64,128,256")]
    dims: Vec<u32>,
    /// Times that each is trained, or that queries are measured
    #[arg(long, default_value_t = 3)]
    repeats: u64,
    /// Where `.ci/implicit` put it
    #[arg(long, default_value = "target/implicit")]
    implicit: PathBuf,
    /// Docent alone
    #[arg(long)]
    without_implicit: bool,
    /// Queries of a cluster that trains meanwhile
    #[arg(long, conflicts_with = "scaling")]
    live: bool,
    /// CPU time and bytes of a sample on one to four nodes, each with a network of its own (needs root)
    #[arg(long)]
    scaling: bool,
    /// CPU time of jobs in the middle of which a node or the coordinators are killed
    #[arg(long, conflicts_with_all = ["live", "scaling"])]
    kills: bool,
    /// How a pass grows from 5 to 50 million events of a million users and 200,000 items, on three nodes
    #[arg(long, conflicts_with_all = ["live", "scaling", "kills"])]
    size: bool,
    /// With --size: millions of events
    #[arg(long, value_delimiter = ',', default_value = "5,15,50", requires = "size")]
    millions: Vec<u32>,
    /// With --kills: families (ials, graph, softmax, tower); with --scaling: ials, softmax; all where none is named
    #[arg(long, value_delimiter = ',')]
    families: Vec<String>,
    /// With --kills: least milliseconds between two checkpoints
    #[arg(long, default_value_t = 2_000, requires = "kills")]
    checkpoint_ms: u64,
    /// With --live: queries a second
    #[arg(long, default_value_t = 100.0, requires = "live")]
    rate: f64,
    /// With --live: how long queries are measured, idle and while training
    #[arg(long, default_value_t = 20, requires = "live")]
    seconds: u64,
    /// With --live: how far training steps back behind serving, one cluster each
    #[arg(long, value_delimiter = ',', default_value = "10,20", requires = "live")]
    niceness: Vec<u8>,
    /// What ours rounds rows to between half passes: f32 or bf16
    #[arg(long, default_value = "f32")]
    row_precision: String,
    /// Generated data even where gowalla is here
    #[arg(long)]
    generated: bool,
}

impl Args {
    /// Whether a family is to be measured.
    fn asks(&self, family: &str) -> bool {
        self.families.is_empty() || self.families.iter().any(|asked| asked == family)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.families.is_empty() || args.kills || args.scaling, "--families goes with --kills or --scaling");
    ensure!(args.repeats > 0 && !args.dims.is_empty(), "name at least one repeat and one dimension");
    if args.size {
        return size::run(&args);
    }
    let dir = tempfile::Builder::new().prefix("docent-bench-training-").tempdir()?;
    let split = Split::find(dir.path(), args.generated)?;
    let threads = if args.scaling { scaling::THREADS_OF_NODE } else { THREADS };
    println!("{}; {} rounds; threads of a node: {threads}; load average {}", split.name, args.repeats, load_average());
    match (args.live, args.scaling) {
        (true, _) => live::run(&args, &split),
        (_, true) => scaling::run(&args, &split),
        _ if args.kills => kills::run(&args, &split),
        _ => beside::run(&args, &split),
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}
