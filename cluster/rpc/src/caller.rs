//! The seam to other members. [`crate::Peers`] is the real one; tests of routing use fakes.

use bytes::Bytes;
use docent_proto::internal::Service;
use docent_runtime::Deadline;
use docent_types::{Error, NodeId, Result};
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// A stream of chunks.
pub type Chunks = BoxStream<'static, Result<Bytes, Error>>;

/// A short answer, and bytes behind it in chunks of any length, as many as the answer says.
pub struct Bulk {
    /// The answer.
    pub head: Bytes,
    /// The bytes.
    pub chunks: Chunks,
}

/// Calls other members. Nothing is tried again here: the caller knows what may be repeated.
///
/// An error's kind says what happened: `Unavailable` means that nothing was sent; `Unknown` that the connection broke after the request
/// was sent; `DeadlineExceeded` that no answer came in time. Every other kind is the callee's own.
pub trait Caller: Send + Sync + 'static {
    /// One request, one reply.
    fn call(&self, to: NodeId, service: Service, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Bytes>>;

    /// One request, a stream of replies. The deadline bounds the wait for the first; a stream that stalls is the caller's to bound.
    fn fetch(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        deadline: Deadline,
    ) -> BoxFuture<'static, Result<Chunks>>;

    /// One request, an answer and bytes behind it, which are not copied into messages. The deadline bounds the wait for the answer.
    fn read(&self, to: NodeId, service: Service, body: Bytes, deadline: Deadline) -> BoxFuture<'static, Result<Bulk>>;
}
