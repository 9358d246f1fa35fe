//! Which world and which checker owes the capture of which bug.
//!
//! The bugs' names are those of `docent_types::sabotage`, which this crate does not know; a test compares the two lists.

use docent_trial::check::Checker;
use std::fmt;

/// Where a bug may be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum World {
    /// The simulation, by its own seeds.
    Sim,
    /// A scenario of the matrix in the lab.
    Scenario(&'static str),
    /// A probe of [`super::PROBES`] over the lab.
    Probe(&'static str),
}

impl fmt::Display for World {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            World::Sim => to.write_str("sim"),
            World::Scenario(name) => write!(to, "lab, scenario {name}"),
            World::Probe(name) => write!(to, "lab, probe {name}"),
        }
    }
}

/// One way to catch a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where.
    pub world: World,
    /// Seeds, from 1 on, within which it must be caught there.
    pub seeds: u64,
}

/// A bug and who owes its capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The bug's name.
    pub bug: &'static str,
    /// Tried in order until one catches it.
    pub attempts: &'static [Attempt],
    /// The checkers whose business it is: a capture by another does not count.
    pub checkers: &'static [Checker],
}

const fn probe(name: &'static str, seeds: u64) -> Attempt {
    Attempt { world: World::Probe(name), seeds }
}

const fn scenario(name: &'static str, seeds: u64) -> Attempt {
    Attempt { world: World::Scenario(name), seeds }
}

const fn sim(seeds: u64) -> Attempt {
    Attempt { world: World::Sim, seeds }
}

/// Every bug.
pub const PLANS: &[Plan] = {
    use Checker::{Answers, Consent, Events, Linear, Liveness, Logs, Raft, Replicas, Sessions};
    &[
        plan("ack-before-quorum", &[sim(16), probe("leader-killed", 3)], &[Events, Linear, Sessions]),
        plan("skipped-fsync", &[sim(16), probe("power-loss", 2)], &[Events, Liveness, Logs]),
        plan("vote-not-saved", &[sim(16), probe("restart", 1)], &[Raft, Liveness, Logs]),
        plan("truncate-forgotten", &[sim(16), probe("leader-killed", 2)], &[Liveness, Logs]),
        plan("purge-before-durable", &[sim(16), probe("power-loss-after-purge", 3)], &[Events, Liveness, Logs]),
        plan("dedupe-lost-in-snapshot", &[probe("snapshot", 2)], &[Replicas]),
        plan("snapshot-skips-blocks", &[probe("snapshot", 2)], &[Replicas]),
        plan("apply-sees-batch", &[sim(16), probe("digests", 3)], &[Replicas]),
        plan(
            "lease-not-rechecked",
            &[scenario("minority-leader", 2), probe("stale-read", 1), sim(40)],
            &[Linear, Consent, Sessions],
        ),
        plan("replica-id-reused", &[probe("move", 1)], &[Liveness, Raft]),
        plan("erase-keeps-history", &[sim(16), probe("erasure", 1)], &[Events, Linear]),
        plan("opt-out-only-in-cache", &[sim(16), probe("restart", 1)], &[Linear, Consent]),
        plan("mixed-versions", &[probe("cached-answers", 1)], &[Answers]),
        plan("stale-user-vector", &[probe("cached-answers", 1)], &[Answers]),
        plan("stale-items-not-refused", &[probe("paused-replica", 3)], &[Consent]),
        plan("take-down-acked-early", &[probe("take-down", 2)], &[Consent]),
        plan("blocks-not-filtered", &[probe("blocks", 1)], &[Consent]),
        plan("merge-ignores-missing-shard", &[probe("lost-shard", 1)], &[Answers]),
        plan("shard-returns-too-few", &[probe("prefix", 1)], &[Answers]),
        plan(
            "unknown-retried-with-new-id",
            &[sim(16), probe("leader-killed", 4), probe("leader-paused", 2)],
            &[Events],
        ),
        plan("activation-before-ready", &[probe("activation", 3)], &[Answers]),
        plan("catalog-goes-back", &[probe("lagging-coordinator", 3)], &[Sessions]),
    ]
};

const fn plan(bug: &'static str, attempts: &'static [Attempt], checkers: &'static [Checker]) -> Plan {
    Plan { bug, attempts, checkers }
}

/// The plan of a bug.
pub fn of(bug: &str) -> Option<&'static Plan> {
    PLANS.iter().find(|plan| plan.bug == bug)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The list of the planted bugs is another crate's, which this one may not know.
    #[test]
    fn every_planted_bug_has_a_plan() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/types/src/sabotage.rs");
        let text = std::fs::read_to_string(root).unwrap();
        let list = text.split("\nbugs! {\n").nth(1).unwrap().split("\n}").next().unwrap();
        let planted: BTreeSet<&str> = list.lines().filter_map(|line| line.split('"').nth(1)).collect();
        assert_eq!(planted, PLANS.iter().map(|plan| plan.bug).collect());
        assert!(planted.len() >= 14);
    }

    #[test]
    fn every_plan_names_probes_that_there_are_and_every_probe_owes_something() {
        let mut owed = BTreeSet::new();
        for plan in PLANS {
            assert!(!plan.attempts.is_empty() && !plan.checkers.is_empty(), "{}", plan.bug);
            for attempt in plan.attempts {
                assert!(attempt.seeds > 0, "{}", plan.bug);
                if let World::Probe(name) = attempt.world {
                    assert!(super::super::probe(name).is_ok(), "{name}");
                    owed.insert(name);
                }
            }
        }
        let all: BTreeSet<&str> = super::super::PROBES.iter().map(|(name, _)| *name).collect();
        assert_eq!(owed, all);
        let bugs: BTreeSet<&str> = PLANS.iter().map(|plan| plan.bug).collect();
        assert_eq!(bugs.len(), PLANS.len());
    }
}
