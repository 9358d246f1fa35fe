//! What a killed node costs a job: CPU time against an undisturbed run. And whether the model is the same: after kills, with every request between
//! trainers made twice, and on one, two and four nodes.

use crate::{Args, THREADS, text};
use anyhow::{Context, Result, bail, ensure};
use docent_chaos::cost::load_average;
use docent_chaos::datasets::Split;
use docent_chaos::jobs;
use docent_chaos::lab::repeater::Repeater;
use docent_chaos::lab::{Lab, Options};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many times the CPU time of an undisturbed run a disturbed one may take.
const RATIO_MAX: f64 = 1.3;
/// Far above what a job takes.
const GUARD: Duration = Duration::from_secs(1_200);

/// How long the nodes are watched, and the share of one processor below which all of them together are idle.
const WINDOW: Duration = Duration::from_secs(2);
const IDLE: f64 = 0.2;

/// What happens in the middle of a job.
#[derive(Clone, Copy, PartialEq)]
enum Event {
    Nothing,
    /// A node is killed when this share is done: its driver, or another.
    Kill {
        share: f64,
        driver: bool,
    },
    /// Every coordinator is killed and started again, one after the other, when half is done.
    Coordinators,
}

impl Event {
    fn name(self) -> String {
        match self {
            Event::Nothing => "undisturbed".to_owned(),
            Event::Kill { share, driver } => {
                format!("{} killed at {:.0} %", if driver { "driver" } else { "host" }, share * 100.0)
            }
            Event::Coordinators => "coordinators killed in turn".to_owned(),
        }
    }
}

/// A cluster, and what happens to the jobs in it.
struct World {
    name: &'static str,
    nodes: usize,
    repeats: bool,
    events: &'static [Event],
}

/// The first one's first event is what everything else is compared with.
const WORLDS: [World; 5] = [
    World {
        name: "3 nodes",
        nodes: 3,
        repeats: false,
        events: &[
            Event::Nothing,
            Event::Kill { share: 0.5, driver: false },
            Event::Kill { share: 0.9, driver: true },
            Event::Coordinators,
        ],
    },
    World { name: "3, all twice", nodes: 3, repeats: true, events: &[Event::Nothing] },
    World { name: "1 node", nodes: 1, repeats: false, events: &[Event::Nothing] },
    World { name: "2 nodes", nodes: 2, repeats: false, events: &[Event::Nothing] },
    World { name: "4 nodes", nodes: 4, repeats: false, events: &[Event::Nothing] },
];

/// One cluster after the other, each family on each.
pub(crate) fn run(args: &Args, split: &Split) -> Result<()> {
    let checkpoints = args.checkpoint_ms;
    println!(
        "three coordinators, three replicas where there are as many nodes; a checkpoint every {checkpoints} ms at most"
    );
    println!("cluster       family                     event                        CPU s  ratio  attempts  parts");
    let families = [
        json!({ "dim": 128, "epochs": 30 }),
        json!({ "algorithm": "graph", "neighbours": 1000 }),
        json!({ "algorithm": "softmax", "dim": 64, "epochs": 6 }),
        json!({ "algorithm": "tower", "dim": 64, "epochs": 6 }),
    ];
    let families: Vec<Value> = families.into_iter().filter(|family| args.asks(text_of(&family["algorithm"]))).collect();
    let mut first: BTreeMap<usize, Ran> = BTreeMap::new();
    let mut wrong = Vec::new();
    for world in &WORLDS {
        let mut lab = Lab::start(&Options {
            nodes: world.nodes,
            replication: if world.nodes < 3 { 1 } else { 3 },
            repeats: world.repeats,
            node_settings: format!("[train]\nthreads = {THREADS}\ncheckpoint_interval_ms = {checkpoints}\n"),
            ..Options::default()
        })?;
        lab.docent(&["import", "adjacency", text(&split.train)?])?;
        for (at, family) in families.iter().enumerate() {
            let name = format!("{} d={} epochs={}", text_of(&family["algorithm"]), family["dim"], family["epochs"]);
            for event in world.events {
                let before = lab.repeater().map(Repeater::repeated);
                let ran = job(&mut lab, family, *event)?;
                let what = format!("{}, {name}, {}", world.name, event.name());
                if lab.repeater().map(Repeater::repeated).is_some_and(|after| Some(after) == before) {
                    wrong.push(format!("{what}: nothing came twice"));
                }
                let clean = first.entry(at).or_insert_with(|| ran.clone());
                let (ratio, is_same) = (ran.cpu / clean.cpu, clean.parts == ran.parts);
                let same = if is_same { "equal" } else { "DIFFER" };
                println!(
                    "{:<12}  {name:<25}  {:<27}  {:>5.1}  {ratio:>5.2}  {:>8}  {same}",
                    world.name,
                    event.name(),
                    ran.cpu,
                    ran.attempts
                );
                if !is_same {
                    wrong.push(format!("{what}: other parts"));
                }
                // Only clusters of one size can be compared, and work that is done twice costs twice.
                if world.events.len() > 1 && ratio > RATIO_MAX {
                    wrong.push(format!("{what}: {ratio:.2} times the CPU time, more than {RATIO_MAX}"));
                }
            }
        }
        println!("      load average {}", load_average());
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(())
}

/// Waits until the nodes have nothing more to do: what they do with the version before would count as this job's.
fn settle(lab: &Lab) -> Result<()> {
    let start = Instant::now();
    loop {
        let before: f64 = jobs::nodes_cpu(lab)?.iter().sum();
        std::thread::sleep(WINDOW); // a measured span of time
        let spent = jobs::nodes_cpu(lab)?.iter().sum::<f64>() - before;
        if spent < WINDOW.as_secs_f64() * IDLE {
            return Ok(());
        }
        ensure!(start.elapsed() < GUARD, "the nodes do not come to rest: {spent:.1} CPU seconds in {WINDOW:?}");
    }
}

fn text_of(algorithm: &Value) -> &str {
    algorithm.as_str().unwrap_or("ials")
}

#[derive(Clone)]
struct Ran {
    cpu: f64,
    attempts: u64,
    parts: Vec<(u64, String)>,
}

fn job(lab: &mut Lab, family: &Value, event: Event) -> Result<Ran> {
    settle(lab)?;
    let mut settings = family.clone();
    settings["holdout"] = json!(0.0);
    settings["activate"] = json!(false);
    let before = jobs::nodes_cpu(lab)?;
    let id = jobs::start(&lab.client(0), &settings)?;
    // What a killed process had spent is read before it is gone.
    let mut spent = 0.0;
    let mut killed = None;
    match event {
        Event::Nothing => {}
        Event::Kill { share, driver } => {
            let running = jobs::wait(&lab.client(0), id, "that far", GUARD, |job| jobs::has_done(job, share))?;
            let led = jobs::place(lab, &lab.client(0), running["driver"].as_u64().context("no driver")?)?;
            let victim = if driver { led } else { (led + 1) % lab.nodes.len() };
            spent = jobs::nodes_cpu(lab)?[victim] - before[victim];
            lab.nodes[victim].kill()?;
            killed = Some(victim);
        }
        Event::Coordinators => {
            jobs::wait(&lab.client(0), id, "that far", GUARD, |job| jobs::has_done(job, 0.5))?;
            for at in 0..lab.coordinators.len() {
                lab.coordinators[at].kill()?;
                lab.coordinators[at].start()?;
            }
        }
    }
    let client = lab.client(killed.map_or(0, |victim| (victim + 1) % lab.nodes.len()));
    let ended = jobs::finished(&client, id, GUARD)?;
    let parts = jobs::part_hashes(&client, ended["version"].as_u64().context("no version")?)?;
    let after = jobs::nodes_cpu(lab)?;
    let survivors = (0..lab.nodes.len()).filter(|place| Some(*place) != killed);
    let cpu = spent + survivors.map(|place| after[place] - before[place]).sum::<f64>();
    if let Some(victim) = killed {
        lab.nodes[victim].start()?;
        lab.wait_ready(GUARD)?;
    }
    Ok(Ran { cpu, attempts: ended["attempt"].as_u64().unwrap_or(0), parts })
}
