//! Queries through all nodes, with nothing else to do and while a job runs, and the elections that it caused.

use crate::{Args, THREADS, text};
use anyhow::{Context, Result, bail, ensure};
use docent_chaos::client::Client;
use docent_chaos::cost::{load_average, median};
use docent_chaos::datasets::Split;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::leaders;
use docent_chaos::lists;
use docent_chaos::load::{Outcome, open_loop};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many times the idle p99 that of a training cluster may be.
const RATIO_MAX: f64 = 3.0;

/// Idle and training in turn, for each niceness and each of the dimensions. What is wrong with the last niceness, docent's own, fails it.
pub(crate) fn run(args: &Args, split: &Split) -> Result<()> {
    let mut wrong = Vec::new();
    for niceness in &args.niceness {
        println!("\n[train] niceness = {niceness}");
        wrong = cluster(args, split, *niceness)?;
        wrong.iter().for_each(|wrong| println!("{wrong}"));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

/// What is wrong with a cluster that trains so.
fn cluster(args: &Args, split: &Split, niceness: u8) -> Result<Vec<String>> {
    let node_settings = format!("[train]\nthreads = {THREADS}\nniceness = {niceness}\n");
    let lab = Lab::start(&Options { node_settings, ..Options::default() })?;
    lab.docent(&["import", "adjacency", text(&split.train)?])?;
    lab.docent(&["train", "--wait", "--dim", "64", "--epochs", "4", "--holdout", "0"])?;
    let users: Vec<String> = lists::read(&split.train)?.into_keys().collect();
    println!("three coordinators, three nodes, RF 3; {}/s through all nodes, {} s at a time", args.rate, args.seconds);
    println!("   d  round      idle p50      p99  training p50      p99   ratio of p99  epochs  elections");
    let mut wrong = Vec::new();
    for &dim in &args.dims {
        let mut ratios = Vec::new();
        for round in 1..=args.repeats {
            let idle = queries(args, &lab, &users)?;
            let before = terms(&lab)?;
            let (job, first) = start(&lab, dim)?;
            let busy = queries(args, &lab, &users)?;
            let epochs = stop(&lab, job)? - first;
            let elections: u64 =
                terms(&lab)?.iter().map(|(group, term)| term - before.get(group).unwrap_or(term)).sum();
            let ratio = busy.percentile_ms(0.99) / idle.percentile_ms(0.99);
            println!(
                "{dim:>4}  {round:>5}  {:>9.1} ms {:>5.1} ms  {:>9.1} ms {:>5.1} ms  {ratio:>13.2}  {epochs:>6}  {elections:>9}",
                idle.percentile_ms(0.5),
                idle.percentile_ms(0.99),
                busy.percentile_ms(0.5),
                busy.percentile_ms(0.99),
            );
            ratios.push(ratio);
            if elections > 0 {
                wrong.push(format!("d={dim}: {elections} elections while a job ran"));
            }
            let failures = [idle, busy].into_iter().flat_map(|outcome| outcome.failures).collect::<Vec<_>>();
            if let Some(failure) = failures.first() {
                wrong.push(format!("d={dim}: {} queries failed, such as: {failure}", failures.len()));
            }
        }
        println!("      median ratio {:.2} (under {RATIO_MAX}); load average {}", median(&ratios), load_average());
        if median(&ratios) >= RATIO_MAX {
            wrong.push(format!("d={dim}: p99 is {:.2} times the idle one, not under {RATIO_MAX}", median(&ratios)));
        }
    }
    lab.complaints().iter().for_each(|line| println!("in a log: {line}"));
    Ok(wrong)
}

fn queries(args: &Args, lab: &Lab, users: &[String]) -> Result<Outcome> {
    let clients: Vec<Client> = (0..lab.nodes.len()).map(|node| lab.client(node)).collect();
    open_loop(args.rate, Duration::from_secs(args.seconds), |number| {
        let user = &users[number * 7_919 % users.len()];
        let answer = clients[number % clients.len()].recommend_with(json!({ "user_id": user, "n": 10 }))?;
        ensure!(answer["coverage"]["asked"] == answer["coverage"]["answered"], "partial: {}", answer["coverage"]);
        Ok(())
    })
}

/// Starts a job that ends when it is told to; its number, and how many epochs it had done when it was under way.
fn start(lab: &Lab, dim: u32) -> Result<(u64, u64)> {
    let settings = json!({ "dim": dim, "epochs": 1000, "holdout": 0.0, "activate": false });
    let (status, body) = lab.client(0).post("/v1/jobs", &settings)?;
    ensure!(status == 200, "the job was not taken: {status} {body}");
    let (job, start) = (body["id"].as_u64().context("a job without a number")?, Instant::now());
    loop {
        let epoch = progress(lab, job)?;
        if epoch > 0 {
            return Ok((job, epoch));
        }
        ensure!(start.elapsed() < Duration::from_secs(120), "job {job} does not get under way");
        std::thread::sleep(Duration::from_millis(50)); // between polls of another process
    }
}

/// Ends the job, which must still run; how many epochs it had done.
fn stop(lab: &Lab, job: u64) -> Result<u64> {
    let epoch = progress(lab, job)?;
    let (status, body) = lab.client(0).post(&format!("/v1/jobs/{job}:cancel"), &json!({}))?;
    ensure!(status == 200, "the job was not cancelled: {status} {body}");
    Ok(epoch)
}

fn progress(lab: &Lab, job: u64) -> Result<u64> {
    let (_, body) = lab.client(0).get("/v1/jobs")?;
    let found = body["jobs"].as_array().and_then(|jobs| jobs.iter().find(|listed| listed["id"] == job));
    let job: &Value = found.with_context(|| format!("no job {job}: {body}"))?;
    ensure!(
        job["error"].is_null() && (job["state"] == "running" || job["state"] == "queued"),
        "it does not run: {job}"
    );
    Ok(job["progress"]["epoch"].as_u64().unwrap_or(0))
}

/// The highest term of each raft group: it rises with every election.
fn terms(lab: &Lab) -> Result<BTreeMap<u64, u64>> {
    let mut terms = BTreeMap::new();
    for node in 0..lab.nodes.len() {
        for (group, replica) in leaders::replicas(&lab.client(node))? {
            let term: &mut u64 = terms.entry(group).or_default();
            *term = replica.term.max(*term);
        }
    }
    Ok(terms)
}
