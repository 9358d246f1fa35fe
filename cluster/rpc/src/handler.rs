//! The seam on the receiving side: one handler a service.

use crate::caller::{Bulk, Chunks};
use bytes::Bytes;
use docent_runtime::Deadline;
use docent_types::{Error, Kind, Result};
use futures::future::BoxFuture;

/// Serves one service. The envelope was fenced and bounded before.
pub trait Handler: Send + Sync + 'static {
    /// One request, one reply.
    fn call(&self, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Bytes>> {
        let _unused = (body, deadline);
        Box::pin(async { Err(Error::new(Kind::Unsupported, "this service takes no single calls")) })
    }

    /// One request, a stream of chunks of at most 1 MiB.
    fn fetch(&self, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Chunks>> {
        let _unused = (body, deadline);
        Box::pin(async { Err(Error::new(Kind::Unsupported, "this service has no streams")) })
    }

    /// One request, an answer and bytes behind it, in chunks of at most 512 KiB.
    fn read(&self, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Bulk>> {
        let _unused = (body, deadline);
        Box::pin(async { Err(Error::new(Kind::Unsupported, "this service has no bulk reads")) })
    }
}
