//! The wire: the `.proto` files compiled, and the messages between members.
//!
//! | module | owns |
//! |---|---|
//! | [`v1`] | the clients' interface, as generated from `docent/v1/docent.proto` |
//! | [`transport`] | the members' envelope, as generated from `docent/internal/internal.proto` |
//! | [`internal`] | the bodies inside those envelopes |
//! | [`convert`] | between [`v1`] and the domain's types |

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
