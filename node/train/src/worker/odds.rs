//! How much items count beside their rows, by their positives (`docent_model::softmax::odds`): told once a job, used in each step, and behind the
//! rows that are measured and published.
use super::{evaluate::Ranking, order::Order, session::Session};
use crate::{Error, TrainResponse};
use docent_model::softmax::{Settings, biased, odds};
use std::sync::Arc;

/// How much items count beside their rows.
pub(super) struct Odds {
    exponent: f32,
    /// In the order of all items.
    of_items: Vec<f32>,
}

impl Odds {
    /// Of some of all items.
    pub(super) fn of(&self, items: &[u32]) -> Result<Vec<f32>, Error> {
        let odds: Option<Vec<f32>> = items.iter().map(|item| self.of_items.get(*item as usize).copied()).collect();
        odds.ok_or_else(|| Error::Internal("an item without odds".into()))
    }

    /// Ranks by rows of users and of all items with their biases.
    pub(super) fn ranking(&self, settings: &Settings, users: &[f32], items: &[f32]) -> Ranking {
        let dim = usize::from(settings.dim);
        let users = users.chunks_exact(dim).flat_map(|row| row.iter().copied().chain([1.0])).collect();
        let items = biased(settings, items, self.of_items.iter().copied());
        Ranking::Vectors { dim: dim + 1, users: Arc::new(users), items }
    }
}

impl Session {
    /// Works out how much each item counts beside its row.
    pub(super) async fn odds(&self, order: &Order, exponent: f32) -> Result<TrainResponse, Error> {
        self.softmax_settings()?;
        if !(exponent > 0.0 && exponent <= 2.0) {
            return Err(Error::Invalid("the exponent of odds lies above 0 and is at most 2".into()));
        }
        let positives = self.positives(order).await?;
        let of_items = positives.into_iter().map(|positives| odds(exponent, positives)).collect();
        self.state().odds = Some(Arc::new(Odds { exponent, of_items }));
        Ok(TrainResponse::Exchanged { bytes_pulled: self.bytes_pulled() })
    }

    /// This owner's rows as readers take them, and how many values each has.
    pub(super) fn published_rows(&self) -> Result<(Vec<f32>, u16), Error> {
        let (settings, rows, items) = (self.softmax_settings()?, self.trained_rows()?, self.items()?);
        let Some(known) = self.state().odds.clone() else { return Ok((rows, settings.dim)) };
        let of = |at: usize| odds(known.exponent, u32::try_from(items.adjacency.row(at).0.len()).unwrap_or(u32::MAX));
        Ok((biased(settings, &rows, (0..items.items.len()).map(of)), settings.dim + 1))
    }
}
