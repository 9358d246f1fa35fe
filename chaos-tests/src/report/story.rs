//! What is drawn of a history: faults by member, phases, changes of leaders, curves. Pure, and bounded.

use crate::run::Trial;
use crate::run::figures::Second;
use crate::spread::Spread;
use docent_trial::history::{FaultMark, Missing, Observed, PhaseMark};
use docent_trial::{Applied, Group, History, Kind, Layer, Member, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// Points of a curve at most: as many as a screen shows apart.
pub(super) const POINTS_MAX: usize = 200;
/// Bars and changes of leaders that are drawn at most.
const MARKS_MAX: usize = 200;
/// Members that have a row at most.
const ROWS_MAX: usize = 24;
const SECOND_US: f64 = 1e6;

/// A fault on one member.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    /// Whom it hit.
    pub(super) member: Member,
    /// What kind it was.
    pub(super) kind: &'static str,
    /// Of which layer.
    pub(super) layer: Layer,
    /// Seconds of the run when it began to be done: a replacement takes a while.
    pub(super) from_s: f64,
    /// As `from_s` where it was over at once.
    pub(super) until_s: f64,
    /// Which of the member's faults of that time it is: they are drawn one below the other.
    pub(super) lane: usize,
}

/// A time of the run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    /// Which phase.
    pub(super) phase: Phase,
    /// Seconds of the run.
    pub(super) from_s: f64,
    /// Seconds of the run.
    pub(super) until_s: f64,
}

/// Another leader.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    /// Seconds of the run.
    pub(super) at_s: f64,
    /// Of what.
    pub(super) group: Group,
    /// Who leads now.
    pub(super) member: Member,
}

/// A point of the curves: what happened in `width_s` seconds from `at_s` on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Point {
    /// Seconds of the run.
    pub(super) at_s: f64,
    /// Queries that were answered, a second.
    pub(super) answered: f64,
    /// Queries that failed through living nodes, a second.
    pub(super) failed: f64,
    /// Answers that were not personal though they could have been, a second.
    pub(super) impersonal: f64,
    /// Percent of the asked shards that answered, at worst.
    pub(super) coverage: f64,
    /// Percent of the answers that were personal, at worst.
    pub(super) personal: f64,
    /// Events acked, a second.
    pub(super) acked: f64,
    /// Milliseconds; `None` where nothing was answered.
    pub(super) p50_ms: Option<f64>,
    /// Milliseconds; `None` where nothing was answered.
    pub(super) p99_ms: Option<f64>,
}

/// Everything that is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    /// How long the run was, and never 0.
    pub(super) seconds: f64,
    /// Who has a row, in order.
    pub(super) members: Vec<Member>,
    /// Their faults.
    pub(super) bars: Vec<Bar>,
    /// The phases.
    pub(super) phases: Vec<Span>,
    /// Changes of leaders after the first of each group.
    pub(super) changes: Vec<Change>,
    /// How many changes there were in all.
    pub(super) changed: usize,
    /// The curves.
    pub(super) points: Vec<Point>,
    /// Seconds that a point stands for.
    pub(super) width_s: usize,
}

impl Story {
    /// Of a run.
    pub(super) fn of(trial: &Trial) -> Story {
        let (history, seconds) = (&trial.history, trial.figures.seconds.max(1.0));
        let (changes, changed) = changes(history);
        let bars = bars(history, seconds);
        let width_s = trial.figures.curve.len().div_ceil(POINTS_MAX).max(1);
        Story {
            seconds,
            members: members(history, &bars),
            bars,
            phases: phases(history, seconds),
            changes,
            changed,
            points: points(trial, width_s),
            width_s,
        }
    }
}

fn at_s(at_us: u64) -> f64 {
    at_us as f64 / SECOND_US
}

/// Those of the start, and those that came later.
fn members(history: &History, bars: &[Bar]) -> Vec<Member> {
    let bounded = |count: u32| 1..=count.min(ROWS_MAX as u32);
    let nodes = bounded(history.header.nodes).map(Member::node);
    let coordinators = bounded(history.header.coordinators).map(Member::coordinator);
    let all: BTreeSet<Member> = nodes.chain(coordinators).chain(bars.iter().map(|bar| bar.member)).collect();
    all.into_iter().take(ROWS_MAX).collect()
}

fn phases(history: &History, seconds: f64) -> Vec<Span> {
    let mut marks = history.phases.clone();
    marks.sort_by_key(|mark| mark.at_us);
    let ends = marks.iter().skip(1).map(|mark| at_s(mark.at_us)).chain([seconds]);
    let span = |(mark, until_s): (&PhaseMark, f64)| {
        let from_s = at_s(mark.at_us).min(seconds);
        Span { phase: mark.phase, from_s, until_s: until_s.max(from_s) }
    };
    marks.iter().zip(ends).map(span).collect()
}

fn changes(history: &History) -> (Vec<Change>, usize) {
    let mut last: BTreeMap<Group, (u64, Member)> = BTreeMap::new();
    let (mut changes, mut changed) = (Vec::new(), 0);
    for sighting in &history.observed {
        let Observed::Leader { group, term, member } = sighting.what else { continue };
        let is_news = last.get(&group).is_none_or(|(before, _)| *before < term);
        if is_news && last.insert(group, (term, member)).is_some() {
            changed += 1;
            if changes.len() < MARKS_MAX {
                changes.push(Change { at_s: at_s(sighting.at_us), group, member });
            }
        }
    }
    (changes, changed)
}

/// When a fault was over: at its end mark, at the next healing, or with the run; an order of an operator has no length.
fn until_s(history: &History, mark: &FaultMark, seconds: f64) -> f64 {
    let later = history.faults.iter().filter(|other| other.at_us > mark.at_us);
    let own = later.clone().find(|other| other.is_end && other.step.is_some() && other.step == mark.step);
    if own.is_none() && matches!(mark.fault.kind().layer(), Layer::Operator | Layer::Everything) {
        return at_s(mark.at_us);
    }
    let healed = later.filter(|other| other.fault.kind() == Kind::Heal).map(|other| other.at_us).min();
    own.map(|end| end.at_us).or(healed).map_or(seconds, at_s)
}

fn bars(history: &History, seconds: f64) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    for mark in history.faults.iter().filter(|mark| !mark.is_end && mark.fault.kind() != Kind::Heal) {
        let Applied::Installed { on, .. } = &mark.applied else { continue };
        let (from_s, until_s) = (at_s(mark.from_us), until_s(history, mark, seconds));
        for member in on.iter().copied().take(MARKS_MAX.saturating_sub(bars.len())) {
            let meets = |bar: &&Bar| bar.member == member && bar.until_s >= from_s;
            let taken: BTreeSet<usize> = bars.iter().filter(meets).map(|bar| bar.lane).collect();
            let lane = (0..).find(|lane| !taken.contains(lane)).unwrap_or(0);
            let (kind, layer) = (mark.fault.kind().name(), mark.fault.kind().layer());
            bars.push(Bar { member, kind, layer, from_s, until_s, lane });
        }
    }
    bars
}

/// What the curve of [`crate::run::figures`] does not have.
#[derive(Default)]
struct Answers {
    took_ms: Vec<f64>,
    impersonal: u64,
}

fn answers(history: &History, width_s: usize) -> BTreeMap<usize, Answers> {
    let mut answers: BTreeMap<usize, Answers> = BTreeMap::new();
    for query in history.operations.iter().filter(|one| one.call.is_query()) {
        if let (Some(listing), Some(returned), Some(took_us)) = (query.listing(), query.returned_us, query.took_us()) {
            let at = answers.entry(at_s(returned) as usize / width_s).or_default();
            at.took_ms.push(took_us as f64 / 1e3);
            at.impersonal += u64::from(listing.misses(Missing::UserState));
        }
    }
    answers
}

fn points(trial: &Trial, width_s: usize) -> Vec<Point> {
    let mut answers = answers(&trial.history, width_s);
    let point = |(place, seconds): (usize, &[Second])| {
        let length = seconds.len().max(1) as f64;
        let mean = |of: fn(&Second) -> u64| seconds.iter().map(of).sum::<u64>() as f64 / length;
        let worst = |of: fn(&Second) -> f64| seconds.iter().map(of).fold(1.0, f64::min) * 100.0;
        let answers = answers.remove(&place).unwrap_or_default();
        let spread = Some(Spread::of(answers.took_ms)).filter(|spread| spread.count() > 0);
        Point {
            at_s: (place * width_s) as f64,
            answered: mean(|second| second.queries),
            failed: mean(|second| second.failed),
            impersonal: answers.impersonal as f64 / length,
            coverage: worst(|second| second.coverage),
            personal: worst(|second| second.personal),
            acked: mean(|second| second.acked),
            p50_ms: spread.as_ref().map(|spread| spread.at(0.5)),
            p99_ms: spread.as_ref().map(|spread| spread.at(0.99)),
        }
    };
    trial.figures.curve.chunks(width_s).enumerate().map(point).collect()
}
