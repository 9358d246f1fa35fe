//! Sampled softmax on a host: as a worker it computes what its users push in a step, as a parameter server it keeps the rows of its items and applies
//! what all users pushed, once. `docent_model::softmax` has the contract.
//!
//! A step is synchronous: workers read rows at step t, the driver waits for all of them, owners pull the pushes and are at t + 1. With a staleness k hosts
//! need not wait for one another so long: step t reads rows as they were at step t - k (in the first steps of an epoch, at its beginning), whatever
//! its owner has applied meanwhile. Every blob names its step, and an owner or a worker that is not there refuses it (or says again what it
//! said then), so that a request that comes twice or late changes nothing.
use super::{
    checkpoint::{States, joined},
    evaluate::Ranking,
    order::Order,
    pulled::{Cut, Drawn, Numbers, Table as StepTable},
    session::{Session, no_host},
    users::Users,
    versioned::Versioned,
};
use crate::{
    Error, TrainResponse,
    blob::Content,
    link::ItemSide,
    message::{At, Blob},
    plan::Algorithm,
    wire,
};
use bytes::Bytes;
use docent_model::{
    Adjacency, Kernel,
    softmax::{
        Settings, VWORKERS,
        adagrad::Table,
        first_row,
        gradients::Gradients,
        negatives::{Negatives, Push},
        plan,
        sample::{Draw, Masses, mass},
        step::{Batch, Room, Step},
    },
    tower::user,
    tree::Node,
};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
};

/// Most steps of an epoch: what the smallest batches make of 67 million positives. Each costs a host memory.
const STEPS_MAX: u32 = 1 << 20;

/// What phases leave.
#[derive(Default)]
pub(in crate::worker) struct Softmax {
    /// On a user host: who is in which step of an epoch, by own virtual worker.
    batches: Option<(u32, Arc<Batches>)>,
    /// On a user host: what the latest steps push, the oldest first.
    pushed: VecDeque<Arc<Pushed>>,
    /// On a user host: room for how a step counts its items.
    numbers: Option<Numbers>,
    /// On a user host: what a step computes in.
    room: Arc<Room>,
    /// On an owner: its rows.
    pub(super) table: Option<Arc<RwLock<Versioned>>>,
    /// On an owner: how it draws negatives.
    draws: Option<Arc<Draws>>,
}

/// By own virtual worker and step: rows of users.
pub(super) type Batches = Vec<Vec<Vec<u32>>>;

struct Draws {
    masses: Masses,
    /// Virtual worker, its first item's place on the owner, and its draws.
    workers: Vec<(u16, u32, Draw)>,
}

impl Draws {
    /// Places on the owner with weights, ascending.
    fn of(&self, at: At) -> Vec<(u32, f32)> {
        let counts = self.masses.counts(at.epoch, at.step);
        let of = |(vworker, first, draw): &(u16, u32, Draw)| {
            let count = counts.get(usize::from(*vworker)).copied().unwrap_or(0);
            let drawn = draw.draw(at.epoch, at.step, count).into_iter();
            let first = *first;
            drawn.map(move |(item, weight)| (first + item, weight))
        };
        self.workers.iter().flat_map(of).collect()
    }
}

/// What this host's users push in a step; items are counted in `items`, numbers of all items.
struct Pushed {
    at: At,
    items: Vec<u32>,
    negatives: Negatives,
    roots: Vec<Node<Push>>,
}

/// A root of a push on the wire. Behind all of them are their rows, packed: root by root those of `items`, then of the negatives.
#[derive(Serialize, Deserialize)]
struct Root {
    level: u8,
    index: u16,
    /// Places on the owner.
    items: Vec<u32>,
    /// Values of the negatives' rows.
    negatives: u32,
}

/// The rows of an owner before the first step.
pub(super) fn first_rows(settings: &Settings, kernel: Kernel, side: &ItemSide) -> Result<Softmax, Error> {
    let dim = usize::from(settings.dim);
    let mut rows = vec![0.0; side.items.len() * dim];
    for ((_, id), row) in side.items.iter().zip(rows.chunks_exact_mut(dim)) {
        first_row(kernel, settings.seed, id, row);
    }
    let table = Versioned::new(0, Table::new(dim, rows)?, None);
    Ok(Softmax { table: Some(Arc::new(RwLock::new(table))), ..Softmax::default() })
}

impl Session {
    pub(super) fn softmax_settings(&self) -> Result<&Settings, Error> {
        match &self.open.algorithm {
            Algorithm::Softmax(settings) => Ok(settings),
            Algorithm::Tower(settings) => Ok(&settings.base),
            _ => Err(Error::Invalid("only sampled softmax and two towers take steps by gradients".into())),
        }
    }

    /// How much of all negatives falls to each of this owner's virtual workers.
    pub(super) fn weigh(&self) -> Result<TrainResponse, Error> {
        let (settings, items) = (self.softmax_settings()?, self.items()?);
        let weighed =
            items.vworkers.iter().map(|(vworker, _)| (*vworker, mass(settings, &positives(&items, *vworker))));
        Ok(TrainResponse::Weighed { masses: weighed.collect() })
    }

    /// Takes the masses of all virtual workers of items.
    pub(super) fn prepare(&self, masses: &[[f64; 2]]) -> Result<TrainResponse, Error> {
        let (settings, items) = (self.softmax_settings()?, self.items()?);
        if masses.len() != usize::from(VWORKERS) {
            return Err(Error::Invalid(format!("negatives need the masses of {VWORKERS} virtual workers")));
        }
        let masses = Masses::new(settings, masses)?;
        let own = items.vworkers.iter().filter(|(_, rows)| !rows.is_empty());
        let workers = own.map(|(vworker, rows)| {
            Ok((*vworker, rows.start as u32, Draw::new(&masses, *vworker, &positives(&items, *vworker))?))
        });
        let workers = workers.collect::<Result<_, Error>>()?;
        self.state().softmax.draws = Some(Arc::new(Draws { masses, workers }));
        Ok(TrainResponse::Done)
    }

    /// Computes what this host's users push in a step. The answer has the step's loss and its weight.
    pub(super) async fn gradients(&self, at: At) -> Result<TrainResponse, Error> {
        let settings = *self.softmax_settings()?;
        if at.step >= at.steps || at.steps > STEPS_MAX {
            return Err(Error::Invalid(format!("there is no step {} of {} in an epoch", at.step, at.steps)));
        }
        let newest = self.state().softmax.pushed.back().map(|pushed| pushed.at.version());
        if newest.is_some_and(|newest| newest >= at.version()) {
            return Err(Error::out_of_turn("for gradients", "those of a later step are there"));
        }
        let (users, places, owners) = (self.users()?, self.located()?, self.owners()?);
        let batches = self.batches(&users, at).await?;
        let dim = usize::from(settings.dim);
        let cut = {
            let (users, owners) = (users.clone(), owners.clone());
            move || Cut::new(&users, &places, &batches, at.step, &owners)
        };
        let cut = self.context.compute.run(cut).await??;
        let pulled = self.read(at, &cut, dim).await?;
        let numbers = self.state().softmax.numbers.take().unwrap_or_default();
        let (kernel, threads, loss) = (self.context.kernel, self.context.options.threads, self.open.loss);
        let (towers, odds) = (self.towers(at)?, self.state().odds.clone());
        let room = self.state().softmax.room.clone();
        let work = move || -> Result<(Pushed, Numbers), Error> {
            let tower = towers.as_ref().and_then(|towers| towers.users.as_ref());
            let (StepTable { items, rows: table, negatives }, numbers) = pulled.table(&owners, dim, numbers)?;
            let negatives = Negatives::new(dim, &negatives, &table)?;
            let histories = cut.numbered(&numbers);
            let odds = odds.map(|odds| odds.of(&items)).transpose()?;
            let step = Step::new(&settings, kernel, &table, &negatives)?.in_room(&room);
            let mut step = step.with_loss(loss).with_tower(tower)?;
            if let Some(odds) = &odds {
                step = step.with_odds(odds)?;
            }
            // Everybody who was cut out is in the step.
            let all: Vec<u32> = (0..).take(histories.iter().map(Adjacency::rows).max().unwrap_or(0)).collect();
            let vworkers = users.side.vworkers.iter().map(|(vworker, _)| *vworker);
            let batch = |(vworker, histories): (u16, _)| Batch {
                vworker,
                histories,
                users: &all[..Adjacency::rows(histories)],
            };
            let batches: Vec<Batch<'_>> = vworkers.zip(&histories).map(batch).collect();
            let roots = step.pushes(threads, (at.epoch, at.step), &batches)?;
            let numbers = numbers.cleared(&items);
            Ok((Pushed { at, items, negatives, roots }, numbers))
        };
        let (pushed, numbers) = self.context.compute.run(work).await??;
        self.state().softmax.numbers = Some(numbers);
        let sums = |root: &Node<Push>| {
            let Push { loss, dense, .. } = &root.value;
            Node { level: root.level, index: root.index, value: [&loss[..], dense].concat() }
        };
        let sums = pushed.roots.iter().map(sums).collect();
        let mut state = self.state();
        state.softmax.pushed.push_back(Arc::new(pushed));
        while state.softmax.pushed.len() > self.open.staleness as usize + 1 {
            state.softmax.pushed.pop_front();
        }
        drop(state);
        Ok(TrainResponse::Stepped { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// Which of this host's users are in which step of the epoch.
    async fn batches(&self, users: &Arc<Users>, at: At) -> Result<Arc<Batches>, Error> {
        let known = self.state().softmax.batches.clone().filter(|(epoch, _)| *epoch == at.epoch);
        if let Some((_, batches)) = known {
            return Ok(batches);
        }
        let (settings, users) = (*self.softmax_settings()?, users.clone());
        let work = move || -> Batches {
            let of = |(vworker, range): &(u16, std::ops::Range<usize>)| {
                let sizes: Vec<u32> = range.clone().map(|user| users.side.adjacency.row(user).0.len() as u32).collect();
                plan::batches(&settings, at.epoch, *vworker, &sizes, at.steps)
            };
            users.side.vworkers.iter().map(of).collect()
        };
        let batches = Arc::new(self.context.compute.run(work).await?);
        self.state().softmax.batches = Some((at.epoch, batches.clone()));
        Ok(batches)
    }

    /// Rows of this owner at a step.
    pub(super) fn rows_at(&self, at: At, places: Vec<u32>) -> Result<Content, Error> {
        let (dim, version) = (usize::from(self.softmax_settings()?.dim), at.reads(self.open.staleness));
        let (count, table) = (places.len(), self.table()?);
        table.read().unwrap_or_else(PoisonError::into_inner).at(dim, version)?;
        let pack = move |asked: Range<usize>, bytes: &mut Vec<u8>| {
            let versioned = table.read().unwrap_or_else(PoisonError::into_inner);
            let rows = versioned.at(dim, version)?;
            places[asked].iter().try_for_each(|place| {
                let row = rows.row(*place).ok_or_else(|| Error::Invalid(format!("there is no item {place} here")))?;
                wire::push_floats(row, bytes);
                Ok(())
            })
        };
        Ok(Content::Rows { count, row_bytes: dim * 4, pack: Box::new(pack) })
    }

    pub(super) fn table(&self) -> Result<Arc<RwLock<Versioned>>, Error> {
        self.state().softmax.table.clone().ok_or_else(|| Error::out_of_turn("for rows", "link comes first"))
    }

    /// Applies what all users pushed in a step to this owner's rows.
    pub(super) async fn apply(&self, at: At) -> Result<TrainResponse, Error> {
        let settings = *self.softmax_settings()?;
        let table = self.table()?;
        table.read().unwrap_or_else(PoisonError::into_inner).check(at.version())?;
        let draws = self.draws()?;
        let blob = Blob::Push { at, reader: self.context.options.node };
        let users = self.open.hosts.user_nodes();
        let pushed = try_join_all(
            users.into_iter().map(|node| async move { Ok::<_, Error>((node, self.pull(node, blob).await?)) }),
        );
        let (pushed, kernel, dim) = (pushed.await?, self.context.kernel, usize::from(settings.dim));
        let (climb, staleness) = (self.climb(at)?, self.open.staleness);
        let work = move || -> Result<Option<Vec<Node<Vec<f64>>>>, Error> {
            let mut versioned = table.write().unwrap_or_else(PoisonError::into_inner);
            versioned.check(at.version())?;
            let negatives: Vec<u32> = draws.of(at).into_iter().map(|(item, _)| item).collect();
            let mut roots = Vec::new();
            for (node, bytes) in pushed {
                roots.extend(decode_push(node, dim, negatives.len(), &bytes)?);
            }
            let gradients = Push::finish(dim, roots)?.gradients(dim, &negatives)?;
            let rate = settings.rate(at.steps, at.epoch, at.step);
            let Some(climb) = climb else {
                return versioned.apply((kernel, dim), rate, &gradients, staleness).map(|()| None);
            };
            let sums = climb.apply(&mut versioned.table, rate, &gradients)?;
            versioned.end_step(staleness);
            Ok(Some(sums))
        };
        let (sums, bytes_pulled) = (self.context.compute.run(work).await??, self.bytes_pulled());
        Ok(match sums {
            Some(sums) => TrainResponse::Stepped { sums, bytes_pulled },
            None => TrainResponse::Exchanged { bytes_pulled },
        })
    }

    fn draws(&self) -> Result<Arc<Draws>, Error> {
        self.state().softmax.draws.clone().ok_or_else(|| Error::out_of_turn("for negatives", "prepare comes first"))
    }

    /// A blob of this family.
    pub(super) async fn softmax_blob(&self, blob: Blob) -> Result<Bytes, Error> {
        let dim = usize::from(self.softmax_settings()?.dim);
        match blob {
            Blob::Negatives { at } => {
                let (draws, table, staleness) = (self.draws()?, self.table()?, self.open.staleness);
                let work = move || {
                    let versioned = table.read().unwrap_or_else(PoisonError::into_inner);
                    let rows = versioned.at(dim, at.reads(staleness))?;
                    let items: Drawn = draws.of(at);
                    let mut blob = wire::headed(&items, items.len() * dim * 4)?;
                    for row in items.iter().filter_map(|(place, _)| rows.row(*place)) {
                        wire::push_floats(row, &mut blob);
                    }
                    Ok(blob)
                };
                self.written(blob, work).await
            }
            Blob::Push { reader, .. } if !self.open.hosts.items.contains(&reader) => Err(no_host(reader)),
            Blob::Push { at, reader } => {
                let pushed = self.state().softmax.pushed.iter().find(|pushed| pushed.at == at).cloned();
                let pushed = pushed.ok_or_else(|| Error::out_of_turn("for a push", "its gradients come first"))?;
                let owners = self.owners()?;
                let work = move || {
                    let number = |item: u32| {
                        let (node, place) = owners.place(*pushed.items.get(item as usize)?)?;
                        (node == reader).then_some(place)
                    };
                    let (mut roots, mut rows) = (Vec::new(), Vec::new());
                    for Node { level, index, value } in &pushed.roots {
                        let targets = value.targets.each().filter_map(|(item, row)| Some((number(item)?, row)));
                        let (items, of_targets): (Vec<u32>, Vec<&[f32]>) = targets.unzip();
                        let negatives = pushed.negatives.each(value).filter(|(item, _)| number(*item).is_some());
                        let negatives: Vec<&[f32]> = negatives.map(|(_, row)| row).collect();
                        let values = negatives.iter().map(|row| row.len() as u32).sum();
                        roots.push(Root { level: *level, index: *index, items, negatives: values });
                        rows.extend(of_targets.into_iter().chain(negatives));
                    }
                    let mut blob = wire::headed(&roots, rows.iter().map(|row| row.len() * 4).sum())?;
                    rows.iter().for_each(|row| wire::push_floats(row, &mut blob));
                    Ok(blob)
                };
                self.written(blob, work).await
            }
            _ => Err(Error::Internal("not a blob of sampled softmax".into())),
        }
    }

    /// [`Blob::Trained`].
    pub(super) fn serve_trained(&self) -> Result<Content, Error> {
        let (dim, table) = (usize::from(self.softmax_settings()?.dim), self.table()?);
        let count = table.read().unwrap_or_else(PoisonError::into_inner).latest()?.len() / dim;
        let pack = move |asked: Range<usize>, bytes: &mut Vec<u8>| {
            let versioned = table.read().unwrap_or_else(PoisonError::into_inner);
            let rows = versioned.latest()?.get(asked.start * dim..asked.end * dim);
            wire::push_floats(rows.ok_or_else(|| Error::Internal("rows have gone".into()))?, bytes);
            Ok(())
        };
        Ok(Content::Rows { count, row_bytes: dim * 4, pack: Box::new(pack) })
    }

    /// The rows and squares of a virtual worker after `step` steps.
    pub(super) fn softmax_state(&self, vworker: u16, step: u32) -> Result<Bytes, Error> {
        let (dim, items, versioned) = (usize::from(self.softmax_settings()?.dim), self.items()?, self.table()?);
        let versioned = versioned.read().unwrap_or_else(PoisonError::into_inner);
        versioned.check(step)?;
        let range = items.vworkers.iter().find(|(own, _)| *own == vworker).map(|(_, range)| range.clone());
        let range = range.ok_or_else(|| Error::Invalid(format!("virtual worker {vworker} is not here")))?;
        let (rows, squares) = (versioned.table.rows(), versioned.table.squares());
        let mut bytes = Vec::with_capacity(range.len() * (dim + 1) * 4);
        wire::push_floats(&rows[range.start * dim..range.end * dim], &mut bytes);
        wire::push_floats(&squares[range], &mut bytes);
        Ok(bytes.into())
    }

    /// Takes up rows and squares after `step` steps.
    pub(super) fn restore_table(&self, step: u32, states: &States) -> Result<(), Error> {
        let (dim, items) = (usize::from(self.softmax_settings()?.dim), self.items()?);
        let values = joined(states, &items.vworkers, dim + 1)?;
        let (mut rows, mut squares, mut rest) = (Vec::new(), Vec::new(), &values[..]);
        for (_, state) in states {
            let (of_vworker, others) = rest.split_at(state.len() / 4);
            let (of_rows, of_squares) = of_vworker.split_at(of_vworker.len() / (dim + 1) * dim);
            rows.extend_from_slice(of_rows);
            squares.extend_from_slice(of_squares);
            rest = others;
        }
        let table = Versioned::new(step, Table::from_parts(dim, rows, squares)?, self.no_outputs());
        self.state().softmax.table = Some(Arc::new(RwLock::new(table)));
        Ok(())
    }

    /// This owner's rows as they are.
    pub(super) fn trained_rows(&self) -> Result<Vec<f32>, Error> {
        let versioned = self.table()?;
        let versioned = versioned.read().unwrap_or_else(PoisonError::into_inner);
        Ok(versioned.latest()?.to_vec())
    }

    /// Ranks by the rows of the trained model; users are what a reader makes of their histories.
    pub(super) async fn ranking_by_histories(&self, settings: &Settings, order: &Order) -> Result<Ranking, Error> {
        let (dim, kernel) = (usize::from(settings.dim), self.context.kernel);
        let (users, places) = (self.users()?, self.located()?);
        let items = self.all_rows(dim, Blob::Trained, order).await?;
        let (tower, odds, settings) = (self.last_user_tower(), self.state().odds.clone(), *settings);
        let work = move || -> Result<Ranking, Error> {
            let mut rows = Vec::with_capacity(users.side.adjacency.rows() * dim);
            for at in 0..users.side.adjacency.rows() {
                let (of_user, confidences) = users.side.adjacency.row(at);
                // Every item that is trained on is in the model.
                let row = |(item, confidence): (&u32, &f32)| {
                    let row = items.chunks_exact(dim).nth(places[*item as usize] as usize);
                    Ok((row.ok_or_else(|| Error::Internal("a trained item has no row".into()))?, *confidence))
                };
                let history: Vec<(&[f32], f32)> =
                    of_user.iter().zip(confidences).map(row).collect::<Result<_, Error>>()?;
                rows.extend(user::vector(kernel, tower.as_ref(), dim, &history)?);
            }
            Ok(match odds {
                Some(odds) => odds.ranking(&settings, &rows, &items),
                None => Ranking::Vectors { dim, users: Arc::new(rows), items },
            })
        };
        self.context.compute.run(work).await?
    }
}

/// Positives of a virtual worker's items.
fn positives(items: &ItemSide, vworker: u16) -> Vec<u32> {
    let rows = items.vworkers.iter().find(|(own, _)| *own == vworker).map_or(0..0, |(_, rows)| rows.clone());
    rows.map(|row| u32::try_from(items.adjacency.row(row).0.len()).unwrap_or(u32::MAX)).collect()
}

/// The roots that `node` pushed.
fn decode_push(node: u64, dim: usize, negatives: usize, blob: &Bytes) -> Result<Vec<Node<Push>>, Error> {
    let malformed = || Error::Malformed { node, reason: "a push".into() };
    let (roots, mut rows): (Vec<Root>, Bytes) = wire::beheaded(blob).ok_or_else(malformed)?;
    let mut take = |values: usize| {
        let is_there = values.checked_mul(4).is_some_and(|bytes| bytes <= rows.len());
        is_there.then(|| wire::floats(&rows.split_to(values * 4))).ok_or_else(malformed)
    };
    let root = |root: Root| {
        let (rows, of_negatives) = (take(root.items.len() * dim)?, take(root.negatives as usize)?);
        let targets = Gradients::from_parts(dim, root.items, rows).map_err(|_| malformed())?;
        let value = Push { targets, negatives: of_negatives, ..Push::default() };
        if !value.fits(dim, negatives) || value.negatives.iter().any(|value| !value.is_finite()) {
            return Err(malformed());
        }
        Ok(Node { level: root.level, index: root.index, value })
    };
    let roots = roots.into_iter().map(root).collect::<Result<Vec<_>, Error>>()?;
    if rows.is_empty() { Ok(roots) } else { Err(malformed()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A root of item 5 and both negatives, whose rows are as long as their stride.
    fn blob(values: &[f32]) -> Bytes {
        let root = Root { level: 1, index: 3, items: vec![5], negatives: 32 };
        let mut blob = wire::headed(&vec![root], values.len() * 4).unwrap();
        wire::push_floats(values, &mut blob);
        blob.into()
    }

    #[test]
    fn a_push_is_read_as_it_was_written_and_refused_where_its_rows_do_not_fit() {
        let values: Vec<f32> = (0u8..34).map(f32::from).collect();
        let roots = decode_push(7, 2, 2, &blob(&values)).unwrap();
        let [Node { level: 1, index: 3, value }] = &roots[..] else { panic!("{roots:?}") };
        assert_eq!((value.targets.items(), value.targets.rows()), (&[5u32][..], &values[..2]));
        assert_eq!(value.negatives, values[2..]);
        let no_number: Vec<f32> = values.iter().map(|value| if *value == 9.0 { f32::NAN } else { *value }).collect();
        for wrong in [&values[..33], &[&values[..], &[1.0]].concat(), &no_number, &[]] {
            let error = decode_push(7, 2, 2, &blob(wrong)).unwrap_err();
            assert!(matches!(error, Error::Malformed { node: 7, .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_push_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode_push(7, 2, 2, &bytes.into());
        }
    }
}
