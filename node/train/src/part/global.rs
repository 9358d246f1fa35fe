//! The global part: what is one for the whole model.
use super::{
    ALGORITHM_BLEND, ALGORITHM_GRAPH, ALGORITHM_IALS, ALGORITHM_SOFTMAX, ALGORITHM_TOWER, Error, KIND_GLOBAL, header,
    open,
};
use docent_model::{
    Settings,
    blend::Blend,
    gramian,
    graph::{self, ItemNorm},
    kernel::NUMERICS,
    softmax, tower,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// Most categories with a mean row, the largest ones.
pub const CATEGORIES_MAX: usize = 4096;

/// A category's mean row: a new item's first vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Category {
    /// Its name.
    pub name: Arc<str>,
    /// Items in it, of those that were trained and live.
    pub items: u64,
    /// `dim` values.
    pub mean: Vec<f32>,
}

/// The global part of a model, by its family.
#[derive(Debug, Clone, PartialEq)]
pub enum Global {
    /// Of an iALS model.
    Ials(IalsGlobal),
    /// Of a graph filter.
    Graph(GraphGlobal),
    /// Of sampled softmax.
    Softmax(SoftmaxGlobal),
    /// Of two towers.
    Tower(Box<TowerGlobal>),
    /// Of a blend.
    Blend(Box<BlendGlobal>),
}

/// A blend's constants, and its models. Its channels are the graph filter, the other model and popularity, in this order.
#[derive(Debug, Clone, PartialEq)]
pub struct BlendGlobal {
    /// Scales, units and weights.
    pub blend: Blend,
    /// The graph filter.
    pub graph: GraphGlobal,
    /// The other model: one with vectors.
    pub with: Global,
}

impl BlendGlobal {
    /// Channels of every blend.
    pub const CHANNELS: usize = 3;

    fn encode(&self) -> Result<Vec<u8>, Error> {
        let graph = Global::Graph(self.graph.clone()).encode()?;
        let stored: (&Blend, Vec<u8>, Vec<u8>) = (&self.blend, graph, self.with.encode()?);
        postcard::to_stdvec(&stored).map_err(|_| Error::Damaged("it cannot be encoded"))
    }

    fn decode(body: &[u8]) -> Result<Self, Error> {
        let (blend, graph, with): (Blend, Vec<u8>, Vec<u8>) = whole(body)?;
        // Its models are no blends, so this goes no deeper.
        let is_blend = with.get(6) == Some(&ALGORITHM_BLEND);
        match (Global::decode(&graph)?, is_blend) {
            (Global::Graph(graph), false) => Ok(Self { blend, graph, with: Global::decode(&with)? }),
            _ => Err(Error::Damaged("a blend of other models than a graph filter and one with vectors")),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.blend.validate().map_err(|_| Error::Damaged("a constant is out of range"))?;
        let is_whole = self.blend.channels.len() == Self::CHANNELS;
        match self.with {
            Global::Ials(_) | Global::Softmax(_) | Global::Tower(_) if is_whole => Ok(()),
            _ => Err(Error::Damaged("a blend of other models than a graph filter and one with vectors")),
        }
    }
}

/// Settings, sizes, Gramian and means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IalsGlobal {
    /// As trained, seed included.
    pub settings: Settings,
    /// Name of the arithmetic that gave the bytes (`docent_model::kernel::NUMERICS`).
    pub numerics: String,
    /// Users, items and positives trained on.
    pub users: u64,
    /// Items with a row: `|I|` of the regularisation.
    pub items: u64,
    /// Pairs.
    pub positives: u64,
    /// The objective after the last pass.
    pub loss: f64,
    /// Packed item Gramian (`docent_model::gramian`), for fold-in.
    pub item_gramian: Vec<f64>,
    /// Mean of all live item rows, `dim` values.
    pub mean: Vec<f32>,
    /// Sorted by name.
    pub categories: Vec<Category>,
}

/// Settings, sizes and means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SoftmaxGlobal {
    /// As trained, seed included.
    pub settings: softmax::Settings,
    /// Name of the arithmetic that gave the bytes (`docent_model::kernel::NUMERICS`).
    pub numerics: String,
    /// Users, items and positives trained on.
    pub users: u64,
    /// Items with a row.
    pub items: u64,
    /// Pairs.
    pub positives: u64,
    /// The mean loss of a positive in the last epoch.
    pub loss: f64,
    /// Mean of all live item rows, `dim` values.
    pub mean: Vec<f32>,
    /// Sorted by name.
    pub categories: Vec<Category>,
}

/// Settings, sizes, means and dense weights. A user's vector is what the user tower makes of the history's item vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TowerGlobal {
    /// As trained, seed included.
    pub settings: tower::Settings,
    /// Name of the arithmetic that gave the bytes (`docent_model::kernel::NUMERICS`).
    pub numerics: String,
    /// Users, items and positives trained on.
    pub users: u64,
    /// Items with a vector.
    pub items: u64,
    /// Pairs.
    pub positives: u64,
    /// The mean loss of a positive in the last epoch.
    pub loss: f64,
    /// Mean of all live items' vectors, `dim` values.
    pub mean: Vec<f32>,
    /// Sorted by name.
    pub categories: Vec<Category>,
    /// Features with a row, sorted.
    pub features: Vec<Arc<str>>,
    /// `docent_model::tower::Dense::to_vec` for so many features.
    pub dense: Vec<f32>,
}

/// Settings and sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphGlobal {
    /// As trained.
    pub settings: graph::Settings,
    /// Users, items and positives trained on.
    pub users: u64,
    /// Items of the model.
    pub items: u64,
    /// Pairs of a user and an item.
    pub positives: u64,
}

/// [`GraphGlobal`] as it is stored: with masses, their two exponents stand behind it, and with inverse frequencies or another norm those too.
#[derive(Serialize, Deserialize)]
struct StoredGraph {
    exponents: [f32; 3],
    power: f32,
    neighbours: u32,
    users: u64,
    items: u64,
    positives: u64,
}

impl GraphGlobal {
    fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let graph::Settings { power, neighbours, source_mass_exponent: e, target_mass_exponent: f, .. } = self.settings;
        let later = (self.settings.idf_power, self.settings.item_norm);
        let is_later = later != (0.0, ItemNorm::Positives);
        let exponents = [self.settings.user_exponent, self.settings.source_exponent, self.settings.target_exponent];
        let (users, items, positives) = (self.users, self.items, self.positives);
        let stored = StoredGraph { exponents, power, neighbours, users, items, positives };
        let mut bytes = postcard::to_stdvec(&stored)?;
        if is_later || e > 0.0 || f > 0.0 {
            bytes = postcard::to_extend(&[e, f], bytes)?;
        }
        if is_later {
            bytes = postcard::to_extend(&later, bytes)?;
        }
        Ok(bytes)
    }

    fn decode(body: &[u8]) -> Result<Self, Error> {
        let damaged = |_| Error::Damaged("it is no graph filter");
        let (stored, rest): (StoredGraph, _) = postcard::take_from_bytes(body).map_err(damaged)?;
        let none = ([0.0; 2], &[][..]);
        let (masses, rest) = if rest.is_empty() { none } else { postcard::take_from_bytes(rest).map_err(damaged)? };
        let [source_mass_exponent, target_mass_exponent] = masses;
        let (idf_power, item_norm) = if rest.is_empty() { (0.0, ItemNorm::Positives) } else { whole(rest)? };
        let StoredGraph { exponents, power, neighbours, users, items, positives } = stored;
        let [user_exponent, source_exponent, target_exponent] = exponents;
        let settings = graph::Settings {
            user_exponent,
            source_exponent,
            target_exponent,
            power,
            neighbours,
            source_mass_exponent,
            target_mass_exponent,
            idf_power,
            item_norm,
        };
        Ok(Self { settings, users, items, positives })
    }
}

impl Global {
    /// The part's bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the fields contradict one another.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let (algorithm, body) = match self {
            Self::Ials(part) => (ALGORITHM_IALS, postcard::to_stdvec(part)),
            Self::Graph(part) => (ALGORITHM_GRAPH, part.encode()),
            Self::Softmax(part) => (ALGORITHM_SOFTMAX, postcard::to_stdvec(part)),
            Self::Tower(part) => (ALGORITHM_TOWER, postcard::to_stdvec(part)),
            Self::Blend(part) => (ALGORITHM_BLEND, Ok(part.encode()?)),
        };
        let body = body.map_err(|_| Error::Damaged("it cannot be encoded"))?;
        Ok([&header(KIND_GLOBAL, algorithm)[..], &body].concat())
    }

    /// Reads a global part.
    ///
    /// # Errors
    /// Any [`Error`]; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (algorithm, body) = open(bytes, KIND_GLOBAL)?;
        let part = match algorithm {
            ALGORITHM_IALS => Self::Ials(whole(body)?),
            ALGORITHM_GRAPH => Self::Graph(GraphGlobal::decode(body)?),
            ALGORITHM_SOFTMAX => Self::Softmax(whole(body)?),
            ALGORITHM_TOWER => Self::Tower(Box::new(whole(body)?)),
            ALGORITHM_BLEND => Self::Blend(Box::new(BlendGlobal::decode(body)?)),
            _ => return Err(Error::Kind { kind: KIND_GLOBAL, algorithm }),
        };
        part.check()?;
        Ok(part)
    }

    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Ials(part) => part.check(),
            Self::Graph(part) => part.settings.validate().map_err(|_| Error::Damaged("a setting is out of range")),
            Self::Softmax(part) => {
                part.settings.validate().map_err(|_| Error::Damaged("a setting is out of range"))?;
                check_means(width(part.settings.dim, &part.mean), &part.mean, &part.categories)
            }
            Self::Tower(part) => part.check(),
            Self::Blend(part) => part.check(),
        }
    }
}

/// A value that takes all of `body`.
fn whole<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    match postcard::take_from_bytes(body) {
        Ok((part, [])) => Ok(part),
        Ok(_) => Err(Error::Damaged("bytes that belong to nothing")),
        Err(_) => Err(Error::Damaged("its fields cannot be read")),
    }
}

impl IalsGlobal {
    /// The arithmetic of this program.
    #[must_use]
    pub fn numerics() -> String {
        NUMERICS.to_owned()
    }

    fn check(&self) -> Result<(), Error> {
        self.settings.validate().map_err(|_| Error::Damaged("a setting is out of range"))?;
        let dim = usize::from(self.settings.dim);
        if self.item_gramian.len() != gramian::packed_len(dim) {
            return Err(Error::Damaged("a size is not what the dimension asks for"));
        }
        if self.item_gramian.iter().any(|v| !v.is_finite()) {
            return Err(Error::Damaged("a value is not finite"));
        }
        check_means(dim, &self.mean, &self.categories)
    }
}

impl TowerGlobal {
    /// The dense weights.
    ///
    /// # Errors
    /// [`Error::Damaged`] for another number of weights, or some that are not finite.
    pub fn dense(&self) -> Result<tower::Dense, Error> {
        tower::Dense::from_vec(&self.settings, self.features.len(), &self.dense)
            .map_err(|_| Error::Damaged("its weights are not those of its settings"))
    }

    fn check(&self) -> Result<(), Error> {
        self.settings.validate().map_err(|_| Error::Damaged("a setting is out of range"))?;
        check_means(width(self.settings.base.dim, &self.mean), &self.mean, &self.categories)?;
        if self.features.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::Damaged("features are not in order"));
        }
        self.dense().map(|_| ())
    }
}

/// Values of a row of sampled softmax: with a bias by popularity one more than the model's dimension.
fn width(dim: u16, mean: &[f32]) -> usize {
    usize::from(dim) + usize::from(mean.len() == usize::from(dim) + 1)
}

/// Checks the mean rows of all items and of categories.
fn check_means(dim: usize, mean: &Vec<f32>, categories: &[Category]) -> Result<(), Error> {
    let rows = std::iter::once(mean).chain(categories.iter().map(|category| &category.mean));
    if categories.len() > CATEGORIES_MAX || rows.clone().any(|row| row.len() != dim) {
        return Err(Error::Damaged("a size is not what the dimension asks for"));
    }
    if rows.flatten().any(|v| !v.is_finite()) {
        return Err(Error::Damaged("a value is not finite"));
    }
    if categories.windows(2).any(|pair| pair[0].name >= pair[1].name) {
        return Err(Error::Damaged("categories are not in order"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_model::blend::{Channel, Scale, Weights};
    use proptest::prelude::*;

    fn ials() -> IalsGlobal {
        IalsGlobal {
            settings: Settings { dim: 2, ..Settings::default() },
            numerics: IalsGlobal::numerics(),
            users: 1,
            items: 2,
            positives: 3,
            loss: 4.5,
            item_gramian: vec![1.0, 2.0, 3.0],
            mean: vec![0.5, 0.25],
            categories: vec![Category { name: "x".into(), items: 2, mean: vec![1.0, 2.0] }],
        }
    }

    fn tower_global(shared: &SoftmaxGlobal) -> TowerGlobal {
        let settings = tower::Settings { base: shared.settings, user_hidden: 16, item_hidden: 0, ..Default::default() };
        TowerGlobal {
            settings,
            numerics: shared.numerics.clone(),
            users: 1,
            items: 2,
            positives: 3,
            loss: 0.5,
            mean: shared.mean.clone(),
            categories: shared.categories.clone(),
            features: vec!["x".into()],
            dense: tower::Dense::first(&settings, 1).unwrap().to_vec(),
        }
    }

    #[test]
    fn a_global_part_comes_back_as_it_was() {
        let graph = GraphGlobal { settings: graph::Settings::default(), users: 1, items: 2, positives: 3 };
        let IalsGlobal { numerics, mean, categories, .. } = ials();
        let softmax = SoftmaxGlobal {
            settings: softmax::Settings { dim: 2, ..softmax::Settings::default() },
            numerics,
            users: 1,
            items: 2,
            positives: 3,
            loss: 0.5,
            mean,
            categories,
        };
        let tower = tower_global(&softmax);
        let bad = TowerGlobal { dense: vec![0.0; 3], ..tower.clone() };
        assert!(Global::Tower(Box::new(bad)).encode().is_err());
        let tower = Global::Tower(Box::new(tower));
        let channel =
            Channel { scale: Scale::Linear, unit: 0.5, is_sum: false, weights: Weights { base: 1.0, slope: -0.25 } };
        let blend = |with| {
            let blend = Blend { channels: vec![channel; 3] };
            Global::Blend(Box::new(BlendGlobal { blend, graph: graph.clone(), with }))
        };
        assert!(blend(blend(tower.clone())).encode().is_err() && blend(Global::Graph(graph.clone())).encode().is_err());
        let blended = blend(Global::Ials(ials()));
        let masses = graph::Settings { source_mass_exponent: 0.5, ..graph.settings };
        let idf = graph::Settings { idf_power: 2.0, item_norm: ItemNorm::Weights, ..graph.settings };
        let bm25 = graph::Settings { item_norm: ItemNorm::Length { share: 0.75 }, ..masses };
        let [balanced, idf, bm25] =
            [masses, idf, bm25].map(|settings| Global::Graph(GraphGlobal { settings, ..graph.clone() }));
        let plain = Global::Graph(graph);
        let shorter = [plain.encode().unwrap().len(), balanced.encode().unwrap().len()];
        for part in [Global::Ials(ials()), plain, balanced, idf, bm25, Global::Softmax(softmax), tower, blended] {
            let bytes = part.encode().unwrap();
            assert_eq!(Global::decode(&bytes).unwrap(), part);
            let is_graph = matches!(&part, Global::Graph(_));
            // Without what stands behind it it is the part of a filter that has none of that; the hash of the part is what tells.
            for end in (0..bytes.len()).filter(|end| !(is_graph && shorter.contains(end))) {
                assert!(Global::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
        assert!(Global::Ials(IalsGlobal { mean: vec![f32::NAN; 2], ..ials() }).encode().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Global::decode(&noise);
            for algorithm in [ALGORITHM_IALS, ALGORITHM_GRAPH, ALGORITHM_SOFTMAX, ALGORITHM_TOWER, ALGORITHM_BLEND] {
                let _ = Global::decode(&[&header(KIND_GLOBAL, algorithm)[..], &noise].concat());
            }
        }
    }
}
