//! The one error that crosses process boundaries.
//!
//! Each component has its own enum; at its boundary that becomes an [`Error`] whose [`Kind`] decides the status code
//! and what the caller may do next. The message names the thing (user-supplied field, shard, node, file) and the way out.

use serde::{Deserialize, Serialize};

/// What a caller can do about an error. The wire carries the name; unknown names decode as [`Kind::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Kind {
    /// The request can never succeed as it is (HTTP 400).
    Invalid,
    /// The named user, item, model or job does not exist (404).
    NotFound,
    /// The state of the cluster or of the thing forbids it now; the message says what to do first (409).
    Conflict,
    /// The token is missing or wrong (401).
    Unauthenticated,
    /// This replica does not lead the shard; ask the hinted one (503, retried inside the cluster).
    NotLeader,
    /// The shard is not on that node, or the caller's map is stale (503, retried inside the cluster).
    WrongShard,
    /// Nothing was done; the same request may succeed elsewhere or later (503).
    Unavailable,
    /// Back-pressure: nothing was done; wait `retry_after_ms` (429).
    Overloaded,
    /// The deadline passed before an answer; a read may be repeated (504).
    DeadlineExceeded,
    /// A write was submitted and its outcome is not known; repeat it only under the same id (504).
    Unknown,
    /// Reserved in the interface and not built yet (501).
    Unsupported,
    /// Stored bytes failed their checksum or their decoding (500).
    Corrupt,
    /// A defect (500).
    Internal,
}

impl Kind {
    /// The name on the wire and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid",
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Unauthenticated => "unauthenticated",
            Kind::NotLeader => "not_leader",
            Kind::WrongShard => "wrong_shard",
            Kind::Unavailable => "unavailable",
            Kind::Overloaded => "overloaded",
            Kind::DeadlineExceeded => "deadline_exceeded",
            Kind::Unknown => "unknown",
            Kind::Unsupported => "unsupported",
            Kind::Corrupt => "corrupt",
            Kind::Internal => "internal",
        }
    }

    /// The inverse of [`Kind::name`].
    pub fn from_name(name: &str) -> Kind {
        use Kind::*;
        [
            Invalid,
            NotFound,
            Conflict,
            Unauthenticated,
            NotLeader,
            WrongShard,
            Unavailable,
            Overloaded,
            DeadlineExceeded,
            Unknown,
            Unsupported,
            Corrupt,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
        .unwrap_or(Internal)
    }

    /// Whether nothing was done and another attempt, perhaps on another node, may succeed.
    pub fn is_retryable(self) -> bool {
        matches!(self, Kind::NotLeader | Kind::WrongShard | Kind::Unavailable | Kind::Overloaded)
    }
}

/// An error as a client sees it: `{kind, message, field?, retry_after_ms?}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller can do.
    pub kind: Kind,
    /// What failed and what to do, for a person; lower case, no full stop.
    pub message: String,
    /// The user-supplied field at fault, as a path (`events[3].user_id`).
    pub field: Option<String>,
    /// How long to wait before the same request, with [`Kind::Overloaded`], and with [`Kind::Unavailable`] where asking another node
    /// would not help.
    pub retry_after_ms: Option<u32>,
    /// The node that leads or hosts the shard, with [`Kind::NotLeader`] and [`Kind::WrongShard`].
    pub hint: Option<crate::id::NodeId>,
}

/// Result with the boundary error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), field: None, retry_after_ms: None, hint: None }
    }

    /// A bad user-supplied field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Error {
        Error { field: Some(field.into()), ..Error::new(Kind::Invalid, message) }
    }

    /// Prefixes the field with where it stands (`events[3]` + `user_id`).
    #[must_use]
    pub fn at(mut self, prefix: &str) -> Error {
        self.field = Some(match self.field {
            Some(field) => format!("{prefix}.{field}"),
            None => prefix.to_owned(),
        });
        self
    }

    /// Adds the node to ask instead.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<crate::id::NodeId>) -> Error {
        self.hint = hint;
        self
    }

    /// Nothing was done, and no other node would do it: come back after `retry_after_ms`.
    pub fn unavailable_for(message: impl Into<String>, retry_after_ms: u32) -> Error {
        Error { retry_after_ms: Some(retry_after_ms), ..Error::new(Kind::Unavailable, message) }
    }

    /// Back-pressure: nothing was done, come back after `retry_after_ms`.
    pub fn overloaded(message: impl Into<String>, retry_after_ms: u32) -> Error {
        Error { retry_after_ms: Some(retry_after_ms), ..Error::new(Kind::Overloaded, message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_its_name() {
        for kind in [Kind::Invalid, Kind::Unknown, Kind::NotLeader, Kind::Corrupt, Kind::Unsupported, Kind::Internal] {
            assert_eq!(Kind::from_name(kind.name()), kind);
        }
        assert_eq!(Kind::from_name("from a newer version"), Kind::Internal);
    }
}
