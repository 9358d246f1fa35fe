//! The one binary codec of our own records and messages: a version byte (the *format*), then postcard.
//!
//! postcard is not self-describing, so a format stands for one exact set of types. A value is written in the lowest format that can
//! express it: [`encode`] writes the layouts that have not changed since [`OLDEST`]; what came later goes through [`encode_in`], and is
//! written only once the cluster has finalised that format (`Catalog::require`). A format above ours is refused by number (an older
//! binary met a newer cluster), never guessed at, and so is a variant that we do not know. Decoding is bounded by the input's length and
//! never panics. The rules for whoever changes a layout: `docs/decisions/0012-versions.md`.

use crate::error::{Error, Kind, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The highest format that this binary reads and can write.
pub const VERSION: u8 = 8;
/// The lowest that it reads, and the one that it writes where nothing needs a higher one: format 1 was never released.
pub const OLDEST: u8 = 2;

/// The bytes of `value`, whose layout is the same since [`OLDEST`].
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    encode_in(OLDEST.into(), value)
}

/// The bytes of `value` marked as `format`, the lowest one that can express it.
pub fn encode_in<T: Serialize>(format: u32, value: &T) -> Bytes {
    let format = u8::try_from(format).map_or(VERSION, |format| format.clamp(OLDEST, VERSION));
    written(format, value)
}

fn written<T: Serialize>(format: u8, value: &T) -> Bytes {
    let bytes = postcard::serialize_with_flavor(value, Buffer(vec![format]));
    Bytes::from(bytes.expect("postcard writes any value of our types to a growing buffer"))
}

/// A growing buffer that takes slices whole; postcard's own for a buffer that is there takes them byte by byte.
struct Buffer(Vec<u8>);

impl postcard::ser_flavors::Flavor for Buffer {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// The value of `bytes`; `what` names it in the error.
///
/// # Errors
/// `Unsupported` for a format or a variant that this binary does not know; `Corrupt` for bytes that are no such value.
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
            Err(error) => Err(undecodable(what, &error)),
        },
    }
}

/// postcard says the same of an unknown variant and of a value that its type refuses. What we decode is behind a checksum: such bytes
/// were written as they are, by a docent that knows more than this one.
fn undecodable(what: &str, error: &postcard::Error) -> Error {
    match error {
        postcard::Error::SerdeDeCustom => Error::new(
            Kind::Unsupported,
            format!(
                "{what} holds something that this binary does not know, in a format that it does: run a newer docent"
            ),
        ),
        _ => Error::new(Kind::Corrupt, format!("{what} cannot be decoded: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ItemCommand, UserCommand};
    use proptest::prelude::*;

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let error = decode::<u32>("user record", &[VERSION + 1, 0]).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.message.contains(&format!("format {}", VERSION + 1)), "{error}");
    }

    #[test]
    fn a_value_is_marked_with_the_lowest_format_that_can_express_it() {
        assert_eq!(encode(&7u32)[0], OLDEST);
        for (asked, written) in
            [(0, OLDEST), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, VERSION), (u32::MAX, VERSION)]
        {
            assert_eq!(encode_in(asked, &7u32)[0], written);
        }
    }

    #[test]
    fn a_variant_of_a_newer_binary_is_unknown_and_not_damage() {
        for bytes in [&[OLDEST, 99][..], &[VERSION, 99, 1, 2, 3]] {
            let user = decode::<UserCommand>("a command", bytes).unwrap_err();
            let item = decode::<ItemCommand>("a command", bytes).unwrap_err();
            for error in [user, item] {
                assert!(error.kind == Kind::Unsupported && error.message.contains("run a newer docent"), "{error}");
            }
        }
        let cut = encode(&UserCommand::Digest).slice(..1);
        assert_eq!(decode::<UserCommand>("a command", &cut).unwrap_err().kind, Kind::Corrupt);
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
