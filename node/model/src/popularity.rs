//! The baseline every model must beat: items by their number of positives.

/// The `n` items with the highest counts, best first, ties by lower index; items in `excluded` (sorted) are left out.
#[must_use]
pub fn top(counts: &[u64], excluded: &[u32], n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..counts.len() as u32).filter(|item| excluded.binary_search(item).is_err()).collect();
    let key = |item: &u32| (std::cmp::Reverse(counts[*item as usize]), *item);
    if n < order.len() {
        order.select_nth_unstable_by_key(n, key);
        order.truncate(n);
    }
    order.sort_unstable_by_key(key);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_come_first_and_ties_go_by_index() {
        assert_eq!(top(&[1, 5, 5, 0, 9], &[4], 3), [1, 2, 0]);
        assert_eq!(top(&[1, 5], &[], 9), [1, 0]);
    }
}
