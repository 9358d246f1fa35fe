//! Schedules: drawn within their space, carried out in time, shrunk to what matters.

use super::*;
use crate::fault::Kind;
use crate::name::{Group, Member};
use crate::target::{Actor, Scene, Target};
use crate::world::{Applied, World, WorldKind};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn steps(lines: &[&str]) -> Vec<Step> {
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

/// Three nodes; it does everything and writes it down.
#[derive(Default)]
struct Stage {
    done: Vec<String>,
    is_staged: bool,
}

impl World for Stage {
    fn kind(&self) -> WorldKind {
        WorldKind::Sim
    }

    fn can(&self, _kind: Kind) -> Result<(), String> {
        Ok(())
    }

    fn scene(&mut self) -> Scene {
        let actor = |number| Actor::idle(Member::node(number), true);
        Scene { actors: (1..=3).map(actor).collect(), ..Scene::default() }
    }

    fn holds(&mut self, trigger: &Trigger) -> Result<bool, String> {
        match trigger {
            Trigger::Staged => Ok(self.is_staged),
            other => Err(format!("cannot tell of {other}")),
        }
    }

    fn apply(&mut self, fault: &Fault, seed: u64) -> Applied {
        self.done.push(fault.to_string());
        let scene = self.scene();
        Applied::installed("done", fault.target().map(|target| target.resolve(&scene, seed)).unwrap_or_default())
    }
}

#[test]
fn a_conductor_does_what_is_due_and_undoes_what_is_over() {
    let mut stage = Stage::default();
    let lines = ["10ms for 20ms kill node-1+node-2", "15ms pause node-3", "40ms for 5ms train"];
    let mut conductor = Conductor::new(Schedule::new(1, steps(&lines)));
    assert_eq!(conductor.next_ms(), Some(10));
    assert!(conductor.advance(&mut stage, 9).is_empty());
    assert_eq!(conductor.advance(&mut stage, 16).len(), 2);
    assert_eq!(conductor.next_ms(), Some(36), "it lasts from when it was done");
    let ended = conductor.advance(&mut stage, 50);
    assert!(ended[0].is_end && ended[0].step == 0 && !ended[1].is_end);
    assert_eq!(stage.done, ["kill node-1+node-2", "pause node-3", "restart node-1+node-2", "train"]);
    assert!(conductor.is_over() && conductor.finish().is_empty());
}

#[test]
fn a_step_waits_for_its_trigger_and_is_skipped_where_it_never_comes_or_cannot_be_told() {
    let mut stage = Stage::default();
    let lines = ["0ms when model staged kill node-1", "5ms when move joint kill node-2", "900ms kill node-3"];
    let mut conductor = Conductor::new(Schedule::new(1, steps(&lines)));
    assert!(conductor.advance(&mut stage, 1).is_empty() && conductor.is_waiting());
    let skipped = conductor.advance(&mut stage, 6);
    assert!(
        matches!(&skipped[..], [Done { step: 1, applied: Applied::Skipped { why }, .. }] if why.contains("move joint"))
    );
    stage.is_staged = true;
    assert!(conductor.advance(&mut stage, 7)[0].applied.is_installed());
    let never = conductor.finish();
    assert_eq!((never.len(), never[0].step, stage.done.len()), (1, 2, 1));
}

#[test]
fn a_step_draws_the_same_whatever_was_dropped_around_it() {
    let all = Schedule::new(9, steps(&["0ms kill random(1)", "5ms pause random(1)"]));
    let less = Schedule::new(9, steps(&["5ms pause random(1)"]));
    assert_eq!(all.seed_of(&all.steps[1]), less.seed_of(&less.steps[0]));
    assert_ne!(all.seed_of(&all.steps[0]), all.seed_of(&all.steps[1]));
}

fn every_kind() -> Space {
    Space { kinds: Kind::ALL.to_vec(), steps_min: 1, steps_max: 8, nodes: 5, at_once: 3, ..Space::default() }
}

proptest! {
    #[test]
    fn a_seed_gives_one_schedule_within_its_space(seed in any::<u64>()) {
        for space in [Space::default(), every_kind()] {
            let schedule = space.generate(seed).unwrap();
            prop_assert_eq!(&space.generate(seed).unwrap(), &schedule);
            prop_assert!(space.allows(&schedule));
            prop_assert!(!schedule.steps.is_empty() && schedule.steps.len() <= space.steps_max as usize);
            prop_assert!(schedule.length_ms() <= space.length_ms);
            prop_assert!(schedule.steps.is_sorted_by_key(|step| step.at_ms));
            prop_assert_eq!(schedule.to_string().parse::<Schedule>(), Ok(schedule.clone()));
        }
    }
}

#[test]
fn seeds_find_every_kind_of_fault_and_different_schedules() {
    let schedules: Vec<Schedule> = (0..400).map(|seed| every_kind().generate(seed).unwrap()).collect();
    let kinds: BTreeSet<Kind> = schedules.iter().flat_map(|one| &one.steps).map(|step| step.fault.kind()).collect();
    let missing: Vec<&Kind> = Kind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let texts: BTreeSet<String> = schedules.iter().map(Schedule::to_string).collect();
    assert_eq!(texts.len(), schedules.len());
}

#[test]
fn a_majority_is_never_down_at_once_unless_the_space_says_so() {
    let space = Space { at_once: 9, ..Space::default() };
    let allows = |lines: &[&str], may_lose_majority| {
        Space { may_lose_majority, ..space.clone() }.allows(&Schedule::new(1, steps(lines)))
    };
    assert!(allows(&["0ms for 9ms kill node-1", "10ms for 9ms kill node-2"], false));
    assert!(allows(&["0ms for 9ms kill node-1", "5ms for 9ms delay node-2 5ms"], false));
    assert!(allows(&["0ms for 9ms kill node-1", "5ms for 9ms kill coordinator-1"], false));
    for both in [
        &["0ms for 9ms kill node-1", "5ms for 9ms pause leader-of-most-shards"][..],
        &["0ms kill node-1", "500ms for 9ms kill node-2"],
        &["0ms for 9ms kill all"],
        &["0ms for 9ms kill random(2)"],
        &["0ms for 9ms kill majority-of:users/1"],
        &["0ms for 9ms kill coordinator-majority"],
        &["0ms for 9ms kill node-1+node-2"],
    ] {
        assert!(!allows(both, false) && allows(both, true), "{both:?}");
    }
}

#[test]
fn a_space_that_makes_no_sense_is_refused_by_field() {
    let refused = |space: Space| space.generate(1).unwrap_err().field;
    assert_eq!(refused(Space { kinds: Vec::new(), ..Space::default() }), "kinds");
    assert_eq!(refused(Space { steps_min: 9, steps_max: 3, ..Space::default() }), "steps_min");
    assert_eq!(refused(Space { fault_ms_max: 99_999, ..Space::default() }), "fault_ms_max");
    assert_eq!(refused(Space { at_once: 0, ..Space::default() }), "at_once");
}

#[test]
fn a_failing_schedule_shrinks_to_the_steps_that_matter() {
    let space = Space { steps_min: 12, steps_max: 12, at_once: 12, may_lose_majority: true, ..Space::default() };
    let mut noise = space.generate(3).unwrap().steps;
    noise.extend(steps(&["8000ms for 4000ms pause node-1+node-2", "9000ms for 900ms when model staged loss all 40%"]));
    let large = Schedule::new(5, noise);
    // It fails where node 2 is paused while anybody loses packets.
    let mut tries = 0;
    let fails = |schedule: &Schedule| {
        let scene = Stage::default().scene();
        let hits = |step: &Step, kind: Kind| {
            let two = [Member::node(2)];
            step.fault.kind() == kind
                && step.fault.target().is_some_and(|on| two.iter().all(|one| on.resolve(&scene, 1).contains(one)))
        };
        tries += 1;
        let pauses = schedule.steps.iter().filter(|step| hits(step, Kind::Pause));
        pauses.into_iter().any(|pause| {
            let loses = |step: &&Step| step.fault.kind() == Kind::Loss;
            let end = pause.until_ms().unwrap_or(u64::MAX);
            schedule.steps.iter().filter(loses).any(|loss| loss.at_ms >= pause.at_ms && loss.at_ms < end)
        })
    };
    let small = minimise(&large, fails, 10_000);
    assert!(small.is_minimal && small.tries == tries, "{small:?}");
    let steps: Vec<String> = small.schedule.steps.iter().map(Step::to_string).collect();
    assert_eq!(steps, ["0ms for 100ms pause node-2", "0ms for 100ms loss all-coordinators 1%"]);
}

#[test]
fn shrinking_keeps_to_its_budget_and_to_what_fails() {
    let large = every_kind().generate(8).unwrap();
    let mut tries = 0;
    let small = minimise(
        &large,
        |_| {
            tries += 1;
            false
        },
        7,
    );
    assert_eq!((small.schedule, small.is_minimal), (large.clone(), false));
    assert!(tries <= 7);
    let nothing = minimise(&large, |_| true, 10_000);
    assert!(nothing.schedule.steps.is_empty() && nothing.is_minimal);
    let whole = minimise(&large, |_| false, 10_000);
    assert_eq!((whole.schedule, whole.is_minimal), (large, true));
}

#[test]
fn lines_of_a_person_are_read() {
    let text = "# a drill\nseed 7\n\n  2s for 500ms kill leader-of:users/3   # the leader\n1s when training 90% pause training-driver\n";
    let schedule: Schedule = text.parse().unwrap();
    assert_eq!(schedule.seed, 7);
    assert_eq!(schedule.steps[0].to_string(), "1000ms when training 90% pause training-driver");
    assert_eq!(schedule.steps[1], Step::during(2_000, 500, Fault::Kill(Target::LeaderOf(Group::Users(3)))));
    for wrong in ["", "seed x", "seed 1\n5 kill node-1", "seed 1\n5ms", "seed 1\n5ms when night kill node-1"] {
        assert!(wrong.parse::<Schedule>().is_err(), "{wrong}");
    }
}
