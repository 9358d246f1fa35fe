//! The judges: pure functions from a history to a verdict.
//!
//! A checker never guesses: what a history cannot tell is [`Verdict::Unknown`], which is not a pass.

mod answers;
mod consent;
pub mod coverage;
mod events;
mod interval;
mod linear;
mod liveness;
mod logs;
mod raft;
mod recoveries;
mod replicas;
mod sessions;
mod writers;

pub use answers::{ClassFigures, classes};
pub use interval::{Span, spans};

use crate::history::History;
use crate::scenario::Expect;
use crate::text::named;
use serde::{Deserialize, Serialize};
use std::fmt;

named! {
    /// A judge.
    "checker" Checker {
        /// No acked event is lost, none is there twice, none was never sent.
        Events = "events",
        /// Consent, blocks, profiles, seen sets, counters and the catalog are linearizable, each by its key.
        Linear = "linear",
        /// Versions and positions never go back for one client; it reads its own writes.
        Sessions = "sessions",
        /// Replicas have the same state at the same index.
        Replicas = "replicas",
        /// Every answer says its version and its coverage, both true; availability and latency.
        Answers = "answers",
        /// After an acked opt-out, block or take-down no answer shows otherwise.
        Consent = "consent",
        /// One leader a term, matching logs, complete leaders, committed never shrinks.
        Raft = "raft",
        /// After healing everything comes back in time.
        Liveness = "liveness",
        /// The run saw what it was for.
        Coverage = "coverage",
        /// No log has a line that nothing explains.
        Logs = "logs",
    }
}

/// One thing that is wrong, with as little as shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Violation {
    /// A short name of its kind: `lost`, `duplicated`, `phantom`, ...
    pub kind: String,
    /// In words, with ids and times.
    pub what: String,
    /// Operations that show it, by id.
    #[serde(default)]
    pub operations: Vec<u64>,
    /// When it showed, if at one time.
    #[serde(default)]
    pub at_us: Option<u64>,
}

/// What a judge says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case", deny_unknown_fields)]
pub enum Verdict {
    /// Nothing is wrong.
    Pass {
        /// How many things were judged; never 0.
        judged: u64,
    },
    /// Something is wrong.
    Fail {
        /// How many things are wrong in all.
        count: u64,
        /// The first few, those that show most first.
        evidence: Vec<Violation>,
    },
    /// It cannot be told. Not a pass.
    Unknown {
        /// Why.
        why: String,
    },
    /// The history has nothing that this judges.
    NotApplicable {
        /// What it would take.
        why: String,
    },
}

/// A checker tells of so many violations; the rest is counted.
pub const EVIDENCE_MAX: usize = 10;

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_pass(&self) -> bool {
        matches!(self, Verdict::Pass { .. })
    }

    /// Whether something is wrong.
    pub fn is_fail(&self) -> bool {
        matches!(self, Verdict::Fail { .. })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Pass { judged } => write!(to, "pass ({judged} judged)"),
            Verdict::Fail { count, evidence } => {
                write!(to, "FAIL ({count} violations)")?;
                evidence.iter().try_for_each(|one| write!(to, "\n  {}: {}", one.kind, one.what))
            }
            Verdict::Unknown { why } => write!(to, "UNKNOWN: {why}"),
            Verdict::NotApplicable { why } => write!(to, "not applicable: {why}"),
        }
    }
}

/// The verdicts of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgement {
    /// In the order of [`Checker::ALL`].
    pub verdicts: Vec<(Checker, Verdict)>,
}

impl Judgement {
    /// What one of them said, if it was asked.
    pub fn of(&self, checker: Checker) -> Option<&Verdict> {
        self.verdicts.iter().find(|(one, _)| *one == checker).map(|(_, verdict)| verdict)
    }

    /// Whether everybody who was asked found nothing wrong. Something that cannot be told is no pass; something that is not there to be
    /// judged is no failure: what a run must have seen is the business of [`Checker::Coverage`].
    pub fn is_pass(&self) -> bool {
        let is_well = |verdict: &Verdict| matches!(verdict, Verdict::Pass { .. } | Verdict::NotApplicable { .. });
        self.verdicts.iter().any(|(_, verdict)| verdict.is_pass())
            && self.verdicts.iter().all(|(_, verdict)| is_well(verdict))
    }
}

/// Asks one judge.
pub fn judge(checker: Checker, history: &History, expect: &Expect) -> Verdict {
    match checker {
        Checker::Events => events::check(history),
        Checker::Linear => linear::check(history),
        Checker::Sessions => sessions::check(history),
        Checker::Replicas => replicas::check(history),
        Checker::Answers => answers::check(history, expect),
        Checker::Consent => consent::check(history),
        Checker::Raft => raft::check(history),
        Checker::Liveness => liveness::check(history, expect),
        Checker::Coverage => coverage::check(history, expect),
        Checker::Logs => logs::check(history, expect),
    }
}

/// Asks everybody whom the scenario names.
pub fn judge_all(history: &History, expect: &Expect) -> Judgement {
    let asked = Checker::ALL.iter().filter(|checker| expect.checkers.contains(checker));
    Judgement { verdicts: asked.map(|checker| (*checker, judge(*checker, history, expect))).collect() }
}

/// Violations on their way to a verdict: all are counted, the first few kept of each kind.
#[derive(Clone, Debug, Default)]
struct Findings {
    judged: u64,
    count: u64,
    evidence: Vec<Violation>,
}

/// Violations of one kind that are told; so that one kind cannot hide another.
const EVIDENCE_OF_KIND_MAX: usize = 3;

impl Findings {
    fn add(&mut self, kind: &str, what: String, operations: Vec<u64>, at_us: Option<u64>) {
        self.count += 1;
        let told = self.evidence.iter().filter(|one| one.kind == kind).count();
        if told < EVIDENCE_OF_KIND_MAX && self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(Violation { kind: kind.to_owned(), what, operations, at_us });
        }
    }

    /// Fails where anything is wrong, passes where something was judged, else says what was missing.
    fn verdict(self, lacking: &str) -> Verdict {
        match (self.count, self.judged) {
            (0, 0) => Verdict::NotApplicable { why: lacking.to_owned() },
            (0, judged) => Verdict::Pass { judged },
            (count, _) => Verdict::Fail { count, evidence: self.evidence },
        }
    }
}

/// Seconds with milliseconds, for people.
fn at(us: u64) -> String {
    format!("{}.{:03} s", us / 1_000_000, us / 1_000 % 1_000)
}

#[cfg(test)]
pub(crate) mod story;
#[cfg(test)]
mod tests;
