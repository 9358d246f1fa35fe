//! Sums over virtual workers in one fixed order, wherever the workers run.
//!
//! Floating point addition is not associative, so sums per *node* would differ with the number of nodes. Here leaf `w`
//! belongs to virtual worker `w`, and node `(level, index)` of a binary tree is the sum of its two children, always
//! left + right. A host adds up what it has of the tree and sends the roots of its complete subtrees; whoever has all of them
//! finishes. Each tree node is computed from the same operands in the same order in every hosting, so the root has the
//! same bits.
use crate::Error;
use serde::{Deserialize, Serialize};

/// A value of the tree: the sum of the leaves `index << level .. (index + 1) << level`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node<T> {
    /// 0 for a leaf.
    pub level: u8,
    /// Position among the nodes of its level.
    pub index: u16,
    /// The sum.
    pub value: T,
}

/// What can be added up by the tree. `add` must be a pure function of its operands' bits.
pub trait Sum {
    /// `self = self + right`.
    fn add(&mut self, right: Self);
}

impl Sum for Vec<f64> {
    fn add(&mut self, right: Self) {
        if self.len() < right.len() {
            self.resize(right.len(), 0.0);
        }
        for (left, right) in self.iter_mut().zip(right) {
            *left += right;
        }
    }
}

/// Adds siblings until none are left: the fewest nodes that stand for the same leaves, sorted by first leaf.
#[must_use]
pub fn fold<T: Sum>(mut nodes: Vec<Node<T>>) -> Vec<Node<T>> {
    nodes.sort_by_key(|node| (u32::from(node.index) << node.level.min(15), node.level));
    let mut done: Vec<Node<T>> = Vec::with_capacity(nodes.len());
    for mut node in nodes {
        while let Some(left) = done.pop_if(|left| {
            node.index % 2 == 1 && left.level == node.level && node.level < 15 && left.index == node.index - 1
        }) {
            let mut value = left.value;
            value.add(node.value);
            node = Node { level: node.level + 1, index: node.index / 2, value };
        }
        done.push(node);
    }
    done
}

/// The sum of all `leaves` (a power of two) leaves.
///
/// # Errors
/// [`Error::Tree`] when `nodes` do not cover every leaf exactly once.
pub fn finish<T: Sum>(leaves: u16, nodes: Vec<Node<T>>) -> Result<T, Error> {
    let error = Error::Tree { leaves };
    if !leaves.is_power_of_two() || nodes.iter().any(|node| node.level > 15) {
        return Err(error);
    }
    let mut nodes = fold(nodes);
    match (nodes.pop(), nodes.is_empty()) {
        (Some(root), true) if root.index == 0 && 1u32 << root.level == u32::from(leaves) => Ok(root.value),
        _ => Err(error),
    }
}

/// `leaves` values, one per leaf, as leaf nodes starting at leaf `first`.
pub fn leaves<T>(first: u16, values: impl IntoIterator<Item = T>) -> Vec<Node<T>> {
    (first..).zip(values).map(|(index, value)| Node { level: 0, index, value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_hosting_gives_the_same_bits(
            values in prop::collection::vec(-1e9f64..1e9, 64), owners in prop::collection::vec(0usize..5, 64)
        ) {
            let whole = finish(64, leaves(0, values.iter().map(|&v| vec![v]))).unwrap();
            let mut parts = Vec::new();
            for owner in (0..5).rev() {
                let own = (0u16..64).filter(|&w| owners[w as usize] == owner);
                parts.extend(fold(own.map(|w| Node { level: 0, index: w, value: vec![values[w as usize]] }).collect()));
            }
            let hosted = finish(64, parts).unwrap();
            prop_assert_eq!(whole[0].to_bits(), hosted[0].to_bits());
        }
    }

    #[test]
    fn a_missing_or_doubled_leaf_is_refused() {
        let mut nodes = leaves(0, (0..4).map(|v| vec![f64::from(v)]));
        assert_eq!(finish(4, nodes.clone()).unwrap(), vec![6.0]);
        nodes.push(Node { level: 0, index: 3, value: vec![1.0] });
        assert!(finish(4, nodes.clone()).is_err());
        nodes.truncate(3);
        assert!(finish(4, nodes).is_err());
        assert!(finish::<Vec<f64>>(4, vec![Node { level: 40, index: 9, value: vec![] }]).is_err());
    }
}
