//! Blobs on their way between hosts: what they are read from, and how they are read.
use crate::{
    Error,
    message::{PAGE_BYTES_MAX, Reading},
};
use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, stream};
use std::{ops::Range, sync::Arc, time::Duration};
use zerocopy::IntoBytes;

/// Largest blob that a host accepts from another: 16 GiB, far beyond what fits a training host.
const BLOB_BYTES_MAX: u64 = 16 << 30;
const ATTEMPTS: u32 = 4;

/// Appends some of a blob's rows.
type Pack = Box<dyn Fn(Range<usize>, &mut Vec<u8>) -> Result<(), Error> + Send + Sync>;

/// What a blob is read from: bytes that are there, rows that are packed a page at a time as they are sent, or listed rows of a table, which are sent from
/// where they lie.
pub(crate) enum Content {
    Whole(Bytes),
    Rows { count: usize, row_bytes: usize, pack: Pack },
    Table { table: Bytes, row_bytes: usize, list: Arc<Vec<u32>> },
}

/// Rows that others read while they stay where they are.
struct Shared(Arc<Vec<f32>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Rows as bytes, where they lie.
pub(crate) fn shared(rows: Arc<Vec<f32>>) -> Bytes {
    Bytes::from_owner(Shared(rows))
}

/// Neighbouring rows of a table that are sent without a copy: fewer bytes are copied faster than sent apart.
const RUN_BYTES_MIN: usize = 16 << 10;

impl Content {
    /// `count` rows of `row_bytes`, where `push` appends row `n`.
    pub(crate) fn of_rows(
        count: usize,
        row_bytes: usize,
        push: impl Fn(usize, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let pack = move |rows: Range<usize>, bytes: &mut Vec<u8>| {
            rows.for_each(|row| push(row, bytes));
            Ok(())
        };
        Self::Rows { count, row_bytes, pack: Box::new(pack) }
    }

    /// The rows of `list`, of `dim` values each; zeros for those that are beyond the table.
    pub(crate) fn of_table(rows: Arc<Vec<f32>>, dim: usize, list: Arc<Vec<u32>>) -> Self {
        Self::Table { table: shared(rows), row_bytes: dim * size_of::<f32>(), list }
    }

    fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Rows { count, row_bytes, .. } => count * row_bytes,
            Self::Table { list, row_bytes, .. } => list.len() * row_bytes,
        }
    }

    /// The page that starts at `offset`.
    fn page(&self, offset: usize) -> Result<Bytes, Error> {
        match self {
            Self::Whole(bytes) => Ok(bytes.slice(offset..bytes.len().min(offset + PAGE_BYTES_MAX))),
            Self::Rows { count, row_bytes, pack } => {
                let first = offset / row_bytes;
                let end = (*count).min(first + (PAGE_BYTES_MAX / row_bytes).max(1));
                let mut bytes = Vec::with_capacity((end - first) * row_bytes);
                pack(first..end, &mut bytes)?;
                Ok(Bytes::from(bytes).slice(offset % row_bytes..))
            }
            Self::Table { table, row_bytes, list } => {
                Ok(table_page(table, *row_bytes, &list[offset / row_bytes..]).slice(offset % row_bytes..))
            }
        }
    }

    /// All of it at once, for a reader on this host.
    pub(crate) fn whole(self) -> Result<Bytes, Error> {
        match self {
            Self::Whole(bytes) => Ok(bytes),
            Self::Rows { count, row_bytes, pack } => {
                let mut bytes = Vec::with_capacity(count * row_bytes);
                pack(0..count, &mut bytes)?;
                Ok(bytes.into())
            }
            Self::Table { table, row_bytes, list } => {
                let mut bytes = Vec::with_capacity(list.len() * row_bytes);
                list.iter().for_each(|row| push_row(&table, row_bytes, *row, &mut bytes));
                Ok(bytes.into())
            }
        }
    }

    /// What is there from `offset` on, page by page. Never holds more than a page beside what it reads from, and lets go of that with the last one.
    pub(crate) fn read(self, offset: u64) -> Result<Reading, Error> {
        let len = self.len();
        let start = usize::try_from(offset).ok().filter(|start| *start <= len);
        let start = start.ok_or_else(|| Error::Invalid(format!("offset {offset} lies beyond {len} bytes")))?;
        // What is wrong with the request is said before the stream.
        let first = self.page(start)?;
        let next = start + first.len();
        let rest = stream::unfold((next < len).then_some((self, next)), |from| async move {
            let (content, offset) = from?;
            let page = content.page(offset);
            let next = offset + page.as_ref().map_or(0, Bytes::len);
            let goes_on = offset < next && next < content.len();
            Some((page, goes_on.then_some((content, next))))
        });
        let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
        Ok(Reading { bytes: (len - start) as u64, pages: first.chain(rest).boxed() })
    }
}

/// Appends a row of a table.
fn push_row(table: &[u8], row_bytes: usize, row: u32, bytes: &mut Vec<u8>) {
    match table.get((row as usize).saturating_mul(row_bytes)..).and_then(|rest| rest.get(..row_bytes)) {
        Some(row) => bytes.extend_from_slice(row),
        None => bytes.resize(bytes.len() + row_bytes, 0),
    }
}

/// The rows that `list` begins with, a page of them at most: neighbours from where they lie, others copied until there are neighbours again.
fn table_page(table: &Bytes, row_bytes: usize, list: &[u32]) -> Bytes {
    let most = (PAGE_BYTES_MAX / row_bytes).max(1);
    let list = &list[..list.len().min(most)];
    let runs = || list.chunk_by(|row, next| row.checked_add(1) == Some(*next));
    let lies_there = |run: &[u32]| {
        let end = run.last().map_or(0, |last| (*last as usize + 1).saturating_mul(row_bytes));
        end <= table.len() && run.len() * row_bytes >= RUN_BYTES_MIN
    };
    match runs().next() {
        Some(run) if lies_there(run) => {
            let start = run[0] as usize * row_bytes;
            table.slice(start..start + run.len() * row_bytes)
        }
        _ => {
            let copied: usize = runs().take_while(|run| !lies_there(run)).map(<[u32]>::len).sum();
            let mut bytes = Vec::with_capacity(copied * row_bytes);
            list[..copied].iter().for_each(|row| push_row(table, row_bytes, *row, &mut bytes));
            bytes.into()
        }
    }
}

/// A blob that comes piece by piece. One piece is not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: Vec<u8>,
}

impl Pieces {
    /// Takes the next piece of a blob of `total` bytes.
    fn push(&mut self, total: u64, piece: Bytes) {
        /// What a host believes of a length before it sees the bytes: 64 MiB.
        const BELIEVED: u64 = 64 << 20;
        if self.all.is_empty() && self.first.is_empty() {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve_exact(total.min(BELIEVED) as usize);
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&piece);
    }

    fn into_blob(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.into() }
    }
}

/// Reads a whole blob from `node` through `open` (given the offset).
pub(crate) async fn fetch<F>(node: u64, open: impl FnMut(u64) -> F) -> Result<Bytes, Error>
where
    F: Future<Output = Result<Reading, Error>>,
{
    let mut pieces = Pieces::default();
    fetch_each(node, 1, open, |_, total, piece| {
        pieces.push(total, piece);
        Ok(())
    })
    .await?;
    Ok(pieces.into_blob())
}

/// Reads a blob of units of `unit` bytes as it comes: `take` has whole units with their offset and the blob's length, in order. Where a stream breaks, the
/// rest is asked for, a few times if nothing comes. Gives the blob's length.
pub(crate) async fn fetch_each<F>(
    node: u64,
    unit: usize,
    mut open: impl FnMut(u64) -> F,
    mut take: impl FnMut(u64, u64, Bytes) -> Result<(), Error>,
) -> Result<u64, Error>
where
    F: Future<Output = Result<Reading, Error>>,
{
    let (mut offset, mut attempt) = (0, 1);
    loop {
        let before = offset;
        let error = match fetch_on(node, unit, open(offset), &mut offset, &mut take).await {
            Err(error) if error.is_retryable() => error,
            outcome => return outcome,
        };
        attempt = if offset > before { 1 } else { attempt + 1 };
        pause(error, attempt).await?;
    }
}

/// Takes what comes of one stream, which starts at `offset`; moves that on.
async fn fetch_on(
    node: u64,
    unit: usize,
    open: impl Future<Output = Result<Reading, Error>>,
    offset: &mut u64,
    take: &mut impl FnMut(u64, u64, Bytes) -> Result<(), Error>,
) -> Result<u64, Error> {
    let malformed = |reason: &str| Error::Malformed { node, reason: reason.to_owned() };
    let Reading { bytes, mut pages } = open.await?;
    let total = offset.checked_add(bytes).filter(|total| *total <= BLOB_BYTES_MAX);
    let total = total.ok_or_else(|| malformed("a blob is too large"))?;
    let mut rest = BytesMut::new();
    while let Some(page) = pages.next().await {
        let mut page = match page {
            // All is there: however the stream ends.
            Err(_) if *offset == total => break,
            page => page?,
        };
        if page.len() as u64 + rest.len() as u64 > total - *offset {
            return Err(malformed("more bytes than were announced"));
        }
        // A unit that comes in two pieces is put together; all others are taken as they lie.
        if !rest.is_empty() {
            rest.extend_from_slice(&page.split_to(page.len().min(unit - rest.len())));
        }
        if rest.len() == unit {
            take(*offset, total, rest.split().freeze())?;
            *offset += unit as u64;
        }
        let whole = page.split_to(page.len() - page.len() % unit);
        if whole.has_remaining() {
            let at = std::mem::replace(offset, *offset + whole.len() as u64);
            take(at, total, whole)?;
        }
        rest.extend_from_slice(&page);
    }
    if *offset == total { Ok(total) } else { Err(malformed("fewer bytes than were announced")) }
}

/// Repeats a call that failed on the way, a few times.
pub(crate) async fn retry<T, F>(mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut attempt = 1;
    loop {
        let error = match call().await {
            Err(error) if error.is_retryable() => error,
            outcome => return outcome,
        };
        attempt += 1;
        pause(error, attempt).await?;
    }
}

/// Waits before the given attempt; fails with what ended the one before, when that was the last.
async fn pause(error: Error, attempt: u32) -> Result<(), Error> {
    if attempt > ATTEMPTS {
        return Err(error);
    }
    tracing::debug!(%error, attempt, "training call is repeated");
    let wait = Duration::from_millis(20) * 5u32.pow(attempt.saturating_sub(2));
    tokio::time::sleep(wait).await; // nothing tells when a peer can be reached again
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const BLOB: &[u8] = b"0123456789";

    fn broken() -> Error {
        Error::Peer { node: 7, reason: "broken".into() }
    }

    /// A stream that announces so many bytes and brings these pieces.
    fn reading(bytes: usize, pieces: Vec<Result<&'static [u8], Error>>) -> Reading {
        let pages = pieces.into_iter().map(|piece| piece.map(Bytes::from_static)).collect::<Vec<_>>();
        Reading { bytes: bytes as u64, pages: stream::iter(pages).boxed() }
    }

    /// What is taken of units of two bytes, and from where streams were opened.
    async fn taken(open: impl Fn(usize) -> Result<Reading, Error>) -> (Result<Vec<u8>, Error>, Vec<u64>) {
        let (asked, mut got) = (RefCell::new(Vec::new()), Vec::new());
        let call = |offset: u64| {
            asked.borrow_mut().push(offset);
            let opened = open(offset as usize);
            async move { opened }
        };
        let take = |offset: u64, total: u64, bytes: Bytes| {
            assert_eq!((offset, total, bytes.len() % 2), (got.len() as u64, 10, 0));
            got.extend_from_slice(&bytes);
            Ok(())
        };
        let outcome = fetch_each(7, 2, call, take).await;
        (outcome.map(|total| assert_eq!(total, 10)).map(|()| got), asked.into_inner())
    }

    #[tokio::test]
    async fn rows_are_whole_however_a_stream_is_cut() {
        for piece in 1..=10 {
            let (got, _) = taken(|_| Ok(reading(10, BLOB.chunks(piece).map(Ok).collect()))).await;
            assert_eq!(got.unwrap(), BLOB, "pieces of {piece}");
            let whole = fetch(7, |_| async move { Ok(reading(10, BLOB.chunks(piece).map(Ok).collect())) }).await;
            assert_eq!(whole.unwrap(), BLOB, "pieces of {piece}");
        }
        assert_eq!(fetch(7, |_| async { Ok(reading(0, vec![])) }).await.unwrap(), Bytes::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_goes_on_with_the_row_in_which_a_stream_broke() {
        // Of the last row one byte comes at most.
        let until = |offset: usize| if offset == 8 { 9 } else { offset + 3 };
        let breaking = |offset: usize| Ok(reading(10 - offset, vec![Ok(&BLOB[offset..until(offset)]), Err(broken())]));
        let (got, asked) = taken(breaking).await;
        assert_eq!((got, asked), (Err(broken()), vec![0, 2, 4, 6, 8, 8, 8, 8]));
        let (got, asked) = taken(|offset| match offset {
            6 => Ok(reading(4, vec![Ok(&BLOB[6..]), Err(broken())])),
            offset => breaking(offset),
        })
        .await;
        assert_eq!((got.unwrap(), asked), (BLOB.to_vec(), vec![0, 2, 4, 6]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_never_answers_is_asked_a_few_times() {
        let (got, asked) = taken(|_| Err(broken())).await;
        assert_eq!((got, asked.len()), (Err(broken()), ATTEMPTS as usize));
        let (got, asked) = taken(|_| Err(Error::NotOpen { job: 3 })).await;
        assert_eq!((got, asked.len()), (Err(Error::NotOpen { job: 3 }), 1));
    }

    #[tokio::test]
    async fn streams_that_do_not_fit_are_refused() {
        let wrong: [(&str, usize, &'static [u8]); 4] = [
            ("shorter than announced", 10, b"12345678"),
            ("longer than announced", 6, b"12345678"),
            ("half a row", 10, b"1234567"),
            ("beyond all memory", usize::MAX, b"12"),
        ];
        for (what, bytes, piece) in wrong {
            let got = fetch_each(7, 2, |_| async { Ok(reading(bytes, vec![Ok(piece)])) }, |_, _, _| Ok(())).await;
            assert!(matches!(got, Err(Error::Malformed { node: 7, .. })), "{what}: {got:?}");
        }
    }

    /// All pages from `offset` on.
    async fn pages(content: Content, offset: u64) -> Vec<u8> {
        let mut reading = content.read(offset).unwrap();
        let mut got = Vec::new();
        while let Some(page) = reading.pages.next().await {
            let page = page.unwrap();
            assert!(!page.is_empty() && page.len() <= PAGE_BYTES_MAX);
            got.extend_from_slice(&page);
        }
        assert_eq!(reading.bytes as usize, got.len());
        got
    }

    #[tokio::test]
    async fn content_is_read_from_any_offset() {
        let count = PAGE_BYTES_MAX / 8 + 5;
        let content = || Content::of_rows(count, 16, |row, bytes| bytes.extend((row as u128).to_le_bytes()));
        let whole = content().whole().unwrap();
        assert_eq!(whole.len(), count * 16);
        for offset in [0, 1, 15, 16, 17, PAGE_BYTES_MAX, whole.len() - 17, whole.len() - 1, whole.len()] {
            assert_eq!(pages(content(), offset as u64).await, whole[offset..], "{offset}");
            assert_eq!(pages(Content::Whole(whole.clone()), offset as u64).await, whole[offset..], "{offset}");
        }
        for offset in [whole.len() as u64 + 1, u64::MAX] {
            assert!(matches!(content().read(offset), Err(Error::Invalid(_))), "{offset}");
        }
    }

    #[tokio::test]
    async fn rows_of_a_table_are_sent_as_they_are_listed() {
        const DIM: usize = 64;
        let row = |row: u32| (0..DIM).map(move |at| if row < 4_000 { row as f32 + at as f32 / 64.0 } else { 0.0 });
        let table: Arc<Vec<f32>> = Arc::new((0..4_000).flat_map(row).collect());
        // Long runs, short ones, single rows, one that comes twice, none, and runs that lead beyond the table.
        let lists = [
            (0..4_000).collect::<Vec<u32>>(),
            (0..4_000).filter(|row| row % 97 > 1 && !(800..900).contains(row)).collect(),
            (0..4_000).step_by(2).chain([7, 7]).chain(100..1_500).collect(),
            (3_990..4_100).chain([u32::MAX, 5, u32::MAX]).collect(),
            vec![],
        ];
        for list in lists {
            let expected: Vec<u8> = list.iter().flat_map(|at| row(*at)).flat_map(f32::to_le_bytes).collect();
            let list = Arc::new(list);
            let content = || Content::of_table(table.clone(), DIM, list.clone());
            assert_eq!(pages(content(), 0).await, expected);
            let middle = expected.len() / 3;
            assert_eq!(pages(content(), middle as u64).await, expected[middle..]);
            assert_eq!(content().whole().unwrap(), expected);
        }
        assert_eq!(Arc::strong_count(&table), 1, "what was sent is let go of");
    }
}
