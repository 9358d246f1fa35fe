//! All judges together, over histories as large as a run of minutes.

use super::story::{Story, answer, header};
use super::*;
use crate::history::{Answer, Call, Consent, EventOutcome, Observed, Operation, Outcome, Refusal, Source};
use crate::name::{Group, Member};
use crate::workload::Workload;
use crate::world::Phase;
use std::collections::{BTreeMap, BTreeSet};

/// A history that a right cluster could have: 16 clients beside each other, each call happens half-way.
fn large(count: u64) -> Story {
    let mut story = Story { history: History::new(header()), client: 1, gateway: Member::node(1) };
    let workload = Workload { users: 200, items: 400, erase_percent: 1, ..Workload::default() };
    let mut users: BTreeMap<String, (Consent, BTreeSet<String>, u64)> = BTreeMap::new();
    let mut kept: BTreeMap<String, (String, String)> = BTreeMap::new();
    story.phase(0, Phase::Baseline).phase(count * 60 + 2_000_000, Phase::Converge);
    for number in 0..count {
        let call = if number % 3 == 0 { workload.read(7, number) } else { workload.write(7, "e", number) };
        let is_unknown = number % 97 == 0 && !call.is_read();
        let user = call.user().unwrap_or_default().to_owned();
        let state = users.entry(user.clone()).or_default();
        let answer = match &call {
            Call::Event { event_id, user, item, .. } => {
                state.2 += 1;
                kept.insert(event_id.clone(), (user.clone(), item.clone()));
                let position = Some(crate::Position { group: Group::Users(0), index: number + 1, term: None });
                Answer::Event { outcome: EventOutcome::Accepted, position }
            }
            Call::SetConsent { consent, .. } => {
                state.0 = *consent;
                Answer::Done {}
            }
            Call::SetBlocks { items, .. } => {
                state.1 = items.clone();
                Answer::Done {}
            }
            Call::EraseUser { user } => {
                *state = Default::default();
                kept.retain(|_, (of, _)| of != user);
                Answer::Done {}
            }
            Call::ReadConsent { .. } => Answer::Consent(state.0),
            Call::ReadBlocks { .. } => Answer::Blocks(state.1.clone()),
            Call::ReadItem { .. } => Answer::Item { title: String::new(), is_taken_down: true, events: 0 },
            Call::ReadCatalog {} => Answer::Catalog { live_version: 1, index: 5 },
            Call::Recommend { .. } | Call::Similar { .. } | Call::Popular { .. } => {
                Answer::Listing(answer(Source::Popular, &["x1", "x2"]))
            }
            _ => Answer::Done {},
        };
        if matches!(call, Call::ReadUser { .. }) {
            continue; // attributes are not kept here
        }
        let outcome = if is_unknown { Outcome::Unknown(Refusal::new("timeout", "")) } else { Outcome::Ok(answer) };
        let called_us = number * 60;
        let operation = Operation {
            id: number,
            client: (number % 16) as u32,
            gateway: Member::node((number % 3) as u32 + 1),
            call,
            called_us,
            returned_us: Some(called_us + 900),
            outcome,
        };
        story.history.operations.push(operation);
    }
    for (event_id, (user, item)) in &kept {
        story.see(0, Observed::Exported { event_id: event_id.clone(), user: user.clone(), item: item.clone() });
    }
    story.see(0, Observed::ExportEnd { events: kept.len() as u64 });
    story
}

#[test]
fn a_hundred_thousand_operations_are_judged_and_one_wrong_read_among_them_is_found() {
    let mut story = large(100_000);
    let verdict = |story: &Story, checker| judge(checker, &story.history, &Expect::default());
    for checker in [Checker::Events, Checker::Sessions, Checker::Answers, Checker::Consent, Checker::Linear] {
        let verdict = verdict(&story, checker);
        assert!(verdict.is_pass(), "{checker}: {verdict}");
    }
    // The last read of consent lies.
    let read = story.history.operations.iter_mut().rev().find_map(|operation| match &mut operation.outcome {
        Outcome::Ok(Answer::Consent(consent)) => Some(consent),
        _ => None,
    });
    let read = read.unwrap();
    read.collect = !read.collect;
    assert!(verdict(&story, Checker::Linear).is_fail());
}

#[test]
fn a_judgement_passes_only_where_nothing_is_wrong_and_nothing_is_open() {
    let of = |verdicts: &[Verdict]| Judgement {
        verdicts: verdicts.iter().map(|one| (Checker::Events, one.clone())).collect(),
    };
    let pass = Verdict::Pass { judged: 1 };
    let none = Verdict::NotApplicable { why: String::new() };
    assert!(of(&[pass.clone(), none.clone()]).is_pass());
    assert!(!of(&[none]).is_pass(), "nobody judged anything");
    assert!(!of(&[pass.clone(), Verdict::Unknown { why: String::new() }]).is_pass());
    assert!(!of(&[pass, Verdict::Fail { count: 1, evidence: Vec::new() }]).is_pass());
}

#[test]
fn one_kind_of_violation_does_not_hide_another() {
    let mut findings = Findings::default();
    (0..1_000).for_each(|number| findings.add("many", number.to_string(), Vec::new(), None));
    findings.add("rare", String::new(), Vec::new(), None);
    let Verdict::Fail { count, evidence } = findings.verdict("") else { panic!("something is wrong") };
    assert_eq!((count, evidence.len()), (1_001, EVIDENCE_OF_KIND_MAX + 1));
}

#[test]
fn everybody_whom_the_scenario_names_is_asked_once() {
    let expect = Expect { checkers: vec![Checker::Logs, Checker::Events, Checker::Logs], ..Expect::default() };
    let judgement = judge_all(&Story::new().history, &expect);
    let asked: Vec<Checker> = judgement.verdicts.iter().map(|(checker, _)| *checker).collect();
    assert_eq!(asked, [Checker::Events, Checker::Logs]);
}
