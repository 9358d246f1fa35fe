//! Everything out, as streams: each shard's leader is read to its end, one shard after the other. An error ends the stream: what was
//! sent before it is a part, and never looks like the whole.

use crate::gateway::Gateway;
use crate::recommend::Detail;
use docent_proto::internal::Service;
use docent_proto::internal::shard::{Export, ExportPage, ExportWhat};
use docent_runtime::Deadline;
use docent_types::event::Event;
use docent_types::item::ItemState;
use docent_types::query::{Answer, Degraded, Recommend, Source};
use docent_types::{Error, ItemId, Keyspace, Kind, Result, ShardId, UserId, codec};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// A stream of pages.
pub type Pages<T> = BoxStream<'static, Result<T>>;

/// Rows of one version.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorPage {
    /// The version.
    pub version: u64,
    /// Ids and their rows, all of one length.
    pub vectors: Vec<(String, Vec<f32>)>,
}

/// The best items of some users.
#[derive(Clone, Debug, PartialEq)]
pub struct RecommendationPage {
    /// The version that chose them.
    pub version: u64,
    /// Best first.
    pub users: Vec<(UserId, Vec<ItemId>)>,
}

/// Users of one page of recommendations.
const USERS_A_PAGE: usize = 256;
/// An answer inside an export may take this long: nobody waits for it in person.
const ANSWER_DEADLINE_MS: u32 = 30_000;

impl Gateway {
    /// Every kept event.
    ///
    /// # Errors
    /// `Overloaded` when too many exports are at work; in the stream, the shard's.
    pub async fn export_events(&self) -> Result<Pages<Vec<Event>>> {
        let pages = self.export("export_events", Keyspace::Users, ExportWhat::Events).await?;
        Ok(pages
            .and_then(|page| {
                std::future::ready(if let ExportPage::Events(events) = page { Ok(events) } else { Err(wrong_page()) })
            })
            .boxed())
    }

    /// Every item.
    ///
    /// # Errors
    /// As [`Gateway::export_events`].
    pub async fn export_items(&self) -> Result<Pages<Vec<ItemState>>> {
        let pages = self.export("export_items", Keyspace::Items, ExportWhat::Items).await?;
        Ok(pages
            .and_then(|page| {
                std::future::ready(if let ExportPage::Items(items) = page { Ok(items) } else { Err(wrong_page()) })
            })
            .boxed())
    }

    /// Rows of a keyspace in a version; 0 means the live one.
    ///
    /// # Errors
    /// `NotFound` where no model is live; else as [`Gateway::export_events`].
    pub async fn export_vectors(&self, keyspace: Keyspace, version: u64) -> Result<Pages<VectorPage>> {
        let version = if version == 0 { self.live_version()? } else { version };
        let pages = self.export("export_vectors", keyspace, ExportWhat::Vectors { version }).await?;
        let page = move |page| {
            std::future::ready(match page {
                ExportPage::Vectors(vectors) => Ok(VectorPage { version, vectors }),
                _ => Err(wrong_page()),
            })
        };
        Ok(pages.and_then(page).boxed())
    }

    /// The best `n` items of every user that the live model knows, by shard and user id. Users whom it does not know, or who opted
    /// out, are left out.
    ///
    /// # Errors
    /// `NotFound` where no model is live. In the stream: `Unavailable` for an answer that is less than whole, `Conflict` when another
    /// version went live meanwhile.
    pub async fn export_recommendations(&self, n: u32) -> Result<Pages<RecommendationPage>> {
        let version = self.live_version()?;
        let pages = self.export("export_recommendations", Keyspace::Users, ExportWhat::Users).await?;
        let users = pages.map_ok(|page| match page {
            ExportPage::Users(users) => futures::stream::iter(users.into_iter().map(Ok)).boxed(),
            _ => futures::stream::iter([Err(wrong_page())]).boxed(),
        });
        let gateway = self.clone();
        let answers = users.try_flatten().map(move |user| {
            let gateway = gateway.clone();
            async move { gateway.export_answer(user?, n, version).await }
        });
        let answers = answers.buffered(self.settings().export_concurrency.clamp(1, 256));
        let known = answers.try_filter_map(|answer| std::future::ready(Ok(answer)));
        let pages = known.try_chunks(USERS_A_PAGE).map_err(|chunk| chunk.1);
        Ok(pages.map_ok(move |users| RecommendationPage { version, users }).boxed())
    }

    async fn export_answer(&self, user_id: UserId, n: u32, version: u64) -> Result<Option<(UserId, Vec<ItemId>)>> {
        let request = Recommend {
            user_id,
            n,
            exclude_ids: Vec::new(),
            explain: false,
            deadline_ms: ANSWER_DEADLINE_MS,
            session: None,
        };
        let answer = self.answer(&request, Detail::Ids).await?;
        if answer.model.version != version {
            let message = format!(
                "version {} went live during the export of version {version}; export again",
                answer.model.version
            );
            return Err(Error::new(Kind::Conflict, message));
        }
        is_whole(&answer)?;
        let is_known = answer.items.iter().any(|item| item.source == Source::Model);
        let ids = answer.items.into_iter().map(|item| item.item_id).collect();
        Ok(is_known.then_some((request.user_id, ids)))
    }

    fn live_version(&self) -> Result<u64> {
        match self.view()?.version() {
            0 => Err(Error::new(Kind::NotFound, "no model is live; train one first")),
            version => Ok(version),
        }
    }

    /// The pages of every shard of a keyspace, in the shards' order.
    async fn export(&self, method: &'static str, keyspace: Keyspace, what: ExportWhat) -> Result<Pages<ExportPage>> {
        let deadline = Deadline::after(Duration::from_millis(self.settings().export_deadline_ms));
        let (shards, permit) = self.admit_export(method, async { Ok(self.view()?.shards(keyspace)) }).await?;
        let gateway = self.clone();
        let pages =
            futures::stream::iter(shards).then(move |shard| gateway.clone().export_shard(shard, what, deadline));
        Ok(holding(permit, pages.try_flatten().boxed()))
    }

    async fn export_shard(self, shard: ShardId, what: ExportWhat, deadline: Deadline) -> Result<Pages<ExportPage>> {
        let body = codec::encode(&Export { shard, tenant: self.tenant(), what });
        let opening = deadline.at_most(Duration::from_millis(self.settings().write_deadline_ms));
        let chunks = self.shared.route.leader_stream(shard, Service::Export, body, opening).await?;
        let pages =
            chunks.and_then(|bytes| std::future::ready(codec::decode::<ExportPage>("a page of an export", &bytes)));
        // A stream that stalls is ours to bound.
        let stall = Duration::from_millis(self.settings().write_deadline_ms);
        let bounded = futures::stream::unfold(Some(pages.boxed()), move |pages| async move {
            let mut pages = pages?;
            match deadline.at_most(stall).bound("the next page of an export", async { Ok(pages.next().await) }).await {
                Ok(None) => None,
                Ok(Some(Ok(page))) => Some((Ok(page), Some(pages))),
                Ok(Some(Err(error))) | Err(error) => {
                    let message = format!("the export of shard {shard} broke off: {}", error.message);
                    Some((Err(Error { message, ..error }), None))
                }
            }
        });
        Ok(bounded.boxed())
    }
}

/// Keeps the permit until the stream is dropped.
fn holding<T: Send + 'static>(permit: OwnedSemaphorePermit, pages: Pages<T>) -> Pages<T> {
    pages
        .map(move |page| {
            let _held = &permit;
            page
        })
        .boxed()
}

/// An export must not pass off a partial answer as a whole one.
fn is_whole(answer: &Answer) -> Result<()> {
    let lacks = answer.coverage.degraded.iter().find(|degraded| !matches!(degraded, Degraded::StaleItems { .. }));
    lacks.map_or(Ok(()), |degraded| {
        Err(Error::new(
            Kind::Unavailable,
            format!("the export broke off at an answer that is not whole ({degraded:?}); export again"),
        ))
    })
}

fn wrong_page() -> Error {
    Error::new(Kind::Internal, "a shard sent a page of another export than was asked for")
}
