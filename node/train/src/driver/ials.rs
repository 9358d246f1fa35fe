//! iALS: passes over users and items, each half a pass against the other side's Gramian.
use super::{
    Job, Linked, Trained,
    checkpoint::{Notes, Start},
    unexpected,
};
use crate::{
    Error, Progress, TrainRequest, TrainResponse, VWORKERS,
    message::Side,
    part::IalsGlobal,
    plan::{Algorithm, Phase},
    wire,
};
use docent_model::{
    Settings, gramian,
    tree::{self, Node},
};

/// What the driver keeps of a trained model.
pub(super) struct Fitted {
    /// Of the items, packed.
    item_gramian: Vec<f64>,
    /// The objective after each pass.
    pub(super) losses: Vec<f64>,
}

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    /// All passes that are left.
    pub(super) async fn passes(&mut self, settings: &Settings, linked: &Linked, start: Start) -> Result<Fitted, Error> {
        let mut fitted = Fitted { item_gramian: root(settings, start.sums)?.0, losses: start.notes.losses };
        for step in start.step..u32::from(settings.epochs) {
            let loss = self.pass(settings, linked, &mut fitted, step).await?;
            fitted.losses.push(loss);
            self.report(Phase::Epoch, fitted.losses.len() as u16, Some(loss));
            self.keep_if_due(linked, step + 1, Notes { losses: fitted.losses.clone(), ..Notes::default() }).await;
        }
        Ok(fitted)
    }

    /// One pass over users and items; gives the objective after it.
    async fn pass(
        &mut self,
        settings: &Settings,
        linked: &Linked,
        fitted: &mut Fitted,
        step: u32,
    ) -> Result<f64, Error> {
        let (users, user_losses) = self.half(settings, linked, step, Side::Users, &fitted.item_gramian).await?;
        let (items, item_losses) = self.half(settings, linked, step, Side::Items, &users).await?;
        let everywhere = gramian::product(usize::from(settings.dim), &users, &items);
        let loss = item_losses[0] + f64::from(settings.alpha0) * everywhere + user_losses[1] + item_losses[1];
        if !loss.is_finite() {
            return Err(Error::Diverged(format!(
                "the loss is not finite after pass {}; raise regularization",
                step + 1
            )));
        }
        fitted.item_gramian = items;
        Ok(loss)
    }

    /// Solves users once more, against the items that are published: as a reader does.
    /// Of another family users are as readers have them.
    pub(super) async fn solve_readers(&mut self, trained: &Trained) -> Result<(), Error> {
        if let (Algorithm::Ials(settings), super::Fitted::Ials(fitted)) = (&trained.algorithm, &trained.fitted) {
            let step = u32::from(settings.epochs);
            self.half(settings, &trained.linked, step, Side::Users, &fitted.item_gramian).await?;
        }
        Ok(())
    }

    async fn half(
        &mut self,
        settings: &Settings,
        linked: &Linked,
        step: u32,
        side: Side,
        gramian: &[f64],
    ) -> Result<(Vec<f64>, [f64; 2]), Error> {
        let (nodes, others) = match side {
            Side::Users => (self.plan.hosts.user_nodes(), linked.counts.items),
            Side::Items => (self.plan.hosts.item_nodes(), linked.counts.users),
        };
        let gramian = wire::pack_doubles(gramian);
        let mut sums = Vec::new();
        let request = TrainRequest::Step { key: linked.key, side, step, gramian, others };
        for (node, response) in self.all(&nodes, &request).await? {
            let TrainResponse::Stepped { sums: partial, bytes_pulled } = response else { return Err(unexpected(node)) };
            sums.extend(partial);
            self.bytes_pulled += bytes_pulled;
        }
        root(settings, sums)
    }

    /// The global part, with the means that owners summed up when they published.
    pub(super) async fn ials_global(
        &self,
        settings: &Settings,
        linked: &Linked,
        fitted: &Fitted,
    ) -> Result<IalsGlobal, Error> {
        let (mean, categories) = self.means(linked, settings.dim).await?;
        Ok(IalsGlobal {
            settings: *settings,
            numerics: IalsGlobal::numerics(),
            users: linked.counts.users,
            items: linked.counts.items,
            positives: linked.counts.positives,
            loss: fitted.losses.last().copied().unwrap_or_default(),
            item_gramian: fitted.item_gramian.clone(),
            mean,
            categories,
        })
    }
}

/// The root of partial sums: Gramian, and the two losses.
fn root(settings: &Settings, sums: Vec<Node<Vec<f64>>>) -> Result<(Vec<f64>, [f64; 2]), Error> {
    let len = gramian::packed_len(usize::from(settings.dim));
    if sums.iter().any(|node| node.value.len() != len + 2) {
        return Err(Error::Internal("partial sums of another length".into()));
    }
    let mut root = tree::finish(VWORKERS, sums)?;
    let losses = [root[len], root[len + 1]];
    root.truncate(len);
    Ok((root, losses))
}
