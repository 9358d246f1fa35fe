//! A blend on a host: what its models leave for one another, the candidates that weights are found on, and lists by the blend.
use super::{
    evaluate::{Measure, Ranking},
    order::Order,
    session::Session,
    users::{Known, Users},
};
use crate::{Error, TrainResponse, plan::HoldOut};
use docent_model::{
    blend::{
        Bests, Blend, Weights,
        search::{Example, Gain},
    },
    graph::Scorer,
    parallel, rank,
    tree::{self, Node, Sum},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Of each model so many of a user's best are candidates of the blend, if no more are asked for.
const DEPTH: usize = 100;
/// Weights are found for NDCG at this cut-off.
const CUTOFF: usize = 20;
/// Channels: the graph filter, the other model, popularity.
const CHANNELS: usize = 3;

/// What the runs of an attempt leave for later ones.
#[derive(Default)]
pub(super) struct Shelf(Mutex<Shelved>);

#[derive(Default)]
struct Shelved {
    /// As they were loaded last.
    users: Known,
    /// By run.
    rankings: BTreeMap<u8, Arc<Ranking>>,
    /// By slots, then by run.
    parts: BTreeMap<(u16, u16), BTreeMap<u8, Vec<u8>>>,
}

/// What ranks by a blend.
pub(super) struct Blended {
    blend: Blend,
    models: [Arc<Ranking>; 2],
}

/// What a user's blend chooses from, with every channel's scores.
#[derive(Default, Clone)]
struct Candidates {
    items: Vec<u32>,
    /// `[items][channels]`.
    scores: Vec<f32>,
}

/// Candidates of this host's measured users, by virtual worker.
pub(super) struct Chosen {
    users: Vec<(u16, Vec<User>)>,
    /// The same in nats, by the units of the channels.
    examples: Mutex<Option<Examples>>,
}

/// Units, and what weights are judged on.
type Examples = (Vec<f32>, Arc<Vec<OfVworker>>);
/// A virtual worker's.
type OfVworker = (u16, Vec<Example>);

struct User {
    entries: usize,
    candidates: Candidates,
    hits: Vec<bool>,
    truths: usize,
}

impl Shelf {
    fn shelved(&self) -> MutexGuard<'_, Shelved> {
        // Entries are put whole, so a panic elsewhere leaves the shelf usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn users(&self) -> Known {
        self.shelved().users.clone()
    }

    pub(super) fn put_users(&self, hold_out: Option<HoldOut>, users: Arc<Users>) {
        self.shelved().users = Some((hold_out, users));
    }

    pub(super) fn put_part(&self, run: u8, slots: (u16, u16), bytes: Vec<u8>) {
        self.shelved().parts.entry(slots).or_default().insert(run, bytes);
    }

    /// The parts of the graph filter and of the other model.
    pub(super) fn take_parts(&self, slots: (u16, u16)) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let parts = self.shelved().parts.remove(&slots).unwrap_or_default();
        let both: Result<[Vec<u8>; 2], _> = parts.into_values().collect::<Vec<_>>().try_into();
        let [graph, other] = both.map_err(|_| Error::out_of_turn("to compose", "both models are shelved first"))?;
        Ok((graph, other))
    }

    fn models(&self) -> Result<[Arc<Ranking>; 2], Error> {
        let models: Vec<Arc<Ranking>> = self.shelved().rankings.values().cloned().collect();
        models.try_into().map_err(|_| Error::out_of_turn("to blend", "both models are ranked first"))
    }
}

impl Session {
    /// Keeps what ranks by this run's model.
    pub(super) async fn rank(&self, order: &Order) -> Result<TrainResponse, Error> {
        let ranking = self.ranking(order).await?;
        self.shelf.shelved().rankings.insert(self.open.key.run, Arc::new(ranking));
        Ok(TrainResponse::Exchanged { bytes_pulled: self.bytes_pulled() })
    }

    /// Scores the candidates of users with something held out; gives the sums of the graph filter's best scores.
    pub(super) async fn candidates(&self, order: &Order, users_max: u32) -> Result<TrainResponse, Error> {
        let (measure, models) = (self.measure(order, users_max).await?, self.shelf.models()?);
        let work = move || -> Result<_, Error> {
            let (mut chosen, mut leaves) = (Vec::new(), Vec::new());
            for (vworker, range) in &measure.users.side.vworkers {
                let (users, seen) = measure.measured(range.clone())?;
                let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
                let found = candidates(&models, &measure, &users, &seen, DEPTH)?;
                let found: Vec<User> = users
                    .iter()
                    .zip(&seen)
                    .zip(found)
                    .map(|((user, seen), found)| judged(&measure, *user, seen, found))
                    .collect();
                let mut bests = Bests::default();
                for user in &found {
                    let scores = user.candidates.scores.iter().step_by(CHANNELS);
                    bests.add(scores.copied().fold(0.0, f32::max), user.entries);
                }
                leaves.push(Node { level: 0, index: *vworker, value: bests.to_array().to_vec() });
                chosen.push((*vworker, found));
            }
            Ok((chosen, tree::fold(leaves)))
        };
        let (users, sums) = self.context.compute.run(work).await??;
        self.state().chosen = Some(Arc::new(Chosen { users, examples: Mutex::default() }));
        Ok(TrainResponse::Stepped { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// By how much each of `proposals` is ahead of the blend's weights.
    pub(super) async fn gains(&self, blend: &Blend, proposals: &[Vec<Weights>]) -> Result<TrainResponse, Error> {
        blend.validate()?;
        let channels = blend.channels.len();
        if channels != CHANNELS || proposals.iter().any(|proposal| proposal.len() != channels) {
            return Err(Error::Invalid(format!("a blend has {CHANNELS} channels, and a proposal a weight for each")));
        }
        let chosen = self.state().chosen.clone();
        let chosen = chosen.ok_or_else(|| Error::out_of_turn("to weigh", "candidates come first"))?;
        let (blend, proposals, threads) = (blend.clone(), proposals.to_vec(), self.context.options.threads);
        let work = move || -> Result<_, Error> {
            let examples = chosen.examples(&blend)?;
            let present: Vec<Weights> = blend.channels.iter().map(|channel| channel.weights).collect();
            let mut sums = vec![vec![Gain::default(); proposals.len()]; examples.len()];
            parallel::for_each(
                threads,
                sums.iter_mut().zip(examples.iter()).collect(),
                || (),
                |(), (sums, (_, examples)): (&mut Vec<Gain>, &OfVworker)| {
                    for example in examples {
                        sums.add(example.gains(&present, &proposals, CUTOFF));
                    }
                },
            );
            let flat = |gains: Vec<Gain>| gains.into_iter().flat_map(|gain| [gain.users, gain.sum, gain.squares]);
            let leaf = |((vworker, _), gains): (&OfVworker, _)| Node {
                level: 0,
                index: *vworker,
                value: flat(gains).collect(),
            };
            Ok(tree::fold(examples.iter().zip(sums).map(leaf).collect()))
        };
        let sums = self.context.compute.run(work).await??;
        Ok(TrainResponse::Stepped { sums, bytes_pulled: 0 })
    }

    /// Measures by a blend. What ranks by its models is not needed after that.
    pub(super) async fn judge(
        &self,
        order: &Order,
        users_total: u64,
        cutoffs: &[u16],
        users_max: u32,
        blend: &Blend,
    ) -> Result<TrainResponse, Error> {
        blend.validate()?;
        let measure = self.measure(order, users_max).await?.at(users_total, cutoffs)?;
        let blended = Blended { blend: blend.clone(), models: self.shelf.models()? };
        let answer = self.measured(measure, Ranking::Blend(blended)).await?;
        self.shelf.shelved().rankings.clear();
        self.state().chosen = None;
        Ok(answer)
    }
}

impl Chosen {
    /// In nats, made once: units do not change while weights are found.
    fn examples(&self, blend: &Blend) -> Result<Arc<Vec<OfVworker>>, Error> {
        let units: Vec<f32> = blend.channels.iter().map(|channel| channel.unit).collect();
        let mut made = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, examples)) = made.as_ref().filter(|(of, _)| *of == units) {
            return Ok(examples.clone());
        }
        let example =
            |user: &User| Example::new(blend, user.entries, &user.candidates.scores, user.hits.clone(), user.truths);
        let of_vworker = |(vworker, users): &(u16, Vec<User>)| {
            Ok((*vworker, users.iter().map(example).collect::<Result<Vec<_>, docent_model::Error>>()?))
        };
        let examples = Arc::new(self.users.iter().map(of_vworker).collect::<Result<Vec<_>, Error>>()?);
        *made = Some((units, examples.clone()));
        Ok(examples)
    }
}

impl Blended {
    /// See [`Ranking::lists`].
    pub(super) fn lists(
        &self,
        measure: &Measure,
        users: &[usize],
        seen: &[&[u32]],
        n: usize,
    ) -> Result<Vec<Vec<u32>>, Error> {
        let found = candidates(&self.models, measure, users, seen, n.max(DEPTH))?;
        let list = |(seen, Candidates { items, scores }): (&&[u32], Candidates)| {
            let scored = items.iter().copied().zip(scores.chunks_exact(CHANNELS));
            let top = self.blend.for_user(seen.len()).top(scored, n)?;
            Ok(top.into_iter().map(|(item, _)| item).collect())
        };
        seen.iter().zip(found).map(list).collect()
    }
}

/// A user's candidates beside what was held out.
fn judged(measure: &Measure, user: usize, seen: &[u32], candidates: Candidates) -> User {
    let held_out = measure.users.side.held_out.row(user).0;
    let truth = measure.in_table(held_out);
    let hits = candidates.items.iter().map(|item| truth.binary_search(item).is_ok()).collect();
    User { entries: seen.len(), candidates, hits, truths: held_out.len() }
}

/// The `depth` best of both models for each user, with all channels' scores.
fn candidates(
    models: &[Arc<Ranking>; 2],
    measure: &Measure,
    users: &[usize],
    seen: &[&[u32]],
    depth: usize,
) -> Result<Vec<Candidates>, Error> {
    let mut found = vec![Candidates::default(); users.len()];
    for model in models {
        for (found, list) in found.iter_mut().zip(model.lists(measure, users, seen, depth)?) {
            found.items.extend(list);
        }
    }
    let tasks = found.into_iter().zip(users).zip(seen).map(|((found, user), seen)| Task {
        user: *user,
        seen,
        outcome: Ok(found),
    });
    let mut tasks: Vec<Task<'_>> = tasks.collect();
    parallel::for_each(
        measure.threads,
        tasks.iter_mut().collect(),
        || models.each_ref().map(|model| Scores::new(model, measure)),
        |models, task: &mut Task<'_>| {
            let found = std::mem::replace(&mut task.outcome, Ok(Candidates::default()));
            task.outcome = found.and_then(|found| found.scored(models, measure, task.user, task.seen));
        },
    );
    tasks.into_iter().map(|task| task.outcome).collect()
}

/// One user's candidates, to be scored.
struct Task<'a> {
    user: usize,
    seen: &'a [u32],
    outcome: Result<Candidates, Error>,
}

impl Candidates {
    /// Each item once, with all channels' scores.
    fn scored(
        mut self,
        models: &mut [Scores<'_>; 2],
        measure: &Measure,
        user: usize,
        seen: &[u32],
    ) -> Result<Self, Error> {
        self.items.sort_unstable();
        self.items.dedup();
        let of_models = models.iter_mut().map(|model| model.of(measure, user, seen, &self.items));
        let mut channels: Vec<Vec<f32>> = of_models.collect::<Result<_, Error>>()?;
        channels.push(self.items.iter().map(|item| measure.positives[*item as usize] as f32).collect());
        self.scores = (0..self.items.len()).flat_map(|at| channels.iter().map(move |scores| scores[at])).collect();
        Ok(self)
    }
}

/// What scores chosen items for one user after another.
enum Scores<'a> {
    Rows {
        dim: usize,
        users: &'a [f32],
        items: &'a [f32],
    },
    Graph(Scorer<'a>),
    /// A blend is no model of a blend.
    None,
}

impl<'a> Scores<'a> {
    fn new(ranking: &'a Ranking, measure: &Measure) -> Self {
        match ranking {
            Ranking::Vectors { dim, users, items } => Self::Rows { dim: *dim, users, items },
            Ranking::Graph { by_source } => Self::Graph(Scorer::new(by_source, measure.positives.len())),
            Ranking::Blend(_) => Self::None,
        }
    }

    fn of(&mut self, measure: &Measure, user: usize, seen: &[u32], items: &[u32]) -> Result<Vec<f32>, Error> {
        match self {
            Self::Rows { dim, users, items: rows } => {
                let user = users.get(user * *dim..(user + 1) * *dim);
                let user = user.ok_or_else(|| Error::Internal("a user without a row".into()))?;
                Ok(rank::scores(measure.kernel, *dim, rows, user, items)?)
            }
            Self::Graph(scorer) => Ok(scorer.scores(seen, items)),
            Self::None => Err(Error::Internal("a blend of blends".into())),
        }
    }
}
