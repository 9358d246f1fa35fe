//! What one client sees never goes back: positions of its writes, the catalog of a gateway, model versions. Positions are held to more:
//! an acked write lies before every write that anybody began afterwards.

use super::recoveries::Recoveries;
use super::{Findings, Span, Verdict, at, spans};
use crate::fault::{Kind, Layer};
use crate::history::{Answer, Call, EventOutcome, History, Operation};
use crate::name::{Group, Member};
use std::collections::BTreeMap;

/// Checks it.
pub(super) fn check(history: &History) -> Verdict {
    let mut findings = Findings::default();
    let spans = spans(history);
    positions_rise(history, &mut findings);
    catalogs_rise(history, &spans, &mut findings);
    versions_rise(history, &spans, &mut findings);
    findings.verdict("no event had a position, and no answer a version")
}

/// A new event's place is behind every place that was acked before it was sent.
fn positions_rise(history: &History, findings: &mut Findings) {
    let recoveries = Recoveries::of(history);
    let mut placed: BTreeMap<Group, Vec<(u64, u64, u64, u64)>> = BTreeMap::new();
    for operation in &history.operations {
        let Some(Answer::Event { outcome: EventOutcome::Accepted, position: Some(position) }) = operation.answer()
        else {
            continue;
        };
        let Some(returned) = operation.returned_us.filter(|_| !recoveries.has_lost(operation, *position)) else {
            continue;
        };
        placed.entry(position.group).or_default().push((operation.called_us, returned, position.index, operation.id));
    }
    for (group, mut calls) in placed {
        findings.judged += calls.len() as u64;
        let mut by_return = calls.clone();
        by_return.sort_by_key(|(_, returned, ..)| *returned);
        calls.sort_unstable();
        let (mut ended, mut newest) = (by_return.iter().peekable(), None::<(u64, u64)>);
        for (called, _, index, id) in &calls {
            while let Some((_, _, index, id)) = ended.next_if(|(_, returned, ..)| returned < called) {
                newest = newest.max(Some((*index, *id)));
            }
            if let Some((newest, newest_id)) = newest.filter(|(newest, _)| newest >= index) {
                let what = format!(
                    "{group}@{index} was given to an event sent at {}, after @{newest} had been acked",
                    at(*called)
                );
                findings.add("position went back", what, vec![newest_id, *id], Some(*called));
            }
        }
    }
}

/// Calls of which one returned before the next was called, in the order of their returns, by whom they are of.
fn in_turn<K: Ord>(history: &History, key: impl Fn(&Operation) -> Option<K>) -> BTreeMap<K, Vec<&Operation>> {
    let mut turns: BTreeMap<K, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        if let (Some(key), Some(_)) = (key(operation), operation.acked_us()) {
            turns.entry(key).or_default().push(operation);
        }
    }
    turns.values_mut().for_each(|turn| turn.sort_by_key(|operation| operation.called_us));
    turns
}

/// Tells of every value that is lower than one that had been answered before its call.
fn rises<T: Ord + Copy>(
    turn: &[&Operation],
    value: impl Fn(&Operation) -> Option<T>,
    mut tell: impl FnMut(&Operation, T, &Operation, T),
) {
    let mut by_return = turn.to_vec();
    by_return.sort_by_key(|operation| operation.returned_us);
    let (mut ended, mut newest) = (by_return.into_iter().peekable(), None::<(T, &Operation)>);
    for operation in turn {
        while let Some(earlier) =
            ended.next_if(|earlier| earlier.returned_us.is_some_and(|end| end < operation.called_us))
        {
            let seen = value(earlier).filter(|seen| newest.is_none_or(|(newest, _)| newest < *seen));
            newest = seen.map(|seen| (seen, earlier)).or(newest);
        }
        if let (Some((newest, earlier)), Some(now)) = (newest, value(operation))
            && now < newest
        {
            tell(earlier, newest, operation, now);
        }
    }
}

/// A gateway that was not started anew keeps the newest catalog that it heard of.
fn catalogs_rise(history: &History, spans: &[Span], findings: &mut Findings) {
    let is_read = |operation: &Operation| matches!(operation.call, Call::ReadCatalog {}).then_some(operation.gateway);
    for (gateway, turn) in in_turn(history, is_read) {
        findings.judged += turn.len() as u64;
        let index = |operation: &Operation| match operation.answer() {
            Some(Answer::Catalog { index, .. }) => Some(*index),
            _ => None,
        };
        rises(&turn, index, |earlier, newest, later, now| {
            if !is_renewed(spans, gateway, earlier, later) {
                let what = format!("{gateway} told of catalog {now} after it had told of {newest}");
                findings.add("catalog went back", what, vec![earlier.id, later.id], later.returned_us);
            }
        });
    }
}

/// Whether a member may have been started anew between two calls.
fn is_renewed(spans: &[Span], member: Member, earlier: &Operation, later: &Operation) -> bool {
    let renews = |kind: Kind| {
        matches!(kind.layer(), Layer::Process | Layer::Disk | Layer::Resource)
            || matches!(kind, Kind::RestartWith | Kind::Replace | Kind::LoseForGood)
    };
    let is_it = |span: &&Span| renews(span.fault.kind()) && (span.on.is_empty() || span.on.contains(&member));
    let until = later.returned_us.unwrap_or(u64::MAX);
    spans.iter().filter(is_it).any(|span| span.touches(earlier.called_us, until))
}

/// Versions that one client is answered with follow the order of their activations: through one gateway always, through several where it
/// sent the token of the earlier answer and no fault could keep the later gateway from hearing.
fn versions_rise(history: &History, spans: &[Span], findings: &mut Findings) {
    let Some(order) = Order::of(history) else { return };
    let is_answer = |operation: &Operation| operation.listing().is_some_and(|listing| listing.version.is_some());
    let rank = |operation: &Operation| {
        operation.listing().and_then(|listing| listing.version).and_then(|version| order.rank(version))
    };
    let through = |operation: &Operation| is_answer(operation).then_some((operation.client, operation.gateway));
    for ((client, gateway), turn) in in_turn(history, through) {
        findings.judged += turn.len() as u64;
        rises(&turn, rank, |earlier, newest, later, now| {
            if !is_renewed(spans, gateway, earlier, later) {
                tell_version(findings, client, (earlier, newest), (later, now));
            }
        });
    }
    let sends_token = |operation: &Operation| match &operation.call {
        Call::Recommend { session: Some(_), .. } if is_answer(operation) => Some(operation.client),
        _ => None,
    };
    for (client, turn) in in_turn(history, sends_token) {
        rises(&turn, rank, |earlier, newest, later, now| {
            let until = later.returned_us.unwrap_or(u64::MAX);
            let is_calm = !spans.iter().any(|span| span.touches(earlier.called_us, until));
            if is_calm && earlier.gateway != later.gateway {
                tell_version(findings, client, (earlier, newest), (later, now));
            }
        });
    }
}

fn tell_version(findings: &mut Findings, client: u32, earlier: (&Operation, u64), later: (&Operation, u64)) {
    let version = |operation: &Operation| operation.listing().and_then(|listing| listing.version).unwrap_or_default();
    let what = format!(
        "client {client} was answered with version {} by {} after version {} by {}",
        version(later.0),
        later.0.gateway,
        version(earlier.0),
        earlier.0.gateway
    );
    findings.add("version went back", what, vec![earlier.0.id, later.0.id], later.0.returned_us);
}

/// In which order versions went live.
enum Order {
    /// Nobody ever went back: by their numbers.
    Numbers,
    /// By the epochs of their activations. A version that was live more than once has no one rank.
    Epochs(BTreeMap<u64, Option<u64>>),
}

impl Order {
    /// `None` where the history does not tell: somebody went back and not every activation was answered.
    fn of(history: &History) -> Option<Order> {
        let changes =
            || history.operations.iter().filter(|one| matches!(one.call, Call::Activate { .. } | Call::RollBack {}));
        let by_fault = history.faults.iter().any(|mark| matches!(mark.fault.kind(), Kind::Activate | Kind::RollBack));
        let mut newest = 0;
        let mut calls: Vec<&Operation> = changes().collect();
        calls.sort_by_key(|operation| operation.called_us);
        let rises = calls.iter().all(|operation| match operation.call {
            Call::Activate { version } => std::mem::replace(&mut newest, version) <= version,
            _ => false,
        });
        if rises && !by_fault {
            return Some(Order::Numbers);
        }
        if by_fault || calls.iter().any(|operation| operation.acked_us().is_none()) {
            return None;
        }
        let mut epochs: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        for operation in calls {
            if let Some(Answer::Activated { version, epoch }) = operation.answer() {
                let rank = epochs.entry(*version).or_insert(Some(*epoch));
                *rank = rank.filter(|rank| rank == epoch);
            }
        }
        Some(Order::Epochs(epochs))
    }

    fn rank(&self, version: u64) -> Option<u64> {
        match self {
            Order::Numbers => Some(version),
            Order::Epochs(epochs) => epochs.get(&version).copied().flatten(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, answer, end, kinds, recommend};
    use super::*;
    use crate::history::{Listing, Outcome, Source};

    fn of_version(version: u64) -> Listing {
        Listing { version: Some(version), ..answer(Source::Popular, &["i1"]) }
    }

    fn judged(tell: impl FnOnce(&mut Story)) -> Verdict {
        let mut story = Story::new();
        tell(&mut story);
        check(&story.history)
    }

    #[test]
    fn positions_that_rise_pass_and_those_beside_each_other_may_do_either() {
        let verdict = judged(|story| {
            story.event((0, 5), "a", EventOutcome::Accepted, "users/0@3").event(
                (3, 9),
                "b",
                EventOutcome::Accepted,
                "users/0@2",
            );
            story.event((10, 12), "c", EventOutcome::Accepted, "users/0@4").event(
                (10, 12),
                "d",
                EventOutcome::Accepted,
                "users/1@1",
            );
        });
        assert!(verdict.is_pass(), "{verdict}");
    }

    #[test]
    fn a_position_behind_one_that_was_acked_before_fails() {
        let verdict = judged(|story| {
            story.event((0, 5), "a", EventOutcome::Accepted, "users/0@3").event(
                (6, 9),
                "b",
                EventOutcome::Accepted,
                "users/0@3",
            );
        });
        assert_eq!(kinds(&verdict), ["position went back"]);
    }

    #[test]
    fn a_gateway_whose_catalog_goes_back_fails_unless_it_was_started_anew() {
        let catalog = |index| Outcome::Ok(Answer::Catalog { live_version: 1, index });
        let read = |story: &mut Story| {
            story.call((0, 1), Call::ReadCatalog {}, catalog(7)).call((10, 11), Call::ReadCatalog {}, catalog(6));
        };
        assert_eq!(kinds(&judged(read)), ["catalog went back"]);
        let renewed = judged(|story| {
            read(story);
            story.fault(5, "restart node-1", &[Member::node(1)]);
        });
        assert!(renewed.is_pass(), "{renewed}");
    }

    #[test]
    fn a_client_that_is_answered_with_an_older_version_by_the_same_gateway_fails() {
        let back =
            |story: &mut Story| end(story.listing((0, 1), "u1", of_version(2)).listing((5, 6), "u1", of_version(1)));
        assert_eq!(kinds(&judged(back)), ["version went back"]);
        let beside =
            judged(|story| end(story.listing((0, 9), "u1", of_version(2)).listing((5, 6), "u1", of_version(1))));
        assert!(beside.is_pass(), "{beside}");
        let elsewhere = judged(|story| {
            story.listing((0, 1), "u1", of_version(2)).by(1, 2).listing((5, 6), "u1", of_version(1));
        });
        assert!(elsewhere.is_pass(), "without a token another gateway may not have heard yet: {elsewhere}");
    }

    #[test]
    fn a_token_holds_through_another_gateway_while_nothing_is_broken() {
        let ask = |story: &mut Story, times, version| {
            let mut call = recommend("u1");
            if let Call::Recommend { session, .. } = &mut call {
                *session = Some("token".to_owned());
            }
            story.call(times, call, Outcome::Ok(Answer::Listing(of_version(version))));
        };
        let back = |story: &mut Story| {
            ask(story, (0, 1), 2);
            story.by(1, 2);
            ask(story, (5, 6), 1);
        };
        assert_eq!(kinds(&judged(back)), ["version went back"]);
        let broken = judged(|story| {
            back(story);
            story.fault(2, "partition node-2 from rest", &[Member::node(2)]);
        });
        assert!(broken.is_pass(), "{broken}");
    }

    #[test]
    fn a_rollback_makes_the_older_version_the_newer() {
        let verdict = judged(|story| {
            let activated = |version, epoch| Outcome::Ok(Answer::Activated { version, epoch });
            story.call((0, 1), Call::Activate { version: 2 }, activated(2, 2)).listing((2, 3), "u1", of_version(2));
            story.call((4, 5), Call::RollBack {}, activated(1, 3)).listing((6, 7), "u1", of_version(1));
            story.listing((8, 9), "u1", of_version(2));
        });
        assert_eq!(kinds(&verdict), ["version went back"]);
        let Verdict::Fail { evidence, .. } = verdict else { panic!("checked above") };
        assert_eq!(
            evidence[0].operations,
            [3, 4],
            "the answer after the rollback is right, the one of version 2 after it is not"
        );
    }
}
