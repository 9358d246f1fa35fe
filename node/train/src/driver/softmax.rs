//! Sampled softmax: in each step workers compute gradients, then owners apply them; nobody is ahead of anybody, but for a staleness (`ahead`).
use super::{
    Job, Linked, ahead,
    checkpoint::{Notes, Start},
    unexpected,
};
use crate::{
    Error, Progress, TrainRequest, TrainResponse, VWORKERS,
    message::At,
    part::{IalsGlobal, SoftmaxGlobal},
    plan::Phase,
};
use docent_model::{
    softmax::{Settings, plan},
    tree,
};
use std::{ops::Range, sync::atomic::Ordering};

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    /// All steps that are left; gives the mean loss of a positive in each epoch.
    pub(super) async fn descend(
        &mut self,
        settings: &Settings,
        linked: &Linked,
        start: Start,
    ) -> Result<Vec<f64>, Error> {
        self.share_masses(linked).await?;
        let steps = plan::steps(settings, linked.counts.positives);
        let mut notes = start.notes;
        if self.plan.settings.staleness > 0 {
            return self.descend_apart(linked, steps, start.step / steps..settings.epochs.into(), notes).await;
        }
        for step in start.step..steps.saturating_mul(settings.epochs.into()) {
            let at = At { epoch: step / steps, step: step % steps, steps };
            let loss = self.descend_once(linked, at).await?;
            self.note(&mut notes, at, loss)?;
            self.keep_if_due(linked, step + 1, notes.clone()).await;
        }
        Ok(notes.losses)
    }

    /// All steps of the epochs that are left, hosts a few steps apart. They meet at the end of each epoch, so checkpoints are made there.
    async fn descend_apart(
        &mut self,
        linked: &Linked,
        steps: u32,
        epochs: Range<u32>,
        mut notes: Notes,
    ) -> Result<Vec<f64>, Error> {
        for epoch in epochs {
            let done = ahead::epoch(self, linked.key, (epoch, steps)).await?;
            self.bytes_pulled += done.bytes_pulled;
            self.waited_us.fetch_add(u64::try_from(done.waited.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            for (step, sums) in (0..).zip(done.sums) {
                self.note(&mut notes, At { epoch, step, steps }, loss(&tree::finish(VWORKERS, sums)?)?)?;
            }
            self.keep_if_due(linked, (epoch + 1).saturating_mul(steps), notes.clone()).await;
        }
        Ok(notes.losses)
    }

    /// Adds what a step lost to the notes, and the mean loss at the end of an epoch.
    pub(super) fn note(&mut self, notes: &mut Notes, at: At, loss: [f64; 2]) -> Result<(), Error> {
        notes.loss = [notes.loss[0] + loss[0], notes.loss[1] + loss[1]];
        if at.step + 1 == at.steps {
            let mean = mean_loss(notes.loss, notes.losses.len() + 1)?;
            notes.loss = [0.0; 2];
            notes.losses.push(mean);
            self.report(Phase::Epoch, notes.losses.len() as u16, Some(mean));
        }
        Ok(())
    }

    /// Numbers the items for user hosts, and tells all owners how much of the negatives falls to each virtual worker.
    pub(super) async fn share_masses(&mut self, linked: &Linked) -> Result<(), Error> {
        let key = linked.key;
        let locate = TrainRequest::Locate { key, items: linked.items.clone() };
        self.exchange(&self.plan.hosts.user_nodes(), &locate).await?;
        if self.plan.settings.bias > 0.0 {
            let odds = TrainRequest::Odds { key, items: linked.items.clone(), exponent: self.plan.settings.bias };
            self.exchange(&self.plan.hosts.nodes(), &odds).await?;
        }
        let owners = self.plan.hosts.item_nodes();
        let mut masses = vec![[0.0; 2]; usize::from(VWORKERS)];
        for (node, response) in self.all(&owners, &TrainRequest::Weigh(key)).await? {
            let TrainResponse::Weighed { masses: of_owner } = response else { return Err(unexpected(node)) };
            for (vworker, mass) in of_owner {
                *masses.get_mut(usize::from(vworker)).ok_or_else(|| unexpected(node))? = mass;
            }
        }
        self.all(&owners, &TrainRequest::Prepare { key, masses }).await?;
        Ok(())
    }

    /// Values of a published row: with a bias one more than it was trained with.
    fn width(&self, settings: &Settings) -> u16 {
        settings.dim + u16::from(self.plan.settings.bias > 0.0)
    }

    /// One step; gives the sums of loss and weight.
    async fn descend_once(&mut self, linked: &Linked, at: At) -> Result<[f64; 2], Error> {
        let gradients = TrainRequest::Gradients { key: linked.key, at };
        let sums = self.sums(&self.plan.hosts.user_nodes(), &gradients).await?;
        let apply = TrainRequest::Apply { key: linked.key, at };
        self.exchange(&self.plan.hosts.item_nodes(), &apply).await?;
        loss(&sums)
    }

    /// The global part, with the means that owners summed up when they published.
    pub(super) async fn softmax_global(
        &self,
        settings: &Settings,
        linked: &Linked,
        losses: &[f64],
    ) -> Result<SoftmaxGlobal, Error> {
        let (mean, categories) = self.means(linked, self.width(settings)).await?;
        Ok(SoftmaxGlobal {
            settings: *settings,
            numerics: IalsGlobal::numerics(),
            users: linked.counts.users,
            items: linked.counts.items,
            positives: linked.counts.positives,
            loss: losses.last().copied().unwrap_or_default(),
            mean,
            categories,
        })
    }
}

/// The sums of loss and weight.
fn loss(sums: &[f64]) -> Result<[f64; 2], Error> {
    sums.try_into().map_err(|_| Error::Internal("losses of another length".into()))
}

/// The mean loss of a positive from an epoch's sums of loss and weight. Without a history of two there is nothing to learn from, and no loss.
fn mean_loss([loss, weight]: [f64; 2], epoch: usize) -> Result<f64, Error> {
    let mean = if weight > 0.0 { loss / weight } else { 0.0 };
    if mean.is_finite() {
        Ok(mean)
    } else {
        Err(Error::Diverged(format!("the loss is not finite after epoch {epoch}; lower learning_rate")))
    }
}
