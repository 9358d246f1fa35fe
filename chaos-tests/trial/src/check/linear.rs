//! Linearizability, key by key: a history is linearizable if and only if each of its objects is (Herlihy and Wing 1990, theorem 1).
//!
//! Objects: a user's consent, block list, profile and count of events; the catalog; and, as lower bounds, what a user has seen.

mod objects;
mod search;
mod seen;

use super::{Findings, Verdict};
use crate::history::{Answer, History};
use objects::{Object, Question};
use search::{Entry, Found};
use std::collections::BTreeMap;

/// Steps of all searches together; a history that needs more is not decided.
const STEPS_MAX: u64 = 20_000_000;

/// Checks it.
pub(super) fn check(history: &History) -> Verdict {
    let mut findings = Findings::default();
    let (mut undecided, mut steps_left) = (Vec::new(), STEPS_MAX);
    for (key, question) in objects::questions(history) {
        let outcome = match &question {
            Question::Consent(entries) => decide(&key, &objects::Register::default(), entries, &mut steps_left),
            Question::Blocks(entries) => decide(&key, &objects::Register::default(), entries, &mut steps_left),
            Question::Profile(entries) => decide(&key, &objects::Register::default(), entries, &mut steps_left),
            Question::Count(entries) => decide(&key, &objects::Counter, entries, &mut steps_left),
        };
        match outcome {
            Outcome::Linear(judged) => findings.judged += judged,
            Outcome::Broken(what, operations) => findings.add("not linearizable", what, operations, None),
            Outcome::Undecided => undecided.push(key),
        }
    }
    activations(history, &mut findings);
    seen::check(history, &mut findings);
    match (findings.count, undecided.first()) {
        (0, Some(key)) => Verdict::Unknown {
            why: format!("{} objects, such as {key}, were not decided within {STEPS_MAX} steps", undecided.len()),
        },
        _ => findings.verdict("nothing was read that was written"),
    }
}

enum Outcome {
    Linear(u64),
    Broken(String, Vec<u64>),
    Undecided,
}

fn decide<O: Object>(key: &str, object: &O, entries: &[Entry<O::Action>], steps_left: &mut u64) -> Outcome
where
    O::Action: Clone + std::fmt::Debug,
{
    match search::search(object, entries, steps_left) {
        Found::Linear => Outcome::Linear(entries.len() as u64),
        Found::GaveUp => Outcome::Undecided,
        Found::Broken(place) => {
            let shown = smallest(object, entries, place);
            let lines = shown.iter().map(|entry| {
                let end = entry.returned_us.map_or("unknown".to_owned(), |returned| returned.to_string());
                format!("#{} [{}, {end}] {:?}", entry.id, entry.called_us, entry.action)
            });
            let what = format!("{key}: no order explains {}", lines.collect::<Vec<_>>().join("; "));
            Outcome::Broken(what, shown.iter().map(|entry| entry.id).collect())
        }
    }
}

/// Writes that are told beside a read that nothing explains.
const WRITES_TOLD: usize = 6;
/// Other reads that are tried as its partner.
const READS_TRIED: usize = 64;
/// Steps of one attempt to make evidence smaller.
const EVIDENCE_STEPS: u64 = 200_000;

/// The entries that show a violation: the one that nothing explains, one other read if it takes two, and the writes about them. Reads can
/// be left out without making anything wrong; writes cannot, so older ones are left out of the telling only.
fn smallest<'a, O: Object>(object: &O, entries: &'a [Entry<O::Action>], place: usize) -> Vec<&'a Entry<O::Action>>
where
    O::Action: Clone,
{
    let last = &entries[place];
    let until = last.returned_us.unwrap_or(u64::MAX);
    let before: Vec<&Entry<O::Action>> = entries.iter().filter(|entry| entry.called_us <= until).collect();
    let (reads, writes): (Vec<_>, Vec<_>) = before.into_iter().partition(|entry| object.is_read(&entry.action));
    let is_broken = |partners: &[&Entry<O::Action>]| {
        let chosen = writes.iter().chain(partners).copied().chain(object.is_read(&last.action).then_some(last));
        let mut chosen: Vec<Entry<O::Action>> = chosen.cloned().collect();
        chosen.sort_by_key(|entry| entry.called_us);
        matches!(search::search(object, &chosen, &mut EVIDENCE_STEPS.clone()), Found::Broken(_))
    };
    let others: Vec<&Entry<O::Action>> =
        reads.iter().rev().filter(|entry| entry.id != last.id).take(READS_TRIED).copied().collect();
    let mut shown: Vec<&Entry<O::Action>> = Vec::new();
    if !is_broken(&[]) {
        match others.iter().find(|other| is_broken(&[**other])) {
            Some(other) => shown.push(other),
            None => shown.extend(others.iter().take(WRITES_TOLD)),
        }
    }
    shown.extend(writes.iter().rev().filter(|write| write.id != last.id).take(WRITES_TOLD));
    shown.push(last);
    shown.sort_by_key(|entry| entry.called_us);
    shown
}

/// Activations are entries of one log: one version an epoch, and epochs rise in real time.
fn activations(history: &History, findings: &mut Findings) {
    let mut done: Vec<(u64, u64, u64, u64, u64)> = Vec::new();
    for operation in &history.operations {
        if let (Some(Answer::Activated { version, epoch }), Some(returned)) =
            (operation.answer(), operation.returned_us)
        {
            done.push((operation.called_us, returned, *epoch, *version, operation.id));
        }
    }
    findings.judged += done.len() as u64;
    let mut versions: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (_, returned, epoch, version, id) in &done {
        let (first, first_id) = *versions.entry(*epoch).or_insert((*version, *id));
        if first != *version {
            let what = format!("epoch {epoch} is of version {first} and of version {version}");
            findings.add("two versions of an epoch", what, vec![first_id, *id], Some(*returned));
        }
    }
    let mut by_return = done.clone();
    by_return.sort_by_key(|(_, returned, ..)| *returned);
    done.sort_unstable();
    let (mut ended, mut newest) = (by_return.iter().peekable(), None::<(u64, u64)>);
    for (called, _, epoch, version, id) in &done {
        while let Some((_, _, earlier, _, earlier_id)) = ended.next_if(|(_, returned, ..)| returned < called) {
            newest = newest.max(Some((*earlier, *earlier_id)));
        }
        if let Some((newest, newest_id)) = newest.filter(|(newest, _)| newest > epoch) {
            let what = format!("version {version} was activated as epoch {epoch} after epoch {newest} had been acked");
            findings.add("epoch went back", what, vec![newest_id, *id], Some(*called));
        }
    }
}

#[cfg(test)]
mod tests;
