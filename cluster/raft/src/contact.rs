//! How fresh a follower is: when it last heard from a leader of whose commits, as of then, it has applied all.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Arrivals that wait for their commits to be applied. More would only make the answer finer while this replica is behind.
const PENDING_MAX: usize = 8;

/// What a replica heard from its leader.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    /// The newest arrival whose commits are applied.
    confirmed: Option<Instant>,
    /// Arrivals and the leader's commit in each, both rising.
    pending: VecDeque<(Instant, u64)>,
}

impl Contact {
    /// A leader was accepted at `at` that knew all that was committed, up to `commit`.
    pub(crate) fn note(&mut self, at: Instant, commit: u64, applied: Option<u64>) {
        self.promote(applied);
        // Later and no harder to reach: an earlier arrival has nothing left to say.
        while self.pending.back().is_some_and(|(_, earlier)| *earlier >= commit) {
            self.pending.pop_back();
        }
        self.pending.push_back((at, commit));
        self.promote(applied);
        // The newest gives way: under a steady load the oldest is the one that is reached next.
        self.pending.truncate(PENDING_MAX);
    }

    /// When this replica last had all that its leader had committed; `None` if never in this life.
    pub(crate) fn latest(&mut self, applied: Option<u64>) -> Option<Instant> {
        self.promote(applied);
        self.confirmed
    }

    fn promote(&mut self, applied: Option<u64>) {
        while let Some((at, _)) = self.pending.front().filter(|(_, commit)| Some(*commit) <= applied) {
            self.confirmed = self.confirmed.max(Some(*at));
            self.pending.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_is_applied_counts_as_contact() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut contact = Contact::default();
        assert_eq!(contact.latest(Some(9)), None);
        contact.note(at(1), 5, Some(2));
        assert_eq!(contact.latest(Some(4)), None, "heard is not caught up");
        contact.note(at(2), 7, Some(4));
        assert_eq!(contact.latest(Some(5)), Some(at(1)), "an older arrival is not lost by a newer one");
        contact.note(at(3), 7, Some(5));
        assert_eq!(contact.latest(Some(7)), Some(at(3)), "the same commit heard later");
        contact.note(at(4), 6, Some(7));
        assert_eq!(contact.latest(Some(7)), Some(at(4)), "what is applied already");
    }

    #[test]
    fn a_follower_that_is_always_a_little_behind_stays_about_as_fresh_as_its_lag() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut contact, lag) = (Contact::default(), 50);
        for ms in 0..1_000_u64 {
            let applied = ms.checked_sub(lag);
            contact.note(at(ms), ms, applied);
            assert!(contact.pending.len() <= PENDING_MAX);
            if ms > 2 * lag {
                assert!(contact.latest(applied) >= Some(at(ms - 2 * lag)), "at {ms}");
            }
        }
    }
}
