//! "Consent is immediate": after an acked opt-out, block, take-down or erasure no answer of any node shows otherwise.

use super::writers::{Write, Writers};
use super::{Findings, Verdict, at};
use crate::history::{Answer, Call, EventOutcome, History, Listing, Missing, Operation, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// What may be seen of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Yes,
    No,
    /// It was removed: nothing is promised until somebody puts it again.
    Either,
}

/// Every write that answers must obey, by its key.
#[derive(Default)]
struct Writes<'a> {
    recommend: BTreeMap<&'a str, Vec<Write<bool>>>,
    blocks: BTreeMap<&'a str, Vec<Write<&'a BTreeSet<String>>>>,
    shown: BTreeMap<&'a str, Vec<Write<Shown>>>,
    /// Erasures: `true`; events, from which an answer may be personal again: `false`.
    kept: BTreeMap<&'a str, Vec<Write<bool>>>,
}

static NOTHING: BTreeSet<String> = BTreeSet::new();

impl<'a> Writes<'a> {
    fn of(history: &'a History) -> Writes<'a> {
        let mut writes = Writes::default();
        for operation in history.operations.iter().filter(|one| !matches!(one.outcome, Outcome::Rejected(_))) {
            writes.note(operation);
        }
        // Only of users who were erased do events matter.
        writes.kept.retain(|_, of_user| of_user.iter().any(|write| write.value));
        writes
    }

    fn note(&mut self, operation: &'a Operation) {
        let (id, called_us, acked_us) = (operation.id, operation.called_us, operation.acked_us());
        macro_rules! write {
            ($map:ident, $key:expr, $value:expr) => {
                self.$map.entry($key.as_str()).or_default().push(Write { id, called_us, acked_us, value: $value })
            };
        }
        // There was nothing to do it to.
        if matches!(operation.answer(), Some(Answer::Absent {})) {
            return;
        }
        match &operation.call {
            Call::SetConsent { user, consent } => write!(recommend, user, consent.recommend),
            Call::SetBlocks { user, items } => write!(blocks, user, items),
            Call::TakeDown { item } => write!(shown, item, Shown::No),
            Call::Restore { item } => write!(shown, item, Shown::Yes),
            Call::DeleteItem { item } => write!(shown, item, Shown::Either),
            Call::EraseUser { user } => {
                write!(recommend, user, true);
                write!(blocks, user, &NOTHING);
                write!(kept, user, true);
            }
            Call::Event { user, .. } => {
                let is_kept =
                    !matches!(operation.answer(), Some(Answer::Event { outcome: EventOutcome::NotCollected, .. }));
                if is_kept {
                    write!(kept, user, false);
                }
            }
            _ => {}
        }
    }
}

fn by_key<T>(writes: BTreeMap<&str, Vec<Write<T>>>) -> BTreeMap<&str, Writers<T>> {
    writes.into_iter().map(|(key, writes)| (key, Writers::new(writes))).collect()
}

/// Checks it.
pub(super) fn check(history: &History) -> Verdict {
    let writes = Writes::of(history);
    let judge = Judge {
        recommend: by_key(writes.recommend),
        blocks: by_key(writes.blocks),
        shown: by_key(writes.shown),
        kept: by_key(writes.kept),
    };
    let mut findings = Findings::default();
    for operation in &history.operations {
        let user = operation.call.user().unwrap_or_default();
        match operation.answer() {
            Some(Answer::Listing(listing)) => {
                judge.personal(operation, user, listing, &mut findings);
                judge.blocked(operation, user, listing, &mut findings);
                let ids = listing.items.iter().map(|item| item.id.as_str());
                ids.for_each(|id| judge.taken_down(operation, id, &mut findings));
            }
            Some(Answer::Item { is_taken_down: false, .. }) => {
                if let Call::ReadItem { item } = &operation.call {
                    judge.taken_down(operation, item, &mut findings);
                }
            }
            _ => {}
        }
    }
    findings.verdict("no answer came after an opt-out, a block, a take-down or an erasure")
}

struct Judge<'a> {
    recommend: BTreeMap<&'a str, Writers<bool>>,
    blocks: BTreeMap<&'a str, Writers<&'a BTreeSet<String>>>,
    shown: BTreeMap<&'a str, Writers<Shown>>,
    kept: BTreeMap<&'a str, Writers<bool>>,
}

impl Judge<'_> {
    fn personal(&self, operation: &Operation, user: &str, listing: &Listing, findings: &mut Findings) {
        let returned = operation.returned_us.unwrap_or(u64::MAX);
        let for_all = |writers: Option<&Writers<bool>>, forbids: bool| {
            let (candidates, may_be_none) = writers?.candidates(operation.called_us, returned);
            let is_forbidden = !may_be_none && candidates.iter().all(|write| write.value == forbids);
            is_forbidden.then(|| candidates.first().map(|write| (write.id, write.acked_us.unwrap_or_default())))?
        };
        let rules = [
            (for_all(self.recommend.get(user), false), "personal after opt-out", "opted out"),
            (for_all(self.kept.get(user), true), "personal after erasure", "was erased"),
        ];
        for (forbidden, kind, what) in rules {
            let Some((write, acked)) = forbidden else { continue };
            findings.judged += 1;
            if listing.is_personal() {
                let what = format!(
                    "{} answered {user} personally at {}, who {what} at {}",
                    operation.gateway,
                    at(returned),
                    at(acked)
                );
                findings.add(kind, what, vec![write, operation.id], Some(returned));
            }
        }
    }

    /// An answer that could not read the user's state says so and cannot know of blocks.
    fn blocked(&self, operation: &Operation, user: &str, listing: &Listing, findings: &mut Findings) {
        let Some(writers) = self.blocks.get(user).filter(|_| !listing.misses(Missing::UserState)) else { return };
        if !matches!(operation.call, Call::Recommend { .. }) {
            return;
        }
        let returned = operation.returned_us.unwrap_or(u64::MAX);
        let (candidates, may_be_none) = writers.candidates(operation.called_us, returned);
        if may_be_none || candidates.iter().all(|write| write.value.is_empty()) {
            return;
        }
        findings.judged += 1;
        let is_blocked = |id: &&String| candidates.iter().all(|write| write.value.contains(*id));
        for id in listing.items.iter().map(|item| &item.id).filter(is_blocked) {
            let what = format!("{} showed {id} to {user}, who blocks it", operation.gateway);
            let writes = candidates.iter().map(|write| write.id).chain([operation.id]).collect();
            findings.add("blocked item shown", what, writes, Some(returned));
        }
    }

    fn taken_down(&self, operation: &Operation, id: &str, findings: &mut Findings) {
        let Some(writers) = self.shown.get(id) else { return };
        let returned = operation.returned_us.unwrap_or(u64::MAX);
        let (candidates, may_be_none) = writers.candidates(operation.called_us, returned);
        findings.judged += 1;
        if !may_be_none && candidates.iter().all(|write| write.value == Shown::No) {
            let what = format!("{} showed {id} at {}, which is taken down", operation.gateway, at(returned));
            let writes = candidates.iter().map(|write| write.id).chain([operation.id]).collect();
            findings.add("taken-down item shown", what, writes, Some(returned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, answer, blocks, consent, degraded, end, event, kinds};
    use super::*;
    use crate::history::Source;

    fn judged(tell: impl FnOnce(&mut Story)) -> Verdict {
        let mut story = Story::new();
        tell(&mut story);
        check(&story.history)
    }

    fn personal() -> Listing {
        answer(Source::Model, &["i1", "i2"])
    }

    fn item(call: fn(String) -> Call) -> Call {
        call("i1".to_owned())
    }

    #[test]
    fn an_answer_that_obeys_passes() {
        let verdict = judged(|story| {
            story
                .done((0, 5), consent(false))
                .done((0, 5), blocks(&["i9"]))
                .done((0, 5), item(|item| Call::TakeDown { item }));
            story.listing((6, 9), "u1", answer(Source::Popular, &["i2", "i3"]));
        });
        assert!(verdict.is_pass(), "{verdict}");
        assert!(matches!(judged(|story| end(story.listing((6, 9), "u1", personal()))), Verdict::NotApplicable { .. }));
    }

    #[test]
    fn a_personal_answer_after_an_acked_opt_out_fails_on_any_gateway() {
        let verdict =
            judged(|story| end(story.done((0, 5), consent(false)).by(2, 3).listing((6, 9), "u1", personal())));
        assert_eq!(kinds(&verdict), ["personal after opt-out"]);
    }

    #[test]
    fn an_answer_beside_the_opt_out_or_after_another_word_is_free() {
        let free: [fn(&mut Story); 4] = [
            |story| end(story.done((0, 5), consent(false)).listing((4, 9), "u1", personal())),
            |story| end(story.unknown((0, 5), consent(false)).listing((6, 9), "u1", personal())),
            |story| {
                end(story.done((0, 5), consent(false)).unknown((6, 9), consent(true)).listing(
                    (10, 11),
                    "u1",
                    personal(),
                ))
            },
            |story| {
                end(story.done((0, 5), consent(false)).done((3, 9), consent(true)).listing((10, 11), "u1", personal()))
            },
        ];
        for tell in free {
            assert!(!judged(tell).is_fail(), "{}", judged(tell));
        }
        let refused: fn(&mut Story) = |story| {
            end(story.done((0, 5), consent(false)).rejected((6, 9), consent(true)).listing((10, 11), "u1", personal()))
        };
        assert_eq!(kinds(&judged(refused)), ["personal after opt-out"]);
    }

    #[test]
    fn a_blocked_item_fails_unless_the_answer_says_that_it_could_not_know() {
        let block = |story: &mut Story| end(story.done((0, 5), blocks(&["i1"])));
        let shown = judged(|story| {
            block(story);
            story.by(2, 2).listing((6, 9), "u1", answer(Source::Popular, &["i1", "i2"]));
        });
        assert_eq!(kinds(&shown), ["blocked item shown"]);
        let unread = judged(|story| {
            block(story);
            story.listing((6, 9), "u1", degraded(answer(Source::Popular, &["i1"]), Missing::UserState, "users/0"));
        });
        assert!(!unread.is_fail(), "{unread}");
        let unblocked = judged(|story| {
            block(story);
            story.unknown((6, 7), blocks(&[])).listing((8, 9), "u1", personal());
        });
        assert!(!unblocked.is_fail(), "{unblocked}");
        let other = judged(|story| {
            block(story);
            story.unknown((6, 7), blocks(&["i1", "i2"])).listing((8, 9), "u1", personal());
        });
        assert_eq!(kinds(&other), ["blocked item shown"], "both lists have it");
    }

    #[test]
    fn a_taken_down_item_fails_until_it_may_be_shown_again() {
        let down = |story: &mut Story| end(story.done((0, 5), item(|item| Call::TakeDown { item })));
        let shown = judged(|story| {
            down(story);
            story.by(2, 2).listing((6, 9), "u2", answer(Source::Popular, &["i1"]));
        });
        assert_eq!(kinds(&shown), ["taken-down item shown"]);
        let read = judged(|story| {
            down(story);
            let seen = Answer::Item { title: String::new(), is_taken_down: false, events: 0 };
            story.call((6, 9), item(|item| Call::ReadItem { item }), Outcome::Ok(seen));
        });
        assert_eq!(kinds(&read), ["taken-down item shown"]);
        for back in [|item| Call::Restore { item }, |item| Call::DeleteItem { item }] {
            let verdict = judged(|story| {
                down(story);
                story.unknown((6, 7), item(back)).listing((8, 9), "u2", answer(Source::Popular, &["i1"]));
            });
            assert!(!verdict.is_fail(), "{verdict}");
        }
    }

    #[test]
    fn an_item_that_was_not_there_was_not_taken_down() {
        let verdict = judged(|story| {
            story.call((0, 5), item(|item| Call::TakeDown { item }), Outcome::Ok(Answer::Absent {}));
            story.listing((6, 9), "u2", answer(Source::Popular, &["i1"]));
        });
        assert!(!verdict.is_fail(), "{verdict}");
    }

    #[test]
    fn an_erased_user_is_a_stranger_until_the_next_event() {
        let erase = || Call::EraseUser { user: "u1".to_owned() };
        let erased = judged(|story| {
            story.unknown((0, 1), consent(true)).event((0, 2), "a", EventOutcome::Accepted, "").done((5, 6), erase());
            story.listing((7, 8), "u1", personal());
        });
        assert_eq!(kinds(&erased), ["personal after erasure"]);
        let again = judged(|story| {
            story.done((5, 6), erase()).unknown((6, 7), event("b")).listing((8, 9), "u1", personal());
        });
        assert!(!again.is_fail(), "{again}");
    }
}
