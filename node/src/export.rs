//! Exports of one shard, as a stream of pages; the leader gives them.

use crate::personal::Personal;
use crate::shards::{Hosted, Shards, Users};
use bytes::Bytes;
use docent_proto::internal::shard::{Export, ExportPage, ExportWhat};
use docent_rpc::Handler;
use docent_rpc::caller::Chunks;
use docent_runtime::Deadline;
use docent_shard::history::{Cursor, events, users};
use docent_shard::item::items;
use docent_shard::view::View;
use docent_types::item::ItemState;
use docent_types::{Error, Result, SlotRange, TenantId, UserId, codec};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Payload of one page.
const PAGE_BYTES: usize = 1 << 20;
/// Users solved for one page of vectors.
const PAGE_USERS: usize = 256;
/// How long solving one page may take.
const PAGE_TIME: Duration = Duration::from_secs(30);

/// Serves exports.
#[derive(Clone)]
pub struct ExportService {
    shards: Arc<Shards>,
    personal: Personal,
}

impl ExportService {
    /// Exports of these shards.
    pub fn new(shards: Arc<Shards>, personal: Personal) -> ExportService {
        ExportService { shards, personal }
    }

    async fn open(self, export: Export, deadline: Deadline) -> Result<Chunks> {
        let hosted = self.shards.get(export.shard)?;
        // The barrier makes the view linearizable; the whole export is of that one view.
        let _fresh = hosted.read_leader(deadline, |_| Ok(())).await?;
        crate::backup::check_whole(&hosted)?;
        let view = hosted.view()?;
        let tenant = export.tenant;
        match export.what {
            ExportWhat::State => crate::backup::state_pages(&hosted),
            ExportWhat::Events => Ok(event_pages(view, tenant, hosted.slots)),
            ExportWhat::Items => Ok(item_pages(view, tenant, hosted.slots)),
            ExportWhat::Users => Ok(user_pages(view, tenant, hosted.slots)),
            ExportWhat::Vectors { version } => match self.shards.users(export.shard) {
                Ok((hosted, users)) => Ok(self.user_vector_pages(view, tenant, hosted, users, version)),
                Err(_) => item_vector_pages(&self.shards, export.shard, version),
            },
        }
    }

    fn user_vector_pages(
        self,
        view: Arc<dyn View>,
        tenant: TenantId,
        hosted: Arc<Hosted>,
        users: Arc<Users>,
        version: u64,
    ) -> Chunks {
        let slots = (hosted.slots.first..hosted.slots.end).collect::<Vec<_>>();
        let chunks = futures::stream::iter(slots).then(move |slot| {
            let (view, tenant, users, personal) = (view.clone(), tenant.clone(), users.clone(), self.personal.clone());
            async move {
                let ids = known_users(&*view, &tenant, SlotRange { first: slot, end: slot + 1 })?;
                let mut pages = Vec::new();
                for ids in ids.chunks(PAGE_USERS) {
                    let histories = ids.iter().map(|id| {
                        let history = users.machine.history(&*view, &tenant, id, personal.positives())?;
                        Ok(history.filter(|history| history.consent.recommend).map(|history| (id.clone(), history)))
                    });
                    let histories: Vec<_> = histories.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
                    let deadline = Deadline::after(PAGE_TIME);
                    pages.push(ExportPage::Vectors(personal.vectors(histories, &tenant, version, deadline).await?));
                }
                Ok::<_, Error>(pages)
            }
        });
        flatten(chunks.boxed())
    }
}

/// Pages in one stream, empty ones left out.
fn flatten(pages: futures::stream::BoxStream<'static, Result<Vec<ExportPage>>>) -> Chunks {
    let flat = pages.flat_map(|pages| match pages {
        Ok(pages) => futures::stream::iter(pages.into_iter().map(|page| Ok(codec::encode(&page))).collect::<Vec<_>>()),
        Err(error) => futures::stream::iter(vec![Err(error)]),
    });
    flat.boxed()
}

fn known_users(view: &dyn View, tenant: &TenantId, slots: SlotRange) -> Result<Vec<UserId>> {
    let mut ids = Vec::new();
    users(view, tenant, slots, &mut |id, _| {
        ids.push(id);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(ids)
}

/// Where an export of events is.
enum At {
    Start,
    After(Cursor),
    End,
}

fn event_pages(view: Arc<dyn View>, tenant: TenantId, slots: SlotRange) -> Chunks {
    let pages = futures::stream::try_unfold(At::Start, move |at| {
        let (view, tenant) = (view.clone(), tenant.clone());
        async move {
            let after = match &at {
                At::Start => None,
                At::After(cursor) => Some(cursor),
                At::End => return Ok(None),
            };
            let page = events(&*view, &tenant, slots, after, PAGE_BYTES)?;
            let next = page.next.map_or(At::End, At::After);
            let events = page.events.into_iter().map(|kept| kept.event).collect();
            Ok(Some((codec::encode(&ExportPage::Events(events)), next)))
        }
    });
    pages.boxed()
}

/// One page a slot: slots are small (a 4,096th of the keyspace), and a page is cut where one is not.
fn slot_pages(slots: SlotRange, page: impl Fn(SlotRange) -> Result<Vec<ExportPage>> + Send + Sync + 'static) -> Chunks {
    let slots = (slots.first..slots.end).map(|slot| SlotRange { first: slot, end: slot + 1 });
    let pages = futures::stream::iter(slots.collect::<Vec<_>>()).map(page);
    flatten(pages.boxed())
}

/// Items of one page.
const PAGE_ITEMS: usize = 512;

fn item_pages(view: Arc<dyn View>, tenant: TenantId, slots: SlotRange) -> Chunks {
    slot_pages(slots, move |slot| {
        let mut found: Vec<ItemState> = Vec::new();
        items(&*view, &tenant, slot, &mut |state| {
            found.push(state);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found.chunks(PAGE_ITEMS).map(|page| ExportPage::Items(page.to_vec())).collect())
    })
}

fn user_pages(view: Arc<dyn View>, tenant: TenantId, slots: SlotRange) -> Chunks {
    slot_pages(slots, move |slot| {
        let ids = known_users(&*view, &tenant, slot)?;
        Ok(ids.chunks(PAGE_ITEMS).map(|page| ExportPage::Users(page.to_vec())).collect())
    })
}

fn item_vector_pages(shards: &Shards, shard: docent_types::ShardId, version: u64) -> Result<Chunks> {
    let vectors = shards.items(shard)?.1.serving.index(version)?.vectors()?;
    let rows = vectors.map(|(id, row)| (id.to_string(), row));
    let pages = futures::stream::iter(rows).chunks(PAGE_ITEMS);
    Ok(pages.map(|page| Ok(codec::encode(&ExportPage::Vectors(page)))).boxed())
}

impl Handler for ExportService {
    fn fetch(&self, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Chunks>> {
        let service = self.clone();
        async move {
            let export: Export = codec::decode("an export request", &body)?;
            service.open(export, deadline).await
        }
        .boxed()
    }
}
