//! The graph filter: user hosts place their items in the order of all, then owners count in rounds.
use super::{
    Job, Linked,
    checkpoint::{Notes, Start},
};
use crate::{Error, Progress, TrainRequest, message::COUNT_ROUNDS, part::GraphGlobal, plan::Phase};
use docent_model::graph::Settings;

impl<P: FnMut(Progress) + Send> Job<'_, P> {
    /// Counts the neighbours of every item that has none yet.
    pub(super) async fn count(&mut self, linked: &Linked, start: Start) -> Result<(), Error> {
        let locate = TrainRequest::Locate { key: linked.key, items: linked.items.clone() };
        self.exchange(&self.plan.hosts.user_nodes(), &locate).await?;
        for round in (0..COUNT_ROUNDS).skip(start.step as usize) {
            let count = TrainRequest::Count { key: linked.key, items: linked.items.clone(), round };
            self.exchange(&self.plan.hosts.item_nodes(), &count).await?;
            self.report(Phase::Count, round + 1, None);
            self.keep_if_due(linked, u32::from(round) + 1, Notes::default()).await;
        }
        Ok(())
    }
}

pub(super) fn global(settings: &Settings, linked: &Linked) -> GraphGlobal {
    let counts = &linked.counts;
    GraphGlobal { settings: *settings, users: counts.users, items: counts.items, positives: counts.positives }
}
