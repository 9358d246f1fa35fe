//! Two towers: the steps of sampled softmax, and dense weights that are kept here and told to all hosts before each.
use super::{
    Job, Linked,
    checkpoint::{Notes, Start},
    unexpected,
};
use crate::{
    Error, Progress, TrainRequest, TrainResponse,
    message::At,
    part::{IalsGlobal, SoftmaxGlobal, TowerGlobal},
    wire,
};
use docent_model::{
    softmax::plan,
    tower::{Dense, FEATURES_MAX, Settings, adam::Adam},
};
use std::{collections::BTreeMap, sync::Arc};

/// What the driver keeps of two towers.
pub(super) struct Fitted {
    /// The loss of each epoch.
    pub(super) losses: Vec<f64>,
    /// Names of the features with a row, sorted.
    names: Vec<Arc<str>>,
    dense: Weights,
}

/// The dense weights with their moments: the user tower's; the item tower's, then the features'.
type Weights = [Adam; 2];

/// Those before the first step.
fn first(settings: &Settings, features: usize) -> Result<Weights, Error> {
    let Dense { users, items, features } = Dense::first(settings, features)?;
    Ok([Adam::new(users), Adam::new([items, features].concat())])
}

/// As [`Dense::to_vec`].
fn values([users, items]: &Weights) -> Vec<f32> {
    [users.weights(), items.weights()].concat()
}

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    /// All steps that are left.
    pub(super) async fn climb(&mut self, settings: &Settings, linked: &Linked, start: Start) -> Result<Fitted, Error> {
        self.share_masses(linked).await?;
        let names = self.choose(linked).await?;
        let mut notes = start.notes;
        let mut dense = match notes.dense.take() {
            Some(dense) => dense,
            None => first(settings, names.len())?,
        };
        let (steps, epochs) = (plan::steps(&settings.base, linked.counts.positives), settings.base.epochs);
        for step in start.step..steps.saturating_mul(epochs.into()) {
            let at = At { epoch: step / steps, step: step % steps, steps };
            let loss = self.climb_once(settings, linked, at, &mut dense).await?;
            self.note(&mut notes, at, loss)?;
            let kept = Notes { dense: Some(dense.clone()), ..notes.clone() };
            self.keep_if_due(linked, step + 1, kept).await;
        }
        // What is measured and published is made by the last weights.
        self.tell(linked, At { epoch: u32::from(epochs), step: 0, steps }, &dense).await?;
        Ok(Fitted { losses: notes.losses, names, dense })
    }

    /// Chooses the features that most items have, and tells them to the owners; gives their names, sorted.
    async fn choose(&mut self, linked: &Linked) -> Result<Vec<Arc<str>>, Error> {
        let (key, owners) = (linked.key, self.plan.hosts.item_nodes());
        let mut counts = BTreeMap::<Arc<str>, u64>::new();
        for (node, response) in self.all(&owners, &TrainRequest::Survey(key)).await? {
            let TrainResponse::Surveyed { names } = response else { return Err(unexpected(node)) };
            names.into_iter().for_each(|(name, count)| *counts.entry(name).or_default() += count);
        }
        let mut chosen: Vec<(Arc<str>, u64)> = counts.into_iter().collect();
        chosen.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        chosen.truncate(FEATURES_MAX);
        let mut names: Vec<Arc<str>> = chosen.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        self.all(&owners, &TrainRequest::Choose { key, names: names.clone() }).await?;
        Ok(names)
    }

    /// Tells every host the dense weights of a step.
    async fn tell(&mut self, linked: &Linked, at: At, dense: &Weights) -> Result<(), Error> {
        let weights = wire::pack_floats(&values(dense));
        self.all(&self.plan.hosts.nodes(), &TrainRequest::Dense { key: linked.key, at, weights }).await?;
        Ok(())
    }

    /// One step; gives the sums of loss and weight.
    async fn climb_once(
        &mut self,
        settings: &Settings,
        linked: &Linked,
        at: At,
        dense: &mut Weights,
    ) -> Result<[f64; 2], Error> {
        self.tell(linked, at, dense).await?;
        let key = linked.key;
        let of_users = self.sums(&self.plan.hosts.user_nodes(), &TrainRequest::Gradients { key, at }).await?;
        let of_items = self.sums(&self.plan.hosts.item_nodes(), &TrainRequest::Apply { key, at }).await?;
        let [loss, weight, of_users @ ..] = &of_users[..] else {
            return Err(Error::Internal("losses of another length".into()));
        };
        let rate = settings.dense_rate(at.steps, at.epoch, at.step);
        let [users, items] = dense;
        users.apply(rate, of_users).map_err(diverged)?;
        items.apply(rate, &of_items).map_err(diverged)?;
        Ok([*loss, *weight])
    }

    /// The global part, with the means that owners summed up when they published.
    pub(super) async fn tower_global(
        &self,
        settings: &Settings,
        linked: &Linked,
        fitted: &Fitted,
    ) -> Result<TowerGlobal, Error> {
        let SoftmaxGlobal { users, items, positives, loss, mean, categories, .. } =
            self.softmax_global(&settings.base, linked, &fitted.losses).await?;
        Ok(TowerGlobal {
            settings: *settings,
            numerics: IalsGlobal::numerics(),
            users,
            items,
            positives,
            loss,
            mean,
            categories,
            features: fitted.names.clone(),
            dense: values(&fitted.dense),
        })
    }
}

fn diverged(error: docent_model::Error) -> Error {
    Error::Diverged(format!("{error}; lower dense_rate or learning_rate"))
}
