//! Carries a schedule out, step by step, for whoever has a world and a clock.

use super::{Schedule, Step};
use crate::fault::Fault;
use crate::world::{Applied, World};
use std::collections::VecDeque;

/// What a conductor did: for the marks of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which step, counted in the schedule.
    pub step: usize,
    /// What was done: the step's fault, or what undoes it.
    pub fault: Fault,
    /// Whether it is the end of the step.
    pub is_end: bool,
    /// What came of it.
    pub applied: Applied,
}

/// Where the carrying out of a schedule is. Pure: the caller has the clock.
#[derive(Clone, Debug)]
pub struct Conductor {
    schedule: Schedule,
    /// Steps whose time has not come, in order, by place.
    ahead: VecDeque<usize>,
    /// Steps whose time has come and that wait for something.
    waiting: Vec<usize>,
    /// When what undoes a step is due.
    ends: Vec<(u64, usize, Fault)>,
}

impl Conductor {
    /// At the beginning of a schedule.
    pub fn new(schedule: Schedule) -> Conductor {
        let ahead = (0..schedule.steps.len()).collect();
        Conductor { schedule, ahead, waiting: Vec::new(), ends: Vec::new() }
    }

    /// When something is due next, in milliseconds of the phase; `None` where only triggers are waited for, or nothing.
    pub fn next_ms(&self) -> Option<u64> {
        let step = self.ahead.front().and_then(|place| self.schedule.steps.get(*place)).map(|step| step.at_ms);
        let end = self.ends.iter().map(|(at_ms, ..)| *at_ms).min();
        [step, end].into_iter().flatten().min()
    }

    /// Whether a step waits for a trigger: then a world has to be looked at again and again.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether every step was done and every end came.
    pub fn is_over(&self) -> bool {
        self.ahead.is_empty() && self.waiting.is_empty() && self.ends.is_empty()
    }

    /// Does everything that is due at `now_ms`; ends before beginnings.
    pub fn advance(&mut self, world: &mut (impl World + ?Sized), now_ms: u64) -> Vec<Done> {
        let mut done = self.end_what_is_over(world, now_ms);
        while let Some(place) = self.ahead.front().copied() {
            if self.step(place).at_ms > now_ms {
                break;
            }
            self.ahead.pop_front();
            self.waiting.push(place);
        }
        for place in std::mem::take(&mut self.waiting) {
            match self.step(place).when.map_or(Ok(true), |trigger| world.holds(&trigger)) {
                Ok(true) => done.push(self.begin(world, place, now_ms)),
                Ok(false) => self.waiting.push(place),
                Err(why) => done.push(self.skipped(place, why)),
            }
        }
        done
    }

    /// The phase is over: tells which steps never came. What is open stays open; healing is the next phase's.
    pub fn finish(&mut self) -> Vec<Done> {
        let never: Vec<usize> = self.waiting.drain(..).chain(self.ahead.drain(..)).collect();
        self.ends.clear();
        never.into_iter().map(|place| self.skipped(place, "it was not due before the phase ended".to_owned())).collect()
    }

    fn step(&self, place: usize) -> &Step {
        &self.schedule.steps[place]
    }

    fn skipped(&self, place: usize, why: String) -> Done {
        let fault = self.step(place).fault.clone();
        Done { step: place, fault, is_end: false, applied: Applied::Skipped { why } }
    }

    fn begin(&mut self, world: &mut (impl World + ?Sized), place: usize, now_ms: u64) -> Done {
        let step = self.step(place);
        let (fault, length) = (step.fault.clone(), step.for_ms);
        let applied = world.apply(&fault, self.schedule.seed_of(step));
        if let (Applied::Installed { on, .. }, Some(length)) = (&applied, length)
            && let Some(end) = fault.undone(on)
        {
            self.ends.push((now_ms.saturating_add(length), place, end));
        }
        Done { step: place, fault, is_end: false, applied }
    }

    fn end_what_is_over(&mut self, world: &mut (impl World + ?Sized), now_ms: u64) -> Vec<Done> {
        let (mut over, open): (Vec<_>, Vec<_>) = self.ends.drain(..).partition(|(at_ms, ..)| *at_ms <= now_ms);
        self.ends = open;
        over.sort_by_key(|(at_ms, place, _)| (*at_ms, *place));
        let ended = over.into_iter().map(|(_, step, fault)| {
            let applied = world.apply(&fault, self.schedule.seed);
            Done { step, fault, is_end: true, applied }
        });
        ended.collect()
    }
}
