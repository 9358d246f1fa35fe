//! Every scenario that we owe: the matrix of chaos.md, a row a scenario. What is not built counts as missing, never as passed.

use crate::text::named;
use crate::world::WorldKind;

/// A scenario of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, as in [`crate::Scenario::name`].
    pub name: &'static str,
    /// What is done, in words.
    pub what: &'static str,
    /// The worlds in which it is owed.
    pub worlds: &'static [WorldKind],
    /// What Docent itself lacks for it.
    pub lacks: Option<&'static str>,
}

const BOTH: &[WorldKind] = &[WorldKind::Sim, WorldKind::Lab];
const LAB: &[WorldKind] = &[WorldKind::Lab];
const ALL: &[WorldKind] = &[WorldKind::Sim, WorldKind::Lab, WorldKind::Drill];

const fn row(name: &'static str, what: &'static str, worlds: &'static [WorldKind]) -> Row {
    Row { name, what, worlds, lacks: None }
}

const fn lacking(name: &'static str, what: &'static str, worlds: &'static [WorldKind], lacks: &'static str) -> Row {
    Row { name, what, worlds, lacks: Some(lacks) }
}

/// All of them, in the order of chaos.md.
pub const MATRIX: &[Row] = &[
    row("leader-loss", "the node that leads most shards is killed", ALL),
    row("follower-loss", "a node that leads few shards is killed", ALL),
    row("node-loss-under-write-load", "a node is killed while many events come in", ALL),
    row("rolling-restart", "every member is restarted in order, one after the other", ALL),
    row("whole-cluster-kill", "every process is killed at once and started again", BOTH),
    row("whole-cluster-power-loss", "every process ends at once and nothing unsynced is left", BOTH),
    row("coordinator-leader-loss", "the coordinator that leads is killed", ALL),
    row("coordinator-quorum-loss", "most coordinators are dead: queries and events go on", BOTH),
    row("partition-symmetric", "a node is cut off from everybody", BOTH),
    row("partition-asymmetric", "a node hears nobody, or is heard by nobody", BOTH),
    row("partition-bridge", "two nodes hear only the third, not each other", BOTH),
    row("minority-leader", "a leader is isolated with its clients: no stale read, no zombie ack", BOTH),
    row("pause-between-check-and-reply", "a leader is stopped between its check and its reply", BOTH),
    row("flapping-node", "a node comes and goes: the term must not climb", BOTH),
    row("slow-disk", "the syncs of a node are slow", BOTH),
    row("full-disk", "a node's disk is full: writes refused, reads go on", BOTH),
    row("sync-error", "the syncs of a node fail", BOTH),
    row("clock-jump", "a node's clock jumps: no promise depends on it", BOTH),
    row("join", "a node joins under load", ALL),
    row("drain", "a node gives everything away under load", ALL),
    row("replace", "a dead node is replaced", BOTH),
    row("shard-there-and-back", "a shard moves from A to B and back to A", BOTH),
    row("move-kill-begun-coordinator", "the coordinators' leader dies when a move begins", BOTH),
    row("move-kill-begun-source", "a move's source dies when it begins", BOTH),
    row("move-kill-begun-target", "a move's target dies when it begins", BOTH),
    row("move-kill-learner-coordinator", "the coordinators' leader dies while the new replica learns", BOTH),
    row("move-kill-learner-source", "a move's source dies while the new replica learns", BOTH),
    row("move-kill-learner-target", "a move's target dies while it learns", BOTH),
    row("move-kill-joint-coordinator", "the coordinators' leader dies while the membership is joint", BOTH),
    row("move-kill-joint-source", "a move's source dies while the membership is joint", BOTH),
    row("move-kill-joint-target", "a move's target dies while the membership is joint", BOTH),
    row("move-kill-leaving-coordinator", "the coordinators' leader dies while the old replica leaves", BOTH),
    row("move-kill-leaving-source", "a move's source dies while its replica leaves", BOTH),
    row("move-kill-leaving-target", "a move's target dies while the old replica leaves", BOTH),
    row("training-kill-at-90", "the driver of a training is killed when 90 % is done", LAB),
    lacking(
        "training-duplicate-push",
        "every push of gradients comes twice",
        BOTH,
        "no scenario: a test makes every request between trainers twice (it::training, and in one process docent-train)",
    ),
    row("training-network-cut", "a host of a training is cut off", LAB),
    row("activations-under-load", "50 activations under load, with kills", BOTH),
    row("opt-out-race", "opt-outs race queries on other gateways", ALL),
    row("block-race", "block lists race queries on other gateways", ALL),
    row("take-down-race", "take-downs race queries on other gateways", ALL),
    row("zone-loss", "every member of a zone is lost", BOTH),
    row("majority-lost-for-good", "most replicas of a shard are gone for good: what is lost is said exactly", LAB),
    row("overload", "five times the load, open loop, and recovery", LAB),
    row("gray-failure", "one node is ten times slower", BOTH),
];

named! {
    /// How a row stands in a world.
    "state of a scenario" State {
        /// It can be run.
        Built = "built",
        /// Docent can do it, but nobody wrote the trial.
        Unwritten = "missing: not written",
        /// Docent cannot do it yet.
        Lacking = "missing: feature",
    }
}

/// A row in one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub row: &'static Row,
    /// Where.
    pub world: WorldKind,
    /// How it stands.
    pub state: State,
}

impl Standing {
    /// Why it is missing; empty where it is not.
    pub fn why(&self) -> String {
        match self.state {
            State::Built => String::new(),
            State::Unwritten => format!("nobody wrote {} for the {}", self.row.name, self.world),
            State::Lacking => self.row.lacks.unwrap_or_default().to_owned(),
        }
    }
}

/// The whole matrix, a row and world each, where the runner has these.
///
/// What a runner has beyond what is owed is not told here; a row that lacks a feature is lacking whatever a runner says.
pub fn standings(built: &[(&str, WorldKind)]) -> Vec<Standing> {
    let each = MATRIX.iter().flat_map(|row| row.worlds.iter().map(move |world| (row, *world)));
    let standing = each.map(|(row, world)| {
        let state = match (row.lacks, built.contains(&(row.name, world))) {
            (Some(_), _) => State::Lacking,
            (None, true) => State::Built,
            (None, false) => State::Unwritten,
        };
        Standing { row, world, state }
    });
    standing.collect()
}

/// The row of a name.
pub fn find(name: &str) -> Option<&'static Row> {
    MATRIX.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_fit_a_scenario() {
        let names: BTreeSet<&str> = MATRIX.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), MATRIX.len());
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(names.iter().all(|name| name.len() <= 64 && name.bytes().all(is_word)));
        assert!(MATRIX.iter().all(|row| !row.worlds.is_empty() && !row.what.is_empty()));
    }

    #[test]
    fn every_phase_of_a_move_is_attacked_at_all_three_parties() {
        for phase in crate::schedule::MovePhase::ALL {
            for party in ["coordinator", "source", "target"] {
                assert!(find(&format!("move-kill-{phase}-{party}")).is_some(), "{phase} {party}");
            }
        }
    }

    #[test]
    fn what_nobody_built_counts_as_missing_and_what_docent_lacks_says_so() {
        let standings = standings(&[("leader-loss", WorldKind::Lab), ("training-duplicate-push", WorldKind::Lab)]);
        let state = |name: &str, world| {
            standings.iter().find(|one| one.row.name == name && one.world == world).map(|one| one.state)
        };
        assert_eq!(state("leader-loss", WorldKind::Lab), Some(State::Built));
        assert_eq!(state("leader-loss", WorldKind::Sim), Some(State::Unwritten));
        assert_eq!(state("training-duplicate-push", WorldKind::Lab), Some(State::Lacking));
        assert!(standings.iter().all(|one| (one.state == State::Built) == one.why().is_empty()));
    }
}
