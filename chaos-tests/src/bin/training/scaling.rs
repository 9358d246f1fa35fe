//! What one more node costs: CPU time and network bytes of a sample (a positive in one pass), and memory of a node, on one to four nodes, each with a
//! network of its own.
//!
//! The least that must travel with histories that stay where they are, of iALS: each pass, every item row once to each other host with a user that has
//! the item, and every user row once to each other owner of an item that the user has, `4 d` bytes each (`2 d` in bf16), and before the first pass the
//! pairs themselves. Of sampled softmax: each step, the row of every item in the histories of its users once to each other host of such a user, those of
//! the negatives once to each other host, and as many gradients back. Hosts ask for these (of softmax gradients come once for each root of a
//! host's virtual workers in the tree, which is one where 2 or 4 hosts share them); the job counts them as `bytes_exchanged`. What the
//! interfaces carried beyond that is framing, acknowledgements, heartbeats.

use crate::{Args, text};
use anyhow::{Context, Result, bail, ensure};
use docent_chaos::cost::{Cost, load_average};
use docent_chaos::datasets::Split;
use docent_chaos::lab::probe::Ground;
use docent_chaos::lab::{Lab, Member, Options};
use docent_chaos::tuned::Ials;
use serde_json::Value;

/// Nodes with as many threads as their one machine has cores would take turns on them and find others' rows in the caches, which is not what a node
/// more costs.
pub(crate) const THREADS_OF_NODE: &str = "1";
/// How many times the least bytes the interfaces may carry.
const BYTES_MAX: f64 = 1.25;
/// The least efficiency on four nodes: CPU time of a sample on one, as a share of that on four.
const EFFICIENCY_MIN: f64 = 0.75;
/// Passes of iALS: enough that the pairs, which travel once, do not hide the rows.
const PASSES: u32 = 10;
/// Epochs of sampled softmax, of 12 steps or more each.
const EPOCHS: u32 = 3;

/// A family with what its jobs are told beside the dimension and the seed.
struct Family {
    name: &'static str,
    epochs: u32,
    rows: String,
}

/// What a job took, per sample.
struct Spent {
    cpu_us: f64,
    bytes: f64,
    least: f64,
    peak_mib: f64,
}

/// One to four nodes, for each of the dimensions.
pub(crate) fn run(args: &Args, split: &Split) -> Result<()> {
    let families = [
        Family { name: "ials", epochs: PASSES, rows: args.row_precision.clone() },
        Family { name: "softmax", epochs: EPOCHS, rows: "f32".to_owned() },
    ];
    let families: Vec<&Family> = families.iter().filter(|family| args.asks(family.name)).collect();
    ensure!(!families.is_empty(), "--scaling measures ials and softmax");
    println!("RF 1, one coordinator; the best of {} rounds by CPU time", args.repeats);
    println!("family       d  nodes  CPU-us/sample  E(n)  bytes/sample  least  ratio  peak MiB a node");
    let mut wrong = Vec::new();
    let mut alone: Vec<f64> = Vec::new();
    let of_family = |family| args.dims.iter().map(move |dim| (family, *dim));
    let cases: Vec<(&Family, u32)> = families.into_iter().flat_map(of_family).collect();
    for nodes in 1..=4 {
        let ground = Ground { network: true, ..Ground::default() };
        let node_settings = format!("[train]\nthreads = {THREADS_OF_NODE}\n");
        let lab = Lab::start(&Options {
            nodes,
            coordinators: 1,
            replication: 1,
            ground,
            node_settings,
            ..Options::default()
        })?;
        lab.docent(&["import", "adjacency", text(&split.train)?])?;
        for (at, &(family, dim)) in cases.iter().enumerate() {
            let rounds = (1..=args.repeats).map(|seed| job(&lab, family, dim, seed)).collect::<Result<Vec<_>>>()?;
            let best = rounds.into_iter().min_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us)).context("no round")?;
            if nodes == 1 {
                alone.push(best.cpu_us);
            }
            // One node needs no network.
            let ratio = if nodes == 1 { 1.0 } else { best.bytes / best.least };
            let efficiency = alone[at] / best.cpu_us;
            println!(
                "{:<12} {dim:>3}  {nodes:>5}  {:>13.3}  {efficiency:>4.2}  {:>12.1}  {:>5.1}  {ratio:>5.3}  {:>15.0}",
                family.title(),
                best.cpu_us,
                best.bytes,
                best.least,
                best.peak_mib
            );
            if ratio > BYTES_MAX {
                let bytes = format!("{ratio:.3} times the least bytes, more than {BYTES_MAX}");
                wrong.push(format!("{} d={dim} on {nodes} nodes: {bytes}", family.title()));
            }
            if nodes == 4 && efficiency < EFFICIENCY_MIN {
                wrong.push(format!("{} d={dim}: E(4) is {efficiency:.2}, below {EFFICIENCY_MIN}", family.title()));
            }
        }
        println!("      load average {}", load_average());
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

impl Family {
    fn title(&self) -> String {
        if self.name == "ials" { format!("{} {}", self.name, self.rows) } else { self.name.to_owned() }
    }

    /// Flags of `docent train`.
    fn flags(&self, dim: u32, seed: u64) -> Vec<String> {
        if self.name == "ials" {
            let mut flags = Ials { epochs: self.epochs, ..Ials::of(dim) }.flags(dim, seed);
            flags.extend(["--row-precision".to_owned(), self.rows.clone()]);
            return flags;
        }
        let flags = [("--algorithm", self.name.to_owned()), ("--dim", dim.to_string()), ("--seed", seed.to_string())];
        let epochs = ("--epochs", self.epochs.to_string());
        flags.into_iter().chain([epochs]).flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }
}

fn job(lab: &Lab, family: &Family, dim: u32, seed: u64) -> Result<Spent> {
    let settings = family.flags(dim, seed);
    let mut command = vec!["--output", "json", "train", "--wait", "--no-activate", "--holdout", "0"];
    command.extend(settings.iter().map(String::as_str));
    let (cost, sent) = (Cost::now(lab)?, sent(lab)?);
    let said: Value = serde_json::from_str(&lab.docent(&command)?)?;
    let (cost, sent) = (Cost::now(lab)?.since(&cost), self::sent(lab)? - sent);
    let figure = |name: &str| said["model"]["metrics"][name].as_f64().with_context(|| format!("no {name}: {said}"));
    let samples = figure("positives")? * f64::from(family.epochs);
    ensure!(samples > 0.0, "nothing was trained on: {said}");
    Ok(Spent {
        cpu_us: cost.members() * 1e6 / samples,
        bytes: sent as f64 / samples,
        least: figure("bytes_exchanged")? / samples,
        peak_mib: lab.nodes.iter().map(peak_mib).sum::<Result<f64>>()? / lab.nodes.len() as f64,
    })
}

/// Bytes that the nodes' interfaces have sent, loopback excepted.
fn sent(lab: &Lab) -> Result<u64> {
    let of_node = |node: &Member| -> Result<u64> {
        let path = format!("/proc/{}/net/dev", node.pid().context("not running")?);
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
        // Eight columns of what was received come before the bytes sent.
        let sent =
            lines.map(|(_, columns)| columns.split_whitespace().nth(8).and_then(|bytes| bytes.parse::<u64>().ok()));
        sent.sum::<Option<u64>>().with_context(|| format!("{path} is laid out otherwise"))
    };
    lab.nodes.iter().map(of_node).sum()
}

/// The most memory that the process ever had.
pub(crate) fn peak_mib(node: &Member) -> Result<f64> {
    let path = format!("/proc/{}/status", node.pid().context("not running")?);
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).context("VmHWM is no number")?;
    Ok(kib / 1024.0)
}
