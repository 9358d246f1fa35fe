//! The life of moves, over a catalog and reports that the test writes.

use super::*;
use crate::catalog::properties::{Log, joining};
use crate::plan::tests::policy;
use crate::plan::{self, Moment};
use docent_proto::internal::coordinator::{Condition, Membership, ReplicaReport};
use docent_types::ShardId;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A cluster whose groups are as the test says.
struct Case {
    log: Log,
    health: Health,
    now: u64,
}

impl Case {
    fn placed(nodes: u64) -> Case {
        let mut case = Case { log: Log::placed(nodes), health: Health::default(), now: 0 };
        case.report();
        case.settle();
        case
    }

    fn catalog(&self) -> Catalog {
        Catalog::clone(self.log.state.catalog())
    }

    fn join(&mut self) -> NodeId {
        let nonce = self.catalog().nodes.len() as u64 + 1;
        self.log.must(Command::Join(joining(u128::from(nonce), u128::from(nonce))));
        NodeId(100 + nonce)
    }

    /// Every alive node reports; each group's first alive replica leads it and has exactly the catalog's replicas, after the swap if the
    /// change's newcomer is on an alive node.
    fn report_with(&mut self, swap: bool) {
        let catalog = self.catalog();
        let is_alive = |node: NodeId| catalog.nodes.get(&node).is_some_and(|node| node.is_alive);
        let mut reports: std::collections::BTreeMap<NodeId, Vec<ReplicaReport>> = std::collections::BTreeMap::new();
        for shard in catalog.shards.values() {
            let is_swapped = swap && shard.change.is_some_and(|change| is_alive(change.new.node));
            let voters = if is_swapped { shard.target() } else { shard.replicas.clone() };
            let Some(leader) = voters.iter().find(|replica| is_alive(replica.node)) else { continue };
            let index = shard.membership + u64::from(is_swapped);
            let membership = Membership { term: 1, index, is_settled: true, voters: voters.clone() };
            let condition = Condition::Leads(membership);
            let report = ReplicaReport { shard: shard.id, replica: leader.id, condition };
            reports.entry(leader.node).or_default().push(report);
        }
        for node in catalog.nodes.values().filter(|node| node.is_alive) {
            self.health.hear(node.id, MS(self.now));
            self.health.report(node.id, reports.remove(&node.id).unwrap_or_default());
        }
        self.health.hear(NodeId(2), MS(self.now));
    }

    fn report(&mut self) {
        self.report_with(false);
    }

    fn due(&mut self) -> Vec<Command> {
        self.health.observe(self.log.state.catalog(), MS(self.now));
        plan::next(&policy(), &self.log.state, &self.health, Moment { monotonic: MS(self.now), wall_ms: 0 })
    }

    fn step(&mut self) -> Vec<Command> {
        let due = self.due();
        due.iter().for_each(|command| drop(self.log.must(command.clone())));
        due
    }

    /// Lets everything happen until nothing is due: groups swap, nodes bury. Gives the moves that were begun.
    fn settle(&mut self) -> Vec<Command> {
        let mut begun = Vec::new();
        for _ in 0..500 {
            self.report_with(true);
            let due = self.step();
            begun.extend(due.iter().filter(|command| matches!(command, Command::BeginChange { .. })).cloned());
            let catalog = self.catalog();
            let is_alive = |node: NodeId| catalog.nodes.get(&node).is_some_and(|node| node.is_alive);
            for (id, grave) in catalog.graves.iter().filter(|(_, grave)| is_alive(grave.node)) {
                self.log.must(Command::Bury { node: grave.node, replicas: vec![*id] });
            }
            let is_quiet = catalog.shards.values().all(|shard| shard.change.is_none());
            if due.is_empty() && is_quiet {
                return begun;
            }
        }
        panic!("the moves never end: {:?}", self.due());
    }

    /// Silent for longer than a living node may be.
    fn dies(&mut self, node: NodeId) {
        self.now += 2 * policy().node_timeout.as_millis() as u64;
        self.log.must(Command::SetAlive(vec![(node, false)]));
    }

    fn load(&self, node: NodeId) -> usize {
        holds(&self.catalog(), node).count()
    }

    fn replica_ids(&self) -> Vec<ReplicaId> {
        self.catalog().shards.values().flat_map(|shard| shard.replicas.iter().map(|replica| replica.id)).collect()
    }
}

#[test]
fn a_cluster_at_rest_moves_nothing() {
    assert_eq!(Case::placed(3).settle(), []);
}

#[test]
fn a_join_moves_the_fewest_replicas_within_the_budget_and_leaves_no_grave() {
    let mut case = Case::placed(3);
    let before = case.replica_ids();
    let new = case.join();
    case.report();
    let first = case.step();
    assert!(first.len() <= policy().moves_at_once, "{first:?}");
    let begun = first.len() + case.settle().len();
    // Three shards at RF 3 over four nodes: the newcomer gets its share, 9 / 4, and nothing else moves.
    assert_eq!((case.load(new), begun), (2, 2));
    let after = case.replica_ids();
    assert_eq!(
        before.iter().filter(|id| after.contains(id)).count(),
        before.len() - begun,
        "new replicas have new ids"
    );
    assert!(case.catalog().graves.is_empty());
}

#[test]
fn a_drained_node_ends_empty_and_can_be_removed() {
    let mut case = Case::placed(3);
    let leaving = case.join();
    case.settle();
    assert!(case.log.apply(Command::SetNodeState { node: leaving, state: NodeState::Removed }).is_err(), "not empty");
    case.log.must(Command::SetNodeState { node: leaving, state: NodeState::Draining });
    case.settle();
    assert_eq!(case.load(leaving), 0);
    case.log.must(Command::SetNodeState { node: leaving, state: NodeState::Removed });
    case.settle();
    assert!(!case.catalog().nodes.contains_key(&leaving));
    let error = case.log.apply(Command::SetNodeState { node: NodeId(101), state: NodeState::Draining }).unwrap_err();
    assert!(error.message.contains("add a node first"), "{error}");
}

#[test]
fn a_dead_node_is_given_up_after_its_time_and_its_graves_wait_for_it() {
    let mut case = Case::placed(3);
    let spare = case.join();
    case.settle();
    case.dies(NodeId(101));
    let held = case.load(NodeId(101));
    assert!(held > 0);
    assert_eq!(case.settle(), [], "it may come back");
    case.now += policy().repair_after.as_millis() as u64;
    assert_eq!(case.settle().len(), held);
    assert_eq!(case.load(NodeId(101)), 0);
    assert_eq!(case.catalog().graves.len(), held, "it must destroy what it has before anything else");
    case.log.must(Command::SetNodeState { node: NodeId(101), state: NodeState::Removed });
    case.settle();
    assert!(case.catalog().graves.is_empty() && !case.catalog().nodes.contains_key(&NodeId(101)));
    assert!(case.load(spare) > 0);
}

#[test]
fn a_lost_replica_is_made_anew_under_another_id() {
    let mut case = Case::placed(3);
    let shard = case.catalog().shards.values().next().unwrap().clone();
    let lost = shard.replicas[1];
    case.report();
    let report = ReplicaReport { shard: shard.id, replica: lost.id, condition: Condition::Lost("torn".into()) };
    case.health.report(lost.node, vec![report]);
    let due = case.step();
    let [Command::BeginChange { shard: of, old: Some(old), to, cause: Cause::Repair }] = due[..] else {
        panic!("{due:?}")
    };
    assert_eq!((of, old, to), (shard.id, lost.id, lost.node));
    case.settle();
    let now = case.catalog().shards[&shard.id].clone();
    assert!(!now.has(lost.id) && now.replicas.iter().any(|replica| replica.node == lost.node));
}

/// A shard with a move to a new node under way, and that node.
fn moving() -> (Case, ShardId, NodeId) {
    let mut case = Case::placed(3);
    let new = case.join();
    case.report();
    let due = case.step();
    let Command::BeginChange { shard, .. } = due[0] else { panic!("{due:?}") };
    (case, shard, new)
}

#[test]
fn a_newcomer_can_say_that_it_has_the_live_model() {
    let (mut case, shard, new) = moving();
    let version = case.log.train(docent_types::training::TrainSettings::default());
    case.log.must(Command::MarkStaged { node: new, version, shards: vec![shard] });
    assert!(case.catalog().models[&version].staged.contains(&(shard, new)));
}

#[test]
fn a_move_to_a_node_that_dies_is_given_up_and_buried() {
    let (mut case, shard, new) = moving();
    let target = case.catalog().shards[&shard].change.unwrap().new;
    case.dies(new);
    case.report();
    assert!(case.step().contains(&Command::CancelChange(shard)));
    assert_eq!(case.catalog().graves[&target.id].node, new);
    assert!(case.catalog().shards[&shard].change.is_some_and(|change| change.is_cancelled));
    case.log.must(Command::Bury { node: new, replicas: vec![target.id] });
    assert_eq!(case.catalog().shards[&shard].change, None);
}

#[test]
fn a_swap_that_overtook_the_cancelling_counts() {
    let (mut case, shard, _) = moving();
    let before = case.catalog().shards[&shard].clone();
    case.log.must(Command::CancelChange(shard));
    let replicas = before.target();
    case.log.must(Command::ObserveMembership { shard, index: 9, replicas: replicas.clone() });
    let catalog = case.catalog();
    let after = &catalog.shards[&shard];
    assert_eq!((after.change, after.membership), (None, 9));
    let old = before.change.unwrap().old.unwrap();
    assert_eq!(
        catalog.graves.keys().copied().collect::<Vec<_>>(),
        [old],
        "the newcomer left its grave, the old one has it"
    );
    case.log.must(Command::ObserveMembership { shard, index: 8, replicas: before.replicas });
    assert_eq!(case.catalog(), catalog, "an old report says nothing");
}

#[test]
fn what_two_operators_ask_at_once_is_refused_to_the_second() {
    let (mut case, shard, _) = moving();
    let known = case.catalog().shards[&shard].clone();
    let again = Command::BeginChange {
        shard,
        old: known.replicas.last().map(|r| r.id),
        to: NodeId(104),
        cause: Cause::Command,
    };
    let error = case.log.apply(again).unwrap_err();
    assert!(error.message.contains("on its way"), "{error}");
    case.settle();
    let error = case.log.apply(Command::CancelChange(shard)).unwrap_err();
    assert!(error.message.contains("nothing to cancel"), "{error}");
}

#[test]
fn the_last_replica_and_a_majority_cannot_be_removed() {
    let mut case = Case::placed(2);
    case.log.must(Command::SetAlive(vec![(NodeId(101), false)]));
    let error = case.log.apply(Command::SetNodeState { node: NodeId(101), state: NodeState::Removed }).unwrap_err();
    assert!(error.message.contains("no majority"), "{error}");
    assert!(case.log.apply(Command::SetNodeState { node: NodeId(102), state: NodeState::Draining }).is_err());
    assert!(case.log.apply(Command::SetNodeState { node: NodeId(150), state: NodeState::Draining }).is_err());
}
