//! How the time of a pass grows with the events: a million users and 200,000 items on three nodes, each event generated.

use crate::scaling::peak_mib;
use crate::{Args, THREADS};
use anyhow::{Context, Result, bail};
use docent_chaos::cost::load_average;
use docent_chaos::jobs;
use docent_chaos::lab::{Lab, Options};
use docent_chaos::tuned::Ials;
use std::time::{Duration, Instant};

const USERS: &str = "1000000";
const ITEMS: &str = "200000";
/// Passes: the first includes what the allocator and the caches have to get used to.
const EPOCHS: u32 = 3;
/// Far above what a job takes.
const GUARD: Duration = Duration::from_secs(3_600);

/// One cluster for each number of events.
pub(crate) fn run(args: &Args) -> Result<()> {
    let &[dim] = args.dims.as_slice() else { bail!("--size takes one dimension: --dims 64") };
    println!(
        "{USERS} users, {ITEMS} items; d = {dim}, {EPOCHS} passes; three nodes, RF 1; load average {}",
        load_average()
    );
    println!(
        "     events  import s  positives  load+link s  s/pass (each)             s/pass/M events  most MiB of a node"
    );
    let mut each: Vec<(f64, f64)> = Vec::new();
    for &millions in &args.millions {
        let (events, per_pass) = cluster(dim, millions)?;
        each.push((events, per_pass));
    }
    if let [(few, short), .., (many, long)] = each.as_slice() {
        println!(
            "{:.1} times the events take {:.2} times as long a pass; load average {}",
            many / few,
            long / short,
            load_average()
        );
    }
    Ok(())
}

fn cluster(dim: u32, millions: u32) -> Result<(f64, f64)> {
    let node_settings = format!("[train]\nthreads = {THREADS}\n");
    let lab = Lab::start(&Options { coordinators: 1, replication: 1, node_settings, ..Options::default() })?;
    let events = format!("{millions}000000");
    let import = ["import", "generated", "--users", USERS, "--items", ITEMS, "--events", &events, "--seed", "1"];
    let start = Instant::now();
    lab.docent(&import)?;
    let import_s = start.elapsed().as_secs_f64();
    let settings = serde_json::json!({
        "dim": dim, "epochs": EPOCHS, "holdout": 0.0, "activate": false,
        "regularization": Ials::of(dim).regularization, "unobserved_weight": Ials::of(dim).unobserved_weight,
    });
    let id = jobs::start(&lab.client(0), &settings)?;
    let job = jobs::finished(&lab.client(0), id, GUARD)?;
    let (linked, passes) = jobs::passes(&job)?;
    let per_pass = passes.iter().sum::<f64>() / f64::from(EPOCHS);
    let peak = lab.nodes.iter().map(peak_mib).try_fold(0.0, |most, peak| peak.map(|peak| f64::max(most, peak)))?;
    let positives = positives(&lab, job["version"].as_u64().unwrap_or(0))?;
    let shown: Vec<String> = passes.iter().map(|pass| format!("{pass:.1}")).collect();
    println!(
        "{millions:>9} M  {import_s:>8.0}  {positives:>9.0}  {linked:>11.1}  {per_pass:>6.2} ({:<15})  {:>15.3}  {peak:>15.0}",
        shown.join(", "),
        per_pass / f64::from(millions),
    );
    Ok((f64::from(millions), per_pass))
}

fn positives(lab: &Lab, version: u64) -> Result<f64> {
    let (_, listed) = lab.client(0).get("/v1/models")?;
    let models = listed["models"].as_array().context("no models")?;
    let model = models.iter().find(|model| model["version"] == version).context("the job's version is not there")?;
    model["metrics"]["positives"].as_f64().context("a model without its positives")
}
