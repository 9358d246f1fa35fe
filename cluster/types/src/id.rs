//! Identifiers. External ids are opaque UTF-8, compared bytewise, never normalised; internal ids are numbers that are never reused.

use crate::error::{Error, Result};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $field:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates the text; the error names the field and the limit.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                let text = text.as_ref();
                let check: fn(&str) -> Result<(), String> = $check;
                check(text).map_err(|message| Error::invalid($field, message))?;
                Ok(Self(Arc::from(text)))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The shared text.
            pub fn as_arc(&self) -> &Arc<str> {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &self.0)
            }
        }
    };
}

fn length(text: &str, what: &str, bytes_max: usize) -> Result<(), String> {
    match text.len() {
        0 => Err(format!("{what} is empty; it must have 1 to {bytes_max} bytes")),
        bytes if bytes > bytes_max => Err(format!("{what} has {bytes} bytes; at most {bytes_max} are allowed")),
        _ => Ok(()),
    }
}

text_id!(
    /// A user's external id, 1 to 256 bytes. Never written to a log.
    UserId, "user_id", |text| length(text, "user id", limits::ID_BYTES_MAX)
);
text_id!(
    /// An item's external id, 1 to 256 bytes.
    ItemId, "item_id", |text| length(text, "item id", limits::ID_BYTES_MAX)
);
text_id!(
    /// A client's name for one event, 1 to 64 bytes: an event with the same id and user is the same event.
    EventId, "event_id", |text| length(text, "event id", limits::EVENT_ID_BYTES_MAX)
);
text_id!(
    /// A tenant, `[a-z0-9-]{1,63}`.
    TenantId, "tenant", |text| {
        length(text, "tenant", limits::TENANT_BYTES_MAX)?;
        match text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            true => Ok(()),
            false => Err("tenant may contain only a-z, 0-9 and '-'".to_owned()),
        }
    }
);

impl Default for TenantId {
    /// The one tenant until tenants exist.
    fn default() -> Self {
        TenantId(Arc::from("default"))
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A member of the cluster. Assigned by the coordinator, kept in the member's data directory, never reused.
    NodeId
);
number_id!(
    /// One replica of one shard: the index of the catalog entry that created it (times the replicas it created), never
    /// reused, because a raft member that returns under its old id with an empty log can elect itself.
    ReplicaId
);

/// A cluster's identity, derived from the secret that it was born with. Every frame between members carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl std::str::FromStr for ClusterId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        u128::from_str_radix(text, 16)
            .map(ClusterId)
            .map_err(|_| Error::invalid("cluster_id", "cluster id must be 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_outside_its_limits_is_refused_by_field() {
        assert_eq!(UserId::new("").unwrap_err().field.as_deref(), Some("user_id"));
        assert!(ItemId::new("x".repeat(256)).is_ok());
        let error = ItemId::new("x".repeat(257)).unwrap_err();
        assert!(error.message.contains("257"), "{error}");
        assert!(EventId::new("x".repeat(65)).is_err());
        assert!(TenantId::new("Upper").is_err());
        assert!(TenantId::new("shop-1").is_ok());
    }

    #[test]
    fn ids_order_bytewise() {
        let mut ids: Vec<ItemId> = ["b", "a\u{e9}", "a", "Z"].iter().map(|t| ItemId::new(t).unwrap()).collect();
        ids.sort();
        let texts: Vec<&str> = ids.iter().map(ItemId::as_str).collect();
        assert_eq!(texts, ["Z", "a", "a\u{e9}", "b"]);
    }
}
