//! What a training job does: a family of models with its own settings, and what all families share.
//!
//! Clients give and read settings flat ([`GivenSettings`]: JSON, protobuf, flags); inside, each family has its own type, so that a job has
//! exactly the settings that its training reads.

mod families;
mod given;
mod norm;
mod stored;

pub use given::GivenSettings;
pub use norm::ItemNorm;

use crate::codec;
use crate::error::{Error, Result};
use families::within;
use serde::{Deserialize, Serialize};
use stored::{Plain, Stored, Then};

/// What a training job does.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSettings {
    /// The family of the model.
    pub algorithm: Algorithm,
    /// Seed of every random number.
    pub seed: u64,
    /// Share of each user's positives held out for the evaluation, 0 (none) to 0.5.
    pub holdout: f64,
    /// Which positives are held out.
    pub split: Split,
    /// Which items are in the model.
    pub admission: Admission,
    /// After the evaluation, train again on everything.
    pub refit: bool,
    /// Activate the version as soon as it is staged.
    pub activate: bool,
}

/// Which items are in a model. What is left out is as what nobody liked: users are trained on the rest of their history, and the item is served as a new
/// one until a later version takes it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Least positives of an item, 1 (all items) to 1,000,000.
    pub min_positives: u32,
    /// Most items, the most liked ones: those with equally many as the first that is left out are left out, too. None: no bound.
    pub items_max: Option<u64>,
}

impl Default for Admission {
    /// Everything.
    fn default() -> Self {
        Admission { min_positives: 1, items_max: None }
    }
}

impl Admission {
    fn validate(self) -> Result<()> {
        within("min_positives", self.min_positives, 1..=1_000_000, "must be 1 to 1000000")?;
        within("items_max", self.items_max.unwrap_or(1), 1..=u64::MAX, "must be above 0")
    }
}

/// A family of models with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub enum Algorithm {
    /// Matrix factorisation by implicit alternating least squares.
    Ials(Ials),
    /// The item-item graph filter, item-kNN by cosine included.
    Graph(Graph),
    /// Matrix factorisation by sampled softmax, whose users are their histories.
    Softmax(Box<Softmax>),
    /// Two towers.
    Tower(Box<Tower>),
    /// The graph filter and one of the others in one ranking.
    Blend(Box<Blend>),
}

/// Settings of a blend (`docent_model::blend`): those of its models. Its weights are learned on what the evaluation holds out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blend {
    /// The graph filter.
    pub graph: Graph,
    /// What it is blended with.
    pub with: Partner,
}

/// What a graph filter is blended with: a model with a vector for each item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Partner {
    /// See [`Algorithm::Ials`].
    Ials(Ials),
    /// See [`Algorithm::Softmax`].
    Softmax(Softmax),
    /// See [`Algorithm::Tower`].
    Tower(Tower),
}

/// Settings of iALS (`docent_model::Settings`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ials {
    /// Dimensions of the factors, 1 to 512.
    pub dim: u32,
    /// Passes over both sides, 1 to 1,000.
    pub epochs: u32,
    /// Weight of an unobserved pair, above 0 and at most 1.
    pub unobserved_weight: f64,
    /// Regularisation, above 0.
    pub regularization: f64,
    /// Frequency scaling exponent of the regularisation, 0 to 1.
    pub frequency_scaling: f64,
    /// What rows are rounded to between half passes, and sent in. Stored beside the others (`Stored`), as the next.
    #[serde(skip)]
    pub row_precision: Precision,
    /// Goes on from an earlier version. Stored beside the others (`Stored`).
    #[serde(skip)]
    pub warm: Option<Warm>,
}

/// What values are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// 32 bits: not at all.
    #[default]
    F32,
    /// bfloat16: half the bytes between hosts.
    Bf16,
}

impl Precision {
    /// Its name for clients.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The precision of a name.
    ///
    /// # Errors
    /// `Invalid` for another name.
    pub fn named(name: &str) -> Result<Precision> {
        let known = [Precision::F32, Precision::Bf16].into_iter().find(|precision| precision.name() == name);
        known
            .ok_or_else(|| Error::invalid("row_precision", format!("unknown row_precision {name:?}; known: f32, bf16")))
    }
}

/// How a job goes on from an earlier version instead of training from nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warm {
    /// Passes over both sides from there, 1 to 1,000.
    pub epochs: u32,
    /// The version; the one that is live when the job is queued where none is named. If it is of another family or dimension, or none is live,
    /// the job trains from nothing.
    pub from: Option<u64>,
}

/// Settings of the graph filter (`docent_model::graph`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// Exponent of a user's number of positives, 0 to 2.
    pub user_exponent: f64,
    /// Exponent of the number of positives of an item in the history, 0 to 2.
    pub source_exponent: f64,
    /// Exponent of the number of positives of a recommended item, 0 to 2.
    pub target_exponent: f64,
    /// Power of a weight, above 0 and at most 4.
    pub power: f64,
    /// Strongest neighbours kept of each item, 1 to 10,000.
    pub neighbours: u32,
    /// Exponent of what the weights of an item in the history add up to, 0 to 2.
    pub source_mass_exponent: f64,
    /// Exponent of what the weights of a recommended item add up to, 0 to 2.
    pub target_mass_exponent: f64,
    /// Power of a user's inverse frequency, 0 (none) to 8. Stored beside the others (`Stored`).
    #[serde(skip)]
    pub idf_power: f64,
    /// What the exponents of items are of. Stored beside the others.
    #[serde(skip)]
    pub item_norm: ItemNorm,
}

/// Settings of sampled softmax (`docent_model::softmax`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {
    /// Dimensions of the vectors, 1 to 512.
    pub dim: u32,
    /// Passes over all positives, 1 to 1,000.
    pub epochs: u32,
    /// Positives of a step over all nodes, about: 64 to 16,777,216.
    pub batch: u32,
    /// Negatives drawn a step, 16 to 65,536.
    pub negatives: u32,
    /// Divides scores, 0.02 to 1.
    pub temperature: f64,
    /// Parts that a history is cut into, 2 to 64.
    pub folds: u32,
    /// Length of a vector's first step, above 0 and at most 10.
    pub learning_rate: f64,
    /// Exponent of an item's number of positives in the distribution of negatives, 0 to 2.
    pub popularity_exponent: f64,
    /// Share of the negatives that are drawn uniformly, 0.01 to 1.
    pub uniform_share: f64,
    /// Exponent of an item's number of positives in how much it counts beside its vector, 0 (none) to 2. Stored beside the others (`Stored`).
    #[serde(skip)]
    pub popularity_bias: f64,
    /// What is minimised. Stored beside the others, as the bias.
    #[serde(skip)]
    pub loss: Loss,
    /// How many steps nodes may be apart, and older what a step reads is: 0 (none) to 16. Not with towers. Stored beside the others.
    #[serde(skip)]
    pub staleness: u32,
}

/// What tells a user's items from negatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// One of the user's against all negatives at once.
    #[default]
    Softmax,
    /// One of the user's against each negative by itself: Bayesian personalised ranking.
    Bpr,
}

impl Loss {
    /// Its name for clients.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Softmax => "softmax",
            Loss::Bpr => "bpr",
        }
    }

    /// The loss of a name.
    ///
    /// # Errors
    /// `Invalid` for another name.
    pub fn named(name: &str) -> Result<Loss> {
        let known = [Loss::Softmax, Loss::Bpr].into_iter().find(|loss| loss.name() == name);
        known.ok_or_else(|| Error::invalid("loss", format!("unknown loss {name:?}; known: softmax, bpr")))
    }
}

/// Settings of two towers (`docent_model::tower`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tower {
    /// What they share with sampled softmax.
    pub softmax: Softmax,
    /// Hidden units of the user tower, a multiple of 16 up to 512; 0 for none.
    pub user_hidden: u32,
    /// Hidden units of the item tower, likewise.
    pub item_hidden: u32,
    /// First rate of the towers' weights, above 0 and at most 1.
    pub dense_rate: f64,
}

/// Which of a user's positives are held out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// The newest ones.
    #[default]
    Time,
    /// Ones drawn by the seed.
    Random,
}

impl Split {
    /// Its name for clients.
    pub fn name(self) -> &'static str {
        match self {
            Split::Time => "time",
            Split::Random => "random",
        }
    }

    /// The split of a name.
    ///
    /// # Errors
    /// `Invalid` for another name.
    pub fn named(name: &str) -> Result<Split> {
        let known = [Split::Time, Split::Random].into_iter().find(|split| split.name() == name);
        known.ok_or_else(|| Error::invalid("split", format!("unknown split {name:?}; known: time, random")))
    }
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            algorithm: Algorithm::Ials(Ials::default()),
            seed: 42,
            holdout: 0.1,
            split: Split::Time,
            admission: Admission::default(),
            refit: true,
            activate: true,
        }
    }
}

impl Default for Ials {
    fn default() -> Self {
        Ials {
            dim: 64,
            epochs: 10,
            unobserved_weight: 0.01,
            regularization: 0.003,
            frequency_scaling: 1.0,
            row_precision: Precision::F32,
            warm: None,
        }
    }
}

impl Default for Graph {
    /// Chosen on held-out training data of gowalla (decision 0015).
    fn default() -> Self {
        Graph {
            user_exponent: 0.7,
            source_exponent: 0.6,
            target_exponent: 0.3,
            power: 1.2,
            neighbours: 200,
            source_mass_exponent: 0.0,
            target_mass_exponent: 0.0,
            idf_power: 0.0,
            item_norm: ItemNorm::Positives,
        }
    }
}

impl Default for Softmax {
    /// Chosen on held-out training data (decision 0018).
    fn default() -> Self {
        Softmax {
            dim: 64,
            epochs: 10,
            batch: 65_536,
            negatives: 16_384,
            temperature: 0.08,
            folds: 2,
            learning_rate: 2.0,
            popularity_exponent: 1.0,
            uniform_share: 0.5,
            popularity_bias: 0.0,
            loss: Loss::Softmax,
            staleness: 0,
        }
    }
}

impl Default for Tower {
    /// Chosen on held-out training data (decision 0019).
    fn default() -> Self {
        Tower { softmax: Softmax::default(), user_hidden: 16, item_hidden: 64, dense_rate: 2e-5 }
    }
}

impl Default for Blend {
    /// With iALS: three quarters of what sampled softmax adds, for a twelfth of the training (decision 0020).
    fn default() -> Self {
        Blend { graph: Graph::default(), with: Partner::Ials(Ials::default()) }
    }
}

impl TrainSettings {
    /// Checks every range.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub fn validate(&self) -> Result<()> {
        match &self.algorithm {
            Algorithm::Ials(ials) => ials.validate()?,
            Algorithm::Graph(graph) => graph.validate()?,
            Algorithm::Softmax(softmax) => softmax.validate()?,
            Algorithm::Tower(tower) => tower.validate()?,
            Algorithm::Blend(blend) => blend.validate()?,
        }
        within("holdout", self.holdout, 0.0..=0.5, "must be 0 to 0.5")?;
        self.admission.validate()?;
        if matches!(self.algorithm, Algorithm::Blend(_)) && self.holdout == 0.0 {
            return Err(Error::invalid(
                "holdout",
                "holdout must be above 0: a blend learns its weights on what is held out",
            ));
        }
        if matches!(&self.algorithm, Algorithm::Ials(Ials { warm: Some(_), .. })) && self.holdout > 0.0 && !self.refit {
            return Err(Error::invalid(
                "warm_epochs",
                "warm_epochs needs refit: the version to start from has seen what is held out, so the measured model starts from nothing",
            ));
        }
        Ok(())
    }

    /// Refuses a version to go on from: a schedule must leave it to each of its jobs which version is live then.
    ///
    /// # Errors
    /// `Invalid`, naming the setting.
    pub fn outlast_versions(&self) -> Result<()> {
        match self.algorithm.warm() {
            Some(Warm { from: Some(_), .. }) => Err(Error::invalid(
                "warm_from",
                "jobs that are queued later go on from the version that is live then: leave warm_from out",
            )),
            _ => Ok(()),
        }
    }

    /// The lowest format that can express these settings (decision 0012).
    pub fn format(&self) -> u32 {
        match &self.algorithm {
            algorithm if self.admission != Admission::default() || algorithm.is_of_format_8() => ADMISSION,
            algorithm if algorithm.is_latest() => WARM,
            Algorithm::Blend(_) => BLENDS,
            algorithm if algorithm.popularity_bias() != 0.0 => BLENDS,
            Algorithm::Tower(_) => LATER,
            Algorithm::Graph(graph) if !Plain::can_say(graph) => LATER,
            _ if Then::can_say(self) => codec::OLDEST.into(),
            _ => FAMILIES,
        }
    }
}

impl Algorithm {
    /// The settings of sampled softmax in it, if there are any.
    pub fn softmax(&self) -> Option<&Softmax> {
        match self {
            Algorithm::Softmax(softmax) => Some(softmax),
            Algorithm::Tower(tower) => Some(&tower.softmax),
            Algorithm::Blend(blend) => match &blend.with {
                Partner::Softmax(softmax) => Some(softmax),
                Partner::Tower(tower) => Some(&tower.softmax),
                Partner::Ials(_) => None,
            },
            Algorithm::Ials(_) | Algorithm::Graph(_) => None,
        }
    }

    fn softmax_mut(&mut self) -> Option<&mut Softmax> {
        match self {
            Algorithm::Softmax(softmax) => Some(softmax),
            Algorithm::Tower(tower) => Some(&mut tower.softmax),
            Algorithm::Blend(blend) => match &mut blend.with {
                Partner::Softmax(softmax) => Some(softmax),
                Partner::Tower(tower) => Some(&mut tower.softmax),
                Partner::Ials(_) => None,
            },
            Algorithm::Ials(_) | Algorithm::Graph(_) => None,
        }
    }

    /// The version that a job goes on from, and for how many passes.
    pub fn warm(&self) -> Option<Warm> {
        match self {
            Algorithm::Ials(ials) => ials.warm,
            _ => None,
        }
    }

    /// What rows are rounded to.
    pub fn row_precision(&self) -> Precision {
        match self {
            Algorithm::Ials(ials) => ials.row_precision,
            Algorithm::Blend(blend) => match &blend.with {
                Partner::Ials(ials) => ials.row_precision,
                Partner::Softmax(_) | Partner::Tower(_) => Precision::F32,
            },
            Algorithm::Graph(_) | Algorithm::Softmax(_) | Algorithm::Tower(_) => Precision::F32,
        }
    }

    fn ials_mut(&mut self) -> Option<&mut Ials> {
        match self {
            Algorithm::Ials(ials) => Some(ials),
            Algorithm::Blend(blend) => match &mut blend.with {
                Partner::Ials(ials) => Some(ials),
                Partner::Softmax(_) | Partner::Tower(_) => None,
            },
            Algorithm::Graph(_) | Algorithm::Softmax(_) | Algorithm::Tower(_) => None,
        }
    }

    /// Names the version to go on from: `live`, where none is named.
    pub fn settle_warm(&mut self, live: Option<u64>) {
        if let Algorithm::Ials(Ials { warm: Some(warm), .. }) = self {
            warm.from = warm.from.or(live);
        }
    }

    /// Whether a version of `earlier` can be gone on from.
    pub fn continues(&self, earlier: &Algorithm) -> bool {
        matches!((self, earlier), (Algorithm::Ials(next), Algorithm::Ials(ials)) if next.dim == ials.dim)
    }

    /// How many steps nodes may be apart.
    pub fn staleness(&self) -> u32 {
        self.softmax().map_or(0, |softmax| softmax.staleness)
    }

    /// The settings of the graph filter in it, if there are any.
    pub fn graph(&self) -> Option<&Graph> {
        match self {
            Algorithm::Graph(graph) => Some(graph),
            Algorithm::Blend(blend) => Some(&blend.graph),
            Algorithm::Ials(_) | Algorithm::Softmax(_) | Algorithm::Tower(_) => None,
        }
    }

    fn graph_mut(&mut self) -> Option<&mut Graph> {
        match self {
            Algorithm::Graph(graph) => Some(graph),
            Algorithm::Blend(blend) => Some(&mut blend.graph),
            Algorithm::Ials(_) | Algorithm::Softmax(_) | Algorithm::Tower(_) => None,
        }
    }

    /// Whether it has a setting that came with format 8.
    fn is_of_format_8(&self) -> bool {
        let is_newer = |graph: &Graph| graph.idf_power > 0.0 || graph.item_norm != ItemNorm::Positives;
        self.staleness() > 0 || self.graph().is_some_and(is_newer)
    }

    /// Whether only the layout that came with warm starts and losses can say it.
    fn is_latest(&self) -> bool {
        self.warm().is_some()
            || self.is_of_format_8()
            || self.row_precision() != Precision::F32
            || self.softmax().is_some_and(|softmax| softmax.loss != Loss::Softmax)
    }

    /// The exponent of the bias by popularity, 0 for none.
    pub fn popularity_bias(&self) -> f64 {
        self.softmax().map_or(0.0, |softmax| softmax.popularity_bias)
    }

    /// Its name for clients.
    pub fn name(&self) -> &'static str {
        match self {
            Algorithm::Ials(_) => IALS,
            Algorithm::Graph(_) => GRAPH,
            Algorithm::Softmax(_) => SOFTMAX,
            Algorithm::Tower(_) => TOWER,
            Algorithm::Blend(_) => BLEND,
        }
    }
}

const IALS: &str = "ials";
const GRAPH: &str = "graph";
const SOFTMAX: &str = "softmax";
const TOWER: &str = "tower";
const BLEND: &str = "blend";

/// The format that came with other families than iALS.
const FAMILIES: u32 = 4;
/// The format that came with two towers, and with masses in the graph filter.
const LATER: u32 = 5;
/// The format that came with blends, and with a bias by popularity.
const BLENDS: u32 = 6;
/// The format that came with warm starts, and with choices of the loss and of the rows' precision.
const WARM: u32 = 7;
/// The format that came with admission, with a staleness, and with inverse frequencies and other norms in the graph filter.
const ADMISSION: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> TrainSettings {
        TrainSettings { algorithm: Algorithm::Graph(Graph::default()), ..TrainSettings::default() }
    }

    fn softmax() -> TrainSettings {
        TrainSettings { algorithm: Algorithm::Softmax(Box::default()), ..TrainSettings::default() }
    }

    fn tower() -> TrainSettings {
        TrainSettings { algorithm: Algorithm::Tower(Box::default()), ..TrainSettings::default() }
    }

    fn blends() -> [TrainSettings; 3] {
        let partners =
            [Partner::Ials(Ials::default()), Partner::Softmax(Softmax::default()), Partner::Tower(Tower::default())];
        partners.map(|with| {
            let blend = Blend { with, ..Blend::default() };
            TrainSettings { algorithm: Algorithm::Blend(Box::new(blend)), ..TrainSettings::default() }
        })
    }

    /// Every family that has one, with a bias.
    fn biased() -> Vec<TrainSettings> {
        let [_, softmax_blend, tower_blend] = blends();
        let with_bias = |mut settings: TrainSettings| {
            settings.algorithm.softmax_mut().unwrap().popularity_bias = 0.5;
            settings
        };
        [softmax(), tower(), softmax_blend, tower_blend].into_iter().map(with_bias).collect()
    }

    /// What format 7 came with: a warm start, and another loss of every family that has one.
    fn latest() -> Vec<TrainSettings> {
        let warm = |from| Algorithm::Ials(Ials { warm: Some(Warm { epochs: 2, from }), ..Ials::default() });
        let rounded = |mut settings: TrainSettings| {
            settings.algorithm.ials_mut().unwrap().row_precision = Precision::Bf16;
            settings
        };
        let [ials_blend, ..] = blends();
        let rounded = [TrainSettings::default(), ials_blend].map(rounded);
        let warm = [None, Some(7)].map(|from| TrainSettings { algorithm: warm(from), ..TrainSettings::default() });
        let with_loss = |mut settings: TrainSettings| {
            settings.algorithm.softmax_mut().unwrap().loss = Loss::Bpr;
            settings
        };
        warm.into_iter().chain(rounded).chain([softmax(), tower()].into_iter().chain(biased()).map(with_loss)).collect()
    }

    /// What format 8 came with.
    fn admitted() -> Vec<TrainSettings> {
        let admission = Admission { min_positives: 5, items_max: Some(1_000) };
        let admitted = [TrainSettings::default(), graph(), tower()].into_iter().chain(latest());
        let stale = |mut settings: TrainSettings| {
            settings.algorithm.softmax_mut().unwrap().staleness = 3;
            settings
        };
        let [_, softmax_blend, _] = blends();
        let mut all: Vec<TrainSettings> = admitted.map(|settings| TrainSettings { admission, ..settings }).collect();
        all.extend([softmax(), softmax_blend, TrainSettings { admission, ..softmax() }].map(stale));
        let [blend, ..] = blends();
        for (idf_power, item_norm) in
            [(2.0, ItemNorm::Positives), (0.0, ItemNorm::Weights), (2.0, ItemNorm::Length(0.75))]
        {
            all.extend([graph(), blend.clone()].map(|mut settings| {
                let given = settings.algorithm.graph_mut().unwrap();
                (given.idf_power, given.item_norm) = (idf_power, item_norm);
                settings
            }));
        }
        all
    }

    #[test]
    fn settings_outside_their_ranges_are_refused_by_name() {
        assert_eq!(GivenSettings::default().settings().unwrap(), TrainSettings::default());
        let of = |algorithm: &str| GivenSettings { algorithm: Some(algorithm.into()), ..Default::default() };
        let bad = [
            ("dim", GivenSettings { dim: Some(0), ..Default::default() }),
            ("epochs", GivenSettings { epochs: Some(0), ..Default::default() }),
            ("unobserved_weight", GivenSettings { unobserved_weight: Some(f64::NAN), ..Default::default() }),
            ("regularization", GivenSettings { regularization: Some(-1.0), ..Default::default() }),
            ("holdout", GivenSettings { holdout: Some(0.6), ..Default::default() }),
            ("split", GivenSettings { split: Some("fair".into()), ..Default::default() }),
            ("algorithm", of("magic")),
            ("power", GivenSettings { power: Some(0.0), ..of("graph") }),
            ("user_exponent", GivenSettings { user_exponent: Some(f64::NAN), ..of("graph") }),
            ("neighbours", GivenSettings { neighbours: Some(0), ..of("graph") }),
            ("dim", GivenSettings { dim: Some(64), ..of("graph") }),
            ("temperature", GivenSettings { temperature: Some(0.0), ..of("softmax") }),
            ("folds", GivenSettings { folds: Some(1), ..of("softmax") }),
            ("uniform_share", GivenSettings { uniform_share: Some(0.0), ..of("softmax") }),
            ("power", GivenSettings { power: Some(1.0), ..of("softmax") }),
            ("user_hidden", GivenSettings { user_hidden: Some(16), ..of("softmax") }),
            ("user_hidden", GivenSettings { user_hidden: Some(8), ..of("tower") }),
            ("item_hidden", GivenSettings { item_hidden: Some(u32::MAX), ..of("tower") }),
            ("item_hidden", GivenSettings { item_hidden: Some(512), dim: Some(512), ..of("tower") }),
            ("dense_rate", GivenSettings { dense_rate: Some(0.0), ..of("tower") }),
            ("folds", GivenSettings { folds: Some(1), ..of("tower") }),
            ("neighbours", GivenSettings { neighbours: Some(64), ..of("ials") }),
            ("blend_with", GivenSettings { blend_with: Some("ials".into()), ..of("ials") }),
            ("blend_with", GivenSettings { blend_with: Some("graph".into()), ..of("blend") }),
            ("batch", GivenSettings { batch: Some(4096), ..of("blend") }),
            ("power", GivenSettings { power: Some(9.0), ..of("blend") }),
            ("dim", GivenSettings { dim: Some(0), ..of("blend") }),
            ("holdout", GivenSettings { holdout: Some(0.0), ..of("blend") }),
            ("popularity_bias", GivenSettings { popularity_bias: Some(2.5), ..of("softmax") }),
            ("popularity_bias", GivenSettings { popularity_bias: Some(0.5), ..of("ials") }),
            ("dim", GivenSettings { popularity_bias: Some(0.5), dim: Some(512), ..of("tower") }),
            ("row_precision", GivenSettings { row_precision: Some("f8".into()), ..of("ials") }),
            ("row_precision", GivenSettings { row_precision: Some("bf16".into()), ..of("graph") }),
            ("loss", GivenSettings { loss: Some("hinge".into()), ..of("softmax") }),
            ("loss", GivenSettings { loss: Some("bpr".into()), ..of("ials") }),
            ("warm_epochs", GivenSettings { warm_epochs: Some(1_001), ..of("ials") }),
            ("warm_epochs", GivenSettings { warm_epochs: Some(1), refit: Some(false), ..of("ials") }),
            ("warm_epochs", GivenSettings { warm_epochs: Some(1), ..of("softmax") }),
            ("warm_epochs", GivenSettings { warm_epochs: Some(1), ..of("blend") }),
            ("warm_from", GivenSettings { warm_from: Some(1), ..of("ials") }),
            ("staleness", GivenSettings { staleness: Some(17), ..of("softmax") }),
            ("staleness", GivenSettings { staleness: Some(1), ..of("tower") }),
            ("staleness", GivenSettings { staleness: Some(1), ..of("graph") }),
            ("min_positives", GivenSettings { min_positives: Some(0), ..of("ials") }),
            ("items_max", GivenSettings { items_max: Some(0), ..of("blend") }),
            ("idf_power", GivenSettings { idf_power: Some(-1.0), ..of("graph") }),
            ("idf_power", GivenSettings { idf_power: Some(2.0), ..of("softmax") }),
            ("item_norm", GivenSettings { item_norm: Some("l2".into()), ..of("blend") }),
            ("item_norm", GivenSettings { item_norm: Some("weights".into()), ..of("ials") }),
            ("length_share", GivenSettings { length_share: Some(0.5), ..of("graph") }),
            (
                "length_share",
                GivenSettings { item_norm: Some("length".into()), length_share: Some(1.5), ..of("graph") },
            ),
        ];
        for (field, given) in bad {
            assert_eq!(given.settings().unwrap_err().field.as_deref(), Some(field));
        }
    }

    #[test]
    fn what_is_given_comes_back_flat() {
        let other = TrainSettings { split: Split::Random, seed: 7, ..graph() };
        for settings in [TrainSettings::default(), other, softmax(), tower()]
            .into_iter()
            .chain(blends())
            .chain(biased())
            .chain(latest())
            .chain(admitted())
        {
            assert_eq!(GivenSettings::from(&settings).settings().unwrap(), settings);
        }
    }

    #[test]
    fn ials_has_the_layout_of_format_2_and_what_came_later_another() {
        let then = ("ials", 64u32, 10u32, 0.01f64, 0.003f64, 1.0f64, 42u64, 0.1f64, true, true);
        assert_eq!(codec::encode(&TrainSettings::default()), codec::encode(&then));
        assert_eq!(TrainSettings::default().format(), 2);
        let random = TrainSettings { split: Split::Random, ..TrainSettings::default() };
        for settings in [TrainSettings::default(), graph(), softmax(), tower(), random]
            .into_iter()
            .chain(blends())
            .chain(biased())
            .chain(latest())
            .chain(admitted())
        {
            // Something follows, as it does wherever settings are kept.
            let bytes = codec::encode_in(settings.format(), &(&settings, 5u8));
            assert_eq!(u32::from(bytes[0]), settings.format());
            assert_eq!(codec::decode::<(TrainSettings, u8)>("settings", &bytes).unwrap(), (settings, 5));
        }
        let unknown = codec::encode(&("magic", 1u8, 1u8, 1u8, 1u8));
        assert_eq!(codec::decode::<TrainSettings>("settings", &unknown).unwrap_err().kind, crate::Kind::Unsupported);
    }
}
