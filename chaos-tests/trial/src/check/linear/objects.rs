//! The objects of a history and what was done with each.

use super::search::Entry;
use crate::history::{Answer, Call, Consent, EventOutcome, History, Operation, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// A sequential object.
pub(super) trait Object {
    type State: Clone + Ord;
    type Action: PartialEq;
    fn start(&self) -> Self::State;
    /// The state after, or `None` where this cannot happen in it.
    fn step(&self, state: &Self::State, action: &Self::Action) -> Option<Self::State>;
    /// Whether it never changes the state.
    fn is_read(&self, action: &Self::Action) -> bool;
}

/// A value that is replaced as a whole; an erasure writes what was there at first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Register<V>(std::marker::PhantomData<V>);

/// What is done with a register.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Access<V> {
    Write(V),
    Read(V),
}

impl<V: Clone + Ord + Default> Object for Register<V> {
    type State = V;
    type Action = Access<V>;

    fn start(&self) -> V {
        V::default()
    }

    fn step(&self, state: &V, action: &Access<V>) -> Option<V> {
        match action {
            Access::Write(value) => Some(value.clone()),
            Access::Read(value) => (value == state).then(|| state.clone()),
        }
    }

    fn is_read(&self, action: &Access<V>) -> bool {
        matches!(action, Access::Read(_))
    }
}

/// How many events of a user are kept, each of them once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter;

/// What is done with it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tally {
    /// An event that was sent once.
    Once,
    /// A try of an event that was sent more than once; `is_new` where it was called new.
    Try { event: usize, is_new: bool },
    /// The count.
    Read(u64),
    /// The user was erased.
    Erase,
}

impl Object for Counter {
    /// How many, and which of those that were sent more than once.
    type State = (u64, BTreeSet<usize>);
    type Action = Tally;

    fn start(&self) -> Self::State {
        (0, BTreeSet::new())
    }

    fn step(&self, (count, kept): &Self::State, action: &Tally) -> Option<Self::State> {
        match action {
            Tally::Once => Some((count + 1, kept.clone())),
            Tally::Try { event, is_new } => match (kept.contains(event), is_new) {
                (true, true) => None,
                (true, false) => Some((*count, kept.clone())),
                (false, _) => {
                    let mut kept = kept.clone();
                    kept.insert(*event);
                    Some((count + 1, kept))
                }
            },
            Tally::Read(said) => (said == count).then(|| (*count, kept.clone())),
            Tally::Erase => Some(self.start()),
        }
    }

    fn is_read(&self, action: &Tally) -> bool {
        matches!(action, Tally::Read(_))
    }
}

/// Everything that was done with one object.
pub(super) enum Question {
    Consent(Vec<Entry<Access<Consent>>>),
    Blocks(Vec<Entry<Access<BTreeSet<String>>>>),
    Profile(Vec<Entry<Access<BTreeMap<String, String>>>>),
    Count(Vec<Entry<Tally>>),
}

/// A call that may have happened, as an entry.
fn entry<A>(operation: &Operation, action: A) -> Entry<A> {
    Entry { id: operation.id, called_us: operation.called_us, returned_us: operation.acked_us(), action }
}

/// Objects that were read at least once, by name, with all that was done with them. What was surely refused is left out, and so are reads
/// without an answer.
pub(super) fn questions(history: &History) -> Vec<(String, Question)> {
    let mut users: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        let is_refused = matches!(operation.outcome, Outcome::Rejected(_));
        let is_unread = operation.call.is_read() && operation.acked_us().is_none();
        if let Some(user) = operation.call.user().filter(|_| !is_refused && !is_unread) {
            users.entry(user).or_default().push(operation);
        }
    }
    let mut questions = Vec::new();
    for (user, operations) in users {
        let consent = pruned(operations.iter().filter_map(|operation| consent(operation)).collect());
        let blocks = pruned(operations.iter().filter_map(|operation| blocks(operation)).collect());
        let profile = pruned(operations.iter().filter_map(|operation| profile(operation)).collect());
        let each = [
            consent.map(|entries| ("consent", Question::Consent(entries))),
            blocks.map(|entries| ("blocks", Question::Blocks(entries))),
            profile.map(|entries| ("profile", Question::Profile(entries))),
            counted(&operations).map(|entries| ("events", Question::Count(entries))),
        ];
        questions.extend(each.into_iter().flatten().map(|(what, question)| (format!("{what} of {user}"), question)));
    }
    questions
}

fn consent(operation: &Operation) -> Option<Entry<Access<Consent>>> {
    let access = match (&operation.call, operation.answer()) {
        (Call::SetConsent { consent, .. }, _) => Access::Write(*consent),
        (Call::EraseUser { .. }, _) => Access::Write(Consent::default()),
        (_, Some(Answer::Consent(consent) | Answer::User { consent, .. })) => Access::Read(*consent),
        (Call::ReadConsent { .. } | Call::ReadUser { .. }, Some(Answer::Absent {})) => Access::Read(Consent::default()),
        _ => return None,
    };
    Some(entry(operation, access))
}

fn blocks(operation: &Operation) -> Option<Entry<Access<BTreeSet<String>>>> {
    let access = match (&operation.call, operation.answer()) {
        (Call::SetBlocks { items, .. }, _) => Access::Write(items.clone()),
        (Call::EraseUser { .. }, _) => Access::Write(BTreeSet::new()),
        (_, Some(Answer::Blocks(blocks) | Answer::User { blocks, .. })) => Access::Read(blocks.clone()),
        (Call::ReadBlocks { .. } | Call::ReadUser { .. }, Some(Answer::Absent {})) => Access::Read(BTreeSet::new()),
        _ => return None,
    };
    Some(entry(operation, access))
}

fn profile(operation: &Operation) -> Option<Entry<Access<BTreeMap<String, String>>>> {
    let access = match (&operation.call, operation.answer()) {
        (Call::PutUser { attributes, .. }, _) => Access::Write(attributes.clone()),
        (Call::EraseUser { .. }, _) => Access::Write(BTreeMap::new()),
        (_, Some(Answer::User { attributes, .. })) => Access::Read(attributes.clone()),
        (Call::ReadUser { .. }, Some(Answer::Absent {})) => Access::Read(BTreeMap::new()),
        _ => return None,
    };
    Some(entry(operation, access))
}

/// `None` where nothing was read. An unknown write whose value nobody read is left out: without it every order is as good.
fn pruned<V: Ord + Clone>(entries: Vec<Entry<Access<V>>>) -> Option<Vec<Entry<Access<V>>>> {
    let read: BTreeSet<V> = entries
        .iter()
        .filter_map(|entry| match &entry.action {
            Access::Read(value) => Some(value.clone()),
            Access::Write(_) => None,
        })
        .collect();
    let is_wanted = |entry: &Entry<Access<V>>| match &entry.action {
        Access::Write(value) => entry.returned_us.is_some() || read.contains(value),
        Access::Read(_) => true,
    };
    (!read.is_empty()).then(|| entries.into_iter().filter(is_wanted).collect())
}

/// `None` where nothing was counted.
fn counted(operations: &[&Operation]) -> Option<Vec<Entry<Tally>>> {
    let mut tries: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for operation in operations {
        if let Call::Event { event_id, .. } = &operation.call {
            let fresh = tries.len();
            tries.entry(event_id).or_insert((fresh, 0)).1 += 1;
        }
    }
    let tally = |operation: &&Operation| match (&operation.call, operation.answer()) {
        (_, Some(Answer::Event { outcome: EventOutcome::NotCollected, .. })) => None,
        (Call::Event { event_id, .. }, answer) => {
            let (event, count) = tries.get(event_id.as_str()).copied().unwrap_or_default();
            let is_new = matches!(answer, Some(Answer::Event { outcome: EventOutcome::Accepted, .. }));
            Some(if count == 1 { Tally::Once } else { Tally::Try { event, is_new } })
        }
        (Call::EraseUser { .. }, _) => Some(Tally::Erase),
        (_, Some(Answer::User { events, .. })) => Some(Tally::Read(*events)),
        (Call::ReadUser { .. }, Some(Answer::Absent {})) => Some(Tally::Read(0)),
        _ => None,
    };
    let entries: Vec<Entry<Tally>> =
        operations.iter().filter_map(|operation| Some(entry(operation, tally(operation)?))).collect();
    entries.iter().any(|entry| matches!(entry.action, Tally::Read(_))).then_some(entries)
}
