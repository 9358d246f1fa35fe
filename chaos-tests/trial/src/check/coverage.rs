//! Coverage or fail: a run that did not see what it was for proves nothing, and fails as vacuous.

use super::{Findings, Verdict};
use crate::fault::Kind;
use crate::history::{Answer, Call, EventOutcome, History, Observed, Operation, Outcome, Sight};
use crate::name::Group;
use crate::scenario::Expect;
use crate::world::Phase;
use std::collections::{BTreeMap, BTreeSet};

/// How often each thing was seen, by what the history holds and what its world told.
pub fn sights(history: &History) -> BTreeMap<Sight, u64> {
    let mut sights: BTreeMap<Sight, u64> = BTreeMap::new();
    let mut add = |sight: Sight, count: u64| *sights.entry(sight).or_default() += count;
    let healed = history.began_us(Phase::Converge).unwrap_or(u64::MAX);
    let mut versions = BTreeSet::new();
    for operation in &history.operations {
        of_operation(operation, healed).into_iter().for_each(|sight| add(sight, 1));
        versions.extend(operation.listing().and_then(|listing| listing.version).filter(|version| *version > 0));
    }
    add(Sight::Versions, versions.len() as u64);
    for (sight, count) in of_observed(history) {
        add(sight, count);
    }
    add(Sight::Faults, faults(history).values().sum());
    sights
}

/// How many faults of each kind were installed for certain; ends are not counted.
pub fn faults(history: &History) -> BTreeMap<Kind, u64> {
    let mut faults: BTreeMap<Kind, u64> = BTreeMap::new();
    for mark in history.faults.iter().filter(|mark| !mark.is_end && mark.applied.is_installed()) {
        *faults.entry(mark.fault.kind()).or_default() += 1;
    }
    faults.remove(&Kind::Heal);
    faults
}

fn of_operation(operation: &Operation, healed: u64) -> Vec<Sight> {
    let answer = match &operation.outcome {
        Outcome::Unknown(_) => return vec![Sight::Unknowns],
        Outcome::Rejected(_) => return vec![Sight::Refusals],
        Outcome::Ok(answer) => answer,
    };
    match (&operation.call, answer) {
        (Call::SetConsent { consent, .. }, _) if !consent.recommend => vec![Sight::OptOuts],
        (Call::SetBlocks { .. }, _) => vec![Sight::Blocks],
        (Call::TakeDown { .. }, _) => vec![Sight::TakeDowns],
        (Call::EraseUser { .. }, _) => vec![Sight::Erasures],
        (Call::Activate { .. } | Call::RollBack {}, Answer::Activated { .. }) => vec![Sight::Activations],
        (_, Answer::Event { outcome: EventOutcome::NotCollected, .. }) => Vec::new(),
        (_, Answer::Event { outcome, .. }) => {
            let repeat = (*outcome == EventOutcome::Duplicate).then_some(Sight::Duplicates);
            let fresh = (operation.called_us >= healed).then_some(Sight::FreshWrites);
            [Some(Sight::EventsAcked), repeat, fresh].into_iter().flatten().collect()
        }
        (_, Answer::Listing(listing)) => {
            let personal = listing.is_personal().then_some(Sight::PersonalAnswers);
            let degraded = (!listing.is_full()).then_some(Sight::DegradedAnswers);
            let oracle = listing.oracle.is_some().then_some(Sight::OracleAnswers);
            [Some(Sight::Queries), personal, degraded, oracle].into_iter().flatten().collect()
        }
        _ => Vec::new(),
    }
}

fn of_observed(history: &History) -> Vec<(Sight, u64)> {
    let mut terms: BTreeMap<Group, BTreeSet<u64>> = BTreeMap::new();
    let mut memberships = BTreeSet::new();
    let mut found = Vec::new();
    for sighting in &history.observed {
        match &sighting.what {
            Observed::Seen { what, count } => found.push((*what, *count)),
            Observed::Leader { group, term, .. } => drop(terms.entry(*group).or_default().insert(*term)),
            Observed::Membership { group, index, .. } => drop(memberships.insert((*group, *index))),
            Observed::Move { is_over: true, .. } => found.push((Sight::Moves, 1)),
            Observed::Digest { .. } => found.push((Sight::Digests, 1)),
            _ => {}
        }
    }
    // The first of each group is what it was born with.
    let groups: BTreeSet<Group> = memberships.iter().map(|(group, _)| *group).collect();
    found.push((Sight::MembershipChanges, (memberships.len() - groups.len()) as u64));
    found.push((Sight::Elections, terms.values().map(|terms| terms.len() as u64 - 1).sum()));
    found
}

/// Checks it.
pub(super) fn check(history: &History, expect: &Expect) -> Verdict {
    let (sights, faults) = (sights(history), faults(history));
    let mut findings = Findings::default();
    let mut want = |what: String, wanted: u64, seen: u64| {
        findings.judged += 1;
        if seen < wanted {
            let what = format!("{what}: {seen} seen, at least {wanted} wanted");
            findings.add("vacuous", what, Vec::new(), None);
        }
    };
    for (sight, wanted) in &expect.sights {
        want(sight.to_string(), *wanted, sights.get(sight).copied().unwrap_or(0));
    }
    for (kind, wanted) in &expect.faults {
        want(format!("fault {kind}"), *wanted, faults.get(kind).copied().unwrap_or(0));
    }
    // Whatever a scenario says: a run in which nobody called is none, and one whose whole schedule was skipped did not attack anything.
    want("calls".to_owned(), 1, history.operations.len() as u64);
    if history.header.schedule.lines().any(|line| !line.trim().is_empty() && !line.starts_with("seed")) {
        want("faults of the schedule".to_owned(), 1, sights.get(&Sight::Faults).copied().unwrap_or(0));
    }
    findings.verdict("nothing was wanted")
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, answer, consent, kinds};
    use super::*;
    use crate::history::Source;
    use crate::name::Member;

    fn story() -> Story {
        let mut story = Story::new();
        story.event((0, 5), "a", EventOutcome::Accepted, "users/0@1").event((6, 9), "a", EventOutcome::Duplicate, "");
        story.done((10, 11), consent(false)).unknown((12, 13), consent(true)).rejected((12, 13), consent(true));
        story.listing((14, 15), "u1", answer(Source::Model, &["i1"])).fault(3, "kill node-1", &[Member::node(1)]);
        let leader = |term| Observed::Leader { group: Group::Users(0), term, member: Member::node(1) };
        story
            .see(1, leader(1))
            .see(7, leader(2))
            .see(8, leader(2))
            .see(8, Observed::Seen { what: Sight::Truncations, count: 2 });
        story
    }

    #[test]
    fn what_follows_from_a_history_is_counted() {
        let sights = sights(&story().history);
        let wanted = [
            (Sight::EventsAcked, 2),
            (Sight::Duplicates, 1),
            (Sight::OptOuts, 1),
            (Sight::Unknowns, 1),
            (Sight::Refusals, 1),
            (Sight::Queries, 1),
            (Sight::PersonalAnswers, 1),
            (Sight::Versions, 1),
            (Sight::Faults, 1),
            (Sight::Elections, 1),
            (Sight::Truncations, 2),
        ];
        for (sight, count) in wanted {
            assert_eq!(sights.get(&sight), Some(&count), "{sight}");
        }
    }

    #[test]
    fn a_run_that_did_not_see_what_it_was_for_fails() {
        let wants = |sights: &[(Sight, u64)], faults: &[(Kind, u64)]| Expect {
            sights: sights.iter().copied().collect(),
            faults: faults.iter().copied().collect(),
            ..Expect::default()
        };
        let judged = |expect: &Expect| check(&story().history, expect);
        assert!(judged(&wants(&[(Sight::Elections, 1)], &[(Kind::Kill, 1)])).is_pass());
        assert_eq!(kinds(&judged(&wants(&[(Sight::SnapshotInstalls, 1)], &[]))), ["vacuous"]);
        assert_eq!(kinds(&judged(&wants(&[], &[(Kind::Pause, 1)]))), ["vacuous"]);
        assert_eq!(kinds(&check(&Story::new().history, &Expect::default())), ["vacuous"], "nobody called");
        let mut skipped = Story::new();
        skipped.done((1, 2), consent(false)).history.header.schedule = "seed 1\n5ms kill node-1\n".to_owned();
        assert_eq!(kinds(&check(&skipped.history, &Expect::default())), ["vacuous"], "nothing was done");
    }
}
