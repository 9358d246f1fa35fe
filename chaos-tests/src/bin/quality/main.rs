//! `make quality`: each data set goes into a three-node cluster, each family is trained with settings that were chosen on held-out *training* data
//! (see [`search`]), everybody's top 20 are exported, and our metrics stand beside the independent judge's. Fails where they differ in six digits
//! or where gowalla's are below the acceptance.
#![allow(clippy::disallowed_methods, reason = "a drill measures real processes in real time")]

mod search;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use docent_chaos::cost::load_average;
use docent_chaos::data;
use docent_chaos::datasets::{KNOWN, Split};
use docent_chaos::judge::{self, Figures};
use docent_chaos::lab::{Lab, Options};
use search::{Flags, Found, Model, words};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

/// The cut-off of the protocol.
const K: usize = 20;

/// Trains through a cluster of processes and measures what it recommends.
#[derive(Debug, Parser)]
struct Args {
    /// Data sets of ../shared/data, or directories with train.txt and test.txt (lines `user item item ...`) [default: all of ../shared/data with a
    /// protocol]
    #[arg(long, value_delimiter = ',')]
    data: Vec<String>,
    /// Families to train: ials, graph, softmax, tower, blend
    #[arg(long, value_delimiter = ',', default_value = "ials,graph,softmax,tower,blend")]
    families: Vec<String>,
    /// Dimensions of iALS, sampled softmax, two towers and blends
    #[arg(long, value_delimiter = ',', default_value = "256")]
    dims: Vec<u32>,
    /// Seeds to train each random family with
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Choose gowalla's settings anew too: those of the others always are
    #[arg(long)]
    search: bool,
    /// Generated data alone; the acceptance's figures are not about it
    #[arg(long)]
    generated: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(!args.seeds.is_empty(), "name at least one seed");
    let mut models = Vec::new();
    for family in &args.families {
        match family.as_str() {
            "ials" => models.extend(args.dims.iter().map(|dim| Model::ials(*dim))),
            "graph" => models.push(Model::graph()),
            "softmax" => models.extend(args.dims.iter().map(|dim| Model::softmax(*dim))),
            "tower" => models.extend(args.dims.iter().map(|dim| Model::tower(*dim))),
            "blend" => models.extend(args.dims.iter().map(|dim| Model::blend(*dim))),
            other => bail!("unknown family {other:?}; known: ials, graph, softmax, tower, blend"),
        }
    }
    let known = || KNOWN.iter().filter(|name| data::shared(name).is_some()).map(ToString::to_string).collect();
    let names: Vec<String> = if args.data.is_empty() { known() } else { args.data.clone() };
    let mut wrong = Vec::new();
    if args.generated || names.is_empty() {
        measure(&args, &models, |dir| Split::find(dir, true), &mut wrong)?;
    } else {
        for name in &names {
            measure(&args, &models, |dir| Split::named(dir, name), &mut wrong)?;
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

/// One data set in a cluster of its own.
fn measure(
    args: &Args,
    models: &[Model],
    split: impl FnOnce(&Path) -> Result<Split>,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let lab = Lab::start(&Options::default())?;
    let split = split(lab.dir())?;
    let items = split.items()?;
    println!("{}: {items} items; three coordinators, three nodes, RF 3; load average {}", split.name, load_average());
    import(&lab, &split)?;
    println!(
        "  family         seed train_s export_s   Recall@{K} evaluate.py     NDCG@{K} evaluate.py       HR@{K}    MRR@{K}  equal"
    );
    let mut found = Found::new();
    for model in models {
        let chosen = model.chosen(&lab, split.held_out, args.search || !split.is_gowalla, &mut found)?;
        println!("  docent train --wait --force {}", words(&chosen));
        let seeds = if model.is_random { &args.seeds[..] } else { &args.seeds[..1] };
        let runs = seeds.iter().map(|&seed| run(&lab, &split, items, model, &chosen, seed, wrong));
        let runs: Vec<Figures> = runs.collect::<Result<_>>()?;
        let mean = |of: fn(&Figures) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let (recall, ndcg) = (mean(|run| run.recall), mean(|run| run.ndcg));
        println!("  {:<14} mean of {}: Recall@{K} {recall:.6}, NDCG@{K} {ndcg:.6}", model.name, runs.len());
        if let Some((least, least_ndcg)) = model.least.filter(|_| split.is_gowalla)
            && (recall < least || ndcg < least_ndcg)
        {
            wrong.push(format!("{}: {recall:.6} / {ndcg:.6} is below {least} / {least_ndcg}", model.name));
        }
    }
    lab.complaints().iter().for_each(|line| println!("in a log: {line}"));
    Ok(())
}

fn import(lab: &Lab, split: &Split) -> Result<()> {
    let start = Instant::now();
    let mut command = vec!["--output", "json", "import"];
    command.extend(split.import.iter().map(String::as_str));
    let said: Value = serde_json::from_str(&lab.docent(&command)?)?;
    // A batch whose answer was lost is sent again: its events are there, told as duplicates.
    let told = |outcome: &str| said["sources"][0][outcome].as_u64().with_context(|| format!("no {outcome} in {said}"));
    let (events, seconds) = (told("accepted")? + told("duplicate")?, start.elapsed().as_secs_f64());
    println!("  docent import {}: {events} events in {seconds:.1} s", split.import.join(" "));
    Ok(())
}

/// One training: prints its line, notes what is wrong, gives our figures.
fn run(
    lab: &Lab,
    split: &Split,
    items: usize,
    model: &Model,
    chosen: &Flags,
    seed: u64,
    wrong: &mut Vec<String>,
) -> Result<Figures> {
    let (start, seed) = (Instant::now(), seed.to_string());
    let mut command = vec!["train", "--wait", "--force", "--seed", &seed];
    command.extend(chosen.iter().flat_map(|(flag, value)| [*flag, value.as_str()]));
    lab.docent(&command)?;
    let (trained, start) = (start.elapsed().as_secs_f64(), Instant::now());
    let predicted = lab.dir().join("predicted");
    lab.docent(&["export", "recommendations", "-n", &K.to_string(), "--out", text(&predicted)?])?;
    let exported = start.elapsed().as_secs_f64();
    let ours = judge::ours(&predicted, &split.train, &split.test, K)?;
    let judge = judge::independent(&predicted, &split.train, &split.test, K, items)?;
    let (theirs, verdict) = match &judge {
        Some(judge) => (*judge, if ours.equals(judge) { "yes" } else { "NO" }),
        None => (Figures { recall: f64::NAN, ndcg: f64::NAN, ..ours }, "no judge here"),
    };
    println!(
        "  {name:<14} {seed:>4} {trained:>7.1} {exported:>8.1}    {:>8.6}    {:>8.6}    {:>8.6}    {:>8.6}    {:>8.6} {:>9.6}  {verdict}",
        ours.recall,
        theirs.recall,
        ours.ndcg,
        theirs.ndcg,
        ours.hit_rate,
        ours.mrr,
        name = model.name,
    );
    if verdict == "NO" {
        wrong.push(format!("{} seed {seed}: ours {ours:?}, evaluate.py's {judge:?}", model.name));
    }
    Ok(ours)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}
