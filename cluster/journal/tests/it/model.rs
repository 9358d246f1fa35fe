//! Random calls, random crashes: what was answered `Ok` is there after every reopening, in each group's own order.

use std::collections::BTreeMap;

use bytes::Bytes;
use crossbeam::channel::Receiver;
use docent_journal::{Entry, Error, Journal};
use docent_runtime::disk::{Crash, MemDisk};
use proptest::prelude::*;

use crate::{open, waiting};

const GROUPS: u64 = 4;

#[derive(Debug, Clone)]
enum Step {
    Append { group: u64, entries: usize, payload_bytes: usize },
    Vote { group: u64 },
    Committed { group: u64, is_waited: bool },
    Truncate { group: u64, back: u64 },
    Purge { group: u64, keep: u64 },
    Remove { group: u64 },
    WaitForAll,
    Crash(Crash),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    prop_oneof![
        12 => (group.clone(), 1usize..12, 0usize..600)
            .prop_map(|(group, entries, payload_bytes)| Step::Append { group, entries, payload_bytes }),
        4 => group.clone().prop_map(|group| Step::Vote { group }),
        4 => (group.clone(), any::<bool>()).prop_map(|(group, is_waited)| Step::Committed { group, is_waited }),
        3 => (group.clone(), 0u64..8).prop_map(|(group, back)| Step::Truncate { group, back }),
        5 => (group.clone(), 0u64..8).prop_map(|(group, keep)| Step::Purge { group, keep }),
        1 => group.prop_map(|group| Step::Remove { group }),
        3 => Just(Step::WaitForAll),
        1 => Just(Step::Crash(Crash::KillProcess)),
        1 => Just(Step::Crash(Crash::DropUnsynced)),
        2 => any::<u64>().prop_map(|seed| Step::Crash(Crash::Tear(seed))),
        1 => Just(Step::Close),
    ]
}

/// A group as the model has it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Group {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    entries: BTreeMap<u64, Entry>,
}

impl Group {
    fn of(journal: &Journal, id: u64) -> Self {
        let log = journal.group(id);
        let state = log.state();
        assert_eq!(state.quarantined, None, "group {id}");
        let entries = match (state.first, state.last) {
            (Some(first), Some((last, term))) => {
                let entries = log.read(first..last + 1).unwrap();
                assert_eq!(entries.last().unwrap().term, term);
                entries
            }
            _ => Vec::new(),
        };
        Self {
            vote: state.vote,
            committed: state.committed,
            purged: state.purged.map(|purged| (purged.index, purged.marker)),
            entries: entries.into_iter().map(|entry| (entry.index, entry)).collect(),
        }
    }

    fn end(&self) -> u64 {
        let purged = self.purged.as_ref().map_or(1, |(index, _)| index + 1);
        self.entries.keys().next_back().map_or(purged, |last| last + 1)
    }
}

/// All states a group went through since the last opening, with the answer that makes each binding.
struct History(Vec<(Group, Option<Answer>)>);

type Answer = Receiver<Result<(), Error>>;

struct Run {
    disk: MemDisk,
    journal: Journal,
    groups: Vec<History>,
    unique: u64,
}

impl Run {
    fn new() -> Self {
        let disk = MemDisk::new();
        let journal = open(&disk);
        let groups = (0..GROUPS).map(|_| History(vec![(Group::default(), None)])).collect();
        Self { disk, journal, groups, unique: 0 }
    }

    fn unique(&mut self, bytes: usize) -> Bytes {
        self.unique += 1;
        let seed = self.unique.to_le_bytes();
        seed.iter().copied().cycle().take(bytes.max(8)).collect()
    }

    fn now(&self, group: u64) -> Group {
        self.groups[group as usize].0.last().unwrap().0.clone()
    }

    fn then(&mut self, group: u64, state: Group, answer: Option<Answer>) {
        self.groups[group as usize].0.push((state, answer));
    }

    fn take(&mut self, step: &Step) {
        let (done, answer) = waiting();
        match *step {
            Step::Append { group, entries, payload_bytes } => {
                let mut state = self.now(group);
                let from = state.end();
                let run: Vec<Entry> = (from..from + entries as u64)
                    .map(|index| Entry { index, term: self.unique + 1, payload: self.unique(payload_bytes) })
                    .collect();
                let mut answer = Some(answer);
                for (left, entry) in (0..run.len()).rev().zip(&run) {
                    // Unanswered, a crash may keep any first part of it.
                    state.entries.insert(entry.index, entry.clone());
                    let answer = if left == 0 { answer.take() } else { None };
                    self.then(group, state.clone(), answer);
                }
                self.journal.group(group).append(run, done);
            }
            Step::Vote { group } => {
                let vote = self.unique(20);
                self.journal.group(group).save_vote(vote.clone(), done);
                self.then(group, Group { vote: Some(vote), ..self.now(group) }, Some(answer));
            }
            Step::Committed { group, is_waited } => {
                let committed = self.unique(20);
                self.journal.group(group).save_committed(committed.clone(), is_waited.then_some(done));
                let state = Group { committed: Some(committed), ..self.now(group) };
                self.then(group, state, is_waited.then_some(answer));
            }
            Step::Truncate { group, back } => {
                let mut state = self.now(group);
                let purged = state.purged.as_ref().map_or(0, |(index, _)| *index);
                let keep = state.end().saturating_sub(1 + back).max(purged);
                state.entries.split_off(&(keep + 1));
                self.journal.group(group).truncate_after(keep, done);
                self.then(group, state, Some(answer));
            }
            Step::Purge { group, keep } => {
                let mut state = self.now(group);
                let purged = state.purged.as_ref().map_or(0, |(index, _)| *index);
                let through = state.end().saturating_sub(1 + keep).max(purged);
                let marker = self.unique(10);
                state.entries = state.entries.split_off(&(through + 1));
                state.purged = Some((through, marker.clone()));
                self.journal.group(group).purge_to(through, marker, done);
                self.then(group, state, Some(answer));
            }
            Step::Remove { group } => {
                self.journal.remove_group(group, done);
                self.then(group, Group::default(), Some(answer));
            }
            Step::WaitForAll => self.wait_for_all(),
            Step::Crash(crash) => {
                self.disk.crash(crash);
                self.reopen();
            }
            Step::Close => {
                self.journal.close();
                let before: Vec<Group> = (0..GROUPS).map(|group| self.now(group)).collect();
                self.reopen();
                for (group, before) in (0..GROUPS).zip(before) {
                    assert_eq!(self.now(group), before, "an orderly end loses nothing");
                }
            }
        }
    }

    fn wait_for_all(&mut self) {
        for History(states) in &mut self.groups {
            for answer in states.iter().filter_map(|(_, answer)| answer.as_ref()) {
                answer.recv().unwrap().unwrap();
            }
            // The last answered state is binding now; those before it can no longer be found.
            let bound = states.iter().rposition(|(_, answer)| answer.is_some()).unwrap_or(0);
            states.drain(..bound);
            states[0].1 = None;
        }
    }

    /// Every group must be in a state it went through, not before the last one that was answered.
    fn reopen(&mut self) {
        self.journal.close();
        self.journal = open(&self.disk);
        for (id, History(states)) in (0..GROUPS).zip(&mut self.groups) {
            let is_kept =
                |answer: &Option<Answer>| matches!(answer, Some(answer) if matches!(answer.recv(), Ok(Ok(()))));
            let bound = states.iter().rposition(|(_, answer)| is_kept(answer)).unwrap_or(0);
            let found = Group::of(&self.journal, id);
            assert!(
                states[bound..].iter().any(|(state, _)| *state == found),
                "group {id} lost something answered, or mixes two states:\nfound {found:?}\nwant at least {:?}",
                states[bound].0
            );
            *states = vec![(found, None)];
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_answered_is_there_after_any_crash(steps in prop::collection::vec(step(), 1..80)) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
            if let Step::Append { group, .. } = step {
                prop_assert_eq!(Group::of(&run.journal, *group), run.now(*group), "visible at once");
            }
        }
        run.take(&Step::Crash(Crash::DropUnsynced));
    }
}
