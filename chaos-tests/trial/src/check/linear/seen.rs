//! What a user has seen is not recommended again: a set that only grows, read by answers that must leave it out.

use super::super::Findings;
use super::super::writers::{Write, Writers};
use crate::history::{Answer, Call, EventOutcome, History, Missing, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// Checks it. Users who were erased, or may have opted out by then, are left to the checker of consent.
pub(in super::super) fn check(history: &History, findings: &mut Findings) {
    let mut seen: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    let mut consents: BTreeMap<&str, Vec<Write<bool>>> = BTreeMap::new();
    let mut erased: BTreeSet<&str> = BTreeSet::new();
    for operation in history.operations.iter().filter(|one| !matches!(one.outcome, Outcome::Rejected(_))) {
        match (&operation.call, operation.answer()) {
            (Call::Event { user, item, .. }, Some(Answer::Event { outcome, .. }))
                if *outcome != EventOutcome::NotCollected =>
            {
                let acked = (operation.acked_us().unwrap_or(u64::MAX), operation.id);
                let first = seen.entry((user, item)).or_insert(acked);
                *first = acked.min(*first);
            }
            (Call::SetConsent { user, consent }, _) => consents.entry(user).or_default().push(Write {
                id: operation.id,
                called_us: operation.called_us,
                acked_us: operation.acked_us(),
                value: consent.recommend,
            }),
            (Call::EraseUser { user }, _) => drop(erased.insert(user)),
            _ => {}
        }
    }
    let consents: BTreeMap<&str, Writers<bool>> =
        consents.into_iter().map(|(user, writes)| (user, Writers::new(writes))).collect();
    for operation in &history.operations {
        let (Call::Recommend { user, .. }, Some(listing)) = (&operation.call, operation.listing()) else { continue };
        let returned = operation.returned_us.unwrap_or(u64::MAX);
        let may_be_out = consents.get(user.as_str()).is_some_and(|writers| {
            writers.candidates(operation.called_us, returned).0.iter().any(|write| !write.value)
        });
        if may_be_out || erased.contains(user.as_str()) || listing.misses(Missing::UserState) {
            continue;
        }
        findings.judged += 1;
        for item in &listing.items {
            let Some((acked, event)) = seen.get(&(user.as_str(), item.id.as_str())) else { continue };
            if *acked < operation.called_us {
                let what =
                    format!("{} is recommended to {user} by {} after an acked event of it", item.id, operation.gateway);
                findings.add("seen item shown", what, vec![*event, operation.id], operation.returned_us);
            }
        }
    }
}
