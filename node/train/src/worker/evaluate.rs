//! Measuring on a user host: every item ranked for users with something held out.
use super::{blend::Blended, order::Order, session::Session, users::Users};
use crate::{Error, TrainResponse, VWORKERS, message::Blob, plan::Algorithm, wire};
use bytes::Bytes;
use docent_model::{
    Adjacency, Kernel,
    evaluation::{Catalogue, Judged, Sums, weights},
    graph::Scorer,
    parallel, rank, tree,
};
use futures::future::try_join_all;
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What ranks items for users.
pub(super) enum Ranking {
    /// Inner products of rows of so many values: this host's users', and all items' in their order.
    Vectors { dim: usize, users: Arc<Vec<f32>>, items: Vec<f32> },
    /// Neighbours of all items in their order.
    Graph { by_source: Adjacency },
    /// A blend of such.
    Blend(Blended),
}

type PartialSums = Vec<tree::Node<Vec<f64>>>;

/// What the compute thread measures with.
pub(super) struct Measure {
    pub(super) users: Arc<Users>,
    /// Positives of all items in their order.
    pub(super) positives: Vec<u32>,
    /// Per touched item its number, `u32::MAX` when it is not in the model.
    places: Arc<Vec<u32>>,
    /// Users in the cluster.
    users_total: u64,
    cutoffs: Vec<u16>,
    users_max: usize,
    pub(super) kernel: Kernel,
    pub(super) threads: usize,
    stop: Arc<AtomicBool>,
}

impl Session {
    pub(super) async fn evaluate(
        &self,
        order: &Order,
        users_total: u64,
        cutoffs: &[u16],
        users_max: u32,
    ) -> Result<TrainResponse, Error> {
        let ranking = self.ranking(order).await?;
        let measure = self.measure(order, users_max).await?.at(users_total, cutoffs)?;
        self.measured(measure, ranking).await
    }

    /// What ranks by this run's model.
    pub(super) async fn ranking(&self, order: &Order) -> Result<Ranking, Error> {
        match &self.open.algorithm {
            Algorithm::Ials(settings) => self.ranking_by_rows(settings, order).await,
            Algorithm::Graph(_) => self.ranking_by_neighbours(order).await,
            Algorithm::Softmax(settings) => self.ranking_by_histories(settings, order).await,
            Algorithm::Tower(settings) => self.ranking_by_histories(&settings.base, order).await,
        }
    }

    /// What measures about so many users (0: all), at no cut-off yet.
    pub(super) async fn measure(&self, order: &Order, users_max: u32) -> Result<Measure, Error> {
        let users = self.users()?;
        Ok(Measure {
            positives: self.positives(order).await?,
            places: Arc::new(self.places(&users, order).await?),
            users,
            users_total: 0,
            cutoffs: Vec::new(),
            users_max: if users_max == 0 { usize::MAX } else { users_max.div_ceil(u32::from(VWORKERS)) as usize },
            kernel: self.context.kernel,
            threads: self.context.options.threads,
            stop: self.stop.clone(),
        })
    }

    /// Measures on the compute thread.
    pub(super) async fn measured(&self, measure: Measure, ranking: Ranking) -> Result<TrainResponse, Error> {
        let (sums, shown) = self.context.compute.run(move || measure.run(&ranking)).await??;
        self.state().shown = Some(shown.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<_>>().into());
        Ok(TrainResponse::Evaluated { sums, bytes_pulled: self.bytes_pulled() })
    }

    /// All items' rows of `dim` values in their order, from what `blob` is of each owner.
    pub(super) async fn all_rows(&self, dim: usize, blob: Blob, order: &Order) -> Result<Vec<f32>, Error> {
        let mut items = vec![0.0f32; order.total() * dim];
        for (node, rows) in self.pull_from_owners(blob).await? {
            let of_owner = order.of_owner(&self.open.hosts, node);
            if rows.len() != of_owner.len() * dim * 4 {
                return Err(Error::Malformed { node, reason: "a table of another size".into() });
            }
            for (at, row) in of_owner.iter().zip(rows.chunks_exact(dim * 4)) {
                let to = &mut items[*at as usize * dim..][..dim];
                wire::read_floats(row, to);
            }
        }
        Ok(items)
    }

    /// Positives of all items, in their order.
    pub(super) async fn positives(&self, order: &Order) -> Result<Vec<u32>, Error> {
        let pulled = self.pull_from_owners(Blob::Positives).await?;
        let mut positives = vec![0; order.total()];
        for (node, list) in pulled {
            let of_owner = order.of_owner(&self.open.hosts, node);
            if list.len() != of_owner.len() * 4 {
                return Err(Error::Malformed { node, reason: "positives of another number of items".into() });
            }
            of_owner.iter().zip(wire::numbers(&list)).for_each(|(at, count)| positives[*at as usize] = count);
        }
        Ok(positives)
    }

    /// For each item that this host's users touched its number in the order of all, `u32::MAX` for one that is not in the model.
    pub(super) async fn places(&self, users: &Users, order: &Order) -> Result<Vec<u32>, Error> {
        let pulled = self.pull_from_owners(Blob::Places { reader: self.context.options.node }).await?;
        let mut places = vec![u32::MAX; users.side.touched.len()];
        for (node, list) in pulled {
            let of_owner = order.of_owner(&self.open.hosts, node);
            let touched = users.touched.get(&node).map_or(&[][..], |touched| touched.as_slice());
            if list.len() != touched.len() * 4 {
                return Err(Error::Malformed { node, reason: "places of another number of items".into() });
            }
            for (at, place) in touched.iter().zip(wire::numbers(&list)).filter(|(_, place)| *place != u32::MAX) {
                let number = of_owner.get(place as usize);
                let malformed = || Error::Malformed { node, reason: "a place beyond its items".into() };
                places[*at as usize] = *number.ok_or_else(malformed)?;
            }
        }
        Ok(places)
    }

    /// The same blob of every owner of items.
    pub(super) async fn pull_from_owners(&self, blob: Blob) -> Result<Vec<(u64, Bytes)>, Error> {
        let owners = self.open.hosts.item_nodes();
        try_join_all(owners.into_iter().map(|node| async move { Ok((node, self.pull(node, blob).await?)) })).await
    }
}

impl Ranking {
    /// The `n` best items of each of `users`, best first, without what each has (`seen`, ascending).
    pub(super) fn lists(
        &self,
        measure: &Measure,
        users: &[usize],
        seen: &[&[u32]],
        n: usize,
    ) -> Result<Vec<Vec<u32>>, Error> {
        match self {
            Self::Vectors { dim, users: rows, items } => {
                let rows: Vec<f32> = users.iter().flat_map(|user| rows[user * dim..][..*dim].iter().copied()).collect();
                Ok(rank::Items::new(*dim, items)?.rank(measure.kernel, measure.threads, &rows, seen, n)?)
            }
            Self::Graph { by_source } => {
                let mut lists = vec![Vec::new(); seen.len()];
                parallel::for_each(
                    measure.threads,
                    lists.iter_mut().zip(seen).collect(),
                    || Scorer::new(by_source, measure.positives.len()),
                    |scorer, (list, seen)| *list = scorer.top(seen, n).into_iter().map(|(item, _)| item).collect(),
                );
                Ok(lists)
            }
            Self::Blend(blended) => blended.lists(measure, users, seen, n),
        }
    }
}

impl Measure {
    /// At these cut-offs, in a cluster of so many users.
    pub(super) fn at(self, users_total: u64, cutoffs: &[u16]) -> Result<Self, Error> {
        match cutoffs.len() {
            1..=16 => Ok(Self { users_total, cutoffs: cutoffs.to_vec(), ..self }),
            _ => Err(Error::Invalid("evaluation needs 1 to 16 cut-offs".into())),
        }
    }

    /// Partial sums, and in how many lists each item is, cut-off by cut-off.
    fn run(&self, ranking: &Ranking) -> Result<(PartialSums, Vec<u32>), Error> {
        let mut shown = vec![0; self.cutoffs.len() * self.positives.len()];
        let mut leaves = Vec::new();
        for (vworker, range) in &self.users.side.vworkers {
            let value = self.vworker(ranking, range.clone(), &mut shown)?;
            leaves.push(tree::Node { level: 0, index: *vworker, value });
        }
        Ok((tree::fold(leaves), shown))
    }

    /// The users of a virtual worker that are measured, and what each has: numbers of items, ascending.
    pub(super) fn measured(&self, range: Range<usize>) -> Result<(Vec<usize>, Vec<Vec<u32>>), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        let side = &self.users.side;
        let mut measured: Vec<usize> = range.filter(|user| !side.held_out.row(*user).0.is_empty()).collect();
        if measured.len() > self.users_max {
            measured.sort_unstable_by_key(|user| (side.lots[*user], *user));
            measured.truncate(self.users_max);
            measured.sort_unstable();
        }
        let seen = measured.iter().map(|user| self.in_table(side.adjacency.row(*user).0)).collect();
        Ok((measured, seen))
    }

    /// Numbers of touched items, ascending; of those that the model has.
    pub(super) fn in_table(&self, touched: &[u32]) -> Vec<u32> {
        let places = touched.iter().map(|at| self.places[*at as usize]);
        let mut list: Vec<u32> = places.filter(|row| *row != u32::MAX).collect();
        list.sort_unstable();
        list
    }

    /// Sums over the users of one virtual worker, cut-off by cut-off.
    fn vworker(&self, ranking: &Ranking, range: Range<usize>, shown: &mut [u32]) -> Result<Vec<f64>, Error> {
        let side = &self.users.side;
        let (measured, seen) = self.measured(range)?;
        let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        let deepest = self.cutoffs.iter().copied().max().unwrap_or(1);
        let lists = ranking.lists(self, &measured, &seen, usize::from(deepest))?;
        let catalogue = Catalogue { positives: &self.positives, users: self.users_total };
        let mut sums = vec![Sums::default(); self.cutoffs.len()];
        for (user, list) in measured.iter().zip(lists) {
            let judged = Judged {
                list: &list,
                truth: &self.in_table(side.held_out.row(*user).0),
                truths: side.held_out.row(*user).0.len(),
                positives: side.adjacency.row(*user).0.len() as u32,
                weights: &weights(side.lots[*user]),
            };
            let shown = shown.chunks_exact_mut(self.positives.len().max(1));
            for ((sums, cutoff), shown) in sums.iter_mut().zip(&self.cutoffs).zip(shown) {
                sums.add(&judged, &catalogue, usize::from(*cutoff));
                list.iter().take(usize::from(*cutoff)).for_each(|item| shown[*item as usize] += 1);
            }
        }
        Ok(sums.iter().flat_map(Sums::to_vec).collect())
    }
}
