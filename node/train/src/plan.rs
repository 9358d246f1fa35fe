//! What a job is, how it tells where it stands, and what it leaves.
use crate::{
    Error, Precision, VWORKERS,
    message::{COUNT_ROUNDS, Side},
};
use bytes::Bytes;
use docent_model::{Settings, evaluation::Report, graph, settings::DIM_MAX, softmax, tower};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

/// Most steps that hosts may be apart: owners remember what so many steps changed.
pub const STALENESS_MAX: u32 = 16;

/// Which node hosts each virtual worker. The node computes for its users and owns the rows of its items; for the least traffic a node
/// hosts what its replicas hold. It never changes a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// Node id of each of the 64 user virtual workers.
    pub users: Vec<u64>,
    /// Node id of each of the 64 item virtual workers.
    pub items: Vec<u64>,
}

impl Hosts {
    /// All on one node.
    #[must_use]
    pub fn single(node: u64) -> Self {
        Self { users: vec![node; usize::from(VWORKERS)], items: vec![node; usize::from(VWORKERS)] }
    }

    /// Every host, sorted.
    #[must_use]
    pub fn nodes(&self) -> Vec<u64> {
        self.users.iter().chain(&self.items).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The node of a virtual worker of a side; none for one that there is not.
    pub(crate) fn of(&self, side: Side, vworker: u16) -> Option<u64> {
        let table = match side {
            Side::Users => &self.users,
            Side::Items => &self.items,
        };
        table.get(usize::from(vworker)).copied()
    }

    /// Gives a virtual worker of a side to a node.
    pub(crate) fn set(&mut self, side: Side, vworker: u16, node: u64) {
        let table = match side {
            Side::Users => &mut self.users,
            Side::Items => &mut self.items,
        };
        table[usize::from(vworker)] = node;
    }

    /// Virtual workers of a side that `node` has, sorted.
    pub(crate) fn vworkers(&self, side: Side, node: u64) -> Vec<u16> {
        match side {
            Side::Users => Self::vworkers_of(&self.users, node),
            Side::Items => Self::vworkers_of(&self.items, node),
        }
    }

    /// Hosts of users, sorted.
    #[must_use]
    pub fn user_nodes(&self) -> Vec<u64> {
        self.users.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Owners of items, sorted.
    #[must_use]
    pub fn item_nodes(&self) -> Vec<u64> {
        self.items.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Positions of `node` in `table`: its virtual workers, sorted.
    pub(crate) fn vworkers_of(table: &[u64], node: u64) -> Vec<u16> {
        (0u16..).zip(table).filter(|(_, host)| **host == node).map(|(vworker, _)| vworker).collect()
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.users.len() == usize::from(VWORKERS) && self.items.len() == usize::from(VWORKERS) {
            Ok(())
        } else {
            Err(Error::Invalid(format!("hosts must name {VWORKERS} user and {VWORKERS} item virtual workers")))
        }
    }
}

/// Which positives of a user are kept out to measure with. A user with one positive keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldOut {
    /// The newest fraction (0, 1) of each user's positives, rounded to the nearest number; equal times by a hash of the pair.
    Newest(f32),
    /// A fraction (0, 1) drawn by a hash of user and item, rounded to the nearest number for each user.
    Random(f32),
    /// The newest one.
    LastOne,
}

/// How to measure a model before it is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluate {
    /// What is held out.
    pub hold_out: HoldOut,
    /// Cut-offs of the metrics, each 1..=1000, at most 16 of them.
    pub cutoffs: Vec<u16>,
    /// Measure about this many users at most (chosen by a hash, evenly over virtual workers); 0: all.
    pub users_max: u32,
    /// Train again on everything after measuring; else the measured model is the one published.
    pub retrain: bool,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self { hold_out: HoldOut::Newest(0.1), cutoffs: vec![10, 20], users_max: 0, retrain: true }
    }
}

/// The family of a model, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Matrix factorisation by implicit alternating least squares.
    Ials(Settings),
    /// The item-item graph filter.
    Graph(graph::Settings),
    /// Matrix factorisation by sampled softmax.
    Softmax(softmax::Settings),
    /// Two towers.
    Tower(tower::Settings),
}

impl Algorithm {
    /// Steps that progress is told in: passes, or rounds of counting.
    #[must_use]
    pub fn epochs(&self) -> u16 {
        match self {
            Self::Ials(settings) => settings.epochs,
            Self::Graph(_) => COUNT_ROUNDS,
            Self::Softmax(settings) => settings.epochs,
            Self::Tower(settings) => settings.base.epochs,
        }
    }

    /// Whose states a checkpoint has.
    pub(crate) fn sides(&self) -> &'static [Side] {
        match self {
            Self::Ials(_) => &[Side::Users, Side::Items],
            Self::Graph(_) | Self::Softmax(_) | Self::Tower(_) => &[Side::Items],
        }
    }

    /// The step from which on the state of a virtual worker of items does not change; none where every step changes it.
    pub(crate) fn settled(&self, vworker: u16) -> Option<u32> {
        match self {
            Self::Graph(_) => Some(u32::from(vworker % COUNT_ROUNDS) + 1),
            Self::Ials(_) | Self::Softmax(_) | Self::Tower(_) => None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        match self {
            Self::Ials(settings) => settings.validate(),
            Self::Graph(settings) => settings.validate(),
            Self::Softmax(settings) => settings.validate(),
            Self::Tower(settings) => settings.validate(),
        }
        .map_err(Error::from)
    }
}

/// Settings of a training job; part of its identity.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSettings {
    /// The model.
    pub algorithm: Algorithm,
    /// Makes a blend of it: with a graph filter of these settings, and popularity. Its weights are learned on what is held out.
    pub filter: Option<graph::Settings>,
    /// Exponent of items' odds in sampled softmax and two towers (`softmax::odds`), 0 (none) to 2.
    pub bias: f32,
    /// What rows of iALS are rounded to, and sent in.
    pub rows: Precision,
    /// What sampled softmax and two towers minimise.
    pub loss: softmax::Loss,
    /// How many steps hosts of sampled softmax may be apart, and older the rows are that a step reads: 0 (none) to [`STALENESS_MAX`].
    pub staleness: u32,
    /// Which items are in the model.
    pub admission: Admission,
    /// Draws what is held out, and who is measured; the model has its own.
    pub seed: u64,
    /// Measure first; none trains on everything at once.
    pub evaluate: Option<Evaluate>,
}

impl JobSettings {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.algorithm.validate()?;
        let dim = match &self.algorithm {
            Algorithm::Softmax(settings) => Some(settings.dim),
            Algorithm::Tower(settings) => Some(settings.base.dim),
            Algorithm::Ials(_) | Algorithm::Graph(_) => None,
        };
        let is_fit = self.bias == 0.0 || (self.bias > 0.0 && self.bias <= 2.0 && dim.is_some_and(|dim| dim < DIM_MAX));
        if !is_fit {
            return Err(Error::Invalid(format!(
                "a bias is 0 to 2, of sampled softmax and towers below {DIM_MAX} dimensions"
            )));
        }
        if self.rows != Precision::default() && !matches!(self.algorithm, Algorithm::Ials(_)) {
            return Err(Error::Invalid("rows are rounded by iALS alone".into()));
        }
        if self.loss != softmax::Loss::default() && dim.is_none() {
            return Err(Error::Invalid("a loss is of sampled softmax and towers".into()));
        }
        if self.staleness > STALENESS_MAX || (self.staleness > 0 && !matches!(self.algorithm, Algorithm::Softmax(_))) {
            return Err(Error::Invalid(format!("a staleness is 0 to {STALENESS_MAX}, of sampled softmax")));
        }
        if let Some(filter) = &self.filter {
            filter.validate()?;
            if self.evaluate.is_none() || matches!(self.algorithm, Algorithm::Graph(_)) {
                return Err(Error::Invalid(
                    "a blend is of a graph filter and another family, and needs something held out".into(),
                ));
            }
        }
        let Some(evaluate) = &self.evaluate else { return Ok(()) };
        if let HoldOut::Newest(fraction) | HoldOut::Random(fraction) = evaluate.hold_out
            && !(fraction > 0.0 && fraction < 1.0)
        {
            return Err(Error::Invalid("evaluate.hold_out must lie between 0 and 1".into()));
        }
        let cutoffs = &evaluate.cutoffs;
        if cutoffs.is_empty() || cutoffs.len() > 16 || cutoffs.iter().any(|k| !(1..=1000).contains(k)) {
            return Err(Error::Invalid("evaluate.cutoffs takes 1 to 16 numbers from 1 to 1000".into()));
        }
        Ok(())
    }
}

/// Which items are in a model: what is left out is as if nobody liked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Least positives of an item, from 1 (all) on.
    pub min_positives: u32,
    /// Most items, the most liked ones; those with equally many positives as the first that is left out are left out, too.
    pub items_max: Option<u64>,
}

impl Default for Admission {
    fn default() -> Self {
        Self { min_positives: 1, items_max: None }
    }
}

/// A part of an earlier version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// Hash of its bytes.
    pub blake3: [u8; 32],
    /// Length.
    pub bytes: u64,
    /// Nodes that had it when it was made.
    pub holders: Vec<u64>,
}

/// What a job goes on from: the item rows of an earlier version of the same family and dimension. Only the model that is published does; one that
/// is measured trains from nothing, because the earlier version has seen what is held out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its parts, by virtual worker of items.
    pub parts: Vec<Earlier>,
    /// Passes from there, 1..=1000.
    pub epochs: u16,
}

/// How a job keeps what it has done, so that another attempt on the same input goes on from there.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoints {
    /// Names the input: attempts of equal names read the same users and items, bit for bit.
    pub input: [u8; 32],
    /// Who keeps a second copy of what each virtual worker's host keeps; the host itself where nobody else may have it.
    pub keepers: Hosts,
    /// Nodes that may have kept something for an earlier attempt.
    pub nodes: Vec<u64>,
    /// Least time between two.
    pub every: Duration,
}

/// Everything that a driver needs to run a job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobPlan {
    /// The job's id in the catalog.
    pub job: u64,
    /// Raised whenever the job is started again; older ones are refused everywhere.
    pub epoch: u64,
    /// Its settings.
    pub settings: JobSettings,
    /// What its last model goes on from; none: it trains from nothing.
    pub base: Option<Base>,
    /// Who hosts what.
    pub hosts: Hosts,
    /// What is kept on the way; none: an attempt that fails has to be repeated from the start.
    pub checkpoints: Option<Checkpoints>,
    /// Longest that one phase may take on a host (load, link, half a pass, evaluation).
    pub phase_timeout: Duration,
    /// Longest that one page between hosts may take.
    pub page_timeout: Duration,
}

impl JobPlan {
    /// Checks its settings and hosts, and that it can go on from its base.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        self.settings.validate()?;
        self.hosts.validate()?;
        let Some(base) = &self.base else { return Ok(()) };
        let is_ials = matches!(self.settings.algorithm, Algorithm::Ials(_)) && self.settings.filter.is_none();
        if !is_ials || self.settings.evaluate.as_ref().is_some_and(|evaluate| !evaluate.retrain) {
            return Err(Error::Invalid("only iALS that trains on everything goes on from an earlier version".into()));
        }
        if base.parts.len() != usize::from(VWORKERS) {
            return Err(Error::Invalid(format!("a version has {VWORKERS} parts, not {}", base.parts.len())));
        }
        self.last().validate()
    }

    /// The model that is published.
    pub(crate) fn last(&self) -> Algorithm {
        match (&self.base, self.settings.algorithm.clone()) {
            (Some(base), Algorithm::Ials(settings)) => Algorithm::Ials(Settings { epochs: base.epochs, ..settings }),
            (_, algorithm) => algorithm,
        }
    }

    /// Every node that takes part, sorted.
    pub(crate) fn nodes(&self) -> Vec<u64> {
        let mut nodes = self.hosts.nodes();
        nodes.extend(self.checkpoints.iter().flat_map(|checkpoints| checkpoints.keepers.nodes()));
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What has just been done.
    pub phase: Phase,
    /// Passes (or rounds) done, of `epochs`; counts from the start again when a measured job trains on everything.
    pub epoch: u16,
    /// Passes (or rounds) to do.
    pub epochs: u16,
    /// True while the model that is only measured is trained.
    pub is_measuring: bool,
    /// The objective after this pass (`docent_model::Settings`).
    pub loss: Option<f64>,
    /// Since the job started.
    pub seconds: f64,
    /// Bytes that hosts have pulled from one another so far.
    pub bytes_pulled: u64,
    /// What hosts have spent between their own answers and the slowest host's so far, in seconds, summed over hosts.
    pub waited_seconds: f64,
    /// How many hosts there are.
    pub hosts: u32,
}

/// Steps of a job, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Hosts have read and sorted their input.
    Load,
    /// Item tables and adjacency are exchanged, first rows made.
    Link,
    /// A pass over users and items is done.
    Epoch,
    /// The neighbours of a share of the items are counted.
    Count,
    /// The weights of a blend are found.
    Weigh,
    /// Held-out positives are measured.
    Evaluate,
    /// Parts are stored.
    Publish,
}

/// An immutable file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Its item slots, `[first, end)`; none for the global part.
    pub slots: Option<(u16, u16)>,
    /// Hash of its bytes; does not depend on hosts, job or version number.
    pub blake3: [u8; 32],
    /// Length.
    pub bytes: u64,
    /// Rows in it (for the global part: rows of the model).
    pub rows: u64,
    /// The node that stored it; 0 for the global part, which the driver hands over in [`Outcome::global`].
    pub node: u64,
}

/// Sizes of what was trained on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Users with at least one positive.
    pub users: u64,
    /// Items with at least one positive.
    pub items: u64,
    /// Pairs trained on.
    pub positives: u64,
    /// Pairs held out.
    pub held_out: u64,
}

impl Counts {
    /// Adds what another host has; items are their owners' to count.
    pub(crate) fn add(&mut self, host: Counts) {
        self.users += host.users;
        self.positives += host.positives;
        self.held_out += host.held_out;
    }
}

/// A finished job.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The 64 item parts by slot, then the global one.
    pub parts: Vec<PartInfo>,
    /// Bytes of the global part, for the caller to store.
    pub global: Bytes,
    /// One a cut-off when the job measured.
    pub reports: Vec<Report>,
    /// What the published model was trained on.
    pub counts: Counts,
    /// The objective after each pass of the published model.
    pub losses: Vec<f64>,
    /// Bytes pulled between hosts over the whole job.
    pub bytes_pulled: u64,
}
