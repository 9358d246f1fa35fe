//! Pure: a shard's share of a batch as proposals of a bounded size. Raft refuses a proposal above its `payload_bytes_max` (4 MiB), and a
//! valid request may hold 8 MiB for one shard.

use docent_types::{codec, limits};
use serde::Serialize;

/// Bytes of one encoded proposal: half of what raft takes, so that one does not fill its queues.
pub(crate) const PROPOSAL_BYTES_MAX: usize = 2 << 20;
/// Bytes of a command besides its values: version, tags, tenant, lengths and clocks take less than 128.
const COMMAND_BYTES: usize = 1 << 10;

/// `values` in order, in parts that each fit one proposal. A value that alone is larger (none that passed validation) is a part by itself.
pub(crate) fn split<T: Serialize>(values: Vec<T>) -> Vec<Vec<T>> {
    let bytes_max = PROPOSAL_BYTES_MAX - COMMAND_BYTES;
    if values.len() <= limits::BATCH_MAX && codec::encode(&values).len() <= bytes_max {
        return if values.is_empty() { Vec::new() } else { vec![values] };
    }
    let (mut parts, mut part, mut part_bytes) = (Vec::new(), Vec::new(), 0);
    for value in values {
        let bytes = codec::encode(&value).len();
        if !part.is_empty() && (part_bytes + bytes > bytes_max || part.len() == limits::BATCH_MAX) {
            parts.push(std::mem::take(&mut part));
            part_bytes = 0;
        }
        part_bytes += bytes;
        part.push(value);
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::command::ItemCommand;
    use docent_types::{ItemId, TenantId};
    use proptest::prelude::*;

    #[test]
    fn ten_thousand_of_the_longest_ids_fit_their_proposals() {
        let ids: Vec<ItemId> = (0..10_000).map(|i| ItemId::new(format!("{i:0>256}")).unwrap()).collect();
        let tenant = TenantId::default();
        let parts = split(ids.clone());
        assert_eq!(parts.len(), 2);
        for part in &parts {
            let command = ItemCommand::Ensure { tenant: tenant.clone(), item_ids: part.clone() };
            assert!(codec::encode(&command).len() <= PROPOSAL_BYTES_MAX);
        }
        assert_eq!(parts.concat(), ids);
    }

    #[test]
    fn small_batches_stay_whole_and_empty_ones_are_nothing() {
        assert_eq!(split(vec![1, 2, 3]), [[1, 2, 3]]);
        assert!(split(Vec::<u32>::new()).is_empty());
        assert_eq!(split(vec![0u8; limits::BATCH_MAX + 1]).iter().map(Vec::len).collect::<Vec<_>>(), [10_000, 1]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_part_is_too_large_and_the_order_stays(sizes in proptest::collection::vec(0usize..900_000, 0..12)) {
            let values: Vec<String> = sizes.iter().map(|size| "x".repeat(*size)).collect();
            let parts = split(values.clone());
            prop_assert!(parts.iter().all(|part| !part.is_empty() && codec::encode(part).len() <= PROPOSAL_BYTES_MAX));
            prop_assert_eq!(parts.concat(), values);
        }
    }
}
