//! Bytes in bulk: a request, a short answer, and bytes behind it that nobody packs into messages.
//!
//! gRPC copies a message into a buffer on the one side and out of another on the other, and a call for each page costs more than the page does
//! (decision 0028). So bulk reads are HTTP/2 streams of their own on the same connections. The request is an [`Envelope`]; what comes back is the length
//! of a [`Reply`] (little-endian u32), the reply, and bytes until the stream ends. HTTP/2's windows are the credits: a reader that does not read holds
//! its sender back, which makes a chunk only when there is room for it. A stream that was given up is reset; how many bytes there are is for
//! the reply to say.

use crate::caller::Bulk;
use crate::server::Server;
use crate::wire;
use bytes::{Buf, Bytes, BytesMut};
use docent_proto::transport::{Envelope, Reply};
use docent_types::limits::MESSAGE_BYTES_MAX;
use docent_types::{Error, Kind, Result};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use std::convert::Infallible;
use std::fmt::Display;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

const PATH: &str = "/docent.internal.Bulk/Read";
/// The longest answer before the bytes.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// What says how long it is.
const LENGTH_BYTES: usize = size_of::<u32>();

/// The receiving side.
#[derive(Clone)]
pub(crate) struct BulkServer(pub(crate) Server);

impl NamedService for BulkServer {
    const NAME: &'static str = "docent.internal.Bulk";
}

impl Service<Request<Body>> for BulkServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        async move { Ok(server.answer(request).await) }.boxed()
    }
}

impl BulkServer {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (reply, chunks) = match self.open(request).await {
            Ok(Bulk { head, chunks }) => (wire::reply(Ok(head)), chunks),
            Err(error) => (wire::reply(Err(error)), stream::empty().boxed()),
        };
        let head = stream::once(futures::future::ready(Ok(framed(&reply))));
        Response::new(Body::new(StreamBody::new(head.chain(chunks).map_ok(Frame::data))))
    }

    async fn open(&self, request: Request<Body>) -> Result<Bulk> {
        if request.uri().path() != PATH {
            return Err(Error::new(Kind::Unsupported, format!("there are no bulk reads at {}", request.uri().path())));
        }
        let body = Limited::new(request.into_body(), MESSAGE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Error::new(Kind::Invalid, format!("a bulk read did not arrive: {error}")))?;
        let envelope: Envelope = docent_proto::from_bytes("the envelope of a bulk read", body.to_bytes())?;
        let (handler, body, deadline) = self.0.open(envelope)?;
        deadline.bound("opening the stream", handler.read(body, deadline)).await
    }
}

/// A reply behind its length.
fn framed(reply: &Reply) -> Bytes {
    let reply = docent_proto::to_bytes(reply);
    let length = u32::try_from(reply.len()).unwrap_or(u32::MAX);
    let mut head = BytesMut::with_capacity(LENGTH_BYTES + reply.len());
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&reply);
    head.freeze()
}

/// The asking side: opens a stream on `channel`, which leads to `to`.
pub(crate) async fn read(to: impl Display, channel: Channel, envelope: &Envelope) -> Result<Bulk> {
    let to = to.to_string();
    let broken = |status: &Status| wire::broken(&to, status);
    let request = Request::post(PATH).body(Body::new(Full::new(docent_proto::to_bytes(envelope))));
    let request = request.map_err(|error| Error::new(Kind::Internal, format!("a bulk read is no request: {error}")))?;
    let response = channel.oneshot(request).await.map_err(|error| broken(&Status::from_error(error.into())))?;
    if response.headers().contains_key("grpc-status") {
        let message = format!("node {to} runs a docent without bulk reads: upgrade it");
        return Err(Error::new(Kind::Unsupported, message));
    }
    // An empty frame ends a stream.
    let frames = response.into_body().into_data_stream();
    let mut frames = frames.try_filter(|frame| futures::future::ready(!frame.is_empty()));
    let (reply, rest) = head(&to, &mut frames).await?;
    let rest = stream::iter((!rest.is_empty()).then_some(Ok(rest)));
    let chunks = rest.chain(frames.map_err(move |status| wire::broken(&to, &status)));
    Ok(Bulk { head: wire::result(reply)?, chunks: chunks.boxed() })
}

/// The reply at the beginning of a stream, and what of the bytes came with it.
async fn head(to: &str, frames: &mut (impl Stream<Item = Result<Bytes, Status>> + Unpin)) -> Result<(Reply, Bytes)> {
    let mut got = BytesMut::new();
    loop {
        if let Some(length) = got.first_chunk() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > HEAD_BYTES_MAX {
                return Err(Error::new(Kind::Corrupt, format!("node {to} answers a bulk read with {length} bytes")));
            }
            if got.len() - LENGTH_BYTES >= length {
                got.advance(LENGTH_BYTES);
                let reply = got.split_to(length).freeze();
                return Ok((docent_proto::from_bytes("the answer to a bulk read", reply)?, got.freeze()));
            }
        }
        match frames.next().await {
            Some(Ok(frame)) => got.extend_from_slice(&frame),
            Some(Err(status)) => return Err(wire::broken(to, &status)),
            None => return Err(Error::new(Kind::Unknown, format!("node {to} ended a bulk read before its answer"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_proto::transport::reply::Outcome;

    /// What is read from frames that a peer sent.
    async fn read(frames: &[&[u8]]) -> Result<(Bytes, Bytes)> {
        let mut frames = stream::iter(frames.iter().map(|frame| Ok(Bytes::copy_from_slice(frame))).collect::<Vec<_>>());
        let (reply, rest) = head("7", &mut frames).await?;
        Ok((wire::result(reply)?, rest))
    }

    #[tokio::test]
    async fn an_answer_is_read_however_it_is_cut() {
        let whole = framed(&Reply { outcome: Some(Outcome::Body(Bytes::from_static(b"an answer"))) });
        let whole = [&whole[..], b"bytes"].concat();
        for first in 0..whole.len() {
            let (head, rest) = read(&[&whole[..first], &whole[first..]]).await.unwrap();
            // What has not come with the answer comes behind it.
            let expected = first.checked_sub(whole.len() - 5).map_or(&b"bytes"[..], |came| &b"bytes"[..came]);
            assert_eq!((&head[..], &rest[..]), (&b"an answer"[..], expected), "cut at {first}");
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused() {
        let refused = framed(&wire::reply(Err(Error::new(Kind::Conflict, "not of this cluster"))));
        let wrong: [(&[u8], Kind); 4] = [
            (&refused, Kind::Conflict),
            (&[255; 9], Kind::Corrupt),
            (&[3, 0, 0, 0, 255, 255, 255], Kind::Corrupt),
            (&refused[..9], Kind::Unknown),
        ];
        for (bytes, kind) in wrong {
            assert_eq!(read(&[bytes]).await.unwrap_err().kind, kind, "{bytes:?}");
        }
    }
}
