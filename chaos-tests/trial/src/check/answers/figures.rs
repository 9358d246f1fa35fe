//! Availability and latency, for each kind of fault that lasted meanwhile.

use super::super::{Span, spans};
use super::is_failure;
use crate::fault::Kind;
use crate::history::{History, Operation};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Queries while a kind of fault lasted; a query beside two counts for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassFigures {
    /// The fault; `None` for none at all.
    pub kind: Option<Kind>,
    /// Queries through gateways that lived.
    pub queries: u64,
    /// Those without an answer.
    pub failed: u64,
    /// Answers that said that something was missing.
    pub degraded: u64,
    /// Half of the answers took at most this; microseconds.
    pub p50_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// All.
    pub max_us: u64,
}

#[derive(Default)]
struct Class {
    failed: u64,
    degraded: u64,
    took_us: Vec<u64>,
}

/// The figures of every kind of fault of a history, without any first.
pub fn classes(history: &History) -> Vec<ClassFigures> {
    let spans = spans(history);
    let mut classes: BTreeMap<Option<Kind>, Class> = BTreeMap::new();
    for operation in history.operations.iter().filter(|operation| operation.call.is_query()) {
        for kind in kinds(operation, &spans) {
            let class = classes.entry(kind).or_default();
            match (operation.listing(), operation.took_us()) {
                (Some(listing), Some(took_us)) => {
                    class.took_us.push(took_us);
                    class.degraded += u64::from(!listing.is_full());
                }
                _ => class.failed += u64::from(is_failure(operation, &spans)),
            }
        }
    }
    classes.into_iter().map(|(kind, class)| figures(kind, class)).collect()
}

fn kinds(operation: &Operation, spans: &[Span]) -> Vec<Option<Kind>> {
    let until = operation.returned_us.unwrap_or(operation.called_us);
    let mut kinds: Vec<Option<Kind>> = spans
        .iter()
        .filter(|span| span.touches(operation.called_us, until))
        .map(|span| Some(span.fault.kind()))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() { vec![None] } else { kinds }
}

fn figures(kind: Option<Kind>, mut class: Class) -> ClassFigures {
    class.took_us.sort_unstable();
    let count = class.took_us.len();
    // Nearest rank: the smallest with so many of 100 at or below it.
    let percentile =
        |percent: usize| class.took_us.get((count * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(0);
    ClassFigures {
        kind,
        queries: count as u64 + class.failed,
        failed: class.failed,
        degraded: class.degraded,
        p50_us: percentile(50),
        p99_us: percentile(99),
        max_us: percentile(100),
    }
}
