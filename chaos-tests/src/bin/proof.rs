//! `make proof`: five minutes for a sceptic. This program keeps a cluster of six processes and does to it what `proof/sceptic.py` orders:
//! trains, kills a node with `kill -9` in the middle of it, wipes its disk, puts a new node in its place. What clients see is noted by that
//! script and judged by `proof/judge.py`, neither of which shares code with us. Ends with 0 when the judge says green.
#![allow(clippy::disallowed_methods, reason = "the proof drives real processes in real time")]

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use docent_chaos::docs;
use docent_chaos::lab::{self, Lab, Options};
use docent_chaos::leaders;
use nix::sys::signal::{SigSet, Signal};
use serde_json::Value;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Nodes of the cluster; as many coordinators.
const NODES: usize = 3;
/// How long the viewer may think about the victim.
const CHOICE: Duration = Duration::from_secs(20);
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster under a sceptic's eyes: a node dies in the middle of a training and loses its disk; nothing else may be lost.
#[derive(Debug, Parser)]
struct Args {
    /// The node that dies, 1 to 3 [default: asked for on a terminal, else the one that leads most shards]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=NODES as i64))]
    victim: Option<u8>,
    /// What the members run [default: the docent beside this program]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Keep ledger, answers and exports in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Small data and short pauses, for a test
    #[arg(long)]
    short: bool,
}

/// What does the sceptic's orders.
struct Keeper {
    lab: Lab,
    /// Chosen by the viewer before anything is known.
    victim: Option<u8>,
    /// The job that is under way.
    job: Option<u64>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    // Ctrl-C is for the script; when it ends, the cluster is stopped in order.
    SigSet::from(Signal::SIGINT).thread_block()?;
    let started = Instant::now();
    let nodes = NODES;
    println!("starting {NODES} coordinators and {NODES} nodes, each a process of its own");
    let lab = Lab::start(&Options { nodes, coordinators: NODES, binary: args.binary.clone(), ..Options::default() })?;
    let dir = args.keep.clone().unwrap_or_else(|| lab.dir().join("proof"));
    std::fs::create_dir_all(&dir)?;
    let mut keeper = Keeper { lab, victim: args.victim, job: None };
    let is_seen = keeper.serve(&dir, args.short)?;
    let is_green = is_seen && script("judge.py").arg(&dir).status().context("python3 judge.py")?.success();
    drop(keeper);
    if let Some(dir) = args.keep {
        println!(
            "{0}: ledger, answers and exports; `python3 chaos-tests/proof/judge.py {0}` judges them again",
            dir.display()
        );
    }
    println!("{:.0} s; every process is stopped", started.elapsed().as_secs_f64());
    Ok(if is_green { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn script(name: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(docs::root().join("chaos-tests/proof").join(name));
    command
}

/// A child that does not outlive this program's interest.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        // One that has ended by itself is what we want.
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

impl Keeper {
    /// Runs the script and does what it orders. Whether it came to its end.
    fn serve(&mut self, dir: &Path, is_short: bool) -> Result<bool> {
        let nodes = self.lab.nodes.iter().map(|node| format!("{}={}", node.name, node.query_addr));
        let mut command = script("sceptic.py");
        command.arg(dir).arg(lab::docent()?).args(nodes).stdin(Stdio::piped()).stdout(Stdio::piped());
        if is_short {
            command.env("SHORT", "1");
        }
        let mut running = Script(command.spawn().context("python3 sceptic.py: is python3 installed?")?);
        let mut answers = running.0.stdin.take().context("no pipe to the script")?;
        let said = running.0.stdout.take().context("no pipe from the script")?;
        for line in BufReader::new(said).lines() {
            let line = line?;
            let Some(order) = line.strip_prefix('!') else {
                println!("{line}");
                continue;
            };
            let done = self.obey(order).with_context(|| format!("{order}\n{}", self.lab.logs(8)))?;
            writeln!(answers, "{done}")?;
        }
        let status = running.0.wait()?;
        if !status.success() {
            println!("RED: the script ended with {status}");
        }
        Ok(status.success())
    }

    /// Does what the script orders; what it is told.
    fn obey(&mut self, order: &str) -> Result<String> {
        match order.split_whitespace().collect::<Vec<_>>()[..] {
            ["choose", ..] => self.choose(),
            ["train", epochs] => self.train(epochs, true).map(|_| "done".to_owned()),
            ["begin", "training", epochs] => self.begin_training(epochs),
            ["kill", name] => self.kill(name),
            ["replace", name] => self.replace(name),
            ["finish", "training"] => self.finish_training(),
            _ => bail!("an unknown order: {order}"),
        }
    }

    /// The viewer's choice, else the node that leads most user shards: those take the events.
    fn choose(&self) -> Result<String> {
        let led = |index: usize| leaders::replicas(&self.lab.client(index)).map(|own| leaders::led(&own));
        let led: Vec<Vec<u64>> = (0..NODES).map(led).collect::<Result<_>>()?;
        let of_users =
            |index: usize| led[index].iter().filter(|group| leaders::shard(**group).starts_with("users")).count();
        let counts: Vec<usize> = (0..NODES).map(of_users).collect();
        let most = (0..NODES).max_by_key(|index| (counts[*index], led[*index].len())).unwrap_or(0);
        let chosen = match self.victim {
            Some(number) => usize::from(number) - 1,
            None if std::io::stdin().is_terminal() => ask_viewer(&counts).unwrap_or(most),
            None => most,
        };
        let name = self.lab.nodes[chosen].name.clone();
        println!(
            "{:11}{name} shall die: it leads {} of {} user shards",
            "",
            counts[chosen],
            counts.iter().sum::<usize>()
        );
        Ok(name)
    }

    fn train(&self, epochs: &str, waits: bool) -> Result<String> {
        let mut arguments =
            vec!["train", "--dim", "16", "--epochs", epochs, "--holdout", "0", "--seed", "7", "--output", "json"];
        arguments.extend(waits.then_some("--wait"));
        self.lab.docent(&arguments)
    }

    /// Starts a job and returns when it is well under way.
    fn begin_training(&mut self, epochs: &str) -> Result<String> {
        self.train(epochs, false)?;
        let newest = self.jobs()?.iter().filter_map(|job| job["id"].as_u64()).max().context("there is no job")?;
        self.job = Some(newest);
        let enough = epochs.parse::<u64>()? / 20;
        let epoch = |job: &Value| job["progress"]["epoch"].as_u64().unwrap_or(0);
        let job =
            self.wait("the training's progress", |keeper| Ok(Some(keeper.job()?).filter(|job| epoch(job) >= enough)))?;
        ensure!(job["state"] == "running", "the training ended too early: {job}");
        Ok(format!("epoch {} of {epochs}, led by node {}", epoch(&job), job["driver"]))
    }

    /// Waits until the model of the job is live on every node, and every shard has all its replicas.
    fn finish_training(&mut self) -> Result<String> {
        let job = self.wait("the end of the training", |keeper| {
            Ok(Some(keeper.job()?).filter(|job| job["state"] != "running" && job["state"] != "queued"))
        })?;
        ensure!(job["state"] == "succeeded", "the training failed: {job}");
        let version = job["version"].clone();
        self.wait("the new model on every node, and every replica in its place", |keeper| {
            let live = |index: usize| -> Result<bool> {
                let models = keeper.get(index, "/v1/models", "models")?;
                Ok(models.iter().any(|model| model["state"] == "live" && model["version"] == version))
            };
            let is_live = keeper.living().into_iter().map(live).collect::<Result<Vec<_>>>()?.into_iter().all(|is| is);
            let shards = keeper.get(keeper.living()[0], "/v1/cluster", "shards")?;
            let is_at_rest = shards.iter().all(|shard| shard["move"].is_null());
            Ok((is_live && is_at_rest).then_some(()))
        })?;
        self.lab.wait_ready(PATIENCE)?;
        Ok(format!("training has finished in attempt {}, version {version} is live on every node", job["attempt"]))
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.lab.nodes.iter().position(|node| node.name == name).with_context(|| format!("there is no {name}"))
    }

    fn kill(&mut self, name: &str) -> Result<String> {
        let index = self.index(name)?;
        self.lab.nodes[index].kill()?;
        std::fs::remove_dir_all(self.lab.dir().join(name)).with_context(|| format!("the disk of {name}"))?;
        Ok("done".to_owned())
    }

    /// Strikes a dead node off and starts a new one, with a token and an empty disk of its own; its name and address.
    fn replace(&mut self, name: &str) -> Result<String> {
        let address = self.lab.nodes[self.index(name)?].query_addr.clone();
        let member = |keeper: &Keeper| -> Result<Value> {
            let nodes = keeper.get(keeper.living()[0], "/v1/cluster", "nodes")?;
            nodes
                .into_iter()
                .find(|node| node["query_addr"] == address.as_str())
                .with_context(|| format!("{name} is no member"))
        };
        let dead = self.wait("the cluster's finding out", |keeper| {
            Ok(Some(member(keeper)?).filter(|node| node["is_alive"] == false))
        })?;
        self.lab.docent(&["nodes", "remove", &dead["id"].to_string()])?;
        self.lab.add_node()?;
        let new = self.lab.nodes.last().context("no node was added")?;
        Ok(format!("{}={}", new.name, new.query_addr))
    }

    fn living(&self) -> Vec<usize> {
        self.lab.nodes.iter().enumerate().filter(|(_, node)| node.pid().is_some()).map(|(index, _)| index).collect()
    }

    /// A list that a node gives.
    fn get(&self, index: usize, path: &str, key: &str) -> Result<Vec<Value>> {
        let (status, mut body) = self.lab.client(index).get(path)?;
        ensure!(status == 200, "{} answered {status} to {path}: {body}", self.lab.nodes[index].name);
        match body[key].take() {
            Value::Array(list) => Ok(list),
            other => Err(anyhow!("{path} has no list of {key}: {other}")),
        }
    }

    fn jobs(&self) -> Result<Vec<Value>> {
        self.get(self.living()[0], "/v1/jobs", "jobs")
    }

    fn job(&self) -> Result<Value> {
        let job = self.jobs()?.into_iter().find(|job| job["id"].as_u64() == self.job);
        job.with_context(|| format!("there is no job {:?}", self.job))
    }

    /// Looks until there is something. Looks that fail are repeated too: leaders change while we look.
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&Keeper) -> Result<Option<T>>) -> Result<T> {
        let start = Instant::now();
        loop {
            let seen = look(self);
            if let Ok(Some(found)) = seen {
                return Ok(found);
            }
            if start.elapsed() > PATIENCE {
                return Err(seen.err().unwrap_or_else(|| anyhow!("waited in vain")))
                    .context(format!("{what} took more than {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_millis(50)); // between polls of another process
        }
    }
}

/// Asks who shall die; `None` where no number of a node comes in time.
fn ask_viewer(led: &[usize]) -> Option<usize> {
    let list = led
        .iter()
        .enumerate()
        .map(|(index, led)| format!("{} (leads {led} user shards)", index + 1))
        .collect::<Vec<_>>()
        .join(", ");
    print!("           which node shall die? {list}; Enter or {} s for the one that leads most: ", CHOICE.as_secs());
    std::io::stdout().flush().ok()?;
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        tell.send(read.ok().and_then(|_| line.trim().parse::<usize>().ok()))
    });
    let answer = told.recv_timeout(CHOICE).inspect_err(|_| println!());
    answer.ok().flatten()?.checked_sub(1).filter(|index| *index < led.len())
}
