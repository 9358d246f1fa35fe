//! The wire: the `.proto` files compiled, and the messages between members.
//!
//! | module | owns |
//! |---|---|
//! | [`v1`] | the clients' interface, as generated from `docent/v1/docent.proto` |
//! | [`transport`] | the members' envelope, as generated from `docent/internal/internal.proto` |
//! | [`internal`] | the bodies inside those envelopes |
//! | [`convert`] | between [`v1`] and the domain's types |

use bytes::Bytes;
use docent_types::{Error, Kind, Result};

pub mod convert;
pub mod internal;

/// The clients' interface.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("docent.v1");
}

/// The members' envelope.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unreachable_pub,
    reason = "generated code"
)]
pub mod transport {
    tonic::include_proto!("docent.internal");
}

/// The bytes of a message that travels outside gRPC.
pub fn to_bytes(message: &impl prost::Message) -> Bytes {
    message.encode_to_vec().into()
}

/// The message of such bytes; `what` names it in the error.
///
/// # Errors
/// `Corrupt` for bytes that are no such message.
pub fn from_bytes<M: prost::Message + Default>(what: &str, bytes: Bytes) -> Result<M> {
    M::decode(bytes).map_err(|error| Error::new(Kind::Corrupt, format!("{what} cannot be read: {error}")))
}
