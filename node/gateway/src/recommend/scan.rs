//! Root side of the two scans: the best items by inner product with a vector, and the most popular ones.

use super::coverage::Tally;
use super::{Sought, merge};
use crate::gateway::Gateway;
use crate::route::scatter::{Parts, Question};
use crate::view::View;
use docent_proto::internal::shard::{Request, Response, ShardFilter, ShardHits};
use docent_runtime::Deadline;
use docent_types::query::ScoredItem;
use docent_types::sabotage::{Bug, is};
use docent_types::{ItemId, Keyspace, Result, ShardId, TenantId};
use std::collections::{BTreeMap, BTreeSet};

/// What to look for.
pub(crate) enum Wanted {
    /// Nearest to a vector of this version.
    Nearest { version: u64, vector: Vec<f32> },
    /// Neighbours of the items of these fingerprints in this version.
    Neighbours { version: u64, sources: Vec<u64> },
    /// Both, of a blend; an empty vector where there is none.
    Blend { version: u64, vector: Vec<f32>, sources: Vec<u64> },
    /// Most popular.
    Popular,
}

impl Wanted {
    /// What a user's shard found to look for; `None` where that is nothing.
    pub(crate) fn of(version: u64, sought: Sought) -> Option<Wanted> {
        match sought {
            Sought::Vector(vector) => {
                let vector = vector.filter(|vector| !vector.is_empty())?;
                Some(Wanted::Nearest { version, vector })
            }
            Sought::History(sources) => (!sources.is_empty()).then_some(Wanted::Neighbours { version, sources }),
            // A vector is made of the history: without one there is none.
            Sought::Blend(vector, sources) => {
                (!sources.is_empty()).then_some(Wanted::Blend { version, vector, sources })
            }
        }
    }

    fn version(&self) -> Option<u64> {
        match self {
            Wanted::Nearest { version, .. } | Wanted::Neighbours { version, .. } | Wanted::Blend { version, .. } => {
                Some(*version)
            }
            Wanted::Popular => None,
        }
    }
}

const HITS: fn(Response) -> Option<Parts<ShardHits>> = |response| match response {
    Response::Hits(parts) => Some(parts),
    _ => None,
};

/// Ids that an answer must not have, by shard: each shard is sent only its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Excluded {
    by_shard: BTreeMap<ShardId, BTreeSet<ItemId>>,
}

impl Excluded {
    pub(crate) fn add(&mut self, view: &View, tenant: &TenantId, ids: impl IntoIterator<Item = ItemId>) -> Result<()> {
        for (shard, ids) in view.by_item_shard(tenant, ids, |id| id)? {
            self.by_shard.entry(shard).or_default().extend(ids);
        }
        Ok(())
    }

    fn filters(&self, shards: &[ShardId]) -> Vec<ShardFilter> {
        let of = |shard: &ShardId| self.by_shard.get(shard).into_iter().flatten().cloned().collect();
        shards.iter().map(|shard| ShardFilter { shard: *shard, exclude: of(shard) }).collect()
    }
}

impl Gateway {
    /// The best `n` of all item shards, exactly merged; what each shard said goes into `tally`.
    pub(crate) async fn scan(
        &self,
        view: &View,
        wanted: &Wanted,
        n: u32,
        excluded: &Excluded,
        tally: &mut Tally,
        deadline: Deadline,
    ) -> Vec<ScoredItem> {
        let tenant = self.tenant();
        let version = wanted.version();
        let each = if is(Bug::ShardReturnsTooFew) { n.div_ceil(4) } else { n };
        let question = Question {
            shards: view.shards(Keyspace::Items),
            request: &|shards| {
                let (tenant, shards) = (tenant.clone(), excluded.filters(shards));
                match wanted {
                    Wanted::Nearest { version, vector } => {
                        Request::Scan { tenant, version: *version, vector: vector.clone(), n: each, shards }
                    }
                    Wanted::Neighbours { version, sources } => {
                        Request::ScanHistory { tenant, version: *version, sources: sources.clone(), n: each, shards }
                    }
                    Wanted::Blend { version, vector, sources } => Request::ScanBlend {
                        tenant,
                        version: *version,
                        vector: vector.clone(),
                        sources: sources.clone(),
                        n: each,
                        shards,
                    },
                    Wanted::Popular => Request::Popular { tenant, n: each, shards },
                }
            },
            parts: HITS,
            prefers: &|shard, node| version.is_none_or(|version| view.has_staged(version, shard, node)),
        };
        tally.ask(question.shards.iter().copied());
        let gathered = self.shared.route.gather(view, &question, self.shared.ids.salt(), deadline).await;
        for (shard, error) in &gathered.missing {
            tracing::debug!(%shard, %error, "an item shard is missing from an answer");
            tally.missed(*shard);
        }
        let mut lists = Vec::with_capacity(gathered.parts.len());
        for (shard, part) in gathered.parts {
            tally.answered(shard, part.node, &part.value);
            lists.push(part.value.hits);
        }
        merge::top(n as usize, lists)
    }
}
