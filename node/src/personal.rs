//! What a user's home shard answers to a query: consent, blocks, seen items, the user's vector, and reasons.

use crate::rows::ItemRows;
use crate::sabotage;
use crate::serving::index::{Kept, no_vectors};
use crate::serving::models::{Blended, Family, Folded, Models, Vectors};
use crate::shards::{Hosted, Users};
use docent_placement::hash::fingerprint;
use docent_proto::internal::shard::UserState;
use docent_runtime::Deadline;
use docent_shard::{History, Positive, Positives};
use docent_types::{Error, ItemId, Kind, Position, Result, TenantId, UserId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a query of a user looks for.
pub enum Sought {
    /// Items near a vector; `None` where nothing of the history is in the model.
    Vector(Option<Vec<f32>>),
    /// Neighbours of the history, by its fingerprints.
    History(Vec<u64>),
    /// Both.
    Blend(Option<Vec<f32>>, Vec<u64>),
}

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

    /// What a query needs of its user, and what to look for in `version`. Nothing personal leaves the shard where `recommend` is off, blocks
    /// excepted: they protect.
    pub async fn state(
        &self,
        hosted: &Hosted,
        users: &Users,
        tenant: &TenantId,
        user: &UserId,
        version: u64,
        deadline: Deadline,
    ) -> Result<(UserState, Sought)> {
        let begun = users.vectors.begin();
        let read = |view: &dyn docent_shard::View| users.machine.history(view, tenant, user, &self.positives);
        let (history, index) = hosted.read_leader(deadline, read).await?;
        let position = Position { shard: hosted.id, index };
        let history = sabotage::with_cached_consent(users, user, history);
        let nothing = Sought::Vector(None);
        let state = UserState {
            is_known: history.is_some(),
            consent: history.as_ref().map(|history| history.consent).unwrap_or_default(),
            vector: None,
            seen: Vec::new(),
            blocks: history.as_ref().map(|history| history.blocks.clone()).unwrap_or_default(),
            position,
            is_unsolved: false,
        };
        let Some(history) = history.filter(|history| history.consent.recommend) else { return Ok((state, nothing)) };
        let state = UserState { seen: history.seen.clone(), ..state };
        if version == 0 {
            return Ok((state, nothing));
        }
        let cached = users.vectors.get(user, version);
        let is_cached = cached.is_some();
        let sought = self.sought(&history, tenant, version, cached, deadline.at_most(deadline.remaining() / 2)).await;
        match sought {
            Ok(sought) => {
                if let (Sought::Vector(vector) | Sought::Blend(vector, _), false) = (&sought, is_cached) {
                    let kept = vector.as_deref().map(Arc::<[f32]>::from);
                    users.vectors.put(begun, user.clone(), version, kept);
                }
                Ok((state, sought))
            }
            // Consent, seen and blocks hold all the same.
            Err(error) => {
                tracing::debug!(%error, "what a user's query looks for is not known");
                Ok((UserState { is_unsolved: true, ..state }, nothing))
            }
        }
    }

    /// What a version makes of a history; a vector that is `cached` is not solved again.
    async fn sought(
        &self,
        history: &History,
        tenant: &TenantId,
        version: u64,
        cached: Option<Option<Arc<[f32]>>>,
        deadline: Deadline,
    ) -> Result<Sought> {
        let version = self.models.get(version)?;
        let vector = async |model: &Vectors| match cached {
            Some(vector) => Ok(vector.map(|vector| vector.to_vec())),
            None => {
                let solved = self.solve(history, tenant, (version.version, model), deadline).await?;
                Ok::<_, Error>(solved.map(|(folded, _)| folded.vector().to_vec()))
            }
        };
        let sources = || sources(&self.newest(history));
        Ok(match &version.family {
            Family::Vectors(model) => Sought::Vector(vector(model).await?),
            Family::Graph => Sought::History(sources()),
            Family::Blend(blended) => Sought::Blend(vector(&blended.with).await?, sources()),
        })
    }

    /// The newest positives, as many as count; by id, so that the same history gives the same bits on every node.
    fn newest<'a>(&self, history: &'a History) -> Vec<&'a Positive> {
        let mut newest: Vec<_> = history.positives.iter().collect();
        newest.sort_by(|a, b| b.last_ms.cmp(&a.last_ms).then_with(|| a.item_id.cmp(&b.item_id)));
        newest.truncate(self.history_max);
        newest.sort_by(|a, b| a.item_id.cmp(&b.item_id));
        newest
    }

    /// Solves a user's vector; `None` where no history item has a row.
    async fn solve(
        &self,
        history: &History,
        tenant: &TenantId,
        (version, model): (u64, &Vectors),
        deadline: Deadline,
    ) -> Result<Option<(Folded, Weighted)>> {
        let newest = self.newest(history);
        let ids: Vec<ItemId> = newest.iter().map(|positive| positive.item_id.clone()).collect();
        let mut rows = self.rows.get(tenant, version, &ids, Kept::Row, deadline).await?;
        let weighted =
            newest.into_iter().filter_map(|p| Some((p.item_id.clone(), rows.remove(&p.item_id)?, p.confidence)));
        let weighted: Weighted = weighted.collect();
        if weighted.is_empty() {
            return Ok(None);
        }
        let folded = fold(model, &weighted)?;
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
        let loaded = self.models.get(version)?;
        let newest = self.newest(&history);
        let (mut of_vectors, mut of_graph) =
            (vec![Shares::new(); candidates.len()], vec![Shares::new(); candidates.len()]);
        if let Some(model) = loaded.vectors()
            && let Some((folded, weighted)) = self.solve(&history, tenant, (version, model), deadline).await?
        {
            let rows = self.rows.get(tenant, version, candidates, Kept::Row, deadline).await?;
            of_vectors = candidates.iter().map(|id| shares(&folded, &weighted, rows.get(id))).collect::<Result<_>>()?;
        }
        if !matches!(loaded.family, Family::Vectors(_)) {
            let kept = Kept::Weights(&sources(&newest));
            let weights = self.rows.get(tenant, version, candidates, kept, deadline).await?;
            let ids = || newest.iter().map(|positive| positive.item_id.clone());
            let of = |id: &ItemId| weights.get(id).map_or_else(Shares::new, |w| ids().zip(w.iter().copied()).collect());
            of_graph = candidates.iter().map(of).collect();
        }
        let both = of_graph.into_iter().zip(of_vectors);
        let shares = both.map(|(graph, vectors)| match &loaded.family {
            Family::Vectors(_) => Ok(vectors),
            Family::Graph => Ok(graph),
            Family::Blend(blended) => blended_shares(blended, newest.len(), graph, vectors),
        });
        shares.map(|shares| Ok(strongest(shares?, reasons))).collect()
    }

    /// The vectors of a page of users, for exports.
    pub async fn vectors(
        &self,
        histories: Vec<(UserId, History)>,
        tenant: &TenantId,
        version: u64,
        deadline: Deadline,
    ) -> Result<Vec<(String, Vec<f32>)>> {
        let loaded = self.models.get(version)?;
        let Family::Vectors(model) = &loaded.family else { return Err(no_vectors()) };
        let mut vectors = Vec::new();
        for (user, history) in histories {
            if let Some((folded, _)) = self.solve(&history, tenant, (version, model), deadline).await? {
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

/// Fingerprints of a history.
fn sources(newest: &[&Positive]) -> Vec<u64> {
    newest.iter().map(|positive| fingerprint(positive.item_id.as_str())).collect()
}

fn fold(model: &Vectors, weighted: &Weighted) -> Result<Folded> {
    let history: Vec<(&[f32], f32)> =
        weighted.iter().map(|(_, row, confidence)| (row.as_slice(), *confidence)).collect();
    model.fold(&history).map_err(|error| Error::new(Kind::Internal, format!("cannot solve a user's vector: {error}")))
}

/// What history items add to a candidate's score.
type Shares = BTreeMap<ItemId, f32>;

/// What history items add to what a blend scores a candidate by, in nats: of each model its part, in proportion to what they add to the model's
/// own score. What popularity adds is nobody's.
fn blended_shares(blended: &Blended, entries: usize, graph: Shares, vectors: Shares) -> Result<Shares> {
    let scores = [graph.values().sum(), vectors.values().sum(), 0.0f32];
    let parts = blended.blend.for_user(entries).parts(&scores);
    let parts = parts.map_err(|error| Error::new(Kind::Internal, format!("cannot explain a blend: {error}")))?;
    let mut shares = Shares::new();
    for ((of_model, score), part) in [graph, vectors].into_iter().zip(scores).zip(parts) {
        for (id, share) in of_model.into_iter().filter(|_| score != 0.0) {
            *shares.entry(id).or_default() += (part * f64::from(share / score)) as f32;
        }
    }
    Ok(shares)
}

/// What history items add to a candidate's score by vectors; nothing for one without a row.
fn shares(folded: &Folded, weighted: &Weighted, candidate: Option<&Vec<f32>>) -> Result<Shares> {
    let Some(candidate) = candidate else { return Ok(Shares::new()) };
    let history: Vec<(&[f32], f32)> =
        weighted.iter().map(|(_, row, confidence)| (row.as_slice(), *confidence)).collect();
    let contributions = folded
        .contributions(candidate, &history)
        .map_err(|error| Error::new(Kind::Internal, format!("cannot explain a score: {error}")))?;
    Ok(weighted.iter().map(|(id, ..)| id.clone()).zip(contributions).collect())
}

/// Those that contribute, the strongest first.
fn strongest(shares: Shares, reasons: usize) -> Vec<(ItemId, f32)> {
    let mut named: Vec<(ItemId, f32)> = shares.into_iter().collect();
    named.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    named.retain(|(_, contribution)| *contribution > 0.0);
    named.truncate(reasons);
    named
}
