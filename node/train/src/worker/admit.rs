//! Which items are in a model, on a host: an owner counts before rows are made, a user host leaves out what is not admitted.
use super::{order::Order, session::Session, users::Users};
use crate::{Error, TrainResponse};
use std::sync::Arc;

impl Session {
    /// Counts the positives of this owner's items, as [`crate::TrainRequest::Link`] does, but makes no rows.
    pub(super) async fn tally(&self) -> Result<TrainResponse, Error> {
        let side = self.item_side().await?;
        let items = side.vworkers.iter().map(|(vworker, rows)| (*vworker, rows.len() as u32)).collect();
        self.state().items = Some(Arc::new(side));
        Ok(TrainResponse::Linked { items, sums: Vec::new(), bytes_pulled: self.bytes_pulled() })
    }

    /// Leaves out items with less than `least` positives.
    pub(super) async fn admit(&self, order: &Order, least: u32) -> Result<TrainResponse, Error> {
        let users = self.users()?;
        let (places, positives) = (self.places(&users, order).await?, self.positives(order).await?);
        let open = self.open.clone();
        let work = move || {
            let is_liked = |place: &u32| positives.get(*place as usize).is_some_and(|count| *count >= least);
            let is_admitted: Vec<bool> = places.iter().map(is_liked).collect();
            Users::new(users.side.admitted(&is_admitted), &open.hosts)
        };
        let users = self.context.compute.run(work).await?;
        let counts = users.side.counts();
        self.replace_users(Arc::new(users));
        Ok(TrainResponse::Loaded(counts))
    }
}
