//! After healing everything comes back: leaders in time, fresh writes, closed memberships, finished moves.

use super::{Findings, Verdict, at};
use crate::history::{Answer, Call, History, Observed, Operation, Outcome};
use crate::name::{Group, Member};
use crate::scenario::Expect;
use crate::world::Phase;
use std::collections::{BTreeMap, BTreeSet};

/// How long elections may take after healing, in longest election time-outs, and beyond them.
const ELECTIONS: u64 = 4;
const ELECTIONS_MORE_US: u64 = 1_000_000;

/// Checks it.
pub(super) fn check(history: &History, expect: &Expect) -> Verdict {
    let Some(healed) = history.began_us(Phase::Converge) else {
        return Verdict::NotApplicable { why: "the run has no phase `converge`".to_owned() };
    };
    let leaders_until = healed + history.header.election_timeout_max_ms * 1_000 * ELECTIONS + ELECTIONS_MORE_US;
    let writes_until = leaders_until + expect.writes_after_heal_ms * 1_000;
    let mut findings = Findings::default();
    let unseen = leaders_are_back(history, healed, leaders_until, &mut findings);
    let is_fresh = writes_are_acked(history, healed, writes_until, &mut findings);
    memberships_are_closed(history, &mut findings);
    if expect.moves_end {
        moves_are_over(history, &mut findings);
    }
    match (findings.count, unseen.first(), is_fresh) {
        (0, Some(group), _) => Verdict::Unknown {
            why: format!(
                "nobody looked for leaders of {} groups, such as {group}, in the time after healing",
                unseen.len()
            ),
        },
        (0, None, false) => Verdict::Unknown { why: "no event was sent after healing".to_owned() },
        _ => findings.verdict("nothing was seen after healing"),
    }
}

/// Every group whose leaders a history tells of.
fn groups(history: &History) -> BTreeSet<Group> {
    let mut groups = BTreeSet::new();
    for sighting in &history.observed {
        match &sighting.what {
            Observed::Leader { group, .. } => drop(groups.insert(*group)),
            Observed::Scene { scene } => {
                groups.extend(scene.actors.iter().flat_map(|actor| actor.leads.iter().copied()))
            }
            _ => {}
        }
    }
    groups
}

/// When each group was first seen to be led after healing: told by a replica, by a look at the cluster, or by a write that was acked.
fn first_led(history: &History, healed: u64) -> BTreeMap<Group, u64> {
    let mut led: BTreeMap<Group, u64> = BTreeMap::new();
    let mut note = |group: Group, at_us: u64| {
        let first = led.entry(group).or_insert(at_us);
        *first = at_us.min(*first);
    };
    for sighting in history.observed.iter().filter(|sighting| sighting.at_us >= healed) {
        match &sighting.what {
            Observed::Leader { group, .. } => note(*group, sighting.at_us),
            Observed::Scene { scene } => {
                let up = scene.actors.iter().filter(|actor| actor.is_up);
                up.flat_map(|actor| &actor.leads).for_each(|group| note(*group, sighting.at_us));
            }
            _ => {}
        }
    }
    for operation in history.operations.iter().filter(|operation| operation.called_us >= healed) {
        if let (Some(Answer::Event { position: Some(position), .. }), Some(acked)) =
            (operation.answer(), operation.acked_us())
        {
            note(position.group, acked);
        }
    }
    led
}

/// Groups of which nothing is known.
fn leaders_are_back(history: &History, healed: u64, until: u64, findings: &mut Findings) -> Vec<Group> {
    let led = first_led(history, healed);
    // Worlds tell of a scene when it changes: the last one by then still holds.
    let last = history.scenes().filter(|(at_us, _)| *at_us <= until).max_by_key(|(at_us, _)| *at_us);
    let standing = last.map(|(_, scene)| {
        let up = scene.actors.iter().filter(|actor| actor.is_up);
        up.flat_map(|actor| actor.leads.iter().copied()).collect::<BTreeSet<Group>>()
    });
    let mut unseen = Vec::new();
    for group in groups(history) {
        match led.get(&group) {
            Some(first) if *first <= until => findings.judged += 1,
            _ if standing.as_ref().is_some_and(|led| led.contains(&group)) => findings.judged += 1,
            Some(first) => {
                let what = format!(
                    "{group} was first seen with a leader {} after healing; {} are allowed",
                    at(first - healed),
                    at(until - healed)
                );
                findings.add("late leader", what, Vec::new(), Some(*first));
            }
            None if standing.is_some() => {
                findings.add(
                    "no leader",
                    format!("{group} had no leader {} after healing", at(until - healed)),
                    Vec::new(),
                    Some(until),
                );
            }
            None => unseen.push(group),
        }
    }
    unseen
}

fn position_group(operation: &Operation) -> Option<Group> {
    match operation.answer() {
        Some(Answer::Event { position, .. }) => position.map(|position| position.group),
        _ => None,
    }
}

/// Whether any event was sent after healing.
fn writes_are_acked(history: &History, healed: u64, until: u64, findings: &mut Findings) -> bool {
    let is_event = |operation: &&Operation| matches!(operation.call, Call::Event { .. });
    let homes: BTreeMap<&str, Group> = history
        .operations
        .iter()
        .filter_map(|operation| Some((operation.call.user()?, position_group(operation)?)))
        .collect();
    let fresh: Vec<&Operation> =
        history.operations.iter().filter(is_event).filter(|one| one.called_us >= healed).collect();
    // First acks of each group that events were sent to.
    let mut acked: BTreeMap<Group, Option<u64>> = BTreeMap::new();
    for operation in &fresh {
        let Some(group) = operation.call.user().and_then(|user| homes.get(user)) else { continue };
        let first = acked.entry(*group).or_default();
        *first = [*first, operation.acked_us()].into_iter().flatten().min();
    }
    for (group, first) in acked {
        match first {
            Some(first) if first <= until => findings.judged += 1,
            Some(first) => {
                let what = format!(
                    "the first event of {group} was acked {} after healing; {} are allowed",
                    at(first - healed),
                    at(until - healed)
                );
                findings.add("late write", what, Vec::new(), Some(first));
            }
            None => findings.add("no write", format!("no event of {group} was acked after healing"), Vec::new(), None),
        }
    }
    let audit = history.began_us(Phase::Audit).unwrap_or(u64::MAX);
    for operation in fresh.iter().filter(|operation| operation.called_us > until && operation.called_us < audit) {
        let (Outcome::Rejected(refusal) | Outcome::Unknown(refusal)) = &operation.outcome else { continue };
        let is_over = operation.returned_us.is_some_and(|returned| returned < audit);
        if is_over && refusal.kind != "overloaded" && refusal.kind != "invalid" {
            let what = format!(
                "an event sent {} after healing was not acked: {}",
                at(operation.called_us - healed),
                refusal.kind
            );
            findings.add("write failed after healing", what, vec![operation.id], operation.returned_us);
        }
    }
    !fresh.is_empty()
}

fn memberships_are_closed(history: &History, findings: &mut Findings) {
    let mut newest: BTreeMap<Group, (u64, bool, u64)> = BTreeMap::new();
    for sighting in &history.observed {
        if let Observed::Membership { group, index, is_joint, .. } = &sighting.what {
            let seen = (*index, *is_joint, sighting.at_us);
            let kept = newest.entry(*group).or_insert(seen);
            if seen.0 >= kept.0 {
                *kept = seen;
            }
        }
    }
    for (group, (index, is_joint, at_us)) in newest {
        findings.judged += 1;
        if is_joint {
            let what = format!("the membership of {group} is still the joint one of @{index}");
            findings.add("joint membership left open", what, Vec::new(), Some(at_us));
        }
    }
}

fn moves_are_over(history: &History, findings: &mut Findings) {
    let mut open: BTreeMap<(Group, Member), (bool, u64)> = BTreeMap::new();
    for sighting in &history.observed {
        if let Observed::Move { shard, to, is_over, .. } = &sighting.what {
            open.insert((*shard, *to), (*is_over, sighting.at_us));
        }
    }
    for ((shard, to), (is_over, at_us)) in open {
        findings.judged += 1;
        if !is_over {
            findings.add("move not finished", format!("{shard} is still on its way to {to}"), Vec::new(), Some(at_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, end, event, kinds};
    use super::*;
    use crate::history::EventOutcome;
    use crate::target::{Actor, Scene};

    const S: u64 = 1_000_000;

    fn leader(group: Group) -> Observed {
        Observed::Leader { group, term: 1, member: Member::node(1) }
    }

    fn scene(leads: &[Group]) -> Observed {
        let leads = leads.iter().copied().collect();
        let actor = Actor { leads, ..Actor::idle(Member::node(1), true) };
        Observed::Scene { scene: Scene { actors: vec![actor], ..Scene::default() } }
    }

    /// Healed at 100 s: leaders until 105 s, writes until 110 s.
    fn healed() -> Story {
        let mut story = Story::new();
        story.phase(0, Phase::Baseline).phase(100 * S, Phase::Converge);
        story.see(1, leader(Group::Users(0))).see(1, leader(Group::Items(0)));
        story.event((S, 2 * S), "a", EventOutcome::Accepted, "users/0@1");
        story
    }

    fn judged(tell: impl FnOnce(&mut Story)) -> Verdict {
        let mut story = healed();
        tell(&mut story);
        check(&story.history, &Expect::default())
    }

    fn well(story: &mut Story) {
        story
            .event((101 * S, 102 * S), "b", EventOutcome::Accepted, "users/0@2")
            .see(103 * S, scene(&[Group::Users(0), Group::Items(0)]));
    }

    #[test]
    fn a_cluster_that_comes_back_in_time_passes() {
        let membership = |index, is_joint| {
            let voters = [Member::node(1)].into();
            Observed::Membership { group: Group::Users(0), index, voters, learners: BTreeSet::new(), is_joint }
        };
        let verdict = judged(|story| {
            well(story);
            let to = Member::node(2);
            let moving = |is_over| Observed::Move { shard: Group::Users(0), from: None, to, is_over };
            story
                .see(S, moving(false))
                .see(104 * S, moving(true))
                .see(S, membership(3, true))
                .see(104 * S, membership(4, false));
        });
        assert!(verdict.is_pass(), "{verdict}");
        let open = judged(|story| {
            well(story);
            story.see(S, membership(3, true));
        });
        assert_eq!(kinds(&open), ["joint membership left open"]);
    }

    #[test]
    fn a_group_that_stays_without_a_leader_or_gets_one_late_fails() {
        let none = judged(|story| {
            well(story);
            story.see(S, leader(Group::Users(1))).see(106 * S, scene(&[Group::Users(0), Group::Items(0)]));
        });
        assert_eq!(kinds(&none), ["no leader"]);
        let late = judged(|story| {
            well(story);
            story
                .see(S, leader(Group::Users(1)))
                .see(106 * S, scene(&[Group::Users(0), Group::Items(0), Group::Users(1)]));
        });
        assert_eq!(kinds(&late), ["late leader"]);
        let unseen = judged(|story| end(story.event((101 * S, 102 * S), "b", EventOutcome::Accepted, "users/0@2")));
        assert!(matches!(unseen, Verdict::Unknown { .. }), "nobody looked at items/0: {unseen}");
        let steady = judged(|story| {
            let groups = [Group::Users(0), Group::Items(0)];
            story.see(2 * S, scene(&groups)).event((101 * S, 102 * S), "b", EventOutcome::Accepted, "users/0@2");
        });
        assert!(steady.is_pass(), "a scene that did not change still holds: {steady}");
    }

    #[test]
    fn fresh_writes_must_be_acked_and_must_be_tried() {
        let seen = |story: &mut Story| end(story.see(103 * S, scene(&[Group::Users(0), Group::Items(0)])));
        assert!(matches!(judged(seen), Verdict::Unknown { .. }));
        let never = judged(|story| {
            seen(story);
            story.unknown((101 * S, 104 * S), event("b"));
        });
        assert_eq!(kinds(&never), ["no write"]);
        let late = judged(|story| {
            seen(story);
            story.event((101 * S, 111 * S), "b", EventOutcome::Accepted, "users/0@2");
        });
        assert_eq!(kinds(&late), ["late write"]);
        let still = judged(|story| {
            well(story);
            story.rejected((120 * S, 121 * S), event("c"));
        });
        assert_eq!(kinds(&still), ["write failed after healing"]);
    }

    #[test]
    fn a_move_that_hangs_fails_unless_the_scenario_lets_it() {
        let hang = |story: &mut Story| {
            well(story);
            let to = Member::node(2);
            story.see(S, Observed::Move { shard: Group::Users(0), from: None, to, is_over: false });
        };
        assert_eq!(kinds(&judged(hang)), ["move not finished"]);
        let mut story = healed();
        hang(&mut story);
        assert!(check(&story.history, &Expect { moves_end: false, ..Expect::default() }).is_pass());
        assert!(matches!(check(&Story::new().history, &Expect::default()), Verdict::NotApplicable { .. }));
    }
}
