//! The catalog watch: opens with the catalog as it is, goes on with each newer one, never goes back.

use bytes::Bytes;
use docent_proto::internal::coordinator::Watch;
use docent_rpc::caller::Chunks;
use docent_runtime::Deadline;
use docent_types::catalog::Catalog;
use docent_types::{Result, codec};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use tokio::sync::watch;

/// Serves `Service::Catalog` from this coordinator's applied state: it needs no leader and no quorum.
#[derive(Clone, Debug)]
pub struct Watching {
    catalog: watch::Receiver<Arc<Catalog>>,
}

impl Watching {
    /// Serves what `catalog` shows.
    pub fn new(catalog: watch::Receiver<Arc<Catalog>>) -> Watching {
        Watching { catalog }
    }
}

impl docent_rpc::Handler for Watching {
    fn fetch(&self, body: Bytes, _deadline: Deadline) -> BoxFuture<'static, Result<Chunks>> {
        let catalog = self.catalog.clone();
        async move {
            let Watch { after } = codec::decode("a catalog watch", &body)?;
            metrics::counter!("docent_coordinator_watches_total").increment(1);
            Ok(stream(catalog, after))
        }
        .boxed()
    }
}

/// Waits while this coordinator is behind the watcher, who has the catalog at `after`; an equal one opens the stream too, so that the
/// watcher knows that it is being served. Whoever reads slowly skips catalogs in between.
fn stream(catalog: watch::Receiver<Arc<Catalog>>, after: u64) -> Chunks {
    let stream = futures::stream::unfold((catalog, after), |(mut catalog, least)| async move {
        let next = catalog.wait_for(|catalog| catalog.index >= least).await.map(|catalog| (*catalog).clone());
        // The sender ends with the process.
        let next = next.ok()?;
        Some((Ok(codec::encode_in(next.format(), &*next)), (catalog, next.index + 1)))
    });
    stream.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Arc<Catalog> {
        Arc::new(Catalog { index, ..Catalog::default() })
    }

    async fn next(chunks: &mut Chunks) -> Option<u64> {
        let chunk = chunks.next().await?.unwrap();
        Some(codec::decode::<Catalog>("a catalog", &chunk).unwrap().index)
    }

    #[tokio::test]
    async fn a_watch_opens_with_the_present_and_never_goes_back() {
        let (sender, receiver) = watch::channel(at(5));
        let mut chunks = stream(receiver, 5);
        assert_eq!(next(&mut chunks).await, Some(5));
        sender.send_replace(at(6));
        sender.send_replace(at(9));
        assert_eq!(next(&mut chunks).await, Some(9), "what was overtaken is skipped");
        drop(sender);
        assert_eq!(next(&mut chunks).await, None);
    }

    #[tokio::test]
    async fn a_coordinator_that_lags_behind_its_watcher_waits() {
        let (sender, receiver) = watch::channel(at(3));
        let mut chunks = stream(receiver, 5);
        assert!(next(&mut chunks).now_or_never().is_none());
        sender.send_replace(at(4));
        assert!(next(&mut chunks).now_or_never().is_none());
        sender.send_replace(at(6));
        assert_eq!(next(&mut chunks).await, Some(6));
    }
}
