//! Mean rows: of a category (a new item's first vector, design.md section 7) and of the catalogue.
use crate::tree::Sum;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Sums of rows per category, to be added over virtual workers by [`crate::tree`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CategorySums {
    /// Per category: number of rows and their sum (`dim` values).
    pub sums: BTreeMap<Arc<str>, (u64, Vec<f64>)>,
}

impl CategorySums {
    /// Adds one item's row to each of its categories.
    pub fn push<'a>(&mut self, categories: impl IntoIterator<Item = &'a Arc<str>>, row: &[f32]) {
        for category in categories {
            let (count, sum) = self.sums.entry(category.clone()).or_insert_with(|| (0, vec![0.0; row.len()]));
            *count += 1;
            for (sum, &value) in sum.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
    }

    /// The mean rows of the `categories_max` categories with most items (ties by name), sorted by name.
    #[must_use]
    pub fn means(&self, categories_max: usize) -> Vec<(Arc<str>, u64, Vec<f32>)> {
        let mut order: Vec<_> = self.sums.iter().collect();
        order.sort_by_key(|(name, (count, _))| (std::cmp::Reverse(*count), (*name).clone()));
        order.truncate(categories_max);
        order.sort_by_key(|(name, _)| (*name).clone());
        let mean = |(count, sum): &(u64, Vec<f64>)| sum.iter().map(|sum| (sum / *count as f64) as f32).collect();
        order.into_iter().map(|(name, entry)| (name.clone(), entry.0, mean(entry))).collect()
    }
}

impl Sum for CategorySums {
    fn add(&mut self, right: Self) {
        for (category, (right_count, right_sum)) in right.sums {
            match self.sums.entry(category) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert((right_count, right_sum));
                }
                std::collections::btree_map::Entry::Occupied(mut occupied) => {
                    let (count, sum) = occupied.get_mut();
                    *count += right_count;
                    sum.add(right_sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_categorys_mean_is_over_its_items_on_all_workers() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (mut left, mut right) = (CategorySums::default(), CategorySums::default());
        left.push([&a, &b], &[1.0, 2.0]);
        right.push([&a], &[3.0, 4.0]);
        left.add(right);
        assert_eq!(left.means(9), vec![(a.clone(), 2, vec![2.0, 3.0]), (b, 1, vec![1.0, 2.0])]);
        assert_eq!(left.means(1), vec![(a, 2, vec![2.0, 3.0])]);
    }
}
