//! What a training job does: a family of models with its own settings, and what all families share.
//!
//! Clients give and read settings flat ([`GivenSettings`]: JSON, protobuf, flags); inside, each family has its own type, so that a job has
//! exactly the settings that its training reads.

mod given;

pub use given::GivenSettings;

use crate::codec;
use crate::error::{Error, Result};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

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
    /// After the evaluation, train again on everything.
    pub refit: bool,
    /// Activate the version as soon as it is staged.
    pub activate: bool,
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
            refit: true,
            activate: true,
        }
    }
}

impl Default for Ials {
    fn default() -> Self {
        Ials { dim: 64, epochs: 10, unobserved_weight: 0.01, regularization: 0.003, frequency_scaling: 1.0 }
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
        }
    }
}

impl Default for Tower {
    /// Chosen on held-out training data (decision 0019).
    fn default() -> Self {
        Tower { softmax: Softmax::default(), user_hidden: 16, item_hidden: 64, dense_rate: 2e-5 }
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
        }
        within("holdout", self.holdout, 0.0..=0.5, "must be 0 to 0.5")
    }

    /// The lowest format that can express these settings (decision 0012).
    pub fn format(&self) -> u32 {
        match &self.algorithm {
            Algorithm::Tower(_) => LATER,
            Algorithm::Graph(graph) if !Plain::can_say(graph) => LATER,
            _ if Then::can_say(self) => codec::OLDEST.into(),
            _ => FAMILIES,
        }
    }
}

impl Algorithm {
    /// Its name for clients.
    pub fn name(&self) -> &'static str {
        match self {
            Algorithm::Ials(_) => IALS,
            Algorithm::Graph(_) => GRAPH,
            Algorithm::Softmax(_) => SOFTMAX,
            Algorithm::Tower(_) => TOWER,
        }
    }
}

const IALS: &str = "ials";
const GRAPH: &str = "graph";
const SOFTMAX: &str = "softmax";
const TOWER: &str = "tower";

/// The format that came with other families than iALS.
const FAMILIES: u32 = 4;
/// The format that came with two towers, and with masses in the graph filter.
const LATER: u32 = 5;

impl Ials {
    fn validate(&self) -> Result<()> {
        within("dim", self.dim, 1..=512, "must be 1 to 512")?;
        within("epochs", self.epochs, 1..=1_000, "must be 1 to 1000")?;
        above_zero("unobserved_weight", self.unobserved_weight, 1.0, "must be above 0 and at most 1")?;
        above_zero("regularization", self.regularization, f64::MAX, "must be a positive number")?;
        within("frequency_scaling", self.frequency_scaling, 0.0..=1.0, "must be 0 to 1")
    }

    fn take(given: &mut GivenSettings) -> Ials {
        let default = Ials::default();
        Ials {
            dim: given.dim.take().unwrap_or(default.dim),
            epochs: given.epochs.take().unwrap_or(default.epochs),
            unobserved_weight: given.unobserved_weight.take().unwrap_or(default.unobserved_weight),
            regularization: given.regularization.take().unwrap_or(default.regularization),
            frequency_scaling: given.frequency_scaling.take().unwrap_or(default.frequency_scaling),
        }
    }
}

impl Graph {
    fn validate(&self) -> Result<()> {
        for (name, exponent) in [
            ("user_exponent", self.user_exponent),
            ("source_exponent", self.source_exponent),
            ("target_exponent", self.target_exponent),
            ("source_mass_exponent", self.source_mass_exponent),
            ("target_mass_exponent", self.target_mass_exponent),
        ] {
            within(name, exponent, 0.0..=2.0, "must be 0 to 2")?;
        }
        above_zero("power", self.power, 4.0, "must be above 0 and at most 4")?;
        within("neighbours", self.neighbours, 1..=10_000, "must be 1 to 10000")
    }

    fn take(given: &mut GivenSettings) -> Graph {
        let default = Graph::default();
        Graph {
            user_exponent: given.user_exponent.take().unwrap_or(default.user_exponent),
            source_exponent: given.source_exponent.take().unwrap_or(default.source_exponent),
            target_exponent: given.target_exponent.take().unwrap_or(default.target_exponent),
            power: given.power.take().unwrap_or(default.power),
            neighbours: given.neighbours.take().unwrap_or(default.neighbours),
            source_mass_exponent: given.source_mass_exponent.take().unwrap_or(default.source_mass_exponent),
            target_mass_exponent: given.target_mass_exponent.take().unwrap_or(default.target_mass_exponent),
        }
    }
}

impl Softmax {
    fn validate(&self) -> Result<()> {
        within("dim", self.dim, 1..=512, "must be 1 to 512")?;
        within("epochs", self.epochs, 1..=1_000, "must be 1 to 1000")?;
        within("batch", self.batch, 64..=1 << 24, "must be 64 to 16777216")?;
        within("negatives", self.negatives, 16..=65_536, "must be 16 to 65536")?;
        within("temperature", self.temperature, 0.02..=1.0, "must be 0.02 to 1")?;
        within("folds", self.folds, 2..=64, "must be 2 to 64")?;
        above_zero("learning_rate", self.learning_rate, 10.0, "must be above 0 and at most 10")?;
        within("popularity_exponent", self.popularity_exponent, 0.0..=2.0, "must be 0 to 2")?;
        within("uniform_share", self.uniform_share, 0.01..=1.0, "must be 0.01 to 1")
    }

    fn take(given: &mut GivenSettings) -> Softmax {
        let default = Softmax::default();
        Softmax {
            dim: given.dim.take().unwrap_or(default.dim),
            epochs: given.epochs.take().unwrap_or(default.epochs),
            batch: given.batch.take().unwrap_or(default.batch),
            negatives: given.negatives.take().unwrap_or(default.negatives),
            temperature: given.temperature.take().unwrap_or(default.temperature),
            folds: given.folds.take().unwrap_or(default.folds),
            learning_rate: given.learning_rate.take().unwrap_or(default.learning_rate),
            popularity_exponent: given.popularity_exponent.take().unwrap_or(default.popularity_exponent),
            uniform_share: given.uniform_share.take().unwrap_or(default.uniform_share),
        }
    }
}

impl Softmax {
    fn give(&self, shared: GivenSettings) -> GivenSettings {
        GivenSettings {
            dim: Some(self.dim),
            epochs: Some(self.epochs),
            batch: Some(self.batch),
            negatives: Some(self.negatives),
            temperature: Some(self.temperature),
            folds: Some(self.folds),
            learning_rate: Some(self.learning_rate),
            popularity_exponent: Some(self.popularity_exponent),
            uniform_share: Some(self.uniform_share),
            ..shared
        }
    }
}

impl Tower {
    fn validate(&self) -> Result<()> {
        self.softmax.validate()?;
        for (field, hidden) in [("user_hidden", self.user_hidden), ("item_hidden", self.item_hidden)] {
            within(field, hidden, 0..=512, "must be 0 to 512")?;
            if hidden % 16 != 0 {
                return Err(Error::invalid(field, format!("{field} must be a multiple of 16")));
            }
            within(field, hidden * self.softmax.dim, 0..=65_536, "must be at most 65536 over dim")?;
        }
        above_zero("dense_rate", self.dense_rate, 1.0, "must be above 0 and at most 1")
    }

    fn take(given: &mut GivenSettings) -> Tower {
        let default = Tower::default();
        Tower {
            softmax: Softmax::take(given),
            user_hidden: given.user_hidden.take().unwrap_or(default.user_hidden),
            item_hidden: given.item_hidden.take().unwrap_or(default.item_hidden),
            dense_rate: given.dense_rate.take().unwrap_or(default.dense_rate),
        }
    }
}

fn within<T: PartialOrd>(field: &str, value: T, range: std::ops::RangeInclusive<T>, must: &str) -> Result<()> {
    if range.contains(&value) { Ok(()) } else { Err(Error::invalid(field, format!("{field} {must}"))) }
}

fn above_zero(field: &str, value: f64, max: f64, must: &str) -> Result<()> {
    if value > 0.0 {
        within(field, value, 0.0..=max, must)
    } else {
        Err(Error::invalid(field, format!("{field} {must}")))
    }
}

/// The layout of format 2, when every model was of iALS and the newest positives were held out.
#[derive(Serialize, Deserialize)]
struct Then {
    algorithm: String,
    ials: Ials,
    seed: u64,
    holdout: f64,
    refit: bool,
    activate: bool,
}

impl Then {
    fn can_say(settings: &TrainSettings) -> bool {
        matches!(settings.algorithm, Algorithm::Ials(_)) && settings.split == Split::Time
    }
}

/// The layout of format 4: an empty name stands before it, which no algorithm of format 2 has.
#[derive(Serialize, Deserialize)]
struct Now {
    algorithm: Algorithm,
    seed: u64,
    holdout: f64,
    split: Split,
    refit: bool,
    activate: bool,
}

/// The stored layout of an algorithm; the order of the variants is part of it.
#[derive(Serialize, Deserialize)]
enum Stored {
    Ials(Ials),
    Graph(Plain),
    Softmax(Box<Softmax>),
    Tower(Box<Tower>),
    Balanced(Graph),
}

/// The graph filter of format 4, which has no masses.
#[derive(Serialize, Deserialize)]
struct Plain {
    user_exponent: f64,
    source_exponent: f64,
    target_exponent: f64,
    power: f64,
    neighbours: u32,
}

impl Plain {
    /// Whether members of format 4 take such settings.
    fn can_say(graph: &Graph) -> bool {
        graph.source_mass_exponent == 0.0 && graph.target_mass_exponent == 0.0 && graph.power <= 2.0
    }
}

impl From<Algorithm> for Stored {
    fn from(algorithm: Algorithm) -> Stored {
        match algorithm {
            Algorithm::Ials(ials) => Stored::Ials(ials),
            Algorithm::Graph(graph) if Plain::can_say(&graph) => {
                let Graph { user_exponent, source_exponent, target_exponent, power, neighbours, .. } = graph;
                Stored::Graph(Plain { user_exponent, source_exponent, target_exponent, power, neighbours })
            }
            Algorithm::Graph(graph) => Stored::Balanced(graph),
            Algorithm::Softmax(softmax) => Stored::Softmax(softmax),
            Algorithm::Tower(tower) => Stored::Tower(tower),
        }
    }
}

impl From<Stored> for Algorithm {
    fn from(stored: Stored) -> Algorithm {
        match stored {
            Stored::Ials(ials) => Algorithm::Ials(ials),
            Stored::Graph(Plain { user_exponent, source_exponent, target_exponent, power, neighbours }) => {
                let (source_mass_exponent, target_mass_exponent) = (0.0, 0.0);
                Algorithm::Graph(Graph {
                    user_exponent,
                    source_exponent,
                    target_exponent,
                    power,
                    neighbours,
                    source_mass_exponent,
                    target_mass_exponent,
                })
            }
            Stored::Balanced(graph) => Algorithm::Graph(graph),
            Stored::Softmax(softmax) => Algorithm::Softmax(softmax),
            Stored::Tower(tower) => Algorithm::Tower(tower),
        }
    }
}

impl Serialize for TrainSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return GivenSettings::from(self).serialize(serializer);
        }
        let TrainSettings { algorithm, seed, holdout, split, refit, activate } = self.clone();
        match algorithm {
            Algorithm::Ials(ials) if Then::can_say(self) => {
                Then { algorithm: IALS.to_owned(), ials, seed, holdout, refit, activate }.serialize(serializer)
            }
            algorithm => ("", Now { algorithm, seed, holdout, split, refit, activate }).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TrainSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return GivenSettings::deserialize(deserializer)?.settings().map_err(de::Error::custom);
        }
        // As many elements as the longer layout has; the shorter one leaves the rest of them to what follows.
        deserializer.deserialize_tuple(6, Layouts)
    }
}

/// Reads either layout by the name that it begins with.
struct Layouts;

impl<'de> Visitor<'de> for Layouts {
    type Value = TrainSettings;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the settings of a training job")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TrainSettings, A::Error> {
        fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(seq: &mut A) -> Result<T, A::Error> {
            seq.next_element()?.ok_or_else(|| de::Error::custom("the settings of a training job are cut off"))
        }
        match next::<String, A>(&mut seq)?.as_str() {
            "" => {
                let Now { algorithm, seed, holdout, split, refit, activate } = next(&mut seq)?;
                Ok(TrainSettings { algorithm, seed, holdout, split, refit, activate })
            }
            IALS => Ok(TrainSettings {
                algorithm: Algorithm::Ials(next(&mut seq)?),
                seed: next(&mut seq)?,
                holdout: next(&mut seq)?,
                split: Split::Time,
                refit: next(&mut seq)?,
                activate: next(&mut seq)?,
            }),
            other => Err(de::Error::custom(format!("unknown algorithm {other:?}"))),
        }
    }
}

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
        ];
        for (field, given) in bad {
            assert_eq!(given.settings().unwrap_err().field.as_deref(), Some(field));
        }
    }

    #[test]
    fn what_is_given_comes_back_flat() {
        let other = TrainSettings { split: Split::Random, seed: 7, ..graph() };
        for settings in [TrainSettings::default(), other, softmax(), tower()] {
            assert_eq!(GivenSettings::from(&settings).settings().unwrap(), settings);
        }
    }

    #[test]
    fn ials_has_the_layout_of_format_2_and_what_came_later_another() {
        let then = ("ials", 64u32, 10u32, 0.01f64, 0.003f64, 1.0f64, 42u64, 0.1f64, true, true);
        assert_eq!(codec::encode(&TrainSettings::default()), codec::encode(&then));
        assert_eq!(TrainSettings::default().format(), 2);
        let random = TrainSettings { split: Split::Random, ..TrainSettings::default() };
        for settings in [TrainSettings::default(), graph(), softmax(), tower(), random] {
            // Something follows, as it does wherever settings are kept.
            let bytes = codec::encode_in(settings.format(), &(&settings, 5u8));
            assert_eq!(u32::from(bytes[0]), settings.format());
            assert_eq!(codec::decode::<(TrainSettings, u8)>("settings", &bytes).unwrap(), (settings, 5));
        }
        let unknown = codec::encode(&("magic", 1u8, 1u8, 1u8, 1u8));
        assert_eq!(codec::decode::<TrainSettings>("settings", &unknown).unwrap_err().kind, crate::Kind::Unsupported);
    }
}
