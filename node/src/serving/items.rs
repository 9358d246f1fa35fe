//! What a replica of an item shard keeps in memory: popularity, and an index a model version. Both follow the log.

use super::index::{Index, Parts, Query};
use super::models::{Models, Version};
use super::popularity::Popularity;
use docent_index::{EngineChoice, Settings};
use docent_shard::Effects;
use docent_shard::item::items;
use docent_shard::view::View;
use docent_types::item::{Item, ItemState};
use docent_types::query::ScoredItem;
use docent_types::{Error, ItemId, Kind, Result, SlotRange, TenantId};
use std::collections::{BTreeMap, BTreeSet};
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
    indexes: RwLock<BTreeMap<u64, Arc<Index>>>,
    /// Held while a batch's effects are entered and while a new index is brought up to date, so that it misses none.
    following: Mutex<()>,
}

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
            effects.iter().for_each(|effect| index.follow(&version, effect));
        }
    }

    fn indexes(&self) -> Vec<(u64, Arc<Index>)> {
        let indexes = self.indexes.read().unwrap_or_else(PoisonError::into_inner);
        indexes.iter().map(|(version, index)| (*version, index.clone())).collect()
    }

    /// The index of a version; an error that says that another replica may have it.
    pub fn index(&self, version: u64) -> Result<Arc<Index>> {
        let indexes = self.indexes.read().unwrap_or_else(PoisonError::into_inner);
        let found = indexes.get(&version).cloned();
        found.ok_or_else(|| {
            Error::new(Kind::Unavailable, format!("model version {version} is not loaded for this shard"))
        })
    }

    /// Whether a version's index is missing, or so many items came, changed or went since it was built that a new one pays.
    pub fn wants_index(&self, version: u64) -> bool {
        self.index(version).map_or(true, |index| index.is_worn())
    }

    /// Whether a version's index is here.
    pub fn has_index(&self, version: u64) -> bool {
        self.indexes.read().unwrap_or_else(PoisonError::into_inner).contains_key(&version)
    }

    /// Builds the index of a version from its parts and the items as they are. `view` gives the state at any moment.
    ///
    /// Whatever changes while it is built is entered after, with effects held back.
    pub fn stage(&self, version: &Version, parts: &Parts, view: impl Fn() -> Result<Arc<dyn View>>) -> Result<()> {
        let before = view()?;
        let items = |visit: &mut dyn FnMut(&Item)| self.each_item(&*before, |state| visit(&state.item));
        let index = Index::build(version, parts, self.slots, (self.engine, &self.settings), items)?;
        drop(before);
        let _paused = self.pause();
        let mut known = BTreeSet::new();
        self.each_item(&*view()?, |state| {
            known.insert(state.item.item_id.to_string());
            index.enter(version, &state);
        })?;
        index.keep_only(&known);
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

    /// The best `n` items for a query of `version`, and how many there are to choose from.
    pub fn scan(&self, version: u64, query: Query<'_>, n: usize, exclude: &[ItemId]) -> Result<(Vec<ScoredItem>, u64)> {
        let index = self.index(version)?;
        let exclude: Vec<&str> = exclude.iter().map(ItemId::as_str).collect();
        let found = index.search(query, n, &exclude)?;
        let hits = found.into_iter().map(|hit| Ok(ScoredItem { item_id: ItemId::new(&hit.id)?, score: hit.score }));
        Ok((hits.collect::<Result<_>>()?, index.len() as u64))
    }

    /// The most popular `n` items, and how many there are to choose from.
    pub fn popular(&self, n: usize, exclude: &[ItemId]) -> (Vec<ScoredItem>, u64) {
        let popularity = self.popularity.read().unwrap_or_else(PoisonError::into_inner);
        (popularity.top(n, exclude), popularity.shown())
    }

    /// How many events all items of the shard have.
    pub fn events(&self) -> u64 {
        self.popularity.read().unwrap_or_else(PoisonError::into_inner).events()
    }
}
