//! What a user's home shard answers to a query: consent, blocks, seen items, the user's vector, and reasons.

use crate::rows::ItemRows;
use crate::sabotage;
use crate::serving::models::{Models, Version};
use crate::shards::{Hosted, Users};
use docent_model::fold_in::Folded;
use docent_proto::internal::shard::UserState;
use docent_runtime::Deadline;
use docent_shard::{History, Positives};
use docent_types::{Error, ItemId, Kind, Position, Result, TenantId, UserId};
use std::sync::Arc;

/// Answers about users from their leaders.
#[derive(Clone)]
pub struct Personal {
    models: Arc<Models>,
    rows: ItemRows,
    positives: Positives,
    history_max: usize,
}

/// A history item of a user with its row and confidence, in the order that the solver sums.
type Weighted = Vec<(ItemId, Vec<f32>, f32)>;

impl Personal {
    /// Answers with these models, rows and rules.
    pub fn new(models: Arc<Models>, rows: ItemRows, positives: Positives, history_max: usize) -> Personal {
        Personal { models, rows, positives, history_max }
    }

    /// What a query needs of its user. Nothing personal leaves the shard where `recommend` is off, blocks excepted: they protect.
    pub async fn state(
        &self,
        hosted: &Hosted,
        users: &Users,
        tenant: &TenantId,
        user: &UserId,
        version: u64,
        deadline: Deadline,
    ) -> Result<UserState> {
        let begun = users.vectors.begin();
        let read = |view: &dyn docent_shard::View| users.machine.history(view, tenant, user, &self.positives);
        let (history, index) = hosted.read_leader(deadline, read).await?;
        let position = Position { shard: hosted.id, index };
        let history = sabotage::with_cached_consent(users, user, history);
        let Some(history) = history else {
            return Ok(UserState {
                is_known: false,
                consent: docent_types::user::Consent::default(),
                vector: None,
                seen: Vec::new(),
                blocks: Vec::new(),
                position,
                is_unsolved: false,
            });
        };
        let state = UserState {
            is_known: true,
            consent: history.consent,
            vector: None,
            seen: Vec::new(),
            blocks: history.blocks.clone(),
            position,
            is_unsolved: false,
        };
        if !history.consent.recommend {
            return Ok(state);
        }
        if version == 0 {
            return Ok(UserState { seen: history.seen, ..state });
        }
        let vector = match users.vectors.get(user, version) {
            Some(vector) => vector,
            None => {
                let solved =
                    match self.solve(&history, tenant, version, deadline.at_most(deadline.remaining() / 2)).await {
                        Ok(solved) => solved,
                        // Consent, seen and blocks hold all the same.
                        Err(error) => {
                            tracing::debug!(%error, "a user's vector is not solved");
                            return Ok(UserState { is_unsolved: true, seen: history.seen, ..state });
                        }
                    };
                let vector = solved.map(|(folded, _)| Arc::<[f32]>::from(folded.vector()));
                users.vectors.put(begun, user.clone(), version, vector.clone());
                vector
            }
        };
        Ok(UserState { vector: vector.map(|vector| vector.to_vec()), seen: history.seen, ..state })
    }

    /// Solves a user's vector; `None` where no history item has a row.
    async fn solve(
        &self,
        history: &History,
        tenant: &TenantId,
        version: u64,
        deadline: Deadline,
    ) -> Result<Option<(Folded, Weighted)>> {
        let version = self.models.get(version)?;
        let mut newest: Vec<_> = history.positives.iter().collect();
        newest.sort_by(|a, b| b.last_ms.cmp(&a.last_ms).then_with(|| a.item_id.cmp(&b.item_id)));
        newest.truncate(self.history_max);
        let ids: Vec<ItemId> = newest.iter().map(|positive| positive.item_id.clone()).collect();
        let mut rows = self.rows.get(tenant, version.version, &ids, deadline).await?;
        // Summed by id, so that the same history gives the same bits on every node.
        newest.sort_by(|a, b| a.item_id.cmp(&b.item_id));
        let weighted =
            newest.into_iter().filter_map(|p| Some((p.item_id.clone(), rows.remove(&p.item_id)?, p.confidence)));
        let weighted: Weighted = weighted.collect();
        if weighted.is_empty() {
            return Ok(None);
        }
        let folded = fold(&version, &weighted)?;
        Ok(Some((folded, weighted)))
    }

    /// For each candidate the history items that contributed most to its score, strongest first.
    #[allow(clippy::too_many_arguments, reason = "one request, spelled out")]
    pub async fn explain(
        &self,
        hosted: &Hosted,
        users: &Users,
        tenant: &TenantId,
        user: &UserId,
        version: u64,
        candidates: &[ItemId],
        reasons: usize,
        deadline: Deadline,
    ) -> Result<Vec<Vec<(ItemId, f32)>>> {
        let read = |view: &dyn docent_shard::View| users.machine.history(view, tenant, user, &self.positives);
        let (history, _) = hosted.read_leader(deadline, read).await?;
        let none = || Ok(vec![Vec::new(); candidates.len()]);
        let Some(history) = history.filter(|history| history.consent.recommend) else { return none() };
        let Some((folded, weighted)) = self.solve(&history, tenant, version, deadline).await? else { return none() };
        let rows = self.rows.get(tenant, version, candidates, deadline).await?;
        candidates.iter().map(|id| strongest(&folded, &weighted, rows.get(id), reasons)).collect()
    }

    /// The vectors of a page of users, for exports.
    pub async fn vectors(
        &self,
        histories: Vec<(UserId, History)>,
        tenant: &TenantId,
        version: u64,
        deadline: Deadline,
    ) -> Result<Vec<(String, Vec<f32>)>> {
        let mut vectors = Vec::new();
        for (user, history) in histories {
            if let Some((folded, _)) = self.solve(&history, tenant, version, deadline).await? {
                vectors.push((user.to_string(), folded.vector().to_vec()));
            }
        }
        Ok(vectors)
    }

    /// The rules that say what is a positive.
    pub fn positives(&self) -> &Positives {
        &self.positives
    }
}

fn fold(version: &Version, weighted: &Weighted) -> Result<Folded> {
    let history: Vec<(&[f32], f32)> =
        weighted.iter().map(|(_, row, confidence)| (row.as_slice(), *confidence)).collect();
    version
        .fold_in
        .solve(&history)
        .map_err(|error| Error::new(Kind::Internal, format!("cannot solve a user's vector: {error}")))
}

fn strongest(
    folded: &Folded,
    weighted: &Weighted,
    candidate: Option<&Vec<f32>>,
    reasons: usize,
) -> Result<Vec<(ItemId, f32)>> {
    let Some(candidate) = candidate else { return Ok(Vec::new()) };
    let history: Vec<(&[f32], f32)> =
        weighted.iter().map(|(_, row, confidence)| (row.as_slice(), *confidence)).collect();
    let contributions = folded
        .contributions(candidate, &history)
        .map_err(|error| Error::new(Kind::Internal, format!("cannot explain a score: {error}")))?;
    let mut named: Vec<(ItemId, f32)> = weighted.iter().map(|(id, ..)| id.clone()).zip(contributions).collect();
    named.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    named.retain(|(_, contribution)| *contribution > 0.0);
    named.truncate(reasons);
    Ok(named)
}
