//! The best k hits: highest score first, equal scores by position ascending.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A row and its score. `Ord` is the order of answers: a smaller hit is a better one.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    pub position: u32,
    pub score: f32,
}

impl Ord for Hit {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.position.cmp(&other.position))
    }
}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Hit {}

/// Collects the best `k` of the hits it is offered, in whatever order they come.
#[derive(Debug)]
pub struct TopK {
    k: usize,
    /// The worst hit on top.
    heap: BinaryHeap<Hit>,
}

impl TopK {
    /// `k` also bounds the memory: pass the smaller of what is asked and what there is.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k) }
    }

    /// A score at or below this cannot enter *from a later position*. Minus infinity while there is room, plus infinity for k = 0.
    #[must_use]
    pub fn floor(&self) -> f32 {
        if self.heap.len() < self.k {
            return f32::NEG_INFINITY;
        }
        self.heap.peek().map_or(f32::INFINITY, |worst| worst.score)
    }

    pub fn offer(&mut self, hit: Hit) {
        if self.heap.len() < self.k {
            self.heap.push(hit);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && hit < *worst
        {
            *worst = hit;
        }
    }

    /// Best first.
    #[must_use]
    pub fn into_hits(self) -> Vec<Hit> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_top_k_is_the_head_of_the_sorted_hits(scores in prop::collection::vec(-3i8..3, 0..60), k in 0usize..70, rotate in 0usize..60) {
            let mut hits: Vec<Hit> = scores.iter().enumerate().map(|(p, &s)| Hit { position: p as u32, score: f32::from(s) }).collect();
            let mut sorted = hits.clone();
            sorted.sort();
            sorted.truncate(k);
            let turns = rotate.min(hits.len());
            hits.rotate_left(turns);
            let mut top = TopK::new(k);
            for hit in hits {
                top.offer(hit);
            }
            prop_assert_eq!(top.into_hits(), sorted);
        }
    }

    #[test]
    fn equal_scores_are_ordered_by_position() {
        assert!(Hit { position: 1, score: 2.0 } < Hit { position: 2, score: 2.0 });
        assert!(Hit { position: 9, score: 3.0 } < Hit { position: 2, score: 2.0 });
    }
}
