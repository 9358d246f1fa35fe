//! Which write of a register may be the one that a read sees: the last before it, or any beside it.

/// A write of one key.
#[derive(Clone, Debug)]
pub(super) struct Write<T> {
    pub(super) id: u64,
    pub(super) called_us: u64,
    /// `None` where it is unknown: it may happen at any time after its call, or never.
    pub(super) acked_us: Option<u64>,
    pub(super) value: T,
}

/// All writes of one key.
#[derive(Clone, Debug)]
pub(super) struct Writers<T> {
    /// Acked ones, in the order of their acks.
    acked: Vec<Write<T>>,
    unknown: Vec<Write<T>>,
    /// The latest call among the acked ones up to each.
    latest_call: Vec<u64>,
    /// The earliest call among the acked ones from each on.
    earliest_call: Vec<u64>,
}

impl<T> Writers<T> {
    pub(super) fn new(writes: Vec<Write<T>>) -> Writers<T> {
        let (mut acked, unknown): (Vec<_>, Vec<_>) = writes.into_iter().partition(|write| write.acked_us.is_some());
        acked.sort_by_key(|write| write.acked_us);
        let newest = |latest: &mut u64, write: &Write<T>| {
            *latest = write.called_us.max(*latest);
            Some(*latest)
        };
        let latest_call = acked.iter().scan(0, newest).collect();
        let mut earliest = u64::MAX;
        let mut earliest_call: Vec<u64> = Vec::with_capacity(acked.len());
        for write in acked.iter().rev() {
            earliest = earliest.min(write.called_us);
            earliest_call.push(earliest);
        }
        earliest_call.reverse();
        Writers { acked, unknown, latest_call, earliest_call }
    }

    /// Everything that a read between these times may see as the last write, and whether it may see none at all.
    ///
    /// A write is out of the question when it was acked before the call of another that was acked before the read began.
    pub(super) fn candidates(&self, called_us: u64, returned_us: u64) -> (Vec<&Write<T>>, bool) {
        let before = self.acked.partition_point(|write| write.acked_us.is_some_and(|acked| acked < called_us));
        let newest_call = before.checked_sub(1).map(|place| self.latest_call[place]);
        let from = match newest_call {
            Some(call) => self.acked.partition_point(|write| write.acked_us.is_some_and(|acked| acked < call)),
            None => 0,
        };
        let ahead = (from..self.acked.len()).take_while(|place| self.earliest_call[*place] <= returned_us);
        let beside = ahead.map(|place| &self.acked[place]).chain(&self.unknown);
        (beside.filter(|write| write.called_us <= returned_us).collect(), newest_call.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(writes: &[(u64, Option<u64>)], from: u64, until: u64) -> (Vec<u64>, bool) {
        let write = |(id, (called_us, acked_us)): (usize, &(u64, Option<u64>))| Write {
            id: id as u64,
            called_us: *called_us,
            acked_us: *acked_us,
            value: (),
        };
        let writers = Writers::new(writes.iter().enumerate().map(write).collect());
        let (candidates, may_be_none) = writers.candidates(from, until);
        let mut ids: Vec<u64> = candidates.iter().map(|write| write.id).collect();
        ids.sort_unstable();
        (ids, may_be_none)
    }

    #[test]
    fn a_read_sees_the_last_write_or_one_beside_it_and_no_older_one() {
        let writes = [(0, Some(10)), (20, Some(30)), (40, Some(60)), (100, Some(110))];
        assert_eq!(seen(&writes, 35, 36), (vec![1], false));
        assert_eq!(seen(&writes, 35, 50), (vec![1, 2], false));
        assert_eq!(seen(&writes, 5, 6), (vec![0], true));
        assert_eq!(seen(&writes, 70, 90), (vec![2], false));
    }

    #[test]
    fn writes_beside_each_other_may_have_happened_in_either_order() {
        assert_eq!(seen(&[(0, Some(30)), (20, Some(25))], 40, 50), (vec![0, 1], false));
        assert_eq!(seen(&[(0, Some(30)), (31, Some(35))], 40, 50), (vec![1], false));
    }

    #[test]
    fn an_unknown_write_may_be_seen_for_ever_after() {
        assert_eq!(seen(&[(0, None), (20, Some(30))], 1_000, 1_001), (vec![0, 1], false));
        assert_eq!(seen(&[(50, None)], 40, 45), (vec![], true));
    }
}
