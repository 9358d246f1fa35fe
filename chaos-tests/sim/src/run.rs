//! One run: a cluster is born, works, is hurt, is healed, and is asked what it kept.

use crate::audit::{self, Slot};
use crate::chance::Chance;
use crate::cluster::{Cluster, TICK};
use crate::log::Log;
use crate::operator::{Desk, Done, Order};
use crate::recorder::{Recorder, us};
use crate::shape::{ELECTION_TIMEOUT_MAX_MS, Shape};
use crate::trace::Trace;
use crate::workload::{self, Client, ITEMS};
use anyhow::{Context, Result, bail};
use docent_trial::fault::{Fault, Layer};
use docent_trial::history::{Call, FORMAT, FaultMark, Header, Observed, Outcome, PhaseMark, Sight};
use docent_trial::name::Role;
use docent_trial::schedule::Conductor;
use docent_trial::target::{Scene, Target};
use docent_trial::world::{Applied, Phase, World, WorldKind};
use docent_trial::{History, Member, Schedule};
use serde_json::json;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A cluster is born in this time or something is wrong.
const BIRTH: Duration = Duration::from_secs(40);
const BASELINE: Duration = Duration::from_secs(2);
/// What the schedules of [`crate::space`] fill.
pub const CHAOS_MS: u64 = 12_000;
/// Liveness is judged within four times the longest election time-out and a second; load goes on a little longer.
const CONVERGE: Duration = Duration::from_millis(4 * ELECTION_TIMEOUT_MAX_MS + 3_000);
/// What needs longer than that is not well.
const AUDIT: Duration = Duration::from_secs(40);

/// How often the roles are looked at, and how often they are written down although nothing changed.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_ANYWAY: Duration = Duration::from_millis(1_000);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// What the cluster is made of.
    pub shape: Shape,
    /// What is done to it.
    pub schedule: Schedule,
    /// Where the text of the trace goes.
    pub trace: Option<std::path::PathBuf>,
    /// Prints what members say from this loudness on.
    pub verbose: Option<tracing::Level>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    /// Everything that happened, for the checkers.
    pub history: History,
    /// Lines of the trace, and its digest.
    pub trace: (u64, String),
    /// Simulated seconds.
    pub simulated: Duration,
    /// Why it could not be brought to its end, where it could not: that is a violation too.
    pub stuck: Option<String>,
}

struct Run {
    cluster: Cluster,
    recorder: Recorder,
    desk: Desk,
    begin: Rc<Cell<bool>>,
    is_over: Rc<Cell<bool>>,
    left: Rc<Cell<u32>>,
    /// The cluster's roles when they were last written down, and when.
    scene: (Duration, Scene),
}

/// Runs it, in this process. The process should stand on the ground of the seed, else a second run differs.
///
/// # Errors
/// Where the simulation itself is broken; what Docent does wrong is in [`Ran`].
pub fn run(plan: &Plan) -> Result<Ran> {
    let file = plan.trace.as_ref().map(std::fs::File::create).transpose().context("create the file of the trace")?;
    let (trace, log) = (Trace::new(file), Log::default());
    log.listen(trace.clone(), plan.verbose);
    let shape = plan.shape.clone();
    let cluster = Cluster::new(shape.clone(), plan.seed, trace.clone(), log)?;
    let mut run = Run {
        cluster,
        recorder: Recorder::new(header(plan, &shape)),
        desk: Desk::default(),
        begin: Rc::default(),
        is_over: Rc::default(),
        left: Rc::new(Cell::new(shape.clients)),
        scene: Default::default(),
    };
    run.add_clients(plan.seed);
    let stuck = run.live(&plan.schedule)?;
    run.pass_on();
    for (what, count) in std::mem::take(&mut run.cluster.counts) {
        run.recorder.see(run.cluster.now(), Observed::Seen { what, count });
    }
    run.close_logs();
    let simulated = run.cluster.now();
    Ok(Ran { history: run.recorder.finish(), trace: trace.digest(), simulated, stuck })
}

fn header(plan: &Plan, shape: &Shape) -> Header {
    Header {
        format: FORMAT,
        world: WorldKind::Sim,
        scenario: "sim".to_owned(),
        seed: plan.seed,
        schedule: plan.schedule.to_string(),
        nodes: shape.nodes,
        coordinators: shape.coordinators,
        replication: shape.replication,
        user_shards: shape.user_shards,
        item_shards: shape.item_shards,
        election_timeout_max_ms: ELECTION_TIMEOUT_MAX_MS,
    }
}

impl Run {
    fn add_clients(&mut self, seed: u64) {
        let gateways = self.cluster.gateways();
        let (desk, links) = (self.desk.clone(), self.cluster.links.clone());
        let here = self.cluster.address("operator");
        self.cluster.client("operator", desk.run(here, links, gateways.clone()));
        for number in 0..self.cluster.shape.clients {
            let name = format!("client-{number}");
            let mut client = self.new_client(&name, number, seed);
            let (begin, left) = (self.begin.clone(), self.left.clone());
            self.cluster.client(&name, async move {
                if number == 0 {
                    wait_for(&begin).await;
                    client.prepare().await;
                } else {
                    wait_for(&begin).await;
                }
                client.run().await;
                left.set(left.get() - 1);
            });
        }
    }

    fn new_client(&self, name: &str, number: u32, seed: u64) -> Client {
        Client {
            number,
            here: self.cluster.address(name),
            gateways: self.cluster.gateways(),
            links: self.cluster.links.clone(),
            recorder: self.recorder.clone(),
            chance: Chance::of(seed, name),
            is_over: self.is_over.clone(),
        }
    }

    /// All phases. Says what it got stuck in, if it did.
    fn live(&mut self, schedule: &Schedule) -> Result<Option<String>> {
        let nodes = self.cluster.shape.nodes as usize;
        let desk = self.desk.clone();
        if !self.until(BIRTH, |_| desk.ready() == nodes)? {
            return Ok(Some(format!("the cluster was not born: {} of {nodes} nodes are ready", desk.ready())));
        }
        self.phase(Phase::Baseline);
        self.begin.set(true);
        self.until(BASELINE, |_| false)?;
        // The first model is trained while the schedule begins; without one no answer is personal.
        let settings = json!({ "dim": 8, "epochs": 3, "seed": schedule.seed });
        self.desk.order(Order { fault: None, path: "/v1/jobs".to_owned(), body: settings });
        self.phase(Phase::Chaos);
        self.chaos(schedule)?;
        self.phase(Phase::Heal);
        self.heal();
        self.until(Duration::from_millis(100), |_| false)?;
        self.phase(Phase::Converge);
        self.until(CONVERGE, |_| false)?;
        self.is_over.set(true);
        let left = self.left.clone();
        if !self.until(AUDIT, |_| left.get() == 0)? {
            bail!("clients did not end: {} are left", left.get());
        }
        self.phase(Phase::Audit);
        self.audit()
    }

    /// Logs are listened to from the first line to the last.
    fn close_logs(&mut self) {
        let now = self.cluster.now();
        for member in self.cluster.hosts.keys() {
            let lines = self.recorder.log_lines(*member);
            self.recorder.see(now, Observed::LogEnd { member: *member, lines });
        }
    }

    fn phase(&mut self, phase: Phase) {
        let at = self.cluster.now();
        self.cluster.note("phase", format_args!("{phase}"));
        self.recorder.phase(PhaseMark { at_us: us(at), phase });
    }

    /// Ticks until it is so, for `within` at most; whether it was.
    fn until(&mut self, within: Duration, is_so: impl Fn(&Cluster) -> bool) -> Result<bool> {
        let end = self.cluster.now() + within;
        while self.cluster.now() < end {
            self.tick()?;
            if is_so(&self.cluster) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tick(&mut self) -> Result<()> {
        self.cluster.tick()?;
        self.pass_on();
        let now = self.cluster.now();
        if now >= self.scene.0 + LOOK {
            let scene = self.cluster.scene();
            if scene != self.scene.1 || now >= self.scene.0 + LOOK_ANYWAY {
                self.recorder.see(now, Observed::Scene { scene: scene.clone() });
                self.scene = (now, scene);
            }
        }
        Ok(())
    }

    /// Orders to the operator, observations to the history.
    fn pass_on(&mut self) {
        for order in std::mem::take(&mut self.cluster.orders) {
            self.desk.order(order);
        }
        let now = self.cluster.now();
        for Done { order: Order { fault, path, body }, from, refusal } in self.desk.take_done() {
            let told = format!("POST {path} {body}: {}", refusal.as_deref().unwrap_or("done"));
            self.cluster.note("order", format_args!("{told}"));
            let Some(fault) = fault else {
                self.cluster.seen.push((now, Observed::Note { text: told }));
                continue;
            };
            let applied = match refusal {
                None => Applied::installed(told, []),
                Some(_) => Applied::indeterminate(told),
            };
            let (from_us, at_us) = (us(from), us(now));
            self.recorder.fault(FaultMark { from_us, at_us, step: None, fault, is_end: false, applied });
        }
        for (at, what) in std::mem::take(&mut self.cluster.seen) {
            self.recorder.see(at, what);
        }
    }

    fn chaos(&mut self, schedule: &Schedule) -> Result<()> {
        let begun = self.cluster.now();
        let mut conductor = Conductor::new(schedule.clone());
        let length = Duration::from_millis(CHAOS_MS.max(schedule.length_ms()));
        while self.cluster.now() < begun + length {
            self.tick()?;
            let now = self.cluster.now();
            let done = conductor.advance(&mut self.cluster, (now - begun).as_millis() as u64);
            self.mark(done);
        }
        let never = conductor.finish();
        self.mark(never);
        Ok(())
    }

    fn mark(&mut self, done: Vec<docent_trial::schedule::Done>) {
        let at_us = us(self.cluster.now());
        for docent_trial::schedule::Done { step, fault, is_end, applied } in done {
            self.recorder.fault(FaultMark { from_us: at_us, at_us, step: Some(step), fault, is_end, applied });
        }
    }

    fn heal(&mut self) {
        let at_us = us(self.cluster.now());
        for layer in [Layer::Disk, Layer::Clock, Layer::Network, Layer::Process] {
            let fault = Fault::Heal { on: Target::All, layer };
            let applied = self.cluster.apply(&fault, 0);
            self.recorder.fault(FaultMark { from_us: at_us, at_us, step: None, fault, is_end: true, applied });
        }
        let lost = self.cluster.links.retransmitted();
        self.cluster.count(Sight::MessagesLost, lost);
    }

    fn audit(&mut self) -> Result<Option<String>> {
        let nodes = self.cluster.shape.nodes as usize;
        let (desk, asked) = (self.desk.clone(), self.desk.rounds());
        if !self.until(AUDIT, |_| desk.rounds() > asked + 1 && desk.ready() == nodes)? {
            return Ok(Some(format!("{} of {nodes} nodes are ready long after everything was healed", desk.ready())));
        }
        self.read_everything()?;
        if let Some(why) = self.export()? {
            return Ok(Some(format!("the events cannot be exported: {why}")));
        }
        Ok(self.compare()?.map(|why| format!("the replicas cannot be compared: {why}")))
    }

    /// Every user and item once, through whatever gateway.
    fn read_everything(&mut self) -> Result<()> {
        let is_done = Rc::new(Cell::new(false));
        let mut client = self.new_client("auditor", self.cluster.shape.clients, 0);
        let done = is_done.clone();
        self.cluster.client("auditor", async move {
            let users = workload::users().map(|user| Call::ReadUser { user });
            let items = (0..ITEMS).map(|number| Call::ReadItem { item: workload::item(number) });
            for call in users.chain(items) {
                for _ in 0..5 {
                    if matches!(client.call(call.clone()).await, Outcome::Ok(_)) {
                        break;
                    }
                }
            }
            done.set(true);
        });
        self.until(AUDIT, |_| is_done.get()).map(drop)
    }

    fn export(&mut self) -> Result<Option<String>> {
        let mut last = String::new();
        for node in self.nodes() {
            let slot = Slot::default();
            self.cluster.send(node, audit::export(slot.clone()));
            let found = self.wait(&slot)?;
            match found {
                Some(Ok(events)) => {
                    self.cluster.note_exported(&events);
                    return Ok(None);
                }
                Some(Err(why)) => last = why,
                None => last = format!("{node} did not answer"),
            }
        }
        Ok(Some(last))
    }

    fn compare(&mut self) -> Result<Option<String>> {
        let mut last = String::new();
        for node in self.nodes() {
            let slot = Slot::default();
            self.cluster.send(node, audit::compare(slot.clone()));
            match self.wait(&slot)? {
                Some(Ok(found)) => {
                    self.cluster.note_digests(&found);
                    return Ok(None);
                }
                Some(Err(why)) => last = why,
                None => last = format!("{node} did not answer"),
            }
        }
        Ok(Some(last))
    }

    fn nodes(&self) -> Vec<Member> {
        self.cluster.hosts.keys().filter(|member| member.role == Role::Node).copied().collect()
    }

    fn wait<T>(&mut self, slot: &Slot<T>) -> Result<Option<T>> {
        let end = self.cluster.now() + Duration::from_secs(12);
        while self.cluster.now() < end {
            self.tick()?;
            if let Some(found) = slot.take() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

async fn wait_for(flag: &Cell<bool>) {
    while !flag.get() {
        tokio::time::sleep(TICK).await; // simulated: the flag is set between ticks, by who has no task that could wake this one
    }
}
