//! Between envelopes and the domain: errors, status codes, deadlines.

use bytes::Bytes;
use docent_proto::internal::Service;
use docent_proto::transport::{Envelope, Reply, reply::Outcome};
use docent_runtime::Deadline;
use docent_types::{Error, Kind, Result, codec};
use std::time::Duration;
use tonic::{Code, Status};

use crate::identity::Identity;

/// Largest HTTP/2 frame: a page of a training blob takes one, instead of the 9 that 16 KiB would make, and a chunk of a part two.
pub(crate) const FRAME_BYTES_MAX: u32 = 512 << 10;

/// The envelope of a request.
pub(crate) fn envelope(identity: &Identity, service: Service, body: Bytes, deadline: Deadline) -> Envelope {
    let deadline_ms = u32::try_from(deadline.remaining().as_millis()).unwrap_or(u32::MAX);
    Envelope { cluster_id: identity.cluster_bytes(), service: service as u32, deadline_ms, body }
}

/// The callee's view of the caller's deadline.
pub(crate) fn deadline(envelope: &Envelope) -> Deadline {
    Deadline::after(Duration::from_millis(u64::from(envelope.deadline_ms)))
}

/// A result as a reply.
pub(crate) fn reply(result: Result<Bytes>) -> Reply {
    let outcome = match result {
        Ok(body) => Outcome::Body(body),
        Err(error) => Outcome::Error(codec::encode(&error)),
    };
    Reply { outcome: Some(outcome) }
}

/// A reply as a result.
pub(crate) fn result(reply: Reply) -> Result<Bytes> {
    match reply.outcome {
        Some(Outcome::Body(body)) => Ok(body),
        Some(Outcome::Error(bytes)) => Err(codec::decode("an error reply", &bytes).unwrap_or_else(|error| error)),
        None => Err(Error::new(Kind::Corrupt, "a reply has neither body nor error")),
    }
}

/// What a broken call means: `Unavailable` only where nothing can have been sent.
pub(crate) fn broken(to: impl std::fmt::Display, status: &Status) -> Error {
    let mut source = std::error::Error::source(status);
    let mut never_connected = false;
    while let Some(error) = source {
        never_connected |= error.is::<tonic::ConnectError>();
        source = error.source();
    }
    match status.code() {
        _ if never_connected => Error::new(Kind::Unavailable, format!("node {to} is unreachable")),
        Code::DeadlineExceeded | Code::Cancelled => {
            Error::new(Kind::DeadlineExceeded, format!("node {to} did not answer in time"))
        }
        Code::ResourceExhausted | Code::OutOfRange => {
            Error::new(Kind::Invalid, format!("a message to node {to} is too large: {}", status.message()))
        }
        _ => Error::new(Kind::Unknown, format!("the connection to node {to} broke: {}", status.message())),
    }
}
