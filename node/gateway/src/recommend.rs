//! Root side of a query: pin the version, ask the user's shard, scan the item shards, merge, fill up with what is popular, hydrate.
//!
//! | module | owns |
//! |---|---|
//! | [`plan`] | pure: which node is asked about which shards |
//! | [`merge`] | pure: the exact top-n of ranked lists |
//! | [`coverage`] | pure: what an answer saw and missed |
//! | [`session`] | the session token |
//! | [`scan`] | the scatter of scans |
//! | [`hydrate`] | metadata |

pub(crate) mod coverage;
pub(crate) mod hydrate;
pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod scan;
pub(crate) mod session;

use crate::gateway::Gateway;
use crate::route::Repeat;
use crate::route::scatter::Question;
use crate::users::unfitting;
use crate::view::View;
use coverage::Tally;
use docent_placement::hash::fingerprint;
use docent_proto::internal::shard::{Request, Response, UserState};
use docent_runtime::Deadline;
use docent_types::query::{Answer, Coverage, ModelRef, Reason, Recommend, RecommendedItem, ScoredItem, Source};
use docent_types::sabotage::{Bug, is};
use docent_types::training::Algorithm;
use docent_types::{Error, ItemId, Kind, Position, Result, ShardId, UserId, limits};
use scan::{Excluded, Wanted};
use session::Session;
use std::collections::BTreeSet;
use std::time::Duration;

/// A request for the items nearest to one.
#[derive(Clone, Debug, PartialEq)]
pub struct Similar {
    /// To which.
    pub item_id: ItemId,
    /// How many, 1 to 1,000.
    pub n: u32,
    /// Items not to return.
    pub exclude_ids: Vec<ItemId>,
    /// Milliseconds until the caller gives up; 0 for the default.
    pub deadline_ms: u32,
}

/// A request for what is popular.
#[derive(Clone, Debug, PartialEq)]
pub struct Popular {
    /// How many, 1 to 1,000.
    pub n: u32,
    /// Items not to return.
    pub exclude_ids: Vec<ItemId>,
    /// Milliseconds until the caller gives up; 0 for the default.
    pub deadline_ms: u32,
}

/// How much of an answer is made: exports need neither titles nor reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    Ids,
    Full,
}

/// What to look for in a version: what is near a vector, or what a history's items have for neighbours.
pub(crate) enum Sought {
    Vector(Option<Vec<f32>>),
    History(Vec<u64>),
    /// Both: an empty vector where there is none.
    Blend(Vec<f32>, Vec<u64>),
}

/// An answer in the making.
struct Draft {
    view: View,
    session: Session,
    /// How many items the answer is to have.
    n: usize,
    tally: Tally,
    items: Vec<(ScoredItem, Source)>,
    user: Option<Position>,
    blocks: BTreeSet<ItemId>,
    started: Duration,
}

/// Items looked for beyond those asked for: what turns out to be taken down when its metadata is read leaves no gap then.
const SLACK: u32 = 8;
/// A node that hears from the coordinators hears of an activation much sooner; one that does not should answer, not wait.
const SESSION_WAIT_MAX: Duration = Duration::from_millis(500);

/// How many items to look for where `n` are asked for. Shards return [`limits::ANSWER_ITEMS_MAX`] each at most.
fn with_slack(n: u32) -> u32 {
    n.saturating_add(SLACK).min(limits::ANSWER_ITEMS_MAX).max(n)
}

/// An item's row as a query; `bias` is how much the others' biases count, where the model has any.
fn with_bias(algorithm: &Algorithm, mut row: Vec<f32>, bias: f32) -> Vec<f32> {
    if let Some(last) = row.last_mut().filter(|_| algorithm.popularity_bias() != 0.0) {
        *last = bias;
    }
    row
}

/// How long a query waits for the activation that its session has seen.
fn session_wait(deadline: Deadline) -> Duration {
    (deadline.remaining() / 4).min(SESSION_WAIT_MAX)
}

/// The share of what is left of a deadline that one step may use.
fn share(deadline: Deadline, percent: u32) -> Deadline {
    deadline.at_most(deadline.remaining() * percent / 100)
}

impl Gateway {
    /// The best items for a user.
    ///
    /// # Errors
    /// `Invalid` for a token that is none; `Unavailable` when no item shard answered at all. Anything less is told in the coverage.
    pub async fn recommend(&self, request: Recommend) -> Result<Answer> {
        let answer = self.admit("recommend", self.answer(&request, Detail::Full)).await;
        answer.inspect(|answer| observe(&answer.coverage))
    }

    pub(crate) async fn answer(&self, request: &Recommend, detail: Detail) -> Result<Answer> {
        let deadline = self.deadline(request.deadline_ms);
        let mut draft = self.draft(Session::parse(request.session.as_deref())?, request.n, deadline).await?;
        // Only reading the metadata drops items.
        let n = if detail == Detail::Full { with_slack(request.n) } else { request.n };
        let (tenant, version) = (self.tenant(), draft.view.version());
        let shard = draft.view.user_shard(&tenant, &request.user_id)?;
        let mut excluded = Excluded::default();
        excluded.add(&draft.view, &tenant, request.exclude_ids.iter().cloned())?;
        let wanted = match self.user_state(shard, &request.user_id, version, share(deadline, 50)).await {
            Ok((mut state, sought)) => {
                if is(Bug::BlocksNotFiltered) && self.shared.route.leaders.get(shard) != Some(self.shared.route.me) {
                    state.blocks.clear();
                }
                draft.user = Some(state.position);
                excluded.add(&draft.view, &tenant, state.blocks.iter().cloned())?;
                draft.blocks = state.blocks.into_iter().collect();
                if state.is_unsolved {
                    // What the user has seen and blocked is known all the same.
                    draft.tally.without_user_state(shard);
                }
                if state.consent.recommend {
                    excluded.add(&draft.view, &tenant, state.seen)?;
                }
                let is_usable = state.consent.recommend && !state.is_unsolved && version != 0;
                Wanted::of(version, sought).filter(|_| is_usable)
            }
            Err(error) => {
                // Consent and blocks cannot be read: nothing personal is used, and the answer says so.
                tracing::debug!(%shard, %error, "an answer is not personal");
                draft.tally.without_user_state(shard);
                None
            }
        };
        if let Some(wanted) = wanted {
            self.extend(&mut draft, &wanted, Source::Model, n, &excluded, share(deadline, 70)).await;
        }
        self.fill(&mut draft, n, &mut excluded, share(deadline, 80)).await?;
        let explain = (request.explain && detail == Detail::Full).then_some((shard, &request.user_id));
        self.finish(draft, explain, detail, deadline).await
    }

    /// The items nearest to another in the live version: by inner product of their rows, or its neighbours. Without a live version, or for an
    /// item that is not in it, there are none.
    ///
    /// # Errors
    /// `NotFound` for an item that does not exist; `Unavailable` when its shard does not answer.
    pub async fn similar(&self, request: Similar) -> Result<Answer> {
        let answer = self.admit("similar", self.similar_admitted(&request)).await;
        answer.inspect(|answer| observe(&answer.coverage))
    }

    async fn similar_admitted(&self, request: &Similar) -> Result<Answer> {
        let deadline = self.deadline(request.deadline_ms);
        let mut draft = self.draft(Session::default(), request.n, deadline).await?;
        let (tenant, version) = (self.tenant(), draft.view.version());
        self.find_item(&draft.view, &request.item_id, share(deadline, 40)).await?;
        let sought = match draft.view.catalog.live_model().map(|model| &model.settings.algorithm) {
            None => Sought::Vector(None),
            Some(algorithm @ (Algorithm::Ials(_) | Algorithm::Softmax(_) | Algorithm::Tower(_))) => {
                let row = self.item_row(&draft.view, &request.item_id, version, share(deadline, 40)).await?;
                // What is like an item is not what is popular: its direction alone.
                Sought::Vector(row.map(|row| with_bias(algorithm, row, 0.0)))
            }
            Some(Algorithm::Graph(_)) => Sought::History(vec![fingerprint(request.item_id.as_str())]),
            // As for somebody who has this item alone.
            Some(algorithm @ Algorithm::Blend(_)) => {
                let row = self.item_row(&draft.view, &request.item_id, version, share(deadline, 40)).await?;
                let vector = row.map(|row| with_bias(algorithm, row, 1.0)).unwrap_or_default();
                Sought::Blend(vector, vec![fingerprint(request.item_id.as_str())])
            }
        };
        if let Some(wanted) = Wanted::of(version, sought) {
            let mut excluded = Excluded::default();
            excluded.add(&draft.view, &tenant, request.exclude_ids.iter().chain([&request.item_id]).cloned())?;
            let n = with_slack(request.n);
            self.extend(&mut draft, &wanted, Source::Similar, n, &excluded, share(deadline, 80)).await;
        }
        self.finish(draft, None, Detail::Full, deadline).await
    }

    /// What is popular with everybody.
    ///
    /// # Errors
    /// `Unavailable` when no item shard answered at all.
    pub async fn popular(&self, request: Popular) -> Result<Answer> {
        let work = async {
            let deadline = self.deadline(request.deadline_ms);
            let mut draft = self.draft(Session::default(), request.n, deadline).await?;
            let mut excluded = Excluded::default();
            excluded.add(&draft.view, &self.tenant(), request.exclude_ids.iter().cloned())?;
            self.fill(&mut draft, with_slack(request.n), &mut excluded, share(deadline, 80)).await?;
            self.finish(draft, None, Detail::Full, deadline).await
        };
        self.admit("popular", work).await.inspect(|answer| observe(&answer.coverage))
    }

    /// Pins the catalog, and with it the version and the map. A node that has not heard of the session's activation waits for it for a
    /// while; it does not refuse to answer, because without a coordinator quorum it may never hear.
    async fn draft(&self, session: Session, n: u32, deadline: Deadline) -> Result<Draft> {
        let started = self.shared.clock.monotonic();
        if session.epoch > self.view()?.epoch() {
            self.wait_catalog(session_wait(deadline), |catalog| {
                catalog.live.is_some_and(|live| live.epoch >= session.epoch)
            })
            .await;
        }
        let view = self.view()?;
        let (tally, items, blocks) = (Tally::default(), Vec::new(), BTreeSet::new());
        Ok(Draft { view, session, n: n as usize, tally, items, user: None, blocks, started })
    }

    async fn user_state(
        &self,
        shard: ShardId,
        user_id: &UserId,
        version: u64,
        deadline: Deadline,
    ) -> Result<(UserState, Sought)> {
        let request = Request::UserState { shard, tenant: self.tenant(), user_id: user_id.clone(), version };
        match self.shared.route.leader(shard, &request, Repeat::Read, deadline).await? {
            Response::UserState(mut state) => {
                let vector = state.vector.take();
                Ok((state, Sought::Vector(vector)))
            }
            // Of a blend there is a vector, be it an empty one.
            Response::UserHistory(mut state, sources) => match state.vector.take() {
                Some(vector) => Ok((state, Sought::Blend(vector, sources))),
                None => Ok((state, Sought::History(sources))),
            },
            _ => Err(unfitting(shard)),
        }
    }

    async fn item_row(
        &self,
        view: &View,
        item_id: &ItemId,
        version: u64,
        deadline: Deadline,
    ) -> Result<Option<Vec<f32>>> {
        let tenant = self.tenant();
        let shard = view.item_shard(&tenant, item_id)?;
        let question = Question {
            shards: vec![shard],
            request: &|_| Request::ItemRows {
                tenant: tenant.clone(),
                version,
                shards: vec![(shard, vec![item_id.clone()])],
            },
            parts: |response| match response {
                Response::Rows(parts) => Some(parts),
                _ => None,
            },
            prefers: &|shard, node| view.has_staged(version, shard, node),
        };
        let mut gathered = self.shared.route.gather(view, &question, self.shared.ids.salt(), deadline).await;
        match (gathered.parts.remove(&shard), gathered.missing.remove(&shard)) {
            (Some(part), _) => Ok(part.value.into_iter().next().flatten()),
            (None, Some(error)) => Err(error),
            (None, None) => Err(unfitting(shard)),
        }
    }

    async fn extend(
        &self,
        draft: &mut Draft,
        wanted: &Wanted,
        source: Source,
        n: u32,
        excluded: &Excluded,
        deadline: Deadline,
    ) {
        let view = draft.view.clone();
        let hits = self.scan(&view, wanted, n, excluded, &mut draft.tally, deadline).await;
        draft.items.extend(hits.into_iter().map(|item| (item, source)));
    }

    /// Fills up to `n` items with what is popular, so that as many as are asked for come back while as many are allowed.
    async fn fill(&self, draft: &mut Draft, n: u32, excluded: &mut Excluded, deadline: Deadline) -> Result<()> {
        let lacking = n.saturating_sub(draft.items.len() as u32);
        if lacking > 0 {
            let chosen: Vec<ItemId> = draft.items.iter().map(|(item, _)| item.item_id.clone()).collect();
            excluded.add(&draft.view, &self.tenant(), chosen)?;
            self.extend(draft, &Wanted::Popular, Source::Popular, lacking, excluded, deadline).await;
        }
        Ok(())
    }

    async fn finish(
        &self,
        draft: Draft,
        explain: Option<(ShardId, &UserId)>,
        detail: Detail,
        deadline: Deadline,
    ) -> Result<Answer> {
        if draft.tally.is_blind() {
            return Err(Error::new(Kind::Unavailable, "no item shard answered in time; try again or ask another node"));
        }
        let version = draft.view.version();
        let mut items: Vec<RecommendedItem> = draft
            .items
            .into_iter()
            .map(|(ScoredItem { item_id, score }, source)| RecommendedItem {
                item_id,
                score,
                source,
                item: None,
                reasons: Vec::new(),
            })
            .collect();
        if let Some((shard, user_id)) = explain {
            self.explain(shard, user_id, version, &mut items, share(deadline, 60)).await;
        }
        if detail == Detail::Full {
            self.hydrate(&draft.view, &draft.blocks, &mut items, deadline).await?;
        }
        items.truncate(draft.n);
        Ok(Answer {
            recommendation_id: self.shared.ids.next(),
            items,
            model: ModelRef { version },
            coverage: draft.tally.finish(),
            session: draft.session.after(draft.user, draft.view.epoch()).token(),
            took_ms: self.shared.clock.monotonic().saturating_sub(draft.started).as_secs_f32() * 1_000.0,
        })
    }

    /// Adds reasons to what the model chose. An answer without reasons is one still: a failure leaves them out.
    async fn explain(
        &self,
        shard: ShardId,
        user_id: &UserId,
        version: u64,
        items: &mut [RecommendedItem],
        deadline: Deadline,
    ) {
        let candidates: Vec<ItemId> =
            items.iter().filter(|item| item.source == Source::Model).map(|item| item.item_id.clone()).collect();
        if candidates.is_empty() {
            return;
        }
        let (tenant, user_id, reasons) = (self.tenant(), user_id.clone(), self.settings().reasons);
        let request = Request::Explain { shard, tenant, user_id, version, candidates, reasons };
        match self.shared.route.leader(shard, &request, Repeat::Read, deadline).await {
            Ok(Response::Explained(explained)) => {
                let chosen = items.iter_mut().filter(|item| item.source == Source::Model);
                for (item, reasons) in chosen.zip(explained) {
                    let reason = |(item_id, contribution)| Reason { item_id, title: None, contribution };
                    item.reasons = reasons.into_iter().map(reason).collect();
                }
            }
            Ok(_) => tracing::warn!(%shard, "a shard answered another question than was asked for reasons"),
            Err(error) => tracing::debug!(%shard, %error, "an answer has no reasons"),
        }
    }

    /// Adds metadata and titles. What is known to be taken down is not shown, nor named in a reason; nor is what the user blocked.
    async fn hydrate(
        &self,
        view: &View,
        blocks: &BTreeSet<ItemId>,
        items: &mut Vec<RecommendedItem>,
        deadline: Deadline,
    ) -> Result<()> {
        let reasons = items.iter().flat_map(|item| &item.reasons).map(|reason| &reason.item_id);
        let ids: BTreeSet<ItemId> = items.iter().map(|item| &item.item_id).chain(reasons).cloned().collect();
        let found = hydrate::items(self, view, &ids, deadline).await?;
        let is_shown = |id: &ItemId| !found.get(id).is_some_and(|state| state.is_taken_down);
        items.retain(|item| is_shown(&item.item_id));
        for item in items {
            item.item = found.get(&item.item_id).map(|state| state.item.clone());
            item.reasons.retain(|reason| is_shown(&reason.item_id) && !blocks.contains(&reason.item_id));
            for reason in &mut item.reasons {
                reason.title = found.get(&reason.item_id).and_then(|state| state.item.title.clone());
            }
        }
        Ok(())
    }
}

fn observe(coverage: &Coverage) {
    metrics::counter!("docent_coverage_shards_asked_total").increment(u64::from(coverage.asked));
    metrics::counter!("docent_coverage_shards_missing_total").increment(u64::from(coverage.asked - coverage.answered));
    if !coverage.degraded.is_empty() {
        metrics::counter!("docent_answers_degraded_total").increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_never_asks_a_shard_for_more_than_it_returns() {
        assert_eq!([1, 995, 1_000].map(with_slack), [9, 1_000, 1_000]);
    }

    #[test]
    fn a_session_from_a_newer_activation_holds_an_answer_up_for_a_moment_only() {
        assert_eq!(session_wait(Deadline::after(Duration::from_secs(60))), SESSION_WAIT_MAX);
        assert!(session_wait(Deadline::after(Duration::from_millis(400))) <= Duration::from_millis(100));
    }
}
