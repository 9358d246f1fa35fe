//! Blobs as pages, and numbers as bytes.
use crate::{Error, TrainResponse, message::PAGE_BYTES_MAX};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Largest blob that a host accepts from another: 16 GiB, far beyond what fits a training host.
const BLOB_BYTES_MAX: u64 = 16 << 30;
const ATTEMPTS: u32 = 4;

/// The page of `blob` that starts at `offset`.
pub(crate) fn cut(blob: &Bytes, offset: u64) -> Result<TrainResponse, Error> {
    let total = blob.len();
    let start = usize::try_from(offset).ok().filter(|start| *start <= total);
    let start = start.ok_or_else(|| Error::Invalid(format!("page offset {offset} lies beyond {total}")))?;
    Ok(TrainResponse::Page { total: total as u64, bytes: blob.slice(start..total.min(start + PAGE_BYTES_MAX)) })
}

/// The page from `offset` on of `count` rows of `row_bytes`, where `fill` appends row `n`. Never holds more than a page.
pub(crate) fn of_rows(
    count: usize,
    row_bytes: usize,
    offset: u64,
    mut fill: impl FnMut(usize, &mut Vec<u8>),
) -> Result<TrainResponse, Error> {
    let row_bytes = row_bytes.max(1);
    let first = usize::try_from(offset).ok().filter(|at| at % row_bytes == 0 && at / row_bytes <= count);
    let first = first.ok_or_else(|| Error::Invalid(format!("page offset {offset} is no row's start")))? / row_bytes;
    let end = count.min(first + PAGE_BYTES_MAX / row_bytes);
    let mut bytes = Vec::with_capacity((end - first) * row_bytes);
    for row in first..end {
        fill(row, &mut bytes);
    }
    Ok(TrainResponse::Page { total: (count * row_bytes) as u64, bytes: bytes.into() })
}

/// A blob that comes page by page. One page is not copied.
#[derive(Default)]
pub(crate) struct Pages {
    first: Bytes,
    all: Vec<u8>,
}

impl Pages {
    /// Takes the next page of a blob of `total` bytes.
    pub(crate) fn push(&mut self, total: u64, page: Bytes) {
        /// What a host believes of a length before it sees the bytes: 64 MiB.
        const BELIEVED: u64 = 64 << 20;
        if self.all.is_empty() && self.first.is_empty() {
            self.first = page;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve_exact(total.min(BELIEVED) as usize);
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&page);
    }

    pub(crate) fn into_blob(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.into() }
    }
}

/// Reads a whole blob from `node` through `call` (given the offset), repeating a page that got lost.
pub(crate) async fn fetch<F>(node: u64, call: impl FnMut(u64) -> F) -> Result<Bytes, Error>
where
    F: Future<Output = Result<TrainResponse, Error>>,
{
    let mut pages = Pages::default();
    fetch_each(node, call, |_, total, page| {
        pages.push(total, page);
        Ok(())
    })
    .await?;
    Ok(pages.into_blob())
}

/// Reads a blob page by page: `take` has each with its offset and the blob's length, in order. Gives that length.
pub(crate) async fn fetch_each<F>(
    node: u64,
    mut call: impl FnMut(u64) -> F,
    mut take: impl FnMut(u64, u64, Bytes) -> Result<(), Error>,
) -> Result<u64, Error>
where
    F: Future<Output = Result<TrainResponse, Error>>,
{
    let malformed = |reason: &str| Error::Malformed { node, reason: reason.to_owned() };
    let mut offset = 0;
    loop {
        let response = retry(|| call(offset)).await?;
        let TrainResponse::Page { total, bytes } = response else { return Err(malformed("expected a page")) };
        let end = offset + bytes.len() as u64;
        if total > BLOB_BYTES_MAX || end > total {
            return Err(malformed("a page is longer than its blob, or that is too large"));
        }
        let is_empty = bytes.is_empty();
        take(offset, total, bytes)?;
        if end == total {
            return Ok(total);
        }
        if is_empty {
            return Err(malformed("an empty page before the end"));
        }
        offset = end;
    }
}

/// Repeats a call that failed on the way, a few times.
pub(crate) async fn retry<T, F>(mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut attempt = 1;
    loop {
        match call().await {
            Err(error) if error.is_retryable() && attempt < ATTEMPTS => {
                tracing::debug!(%error, attempt, "training call is repeated");
                tokio::time::sleep(Duration::from_millis(20) * 5u32.pow(attempt - 1)).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// What a host gives from an offset on: the length of the whole, and bytes.
    type Given = (u64, &'static [u8]);
    type Give = fn(u64) -> Given;

    /// The blob that `page` gives, and how often it was asked.
    async fn fetched(page: impl Fn(u64) -> Given) -> (Result<Bytes, Error>, usize) {
        let asked = AtomicUsize::new(0);
        let call = |offset| {
            asked.fetch_add(1, Ordering::Relaxed);
            let (total, bytes) = page(offset);
            async move { Ok(TrainResponse::Page { total, bytes: Bytes::from_static(bytes) }) }
        };
        let blob = fetch(7, call).await;
        (blob, asked.into_inner())
    }

    #[tokio::test]
    async fn pages_are_put_together_in_their_order() {
        const BLOB: &[u8] = b"0123456789";
        for page in 1..=11 {
            let cut = |offset: u64| (10, &BLOB[offset as usize..(offset as usize + page).min(10)]);
            let (blob, asked) = fetched(cut).await;
            assert_eq!((blob.unwrap(), asked), (Bytes::from_static(BLOB), 10usize.div_ceil(page)), "pages of {page}");
        }
        assert_eq!(fetched(|_| (0, b"")).await.0.unwrap(), Bytes::new());
    }

    #[tokio::test]
    async fn pages_that_do_not_fit_are_refused() {
        let wrong: [(&str, Give); 4] = [
            ("an empty one before the end", |offset| (9, if offset == 0 { b"1234" } else { b"" })),
            ("longer than the blob", |_| (3, b"1234")),
            ("longer than what is left", |_| (7, b"1234")),
            ("of a blob beyond all memory", |_| (u64::MAX, b"1234")),
        ];
        for (what, page) in wrong {
            let (blob, _) = fetched(page).await;
            assert!(matches!(blob, Err(Error::Malformed { node: 7, .. })), "{what}: {blob:?}");
        }
    }
}
