//! `make quality`: a three-node cluster imports gowalla, trains, exports everybody's top 20, and our metrics stand beside the
//! independent judge's. Fails where they differ in six digits or where Recall@20 is below the acceptance.
//! The settings were chosen on held-out *training* data (`docent_chaos::tuned`).
#![allow(clippy::disallowed_methods, reason = "a drill measures real processes in real time")]

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use docent_chaos::cost::load_average;
use docent_chaos::judge::{self, Figures};
use docent_chaos::lab::{Lab, Options};
use docent_chaos::lists::Split;
use docent_chaos::tuned::Ials;
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// The cut-off of the protocol.
const K: usize = 20;

/// Trains through a cluster of processes and measures what it recommends.
#[derive(Debug, Parser)]
struct Args {
    /// Dimensions to train
    #[arg(long, value_delimiter = ',', default_value = "64,128")]
    dims: Vec<u32>,
    /// Seeds to train each with
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Generated data even where gowalla is here; the acceptance's figures are not about it
    #[arg(long)]
    generated: bool,
}

/// The least mean Recall@20 on gowalla.
fn least(dim: u32) -> Option<f64> {
    match dim {
        64 => Some(0.150),
        128 => Some(0.163),
        _ => None,
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(!args.seeds.is_empty() && !args.dims.is_empty(), "name at least one seed and one dimension");
    let lab = Lab::start(&Options::default())?;
    let split = Split::find(lab.dir(), args.generated)?;
    let items = split.items()?;
    println!("{}: {items} items; three coordinators, three nodes, RF 3; load average {}", split.name, load_average());
    import(&lab, &split)?;
    println!("docent export recommendations -n {K} --out FILE");
    println!(
        "  d epochs seed train_s export_s   Recall@{K} evaluate.py     NDCG@{K} evaluate.py       HR@{K}    MRR@{K}  equal"
    );
    let mut wrong = Vec::new();
    for &dim in &args.dims {
        println!(
            "docent train --wait --holdout 0 {} (and the other seeds)",
            Ials::of(dim).flags(dim, args.seeds[0]).join(" ")
        );
        let runs = args.seeds.iter().map(|&seed| run(&lab, &split, items, dim, seed, &mut wrong));
        let runs: Vec<Figures> = runs.collect::<Result<_>>()?;
        let mean = |of: fn(&Figures) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let (recall, ndcg) = (mean(|run| run.recall), mean(|run| run.ndcg));
        println!("{dim:>3} mean of {} seeds: Recall@{K} {recall:.6}, NDCG@{K} {ndcg:.6}", runs.len());
        if let Some(least) = least(dim).filter(|least| split.is_gowalla && recall < *least) {
            wrong.push(format!("d={dim}: mean Recall@{K} {recall:.6} is below {least}"));
        }
    }
    lab.complaints().iter().for_each(|line| println!("in a log: {line}"));
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

fn import(lab: &Lab, split: &Split) -> Result<()> {
    let start = Instant::now();
    let said = lab.docent(&["--output", "json", "import", "adjacency", text(&split.train)?])?;
    let said: Value = serde_json::from_str(&said)?;
    // A batch whose answer was lost is sent again: its events are there, told as duplicates.
    let told = |outcome: &str| said["sources"][0][outcome].as_u64().with_context(|| format!("no {outcome} in {said}"));
    let (events, seconds) = (told("accepted")? + told("duplicate")?, start.elapsed().as_secs_f64());
    println!("docent import adjacency {}: {events} events in {seconds:.1} s", split.train.display());
    Ok(())
}

/// One training: prints its line, notes what is wrong, gives our figures.
fn run(lab: &Lab, split: &Split, items: usize, dim: u32, seed: u64, wrong: &mut Vec<String>) -> Result<Figures> {
    let (settings, start) = (Ials::of(dim), Instant::now());
    let flags = settings.flags(dim, seed);
    let mut command = vec!["train", "--wait", "--holdout", "0"];
    command.extend(flags.iter().map(String::as_str));
    lab.docent(&command)?;
    let (trained, start) = (start.elapsed().as_secs_f64(), Instant::now());
    let predicted = lab.dir().join(format!("top-{dim}-{seed}"));
    lab.docent(&["export", "recommendations", "-n", &K.to_string(), "--out", text(&predicted)?])?;
    let exported = start.elapsed().as_secs_f64();
    let ours = judge::ours(&predicted, &split.train, &split.test, K)?;
    let judge = judge::independent(&predicted, &split.train, &split.test, K, items)?;
    let (theirs, verdict) = match &judge {
        Some(judge) => (*judge, if ours.equals(judge) { "yes" } else { "NO" }),
        None => (Figures { recall: f64::NAN, ndcg: f64::NAN, ..ours }, "no judge here"),
    };
    println!(
        "{dim:>3} {e:>6} {seed:>4} {trained:>7.1} {exported:>8.1}    {:>8.6}    {:>8.6}    {:>8.6}    {:>8.6}    {:>8.6} {:>9.6}  {verdict}",
        ours.recall,
        theirs.recall,
        ours.ndcg,
        theirs.ndcg,
        ours.hit_rate,
        ours.mrr,
        e = settings.epochs,
    );
    if verdict == "NO" {
        wrong.push(format!("d={dim} seed {seed}: ours {ours:?}, evaluate.py's {judge:?}"));
    }
    Ok(ours)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}
