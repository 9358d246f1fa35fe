//! Between the generated [`crate::v1`] messages and the domain. The domain never sees a prost type.
//!
//! From the wire everything is checked here (`TryFrom`, or a function where a default is needed); towards the wire nothing can fail.
//!
//! | module | owns |
//! |---|---|
//! | [`event`] | events, exact in both directions |
//! | [`user`] | profiles, consent, users |
//! | [`item`] | items |
//! | [`query`] | requests for recommendations, answers, coverage |
//! | [`catalog`] | cluster, shards, models, jobs, training settings |
//! | [`study`] | searches for settings |
//! | [`error`] | errors as details and as gRPC statuses |

pub mod catalog;
pub mod error;
pub mod event;
pub mod item;
pub mod query;
pub mod study;
pub mod user;

use docent_types::{Error, ItemId, Keyspace, Position, Result, ShardId};

/// proto3 has no absent string: empty means absent.
pub fn absent_if_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Item ids of a list field; the error names the field and the place in it.
pub fn item_ids(field: &str, ids: impl IntoIterator<Item = String>) -> Result<Vec<ItemId>> {
    let parse = |(i, id): (usize, String)| {
        ItemId::new(id).map_err(|error| Error { field: Some(format!("{field}[{i}]")), ..error })
    };
    ids.into_iter().enumerate().map(parse).collect()
}

/// The inverse of [`ShardId`]'s text form (`users/3`).
pub fn shard_id(text: &str) -> Result<ShardId> {
    let parsed = text.split_once('/').and_then(|(space, index)| {
        let keyspace = match space {
            "users" => Keyspace::Users,
            "items" => Keyspace::Items,
            _ => return None,
        };
        Some(ShardId { keyspace, index: index.parse().ok()? })
    });
    parsed.ok_or_else(|| Error::invalid("shard", "a shard is named users/N or items/N"))
}

/// A position as text: `users/3@42`.
pub fn position_text(position: Position) -> String {
    format!("{}@{}", position.shard, position.index)
}

/// The inverse of [`position_text`].
pub fn position(text: &str) -> Result<Position> {
    let bad = || Error::invalid("position", "a position is a shard and a log index: users/3@42");
    let (shard, index) = text.split_once('@').ok_or_else(bad)?;
    Ok(Position { shard: shard_id(shard)?, index: index.parse().map_err(|_| bad())? })
}

/// The wire's name of a keyspace.
pub fn keyspace_name(keyspace: Keyspace) -> &'static str {
    match keyspace {
        Keyspace::Users => "users",
        Keyspace::Items => "items",
    }
}

/// The inverse of [`keyspace_name`].
pub fn keyspace(name: &str) -> Result<Keyspace> {
    match name {
        "users" => Ok(Keyspace::Users),
        "items" => Ok(Keyspace::Items),
        _ => Err(Error::invalid("keyspace", "keyspace must be users or items")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_and_positions_survive_their_text() {
        for keyspace in [Keyspace::Users, Keyspace::Items] {
            let shard = ShardId { keyspace, index: 65_535 };
            assert_eq!(shard_id(&shard.to_string()).unwrap(), shard);
            let at = Position { shard, index: u64::MAX };
            assert_eq!(position(&position_text(at)).unwrap(), at);
        }
        for bad in ["", "users", "users/", "users/65536", "things/1", "users/-1"] {
            assert!(shard_id(bad).is_err(), "{bad:?}");
        }
        assert!(position("users/1").is_err());
    }

    #[test]
    fn a_bad_id_in_a_list_is_named_by_its_place() {
        let error = item_ids("exclude_ids", ["a".to_owned(), String::new()]).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("exclude_ids[1]"));
    }
}
