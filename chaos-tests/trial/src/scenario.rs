//! A trial as a file (TOML) that an operator can write: what it needs, what is done, under which load, and what must come of it.
//!
//! ```toml
//! name = "leader-loss"
//! shows = "the death of the node that leads most shards costs no acked event"
//! worlds = ["sim", "lab", "drill"]
//! steps = ["2s for 8s kill leader-of-most-shards"]
//!
//! [phases]
//! chaos_ms = 12000
//!
//! [expect.sights]
//! elections = 1
//! ```

use crate::check::Checker;
use crate::fault::Kind;
use crate::history::Sight;
use crate::schedule::{Schedule, Space, Step};
use crate::target::is_zone;
use crate::workload::Workload;
use crate::world::{Phase, WorldKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Lower-case words joined by `-`; one of [`crate::matrix::MATRIX`], or an operator's own.
    pub name: String,
    /// The promise that it attacks, in one sentence.
    pub shows: String,
    /// Where it can run.
    #[serde(default = "every_world")]
    pub worlds: Vec<WorldKind>,
    /// What is done; times from the beginning of the chaos phase. Either this or `space`.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What kind of cluster it needs.
    #[serde(default)]
    pub cluster: Needs,
    /// How long what lasts.
    #[serde(default)]
    pub phases: Lengths,
    /// What clients do.
    #[serde(default)]
    pub workload: Workload,
    /// From what the steps are drawn, by the seed of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<Space>,
    /// What must come of it.
    #[serde(default)]
    pub expect: Expect,
}

fn every_world() -> Vec<WorldKind> {
    WorldKind::ALL.to_vec()
}

/// The cluster that a scenario needs. A drill has the cluster that there is, and skips a scenario for which it is too small.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// Nodes at the start.
    pub nodes: u32,
    /// Coordinators.
    pub coordinators: u32,
    /// Replicas of a shard.
    pub replication: u32,
    /// User shards.
    pub user_shards: u16,
    /// Item shards.
    pub item_shards: u16,
    /// Zones, given to nodes in turn; empty for one zone.
    pub zones: Vec<String>,
    /// A model is trained and live before the baseline.
    pub has_model: bool,
}

impl Default for Needs {
    fn default() -> Needs {
        Needs {
            nodes: 3,
            coordinators: 3,
            replication: 3,
            user_shards: 8,
            item_shards: 4,
            zones: Vec::new(),
            has_model: true,
        }
    }
}

/// How long the phases are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lengths {
    /// [`Phase::Baseline`].
    pub baseline_ms: u64,
    /// [`Phase::Chaos`].
    pub chaos_ms: u64,
    /// [`Phase::Converge`], at most: it ends when everything came back and was seen for a moment.
    pub converge_ms: u64,
}

impl Default for Lengths {
    fn default() -> Lengths {
        Lengths { baseline_ms: 2_000, chaos_ms: 20_000, converge_ms: 30_000 }
    }
}

/// What must come of a run; else it fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Queries that may fail through living nodes.
    pub queries_fail_max: u64,
    /// What the 99th percentile of answered queries may be without a fault; `None` judges no time.
    pub p99_ms_max: Option<u64>,
    /// Time that fresh writes may need after healing, beyond the leaders' elections.
    pub writes_after_heal_ms: u64,
    /// Moves of replicas must be over at the end.
    pub moves_end: bool,
    /// Who judges.
    pub checkers: Vec<Checker>,
    /// What the run must have seen, and how often at least; else it is vacuous and fails.
    pub sights: BTreeMap<Sight, u64>,
    /// What must have been done, and how often at least; else it is vacuous and fails.
    pub faults: BTreeMap<Kind, u64>,
    /// Lines of logs that this scenario explains, beside those that its faults explain by themselves: parts of lines.
    pub logs: Vec<String>,
}

impl Default for Expect {
    fn default() -> Expect {
        Expect {
            queries_fail_max: 0,
            p99_ms_max: None,
            writes_after_heal_ms: 5_000,
            moves_end: true,
            checkers: Checker::ALL.to_vec(),
            sights: BTreeMap::new(),
            faults: BTreeMap::new(),
            logs: Vec::new(),
        }
    }
}

/// Why a file is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// It is not TOML, or has a key or a value that it cannot have.
    #[error("the scenario cannot be read: {0}")]
    Form(String),
    /// A value makes no sense.
    #[error("`{field}` of the scenario {why}")]
    Field {
        /// The path of the key.
        field: String,
        /// What is wrong, and what it may be.
        why: String,
    },
}

/// Longer than this no phase may be: a day.
const PHASE_MS_MAX: u64 = 86_400_000;

impl Scenario {
    /// Reads and checks one.
    ///
    /// # Errors
    /// The first key that is wrong, with its place or its path.
    pub fn from_toml(text: &str) -> Result<Scenario, ScenarioError> {
        let scenario: Scenario =
            toml::from_str(text).map_err(|error| ScenarioError::Form(error.to_string().trim_end().to_owned()))?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The file.
    ///
    /// # Errors
    /// A number that TOML cannot hold (above 2^63).
    pub fn to_toml(&self) -> Result<String, ScenarioError> {
        toml::to_string(self).map_err(|error| ScenarioError::Form(error.to_string()))
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// The first field that does not.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = (1..=64).contains(&self.name.len()) && self.name.bytes().all(is_word);
        let rules = [
            (is_name, "name", "must be 1 to 64 lower-case letters, digits and -"),
            (!self.shows.trim().is_empty(), "shows", "is empty: say which promise it attacks"),
            (!self.worlds.is_empty(), "worlds", "is empty: name sim, lab or drill"),
            (
                self.steps.is_empty() != self.space.is_none() || self.is_calm(),
                "steps",
                "and `space` exclude each other",
            ),
            (self.cluster.nodes > 0, "cluster.nodes", "is 0"),
            (self.cluster.coordinators % 2 == 1, "cluster.coordinators", "must be odd"),
            (
                (1..=self.cluster.nodes).contains(&self.cluster.replication),
                "cluster.replication",
                "must be 1 to cluster.nodes",
            ),
            ((1..=64).contains(&self.cluster.user_shards), "cluster.user_shards", "must be 1 to 64"),
            ((1..=64).contains(&self.cluster.item_shards), "cluster.item_shards", "must be 1 to 64"),
            (self.cluster.zones.iter().all(|zone| is_zone(zone)), "cluster.zones", "must be letters, digits, - and _"),
            (self.phases.baseline_ms <= PHASE_MS_MAX, "phases.baseline_ms", "is more than a day"),
            ((1..=PHASE_MS_MAX).contains(&self.phases.chaos_ms), "phases.chaos_ms", "must be 1 to a day"),
            (self.phases.converge_ms <= PHASE_MS_MAX, "phases.converge_ms", "is more than a day"),
            (!self.expect.checkers.is_empty(), "expect.checkers", "is empty: nobody would judge"),
        ];
        if let Some((_, field, why)) = rules.into_iter().find(|(holds, ..)| !holds) {
            return Err(field_error(field, why));
        }
        self.workload.check().map_err(|(field, why)| field_error(&format!("workload.{field}"), why))?;
        if let Some(space) = &self.space {
            space.check().map_err(|error| field_error(&format!("space.{}", error.field), error.why))?;
            if space.length_ms > self.phases.chaos_ms {
                return Err(field_error("space.length_ms", "is above phases.chaos_ms"));
            }
        }
        let late = self.steps.iter().position(|step| step.at_ms >= self.phases.chaos_ms);
        late.map_or(Ok(()), |place| {
            Err(field_error(&format!("steps[{place}]"), "is not before the end of phases.chaos_ms"))
        })
    }

    /// Nothing is done: a scenario of load alone.
    fn is_calm(&self) -> bool {
        self.steps.is_empty() && self.space.is_none()
    }

    /// What is done in the run of a seed.
    ///
    /// # Errors
    /// Those of [`Space::generate`].
    pub fn schedule(&self, seed: u64) -> Result<Schedule, ScenarioError> {
        match &self.space {
            Some(space) => {
                space.generate(seed).map_err(|error| field_error(&format!("space.{}", error.field), error.why))
            }
            None => Ok(Schedule::new(seed, self.steps.clone())),
        }
    }

    /// How long a phase is planned to be; 0 for those that end by themselves.
    pub fn length_ms(&self, phase: Phase) -> u64 {
        match phase {
            Phase::Baseline => self.phases.baseline_ms,
            Phase::Chaos => self.phases.chaos_ms,
            Phase::Converge => self.phases.converge_ms,
            Phase::Heal | Phase::Audit => 0,
        }
    }
}

fn field_error(field: &str, why: impl Into<String>) -> ScenarioError {
    ScenarioError::Field { field: field.to_owned(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        name = "leader-loss"
        shows = "the death of a leader costs nothing"
        worlds = ["sim", "drill"]
        steps = ["2s for 8s kill leader-of-most-shards"]
        [cluster]
        nodes = 5
        zones = ["a", "b"]
        [phases]
        chaos_ms = 12000
        [workload]
        writes_per_s = 250.0
        surges = [{ at_ms = 1000, for_ms = 500, factor = 5.0 }]
        [expect]
        p99_ms_max = 800
        checkers = ["events", "linear", "coverage"]
        [expect.sights]
        elections = 1
        [expect.faults]
        kill = 1
    "#;

    #[test]
    fn a_file_of_an_operator_is_read_and_written() {
        let scenario = Scenario::from_toml(FILE).unwrap();
        assert_eq!((scenario.cluster.nodes, scenario.cluster.coordinators), (5, 3), "what is not said has its default");
        assert_eq!(scenario.expect.sights.get(&Sight::Elections), Some(&1));
        assert_eq!(scenario.schedule(9).unwrap().to_string(), "seed 9\n2000ms for 8000ms kill leader-of-most-shards\n");
        assert_eq!(scenario.workload.factor_at(1_200), 5.0);
        assert_eq!(Scenario::from_toml(&scenario.to_toml().unwrap()).unwrap(), scenario);
    }

    #[test]
    fn a_space_is_drawn_from_by_the_seed() {
        let text = "name = \"any\"\nshows = \"x\"\n[space]\nkinds = [\"kill\", \"partition\"]\n";
        let scenario = Scenario::from_toml(text).unwrap();
        assert_eq!(scenario.schedule(4).unwrap(), scenario.schedule(4).unwrap());
        assert!((0..9).any(|seed| scenario.schedule(seed).unwrap() != scenario.schedule(9).unwrap()));
        assert_eq!(Scenario::from_toml(&scenario.to_toml().unwrap()).unwrap(), scenario);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_name() {
        let wrong = |from: &str, to: &str| Scenario::from_toml(&FILE.replace(from, to)).unwrap_err().to_string();
        let named = [
            ("name = \"leader-loss\"", "name = \"Leader Loss\"", "`name`"),
            ("nodes = 5", "nodes = 0", "`cluster.nodes`"),
            ("nodes = 5", "nods = 5", "nods"),
            ("nodes = 5", "nodes = 5\ncoordinators = 2", "`cluster.coordinators`"),
            ("nodes = 5", "nodes = 2", "`cluster.replication`"),
            ("[\"a\", \"b\"]", "[\"a b\"]", "`cluster.zones`"),
            ("chaos_ms = 12000", "chaos_ms = 1000", "`steps[0]`"),
            ("250.0", "-1.0", "`workload.writes_per_s`"),
            ("kill leader-of-most-shards", "kill the-king", "the-king"),
            ("elections = 1", "ghosts = 1", "ghosts"),
            ("[expect]", "[space]\n[expect]", "`steps`"),
            ("\"linear\"", "\"linar\"", "linar"),
            ("[\"sim\", \"drill\"]", "[]", "`worlds`"),
        ];
        for (from, to, name) in named {
            assert!(FILE.contains(from), "{from}");
            assert!(wrong(from, to).contains(name), "{to}: {}", wrong(from, to));
        }
        let space = "name = \"any\"\nshows = \"x\"\n[space]\nfault_ms_min = 0\n";
        assert!(Scenario::from_toml(space).unwrap_err().to_string().contains("`space.fault_ms_min`"));
    }
}
