//! Full ranking: every item scored for every user, the best kept.
use crate::kernel::RankTask;
use crate::{Error, Kernel, parallel, shape};

/// Items laid out for scoring: `[block of 16][dim][16]`.
pub struct Items {
    dim: usize,
    total: usize,
    packed: Vec<f32>,
}

impl Items {
    /// Packs `rows` (each `dim` values).
    ///
    /// # Errors
    /// [`Error::Shape`] when the rows are not whole.
    pub fn new(dim: usize, rows: &[f32]) -> Result<Self, Error> {
        let dim = dim.max(1);
        let total = rows.len() / dim;
        shape("item rows", total * dim, rows.len())?;
        let mut packed = vec![0.0; total.next_multiple_of(16) * dim];
        for (item, row) in rows.chunks_exact(dim).enumerate() {
            let block = &mut packed[item / 16 * 16 * dim..][..16 * dim];
            for (k, &value) in row.iter().enumerate() {
                block[k * 16 + item % 16] = value;
            }
        }
        Ok(Self { dim, total, packed })
    }

    /// For each user (rows of `dim` values) the `n` items with the highest scores, best first, ties by lower index, leaving
    /// out the user's `seen` items (sorted). Shorter where fewer are left.
    ///
    /// # Errors
    /// [`Error::Shape`] when users and seen lists do not fit.
    pub fn rank(
        &self,
        kernel: Kernel,
        threads: usize,
        users: &[f32],
        seen: &[&[u32]],
        n: usize,
    ) -> Result<Vec<Vec<u32>>, Error> {
        shape("user rows", seen.len() * self.dim, users.len())?;
        const USERS_OF_TASK: usize = 128;
        let mut lists = vec![Vec::new(); seen.len()];
        let tasks = lists
            .chunks_mut(USERS_OF_TASK)
            .zip(users.chunks(USERS_OF_TASK * self.dim).zip(seen.chunks(USERS_OF_TASK)))
            .collect();
        parallel::for_each(
            threads,
            tasks,
            || (),
            |(), (lists, (users, seen)): (&mut [Vec<u32>], _)| {
                let task =
                    RankTask { dim: self.dim, users, items: &self.packed, items_total: self.total, seen, n: n.max(1) };
                for (list, ranked) in lists.iter_mut().zip(kernel.rank_users(&task)) {
                    *list = ranked;
                }
            },
        );
        Ok(lists)
    }
}

/// Scores of some of `rows` (each `dim` values) for one user: inner products, in the order of `items`.
///
/// # Errors
/// [`Error::Shape`] when the user or the rows do not fit, [`Error::Value`] for an item without a row.
pub fn scores(kernel: Kernel, dim: usize, rows: &[f32], user: &[f32], items: &[u32]) -> Result<Vec<f32>, Error> {
    shape("user row", dim, user.len())?;
    let score = |item: &u32| {
        let at = *item as usize * dim;
        rows.get(at..at + dim).map(|row| kernel.dot(user, row)).ok_or(Error::Value { what: "items" })
    };
    items.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_ranking_is_that_of_a_full_sort(
            dim in 1usize..20, items in prop::collection::vec(-3i8..3, 1..900), users in 1usize..7, n in 1usize..12,
            seen in prop::collection::btree_set(0u32..40, 0..20),
        ) {
            let total = items.len() / dim;
            let rows: Vec<f32> = items[..total * dim].iter().map(|&v| f32::from(v)).collect();
            let x: Vec<f32> = (0..users * dim).map(|v| (v % 5) as f32 - 2.0).collect();
            let seen: Vec<u32> = seen.into_iter().collect();
            let lists = Items::new(dim, &rows).unwrap()
                .rank(Kernel::detect(), 2, &x, &vec![&seen[..]; users], n).unwrap();
            for (list, x) in lists.iter().zip(x.chunks(dim)) {
                // Small whole numbers: every order of summation is exact.
                let score = |i: u32| rows[i as usize * dim..][..dim].iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
                let mut all: Vec<u32> = (0..total as u32).filter(|i| !seen.contains(i)).collect();
                all.sort_by(|a, b| score(*b).partial_cmp(&score(*a)).unwrap().then(a.cmp(b)));
                all.truncate(n);
                prop_assert_eq!(list, &all);
            }
        }
    }

    #[test]
    fn scores_are_inner_products_in_the_order_asked_for() {
        let rows = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let of = |user: &[f32], items: &[u32]| scores(Kernel::detect(), 2, &rows, user, items);
        assert_eq!(of(&[1.0, 10.0], &[2, 0]).unwrap(), [65.0, 21.0]);
        assert!(matches!(of(&[1.0], &[0]), Err(Error::Shape { .. })));
        assert!(matches!(of(&[1.0, 1.0], &[3]), Err(Error::Value { .. })));
    }
}
