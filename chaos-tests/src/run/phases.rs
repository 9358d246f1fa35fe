//! A run's phases: carrying a schedule out under load, healing, and waiting until everything came back.

use crate::run::gates::Gates;
use crate::run::stage::Stage;
use crate::run::tape::Tape;
use crate::run::view::{self, View};
use crate::run::{Options, audit, described};
use crate::workload::Clients;
use anyhow::{Result, ensure};
use docent_trial::history::{FaultMark, Observed, Record};
use docent_trial::schedule::{Conductor, Done};
use docent_trial::{
    Applied, Fault, Group, Kind, Layer, Phase, Scenario, Scene, Schedule, Target, Trigger, World, WorldKind,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(10);
/// Between two looks at the world's roles and logs.
const LOOK: Duration = Duration::from_millis(250);
/// How long everything must be as it should before a run is taken to have come back.
const MOMENT: Duration = Duration::from_secs(1);

/// A run under way.
pub(super) struct Run<'a> {
    hands: Hands<'a>,
    scenario: &'a Scenario,
    options: Options<'a>,
    clients: &'a Clients<'a>,
    looked: Instant,
    served: BTreeMap<Group, bool>,
    scene: Scene,
}

/// The world with a clock: when each fault was begun and done, with nobody blamed for it meanwhile.
struct Hands<'a> {
    stage: &'a mut dyn Stage,
    tape: &'a Tape,
    gates: &'a Gates,
    done: VecDeque<(Fault, u64, u64)>,
}

impl World for Hands<'_> {
    fn kind(&self) -> WorldKind {
        self.stage.kind()
    }

    fn can(&self, kind: Kind) -> Result<(), String> {
        self.stage.can(kind)
    }

    fn scene(&mut self) -> Scene {
        self.stage.scene()
    }

    fn holds(&mut self, trigger: &Trigger) -> Result<bool, String> {
        self.stage.holds(trigger)
    }

    fn apply(&mut self, fault: &Fault, seed: u64) -> Applied {
        let scene = self.stage.scene();
        let from_us = self.tape.now_us();
        let applied = self.gates.disturb(from_us, &scene, || {
            let applied = self.stage.apply(fault, seed);
            (applied.clone(), vec![(fault.clone(), applied)])
        });
        self.done.push_back((fault.clone(), from_us, self.tape.now_us()));
        applied
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(
        stage: &'a mut dyn Stage,
        scenario: &'a Scenario,
        options: Options<'a>,
        tape: &'a Tape,
        gates: &'a Gates,
        clients: &'a Clients<'a>,
    ) -> Run<'a> {
        let hands = Hands { stage, tape, gates, done: VecDeque::new() };
        let (served, scene) = (BTreeMap::new(), Scene::default());
        Run { hands, scenario, options, clients, looked: Instant::now(), served, scene }
    }

    /// Everything under load.
    pub(super) fn phases(&mut self, schedule: Schedule) -> Result<()> {
        self.begin(Phase::Baseline);
        self.look();
        self.wait(Duration::from_millis(self.scenario.phases.baseline_ms));
        self.begin(Phase::Chaos);
        self.chaos(schedule);
        self.begin(Phase::Heal);
        let everything = Fault::Heal { on: Target::All, layer: Layer::Everything };
        let applied = self.hands.apply(&everything, self.options.seed);
        self.mark(Done { step: usize::MAX, fault: everything, is_end: true, applied });
        let healed_us = self.hands.tape.now_us();
        self.begin(Phase::Converge);
        self.converge(healed_us);
        ensure!(!self.hands.tape.is_full(), "the run is too long to be kept");
        Ok(())
    }

    /// Everything is read, exported and compared.
    pub(super) fn audit(&mut self) -> Result<()> {
        if self.is_cancelled() {
            return Ok(());
        }
        self.begin(Phase::Audit);
        let view = self.view()?;
        audit::states(self.clients, &self.scenario.workload);
        audit::digests(self.hands.stage, self.hands.tape, &view)?;
        audit::events(self.hands.stage, self.hands.tape, self.options.prefix)?;
        audit::logs(self.hands.stage, self.hands.tape);
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.options.is_cancelled.load(Ordering::SeqCst)
    }

    fn begin(&mut self, phase: Phase) {
        self.say(&format!("{phase}: {}", described(phase)));
        self.hands.tape.phase(phase);
    }

    fn say(&self, what: &str) {
        if self.options.is_loud {
            eprintln!("{:>7.1} s  {what}", self.hands.tape.now_us() as f64 / 1e6);
        }
    }

    fn wait(&mut self, length: Duration) {
        let start = Instant::now();
        while start.elapsed() < length && !self.is_cancelled() {
            self.look_now_and_then();
            std::thread::sleep(TICK); // until the phase is over
        }
    }

    fn chaos(&mut self, schedule: Schedule) {
        let (start, length) = (Instant::now(), Duration::from_millis(self.scenario.phases.chaos_ms));
        self.clients.begin_chaos();
        let mut conductor = Conductor::new(schedule);
        while start.elapsed() < length && !self.is_cancelled() {
            let done = conductor.advance(&mut self.hands, start.elapsed().as_millis() as u64);
            let has_changed = !done.is_empty();
            done.into_iter().for_each(|done| self.mark(done));
            if has_changed {
                self.look();
            }
            // A step that waits for something is looked at as often as it can be.
            if !conductor.is_waiting()
                && conductor.next_ms().is_none_or(|next| next > start.elapsed().as_millis() as u64 + 100)
            {
                self.look_now_and_then();
            }
            std::thread::sleep(TICK); // until the next step
        }
        conductor.finish().into_iter().for_each(|done| self.mark(done));
    }

    fn mark(&mut self, done: Done) {
        let Done { step, fault, is_end, applied } = done;
        let timed = self.hands.done.front().is_some_and(|(one, ..)| *one == fault);
        let now = self.hands.tape.now_us();
        let (from_us, at_us) = match self.hands.done.pop_front().filter(|_| timed) {
            Some((_, from_us, at_us)) => (from_us, at_us),
            None => (now, now), // it was never tried
        };
        self.say(&format!("{fault}: {applied}"));
        let step = Some(step).filter(|step| *step != usize::MAX);
        self.hands.tape.write(Record::Fault(FaultMark { from_us, at_us, step, fault, is_end, applied }));
    }

    fn look_now_and_then(&mut self) {
        if self.looked.elapsed() > LOOK {
            self.look();
        }
    }

    /// Roles, logs, and who can serve what.
    fn look(&mut self) {
        let Hands { stage, tape, gates, .. } = &mut self.hands;
        gates.refresh(&stage.gateways(), tape.now_us());
        stage.observe().into_iter().for_each(|seen| tape.see(seen));
        let scene = stage.scene();
        let groups = scene.actors.iter().flat_map(|actor| &actor.holds).copied();
        for group in groups.collect::<std::collections::BTreeSet<_>>() {
            let is_served = scene.actors.iter().any(|actor| actor.is_up && actor.holds.contains(&group));
            if self.served.insert(group, is_served).unwrap_or(true) != is_served {
                tape.see(Observed::Served { group, is_served });
            }
        }
        if scene != self.scene {
            tape.see(Observed::Scene { scene: scene.clone() });
            self.scene = scene;
        }
        self.looked = Instant::now();
    }

    fn view(&self) -> Result<View> {
        let usable = self.hands.gates.usable();
        view::look_through(usable.iter().map(|(_, gateway)| gateway.addr.as_str()))
    }

    /// Waits until everything came back, and has been back for a moment.
    fn converge(&mut self, healed_us: u64) {
        let length = Duration::from_millis(self.scenario.phases.converge_ms);
        let (start, mut back) = (Instant::now(), None);
        let mut missing = String::new();
        self.scene = Scene::default(); // told anew: who leads after healing is judged
        while start.elapsed() < length && !self.is_cancelled() {
            self.look_now_and_then();
            match self.missing(healed_us) {
                None if *back.get_or_insert_with(Instant::now) + MOMENT < Instant::now() => return,
                None => {}
                Some(what) => {
                    back = None;
                    missing = what;
                }
            }
            std::thread::sleep(TICK * 5); // between looks at other processes
        }
        self.say(&format!("not everything came back: {missing}"));
        self.hands.tape.see(Observed::Note { text: format!("not everything came back in time: {missing}") });
    }

    /// The first thing that is not as it should be.
    fn missing(&self, healed_us: u64) -> Option<String> {
        if !self.hands.gates.are_all_well() {
            return Some("a node that was down is not ready".to_owned());
        }
        let unready = self.hands.gates.usable().into_iter().find(|(_, gateway)| !gateway.client.is_ready());
        if let Some((member, _)) = unready {
            return Some(format!("{member} is not ready"));
        }
        let view = match self.view() {
            Ok(view) => view,
            Err(error) => return Some(format!("{error:#}")),
        };
        if let Some(shard) = view.shards.iter().find(|shard| shard.leader.is_none()) {
            return Some(format!("{} has no leader", shard.id));
        }
        if let Some(shard) = view.shards.iter().find(|shard| shard.under_way.is_some()) {
            return Some(format!("a replica of {} is on its way", shard.id));
        }
        if let Some(node) = view.nodes.iter().find(|node| !node.is_alive && node.state != "removed") {
            return Some(format!("the coordinators have not heard of node {}", node.id));
        }
        let late = self.clients.acked().into_iter().find(|(_, at_us)| *at_us < healed_us);
        late.filter(|_| self.scenario.workload.writes_per_s > 0.0)
            .map(|(group, _)| format!("no event of {group} was acked since everything was healed"))
    }
}
