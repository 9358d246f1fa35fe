//! The one binary codec of our own records and messages: a version byte, then postcard.
//!
//! postcard is not self-describing, so a version stands for one exact set of types. A version above ours is refused by number
//! (an older binary met a newer cluster), never guessed at. Decoding is bounded by the input's length and never panics.

use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that this binary writes, and the highest that it reads.
pub const VERSION: u8 = 2;
/// The lowest that it reads: version 1 was never released.
pub const OLDEST: u8 = 2;

/// The bytes of `value` under [`VERSION`].
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    let bytes = postcard::to_extend(value, vec![VERSION]);
    Bytes::from(bytes.expect("postcard writes any value of our types to a growing buffer"))
}

/// The value of `bytes`; `what` names it in the error.
pub fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        None => Err(Error::new(Kind::Corrupt, format!("{what} is empty"))),
        Some((&version, _)) if !(OLDEST..=VERSION).contains(&version) => {
            let way_out = if version > VERSION { "run a newer docent" } else { "start with empty data directories" };
            let message = format!("{what} has format {version}; this binary reads {OLDEST} to {VERSION}: {way_out}");
            Err(Error::new(Kind::Unsupported, message))
        }
        Some((_, body)) => match postcard::take_from_bytes::<T>(body) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(Error::new(Kind::Corrupt, format!("{what} has {} bytes too many", rest.len()))),
            Err(error) => Err(Error::new(Kind::Corrupt, format!("{what} cannot be decoded: {error}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let error = decode::<u32>("user record", &[VERSION + 1, 0]).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.message.contains(&format!("format {}", VERSION + 1)), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<crate::command::UserCommand>("command", &bytes);
            let _ = decode::<crate::catalog::Catalog>("catalog", &bytes);
        }

        #[test]
        fn what_was_written_is_read(texts in proptest::collection::vec(".{0,20}", 0..10)) {
            prop_assert_eq!(decode::<Vec<String>>("texts", &encode(&texts)).unwrap(), texts);
        }
    }
}
