//! What can be seen of an answer by itself: its version, order, length, scores, and the true answer where it is known.

use super::super::Findings;
use crate::history::{Call, History, Listing, Observed, Operation, Scored, Source};
use std::collections::{BTreeMap, BTreeSet};

/// What answers are held against.
pub(super) struct Form<'a> {
    /// Lowest and highest score of a version.
    ranges: BTreeMap<u64, (f32, f32)>,
    /// Items that a user may have seen or blocked at some time.
    touched: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Items that may have been taken down or removed at some time.
    gone: BTreeSet<&'a str>,
}

impl<'a> Form<'a> {
    pub(super) fn of(history: &'a History) -> Form<'a> {
        let mut form = Form { ranges: BTreeMap::new(), touched: BTreeMap::new(), gone: BTreeSet::new() };
        for sighting in &history.observed {
            if let Observed::ScoreRange { version, min, max } = &sighting.what {
                form.ranges.insert(*version, (*min, *max));
            }
        }
        for operation in &history.operations {
            match &operation.call {
                Call::Event { user, item, .. } => drop(form.touched.entry(user).or_default().insert(item)),
                Call::SetBlocks { user, items } => {
                    form.touched.entry(user).or_default().extend(items.iter().map(String::as_str));
                }
                Call::TakeDown { item } | Call::DeleteItem { item } => drop(form.gone.insert(item)),
                _ => {}
            }
        }
        form
    }

    pub(super) fn judge(&self, operation: &Operation, findings: &mut Findings) {
        let Some(listing) = operation.listing() else { return };
        let mut tell = |kind: &str, what: String| findings.add(kind, what, vec![operation.id], operation.returned_us);
        let gateway = operation.gateway;
        if listing.version.is_none() {
            tell("no version", format!("an answer of {gateway} does not say of which version it is"));
        }
        let ids: BTreeSet<&str> = listing.items.iter().map(|item| item.id.as_str()).collect();
        if ids.len() < listing.items.len() {
            tell("repeated item", format!("an answer of {gateway} has an item twice"));
        }
        if let Some((before, after)) = out_of_order(&listing.items) {
            let what = format!("{} ({}) comes before {} ({})", before.id, before.score, after.id, after.score);
            tell("out of order", what);
        }
        let (n, excluded) = asked(&operation.call);
        if listing.items.len() > n {
            tell("too many items", format!("{} items where {n} were asked for", listing.items.len()));
        }
        if let Some(shown) = excluded.and_then(|excluded| excluded.iter().find(|id| ids.contains(id.as_str()))) {
            tell("excluded item shown", format!("{shown} was excluded by the query"));
        }
        if let Some(least) = self.least(operation, listing).filter(|least| listing.items.len() < n.min(*least)) {
            let what =
                format!("{} items where {n} were asked for and at least {least} are allowed", listing.items.len());
            tell("too few items", what);
        }
        if let Some(item) = self.mixed(listing) {
            let version = listing.version.unwrap_or_default();
            tell(
                "mixed versions",
                format!("{} has the score {}, which version {version} cannot give", item.id, item.score),
            );
        }
        if let Some(oracle) = listing.oracle.as_ref().filter(|_| listing.is_full())
            && let Some(what) = difference(&listing.items, oracle)
        {
            tell("not the best", what);
        }
    }

    /// An item that the answer's version cannot have scored so.
    fn mixed<'l>(&self, listing: &'l Listing) -> Option<&'l Scored> {
        let (min, max) = self.ranges.get(&listing.version?)?;
        let is_of_model = |item: &&Scored| item.source != Source::Popular;
        listing.items.iter().filter(is_of_model).find(|item| !(*min..=*max).contains(&item.score))
    }

    /// How many items an answer that saw everything can surely have; `None` where that is not known.
    fn least(&self, operation: &Operation, listing: &Listing) -> Option<usize> {
        let held = usize::try_from(listing.coverage.as_ref().filter(|_| listing.is_full())?.items).ok()?;
        let (_, excluded) = asked(&operation.call);
        let touched = match &operation.call {
            Call::Recommend { user, .. } => self.touched.get(user.as_str()).map_or(0, BTreeSet::len),
            Call::Popular { .. } => 0,
            _ => return None,
        };
        Some(held.saturating_sub(touched + self.gone.len() + excluded.map_or(0, BTreeSet::len)))
    }
}

/// How many items were asked for, and without which.
fn asked(call: &Call) -> (usize, Option<&BTreeSet<String>>) {
    match call {
        Call::Recommend { n, exclude, .. } => (*n as usize, Some(exclude)),
        Call::Similar { n, .. } | Call::Popular { n } => (*n as usize, None),
        _ => (usize::MAX, None),
    }
}

/// Neighbours of one source that stand the wrong way round: score descending, then id ascending.
fn out_of_order(items: &[Scored]) -> Option<(&Scored, &Scored)> {
    let is_wrong = |before: &Scored, after: &Scored| {
        before.source == after.source
            && (after.score > before.score
                || (after.score == before.score && after.id < before.id)
                || before.score.is_nan())
    };
    items.windows(2).find_map(|pair| is_wrong(&pair[0], &pair[1]).then_some((&pair[0], &pair[1])))
}

/// Where an answer differs from the true one: ids, and scores to the bit.
fn difference(items: &[Scored], oracle: &[Scored]) -> Option<String> {
    if items.len() != oracle.len() {
        return Some(format!("{} items; by brute force {}", items.len(), oracle.len()));
    }
    let is_other =
        |(item, truth): &(&Scored, &Scored)| item.id != truth.id || item.score.to_bits() != truth.score.to_bits();
    let (place, (item, truth)) = items.iter().zip(oracle).enumerate().find(|(_, pair)| is_other(pair))?;
    Some(format!("at place {place} {} ({}); by brute force {} ({})", item.id, item.score, truth.id, truth.score))
}
