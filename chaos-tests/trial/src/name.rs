//! What things are called in faults, histories and reports: members, raft groups, positions.

use crate::text::{ParseError, as_text, named};
use std::fmt;
use std::str::FromStr;

named! {
    /// What a member is.
    "role" Role {
        /// Holds shards and answers clients.
        Node = "node",
        /// Holds the catalog.
        Coordinator = "coordinator",
    }
}

/// One process of a cluster: `node-2`, `coordinator-1`. Numbers begin at 1 and are the world's; a wiped member keeps its number here, though
/// the cluster gives it a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Node or coordinator.
    pub role: Role,
    /// From 1.
    pub number: u32,
}

impl Member {
    /// `node-{number}`.
    pub fn node(number: u32) -> Member {
        Member { role: Role::Node, number }
    }

    /// `coordinator-{number}`.
    pub fn coordinator(number: u32) -> Member {
        Member { role: Role::Coordinator, number }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}-{}", self.role, self.number)
    }
}

impl FromStr for Member {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Member, ParseError> {
        let bad = || ParseError::new("member", text, "node-2 or coordinator-1 was expected");
        let (role, number) = text.split_once('-').ok_or_else(bad)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or_else(bad)?;
        Ok(Member { role: role.parse().map_err(|_| bad())?, number })
    }
}

/// A raft group: a shard, or the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// `users/3`.
    Users(u16),
    /// `items/0`.
    Items(u16),
    /// `catalog`, of the coordinators.
    Catalog,
}

impl fmt::Display for Group {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Group::Users(index) => write!(to, "users/{index}"),
            Group::Items(index) => write!(to, "items/{index}"),
            Group::Catalog => to.write_str("catalog"),
        }
    }
}

impl FromStr for Group {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Group, ParseError> {
        let group = match text.split_once('/') {
            Some(("users", index)) => index.parse().ok().map(Group::Users),
            Some(("items", index)) => index.parse().ok().map(Group::Items),
            None if text == "catalog" => Some(Group::Catalog),
            _ => None,
        };
        group.ok_or_else(|| ParseError::new("group", text, "users/3, items/0 or catalog was expected"))
    }
}

/// A place in the log of a group: `users/3@42`, and with its term, where that is known, `users/3@42t7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Whose log.
    pub group: Group,
    /// The entry.
    pub index: u64,
    /// The entry's term. Clients are not told.
    pub term: Option<u64>,
}

impl fmt::Display for Position {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}@{}", self.group, self.index)?;
        self.term.map_or(Ok(()), |term| write!(to, "t{term}"))
    }
}

impl FromStr for Position {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Position, ParseError> {
        let bad = || ParseError::new("position", text, "users/3@42 was expected");
        let (group, place) = text.split_once('@').ok_or_else(bad)?;
        let (index, term) = match place.split_once('t') {
            Some((index, term)) => (index, Some(term.parse().map_err(|_| bad())?)),
            None => (place, None),
        };
        Ok(Position { group: group.parse()?, index: index.parse().map_err(|_| bad())?, term })
    }
}

as_text!(Member, Group, Position);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["node-1", "coordinator-33"] {
            assert_eq!(text.parse::<Member>().unwrap().to_string(), text);
        }
        for text in ["users/3", "items/0", "catalog"] {
            assert_eq!(text.parse::<Group>().unwrap().to_string(), text);
        }
        for text in ["users/3@42", "catalog@7t9"] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        assert!("node-0".parse::<Member>().is_err() && "shard-1".parse::<Member>().is_err());
        let json = serde_json::to_string(&Member::node(2)).unwrap();
        assert_eq!((json.as_str(), serde_json::from_str::<Member>(&json).unwrap()), ("\"node-2\"", Member::node(2)));
    }

    proptest! {
        #[test]
        fn any_other_text_is_refused_and_named(text in "\\PC{0,30}") {
            if let Err(error) = text.parse::<Position>() {
                prop_assert!(error.to_string().contains("read from"));
            }
        }
    }
}
