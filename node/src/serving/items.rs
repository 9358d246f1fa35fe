//! What a replica of an item shard keeps in memory: popularity, and an index a model version. Both follow the log.

use super::models::{Models, Version};
use super::popularity::Popularity;
use docent_index::{EngineChoice, ItemIndex, Settings};
use docent_shard::Effects;
use docent_shard::item::items;
use docent_shard::view::View;
use docent_train::part::Items as PartRows;
use docent_types::item::{Item, ItemState};
use docent_types::query::ScoredItem;
use docent_types::{Error, ItemId, Kind, Result, SlotRange, TenantId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// The serving state of one replica of an item shard.
#[derive(Debug)]
pub struct Items {
    slots: SlotRange,
    settings: Settings,
    engine: EngineChoice,
    models: Arc<Models>,
    popularity: RwLock<Popularity>,
    indexes: RwLock<BTreeMap<u64, Arc<ItemIndex>>>,
    /// Held while a batch's effects are entered and while a new index is brought up to date, so that it misses none.
    following: Mutex<()>,
}

/// Changed items that an index always carries along.
const CHANGES_MIN: usize = 4_096;

/// Proof that no effects are being entered.
pub type Paused<'a> = MutexGuard<'a, ()>;

impl Items {
    /// The serving state of a replica whose state is `view`.
    pub fn open(
        slots: SlotRange,
        (engine, settings): (EngineChoice, Settings),
        models: Arc<Models>,
        view: &dyn View,
    ) -> Result<Items> {
        let items = Items {
            slots,
            settings,
            engine,
            models,
            popularity: RwLock::default(),
            indexes: RwLock::default(),
            following: Mutex::default(),
        };
        items.reload(view)?;
        Ok(items)
    }

    /// Starts anew from `view`: at the opening, and after a snapshot was installed. Indexes are dropped, to be staged again.
    pub fn reload(&self, view: &dyn View) -> Result<()> {
        let _paused = self.pause();
        let mut popularity = Popularity::default();
        items(view, &TenantId::default(), self.slots, &mut |state| {
            popularity.set_shown(&state.item.item_id, !state.is_taken_down);
            popularity.set_events(&state.item.item_id, state.events);
            Ok(ControlFlow::Continue(()))
        })?;
        *self.popularity.write().unwrap_or_else(PoisonError::into_inner) = popularity;
        self.indexes.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    /// Holds back new effects.
    pub fn pause(&self) -> Paused<'_> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters the effects of committed commands. A query that begins after this returns sees them.
    pub fn follow(&self, effects: &[Effects]) {
        let _paused = self.pause();
        let mut popularity = self.popularity.write().unwrap_or_else(PoisonError::into_inner);
        for effect in effects {
            effect
                .items_upserted
                .iter()
                .for_each(|state| popularity.set_shown(&state.item.item_id, !state.is_taken_down));
            effect.items_taken_down.iter().for_each(|id| popularity.set_shown(id, false));
            effect.items_restored.iter().for_each(|id| popularity.set_shown(id, true));
            effect.items_deleted.iter().for_each(|id| popularity.remove(id));
            effect.counts_changed.iter().for_each(|(id, events)| popularity.set_events(id, *events));
        }
        drop(popularity);
        for (version, index) in self.indexes() {
            // A version that is being dropped needs no effects.
            let Ok(version) = self.models.get(version) else { continue };
            effects.iter().for_each(|effect| follow_index(&version, &index, effect));
        }
    }

    fn indexes(&self) -> Vec<(u64, Arc<ItemIndex>)> {
        let indexes = self.indexes.read().unwrap_or_else(PoisonError::into_inner);
        indexes.iter().map(|(version, index)| (*version, index.clone())).collect()
    }

    /// The index of a version; an error that says that another replica may have it.
    pub fn index(&self, version: u64) -> Result<Arc<ItemIndex>> {
        let indexes = self.indexes.read().unwrap_or_else(PoisonError::into_inner);
        let found = indexes.get(&version).cloned();
        found.ok_or_else(|| {
            Error::new(Kind::Unavailable, format!("model version {version} is not loaded for this shard"))
        })
    }

    /// Whether a version's index is missing, or so many items came, changed or went since it was built that a new one pays.
    pub fn wants_index(&self, version: u64) -> bool {
        let Ok(index) = self.index(version) else { return true };
        let segment = index.segment_len();
        index.overlay_len() > CHANGES_MIN + segment / 20 || index.removed_len() > CHANGES_MIN + segment / 10
    }

    /// Whether a version's index is here.
    pub fn has_index(&self, version: u64) -> bool {
        self.indexes.read().unwrap_or_else(PoisonError::into_inner).contains_key(&version)
    }

    /// Builds the index of a version from its rows and the items as they are. `view` gives the state at any moment.
    ///
    /// Trained rows and first vectors of untrained items go into the segment; whatever changed while it was built is entered after, with
    /// effects held back.
    pub fn stage(&self, version: &Version, parts: &[PartRows], view: impl Fn() -> Result<Arc<dyn View>>) -> Result<()> {
        let mut rows: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for part in parts {
            for (at, row) in part.items.iter().enumerate() {
                let vector = part
                    .vector(at)
                    .ok_or_else(|| Error::new(Kind::Corrupt, "a model part has a row without values"))?;
                if (self.slots.first..self.slots.end).contains(&row.slot) {
                    rows.insert(row.id.to_string(), vector.to_vec());
                }
            }
        }
        self.each_item(&*view()?, |state| {
            if !rows.contains_key(state.item.item_id.as_str())
                && let Some(vector) = version.first_vector(&state.item)
            {
                rows.insert(state.item.item_id.to_string(), vector);
            }
        })?;
        let index = ItemIndex::build(self.engine, &self.settings, version.dim(), rows.into_iter().collect());
        let index = index.map_err(|error| Error::new(Kind::Internal, format!("cannot build the index: {error}")))?;

        if let Some(refused) = index.refused() {
            tracing::warn!(version = version.version, %refused, "faiss was not taken; the exact engine answers");
        }
        let _paused = self.pause();
        let mut known = std::collections::BTreeSet::new();
        self.each_item(&*view()?, |state| {
            known.insert(state.item.item_id.to_string());
            enter(version, &index, &state);
        })?;
        // Trained items that were deleted since.
        let gone: Vec<String> = index.iter().map(|(id, _)| id.to_string()).filter(|id| !known.contains(id)).collect();
        gone.iter().for_each(|id| _ = index.remove(id));
        self.indexes.write().unwrap_or_else(PoisonError::into_inner).insert(version.version, Arc::new(index));
        Ok(())
    }

    fn each_item(&self, view: &dyn View, mut visit: impl FnMut(ItemState)) -> Result<()> {
        items(view, &TenantId::default(), self.slots, &mut |state| {
            visit(state);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Drops the indexes of all but these versions.
    pub fn retain(&self, keep: impl Fn(u64) -> bool) {
        self.indexes.write().unwrap_or_else(PoisonError::into_inner).retain(|version, _| keep(*version));
    }

    /// The best `n` items for a vector of `version`, and how many there are to choose from.
    pub fn scan(&self, version: u64, vector: &[f32], n: usize, exclude: &[ItemId]) -> Result<(Vec<ScoredItem>, u64)> {
        let index = self.index(version)?;
        let exclude: Vec<&str> = exclude.iter().map(ItemId::as_str).collect();
        let found = index.search(vector, n, &exclude).map_err(|error| Error::invalid("vector", error.to_string()))?;
        let hits = found.into_iter().map(|hit| Ok(ScoredItem { item_id: ItemId::new(&hit.id)?, score: hit.score }));
        Ok((hits.collect::<Result<_>>()?, index.len() as u64))
    }

    /// The most popular `n` items, and how many there are to choose from.
    pub fn popular(&self, n: usize, exclude: &[ItemId]) -> (Vec<ScoredItem>, u64) {
        let popularity = self.popularity.read().unwrap_or_else(PoisonError::into_inner);
        (popularity.top(n, exclude), popularity.shown())
    }
}

/// Brings one item of an index to its current state.
fn enter(version: &Version, index: &ItemIndex, state: &ItemState) {
    let id = state.item.item_id.as_str();
    if state.is_taken_down {
        // Hidden first: its vector is for those who have it in their history, and must not show for a moment.
        index.remove(id);
    }
    ensure(version, index, &state.item);
    if !state.is_taken_down {
        index.restore(id);
    }
}

/// Gives an item that has no row its first vector.
fn ensure(version: &Version, index: &ItemIndex, item: &Item) {
    let id = item.item_id.as_str();
    if index.row(id).is_none()
        && let Some(vector) = version.first_vector(item)
        && let Err(error) = index.upsert(id, &vector)
    {
        // The item is still found by popularity; the next version has a row for it.
        tracing::warn!(%error, version = version.version, "a new item has no place in the index");
    }
}

fn follow_index(version: &Version, index: &ItemIndex, effects: &Effects) {
    effects.items_upserted.iter().for_each(|state| enter(version, index, state));
    effects.items_taken_down.iter().chain(&effects.items_deleted).for_each(|id| _ = index.remove(id.as_str()));
    effects.items_restored.iter().for_each(|id| _ = index.restore(id.as_str()));
}
