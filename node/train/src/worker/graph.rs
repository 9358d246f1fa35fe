//! The graph filter on a host: what users like together, counted where they are and added up where items are; then neighbours.
//!
//! Items are numbered in the order of all (`order`). A user host counts pairs of a virtual worker of sources at a time, and only when their
//! owner asks, so that no host ever holds more pairs than one virtual worker of sources has.
use super::{
    checkpoint::States,
    evaluate::Ranking,
    order::Order,
    session::{Session, no_host},
};
use crate::{
    Error, TrainResponse,
    blob::Content,
    load::UserSide,
    message::{Blob, COUNT_ROUNDS},
    pairs::{self, Lists},
    part::Neighbour,
    plan::{Algorithm, Hosts},
};
use bytes::Bytes;
use docent_model::{
    Adjacency,
    graph::{Counter, ItemNorm, Settings, Weights, balance, merge},
    parallel,
};
use docent_placement::hash::fingerprint;
use futures::future::try_join_all;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, atomic::Ordering},
};

/// What phases leave.
#[derive(Default)]
pub(in crate::worker) struct Graph {
    /// On an owner: the neighbours of its items by virtual worker, one row an item.
    lists: BTreeMap<u16, Arc<Adjacency>>,
    /// On an owner: the order that those numbers are of.
    order: Option<Arc<Order>>,
    /// On an owner, once it has asked: what the users of each item add to a pair.
    units: Option<Arc<Vec<u64>>>,
    /// On a user host: what each of its users adds to a pair, the same for every virtual worker of sources.
    of_users: Arc<OnceLock<Vec<u64>>>,
}

/// Sources that one task counts: their lists are very different in length.
const SOURCES_OF_TASK: usize = 16;

impl Session {
    fn graph_settings(&self) -> Result<&Settings, Error> {
        match &self.open.algorithm {
            Algorithm::Graph(settings) => Ok(settings),
            _ => Err(Error::Invalid("only a graph filter counts neighbours".into())),
        }
    }

    /// Counts the neighbours of the items of every [`COUNT_ROUNDS`]th virtual worker of this owner.
    pub(super) async fn count(&self, order: Order, round: u16) -> Result<TrainResponse, Error> {
        let settings = *self.graph_settings()?;
        let positives = Arc::new(self.positives(&order).await?);
        let units = match settings.item_norm {
            ItemNorm::Weights => self.units(&order).await?,
            ItemNorm::Positives | ItemNorm::Length { .. } => Arc::default(),
        };
        let own = Hosts::vworkers_of(&self.open.hosts.items, self.context.options.node);
        for vworker in own.into_iter().filter(|vworker| vworker % COUNT_ROUNDS == round) {
            let users = self.open.hosts.user_nodes();
            let blob = Blob::Pairs { vworker };
            let pulls =
                users.into_iter().map(|node| async move { Ok::<_, Error>((node, self.pull(node, blob).await?)) });
            let blobs = try_join_all(pulls).await?;
            let (range, threads) = (order.of_vworker(vworker), self.context.options.threads);
            let (positives, units) = (positives.clone(), units.clone());
            let work = move || -> Result<Adjacency, Error> {
                let mut sums: Vec<Vec<Vec<(u32, u64)>>> = vec![Vec::new(); range.len()];
                for (node, blob) in blobs {
                    for (source, entries) in pairs::decode::<u64>(node, &blob, positives.len())? {
                        let of_source = (source as usize).checked_sub(range.start).and_then(|at| sums.get_mut(at));
                        let of_source = of_source.ok_or_else(|| Error::Malformed {
                            node,
                            reason: "a source that was not asked for".into(),
                        })?;
                        of_source.push(entries);
                    }
                }
                Ok(neighbours(&Weights::new(&settings, &positives, &units), threads, range.start, sums))
            };
            let lists = self.context.compute.run(work).await??;
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            self.state().graph.lists.insert(vworker, Arc::new(lists));
        }
        self.state().graph.order = Some(Arc::new(order));
        Ok(TrainResponse::Exchanged { bytes_pulled: self.bytes_pulled() })
    }

    /// What the users of each item add to a pair, asked of user hosts once.
    async fn units(&self, order: &Order) -> Result<Arc<Vec<u64>>, Error> {
        let known = self.state().graph.units.clone();
        if let Some(units) = known {
            return Ok(units);
        }
        let mut units = vec![0u64; order.total()];
        for node in self.open.hosts.user_nodes() {
            for (_, entries) in pairs::decode::<u64>(node, &self.pull(node, Blob::Units).await?, units.len())? {
                // Whole numbers: hosts in any order give the same.
                entries.into_iter().for_each(|(item, sum)| {
                    let unit = &mut units[item as usize];
                    *unit = unit.saturating_add(sum);
                });
            }
        }
        let units = Arc::new(units);
        self.state().graph.units = Some(units.clone());
        Ok(units)
    }

    /// A blob of this family.
    pub(super) async fn graph_blob(&self, blob: Blob) -> Result<Bytes, Error> {
        match blob {
            Blob::Pairs { vworker } => {
                let (users, settings, threads) = (self.users()?, *self.graph_settings()?, self.context.options.threads);
                let (places, owners, units) = (self.located()?, self.owners()?, self.state().graph.of_users.clone());
                self.written(blob, move || {
                    let units = units.get_or_init(|| units_of_users(&users.side, &settings, owners.items()));
                    pairs::encode(&count_pairs(&users.side, units, &places, threads, vworker))
                })
                .await
            }
            Blob::Units => {
                let (users, settings) = (self.users()?, *self.graph_settings()?);
                let (places, owners, units) = (self.located()?, self.owners()?, self.state().graph.of_users.clone());
                self.written(blob, move || {
                    let units = units.get_or_init(|| units_of_users(&users.side, &settings, owners.items()));
                    pairs::encode(&vec![(0, units_of_items(&users.side, units, &places))])
                })
                .await
            }
            Blob::Neighbours => {
                let counted = self.counted()?;
                self.written(blob, move || pairs::encode(&counted.lists(|_| true))).await
            }
            Blob::Weights { reader } if !self.open.hosts.items.contains(&reader) => Err(no_host(reader)),
            Blob::Weights { reader } => {
                let counted = self.counted()?;
                let of_reader = counted.order.of_owner(&self.open.hosts, reader);
                self.written(blob, move || {
                    pairs::encode(&counted.lists(|target| of_reader.binary_search(&target).is_ok()))
                })
                .await
            }
            _ => Err(Error::Internal("not a blob of a graph filter".into())),
        }
    }

    /// [`Blob::Fingerprints`].
    pub(super) fn serve_fingerprints(&self) -> Result<Content, Error> {
        let items = self.items()?;
        let push = move |n: usize, bytes: &mut Vec<u8>| bytes.extend(fingerprint(&items.items[n].1).to_le_bytes());
        Ok(Content::of_rows(self.items()?.items.len(), 8, push))
    }

    /// The neighbours of a virtual worker's items, as far as they are counted.
    pub(super) fn graph_state(&self, vworker: u16) -> Result<Bytes, Error> {
        let Counted { order, lists } = self.counted()?;
        let of_vworker = lists.get_key_value(&vworker).map(|(vworker, lists)| (*vworker, lists.clone()));
        Ok(pairs::encode(&Counted { order, lists: of_vworker.into_iter().collect() }.lists(|_| true))?.into())
    }

    /// Takes up neighbours that are counted.
    pub(super) fn restore_neighbours(&self, states: States, order: Order) -> Result<(), Error> {
        let mut lists = BTreeMap::new();
        for (vworker, state) in states {
            let (range, node) = (order.of_vworker(vworker), self.context.options.node);
            let mut rows = Adjacency::new();
            for (source, entries) in pairs::decode::<f32>(node, &state, order.total())? {
                let foreign = || Error::Malformed { node, reason: "neighbours of another virtual worker".into() };
                let at =
                    (source as usize).checked_sub(range.start).filter(|at| *at < range.len()).ok_or_else(foreign)?;
                while rows.rows() < at {
                    rows.push_row([]);
                }
                rows.push_row(entries);
            }
            while rows.rows() < range.len() {
                rows.push_row([]);
            }
            lists.insert(vworker, Arc::new(rows));
        }
        self.state().graph = Graph { lists, order: Some(Arc::new(order)), ..Graph::default() };
        Ok(())
    }

    fn counted(&self) -> Result<Counted, Error> {
        let state = self.state();
        let missing = || Error::out_of_turn("for neighbours", "count comes first");
        let (order, lists) = (state.graph.order.clone().ok_or_else(missing)?, state.graph.lists.clone());
        Ok(Counted { order, lists })
    }

    /// Ranks by the neighbours of all items.
    pub(super) async fn ranking_by_neighbours(&self, order: &Order) -> Result<Ranking, Error> {
        let pulled = self.pull_from_owners(Blob::Neighbours).await?;
        let (total, settings) = (order.total(), *self.graph_settings()?);
        let work = move || -> Result<Ranking, Error> {
            let mut of_owners = Vec::new();
            for (node, blob) in pulled {
                of_owners.extend(pairs::decode::<f32>(node, &blob, total)?);
            }
            of_owners.sort_unstable_by_key(|(source, _)| *source);
            let mut by_source = Adjacency::new();
            for (source, entries) in of_owners {
                while by_source.rows() < source as usize {
                    by_source.push_row([]);
                }
                by_source.push_row(entries);
            }
            Ok(Ranking::Graph { by_source: balance(&settings, &by_source, total) })
        };
        self.context.compute.run(work).await?
    }

    /// The weights that all items have for this owner's: by its place, with the source's fingerprint.
    pub(super) async fn weights(&self) -> Result<Vec<Neighbour>, Error> {
        let (Counted { order, .. }, settings) = (self.counted()?, *self.graph_settings()?);
        let reader = self.context.options.node;
        let prints = self.pull_from_owners(Blob::Fingerprints).await?;
        let lists = self.pull_from_owners(Blob::Weights { reader }).await?;
        let open = self.open.clone();
        let work = move || -> Result<Vec<Neighbour>, Error> {
            let mut of_number = vec![0u64; order.total()];
            for (node, prints) in prints {
                let of_owner = order.of_owner(&open.hosts, node);
                if prints.len() != of_owner.len() * 8 {
                    return Err(Error::Malformed { node, reason: "fingerprints of another number of items".into() });
                }
                let prints = prints.as_chunks().0.iter().map(|eight| u64::from_le_bytes(*eight));
                of_owner.iter().zip(prints).for_each(|(number, print)| of_number[*number as usize] = print);
            }
            let own = order.of_owner(&open.hosts, reader);
            let mut by_target: Vec<Vec<(u32, f32)>> = vec![Vec::new(); own.len()];
            for (node, blob) in lists {
                for (source, entries) in pairs::decode::<f32>(node, &blob, order.total())? {
                    for (target, weight) in entries {
                        let place = own.binary_search(&target);
                        let foreign = |_| Error::Malformed { node, reason: "a weight for another owner's item".into() };
                        by_target[place.map_err(foreign)?].push((source, weight));
                    }
                }
            }
            let mut weights = Vec::new();
            for (at, mut entries) in (0..).zip(by_target) {
                // Owners come one after the other; what weights add up to must not depend on who they are.
                entries.sort_unstable_by_key(|(source, _)| *source);
                settings.balance_target(&mut entries);
                let neighbour =
                    |(source, weight): (u32, f32)| Neighbour { source: of_number[source as usize], at, weight };
                weights.extend(entries.into_iter().map(neighbour));
            }
            Ok(weights)
        };
        self.context.compute.run(work).await?
    }
}

/// What an owner has counted.
struct Counted {
    order: Arc<Order>,
    /// By virtual worker.
    lists: BTreeMap<u16, Arc<Adjacency>>,
}

impl Counted {
    /// The neighbours that `keep` holds for, of every item that has any.
    fn lists(&self, keep: impl Fn(u32) -> bool) -> Lists<f32> {
        let rows = self.lists.iter().flat_map(|(vworker, lists)| {
            self.order
                .of_vworker(*vworker)
                .zip(0..lists.rows())
                .map(move |(source, row)| (source as u32, lists.row(row)))
        });
        let kept = rows.map(|(source, (targets, weights))| {
            let entries = targets.iter().copied().zip(weights.iter().copied());
            (source, entries.filter(|(target, _)| keep(*target)).collect::<Vec<_>>())
        });
        kept.filter(|(_, entries)| !entries.is_empty()).collect()
    }
}

/// What each of this host's users adds to a pair.
fn units_of_users(side: &UserSide, settings: &Settings, items: usize) -> Vec<u64> {
    (0..side.adjacency.rows()).map(|user| settings.unit(side.adjacency.row(user).0.len(), items)).collect()
}

/// What this host's users of each touched item add to a pair, in numbers of all items.
fn units_of_items(side: &UserSide, units: &[u64], places: &[u32]) -> Vec<(u32, u64)> {
    let sum =
        |at: usize| side.by_item.row(at).0.iter().fold(0u64, |sum, user| sum.saturating_add(units[*user as usize]));
    let known = places.iter().enumerate().filter(|(_, place)| **place != u32::MAX);
    known.map(|(at, place)| (*place, sum(at))).collect()
}

/// What is liked together with each of this host's touched items of a virtual worker, in numbers of all items.
fn count_pairs(side: &UserSide, units: &[u64], places: &[u32], threads: usize, vworker: u16) -> Lists<u64> {
    let sources: Vec<usize> = side.touched_of(vworker).filter(|at| places[*at] != u32::MAX).collect();
    let mut lists: Lists<u64> = sources.iter().map(|at| (places[*at], Vec::new())).collect();
    let tasks = lists.chunks_mut(SOURCES_OF_TASK).zip(sources.chunks(SOURCES_OF_TASK)).collect();
    parallel::for_each(
        threads,
        tasks,
        || Counter::new(side.touched.len()),
        |counter, (lists, sources)| {
            for ((_, sums), at) in lists.iter_mut().zip(sources) {
                let counted = counter.count(*at as u32, side.by_item.row(*at).0, &side.adjacency, units);
                // Touched items are in the order of all items, and so are their numbers.
                *sums = counted.into_iter().map(|(other, sum)| (places[other as usize], sum)).collect();
            }
        },
    );
    lists.retain(|(_, sums)| !sums.is_empty());
    lists
}

/// The neighbours of sources `first..` from the sums of each host.
fn neighbours(weights: &Weights<'_>, threads: usize, first: usize, sums: Vec<Vec<Vec<(u32, u64)>>>) -> Adjacency {
    let mut lists = vec![Vec::new(); sums.len()];
    let tasks = lists.chunks_mut(SOURCES_OF_TASK).zip(sums.chunks(SOURCES_OF_TASK)).enumerate().collect();
    parallel::for_each(
        threads,
        tasks,
        || (),
        |(), (task, (lists, sums))| {
            for ((at, list), sums) in (first + task * SOURCES_OF_TASK..).zip(lists).zip(sums) {
                *list = weights.neighbours(at as u32, &merge(sums));
            }
        },
    );
    let mut rows = Adjacency::new();
    lists.into_iter().for_each(|list| rows.push_row(list));
    rows
}
