//! Two towers on a host, beside what they share with sampled softmax (`worker/softmax.rs`): as a worker it has the user tower of the step, as an owner it
//! makes its rows into the vectors that others read, and takes their gradients back. `docent_model::tower` has the contract.
//!
//! Dense weights come from the driver before each step and name it; rows and weights of different steps never meet. An owner makes the vectors of all of
//! its items then, so that reading them costs what reading rows does.
use super::{
    session::Session,
    softmax::{Softmax, first_rows as first_softmax},
    versioned::Outputs,
};
use crate::{Error, ItemInfo, TrainResponse, link::ItemSide, message::At, plan::Algorithm, wire};
use bytes::Bytes;
use docent_model::{
    Adjacency, Kernel, parallel,
    softmax::{adagrad::Table, gradients::Gradients},
    tower::{
        Dense, FEATURES_MAX, Mlp, Settings,
        items::{Back, Rows, Tower},
    },
    tree::{self, Node},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, PoisonError},
};

/// Features of an item that count, at most.
const FEATURES_OF_ITEM_MAX: usize = 32;

/// What phases leave.
#[derive(Default)]
pub(in crate::worker) struct Towers {
    /// On an owner: the features of each of its items by name, and once they are chosen by number.
    named: Option<Arc<Vec<Vec<Arc<str>>>>>,
    bags: Option<Arc<Adjacency>>,
    /// Of the step that comes.
    current: Option<Arc<Current>>,
}

/// The towers of a step.
pub(super) struct Current {
    version: u32,
    pub(super) users: Option<Mlp>,
    /// On an owner.
    items: Option<Tower>,
}

/// What takes gradients back through the item tower.
pub(super) struct Climb {
    current: Arc<Current>,
    bags: Arc<Adjacency>,
    items: Arc<ItemSide>,
    kernel: Kernel,
    threads: usize,
}

/// What others read of an owner before dense weights have come: nothing.
const NO_OUTPUTS: Outputs = (u32::MAX, Vec::new());

/// The rows of an owner before the first step.
pub(super) fn first_rows(settings: &Settings, kernel: Kernel, side: &ItemSide) -> Result<Softmax, Error> {
    let softmax = first_softmax(&settings.base, kernel, side)?;
    if let Some(table) = &softmax.table {
        table.write().unwrap_or_else(PoisonError::into_inner).outputs = Some(NO_OUTPUTS);
    }
    Ok(softmax)
}

impl Session {
    fn tower_settings(&self) -> Result<&Settings, Error> {
        match &self.open.algorithm {
            Algorithm::Tower(settings) => Ok(settings),
            _ => Err(Error::Invalid("only two towers have dense weights".into())),
        }
    }

    /// What rows that are taken up from a checkpoint are read as, if the model has towers.
    pub(super) fn no_outputs(&self) -> Option<Outputs> {
        self.tower_settings().is_ok().then_some(NO_OUTPUTS)
    }

    /// Which features this owner's items have, and how many items have each.
    pub(super) async fn survey(&self) -> Result<TrainResponse, Error> {
        self.tower_settings()?;
        let (context, open, items) = (self.context.clone(), self.open.clone(), self.items()?);
        let work = move || -> Result<_, Error> {
            let input = context.parts.inputs.items(open.key.job, open.key.epoch)?;
            let (mut named, mut sums) = (Vec::with_capacity(items.items.len()), BTreeMap::<Arc<str>, u64>::new());
            for (vworker, range) in &items.vworkers {
                let own = features(input.items(*vworker)?, &items, range.clone());
                for (name, count) in most(&own) {
                    *sums.entry(name).or_default() += count;
                }
                named.extend(own);
            }
            Ok((named, sums))
        };
        let (named, sums) = self.context.compute.run(work).await??;
        self.state().tower.named = Some(Arc::new(named));
        Ok(TrainResponse::Surveyed { names: sums.into_iter().collect() })
    }

    /// Takes the features that have a row.
    pub(super) fn choose(&self, names: &[Arc<str>]) -> Result<TrainResponse, Error> {
        self.tower_settings()?;
        if names.len() > FEATURES_MAX || names.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::Invalid("features must be sorted, and not too many".into()));
        }
        let mut state = self.state();
        let named = state.tower.named.clone().ok_or_else(|| Error::out_of_turn("to choose", "a survey comes first"))?;
        let mut bags = Adjacency::new();
        for own in named.iter() {
            // Both are sorted, and so are the numbers.
            let numbers = own.iter().filter_map(|name| names.binary_search(name).ok());
            bags.push_row(numbers.map(|number| (number as u32, 1.0)));
        }
        state.tower.bags = Some(Arc::new(bags));
        Ok(TrainResponse::Done)
    }

    /// Takes the dense weights of a step; an owner makes its rows into the vectors that others read.
    pub(super) async fn dense(&self, at: At, weights: Bytes) -> Result<TrainResponse, Error> {
        let settings = *self.tower_settings()?;
        // A host that owns nothing was not told which features there are, and needs none of their rows.
        let bags = self.state().tower.bags.clone();
        let table = self.table();
        let (kernel, threads) = (self.context.kernel, self.context.options.threads);
        let work = move || -> Result<Current, Error> {
            let weights: Vec<f32> = wire::floats(&weights);
            let fixed = Dense::first(&settings, 0)?.to_vec().len();
            let features = weights.len().saturating_sub(fixed) / usize::from(settings.base.dim);
            let dense = Dense::from_vec(&settings, features, &weights)?;
            let mut current = Current { version: at.version(), users: dense.user_tower(&settings)?, items: None };
            if let (Some(bags), Ok(table)) = (bags, table) {
                let tower = dense.item_tower(&settings)?;
                let mut versioned = table.write().unwrap_or_else(PoisonError::into_inner);
                versioned.check(at.version())?;
                let items: Vec<u32> = (0..bags.rows() as u32).collect();
                let rows = Rows { rows: versioned.table.rows(), bags: &bags };
                versioned.outputs = Some((at.version(), tower.outputs(kernel, threads, rows, &items)?));
                current.items = Some(tower);
            }
            Ok(current)
        };
        let current = self.context.compute.run(work).await??;
        self.state().tower.current = Some(Arc::new(current));
        Ok(TrainResponse::Done)
    }

    /// The towers of a step, if the model has any.
    pub(super) fn towers(&self, at: At) -> Result<Option<Arc<Current>>, Error> {
        if self.tower_settings().is_err() {
            return Ok(None);
        }
        let current = self.state().tower.current.clone().filter(|current| current.version == at.version());
        current.ok_or_else(|| Error::out_of_turn("for a step", "its dense weights come first")).map(Some)
    }

    /// What takes a step's gradients back, if the model has towers.
    pub(super) fn climb(&self, at: At) -> Result<Option<Climb>, Error> {
        let Some(current) = self.towers(at)? else { return Ok(None) };
        let bags = self.state().tower.bags.clone();
        let bags = bags.ok_or_else(|| Error::out_of_turn("for a step", "features are chosen first"))?;
        let (kernel, threads) = (self.context.kernel, self.context.options.threads);
        Ok(Some(Climb { current, bags, items: self.items()?, kernel, threads }))
    }

    /// The user tower of the trained model, if it has one.
    pub(super) fn last_user_tower(&self) -> Option<Mlp> {
        self.state().tower.current.as_ref().and_then(|current| current.users.clone())
    }
}

impl Climb {
    /// Applies the gradients of all vectors, virtual worker by virtual worker, and gives the sums of the dense ones.
    pub(super) fn apply(
        &self,
        table: &mut Table,
        rate: f32,
        gradients: &Gradients,
    ) -> Result<Vec<Node<Vec<f64>>>, Error> {
        let tower = self.current.items.as_ref();
        let tower = tower.ok_or_else(|| Error::out_of_turn("for a step", "its dense weights come first"))?;
        let of = Rows { rows: table.rows(), bags: &self.bags };
        let mut backs: Vec<Result<Back, docent_model::Error>> =
            self.items.vworkers.iter().map(|_| Ok(Back::default())).collect();
        parallel::for_each(
            self.threads,
            backs.iter_mut().zip(&self.items.vworkers).collect(),
            || (),
            |(), (back, (_, own)): (&mut Result<Back, docent_model::Error>, &(u16, Range<usize>))| {
                let part = gradients.part(|item| own.contains(&(item as usize)).then_some(item));
                *back = tower.gradients(self.kernel, of, &part);
            },
        );
        let mut leaves = Vec::with_capacity(backs.len());
        for ((vworker, _), back) in self.items.vworkers.iter().zip(backs) {
            let Back { rows, dense } = back?;
            table.apply(self.kernel, rate, &rows)?;
            leaves.push(Node { level: 0, index: *vworker, value: dense });
        }
        Ok(tree::fold(leaves))
    }
}

/// The features of a virtual worker's items, in their order: categories, each once, sorted.
fn features(infos: Vec<ItemInfo>, items: &ItemSide, range: Range<usize>) -> Vec<Vec<Arc<str>>> {
    let mut infos: BTreeMap<(u16, Arc<str>), Vec<Arc<str>>> =
        infos.into_iter().map(|info| ((info.slot, info.id), info.categories)).collect();
    let of_item = |at: usize| {
        let names: BTreeSet<Arc<str>> = infos.remove(&items.items[at]).unwrap_or_default().into_iter().collect();
        names.into_iter().filter(|name| !name.is_empty()).take(FEATURES_OF_ITEM_MAX).collect()
    };
    range.map(of_item).collect()
}

/// The features that most of a virtual worker's items have. As many of each worker, so that what is chosen of all does not depend on who owns which.
fn most(named: &[Vec<Arc<str>>]) -> Vec<(Arc<str>, u64)> {
    let mut counts = BTreeMap::<&Arc<str>, u64>::new();
    named.iter().flatten().for_each(|name| *counts.entry(name).or_default() += 1);
    let mut counts: Vec<(Arc<str>, u64)> = counts.into_iter().map(|(name, count)| (name.clone(), count)).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.truncate(FEATURES_MAX);
    counts
}
