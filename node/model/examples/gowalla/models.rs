//! Trained models as a blend takes them: lists of their best, and scores of any item.
use crate::{Data, Failure, Given, Lists, graph, ials, softmax};
use docent_model::{
    Adjacency, Kernel,
    blend::{Bests, Channel, Scale, Weights},
    graph::Scorer,
    parallel, rank,
};

/// Score of iALS below which an item is not thought of at all, and its channel's unit.
const PREFERENCE: f32 = 0.001;

pub(crate) enum Kind {
    /// Rows: sources.
    Graph(Adjacency),
    /// Rows of items and of users.
    Vectors { dim: usize, items: Vec<f32>, users: Vec<f32> },
    /// Positives of each item.
    Popularity(Vec<f32>),
}

pub(crate) struct Model {
    /// `family` or `family:dim`.
    pub(crate) name: String,
    kind: Kind,
    /// The best of each user, none for popularity: it ranks what others found.
    pub(crate) lists: Lists,
    pub(crate) channel: Channel,
}

/// What scores one user after another.
pub(crate) enum ScoresOf<'a> {
    Graph(Scorer<'a>),
    Others(&'a Kind),
}

impl Model {
    /// Trains the model, or reads its rows from the cache.
    pub(crate) fn new(given: &Given, data: &Data, name: &str, depth: usize) -> Result<Model, Failure> {
        let (family, dim) = name.split_once(':').unwrap_or((name, "128"));
        let dim: u16 = dim.parse()?;
        let rows = |train: &dyn Fn() -> Result<Vec<f32>, Failure>| cached(given, data, name, train);
        let (kind, scale, unit) = match family {
            "graph" => {
                let settings = graph::best(given)?;
                let counted = graph::count(&settings, data);
                (Kind::Graph(graph::neighbours(&settings, &counted)), Scale::Logarithm, 1.0)
            }
            "softmax" => {
                let settings = softmax::best(dim);
                let items = rows(&|| {
                    softmax::train(&settings, (softmax::loss(given)?, given.one("bias", "0")?), data, u32::MAX)
                })?;
                let (dim, temperature) = (usize::from(dim), settings.temperature);
                (
                    Kind::Vectors { dim: dim + 1, users: softmax::users(dim, data, &items)?, items },
                    Scale::Linear,
                    temperature,
                )
            }
            "ials" => {
                let settings = ials::best(dim);
                let items = rows(&|| ials::train(&settings, data, 0, false, None))?;
                let users = ials::users(&settings, data, &items)?;
                (Kind::Vectors { dim: usize::from(dim), users, items }, Scale::Logarithm, PREFERENCE)
            }
            "popularity" => {
                let positives = data.positives().into_iter().map(|positives| positives as f32).collect();
                (Kind::Popularity(positives), Scale::Logarithm, 1.0)
            }
            _ => return Err(format!("no family is called {family}").into()),
        };
        let channel = Channel { scale, unit, is_sum: family == "graph", weights: Weights::default() };
        let mut model = Model { name: name.to_owned(), lists: kind.lists(data, depth)?, kind, channel };
        if family == "graph" {
            model.channel.unit = model.unit(data);
        }
        Ok(model)
    }

    pub(crate) fn scores_of(&self, data: &Data) -> ScoresOf<'_> {
        match &self.kind {
            Kind::Graph(by_source) => ScoresOf::Graph(Scorer::new(by_source, data.items)),
            other => ScoresOf::Others(other),
        }
    }

    /// See [`Bests::unit`].
    fn unit(&self, data: &Data) -> f32 {
        let (mut bests, mut scores) = (Bests::default(), self.scores_of(data));
        for (user, list) in self.lists.iter().enumerate().filter(|(_, list)| !list.is_empty()) {
            let best = scores.of(data, user, &list[..1]).map_or(0.0, |scores| scores[0]);
            bests.add(best, data.train[user].len());
        }
        bests.unit()
    }
}

impl Kind {
    fn lists(&self, data: &Data, depth: usize) -> Result<Lists, Failure> {
        let mut lists = vec![Vec::new(); data.train.len()];
        match self {
            Kind::Vectors { dim, items, users } => {
                let seen: Vec<&[u32]> = data.train.iter().map(|items| &items[..]).collect();
                lists = rank::Items::new(*dim, items)?.rank(Kernel::detect(), data.threads, users, &seen, depth)?;
            }
            Kind::Graph(by_source) => parallel::for_each(
                data.threads,
                lists.iter_mut().zip(&data.train).collect(),
                || Scorer::new(by_source, data.items),
                |scorer, (list, history): (&mut Vec<u32>, &Vec<u32>)| {
                    *list = scorer.top(history, depth).into_iter().map(|(item, _)| item).collect();
                },
            ),
            Kind::Popularity(_) => {}
        }
        Ok(lists)
    }
}

impl ScoresOf<'_> {
    pub(crate) fn of(&mut self, data: &Data, user: usize, items: &[u32]) -> Result<Vec<f32>, docent_model::Error> {
        match self {
            ScoresOf::Graph(scorer) => Ok(scorer.scores(&data.train[user], items)),
            ScoresOf::Others(Kind::Vectors { dim, items: rows, users }) => {
                rank::scores(Kernel::detect(), *dim, rows, &users[user * dim..][..*dim], items)
            }
            ScoresOf::Others(Kind::Popularity(positives)) => {
                Ok(items.iter().map(|item| positives[*item as usize]).collect())
            }
            ScoresOf::Others(Kind::Graph(_)) => Ok(Vec::new()),
        }
    }
}

/// Rows of `cache=FOLDER`, by split and model; trained and put there where they are missing.
fn cached(
    given: &Given,
    data: &Data,
    name: &str,
    train: &dyn Fn() -> Result<Vec<f32>, Failure>,
) -> Result<Vec<f32>, Failure> {
    let folder: String = given.one("cache", "")?;
    let path = format!("{folder}/{}-{}.f32", data.name, name.replace(':', ""));
    if let (false, Ok(bytes)) = (folder.is_empty(), std::fs::read(&path)) {
        return Ok(bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect());
    }
    let rows = train()?;
    if !folder.is_empty() {
        std::fs::write(path, rows.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    Ok(rows)
}
