//! What an operator's order gave up: of a shard that went on from one survivor, all that was acked beyond the end of its log.

use crate::history::{History, Observed, Operation};
use crate::name::{Group, Position};

/// The recoveries of a run.
#[derive(Debug)]
pub(super) struct Recoveries(Vec<(Group, u64, u64)>);

impl Recoveries {
    pub(super) fn of(history: &History) -> Recoveries {
        let recovered = history.observed.iter().filter_map(|sighting| match sighting.what {
            Observed::Recovered { shard, last } => Some((shard, last, sighting.at_us)),
            _ => None,
        });
        Recoveries(recovered.collect())
    }

    /// Whether a write that was acked at `position` is one of those that an order said are lost. While a shard has no majority nothing is
    /// acked, so that a write is of the time before or of the time after.
    pub(super) fn has_lost(&self, write: &Operation, position: Position) -> bool {
        let is_before = |at_us: u64| write.returned_us.is_some_and(|returned| returned <= at_us);
        self.0
            .iter()
            .any(|(shard, last, at_us)| *shard == position.group && position.index > *last && is_before(*at_us))
    }
}
