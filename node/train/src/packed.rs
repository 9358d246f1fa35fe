//! `Bytes` as serde bytes: one length and one copy, not a sequence of numbers (and no feature of the bytes crate that would compile it twice in
//! the workspace). What is decoded [`within`] a message is not copied at all.
use bytes::Bytes;
use serde::{Deserializer, Serializer, de};
use std::cell::RefCell;

thread_local! {
    /// What this thread decodes from.
    static MESSAGE: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Runs `decode` on `message`'s bytes; fields that lie in it become slices of it, and keep all of it alive.
pub fn within<T>(message: &Bytes, decode: impl FnOnce(&[u8]) -> T) -> T {
    /// Puts back what was there, however `decode` ends.
    struct Restore(Option<Bytes>);
    impl Drop for Restore {
        fn drop(&mut self) {
            MESSAGE.set(self.0.take());
        }
    }
    let _restore = Restore(MESSAGE.replace(Some(message.clone())));
    decode(message)
}

/// A slice of what is decoded from, or else a copy.
fn shared(bytes: &[u8]) -> Bytes {
    MESSAGE.with_borrow(|message| {
        let inside = |message: &&Bytes| {
            let (all, part) = (message.as_ptr_range(), bytes.as_ptr_range());
            !part.is_empty() && all.start <= part.start && part.end <= all.end
        };
        message
            .as_ref()
            .filter(inside)
            .map_or_else(|| Bytes::copy_from_slice(bytes), |message| message.slice_ref(bytes))
    })
}

/// For `#[serde(with)]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// For `#[serde(with)]`.
///
/// # Errors
/// The deserializer's.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Bytes;
        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("bytes")
        }
        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(shared(bytes))
        }
        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }
    }
    deserializer.deserialize_byte_buf(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Message {
        before: u64,
        #[serde(with = "super")]
        rows: Bytes,
        #[serde(with = "super")]
        none: Bytes,
    }

    #[test]
    fn fields_of_a_shared_message_are_slices_of_it_and_others_are_copies() {
        let message = Message { before: 7, rows: Bytes::from_static(b"rows"), none: Bytes::new() };
        let bytes = Bytes::from(postcard::to_stdvec(&message).unwrap());
        let is_inside = |rows: &Bytes| bytes.as_ptr_range().contains(&rows.as_ptr());
        let shared: Message = within(&bytes, |bytes| postcard::from_bytes(bytes).unwrap());
        assert!(is_inside(&shared.rows));
        // Of another message meanwhile, and once it is over.
        let other = Bytes::copy_from_slice(&bytes);
        let inner: Message = within(&other, |_| postcard::from_bytes(&bytes).unwrap());
        let copied: Message = postcard::from_bytes(&bytes).unwrap();
        for message in [&inner, &copied] {
            assert!(!is_inside(&message.rows));
        }
        for message in [shared, inner, copied] {
            assert_eq!((message.before, &message.rows[..], message.none.len()), (7, &b"rows"[..], 0));
        }
    }
}
