//! The session token: what a client has seen, so that no later answer goes back behind it.

use docent_types::{Error, Position, Result, codec};
use serde::{Deserialize, Serialize};

/// What a client has seen. Opaque to it: hexadecimal of a versioned record.
///
/// The position is held without help, because user state is read linearizably at the leader; it is kept for later, weaker reads. The epoch
/// makes a node that has not heard of an activation yet wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The newest state of the user that went into an answer.
    pub(crate) user: Option<Position>,
    /// The newest activation.
    pub(crate) epoch: u64,
}

/// Far above any token of ours.
const TOKEN_BYTES_MAX: usize = 128;

impl Session {
    /// Reads a client's token.
    pub(crate) fn parse(token: Option<&str>) -> Result<Session> {
        let Some(token) = token else { return Ok(Session::default()) };
        let bad = || Error::invalid("session", "session is not a token of an earlier answer; leave it out");
        if token.len() > TOKEN_BYTES_MAX || !token.len().is_multiple_of(2) || !token.is_ascii() {
            return Err(bad());
        }
        let byte = |i: usize| u8::from_str_radix(&token[i..i + 2], 16).ok();
        let bytes: Option<Vec<u8>> = (0..token.len()).step_by(2).map(byte).collect();
        codec::decode("session", &bytes.ok_or_else(bad)?).map_err(|_| bad())
    }

    /// What the client has seen after an answer from these.
    pub(crate) fn after(self, user: Option<Position>, epoch: u64) -> Session {
        let user = match (self.user, user) {
            (Some(old), Some(new)) if old.shard == new.shard => {
                Some(Position { index: old.index.max(new.index), ..new })
            }
            (old, new) => new.or(old),
        };
        Session { user, epoch: self.epoch.max(epoch) }
    }

    /// The token.
    pub(crate) fn token(self) -> String {
        codec::encode(&self).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_types::{Keyspace, ShardId};
    use proptest::prelude::*;

    fn at(shard: u16, index: u64) -> Option<Position> {
        Some(Position { shard: ShardId { keyspace: Keyspace::Users, index: shard }, index })
    }

    #[test]
    fn a_session_never_goes_back() {
        let session = Session { user: at(1, 9), epoch: 4 };
        assert_eq!(session.after(at(1, 7), 3), session);
        assert_eq!(session.after(at(2, 7), 5), Session { user: at(2, 7), epoch: 5 });
        assert_eq!(session.after(None, 0), session);
        assert_eq!(Session::parse(Some(&session.token())).unwrap(), session);
    }

    proptest! {
        #[test]
        fn any_other_text_is_refused_by_field(token in "\\PC{0,140}") {
            if let Err(error) = Session::parse(Some(&token)) {
                prop_assert_eq!(error.field.as_deref(), Some("session"));
            }
        }
    }
}
