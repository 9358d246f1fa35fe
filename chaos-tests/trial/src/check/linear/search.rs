//! The search for an order: just-in-time linearization (Lowe 2017, "Testing for linearizability", section 4; after Wing and Gong 1993),
//! breadth first, with every configuration kept once.
//!
//! A configuration is the state of the object, the calls in progress that have happened already, and the unknown ones that did. Nothing is
//! ordered before it must be: when a call returns, every configuration in which it has not happened is extended by orders of what is in
//! progress that end with it. Unknown calls are in progress for ever; to have used fewer of them is never worse, so configurations that used
//! more for the same are dropped.

use super::objects::Object;
use std::collections::{BTreeMap, BTreeSet};

/// A call of one object.
#[derive(Clone, Debug)]
pub(super) struct Entry<A> {
    pub(super) id: u64,
    pub(super) called_us: u64,
    /// `None` where it may happen at any time after its call, or never.
    pub(super) returned_us: Option<u64>,
    pub(super) action: A,
}

/// What came of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is an order.
    Linear,
    /// There is none: nothing explains this entry, by its place.
    Broken(usize),
    /// The steps were used up.
    GaveUp,
}

/// What happened of the calls in progress: those that will return, and the unknown ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Happened {
    returning: BTreeSet<usize>,
    unknown: BTreeSet<usize>,
}

/// Configurations: for each state and set of returning calls the smallest sets of unknown ones.
struct Frontier<S> {
    configurations: BTreeMap<(S, BTreeSet<usize>), Vec<BTreeSet<usize>>>,
}

impl<S: Clone + Ord> Frontier<S> {
    fn new() -> Frontier<S> {
        Frontier { configurations: BTreeMap::new() }
    }

    /// Adds one unless a better one is there. Whether it was added.
    fn add(&mut self, state: S, happened: Happened) -> bool {
        let kept = self.configurations.entry((state, happened.returning)).or_default();
        if kept.iter().any(|one| one.is_subset(&happened.unknown)) {
            return false;
        }
        kept.retain(|one| !happened.unknown.is_subset(one));
        kept.push(happened.unknown);
        true
    }

    fn into_each(self) -> impl Iterator<Item = (S, Happened)> {
        self.configurations.into_iter().flat_map(|((state, returning), unknowns)| {
            unknowns.into_iter().map(move |unknown| (state.clone(), Happened { returning: returning.clone(), unknown }))
        })
    }
}

/// Looks for an order of `entries` that `object` could have. Takes from `steps_left`.
pub(super) fn search<O: Object>(object: &O, entries: &[Entry<O::Action>], steps_left: &mut u64) -> Found {
    // Calls before returns of the same moment: they may have been beside each other.
    let calls = entries.iter().enumerate().map(|(place, entry)| (entry.called_us, false, place));
    let returns = entries.iter().enumerate().filter_map(|(place, entry)| Some((entry.returned_us?, true, place)));
    let mut moments: Vec<(u64, bool, usize)> = calls.chain(returns).collect();
    moments.sort_unstable();
    let mut frontier = Frontier::new();
    frontier.add(object.start(), Happened::default());
    let mut open = Open::default();
    for (_, is_return, place) in moments {
        if !is_return {
            open.begin(place, entries);
            continue;
        }
        let mut next = Frontier::new();
        let mut tried = Frontier::new();
        for (state, mut happened) in frontier.into_each() {
            if happened.returning.remove(&place) {
                next.add(state, happened);
                continue;
            }
            if !extend(object, entries, &open, place, (state, happened), &mut tried, &mut next, steps_left) {
                return Found::GaveUp;
            }
        }
        open.returning.remove(&place);
        if next.configurations.is_empty() {
            return Found::Broken(place);
        }
        frontier = next;
    }
    Found::Linear
}

/// Calls in progress.
#[derive(Default)]
struct Open {
    returning: BTreeSet<usize>,
    /// Unknown ones; of those that do the same, in one list, the first is used first.
    unknown: Vec<Vec<usize>>,
}

impl Open {
    fn begin<A: PartialEq>(&mut self, place: usize, entries: &[Entry<A>]) {
        if entries[place].returned_us.is_some() {
            self.returning.insert(place);
            return;
        }
        let same = self.unknown.iter_mut().find(|same| entries[same[0]].action == entries[place].action);
        match same {
            Some(same) => same.push(place),
            None => self.unknown.push(vec![place]),
        }
    }

    /// What may happen next.
    fn choices(&self, happened: &Happened) -> Vec<usize> {
        let returning = self.returning.difference(&happened.returning).copied();
        let first_unused = |same: &Vec<usize>| same.iter().find(|place| !happened.unknown.contains(place)).copied();
        returning.chain(self.unknown.iter().filter_map(first_unused)).collect()
    }
}

/// Every way from a configuration to one in which `place` happened. False where the steps are used up.
#[expect(clippy::too_many_arguments, reason = "the parts of one loop, split so that each can be read")]
fn extend<O: Object>(
    object: &O,
    entries: &[Entry<O::Action>],
    open: &Open,
    place: usize,
    from: (O::State, Happened),
    tried: &mut Frontier<O::State>,
    next: &mut Frontier<O::State>,
    steps_left: &mut u64,
) -> bool {
    let mut stack = vec![from];
    while let Some((state, happened)) = stack.pop() {
        for choice in open.choices(&happened) {
            if *steps_left == 0 {
                return false;
            }
            *steps_left -= 1;
            let Some(after) = object.step(&state, &entries[choice].action) else { continue };
            let mut happened = happened.clone();
            if choice == place {
                next.add(after, happened);
                continue;
            }
            if entries[choice].returned_us.is_some() {
                happened.returning.insert(choice);
            } else if after == state {
                continue; // an unknown call that changes nothing helps nobody
            } else {
                happened.unknown.insert(choice);
            }
            if tried.add(after.clone(), happened.clone()) {
                stack.push((after, happened));
            }
        }
    }
    true
}
