//! What every query is owed: an answer, of one version that it names, with a coverage that is true, well formed, the best there is, in time.

mod figures;
mod form;

pub use figures::{ClassFigures, classes};

use super::{Findings, Span, Verdict, at, spans};
use crate::history::{Call, History, Missing, Observed, Operation, Outcome};
use crate::name::Group;
use crate::scenario::Expect;
use std::collections::{BTreeMap, BTreeSet};

/// Checks it.
pub(super) fn check(history: &History, expect: &Expect) -> Verdict {
    let spans = spans(history);
    let unserved = Unserved::of(history);
    let homes = homes(history);
    let form = form::Form::of(history);
    let mut findings = Findings::default();
    let mut failed: Vec<&Operation> = Vec::new();
    for operation in history.operations.iter().filter(|operation| operation.call.is_query()) {
        findings.judged += 1;
        match operation.listing() {
            Some(_) => {
                form.judge(operation, &mut findings);
                judge_coverage(history, operation, &unserved, &homes, &mut findings);
            }
            None if is_failure(operation, &spans) => failed.push(operation),
            None => {}
        }
    }
    if failed.len() as u64 > expect.queries_fail_max {
        for operation in failed {
            let why = match &operation.outcome {
                Outcome::Rejected(refusal) | Outcome::Unknown(refusal) => {
                    format!("{}: {}", refusal.kind, refusal.message)
                }
                Outcome::Ok(_) => "it was answered with something else".to_owned(),
            };
            let what = format!(
                "a query through {}, which lived, failed at {}: {why}",
                operation.gateway,
                at(operation.called_us)
            );
            findings.add("query failed", what, vec![operation.id], operation.returned_us);
        }
    }
    if let Some(p99_ms_max) = expect.p99_ms_max {
        let calm = classes(history).into_iter().find(|class| class.kind.is_none());
        if let Some(calm) = calm.filter(|calm| calm.p99_us > p99_ms_max * 1_000) {
            let what =
                format!("without a fault p99 is {} ms; at most {p99_ms_max} ms are allowed", calm.p99_us / 1_000);
            findings.add("slow", what, Vec::new(), None);
        }
    }
    findings.verdict("nobody asked for recommendations")
}

/// Whether a query without an answer counts against the cluster: its gateway lived all the time.
fn is_failure(operation: &Operation, spans: &[Span]) -> bool {
    let is_of_gateway = match &operation.outcome {
        Outcome::Rejected(refusal) | Outcome::Unknown(refusal) => refusal.is_of_gateway,
        Outcome::Ok(answer) => return !matches!(answer, crate::history::Answer::Absent {}),
    };
    let Some(returned) = operation.returned_us else { return false };
    // A fault of the gateway itself excuses it; what others suffer does not.
    let suffers = |span: &Span| {
        let is_hit = span.on.is_empty() || span.on.contains(&operation.gateway);
        let kills = span.fault.kind().takes_down() || span.fault.kind().layer() == crate::fault::Layer::Resource;
        is_hit && kills && span.touches(operation.called_us, returned)
    };
    !is_of_gateway && !spans.iter().any(suffers)
}

/// When no replica of a group could serve.
struct Unserved(BTreeMap<Group, Vec<(u64, u64)>>);

impl Unserved {
    fn of(history: &History) -> Unserved {
        let mut sightings: Vec<(u64, Group, bool)> = Vec::new();
        for sighting in &history.observed {
            if let Observed::Served { group, is_served } = &sighting.what {
                sightings.push((sighting.at_us, *group, *is_served));
            }
        }
        sightings.sort_by_key(|(at_us, ..)| *at_us);
        let mut times: BTreeMap<Group, Vec<(u64, u64)>> = BTreeMap::new();
        for (at_us, group, is_served) in sightings {
            let times = times.entry(group).or_default();
            match times.last_mut().filter(|(_, until)| *until == u64::MAX) {
                Some(open) if is_served => open.1 = at_us,
                None if !is_served => times.push((at_us, u64::MAX)),
                _ => {}
            }
        }
        Unserved(times)
    }

    /// Groups that were unserved from before the call until after its return.
    fn during(&self, operation: &Operation) -> impl Iterator<Item = Group> {
        let (called, returned) = (operation.called_us, operation.returned_us.unwrap_or(u64::MAX));
        let covers =
            move |times: &Vec<(u64, u64)>| times.iter().any(|(from, until)| *from <= called && returned <= *until);
        self.0.iter().filter(move |(_, times)| covers(times)).map(|(group, _)| *group)
    }
}

/// The shard of every user of whom an event has a position.
fn homes(history: &History) -> BTreeMap<&str, Group> {
    let place = |operation: &'_ Operation| match operation.answer() {
        Some(crate::history::Answer::Event { position, .. }) => position.map(|position| position.group),
        _ => None,
    };
    history.operations.iter().filter_map(|operation| Some((operation.call.user()?, place(operation)?))).collect()
}

fn judge_coverage(
    history: &History,
    operation: &Operation,
    unserved: &Unserved,
    homes: &BTreeMap<&str, Group>,
    findings: &mut Findings,
) {
    let Some(listing) = operation.listing() else { return };
    let mut tell = |kind: &str, what: String| findings.add(kind, what, vec![operation.id], operation.returned_us);
    let Some(coverage) = &listing.coverage else {
        tell("no coverage", format!("an answer of {} does not say what it saw", operation.gateway));
        return;
    };
    let missing: BTreeSet<Group> =
        coverage.degraded.iter().filter(|one| one.what == Missing::MissingShard).map(|one| one.shard).collect();
    let (asked, answered) = (u64::from(coverage.asked), u64::from(coverage.answered));
    if answered + missing.len() as u64 != asked {
        let what = format!("{answered} of {asked} shards answered and {} are told as missing", missing.len());
        tell("coverage does not add up", what);
    }
    let asks_all = matches!(operation.call, Call::Recommend { .. } | Call::Popular { .. });
    if asks_all && asked < u64::from(history.header.item_shards) {
        tell("shard not asked", format!("{asked} of {} item shards were asked", history.header.item_shards));
    }
    for group in unserved.during(operation) {
        match group {
            Group::Items(_) if asks_all && !missing.contains(&group) => {
                tell(
                    "coverage is false",
                    format!("nobody could serve {group} and an answer of {} does not say so", operation.gateway),
                );
            }
            Group::Users(_) => {
                let is_home = operation.call.user().and_then(|user| homes.get(user)) == Some(&group);
                let is_asked = matches!(operation.call, Call::Recommend { .. });
                if is_home && is_asked && !listing.misses(Missing::UserState) {
                    tell(
                        "coverage is false",
                        format!("nobody could serve {group}, the user's home, and the answer does not say so"),
                    );
                }
            }
            _ => {}
        }
    }
    if listing.is_personal() && listing.misses(Missing::UserState) {
        tell("coverage is false", "an answer is personal and says that it could not be".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, answer, degraded, end, kinds, recommend};
    use super::*;
    use crate::history::{Coverage, EventOutcome, Listing, Refusal, Scored, Source};
    use crate::name::Member;

    fn judged(tell: impl FnOnce(&mut Story)) -> Verdict {
        let mut story = Story::new();
        tell(&mut story);
        check(&story.history, &Expect::default())
    }

    fn of(listing: Listing) -> Vec<String> {
        kinds(&judged(|story| end(story.listing((5, 9), "u1", listing))))
    }

    fn personal() -> Listing {
        answer(Source::Model, &["i1", "i2"])
    }

    #[test]
    fn whole_and_honestly_partial_answers_pass() {
        for listing in [
            personal(),
            degraded(personal(), Missing::MissingShard, "items/1"),
            degraded(personal(), Missing::StaleItems, "items/1"),
        ] {
            let verdict = judged(|story| end(story.listing((5, 9), "u1", listing)));
            assert!(verdict.is_pass(), "{verdict}");
        }
    }

    #[test]
    fn every_fault_of_form_is_found() {
        let covered = |asked, answered, items| Some(Coverage { asked, answered, items, degraded: Vec::new() });
        assert_eq!(of(Listing { version: None, ..personal() }), ["no version"]);
        assert_eq!(of(Listing { coverage: None, ..personal() }), ["no coverage"]);
        assert_eq!(of(Listing { coverage: covered(2, 1, 0), ..personal() }), ["coverage does not add up"]);
        assert_eq!(of(Listing { coverage: covered(1, 1, 0), ..personal() }), ["shard not asked"]);
        assert_eq!(of(Listing { coverage: covered(2, 2, 9), ..personal() }), ["too few items"]);
        assert_eq!(of(degraded(personal(), Missing::UserState, "users/0")), ["coverage is false"]);
        assert_eq!(of(answer(Source::Model, &["i1", "i1"])), ["repeated item"]);
        assert_eq!(of(answer(Source::Model, &["i1", "i2", "i3", "i4"])), ["too many items"]);
        let mut wrong = personal();
        wrong.items.reverse();
        assert_eq!(of(wrong), ["out of order"]);
        let mut tied = answer(Source::Model, &["i2", "i1"]);
        tied.items.iter_mut().for_each(|item| item.score = 1.0);
        assert_eq!(of(tied), ["out of order"]);
        let excluding = judged(|story| {
            let mut call = recommend("u1");
            if let Call::Recommend { exclude, .. } = &mut call {
                exclude.insert("i2".to_owned());
            }
            story.call((5, 9), call, Outcome::Ok(crate::history::Answer::Listing(personal())));
        });
        assert_eq!(kinds(&excluding), ["excluded item shown"]);
    }

    #[test]
    fn a_score_that_the_version_cannot_give_is_a_mixture() {
        let range = |version, min, max| Observed::ScoreRange { version, min, max };
        let told = |min, max| judged(|story| end(story.see(0, range(1, min, max)).listing((5, 9), "u1", personal())));
        assert!(told(5.0, 20.0).is_pass());
        assert_eq!(kinds(&told(9.5, 20.0)), ["mixed versions"]);
    }

    #[test]
    fn a_whole_answer_is_the_best_there_is_to_the_bit() {
        let with = |change: fn(&mut Vec<Scored>)| {
            let mut oracle = personal().items;
            change(&mut oracle);
            Listing { oracle: Some(oracle), ..personal() }
        };
        assert!(judged(|story| end(story.listing((5, 9), "u1", with(|_| {})))).is_pass());
        assert_eq!(of(with(|oracle| oracle[1].id = "i7".to_owned())), ["not the best"]);
        assert_eq!(of(with(|oracle| oracle[0].score += 1e-6)), ["not the best"]);
        assert_eq!(of(with(|oracle| drop(oracle.pop()))), ["not the best"]);
        let partial = with(|oracle| drop(oracle.pop()));
        let partial = Listing { oracle: partial.oracle, ..degraded(personal(), Missing::MissingShard, "items/0") };
        assert!(
            judged(|story| end(story.listing((5, 9), "u1", partial))).is_pass(),
            "a partial answer is not the best, and says so"
        );
    }

    #[test]
    fn a_shard_that_nobody_could_serve_must_be_told() {
        let down = |group| Observed::Served { group, is_served: false };
        let up = |group| Observed::Served { group, is_served: true };
        let items = |until: u64| {
            judged(|story| {
                story.see(1, down(Group::Items(1))).see(until, up(Group::Items(1))).listing((5, 9), "u1", personal());
            })
        };
        assert_eq!(kinds(&items(20)), ["coverage is false"]);
        assert!(items(7).is_pass(), "it came back meanwhile");
        let told = judged(|story| {
            story.see(1, down(Group::Items(1))).listing(
                (5, 9),
                "u1",
                degraded(personal(), Missing::MissingShard, "items/1"),
            );
        });
        assert!(told.is_pass(), "{told}");
        let home = |listing: Listing| {
            judged(|story| {
                story.event((0, 1), "a", EventOutcome::Accepted, "users/1@3").see(2, down(Group::Users(1)));
                story.listing((5, 9), "u1", listing);
            })
        };
        assert_eq!(kinds(&home(personal())), ["coverage is false"]);
        assert!(home(degraded(answer(Source::Popular, &["i1"]), Missing::UserState, "users/1")).is_pass());
    }

    #[test]
    fn a_query_fails_where_its_gateway_lived_and_only_there() {
        let failing = |story: &mut Story| end(story.unknown((5, 9), recommend("u1")));
        assert_eq!(kinds(&judged(failing)), ["query failed"]);
        let dead = judged(|story| {
            failing(story);
            story.fault(4, "kill node-1", &[Member::node(1)]);
        });
        assert!(dead.is_pass(), "{dead}");
        let other = judged(|story| {
            failing(story);
            story.fault(4, "kill node-2", &[Member::node(2)]);
        });
        assert_eq!(kinds(&other), ["query failed"]);
        let told = judged(|story| {
            let refusal = Refusal { is_of_gateway: true, ..Refusal::new("reset", "") };
            story.call((5, 9), recommend("u1"), Outcome::Unknown(refusal));
        });
        assert!(told.is_pass(), "{told}");
        let mut story = Story::new();
        failing(&mut story);
        assert!(check(&story.history, &Expect { queries_fail_max: 1, ..Expect::default() }).is_pass());
    }

    #[test]
    fn figures_are_told_for_each_kind_of_fault_and_slow_answers_fail() {
        let mut story = Story::new();
        story.listing((0, 1_000), "u1", personal()).listing(
            (10_000, 90_000),
            "u1",
            degraded(personal(), Missing::MissingShard, "items/0"),
        );
        story.fault(5_000, "kill node-2", &[Member::node(2)]).unknown((50_000, 60_000), recommend("u1"));
        let classes = classes(&story.history);
        let calm = ClassFigures {
            kind: None,
            queries: 1,
            failed: 0,
            degraded: 0,
            p50_us: 1_000,
            p99_us: 1_000,
            max_us: 1_000,
        };
        assert_eq!(classes[0], calm);
        let kill = classes[1];
        assert_eq!((kill.queries, kill.failed, kill.degraded, kill.max_us), (2, 1, 1, 80_000));
        let slow =
            |ms| check(&story.history, &Expect { p99_ms_max: Some(ms), queries_fail_max: 1, ..Expect::default() });
        assert!(slow(1).is_pass());
        assert_eq!(kinds(&slow(0)), ["slow"]);
    }
}
