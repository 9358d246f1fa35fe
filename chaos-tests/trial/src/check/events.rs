//! "Acked means kept", over event ids: none lost, none twice, none that was never sent. The audit's export is held against all calls.

use super::recoveries::Recoveries;
use super::{Findings, Verdict, at};
use crate::history::{Answer, Call, EventOutcome, History, Observed, Operation, Outcome};
use crate::name::Position;
use std::collections::BTreeMap;

/// Everything that was sent under one event id.
#[derive(Default)]
struct Sent<'a> {
    operations: Vec<&'a Operation>,
}

impl<'a> Sent<'a> {
    fn ids(&self) -> Vec<u64> {
        self.operations.iter().map(|operation| operation.id).collect()
    }

    /// The last call that was acked as kept.
    fn kept(&self) -> Option<&'a Operation> {
        let kept = self.operations.iter().filter(|operation| is_kept(operation));
        kept.max_by_key(|operation| operation.called_us).copied()
    }

    fn user(&self) -> Option<&'a str> {
        self.operations.first().and_then(|operation| operation.call.user())
    }
}

fn said(operation: &Operation) -> Option<(EventOutcome, Option<Position>)> {
    match operation.answer() {
        Some(Answer::Event { outcome, position }) => Some((*outcome, *position)),
        _ => None,
    }
}

fn is_kept(operation: &Operation) -> bool {
    matches!(said(operation), Some((EventOutcome::Accepted | EventOutcome::Duplicate, _)))
}

/// Checks it.
pub(super) fn check(history: &History) -> Verdict {
    let mut sent: BTreeMap<&str, Sent<'_>> = BTreeMap::new();
    let mut erasures: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        match &operation.call {
            Call::Event { event_id, .. } => sent.entry(event_id).or_default().operations.push(operation),
            // An erasure that found nobody erased nothing.
            Call::EraseUser { user }
                if !matches!(operation.outcome, Outcome::Rejected(_) | Outcome::Ok(Answer::Absent {})) =>
            {
                erasures.entry(user).or_default().push(operation);
            }
            _ => {}
        }
    }
    let exported = exported(history);
    let mut findings = Findings { judged: sent.len() as u64, ..Findings::default() };
    let end = history.observed.iter().rev().find_map(|sighting| match &sighting.what {
        Observed::ExportEnd { events } => Some(*events),
        _ => None,
    });
    let count: u64 = exported.values().map(|copies| copies.len() as u64).sum();
    for (event_id, copies) in &exported {
        judge_copies(&mut findings, event_id, copies, sent.get(event_id), &erasures);
    }
    let recoveries = Recoveries::of(history);
    let none = Vec::new();
    for (event_id, sent) in &sent {
        let erased = sent.user().and_then(|user| erasures.get(user)).unwrap_or(&none);
        if end == Some(count) && !exported.contains_key(event_id) {
            judge_absent(&mut findings, event_id, sent, erased, &recoveries);
        }
        judge_acks(&mut findings, event_id, sent, erased);
    }
    match (findings.count, end) {
        (0, None) if findings.judged > 0 => Verdict::Unknown {
            why: "the history has no complete export (`export_end`) to hold acks against".to_owned(),
        },
        (0, Some(end)) if end != count => {
            Verdict::Unknown { why: format!("the export ended with {end} events, but the history has {count} of them") }
        }
        _ => findings.verdict("no event was sent"),
    }
}

/// User and item of every copy of every exported event.
fn exported(history: &History) -> BTreeMap<&str, Vec<(&str, &str)>> {
    let mut exported: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for sighting in &history.observed {
        if let Observed::Exported { event_id, user, item } = &sighting.what {
            exported.entry(event_id).or_default().push((user, item));
        }
    }
    exported
}

/// An event that the cluster has.
fn judge_copies(
    findings: &mut Findings,
    event_id: &str,
    copies: &[(&str, &str)],
    sent: Option<&Sent<'_>>,
    erasures: &BTreeMap<&str, Vec<&Operation>>,
) {
    let Some(sent) = sent else {
        findings.add("phantom", format!("event {event_id} is there and was never sent"), Vec::new(), None);
        return;
    };
    if copies.len() > 1 {
        findings.add("duplicated", format!("event {event_id} is there {} times", copies.len()), sent.ids(), None);
    }
    let is_as_sent = |user: &str, item: &str| {
        sent.operations.iter().any(|operation| {
            matches!(&operation.call, Call::Event { user: of, item: what, .. } if of == user && what == item)
        })
    };
    if let Some((user, item)) = copies.iter().find(|(user, item)| !is_as_sent(user, item)) {
        findings.add(
            "altered",
            format!("event {event_id} is there as of user {user} and item {item}"),
            sent.ids(),
            None,
        );
    }
    let may_be_kept = |operation: &&&Operation| is_kept(operation) || matches!(operation.outcome, Outcome::Unknown(_));
    let Some(last) = sent.operations.iter().filter(may_be_kept).max_by_key(|operation| operation.called_us) else {
        findings.add(
            "refused but kept",
            format!("event {event_id} is there though every try was refused"),
            sent.ids(),
            None,
        );
        return;
    };
    let may_be_later = sent.operations.iter().filter(may_be_kept).any(|operation| operation.acked_us().is_none());
    let latest = sent.operations.iter().filter_map(|operation| operation.acked_us()).max().unwrap_or(u64::MAX);
    let erased = sent.user().and_then(|user| erasures.get(user)).and_then(|erased| {
        erased.iter().find(|erase| erase.acked_us().is_some() && erase.called_us > latest && !may_be_later)
    });
    if let Some(erase) = erased {
        let what = format!(
            "event {event_id}, acked at {}, is there after its user was erased at {}",
            at(latest),
            at(erase.called_us)
        );
        findings.add("erased but kept", what, vec![last.id, erase.id], Some(erase.called_us));
    }
}

/// An event that the cluster does not have.
fn judge_absent(
    findings: &mut Findings,
    event_id: &str,
    sent: &Sent<'_>,
    erased: &[&Operation],
    recoveries: &Recoveries,
) {
    let Some(kept) = sent.kept() else { return };
    // An erasure that may have come after the event explains it.
    if erased.iter().any(|erase| erase.acked_us().is_none_or(|acked| acked >= kept.called_us)) {
        return;
    }
    let position = said(kept).and_then(|(_, position)| position);
    if position.is_some_and(|position| recoveries.has_lost(kept, position)) {
        return;
    }
    let place = position.map_or_else(String::new, |position| format!(" at {position}"));
    let acked = kept.returned_us.map(at).unwrap_or_default();
    let what = format!("event {event_id} was acked{place} by {} at {acked} and is not there", kept.gateway);
    findings.add("lost", what, sent.ids(), kept.returned_us);
}

/// What was said of one event id must fit together: it is new once.
fn judge_acks(findings: &mut Findings, event_id: &str, sent: &Sent<'_>, erased: &[&Operation]) {
    let accepted = |operation: &&&Operation| matches!(said(operation), Some((EventOutcome::Accepted, _)));
    let mut accepted: Vec<&&Operation> = sent.operations.iter().filter(accepted).collect();
    accepted.sort_by_key(|operation| operation.called_us);
    let twice = accepted.windows(2).find(|pair| said(pair[0]) != said(pair[1]));
    if let Some(pair) = twice.filter(|_| erased.is_empty()) {
        let what =
            format!("event {event_id} was accepted as new twice, by {} and by {}", pair[0].gateway, pair[1].gateway);
        findings.add("accepted twice", what, vec![pair[0].id, pair[1].id], pair[1].returned_us);
    }
    // Nothing follows from a duplicate: a gateway sends a write again by itself, so that any call may meet its own first try.
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, end, event, first, kinds};
    use super::*;
    use EventOutcome::{Accepted, Duplicate, NotCollected};

    fn judged(tell: impl FnOnce(&mut Story)) -> Verdict {
        let mut story = Story::new();
        tell(&mut story);
        check(&story.history)
    }

    #[test]
    fn what_is_acked_and_there_once_passes_and_an_unknown_may_be_there_or_not() {
        for exported in [&["a", "b", "c"][..], &["a", "b"]] {
            let verdict = judged(|story| {
                story
                    .event((0, 5), "a", Accepted, "users/0@1")
                    .event((6, 9), "a", Duplicate, "")
                    .unknown((0, 9), event("b"));
                story.event((10, 12), "b", Duplicate, "").unknown((20, 30), event("c")).rejected((20, 30), event("d"));
                story.export(exported);
            });
            assert!(verdict.is_pass(), "{verdict}");
        }
    }

    #[test]
    fn every_kind_of_violation_is_found() {
        let acked = |story: &mut Story| end(story.event((0, 5), "a", Accepted, "users/0@1").export(&[]));
        assert_eq!(kinds(&judged(acked)), ["lost"]);
        assert!(first(&judged(acked)).what.contains("users/0@1"));
        let doubled = |story: &mut Story| end(story.event((0, 5), "a", Accepted, "users/0@1").export(&["a", "a"]));
        assert_eq!(kinds(&judged(doubled)), ["duplicated"]);
        let phantom = |story: &mut Story| end(story.unknown((0, 5), event("a")).export(&["x"]));
        assert_eq!(kinds(&judged(phantom)), ["phantom"]);
        let refused = |story: &mut Story| end(story.rejected((0, 5), event("a")).export(&["a"]));
        assert_eq!(kinds(&judged(refused)), ["refused but kept"]);
        let uncollected = |story: &mut Story| end(story.event((0, 5), "a", NotCollected, "").export(&["a"]));
        assert_eq!(kinds(&judged(uncollected)), ["refused but kept"]);
        let twice = |story: &mut Story| {
            story.event((0, 5), "a", Accepted, "users/0@1").event((6, 9), "a", Accepted, "users/0@4").export(&["a"]);
        };
        assert_eq!(kinds(&judged(twice)), ["accepted twice"]);
        let altered = |story: &mut Story| {
            let exported = Observed::Exported { event_id: "a".to_owned(), user: "u2".to_owned(), item: "i".to_owned() };
            story.event((0, 5), "a", Accepted, "").see(9, exported).see(9, Observed::ExportEnd { events: 1 });
        };
        assert_eq!(kinds(&judged(altered)), ["altered"]);
    }

    #[test]
    fn an_erasure_explains_what_came_before_it_and_nothing_after() {
        let erase = || Call::EraseUser { user: "u1".to_owned() };
        let gone = judged(|story| end(story.event((0, 5), "a", Accepted, "").done((6, 9), erase()).export(&[])));
        assert!(gone.is_pass(), "{gone}");
        let kept = judged(|story| end(story.event((0, 5), "a", Accepted, "").done((6, 9), erase()).export(&["a"])));
        assert_eq!(kinds(&kept), ["erased but kept"]);
        let again = judged(|story| {
            story.event((0, 5), "a", Accepted, "").done((6, 9), erase()).event((10, 12), "a", Accepted, "").export(&[]);
        });
        assert_eq!(kinds(&again), ["lost"]);
        let nobody = judged(|story| {
            story.event((0, 5), "a", Accepted, "").call((6, 9), erase(), Outcome::Ok(Answer::Absent {})).export(&[]);
        });
        assert_eq!(kinds(&nobody), ["lost"]);
        let may_be = judged(|story| end(story.unknown((0, 3), erase()).event((5, 9), "a", Accepted, "").export(&[])));
        assert!(may_be.is_pass(), "an unknown erasure may come later: {may_be}");
    }

    #[test]
    fn a_recovery_explains_what_was_acked_before_it_beyond_where_it_goes_on_from() {
        let recovered = || Observed::Recovered { shard: crate::name::Group::Users(0), last: 1 };
        for (times, place, lost) in [
            ((6, 9), "users/0@2", "pass (2 judged)"),
            ((6, 9), "users/0@1", "lost"),
            ((6, 9), "users/1@2", "lost"),
            ((11, 12), "users/0@2", "lost"),
        ] {
            let verdict = judged(|story| {
                story.event((0, 5), "a", Accepted, "users/0@1").event(times, "b", Accepted, place);
                end(story.see(10, recovered()).export(&["a"]));
            });
            assert_eq!(kinds(&verdict), [lost], "{place} {times:?}");
        }
    }

    #[test]
    fn without_a_whole_export_nothing_is_told() {
        let none = judged(|story| end(story.event((0, 5), "a", Accepted, "")));
        let half =
            judged(|story| end(story.event((0, 5), "a", Accepted, "").see(9, Observed::ExportEnd { events: 1 })));
        assert!(matches!((none, half), (Verdict::Unknown { .. }, Verdict::Unknown { .. })));
        assert!(matches!(judged(|_| {}), Verdict::NotApplicable { .. }));
    }
}
