//! The items of one shard under one model version, whatever the family of the model.

use super::blend::BlendIndex;
use super::models::{Family, Vectors, Version};
use docent_index::{EngineChoice, ItemIndex, Neighbour, NeighbourIndex, ScoredItem, Settings};
use docent_shard::Effects;
use docent_train::part;
use docent_types::item::{Item, ItemState};
use docent_types::{Error, Kind, Result, SlotRange};
use std::collections::{BTreeMap, BTreeSet};

/// A version's searchable items of one shard.
#[derive(Debug)]
pub enum Index {
    /// By inner product of rows.
    Vectors(ItemIndex),
    /// By the neighbours of histories.
    Neighbours(NeighbourIndex),
    /// By both, and popularity.
    Blend(Box<BlendIndex>),
}

/// What a scan looks for.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a> {
    /// Nearest to a vector.
    Vector(&'a [f32]),
    /// Neighbours of the items of these fingerprints.
    History(&'a [u64]),
    /// Both of a user: an empty vector where there is none.
    Blend(&'a [f32], &'a [u64]),
}

/// What a version keeps of an item.
#[derive(Clone, Copy, Debug)]
pub enum Kept<'a> {
    /// Its row.
    Row,
    /// The weights that these sources have for it.
    Weights(&'a [u64]),
}

/// The parts of a version that overlap a shard.
pub enum Parts {
    /// With rows.
    Rows(Vec<part::Items>),
    /// With neighbours.
    Neighbours(Vec<part::Neighbours>),
    /// With both.
    Blend(Vec<part::Neighbours>, Vec<part::Items>),
}

/// Changed items that an index always carries along.
const CHANGES_MIN: usize = 4_096;

impl Parts {
    /// None yet, of the family of `version`.
    pub fn of(version: &Version) -> Parts {
        match version.family {
            Family::Vectors(_) => Parts::Rows(Vec::new()),
            Family::Graph => Parts::Neighbours(Vec::new()),
            Family::Blend(_) => Parts::Blend(Vec::new(), Vec::new()),
        }
    }

    /// Adds one from its bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), part::Error> {
        match self {
            Parts::Rows(parts) => parts.push(part::Items::decode(bytes)?),
            Parts::Neighbours(parts) => parts.push(part::Neighbours::decode(bytes)?),
            Parts::Blend(graphs, others) => {
                let part::Blended { neighbours, rows } = part::Blended::decode(bytes)?;
                graphs.push(neighbours);
                others.push(rows);
            }
        }
        Ok(())
    }
}

impl Index {
    /// Builds the index of the parts' items within `slots`. `items` visits the items that there are: those without a row get one from what the
    /// version knows of their categories.
    pub fn build(
        version: &Version,
        parts: &Parts,
        slots: SlotRange,
        (engine, settings): (EngineChoice, &Settings),
        items: impl Fn(&mut dyn FnMut(&Item)) -> Result<()>,
    ) -> Result<Index> {
        let unbuilt = |error| Error::new(Kind::Internal, format!("cannot build the index: {error}"));
        let of_rows = |vectors: &Vectors, parts: &[part::Items]| {
            let mut rows = trained_rows(parts, slots)?;
            items(&mut |item| first_row(vectors, &mut rows, item))?;
            let rows = rows.into_iter().collect();
            let index = ItemIndex::build(engine, settings, vectors.dim(), rows).map_err(unbuilt)?;
            if let Some(refused) = index.refused() {
                tracing::warn!(version = version.version, %refused, "faiss was not taken; the exact engine answers");
            }
            Ok::<_, Error>(index)
        };
        match (&version.family, parts) {
            (Family::Vectors(vectors), Parts::Rows(parts)) => Ok(Index::Vectors(of_rows(vectors, parts)?)),
            (Family::Graph, Parts::Neighbours(parts)) => Ok(Index::Neighbours(joined(parts, slots).map_err(unbuilt)?)),
            (Family::Blend(blended), Parts::Blend(graphs, others)) => {
                let graph = joined(graphs, slots).map_err(unbuilt)?;
                let rows = of_rows(&blended.with, others)?;
                let trained = others.iter().flat_map(|part| &part.items);
                let positives = trained.map(|row| (row.id.clone(), row.positives)).collect();
                Ok(Index::Blend(Box::new(BlendIndex { blend: blended.blend.clone(), graph, rows, positives })))
            }
            _ => Err(Error::new(Kind::Internal, "parts of another family than their model's")),
        }
    }

    /// The best `n` items for a query.
    pub fn search(&self, query: Query<'_>, n: usize, exclude: &[&str]) -> Result<Vec<ScoredItem>> {
        match (self, query) {
            (Index::Vectors(index), Query::Vector(vector)) => {
                index.search(vector, n, exclude).map_err(|error| Error::invalid("vector", error.to_string()))
            }
            (Index::Neighbours(index), Query::History(sources)) => Ok(index.search(sources, n, exclude)),
            (Index::Blend(index), Query::Blend(vector, sources)) => index.search(vector, sources, n, exclude),
            _ => Err(another_family()),
        }
    }

    /// What is kept of an item, taken down or not; `None` where the version does not have it.
    pub fn kept(&self, id: &str, kept: Kept<'_>) -> Result<Option<Vec<f32>>> {
        match kept {
            Kept::Row => Ok(self.rows().ok_or_else(another_family)?.row(id)),
            Kept::Weights(sources) => Ok(self.graph().ok_or_else(another_family)?.weights(id, sources)),
        }
    }

    /// The items by their rows, where the version has any.
    fn rows(&self) -> Option<&ItemIndex> {
        match self {
            Index::Vectors(index) => Some(index),
            Index::Neighbours(_) => None,
            Index::Blend(index) => Some(&index.rows),
        }
    }

    /// The items by their neighbours, where the version has any.
    fn graph(&self) -> Option<&NeighbourIndex> {
        match self {
            Index::Vectors(_) => None,
            Index::Neighbours(index) => Some(index),
            Index::Blend(index) => Some(&index.graph),
        }
    }

    /// The vectors of everything that can be found, of a version that ranks by them.
    pub fn vectors(&self) -> Result<docent_index::items::Iter> {
        match self {
            Index::Vectors(index) => Ok(index.iter()),
            Index::Neighbours(_) | Index::Blend(_) => Err(no_vectors()),
        }
    }

    /// How many items can be found.
    pub fn len(&self) -> usize {
        match self {
            Index::Vectors(index) => index.len(),
            Index::Neighbours(index) => index.len(),
            // Those with a row are all that the graph has, and items that came later.
            Index::Blend(index) => index.rows.len(),
        }
    }

    /// Whether nothing can be found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether so many items came, changed or went since it was built that a new one pays.
    pub fn is_worn(&self) -> bool {
        // What is hidden costs a graph a bit each.
        self.rows().is_some_and(|index| {
            let segment = index.segment_len();
            index.overlay_len() > CHANGES_MIN + segment / 20 || index.removed_len() > CHANGES_MIN + segment / 10
        })
    }

    /// Answers a query that some item must answer, so that a version that cannot score is not told as staged.
    pub fn probe(&self, version: &Version) -> Result<()> {
        let hits = match (self, &version.family) {
            (Index::Vectors(_), Family::Vectors(vectors)) => self.search(Query::Vector(&vectors.mean), 10, &[])?,
            (Index::Neighbours(index), Family::Graph) => {
                self.search(Query::History(&index.any_source().map_or(Vec::new(), |source| vec![source])), 10, &[])?
            }
            (Index::Blend(index), Family::Blend(blended)) => {
                let sources = index.graph.any_source().map_or(Vec::new(), |source| vec![source]);
                self.search(Query::Blend(&blended.with.mean, &sources), 10, &[])?
            }
            _ => return Err(another_family()),
        };
        match hits.iter().all(|hit| hit.score.is_finite()) {
            true => Ok(()),
            false => {
                let message = format!("model {} gives scores that are not numbers", version.version);
                Err(Error::new(Kind::Corrupt, message))
            }
        }
    }

    /// Brings one item to its current state.
    pub fn enter(&self, version: &Version, state: &ItemState) {
        let id = state.item.item_id.as_str();
        if state.is_taken_down {
            // Hidden first: its vector is for those who have it in their history, and must not show for a moment.
            self.hide(id);
        }
        if let (Some(index), Some(vectors)) = (self.rows(), version.vectors()) {
            ensure(version.version, vectors, index, &state.item);
        }
        if !state.is_taken_down {
            self.show(id);
        }
    }

    /// Enters the effects of committed commands.
    pub fn follow(&self, version: &Version, effects: &Effects) {
        effects.items_upserted.iter().for_each(|state| self.enter(version, state));
        effects.items_taken_down.iter().chain(&effects.items_deleted).for_each(|id| self.hide(id.as_str()));
        effects.items_restored.iter().for_each(|id| self.show(id.as_str()));
    }

    /// Hides what is found but not among `known`: trained items that were deleted since.
    pub fn keep_only(&self, known: &BTreeSet<String>) {
        let rows = self.rows().into_iter().flat_map(|index| index.iter().map(|(id, _)| id.to_string()));
        let ids: Vec<String> =
            rows.chain(self.graph().into_iter().flat_map(|index| index.ids().map(str::to_owned))).collect();
        ids.iter().filter(|id| !known.contains(*id)).for_each(|id| self.hide(id));
    }

    fn hide(&self, id: &str) {
        self.rows().map(|index| index.remove(id));
        self.graph().map(|index| index.remove(id));
    }

    fn show(&self, id: &str) {
        self.rows().map(|index| index.restore(id));
        self.graph().map(|index| index.restore(id));
    }
}

/// A query or an export that a version of this family cannot answer.
fn another_family() -> Error {
    Error::new(Kind::Internal, "a query for another family of models than the version's")
}

/// The refusal of an export of vectors.
pub fn no_vectors() -> Error {
    Error::new(
        Kind::Unsupported,
        "a graph filter and a blend rank by more than vectors; `docent export recommendations` works with every model",
    )
}

/// The rows of the parts' items within `slots`.
fn trained_rows(parts: &[part::Items], slots: SlotRange) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut rows: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for part in parts {
        for (at, row) in part.items.iter().enumerate() {
            let vector =
                part.vector(at).ok_or_else(|| Error::new(Kind::Corrupt, "a model part has a row without values"))?;
            if (slots.first..slots.end).contains(&row.slot) {
                rows.insert(row.id.to_string(), vector.to_vec());
            }
        }
    }
    Ok(rows)
}

/// Gives an item without a row its first one.
fn first_row(vectors: &Vectors, rows: &mut BTreeMap<String, Vec<f32>>, item: &Item) {
    if !rows.contains_key(item.item_id.as_str())
        && let Some(vector) = vectors.first_vector(item)
    {
        rows.insert(item.item_id.to_string(), vector);
    }
}

/// One index of several parts' items.
fn joined(parts: &[part::Neighbours], slots: SlotRange) -> Result<NeighbourIndex, docent_index::Error> {
    let (mut ids, mut neighbours) = (Vec::new(), Vec::new());
    for part in parts {
        // Places of the part's items among those of the shard.
        let mut places = vec![None; part.items.len()];
        for (row, place) in part.items.iter().zip(&mut places) {
            if (slots.first..slots.end).contains(&row.slot) {
                *place = u32::try_from(ids.len()).ok();
                ids.push(&*row.id);
            }
        }
        let kept = part.neighbours.iter().filter_map(|neighbour| {
            let at = places[neighbour.at as usize]?;
            Some(Neighbour { source: neighbour.source, at, weight: neighbour.weight })
        });
        neighbours.extend(kept);
    }
    NeighbourIndex::build(&ids, neighbours)
}

/// Gives an item that has no row its first vector.
fn ensure(version: u64, vectors: &Vectors, index: &ItemIndex, item: &Item) {
    let id = item.item_id.as_str();
    if index.row(id).is_none()
        && let Some(vector) = vectors.first_vector(item)
        && let Err(error) = index.upsert(id, &vector)
    {
        // The item is still found by popularity; the next version has a row for it.
        tracing::warn!(%error, version, "a new item has no place in the index");
    }
}
