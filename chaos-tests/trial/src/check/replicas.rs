//! Replicas of a group have the same state at the same index, whoever holds them and whenever they got there.

use super::{Findings, Verdict};
use crate::history::{History, Observed};
use crate::name::{Group, Member};
use std::collections::{BTreeMap, BTreeSet};

/// Whose replica said what, and when.
type Said<'a> = Vec<(&'a str, Member, u64, u64)>;

/// Checks it.
pub(super) fn check(history: &History) -> Verdict {
    let mut digests: BTreeMap<(Group, u64), Said<'_>> = BTreeMap::new();
    for sighting in &history.observed {
        if let Observed::Digest { group, member, replica, index, digest } = &sighting.what {
            digests.entry((*group, *index)).or_default().push((digest, *member, *replica, sighting.at_us));
        }
    }
    let mut findings = Findings::default();
    for ((group, index), said) in &digests {
        let members: BTreeSet<Member> = said.iter().map(|(_, member, ..)| *member).collect();
        findings.judged += u64::from(members.len() > 1);
        let mut by_digest: BTreeMap<&str, BTreeSet<Member>> = BTreeMap::new();
        for (digest, member, ..) in said {
            by_digest.entry(digest).or_default().insert(*member);
        }
        if by_digest.len() > 1 {
            let each = by_digest.iter().map(|(digest, members)| {
                let members: Vec<String> = members.iter().map(Member::to_string).collect();
                format!("{} has {digest}", members.join(" and "))
            });
            let what = format!("{group}@{index}: {}", each.collect::<Vec<_>>().join(", "));
            let at_us = said.iter().map(|(.., at_us)| *at_us).max();
            findings.add(
                if members.len() == 1 { "restless replica" } else { "different state" },
                what,
                Vec::new(),
                at_us,
            );
        }
    }
    match (findings.count, findings.judged, digests.is_empty()) {
        (0, 0, false) => Verdict::Unknown { why: "no two replicas told their digest of the same index".to_owned() },
        _ => findings.verdict("no replica told a digest"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, kinds};
    use super::*;

    fn digest(member: u32, index: u64, digest: &str) -> Observed {
        let (group, member) = (Group::Users(0), Member::node(member));
        Observed::Digest { group, member, replica: 0, index, digest: digest.to_owned() }
    }

    #[test]
    fn replicas_that_agree_at_an_index_pass_and_others_fail() {
        let mut story = Story::new();
        story.see(1, digest(1, 5, "x")).see(2, digest(2, 5, "x")).see(3, digest(3, 9, "y"));
        assert_eq!(check(&story.history), Verdict::Pass { judged: 1 });
        story.see(4, digest(2, 9, "z"));
        assert_eq!(kinds(&check(&story.history)), ["different state"]);
    }

    #[test]
    fn a_replica_that_had_two_states_at_one_index_fails_and_one_alone_tells_nothing() {
        let mut story = Story::new();
        story.see(1, digest(1, 5, "x"));
        assert!(matches!(check(&story.history), Verdict::Unknown { .. }));
        story.see(2, digest(1, 5, "y"));
        assert_eq!(kinds(&check(&story.history)), ["restless replica"]);
        assert!(matches!(check(&Story::new().history), Verdict::NotApplicable { .. }));
    }
}
