//! What raft promises, from what replicas say of themselves (Ongaro and Ousterhout 2014, figure 3).

use super::{Findings, Span, Verdict, at, spans};
use crate::fault::{Kind, Layer};
use crate::history::{History, Observed};
use crate::name::{Group, Member};
use std::collections::BTreeMap;

/// A replica: its member too, because a world may not know its id.
type Whose = (Group, Member, u64);

/// Checks it.
pub(super) fn check(history: &History) -> Verdict {
    let mut findings = Findings::default();
    let leaders = one_leader_a_term(history, &mut findings);
    let entries = equal_entries(history, &mut findings);
    terms_rise_with_the_log(&entries, &mut findings);
    complete_leaders(history, &leaders, &entries, &mut findings);
    nothing_shrinks(history, &mut findings);
    findings.verdict("no replica was watched")
}

type Leaders = BTreeMap<(Group, u64), (Member, u64)>;

fn one_leader_a_term(history: &History, findings: &mut Findings) -> Leaders {
    let mut leaders = Leaders::new();
    for sighting in &history.observed {
        let Observed::Leader { group, term, member } = &sighting.what else { continue };
        findings.judged += 1;
        let (first, _) = *leaders.entry((*group, *term)).or_insert((*member, sighting.at_us));
        if first != *member {
            let what = format!("{group} has two leaders in term {term}: {first} and {member}");
            findings.add("two leaders", what, Vec::new(), Some(sighting.at_us));
        }
    }
    leaders
}

/// Term and content of every entry that anybody applied.
type Entries<'a> = BTreeMap<(Group, u64), (u64, &'a str, Member)>;

fn equal_entries<'a>(history: &'a History, findings: &mut Findings) -> Entries<'a> {
    let mut entries = Entries::new();
    for sighting in &history.observed {
        let Observed::Applied { group, member, index, term, hash, .. } = &sighting.what else { continue };
        findings.judged += 1;
        let (first_term, first_hash, first) =
            *entries.entry((*group, *index)).or_insert((*term, hash.as_str(), *member));
        if (first_term, first_hash) != (*term, hash.as_str()) {
            let what = format!(
                "{group}@{index}: {first} applied {first_hash} of term {first_term}, {member} applied {hash} of term {term}"
            );
            findings.add("different entries", what, Vec::new(), Some(sighting.at_us));
        }
    }
    entries
}

fn terms_rise_with_the_log(entries: &Entries<'_>, findings: &mut Findings) {
    for (((group, index), (term, ..)), ((next_group, next_index), (next_term, ..))) in
        entries.iter().zip(entries.iter().skip(1))
    {
        if group == next_group && term > next_term {
            let what = format!("{group}@{index} is of term {term}, and @{next_index} after it of term {next_term}");
            findings.add("terms out of order", what, Vec::new(), None);
        }
    }
}

/// A leader's log has everything that was committed in the terms before its own.
fn complete_leaders(history: &History, leaders: &Leaders, entries: &Entries<'_>, findings: &mut Findings) {
    for sighting in &history.observed {
        let Observed::Replica { group, member, term, last, .. } = &sighting.what else { continue };
        let is_leader = leaders.get(&(*group, *term)).is_some_and(|(leader, _)| leader == member);
        if !is_leader {
            continue;
        }
        // Terms rise with the log, so the entries of older terms are a prefix of it: the last of them is found from the end.
        let older = entries.range((*group, 0)..=(*group, u64::MAX)).rev().find(|(_, (of, ..))| of < term);
        if let Some(((_, index), (of, ..))) = older.filter(|((_, index), _)| index > last) {
            let what = format!(
                "{member} leads {group} in term {term} with a log up to {last}, but @{index} of term {of} was committed"
            );
            findings.add("incomplete leader", what, Vec::new(), Some(sighting.at_us));
        }
    }
}

/// Terms never sink; what a replica knows to be committed does not either, while its process lives.
fn nothing_shrinks(history: &History, findings: &mut Findings) {
    let spans = spans(history);
    let ended = |member: Member, from_us: u64, until_us: u64, kinds: fn(Kind) -> bool| {
        let is_it = |span: &&Span| kinds(span.fault.kind()) && (span.on.is_empty() || span.on.contains(&member));
        spans.iter().filter(is_it).any(|span| span.touches(from_us, until_us))
    };
    let mut sightings: Vec<_> = history.observed.iter().collect();
    sightings.sort_by_key(|sighting| sighting.at_us);
    let mut known: BTreeMap<Whose, (u64, u64, u64)> = BTreeMap::new();
    for sighting in sightings {
        let Observed::Replica { group, member, replica, term, committed, .. } = &sighting.what else { continue };
        findings.judged += 1;
        let before = known.insert((*group, *member, *replica), (*term, *committed, sighting.at_us));
        let Some((term_before, committed_before, before_us)) = before else { continue };
        let wipes = |kind: Kind| matches!(kind, Kind::Wipe | Kind::Replace | Kind::LoseForGood | Kind::BitRot);
        if *term < term_before && !ended(*member, before_us, sighting.at_us, wipes) {
            let what = format!("{group} on {member}: the term sank from {term_before} to {term}");
            findings.add("term sank", what, Vec::new(), Some(sighting.at_us));
        }
        // A process that starts again learns from its leader what is committed. Healing starts processes too.
        let restarts = |kind: Kind| {
            matches!(kind.layer(), Layer::Process | Layer::Disk | Layer::Resource)
                || matches!(kind, Kind::RestartWith | Kind::Replace | Kind::LoseForGood)
        };
        if *committed < committed_before && !ended(*member, before_us, sighting.at_us, restarts) {
            let what = format!(
                "{group} on {member}: committed sank from {committed_before} at {} to {committed} at {}",
                at(before_us),
                at(sighting.at_us)
            );
            findings.add("committed shrank", what, Vec::new(), Some(sighting.at_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, end, kinds};
    use super::*;

    const GROUP: Group = Group::Users(0);

    fn leader(node: u32, term: u64) -> Observed {
        Observed::Leader { group: GROUP, term, member: Member::node(node) }
    }

    fn applied(node: u32, index: u64, term: u64, hash: &str) -> Observed {
        Observed::Applied { group: GROUP, member: Member::node(node), replica: 0, index, term, hash: hash.to_owned() }
    }

    fn replica(node: u32, term: u64, last: u64, committed: u64) -> Observed {
        let member = Member::node(node);
        Observed::Replica { group: GROUP, member, replica: 0, term, last, committed, applied: committed }
    }

    #[test]
    fn a_group_that_changes_its_leader_in_order_passes() {
        let mut story = Story::new();
        story
            .see(1, leader(1, 1))
            .see(2, applied(1, 1, 1, "a"))
            .see(3, applied(2, 1, 1, "a"))
            .see(4, replica(1, 1, 1, 1));
        story
            .see(5, leader(2, 2))
            .see(6, replica(2, 2, 2, 1))
            .see(7, applied(2, 2, 2, "b"))
            .see(8, replica(1, 2, 2, 2));
        assert!(check(&story.history).is_pass(), "{}", check(&story.history));
    }

    #[test]
    fn every_kind_of_violation_is_found() {
        let of = |observed: Vec<Observed>| {
            let mut story = Story::new();
            (1..).zip(observed).for_each(|(at_us, one)| end(story.see(at_us, one)));
            kinds(&check(&story.history))
        };
        assert_eq!(of(vec![leader(1, 3), leader(2, 3)]), ["two leaders"]);
        assert_eq!(of(vec![applied(1, 4, 1, "a"), applied(2, 4, 1, "b")]), ["different entries"]);
        assert_eq!(of(vec![applied(1, 4, 1, "a"), applied(2, 4, 2, "a")]), ["different entries"]);
        assert_eq!(of(vec![applied(1, 4, 3, "a"), applied(2, 5, 2, "b")]), ["terms out of order"]);
        assert_eq!(of(vec![applied(1, 4, 1, "a"), leader(2, 2), replica(2, 2, 3, 3)]), ["incomplete leader"]);
        assert_eq!(of(vec![replica(1, 2, 5, 5), replica(1, 1, 5, 5)]), ["term sank"]);
        assert_eq!(of(vec![replica(1, 2, 5, 5), replica(1, 2, 5, 4)]), ["committed shrank"]);
    }

    #[test]
    fn a_process_that_starts_again_may_know_of_less_that_is_committed_but_keeps_its_term() {
        let mut story = Story::new();
        story.see(1, replica(1, 2, 5, 5)).fault(2, "kill node-1", &[Member::node(1)]).see(3, replica(1, 2, 5, 3));
        assert!(check(&story.history).is_pass());
        story.see(4, replica(1, 1, 5, 3));
        assert_eq!(kinds(&check(&story.history)), ["term sank"]);
    }
}
