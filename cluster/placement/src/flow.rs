//! Cheapest flow through a network whose arcs grow dearer with each unit: what both planners stand on.
//!
//! Successive shortest paths with node potentials, over convex arc costs (Ahuja, Magnanti, Orlin, "Network Flows", 1993, sections
//! 9.7 and 14.5). A path may take back units sent before, so that it is an augmenting path in the sense of Berge (1957): no
//! choice of an earlier unit stands in the way of the best whole. Flows are integral because capacities are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A cost in levels, compared level by level: no amount of a later level outweighs one unit of an earlier one.
pub(crate) type Cost = [i64; 4];
/// Nothing to pay.
pub(crate) const FREE: Cost = [0; 4];

/// `unit` on one level.
pub(crate) const fn cost(level: usize, unit: i64) -> Cost {
    let mut cost = FREE;
    cost[level] = unit;
    cost
}

fn plus(a: Cost, b: Cost) -> Cost {
    std::array::from_fn(|level| a[level] + b[level])
}

fn minus(a: Cost, b: Cost) -> Cost {
    std::array::from_fn(|level| a[level] - b[level])
}

/// A place that flow passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Vertex(usize);

/// A way from one vertex to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArcId(usize);

/// Unit `k` (from 0) that passes costs `first + k * step`; `step` is never negative, so that the cost is convex.
struct Arc {
    from: Vertex,
    to: Vertex,
    units: i64,
    units_max: i64,
    first: Cost,
    step: Cost,
}

impl Arc {
    fn price(&self, unit: i64) -> Cost {
        std::array::from_fn(|level| self.first[level] + unit * self.step[level])
    }

    /// Where one more step leads from `at`, and its price: a unit more from the tail, a unit taken back from the head.
    fn onward(&self, at: Vertex) -> Option<(Vertex, Cost)> {
        if self.from == at {
            (self.units < self.units_max).then(|| (self.to, self.price(self.units)))
        } else {
            (self.units > 0).then(|| (self.from, minus(FREE, self.price(self.units - 1))))
        }
    }
}

/// A network and the flow in it, which is at all times the cheapest one that carries what was sent.
#[derive(Default)]
pub(crate) struct Network {
    arcs: Vec<Arc>,
    touching: Vec<Vec<ArcId>>,
    /// Keeps the price of every open step from `v` to `w` at or above `potential[w] - potential[v]` (Edmonds and Karp, 1972).
    potential: Vec<Cost>,
}

/// The cheapest way to a vertex known so far.
#[derive(Clone, Copy)]
struct Reached {
    cost: Cost,
    by: Option<ArcId>,
    settled: bool,
}

impl Network {
    /// One more vertex. Among equally cheap ways the search prefers vertices made earlier.
    pub(crate) fn vertex(&mut self) -> Vertex {
        self.touching.push(Vec::new());
        self.potential.push(FREE);
        Vertex(self.touching.len() - 1)
    }

    /// An arc for up to `units_max` units, of which unit `k` costs `first + k * step`. Neither may be negative, and no arc
    /// may be added after the first [`Self::send`]: the potentials start from costs that are not below zero.
    pub(crate) fn arc(&mut self, from: Vertex, to: Vertex, units_max: i64, first: Cost, step: Cost) -> ArcId {
        let id = ArcId(self.arcs.len());
        self.arcs.push(Arc { from, to, units: 0, units_max, first, step });
        self.touching[from.0].push(id);
        self.touching[to.0].push(id);
        id
    }

    /// Units that pass an arc.
    pub(crate) fn units(&self, arc: ArcId) -> i64 {
        self.arcs[arc.0].units
    }

    /// Sends one unit along a cheapest path. False, and nothing is sent, where no path is left.
    pub(crate) fn send(&mut self, from: Vertex, to: Vertex) -> bool {
        let reached = self.search(from, to);
        let Some(length) = reached[to.0].filter(|reached| reached.settled).map(|reached| reached.cost) else {
            return false;
        };
        for (potential, reached) in self.potential.iter_mut().zip(&reached) {
            if let Some(reached) = reached.filter(|reached| reached.settled) {
                *potential = plus(*potential, minus(reached.cost, length));
            }
        }
        let mut at = to;
        while let Some(arc) = reached[at.0].and_then(|reached| reached.by) {
            let arc = &mut self.arcs[arc.0];
            let forward = arc.to == at;
            arc.units += if forward { 1 } else { -1 };
            at = if forward { arc.from } else { arc.to };
        }
        true
    }

    /// Dijkstra over prices reduced by the potentials, which are not negative; stops when `to` is settled.
    fn search(&self, from: Vertex, to: Vertex) -> Vec<Option<Reached>> {
        let mut reached: Vec<Option<Reached>> = vec![None; self.touching.len()];
        reached[from.0] = Some(Reached { cost: FREE, by: None, settled: false });
        let mut open = BinaryHeap::from([Reverse((FREE, from))]);
        while let Some(Reverse((cost, at))) = open.pop() {
            match &mut reached[at.0] {
                Some(here) if !here.settled => here.settled = true,
                _ => continue,
            }
            if at == to {
                break;
            }
            for &id in &self.touching[at.0] {
                let Some((next, price)) = self.arcs[id.0].onward(at) else { continue };
                let reduced = minus(plus(price, self.potential[at.0]), self.potential[next.0]);
                let cost = plus(cost, reduced);
                if reached[next.0].is_none_or(|known| cost < known.cost) {
                    reached[next.0] = Some(Reached { cost, by: Some(id), settled: false });
                    open.push(Reverse((cost, next)));
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_unit_makes_way_for_a_later_one() {
        // a reaches x (cheap) and y; b reaches x alone: b's unit pushes a's to y.
        let mut network = Network::default();
        let [sink, a, b, x, y] = std::array::from_fn(|_| network.vertex());
        let ax = network.arc(a, x, 1, FREE, FREE);
        let ay = network.arc(a, y, 1, cost(3, 1), FREE);
        let bx = network.arc(b, x, 1, FREE, FREE);
        for node in [x, y] {
            network.arc(node, sink, 1, FREE, FREE);
        }
        assert!(network.send(a, sink));
        assert_eq!((network.units(ax), network.units(ay)), (1, 0));
        assert!(network.send(b, sink));
        assert_eq!((network.units(ax), network.units(ay), network.units(bx)), (0, 1, 1));
        assert!(!network.send(b, sink), "both nodes are full");
    }

    #[test]
    fn an_earlier_level_outweighs_any_amount_of_a_later_one() {
        let mut network = Network::default();
        let [sink, a, x, y] = std::array::from_fn(|_| network.vertex());
        let dear = network.arc(a, x, 1, cost(0, 1), FREE);
        let cheap = network.arc(a, y, 1, cost(1, 1_000_000), FREE);
        network.arc(x, sink, 1, FREE, FREE);
        network.arc(y, sink, 1, FREE, FREE);
        assert!(network.send(a, sink));
        assert_eq!((network.units(dear), network.units(cheap)), (0, 1));
    }

    #[test]
    fn growing_prices_share_the_flow_out() {
        let mut network = Network::default();
        let [sink, a, x, y] = std::array::from_fn(|_| network.vertex());
        let ways = [x, y].map(|node| {
            network.arc(node, sink, i64::MAX, cost(1, 1), cost(1, 2));
            network.arc(a, node, i64::MAX, FREE, FREE)
        });
        assert!((0..7).all(|_| network.send(a, sink)));
        assert_eq!(ways.map(|way| network.units(way)), [4, 3]);
    }
}
