//! What a report tells of a history: how long faults were felt, what failed, what was covered, second by second. Pure.

use crate::spread::Spread;
use docent_trial::history::{Answer, Call, FaultMark, Missing, Observed, Operation, Outcome};
use docent_trial::{Applied, Group, History, Member, Phase};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Figures of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// How long it lasted.
    pub seconds: f64,
    /// Events that were acked.
    pub events_acked: u64,
    /// Acked events that the export lacks; `None` where there was no complete export.
    pub events_lost: Option<u64>,
    /// Events whose last try was neither acked nor surely refused.
    pub events_unknown: u64,
    /// Tries of events that were not acked through nodes that were well, and sent again.
    pub tries_failed: u64,
    /// Queries that were answered.
    pub queries: u64,
    /// Queries that failed through nodes that were well.
    pub queries_failed: u64,
    /// Queries that failed because their own node was dead, paused or cut off.
    pub queries_cut_off: u64,
    /// Answers that missed something and said so.
    pub degraded: u64,
    /// Of these, answers that were not personal because the user's state could not be read.
    pub impersonal: u64,
    /// Latencies of answered queries by phase.
    pub latencies: Vec<Latency>,
    /// Every fault and what was felt of it.
    pub faults: Vec<Felt>,
    /// Second by second.
    pub curve: Vec<Second>,
    /// Notes of the run for its reader.
    pub notes: Vec<String>,
}

/// Latencies of a phase, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Which.
    pub phase: Phase,
    /// Half of the answers came within.
    pub p50_ms: f64,
    /// 99 of 100 did.
    pub p99_ms: f64,
    /// All did.
    pub max_ms: f64,
}

/// A fault and what was felt of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Felt {
    /// Seconds of the run when it was done.
    pub at_s: f64,
    /// Its line.
    pub fault: String,
    /// What came of it.
    pub applied: String,
    /// Whether it ends what another began.
    pub is_end: bool,
    /// Shards that lost their leader by it.
    pub led: u64,
    /// Seconds until the first of these had another leader; `None` where none ever had, or none lost its leader.
    pub detected_s: Option<f64>,
    /// Seconds until all of these had another leader and took writes again; `None` where that never came, or nothing had to.
    pub recovered_s: Option<f64>,
}

/// One second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Second {
    /// Which, from the beginning.
    pub at_s: u64,
    /// Queries that were answered.
    pub queries: u64,
    /// Queries that failed through nodes that were well.
    pub failed: u64,
    /// The share of the asked shards that answered; 1 where nothing was asked.
    pub coverage: f64,
    /// Answers from the user's own state, of those that could be.
    pub personal: f64,
    /// Events that were acked.
    pub acked: u64,
}

const SECOND_US: u64 = 1_000_000;

impl Figures {
    /// Of a history.
    pub fn of(history: &History) -> Figures {
        let ends = history.operations.iter().filter_map(|operation| operation.returned_us);
        let last = ends.chain(history.observed.iter().map(|one| one.at_us)).max().unwrap_or(0);
        let notes = history.observed.iter().filter_map(|one| match &one.what {
            Observed::Note { text } => Some(text.clone()),
            _ => None,
        });
        let mut figures =
            Figures { seconds: last as f64 / SECOND_US as f64, notes: notes.collect(), ..Figures::default() };
        figures.count_events(history);
        history
            .operations
            .iter()
            .filter(|operation| operation.call.is_query())
            .for_each(|query| figures.count_query(query));
        figures.latencies = latencies(history);
        figures.faults = felt(history);
        figures.curve = curve(history);
        figures
    }

    fn count_events(&mut self, history: &History) {
        let (mut acked, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for operation in &history.operations {
            let Call::Event { event_id, .. } = &operation.call else { continue };
            match &operation.outcome {
                Outcome::Ok(Answer::Event { outcome, .. }) => {
                    if *outcome != docent_trial::history::EventOutcome::NotCollected {
                        acked.insert(event_id.as_str());
                    }
                }
                Outcome::Ok(_) => {}
                Outcome::Rejected(refusal) => self.tries_failed += u64::from(!refusal.is_of_gateway),
                Outcome::Unknown(refusal) => {
                    self.tries_failed += u64::from(!refusal.is_of_gateway);
                    unknown.insert(event_id.as_str());
                }
            }
        }
        self.events_acked = acked.len() as u64;
        self.events_unknown = unknown.difference(&acked).count() as u64;
        let is_end = |what: &Observed| matches!(what, Observed::ExportEnd { .. });
        if history.observed.iter().any(|one| is_end(&one.what)) {
            let exported: BTreeSet<&str> = history.observed.iter().filter_map(|one| exported(&one.what)).collect();
            let erased = erased(history);
            let users: BTreeMap<&str, &str> =
                history.operations.iter().filter_map(|one| user_of_event(&one.call)).collect();
            let is_lost =
                |id: &&&str| !exported.contains(**id) && users.get(**id).is_none_or(|user| !erased.contains(user));
            self.events_lost = Some(acked.iter().filter(is_lost).count() as u64);
        }
    }

    fn count_query(&mut self, query: &Operation) {
        match &query.outcome {
            Outcome::Ok(_) => self.queries += 1,
            Outcome::Rejected(refusal) | Outcome::Unknown(refusal) if refusal.is_of_gateway => {
                self.queries_cut_off += 1
            }
            Outcome::Rejected(_) | Outcome::Unknown(_) => self.queries_failed += 1,
        }
        if let Some(listing) = query.listing() {
            self.degraded += u64::from(listing.coverage.is_some() && !listing.is_full());
            self.impersonal += u64::from(listing.misses(Missing::UserState));
        }
    }
}

fn exported(what: &Observed) -> Option<&str> {
    match what {
        Observed::Exported { event_id, .. } => Some(event_id),
        _ => None,
    }
}

fn user_of_event(call: &Call) -> Option<(&str, &str)> {
    match call {
        Call::Event { event_id, user, .. } => Some((event_id, user)),
        _ => None,
    }
}

/// Users of whom an erasure was tried: their events may be gone.
fn erased(history: &History) -> BTreeSet<&str> {
    let user = |operation: &'_ Operation| matches!(operation.call, Call::EraseUser { .. });
    history.operations.iter().filter(|one| user(one)).filter_map(|one| one.call.user()).collect()
}

fn latencies(history: &History) -> Vec<Latency> {
    let mut by_phase: BTreeMap<Phase, Vec<f64>> = BTreeMap::new();
    for query in history.operations.iter().filter(|one| one.call.is_query() && one.answer().is_some()) {
        let took = query.took_us().unwrap_or(0) as f64 / 1e3;
        by_phase.entry(history.phase_at(query.called_us)).or_default().push(took);
    }
    let latency = |(phase, took): (Phase, Vec<f64>)| {
        let spread = Spread::of(took);
        Latency { phase, p50_ms: spread.at(0.5), p99_ms: spread.at(0.99), max_ms: spread.at(1.0) }
    };
    by_phase.into_iter().map(latency).collect()
}

/// A leader that was seen.
#[derive(Clone, Copy)]
struct Led {
    at_us: u64,
    term: u64,
    member: Member,
}

fn felt(history: &History) -> Vec<Felt> {
    let mut leaders: BTreeMap<Group, Vec<Led>> = BTreeMap::new();
    for sighting in &history.observed {
        if let Observed::Leader { group, term, member } = sighting.what {
            leaders.entry(group).or_default().push(Led { at_us: sighting.at_us, term, member });
        }
    }
    let mut acks: BTreeMap<Group, Vec<u64>> = BTreeMap::new();
    for operation in &history.operations {
        if let (Some(Answer::Event { position: Some(position), .. }), Some(at)) =
            (operation.answer(), operation.acked_us())
        {
            acks.entry(position.group).or_default().push(at);
        }
    }
    history.faults.iter().map(|mark| felt_of(mark, &leaders, &acks)).collect()
}

fn felt_of(mark: &FaultMark, leaders: &BTreeMap<Group, Vec<Led>>, acks: &BTreeMap<Group, Vec<u64>>) -> Felt {
    let hit = match &mark.applied {
        Applied::Installed { on, .. } if mark.fault.kind().takes_down() && !mark.is_end => on.clone(),
        _ => BTreeSet::new(),
    };
    let since = |at_us: u64| at_us.saturating_sub(mark.from_us) as f64 / 1e6;
    let (mut led, mut detected, mut recovered) = (0, Vec::new(), Vec::new());
    for (group, seen) in leaders {
        let before = seen.iter().filter(|one| one.at_us <= mark.from_us).max_by_key(|one| one.term);
        let Some(before) = before.filter(|one| hit.contains(&one.member)) else { continue };
        led += 1;
        let after =
            seen.iter().filter(|one| one.at_us > mark.from_us && one.term > before.term).min_by_key(|one| one.at_us);
        detected.extend(after.map(|one| since(one.at_us)));
        // A gauge is read a little after its replica led: an ack may be older than the sighting of its leader.
        let first_ack = |led: &Led| {
            acks.get(group)?.iter().copied().filter(|at| *at > mark.at_us).find(|at| *at + SECOND_US > led.at_us)
        };
        recovered.push(match (after, acks.contains_key(group)) {
            (None, _) => None,
            (Some(led), false) => Some(since(led.at_us)),
            (Some(led), true) => first_ack(led).map(|at| since(at.max(led.at_us))),
        });
    }
    let longest = recovered.iter().copied().collect::<Option<Vec<f64>>>();
    Felt {
        at_s: mark.at_us as f64 / 1e6,
        fault: mark.fault.to_string(),
        applied: mark.applied.to_string(),
        is_end: mark.is_end,
        led,
        detected_s: detected.into_iter().min_by(f64::total_cmp),
        recovered_s: longest.and_then(|all| all.into_iter().max_by(f64::total_cmp)),
    }
}

fn curve(history: &History) -> Vec<Second> {
    #[derive(Default)]
    struct Sums {
        second: Second,
        asked: u64,
        answered: u64,
        personal: u64,
        could_be_personal: u64,
    }
    let mut sums: BTreeMap<u64, Sums> = BTreeMap::new();
    for operation in &history.operations {
        let Some(at_us) = operation.returned_us else { continue };
        let sum = sums.entry(at_us / SECOND_US).or_default();
        let is_ack = matches!((&operation.call, &operation.outcome), (Call::Event { .. }, Outcome::Ok(_)));
        sum.second.acked += u64::from(is_ack);
        sum.second.failed += u64::from(crate::workload::is_failed_query(operation));
        let Some(listing) = operation.listing() else { continue };
        sum.second.queries += 1;
        if let Some(coverage) = &listing.coverage {
            sum.asked += u64::from(coverage.asked);
            sum.answered += u64::from(coverage.answered);
        }
        if matches!(operation.call, Call::Recommend { .. }) {
            sum.could_be_personal += 1;
            sum.personal += u64::from(!listing.misses(Missing::UserState));
        }
    }
    let share = |part: u64, of: u64| if of == 0 { 1.0 } else { part as f64 / of as f64 };
    let last = sums.keys().next_back().map_or(0, |last| last + 1);
    let second = |at_s: u64| {
        let sum = sums.remove(&at_s).unwrap_or_default();
        let (coverage, personal) = (share(sum.answered, sum.asked), share(sum.personal, sum.could_be_personal));
        Second { at_s, coverage, personal, ..sum.second }
    };
    (0..last).map(second).collect()
}
