//! Makes a failing schedule as small as it still fails.

use super::{Schedule, Step};
use crate::fault::Fault;
use crate::target::Target;
use std::collections::BTreeSet;

/// What came of shrinking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minimised {
    /// The smallest schedule found that still fails.
    pub schedule: Schedule,
    /// How often it was tried.
    pub tries: u32,
    /// Nothing smaller of what this knows to make fails; false where the budget ended first.
    pub is_minimal: bool,
}

/// Looks for the smallest schedule that still fails: drops steps (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing
/// input", 2002: ddmin), then shortens faults, narrows targets, weakens amounts, and brings times forward, until nothing helps any more.
///
/// `still_fails` runs a schedule, at most `budget` times; guard with [`super::Space::allows`] inside where smaller must stay within a space.
/// A run that cannot be told counts as not failing.
pub fn minimise(schedule: &Schedule, mut still_fails: impl FnMut(&Schedule) -> bool, budget: u32) -> Minimised {
    let mut search = Search { best: schedule.clone(), tried: BTreeSet::new(), tries: 0, budget };
    loop {
        let before = search.best.clone();
        search.drop_steps(&mut still_fails);
        search.simplify(&mut still_fails);
        if search.best == before || search.is_spent() {
            let is_minimal = search.best == before && !search.is_spent();
            return Minimised { schedule: search.best, tries: search.tries, is_minimal };
        }
    }
}

struct Search {
    best: Schedule,
    /// What was run and did not fail: a run is dear, and ways to smaller schedules meet.
    tried: BTreeSet<Schedule>,
    tries: u32,
    budget: u32,
}

impl Search {
    fn is_spent(&self) -> bool {
        self.tries >= self.budget
    }

    /// Keeps the candidate if it fails too.
    fn accepts(&mut self, candidate: Schedule, still_fails: &mut impl FnMut(&Schedule) -> bool) -> bool {
        if self.is_spent() || candidate == self.best || self.tried.contains(&candidate) {
            return false;
        }
        self.tries += 1;
        let fails = still_fails(&candidate);
        if fails {
            self.best = candidate;
        } else {
            self.tried.insert(candidate);
        }
        fails
    }

    /// Leaves out ever smaller runs of steps, halves first.
    fn drop_steps(&mut self, still_fails: &mut impl FnMut(&Schedule) -> bool) {
        let mut size = self.best.steps.len().max(1);
        while size > 0 && !self.is_spent() {
            let mut from = 0;
            while from < self.best.steps.len() {
                let mut candidate = self.best.clone();
                candidate.steps.drain(from..(from + size).min(candidate.steps.len()));
                if !self.accepts(candidate, still_fails) {
                    from += size;
                }
            }
            size /= 2;
        }
    }

    /// Tries every smaller form of every step, largest change first, until none is taken.
    fn simplify(&mut self, still_fails: &mut impl FnMut(&Schedule) -> bool) {
        let mut place = 0;
        while place < self.best.steps.len() && !self.is_spent() {
            let replaced = smaller(&self.best.steps[place]).into_iter().map(|step| {
                let mut steps = self.best.steps.clone();
                steps[place] = step;
                steps
            });
            let candidates: Vec<Vec<Step>> = replaced.chain(closer(&self.best.steps, place)).collect();
            let taken = candidates.into_iter().any(|steps| {
                // Not sorted: a step that would be earlier than its neighbours is not tried.
                let is_ordered = steps.is_sorted_by_key(|step| step.at_ms);
                is_ordered && self.accepts(Schedule { seed: self.best.seed, steps }, still_fails)
            });
            place += usize::from(!taken);
        }
    }
}

/// Finer than this no time matters.
const GRAIN_MS: u64 = 100;

/// Shorter times than this, shortest first; none of them grows back.
fn halves(ms: u64) -> impl Iterator<Item = u64> {
    let coarse = |ms: u64| ms / GRAIN_MS * GRAIN_MS;
    [coarse(ms / 2), coarse(ms / 4 * 3), coarse(ms)].into_iter().filter(move |shorter| *shorter < ms)
}

/// The step at `place` and all after it sooner after the one before: what matters may be how far they are apart.
fn closer(steps: &[Step], place: usize) -> Vec<Vec<Step>> {
    let before = place.checked_sub(1).map_or(0, |place| steps[place].at_ms);
    let gap = steps[place].at_ms - before;
    let moved = std::iter::once(0).filter(|_| gap > 0).chain(halves(gap)).map(|shorter| {
        let mut steps = steps.to_vec();
        steps[place..].iter_mut().for_each(|step| step.at_ms -= gap - shorter);
        steps
    });
    moved.collect()
}

/// Simpler forms of a step, simplest first. Each is smaller in a way that cannot go round in a circle.
fn smaller(step: &Step) -> Vec<Step> {
    let with = |fault: Fault| Step { fault, ..step.clone() };
    let mut found = Vec::new();
    if step.when.is_some() {
        found.push(Step { when: None, ..step.clone() });
    }
    let narrower = step.fault.target().map(narrower).unwrap_or_default();
    found.extend(narrower.into_iter().map(|target| with(step.fault.with_target(target))));
    found.extend(weaker(&step.fault).map(with));
    let lengths = step.for_ms.into_iter().flat_map(halves).filter(|length| *length > 0);
    found.extend(lengths.map(|length| Step { for_ms: Some(length), ..step.clone() }));
    found.extend(halves(step.at_ms).map(|at_ms| Step { at_ms, ..step.clone() }));
    found
}

/// Parts of a sum, or fewer of a draw.
fn narrower(target: &Target) -> Vec<Target> {
    match target {
        Target::Many(targets) if targets.len() > 1 => targets.clone(),
        Target::Random(count) if *count > 1 => vec![Target::Random(1), Target::Random(count - 1)],
        Target::All => vec![Target::AllCoordinators, Target::AllNodes],
        _ => Vec::new(),
    }
}

/// Half of the amount, where there is one that can be halved.
fn weaker(fault: &Fault) -> Option<Fault> {
    let mut weaker = fault.clone();
    match &mut weaker {
        Fault::Loss { percent, .. } | Fault::Reorder { percent, .. } | Fault::Duplicate { percent, .. } => {
            *percent /= 2
        }
        Fault::Delay { ms, .. } | Fault::Jitter { ms, .. } | Fault::SlowSync { ms, .. } => *ms /= 2,
        Fault::BitRot { bits, .. } => *bits /= 2,
        Fault::ClockJump { ms, .. } => *ms /= 2,
        Fault::ClockDrift { ppm, .. } => *ppm /= 2,
        _ => return None,
    }
    let is_something = !matches!(
        weaker,
        Fault::Loss { percent: 0, .. }
            | Fault::Reorder { percent: 0, .. }
            | Fault::Duplicate { percent: 0, .. }
            | Fault::Delay { ms: 0, .. }
            | Fault::Jitter { ms: 0, .. }
            | Fault::SlowSync { ms: 0, .. }
            | Fault::BitRot { bits: 0, .. }
            | Fault::ClockJump { ms: 0, .. }
            | Fault::ClockDrift { ppm: 0, .. }
    );
    is_something.then_some(weaker)
}
