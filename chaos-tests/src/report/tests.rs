//! The page of a history that was made by hand.

use super::page;
use crate::run::{Trial, judged};
use docent_trial::check::{Checker, Verdict, Violation};
use docent_trial::history::{
    Answer, Call, Coverage, Degraded, EventOutcome, FORMAT, FaultMark, Header, Listing, Missing, Observed, Operation,
    Outcome, PhaseMark, Refusal, Scored, Sighting, Source,
};
use docent_trial::{Applied, Fault, Group, History, Member, Phase, Position, Scenario, WorldKind};
use std::collections::BTreeSet;

/// What somebody hostile would write into a name, a log or an error.
const HOSTILE: &str = "</title><script>alert(1)</script>\"'&";
const BYTES_MAX: usize = 400_000;

fn scenario() -> Scenario {
    let text = "name = \"leader-loss\"\nshows = \"the death of a leader costs nothing\"\nsteps = [\"2s for 3s kill node-2\"]\n";
    Scenario::from_toml(text).unwrap()
}

fn history(seconds: u64, a_second: u64) -> History {
    let header = Header {
        format: FORMAT,
        world: WorldKind::Lab,
        scenario: "leader-loss".to_owned(),
        seed: 7,
        schedule: "seed 7\n2000ms for 3000ms kill node-2\n".to_owned(),
        nodes: 3,
        coordinators: 3,
        replication: 3,
        user_shards: 8,
        item_shards: 4,
        election_timeout_max_ms: 1_500,
    };
    let mut history = History::new(header);
    for (at_s, phase) in
        [(0, Phase::Baseline), (2, Phase::Chaos), (seconds / 2, Phase::Heal), (seconds / 2 + 1, Phase::Converge)]
    {
        history.phases.push(PhaseMark { at_us: at_s * 1_000_000, phase });
    }
    for id in 0..seconds * a_second {
        history.operations.push(operation(id, id * 1_000_000 / a_second));
    }
    history
}

fn operation(id: u64, called_us: u64) -> Operation {
    let position = Some(Position { group: Group::Users(3), index: id + 1, term: Some(1) });
    let degraded = vec![Degraded { what: Missing::UserState, shard: Group::Users(3) }];
    let coverage =
        Coverage { asked: 4, answered: 3, items: 9, degraded: if id % 40 == 1 { degraded } else { Vec::new() } };
    let listing = Listing {
        items: vec![Scored { id: "i1".to_owned(), score: 1.0, source: Source::Popular }],
        version: Some(1),
        coverage: Some(coverage),
        session: None,
        oracle: None,
    };
    let recommend = Call::Recommend { user: "u1".to_owned(), n: 1, exclude: BTreeSet::new(), session: None };
    let event = |event_id| Call::Event { event_id, user: "u1".into(), item: "i1".into(), event_type: "click".into() };
    let (call, outcome) = match id % 4 {
        0 => (event(format!("e{id}")), Outcome::Ok(Answer::Event { outcome: EventOutcome::Accepted, position })),
        2 if id % 80 == 2 => (recommend, Outcome::Unknown(Refusal::new("timeout", HOSTILE))),
        _ => (recommend, Outcome::Ok(Answer::Listing(listing))),
    };
    let returned_us = Some(called_us + 2_000 + id % 1_000);
    Operation { id, client: 1, gateway: Member::node(1), call, called_us, returned_us, outcome }
}

fn mark(at_s: u64, step: usize, fault: &str, is_end: bool, applied: Applied) -> FaultMark {
    let at_us = at_s * 1_000_000;
    FaultMark { from_us: at_us, at_us, step: Some(step), fault: fault.parse::<Fault>().unwrap(), is_end, applied }
}

/// A run in which something was done, something skipped, something wrong, and everything told in hostile words.
fn trial() -> Trial {
    let mut history = history(12, 40);
    let node = Member::node(2);
    history.faults.extend([
        mark(2, 0, "kill node-2", false, Applied::installed(format!("killed node-2 {HOSTILE}"), [node])),
        mark(3, 1, "disk-full node-1", false, Applied::skipped("needs root")),
        mark(5, 0, "kill node-2", true, Applied::installed("started node-2", [node])),
    ]);
    for (at_us, term, member) in [(1, 1, node), (3_500_000, 2, Member::node(3))] {
        let what = Observed::Leader { group: Group::Users(3), term, member };
        history.observed.push(Sighting { at_us, what });
    }
    history.see(6_000_000, Observed::Note { text: format!("note {HOSTILE}") });
    let mut trial = judged(&scenario(), history);
    let evidence =
        Violation { kind: "lost".into(), what: format!("e8 {HOSTILE}"), operations: vec![8], at_us: Some(9) };
    trial.judgement.verdicts = vec![
        (Checker::Events, Verdict::Fail { count: 1, evidence: vec![evidence] }),
        (Checker::Answers, Verdict::Pass { judged: 350 }),
        (Checker::Raft, Verdict::Unknown { why: "no terms were seen".to_owned() }),
    ];
    trial.is_passed = false;
    trial.shows = HOSTILE.to_owned();
    trial
}

/// The names of elements in order of their tags, or what is wrong with their nesting.
fn nested(page: &str) -> Result<usize, String> {
    let (mut open, mut count, mut rest) = (Vec::new(), 0, page);
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').ok_or_else(|| format!("an open tag: {tag:.40}"))?;
        rest = after;
        let name: String = tag.trim_start_matches('/').chars().take_while(|c| c.is_alphanumeric()).collect();
        let is_void = tag.starts_with('!') || tag.ends_with('/') || name == "meta";
        match tag.starts_with('/') {
            true if open.pop().as_deref() != Some(name.as_str()) => return Err(format!("a stray </{name}>")),
            false if !is_void => open.push(name),
            _ => {}
        }
        count += 1;
    }
    if open.is_empty() { Ok(count) } else { Err(format!("never closed: {open:?}")) }
}

#[test]
fn the_page_tells_the_verdict_first_then_what_was_done_felt_and_skipped() {
    let page = page(&trial()).unwrap();
    let places: Vec<usize> = [
        "Failed</p>",
        "<h1>leader-loss</h1>",
        "1.50 s", // until another leader led
        "What was done",
        "killed node-2",
        "id=\"timeline-title\"",
        "leads users/3",
        "Verdicts",
        "350 judged",
        "UNKNOWN: no pass",
        "What was skipped, and why",
        "skipped</b>: needs root",
        "docent-chaos run --scenario leader-loss --seed 7",
        "2000ms for 3000ms kill node-2",
    ]
    .iter()
    .map(|part| page.find(part).unwrap_or_else(|| panic!("{part:?} is not in the page")))
    .collect();
    assert!(places.is_sorted(), "the order of the page: {places:?}");
}

#[test]
fn the_page_is_one_well_formed_file_with_a_table_behind_each_drawing() {
    let page = page(&trial()).unwrap();
    assert!(nested(&page).unwrap() > 500);
    for outer in ["http://", "https://", "src=", "<link", "<script", "@import", "url("] {
        let found: Vec<_> = page.match_indices(outer).map(|(at, _)| &page[at..(at + 40).min(page.len())]).collect();
        assert!(found.iter().all(|text| text.starts_with("http://www.w3.org/2000/svg")), "{found:?}");
    }
    let count = |part: &str| page.matches(part).count();
    assert_eq!((count("<svg "), count("role=\"img\""), count("<desc "), count("<details>")), (5, 5, 5, 5));
    // Names that are used as references are there, once.
    for id in ["timeline", "queries", "coverage", "acked", "latency"] {
        assert_eq!(count(&format!("<title id=\"{id}-title\">")), 1, "{id}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
}

#[test]
fn hostile_words_stay_words() {
    let page = page(&trial()).unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    nested(&page).unwrap();
}

#[test]
fn a_long_history_makes_no_larger_page() {
    let mut history = history(2_000, 50);
    assert_eq!(history.operations.len(), 100_000);
    for step in 0..1_000 {
        let applied = Applied::installed("x".repeat(5_000), [Member::node(2)]);
        history.faults.push(mark(step as u64, step, "pause node-2", false, applied));
        let what = Observed::Leader { group: Group::Users(1), term: step as u64, member: Member::node(1) };
        history.observed.push(Sighting { at_us: step as u64 * 1_000_000, what });
    }
    let page = page(&judged(&scenario(), history)).unwrap();
    assert!(page.len() < BYTES_MAX, "{} bytes", page.len());
    nested(&page).unwrap();
}

#[test]
fn a_run_without_anything_has_a_page() {
    let mut empty = history(0, 1);
    empty.phases.clear();
    nested(&page(&judged(&scenario(), empty)).unwrap()).unwrap();
}

/// For a person who wants to look at it: `DOCENT_REPORT=FILE cargo test -p docent-chaos --lib report::`.
#[test]
fn a_sample_can_be_written_for_a_person() {
    let page = page(&trial()).unwrap();
    if let Some(path) = std::env::var_os("DOCENT_REPORT") {
        std::fs::write(path, &page).unwrap();
    }
    assert!(page.starts_with("<!DOCTYPE html>"));
}
