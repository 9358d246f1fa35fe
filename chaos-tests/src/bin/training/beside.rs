//! Docent and implicit in turn, on the same pairs with the same factors, iterations and threads; each with settings of its own, chosen on held-out
//! training pairs.
//!
//! Each of ours is followed by one of implicit's, and their ratio is what counts: both had the same neighbours. Our seconds are the job's: from pinned
//! shards to stored parts, with reading and sorting the events; those of its passes alone stand beside them, because implicit's are of `fit`
//! alone, from a matrix in memory.

use crate::{Args, THREADS, text};
use anyhow::{Context, Result, ensure};
use docent_chaos::cost::{load_average, median};
use docent_chaos::datasets::Split;
use docent_chaos::jobs;
use docent_chaos::judge::{self, Figures};
use docent_chaos::lab::{Lab, Options};
use docent_chaos::tuned::{Ials, Implicit};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The cut-off of the protocol.
const K: usize = 20;

/// What one system took and reached, over the repeats.
#[derive(Default)]
struct Runs {
    seconds: Vec<f64>,
    /// Of its passes.
    passes: Vec<f64>,
    /// When each phase of the slowest ended.
    slowest: String,
    figures: Vec<Figures>,
}

impl Runs {
    fn push(&mut self, (seconds, passes, course, figures): (f64, f64, String, Figures)) {
        if self.seconds.iter().all(|earlier| *earlier < seconds) {
            self.slowest = course;
        }
        self.seconds.push(seconds);
        self.passes.push(passes);
        self.figures.push(figures);
    }

    fn mean(&self, of: fn(&Figures) -> f64) -> f64 {
        self.figures.iter().map(of).sum::<f64>() / self.figures.len() as f64
    }

    fn line(&self, name: &str, dim: u32) {
        let (low, high) =
            self.seconds.iter().fold((f64::INFINITY, 0.0f64), |(low, high), s| (low.min(*s), high.max(*s)));
        let (recall, ndcg) = (self.mean(|run| run.recall), self.mean(|run| run.ndcg));
        println!(
            "{dim:>4}  {name:<26} {:>8.2} ({low:.2} to {high:.2})  {:>6.2}   {recall:.6}  {ndcg:.6}",
            median(&self.seconds),
            median(&self.passes),
        );
    }
}

/// On one node, then on three.
pub(crate) fn run(args: &Args, split: &Split) -> Result<()> {
    println!("   d  system                      seconds (least to most)  passes  Recall@{K}    NDCG@{K}");
    for nodes in [1, 3] {
        let lab = Lab::start(&Options {
            nodes,
            coordinators: 1,
            replication: nodes,
            node_settings: format!("[train]\nthreads = {THREADS}\n"),
            ..Options::default()
        })?;
        lab.docent(&["import", "adjacency", text(&split.train)?])?;
        for &dim in &args.dims {
            compare(args, &lab, split, dim)?;
        }
        lab.complaints().iter().for_each(|line| println!("in a log: {line}"));
    }
    Ok(())
}

/// Ours and implicit's in turn; prints their lines and the ratio of their times.
fn compare(args: &Args, lab: &Lab, split: &Split, dim: u32) -> Result<()> {
    let (mut ours, mut theirs) = (Runs::default(), Runs::default());
    for seed in 1..=args.repeats {
        ours.push(docent(args, lab, split, dim, seed)?);
        if !args.without_implicit {
            theirs.push(implicit(&args.implicit, lab.dir(), split, dim, seed)?);
        }
    }
    let nodes = lab.nodes.len();
    ours.line(
        &format!("docent, {nodes} node{}, {} epochs", if nodes == 1 { "" } else { "s" }, Ials::of(dim).epochs),
        dim,
    );
    println!("      phases of its slowest round ended at (s): {}", ours.slowest);
    if !args.without_implicit {
        theirs.line(&format!("implicit 0.7.3, {} iter.", Ials::of(dim).epochs), dim);
        let ratio =
            |of: &[f64]| median(&theirs.seconds.iter().zip(of).map(|(theirs, ours)| theirs / ours).collect::<Vec<_>>());
        println!(
            "      implicit / docent, round by round: {:.2} of the job, {:.2} of its passes (medians); load average {}",
            ratio(&ours.seconds),
            ratio(&ours.passes),
            load_average()
        );
    }
    Ok(())
}

/// Seconds of the job and of its passes, when its phases ended, and what everybody's best items are worth.
fn docent(args: &Args, lab: &Lab, split: &Split, dim: u32, seed: u64) -> Result<(f64, f64, String, Figures)> {
    let settings = Ials::of(dim).flags(dim, seed);
    let mut command = vec!["--output", "json", "train", "--wait", "--holdout", "0"];
    command.extend(["--row-precision", &args.row_precision]);
    command.extend(settings.iter().map(String::as_str));
    let said: Value = serde_json::from_str(&lab.docent(&command)?)?;
    let seconds = said["job"]["progress"]["seconds"].as_f64().with_context(|| format!("no seconds: {said}"))?;
    let id = said["job"]["id"].as_u64().with_context(|| format!("no id: {said}"))?;
    let job = jobs::job(&lab.client(0), id)?;
    let (_, passes) = jobs::passes(&job)?;
    let out = lab.dir().join(format!("docent-{dim}-{seed}"));
    lab.docent(&["export", "recommendations", "-n", &K.to_string(), "--out", text(&out)?])?;
    Ok((seconds, passes.iter().sum(), jobs::course(&job), judge::ours(&out, &split.train, &split.test, K)?))
}

fn implicit(installed: &Path, dir: &Path, split: &Split, dim: u32, seed: u64) -> Result<(f64, f64, String, Figures)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/baselines/implicit_als.py");
    let out = dir.join(format!("implicit-{dim}-{seed}"));
    let Implicit { alpha, regularization } = Implicit::of(dim);
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", installed).env("OPENBLAS_NUM_THREADS", "1").arg(script);
    command.args(["--train", text(&split.train)?, "--out", text(&out)?, "--factors", &dim.to_string()]);
    command.args([
        "--iterations",
        &Ials::of(dim).epochs.to_string(),
        "--seed",
        &seed.to_string(),
        "--threads",
        THREADS,
    ]);
    command.args(["--alpha", &alpha.to_string(), "--regularization", &regularization.to_string()]);
    let output = command.output().context("python3")?;
    ensure!(output.status.success(), "implicit: {}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let seconds = said["seconds"].as_f64().with_context(|| format!("no seconds: {said}"))?;
    Ok((seconds, seconds, String::new(), judge::ours(&out, &split.train, &split.test, K)?))
}
