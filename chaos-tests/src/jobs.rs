//! Training jobs, followed from outside as an operator would.

use crate::client::Client;
use crate::lab::{Lab, cpu_seconds};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Queues a job; gives its id.
pub fn start(client: &Client, settings: &Value) -> Result<u64> {
    let (status, body) = client.post("/v1/jobs", settings)?;
    ensure!((200..300).contains(&status), "{status}: {body}");
    body["id"].as_u64().with_context(|| format!("a job without an id: {body}"))
}

/// A job as the cluster lists it.
pub fn job(client: &Client, id: u64) -> Result<Value> {
    let (_, body) = client.get("/v1/jobs")?;
    let jobs = body["jobs"].as_array().context("no jobs")?;
    jobs.iter().find(|job| job["id"] == id).cloned().with_context(|| format!("no job {id}: {body}"))
}

/// Polls a job until `is_there`, in vain for no longer than the guard `within`; a node that does not answer just now is asked again.
pub fn wait(
    client: &Client,
    id: u64,
    what: &str,
    within: Duration,
    mut is_there: impl FnMut(&Value) -> bool,
) -> Result<Value> {
    let start = Instant::now();
    loop {
        let found = job(client, id);
        if let Some(job) = found.as_ref().ok().filter(|job| is_there(job)) {
            return Ok(job.clone());
        }
        if start.elapsed() > within {
            bail!("the job is not {what}: {found:?}");
        }
        std::thread::sleep(Duration::from_millis(20)); // between polls of another process
    }
}

/// Waits for a job's end; gives it when it succeeded.
pub fn finished(client: &Client, id: u64, within: Duration) -> Result<Value> {
    let is_over = |job: &Value| ["succeeded", "failed", "cancelled"].iter().any(|state| job["state"] == *state);
    let job = wait(client, id, "over", within, is_over)?;
    ensure!(job["state"] == "succeeded", "{job}");
    Ok(job)
}

/// Whether a running job has done this share of its passes, rounds or epochs.
pub fn has_done(job: &Value, share: f64) -> bool {
    let count = |name: &str| job["progress"][name].as_f64().unwrap_or(0.0);
    job["state"] == "running" && count("epoch") >= (count("epochs") * share).floor().max(1.0)
}

/// When a finished job's input was linked, and how long each pass of its last model took; in seconds.
pub fn passes(job: &Value) -> Result<(f64, Vec<f64>)> {
    let course = job["course"].as_array().context("a job without a course")?;
    let seconds = |step: &Value| step["seconds"].as_f64().unwrap_or(0.0);
    let linked = course.iter().rfind(|step| step["phase"] == "link").map(seconds);
    let linked = linked.context("a job that was not linked")?;
    let ends: Vec<f64> = course.iter().filter(|step| step["phase"] == "train").map(seconds).collect();
    ensure!(ends.len() as u64 == job["settings"]["epochs"], "a course without its passes: {job}");
    Ok((linked, std::iter::once(&linked).chain(&ends).zip(&ends).map(|(from, to)| to - from).collect()))
}

/// When each step of a finished job's course ended, in one line.
pub fn course(job: &Value) -> String {
    let steps = job["course"].as_array().into_iter().flatten();
    let step = |step: &Value| Some(format!("{} {:.2}", step["phase"].as_str()?, step["seconds"].as_f64()?));
    steps.filter_map(step).collect::<Vec<String>>().join(", ")
}

/// blake3 of every part of a version: of the items' by slot range, then of the global one.
pub fn part_hashes(client: &Client, version: u64) -> Result<Vec<(u64, String)>> {
    let (_, body) = client.get("/v1/models")?;
    let models = body["models"].as_array().context("no models")?;
    let model = models.iter().find(|model| model["version"] == version);
    let model = model.with_context(|| format!("no version {version}: {body}"))?;
    let part = |part: &Value| Some((part["slot_first"].as_u64()?, part["hash"].as_str()?.to_owned()));
    let parts = model["parts"].as_array().context("no parts")?.iter();
    let mut hashes: Vec<_> = parts.map(|p| part(p).context("a part without a hash")).collect::<Result<_>>()?;
    hashes.sort();
    ensure!(hashes.len() >= 64, "{} parts", hashes.len());
    hashes.push(part(&model["global"]).context("no global part")?);
    Ok(hashes)
}

/// Which of the lab's nodes the cluster knows by this id.
pub fn place(lab: &Lab, client: &Client, node: u64) -> Result<usize> {
    let (_, cluster) = client.get("/v1/cluster")?;
    let nodes = cluster["nodes"].as_array().context("no nodes")?;
    let addr = nodes.iter().find(|member| member["id"] == node).map(|member| member["query_addr"].clone());
    let addr = addr.with_context(|| format!("no node {node}: {cluster}"))?;
    lab.nodes.iter().position(|member| addr == member.query_addr).with_context(|| format!("node {node} is not here"))
}

/// CPU seconds of every node that runs, since it began.
pub fn nodes_cpu(lab: &Lab) -> Result<Vec<f64>> {
    lab.nodes.iter().map(|node| node.pid().map_or(Ok(0.0), cpu_seconds)).collect()
}
