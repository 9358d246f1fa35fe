//! The search against hand-made histories, and against another tester.

use super::super::story::{Story, answer, blocks, consent, end, event, first, kinds};
use super::objects::{Access, Register};
use super::search::{Entry, Found, search};
use super::*;
use crate::history::{Call, Consent, EventOutcome, Outcome, Source};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use stateright::semantics::register::{Register as TheirRegister, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};
use std::collections::BTreeSet;

fn judged(tell: impl FnOnce(&mut Story)) -> Verdict {
    let mut story = Story::new();
    tell(&mut story);
    check(&story.history)
}

fn reads(story: &mut Story, times: (u64, u64), recommend: bool) -> &mut Story {
    let said = Consent { recommend, ..Consent::default() };
    story.call(times, Call::ReadConsent { user: "u1".to_owned() }, Outcome::Ok(Answer::Consent(said)))
}

fn counts(story: &mut Story, times: (u64, u64), events: u64) -> &mut Story {
    let said =
        Answer::User { consent: Consent::default(), blocks: BTreeSet::new(), attributes: BTreeMap::new(), events };
    story.call(times, Call::ReadUser { user: "u1".to_owned() }, Outcome::Ok(said))
}

#[test]
fn reads_that_some_order_explains_pass() {
    let verdict = judged(|story| {
        reads(story, (0, 1), true).done((2, 9), consent(false));
        reads(story, (3, 4), true);
        reads(story, (5, 6), false).unknown((10, 11), consent(true));
        reads(story, (12, 13), false);
        reads(story, (14, 15), true);
    });
    assert!(verdict.is_pass(), "{verdict}");
}

#[test]
fn a_stale_read_fails_and_the_evidence_is_the_read_and_its_writes() {
    let verdict = judged(|story| {
        (0..20).for_each(|time| end(reads(story, (time, time), true)));
        story.done((20, 21), consent(false));
        reads(story, (22, 23), false);
        reads(story, (24, 25), true);
        reads(story, (26, 27), false);
    });
    assert_eq!(kinds(&verdict), ["not linearizable"]);
    assert_eq!(first(&verdict).operations, [20, 22]);
}

#[test]
fn values_that_go_there_and_back_fail_with_both_reads_as_evidence() {
    let verdict = judged(|story| {
        story.done((0, 100), consent(false));
        reads(story, (1, 2), false);
        reads(story, (3, 4), true);
    });
    assert_eq!(first(&verdict).operations, [0, 1, 2]);
}

#[test]
fn an_unknown_write_happens_once_and_a_refused_one_never() {
    let twice = judged(|story| {
        story.unknown((0, 1), consent(false));
        reads(story, (2, 3), false).done((4, 5), consent(true));
        reads(story, (6, 7), false);
    });
    assert_eq!(kinds(&twice), ["not linearizable"]);
    let refused = judged(|story| {
        story.rejected((0, 1), consent(false));
        reads(story, (2, 3), false);
    });
    assert_eq!(kinds(&refused), ["not linearizable"]);
}

#[test]
fn a_block_list_that_is_lost_or_merged_fails() {
    let told = |seen: &[&str]| {
        let seen: BTreeSet<String> = seen.iter().map(|item| (*item).to_owned()).collect();
        judged(|story| {
            story.done((0, 1), blocks(&["i1"])).done((2, 3), blocks(&["i2"]));
            story.call((4, 5), Call::ReadBlocks { user: "u1".to_owned() }, Outcome::Ok(Answer::Blocks(seen)));
        })
    };
    assert!(told(&["i2"]).is_pass());
    for wrong in [&["i1"][..], &[], &["i1", "i2"]] {
        assert_eq!(kinds(&told(wrong)), ["not linearizable"], "{wrong:?}");
    }
}

#[test]
fn a_count_has_every_acked_event_once() {
    let told = |events| {
        judged(|story| {
            story.event((0, 1), "a", EventOutcome::Accepted, "").unknown((2, 3), event("b"));
            story.event((4, 5), "b", EventOutcome::Duplicate, "").unknown((4, 5), event("c"));
            counts(story, (6, 7), events);
        })
    };
    assert!(told(2).is_pass() && told(3).is_pass());
    assert_eq!(kinds(&told(1)), ["not linearizable"], "an acked event is not counted");
    assert_eq!(kinds(&told(4)), ["not linearizable"], "an event is counted twice");
}

#[test]
fn an_erasure_sets_everything_back() {
    let erase = || Call::EraseUser { user: "u1".to_owned() };
    let told = |events| {
        judged(|story| {
            story.event((0, 1), "a", EventOutcome::Accepted, "").done((2, 3), erase());
            counts(story, (4, 5), events);
        })
    };
    assert!(told(0).is_pass());
    assert_eq!(kinds(&told(1)), ["not linearizable"]);
}

#[test]
fn activations_are_entries_of_one_log() {
    let activate = |story: &mut Story, times, version, epoch| {
        story.call(times, Call::Activate { version }, Outcome::Ok(Answer::Activated { version, epoch }));
    };
    let told = |second: (u64, u64, u64)| {
        judged(|story| {
            activate(story, (0, 5), 1, 4);
            activate(story, (second.0, second.0 + 5), second.1, second.2);
        })
    };
    assert!(told((6, 2, 5)).is_pass() && told((3, 2, 3)).is_pass());
    assert_eq!(kinds(&told((6, 2, 3))), ["epoch went back"]);
    assert_eq!(kinds(&told((3, 2, 4))), ["two versions of an epoch"]);
}

#[test]
fn an_item_of_an_acked_event_is_not_shown_again() {
    let ask = |tell: fn(&mut Story)| {
        judged(|story| {
            story.event((0, 5), "a", EventOutcome::Accepted, "");
            tell(story);
        })
    };
    let verdict = ask(|story| end(story.by(2, 2).listing((6, 9), "u1", answer(Source::Popular, &["item-of-a"]))));
    assert_eq!(kinds(&verdict), ["seen item shown"]);
    let free: [fn(&mut Story); 3] = [
        |story| end(story.listing((4, 9), "u1", answer(Source::Popular, &["item-of-a"]))),
        |story| end(story.listing((6, 9), "u2", answer(Source::Popular, &["item-of-a"]))),
        |story| {
            end(story.unknown((6, 7), consent(false)).listing((8, 9), "u1", answer(Source::Popular, &["item-of-a"])))
        },
    ];
    for tell in free {
        assert!(!ask(tell).is_fail(), "{}", ask(tell));
    }
}

#[test]
fn a_search_that_would_take_too_long_says_so() {
    let write =
        |place: u64| Entry { id: place, called_us: 0, returned_us: Some(100 + place), action: Access::Write(place) };
    let mut entries: Vec<Entry<Access<u64>>> = (1..=12).map(write).collect();
    entries.push(Entry { id: 99, called_us: 200, returned_us: Some(300), action: Access::Read(77) });
    assert_eq!(search(&Register::default(), &entries, &mut 1_000), Found::GaveUp);
}

/// A call of a thread: its times, and a write or a read with a value.
#[derive(Clone, Debug)]
struct Turn {
    thread: usize,
    called: u64,
    /// `None` for a call that is never answered; its thread calls no more.
    returned: Option<u64>,
    access: Access<u64>,
}

/// Turns of three threads on a register of three values. Times are all different, so that both testers see one order of events.
fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let one = (0..3usize, any::<bool>(), 0..3u64, 1..9u64, 1..9u64, 0..10u8);
    prop::collection::vec(one, 1..9).prop_map(|drawn| {
        let mut now = [0u64; 3];
        let mut is_over = [false; 3];
        let mut turns = Vec::new();
        for (place, (thread, is_write, value, pause, length, fate)) in drawn.into_iter().enumerate() {
            if is_over[thread] {
                continue;
            }
            // The place makes times of different turns different.
            let called = (now[thread] + pause) * 100 + place as u64 * 2;
            let returned = (now[thread] + pause + length) * 100 + place as u64 * 2 + 1;
            now[thread] += pause + length + 1;
            is_over[thread] = fate == 0;
            let access = if is_write { Access::Write(value) } else { Access::Read(value) };
            turns.push(Turn { thread, called, returned: (fate > 0).then_some(returned), access });
        }
        turns
    })
}

fn theirs(turns: &[Turn]) -> bool {
    let mut events: Vec<(u64, bool, &Turn)> = Vec::new();
    for turn in turns {
        events.push((turn.called, false, turn));
        events.extend(turn.returned.map(|returned| (returned, true, turn)));
    }
    events.sort_by_key(|(at, ..)| *at);
    let mut tester = LinearizabilityTester::new(TheirRegister(0u64));
    for (_, is_return, turn) in events {
        let done = match (&turn.access, is_return) {
            (Access::Write(value), false) => tester.on_invoke(turn.thread, RegisterOp::Write(*value)),
            (Access::Read(_), false) => tester.on_invoke(turn.thread, RegisterOp::Read),
            (Access::Write(_), true) => tester.on_return(turn.thread, RegisterRet::WriteOk),
            (Access::Read(value), true) => tester.on_return(turn.thread, RegisterRet::ReadOk(*value)),
        };
        assert!(done.is_ok(), "the threads take turns");
    }
    tester.is_consistent()
}

fn ours(turns: &[Turn]) -> bool {
    let is_told = |turn: &&Turn| turn.returned.is_some() || matches!(turn.access, Access::Write(_));
    let entry = |(id, turn): (usize, &Turn)| Entry {
        id: id as u64,
        called_us: turn.called,
        returned_us: turn.returned,
        action: turn.access.clone(),
    };
    let entries: Vec<Entry<Access<u64>>> = turns.iter().filter(is_told).enumerate().map(entry).collect();
    match search(&Register::default(), &entries, &mut 1_000_000) {
        Found::Linear => true,
        Found::Broken(_) => false,
        Found::GaveUp => panic!("so few calls are decided: {turns:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn the_search_says_what_stateright_says(turns in turns()) {
        prop_assert_eq!(ours(&turns), theirs(&turns));
    }
}

#[test]
fn the_comparison_sees_both_verdicts() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = [0; 2];
    for _ in 0..500 {
        let turns = turns().new_tree(&mut runner).unwrap().current();
        seen[usize::from(theirs(&turns))] += 1;
    }
    assert!(seen.iter().all(|count| *count > 50), "linear and not: {seen:?}");
}
