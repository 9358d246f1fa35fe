//! Numbers as they lie in the bytes between hosts.
use crate::Error;
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use zerocopy::IntoBytes;

// What travels is little-endian, as every machine is that Docent is built for: numbers are copied as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "rows travel as they lie in memory, which must be little-endian");

pub(crate) fn push_floats(row: &[f32], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(row.as_bytes());
}

pub(crate) fn pack_floats(values: &[f32]) -> Bytes {
    Bytes::copy_from_slice(values.as_bytes())
}

/// Fills `row` from its bytes; where there are too few, the rest stays as it is.
pub(crate) fn read_floats(bytes: &[u8], row: &mut [f32]) {
    let row = row.as_mut_bytes();
    let len = row.len().min(bytes.len());
    row[..len].copy_from_slice(&bytes[..len]);
}

/// All whole numbers in `bytes`.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    let whole = bytes.as_chunks::<4>().0.as_flattened();
    let mut values = vec![0.0; whole.len() / 4];
    read_floats(whole, &mut values);
    values
}

pub(crate) fn numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four))
}

pub(crate) fn pack_doubles(values: &[f64]) -> Bytes {
    Bytes::copy_from_slice(values.as_bytes())
}

pub(crate) fn doubles(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|eight| f64::from_le_bytes(*eight)).collect()
}

/// A blob that begins with `head`; there is room for so many bytes behind it.
pub(crate) fn headed<T: Serialize>(head: &T, room: usize) -> Result<Vec<u8>, Error> {
    let mut blob = postcard::to_stdvec(head).map_err(|error| Error::Internal(error.to_string()))?;
    blob.reserve_exact(room);
    Ok(blob)
}

/// The head of such a blob and what is behind it.
pub(crate) fn beheaded<T: DeserializeOwned>(blob: &Bytes) -> Option<(T, Bytes)> {
    let (head, rest) = postcard::take_from_bytes(blob).ok()?;
    Some((head, blob.slice(blob.len() - rest.len()..)))
}

/// Takes fields off the front of bytes from outside; none when they are too few.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }
}
