//! The node's side of `docent_proto::internal::shard`: what gateways ask of the shards that are here.

use crate::backup::{check_whole, restoring, standing};
use crate::digest::Taker;
use crate::personal::{Personal, Sought};
use crate::sabotage;
use crate::serving::index::{Kept, Query};
use crate::shards::{Hosted, ItemsRole, Shards};
use crate::training::cut::Cuts;
use bytes::Bytes;
use docent_proto::internal::shard::{Request, Response, ShardFilter, ShardHits, UserState};
use docent_rpc::Handler;
use docent_runtime::{Deadline, Threads};
use docent_types::command::{ItemOutcome, UserOutcome};
use docent_types::item::ItemState;
use docent_types::query::ScoredItem;
use docent_types::sabotage::{Bug, is};
use docent_types::{Error, ItemId, Kind, Result, ShardId, TenantId, codec};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

/// Most items that one shard returns: a gateway asks for what it lacks, not for everything.
const HITS_MAX: u32 = docent_types::limits::ANSWER_ITEMS_MAX;

/// Serves requests about this node's shards.
#[derive(Clone)]
pub struct ShardService {
    shards: Arc<Shards>,
    personal: Personal,
    staleness: Staleness,
    cuts: Arc<Cuts>,
    digests: Taker,
}

/// When a replica is too far behind to answer.
#[derive(Clone, Copy, Debug)]
pub struct Staleness {
    /// Flag answers from here on.
    pub stale_after_ms: u64,
    /// Refuse from here on.
    pub refuse_after_ms: u64,
}

impl ShardService {
    /// A service over these shards.
    pub fn new(
        shards: Arc<Shards>,
        personal: Personal,
        staleness: Staleness,
        cuts: Arc<Cuts>,
        threads: Threads,
    ) -> ShardService {
        ShardService { shards, personal, staleness, cuts, digests: Taker::new(threads) }
    }

    async fn answer(&self, request: Request, deadline: Deadline) -> Result<Response> {
        match request {
            Request::WriteUsers { shard, command } => {
                let hosted = self.shards.get(shard)?;
                if let Some(early) = sabotage::ack_early(&hosted, &command) {
                    return Ok(early);
                }
                let (position, bytes) = hosted.propose(codec::encode_in(command.format(), &command), deadline).await?;
                match codec::decode("a write's outcome", &bytes)? {
                    UserOutcome::Restoring => Err(restoring(shard)),
                    outcome => Ok(Response::WroteUsers { position, outcome }),
                }
            }
            Request::WriteItems { shard, command } => {
                let hosted = self.shards.get(shard)?;
                let (position, bytes) = hosted.propose(codec::encode_in(command.format(), &command), deadline).await?;
                match codec::decode("a write's outcome", &bytes)? {
                    ItemOutcome::Restoring => Err(restoring(shard)),
                    outcome => Ok(Response::WroteItems { position, outcome, holders: hosted.holders() }),
                }
            }
            Request::GetUser { shard, tenant, user_id } => {
                let (hosted, users) = self.shards.users(shard)?;
                check_whole(&hosted)?;
                let (user, _) =
                    hosted.read_leader(deadline, |view| users.machine.user(view, &tenant, &user_id)).await?;
                Ok(Response::User(sabotage::user_with_cached_consent(&users, user)))
            }
            Request::UserState { shard, tenant, user_id, version } => {
                let (hosted, users) = self.shards.users(shard)?;
                check_whole(&hosted)?;
                let (state, sought) =
                    self.personal.state(&hosted, &users, &tenant, &user_id, version, deadline).await?;
                Ok(told(state, sought))
            }
            Request::Explain { shard, tenant, user_id, version, candidates, reasons } => {
                let (hosted, users) = self.shards.users(shard)?;
                check_whole(&hosted)?;
                let explain = self.personal.explain(
                    &hosted,
                    &users,
                    &tenant,
                    &user_id,
                    version,
                    &candidates,
                    reasons as usize,
                    deadline,
                );
                Ok(Response::Explained(explain.await?))
            }
            Request::Digest { shard, index } => {
                Ok(Response::Digest(self.digests.take(&*self.shards.get(shard)?, index, deadline).await?))
            }
            Request::Standing { shard } => Ok(Response::Standing(standing(&*self.shards.get(shard)?, deadline).await?)),
            Request::ReplicaLog { shard } => Ok(Response::ReplicaLog(self.shards.get(shard)?.log())),
            Request::Recover { shard, replica, last } => {
                Ok(Response::Recovered(self.shards.recover(shard, replica, last, deadline).await?))
            }
            Request::Cut { job, epoch } => {
                self.shards.all().iter().try_for_each(|hosted| check_whole(hosted))?;
                Ok(Response::Cut(self.cuts.mark(&self.shards, job, epoch, deadline).await?))
            }
            Request::Pin { job, epoch, positions } => {
                Ok(Response::Cut(self.cuts.pin(&self.shards, job, epoch, &positions, deadline).await?))
            }
            Request::Pinned { job } => Ok(Response::Cut(self.cuts.held(job))),
            other => self.answer_items(other),
        }
    }

    fn answer_items(&self, request: Request) -> Result<Response> {
        match request {
            Request::Scan { version, vector, n, shards, .. } => {
                Ok(Response::Hits(self.scan(version, Query::Vector(&vector), n, shards)))
            }
            Request::ScanHistory { version, sources, n, shards, .. } => {
                Ok(Response::Hits(self.scan(version, Query::History(&sources), n, shards)))
            }
            Request::ScanBlend { version, vector, sources, n, shards, .. } => {
                Ok(Response::Hits(self.scan(version, Query::Blend(&vector, &sources), n, shards)))
            }
            Request::Popular { n, shards, .. } => {
                Ok(Response::Hits(self.hits(shards, |items, filter| {
                    Ok(items.serving.popular(n.min(HITS_MAX) as usize, &filter.exclude))
                })))
            }
            Request::GetItems { tenant, shards } => {
                Ok(Response::Items(each(shards, |id, ids| self.items(&tenant, id, ids))))
            }
            Request::ItemRows { version, shards, .. } => {
                Ok(Response::Rows(each(shards, |id, ids| self.kept(version, id, ids, Kept::Row))))
            }
            Request::HistoryWeights { version, sources, shards, .. } => {
                Ok(Response::Rows(each(shards, |id, ids| self.kept(version, id, ids, Kept::Weights(&sources)))))
            }
            Request::Applied { shards } => {
                Ok(Response::Applied(shards.into_iter().map(|id| (id, self.applied(id))).collect()))
            }
            _ => Err(Error::new(Kind::Internal, "a request about users was taken for one about items")),
        }
    }

    /// How far a replica is that may still show its items; one that refuses to show them says so here too.
    fn applied(&self, id: ShardId) -> Result<u64> {
        let hosted = self.shards.get(id)?;
        self.staleness.check(&hosted)?;
        Ok(hosted.group.status().applied.unwrap_or(0))
    }

    fn scan(
        &self,
        version: u64,
        query: Query<'_>,
        n: u32,
        shards: Vec<ShardFilter>,
    ) -> Vec<(ShardId, Result<ShardHits>)> {
        let n = n.min(HITS_MAX) as usize;
        self.hits(shards, |items, filter| items.serving.scan(version, query, n, &filter.exclude))
    }

    /// What a version keeps of items.
    fn kept(&self, version: u64, id: ShardId, ids: &[ItemId], kept: Kept<'_>) -> Result<Vec<Option<Vec<f32>>>> {
        let (hosted, items) = self.shards.items(id)?;
        check_whole(&hosted)?;
        let index = items.serving.index(version)?;
        ids.iter().map(|id| index.kept(id.as_str(), kept)).collect()
    }

    /// Every asked shard's part, each with its own outcome.
    fn hits(
        &self,
        shards: Vec<ShardFilter>,
        find: impl Fn(&ItemsRole, &ShardFilter) -> Result<(Vec<ScoredItem>, u64)>,
    ) -> Vec<(ShardId, Result<ShardHits>)> {
        let part = |filter: &ShardFilter| {
            let (hosted, items) = self.shards.items(filter.shard)?;
            check_whole(&hosted)?;
            let is_stale = self.staleness.check(&hosted)?;
            let applied = hosted.group.status().applied.unwrap_or(0);
            let started = tokio::time::Instant::now();
            let (hits, count) = find(&items, filter)?;
            metrics::histogram!("docent_index_search_seconds").record(started.elapsed().as_secs_f64());
            Ok(ShardHits { hits, items: count, applied, is_stale })
        };
        shards.into_iter().map(|filter| (filter.shard, part(&filter))).collect()
    }

    fn items(&self, tenant: &TenantId, id: ShardId, ids: &[ItemId]) -> Result<Vec<Option<ItemState>>> {
        let (hosted, items) = self.shards.items(id)?;
        check_whole(&hosted)?;
        self.staleness.check(&hosted)?;
        let view = hosted.view()?;
        ids.iter().map(|id| items.machine.item(&*view, tenant, id)).collect()
    }
}

impl Staleness {
    /// Whether the replica is stale; refuses where it is far too stale to show anything.
    fn check(self, hosted: &Hosted) -> Result<bool> {
        match hosted.group.millis_since_leader_contact() {
            _ if is(Bug::StaleItemsNotRefused) => Ok(false),
            Some(ms) if ms <= self.refuse_after_ms => Ok(ms > self.stale_after_ms),
            Some(ms) => {
                let message = format!(
                    "shard {}: this replica last had all that its leader had committed {ms} ms ago; ask another",
                    hosted.id
                );
                Err(Error::new(Kind::Unavailable, message))
            }
            None => Err(Error::new(
                Kind::Unavailable,
                format!("shard {}: this replica has not caught up with its leader yet", hosted.id),
            )),
        }
    }
}

/// What a user's shard tells of a query.
fn told(state: UserState, sought: Sought) -> Response {
    match sought {
        Sought::Vector(vector) => Response::UserState(UserState { vector, ..state }),
        Sought::History(sources) => Response::UserHistory(state, sources),
        // Of a blend there is a vector, be it an empty one.
        Sought::Blend(vector, sources) => {
            Response::UserHistory(UserState { vector: Some(vector.unwrap_or_default()), ..state }, sources)
        }
    }
}

fn each<T>(
    shards: Vec<(ShardId, Vec<ItemId>)>,
    answer: impl Fn(ShardId, &[ItemId]) -> Result<T>,
) -> Vec<(ShardId, Result<T>)> {
    shards.into_iter().map(|(id, ids)| (id, answer(id, &ids))).collect()
}

impl Handler for ShardService {
    fn call(&self, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Bytes>> {
        let service = self.clone();
        async move {
            let request = codec::decode("a request to a shard", &body)?;
            let response = service.answer(request, deadline).await?;
            Ok(codec::encode_in(response.format(), &response))
        }
        .boxed()
    }
}
