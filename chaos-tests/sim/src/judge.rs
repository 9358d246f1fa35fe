//! What is expected of a run in the simulation, and what one amounts to in a batch.

use crate::run::Ran;
use docent_trial::Kind;
use docent_trial::check::{Judgement, Verdict, coverage, judge_all};
use docent_trial::history::Sight;
use docent_trial::scenario::Expect;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Parts of log lines that a fault explains, beside those that the checker knows.
const EXPLAINED: &[(Kind, &str)] =
    &[(Kind::DiskFull, "the disk is full: this node takes no writes and goes on reading")];

/// The verdict over one run, as its process tells it to the batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// Nothing is wrong.
    pub is_pass: bool,
    /// What the checkers said.
    pub judgement: Judgement,
    /// What it got stuck in, if it did.
    pub stuck: Option<String>,
    /// What was seen, and how often.
    pub sights: BTreeMap<Sight, u64>,
    /// Operations of clients.
    pub operations: u64,
    /// The digest of the trace.
    pub trace: String,
    /// Its lines.
    pub trace_lines: u64,
    /// Simulated seconds.
    pub simulated_s: f64,
}

impl Report {
    /// Judges a run.
    pub fn of(seed: u64, ran: &Ran) -> Report {
        // What every single run must have seen is little; what the seeds together must have seen is the batch's.
        let is_done = |kind: Kind| ran.history.faults.iter().any(|mark| mark.fault.kind() == kind);
        let explained = EXPLAINED.iter().filter(|(kind, _)| is_done(*kind)).map(|(_, line)| (*line).to_owned());
        let logs = explained.collect();
        let expect = Expect { moves_end: false, queries_fail_max: u64::MAX, logs, ..Expect::default() };
        let judgement = judge_all(&ran.history, &expect);
        Report {
            seed,
            is_pass: judgement.is_pass() && ran.stuck.is_none(),
            judgement,
            stuck: ran.stuck.clone(),
            sights: coverage::sights(&ran.history),
            operations: ran.history.operations.len() as u64,
            trace: ran.trace.1.clone(),
            trace_lines: ran.trace.0,
            simulated_s: ran.simulated.as_secs_f64(),
        }
    }

    /// What is wrong, a line a checker.
    pub fn complaints(&self) -> Vec<String> {
        let is_well = |verdict: &Verdict| matches!(verdict, Verdict::Pass { .. } | Verdict::NotApplicable { .. });
        let wrong = self.judgement.verdicts.iter().filter(|(_, verdict)| !is_well(verdict));
        let said = wrong.map(|(checker, verdict)| format!("{checker}: {verdict}"));
        self.stuck.iter().map(|why| format!("stuck: {why}")).chain(said).collect()
    }
}
