//! The network both planners share: shards choose nodes, and every unit a node takes in one keyspace, then in all, is dearer than
//! the one before. The sum of squares is least exactly where loads are as even as the arcs allow, which is what makes an
//! optimal semi-matching (Harvey, Ladner, Lovasz, Tamir, "Semi-matchings for bipartite graphs and load balancing", 2006).

use crate::flow::{ArcId, Cost, FREE, Network, Vertex, cost};
use docent_types::{Keyspace, NodeId, ShardId};
use std::collections::BTreeMap;

// The levels of a cost, the weightiest first.
const SHARING: usize = 0;
const KEYSPACE: usize = 1;
const TOTAL: usize = 2;
const CHANGE: usize = 3;

/// What a choice that is not yet so costs.
pub(crate) const CHANGED: Cost = cost(CHANGE, 1);

/// Shards on one side, nodes on the other.
pub(crate) struct Even {
    network: Network,
    sink: Vertex,
    loads: BTreeMap<(Keyspace, NodeId), Vertex>,
    choices: Vec<(ShardId, NodeId, ArcId)>,
}

impl Even {
    /// Among `nodes`, no shard yet.
    pub(crate) fn new(nodes: impl Iterator<Item = NodeId>) -> Even {
        let mut network = Network::default();
        let sink = network.vertex();
        let mut loads = BTreeMap::new();
        for node in nodes {
            let all = network.vertex();
            network.arc(all, sink, i64::MAX, cost(TOTAL, 1), cost(TOTAL, 2));
            for keyspace in [Keyspace::Users, Keyspace::Items] {
                let load = network.vertex();
                // 1 + 3 + 5 + ...: n units cost n squared.
                network.arc(load, all, i64::MAX, cost(KEYSPACE, 1), cost(KEYSPACE, 2));
                loads.insert((keyspace, node), load);
            }
        }
        Even { network, sink, loads, choices: Vec::new() }
    }

    /// Something that chooses: a shard.
    pub(crate) fn chooser(&mut self) -> Vertex {
        self.network.vertex()
    }

    /// One zone of a chooser: unit `k` in it makes `k` pairs that share the zone.
    pub(crate) fn zone(&mut self, chooser: Vertex) -> Vertex {
        let zone = self.network.vertex();
        self.network.arc(chooser, zone, i64::MAX, FREE, cost(SHARING, 1));
        zone
    }

    /// `chooser` may put `shard` on `node`, at most once, for `price`. A node outside those given to [`Self::new`] is no choice.
    pub(crate) fn offer(&mut self, chooser: Vertex, shard: ShardId, node: NodeId, price: Cost) {
        if let Some(&load) = self.loads.get(&(shard.keyspace, node)) {
            let arc = self.network.arc(chooser, load, 1, price, FREE);
            self.choices.push((shard, node, arc));
        }
    }

    /// `chooser` takes one more node. False where it has all that it was offered.
    pub(crate) fn choose(&mut self, chooser: Vertex) -> bool {
        self.network.send(chooser, self.sink)
    }

    /// What was chosen in the end.
    pub(crate) fn chosen(&self) -> impl Iterator<Item = (ShardId, NodeId)> + '_ {
        let taken = self.choices.iter().filter(|(.., arc)| self.network.units(*arc) > 0);
        taken.map(|&(shard, node, _)| (shard, node))
    }
}
