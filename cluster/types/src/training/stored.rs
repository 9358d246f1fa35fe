//! Settings as they are stored and sent between members: one layout a format that changed them (decision 0012).
use super::{
    Admission, Algorithm, Blend, GivenSettings, Graph, IALS, Ials, ItemNorm, Loss, Precision, Softmax, Split, Tower,
    TrainSettings, Warm,
};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The layout of format 2, when every model was of iALS and the newest positives were held out.
#[derive(Serialize, Deserialize)]
pub(super) struct Then {
    algorithm: String,
    ials: Ials,
    seed: u64,
    holdout: f64,
    refit: bool,
    activate: bool,
}

impl Then {
    pub(super) fn can_say(settings: &TrainSettings) -> bool {
        let algorithm = &settings.algorithm;
        let is_plain = settings.split == Split::Time && settings.admission == Admission::default();
        matches!(algorithm, Algorithm::Ials(_)) && !algorithm.is_latest() && is_plain
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

/// The name before the layout of format 8: that of format 4 with what all families have come to share since.
const WITH: &str = "+";

/// A setting of a job that the layout of format 4 has no place for; the order of the variants is part of it.
#[derive(Serialize, Deserialize)]
enum Beside {
    Admission(Admission),
}

/// The stored layout of an algorithm; the order of the variants is part of it.
#[derive(Serialize, Deserialize)]
pub(super) enum Stored {
    Ials(Ials),
    Graph(Plain),
    Softmax(Box<Softmax>),
    Tower(Box<Tower>),
    Balanced(Graph),
    Blend(Box<Blend>),
    /// With the exponent of a bias by popularity.
    BiasedSoftmax(Box<Softmax>, f64),
    BiasedTower(Box<Tower>, f64),
    BiasedBlend(Box<Blend>, f64),
    /// Since format 7: a family's first settings, and each that came later as one more [`Extra`].
    With(First, Vec<Extra>),
}

/// What every setting that is no [`Extra`] is in; the order of the variants is part of it.
#[derive(Serialize, Deserialize)]
pub(super) enum First {
    Ials(Ials),
    Graph(Graph),
    Softmax(Box<Softmax>),
    Tower(Box<Tower>),
    Blend(Box<Blend>),
}

/// A setting that its family's layout has no place for; the order of the variants is part of it.
#[derive(Serialize, Deserialize)]
pub(super) enum Extra {
    Warm(Warm),
    Loss(Loss),
    /// The exponent of a bias by popularity.
    Bias(f64),
    Rows(Precision),
    /// Since format 8.
    Staleness(u32),
    /// Since format 8: the power of inverse frequencies.
    Idf(f64),
    /// Since format 8.
    Norm(ItemNorm),
}

impl Extra {
    /// What an algorithm says beyond its first settings.
    fn all(algorithm: &Algorithm) -> Vec<Extra> {
        let loss = algorithm.softmax().map(|softmax| softmax.loss).filter(|loss| *loss != Loss::default());
        let bias = Some(algorithm.popularity_bias()).filter(|bias| *bias != 0.0);
        let rows = Some(algorithm.row_precision()).filter(|rows| *rows != Precision::default());
        let (warm, loss) = (algorithm.warm().map(Extra::Warm), loss.map(Extra::Loss));
        let stale = Some(algorithm.staleness()).filter(|stale| *stale > 0).map(Extra::Staleness);
        let idf = algorithm.graph().map(|graph| graph.idf_power).filter(|power| *power > 0.0).map(Extra::Idf);
        let norm = algorithm.graph().map(|graph| graph.item_norm).filter(|norm| *norm != ItemNorm::default());
        let extras = [warm, loss, bias.map(Extra::Bias), rows.map(Extra::Rows), stale, idf, norm.map(Extra::Norm)];
        extras.into_iter().flatten().collect()
    }

    /// An extra of another family than the algorithm's says nothing.
    fn put(self, mut algorithm: Algorithm) -> Algorithm {
        match (self, &mut algorithm) {
            (Extra::Warm(warm), Algorithm::Ials(ials)) => ials.warm = Some(warm),
            (Extra::Warm(_), _) => {}
            (Extra::Loss(loss), other) => other.softmax_mut().into_iter().for_each(|softmax| softmax.loss = loss),
            (Extra::Rows(rows), other) => other.ials_mut().into_iter().for_each(|ials| ials.row_precision = rows),
            (Extra::Bias(bias), _) => return biased(algorithm, bias),
            (Extra::Staleness(stale), other) => {
                other.softmax_mut().into_iter().for_each(|softmax| softmax.staleness = stale);
            }
            (Extra::Idf(idf), other) => other.graph_mut().into_iter().for_each(|graph| graph.idf_power = idf),
            (Extra::Norm(norm), other) => other.graph_mut().into_iter().for_each(|graph| graph.item_norm = norm),
        }
        algorithm
    }
}

impl From<Algorithm> for First {
    fn from(algorithm: Algorithm) -> First {
        match algorithm {
            Algorithm::Ials(ials) => First::Ials(ials),
            Algorithm::Graph(graph) => First::Graph(graph),
            Algorithm::Softmax(softmax) => First::Softmax(softmax),
            Algorithm::Tower(tower) => First::Tower(tower),
            Algorithm::Blend(blend) => First::Blend(blend),
        }
    }
}

impl From<First> for Algorithm {
    fn from(first: First) -> Algorithm {
        match first {
            First::Ials(ials) => Algorithm::Ials(ials),
            First::Graph(graph) => Algorithm::Graph(graph),
            First::Softmax(softmax) => Algorithm::Softmax(softmax),
            First::Tower(tower) => Algorithm::Tower(tower),
            First::Blend(blend) => Algorithm::Blend(blend),
        }
    }
}

/// The graph filter of format 4, which has no masses.
#[derive(Serialize, Deserialize)]
pub(super) struct Plain {
    user_exponent: f64,
    source_exponent: f64,
    target_exponent: f64,
    power: f64,
    neighbours: u32,
}

impl Plain {
    /// Whether members of format 4 take such settings.
    pub(super) fn can_say(graph: &Graph) -> bool {
        graph.source_mass_exponent == 0.0 && graph.target_mass_exponent == 0.0 && graph.power <= 2.0
    }
}

/// With the bias that its layout keeps beside it.
fn biased(mut algorithm: Algorithm, bias: f64) -> Algorithm {
    if let Some(softmax) = algorithm.softmax_mut() {
        softmax.popularity_bias = bias;
    }
    algorithm
}

impl From<Algorithm> for Stored {
    fn from(algorithm: Algorithm) -> Stored {
        if algorithm.is_latest() {
            let extras = Extra::all(&algorithm);
            return Stored::With(algorithm.into(), extras);
        }
        let bias = algorithm.popularity_bias();
        match algorithm {
            Algorithm::Softmax(softmax) if bias != 0.0 => Stored::BiasedSoftmax(softmax, bias),
            Algorithm::Tower(tower) if bias != 0.0 => Stored::BiasedTower(tower, bias),
            Algorithm::Blend(blend) if bias != 0.0 => Stored::BiasedBlend(blend, bias),
            Algorithm::Ials(ials) => Stored::Ials(ials),
            Algorithm::Graph(graph) if Plain::can_say(&graph) => {
                let Graph { user_exponent, source_exponent, target_exponent, power, neighbours, .. } = graph;
                Stored::Graph(Plain { user_exponent, source_exponent, target_exponent, power, neighbours })
            }
            Algorithm::Graph(graph) => Stored::Balanced(graph),
            Algorithm::Softmax(softmax) => Stored::Softmax(softmax),
            Algorithm::Tower(tower) => Stored::Tower(tower),
            Algorithm::Blend(blend) => Stored::Blend(blend),
        }
    }
}

impl From<Stored> for Algorithm {
    fn from(stored: Stored) -> Algorithm {
        match stored {
            Stored::Ials(ials) => Algorithm::Ials(ials),
            Stored::Graph(Plain { user_exponent, source_exponent, target_exponent, power, neighbours }) => {
                Algorithm::Graph(Graph {
                    user_exponent,
                    source_exponent,
                    target_exponent,
                    power,
                    neighbours,
                    source_mass_exponent: 0.0,
                    target_mass_exponent: 0.0,
                    idf_power: 0.0,
                    item_norm: ItemNorm::Positives,
                })
            }
            Stored::Balanced(graph) => Algorithm::Graph(graph),
            Stored::Softmax(softmax) => Algorithm::Softmax(softmax),
            Stored::Tower(tower) => Algorithm::Tower(tower),
            Stored::Blend(blend) => Algorithm::Blend(blend),
            Stored::BiasedSoftmax(softmax, bias) => biased(Algorithm::Softmax(softmax), bias),
            Stored::BiasedTower(tower, bias) => biased(Algorithm::Tower(tower), bias),
            Stored::BiasedBlend(blend, bias) => biased(Algorithm::Blend(blend), bias),
            Stored::With(first, extras) => {
                extras.into_iter().fold(first.into(), |algorithm, extra| extra.put(algorithm))
            }
        }
    }
}

impl Serialize for TrainSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return GivenSettings::from(self).serialize(serializer);
        }
        let TrainSettings { algorithm, seed, holdout, split, admission, refit, activate } = self.clone();
        match algorithm {
            Algorithm::Ials(ials) if Then::can_say(self) => {
                Then { algorithm: IALS.to_owned(), ials, seed, holdout, refit, activate }.serialize(serializer)
            }
            algorithm => {
                let now = Now { algorithm, seed, holdout, split, refit, activate };
                if admission == Admission::default() {
                    return ("", now).serialize(serializer);
                }
                (WITH, now, [Beside::Admission(admission)].as_slice()).serialize(serializer)
            }
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
            name @ ("" | WITH) => {
                let Now { algorithm, seed, holdout, split, refit, activate } = next(&mut seq)?;
                let beside: Vec<Beside> = if name == WITH { next(&mut seq)? } else { Vec::new() };
                let admission = beside.into_iter().map(|Beside::Admission(admission)| admission).next_back();
                let admission = admission.unwrap_or_default();
                Ok(TrainSettings { algorithm, seed, holdout, split, admission, refit, activate })
            }
            IALS => Ok(TrainSettings {
                algorithm: Algorithm::Ials(next(&mut seq)?),
                seed: next(&mut seq)?,
                holdout: next(&mut seq)?,
                split: Split::Time,
                admission: Admission::default(),
                refit: next(&mut seq)?,
                activate: next(&mut seq)?,
            }),
            other => Err(de::Error::custom(format!("unknown algorithm {other:?}"))),
        }
    }
}
