//! From a source to the cluster: one reader thread, a few batches in flight, retries under the same ids.

use crate::failure::{Failure, Result};
use crate::import::deliver::{Deliver, Outcome};
use crate::import::report::{Counts, Part, Report};
use crate::import::row::{Reason, Row, Source};
use crate::show::{self, Progress};
use docent_types::limits::BATCH_MAX;
use docent_types::{Error, Kind};
use futures::stream::{FuturesUnordered, StreamExt};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes of a batch, half of what a request may have: sizes are estimated.
const BATCH_BYTES_MAX: usize = docent_types::limits::REQUEST_BYTES_MAX / 2;
/// A source whose first lines are all bad is not what it was taken for.
const HOPELESS: u64 = 1_000;
/// Between attempts: doubling between these, unless the cluster says how long.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How a source is fed to the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Records of a batch, at most [`BATCH_MAX`].
    pub batch: usize,
    /// Batches in flight.
    pub parallel: usize,
    /// How long one batch is tried again before the import gives up.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { batch: 5_000, parallel: 4, patience: Duration::from_secs(120) }
    }
}

/// What the reader hands over.
struct Batch<T> {
    lines: Vec<u64>,
    records: Vec<T>,
    rejected: Vec<(u64, Reason)>,
    position: u64,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch { lines: Vec::new(), records: Vec::new(), rejected: Vec::new(), position: 0 }
    }
}

/// What became of a batch.
#[derive(Default)]
struct Done {
    counts: Counts,
    rejected: Vec<(u64, Reason)>,
    position: u64,
}

/// Imports a whole source; its part of the summary goes into `report`.
pub async fn run<S, D>(what: &'static str, source: S, to: &D, options: Options, report: &mut Report) -> Result<()>
where
    S: Source + 'static,
    D: Deliver<S::Record>,
    S::Record: Clone,
{
    let started = Instant::now();
    let name = source.name().to_owned();
    let mut progress = Progress::new(what, source.total());
    let (batches, mut read) = mpsc::channel(options.parallel.max(1));
    let weigh = |record: &S::Record| to.bytes(record);
    let mut counts = Counts::default();
    let mut flying = FuturesUnordered::new();
    let (mut node, mut is_read) = (0, false);
    // The reader blocks on files: it has its own thread and stops when the channel closes.
    let reader = tokio::task::spawn_blocking({
        let batch_max = options.batch.clamp(1, BATCH_MAX);
        move || read_all(source, batch_max, &batches)
    });
    loop {
        tokio::select! {
            batch = read.recv(), if !is_read && flying.len() < options.parallel.max(1) => match batch {
                None => is_read = true,
                Some(batch) => {
                    node += 1;
                    flying.push(send(to, node, batch, options.patience, &weigh));
                }
            },
            Some(done) = flying.next(), if !flying.is_empty() => {
                let done: Done = done?;
                for (line, reason) in &done.rejected {
                    if let Some(text) = report.reject(&name, *line, reason)? {
                        progress.note(text);
                    }
                }
                add(&mut counts, done.counts);
                progress.at(done.position, rate(&counts, started.elapsed()));
                if counts.rejected >= HOPELESS && counts.rejected == counts.sum() {
                    let message = format!("the first {} of {name} were all rejected", show::plural(counts.rejected, "line"));
                    return Err(Failure::rejected(message).advise("is it the right format? `docent import --help` names them"));
                }
            }
            else => break,
        }
    }
    reader.await.map_err(|error| Failure::failed(format!("reading {name} failed: {error}")))??;
    progress.clear();
    report.part(Part { name, what, counts, elapsed: started.elapsed() });
    Ok(())
}

fn add(counts: &mut Counts, more: Counts) {
    counts.accepted += more.accepted;
    counts.duplicate += more.duplicate;
    counts.not_collected += more.not_collected;
    counts.rejected += more.rejected;
}

fn rate(counts: &Counts, elapsed: Duration) -> String {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "for people"
    )]
    let per_second = (counts.sum() as f64 / elapsed.as_secs_f64().max(1e-3)) as u64;
    format!("{} at {}/s", show::count(counts.sum()), show::count(per_second))
}

/// Reads to the end, or until nobody listens any more.
fn read_all<S: Source>(mut source: S, batch_max: usize, to: &mpsc::Sender<Batch<S::Record>>) -> Result<()> {
    let mut batch = Batch::default();
    while let Some(Row { line, record }) = source.next_row()? {
        match record {
            Ok(record) => {
                batch.lines.push(line);
                batch.records.push(record);
            }
            Err(reason) => batch.rejected.push((line, reason)),
        }
        if batch.records.len() >= batch_max || batch.rejected.len() as u64 >= HOPELESS {
            batch.position = source.position();
            if to.blocking_send(std::mem::take(&mut batch)).is_err() {
                return Ok(());
            }
        }
    }
    batch.position = source.position();
    // Nobody listens when the import failed; it has said why.
    let _ = to.blocking_send(batch);
    Ok(())
}

/// Sends a batch in pieces that fit a request.
async fn send<T: Clone, D: Deliver<T>>(
    to: &D,
    node: usize,
    batch: Batch<T>,
    patience: Duration,
    weigh: &impl Fn(&T) -> usize,
) -> Result<Done> {
    let mut done = Done { rejected: batch.rejected, position: batch.position, ..Done::default() };
    done.counts.rejected = done.rejected.len() as u64;
    let mut records = batch.lines.into_iter().zip(batch.records).peekable();
    while records.peek().is_some() {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while let Some(next) =
            records.next_if(|(_, record)| piece.is_empty() || bytes + weigh(record) <= BATCH_BYTES_MAX)
        {
            bytes += weigh(&next.1);
            piece.push(next);
        }
        send_piece(to, node, piece, patience, &mut done).await?;
    }
    Ok(done)
}

/// Sends a piece until every record has its outcome or patience ends.
async fn send_piece<T: Clone, D: Deliver<T>>(
    to: &D,
    mut node: usize,
    piece: Vec<(u64, T)>,
    patience: Duration,
    done: &mut Done,
) -> Result<()> {
    let (mut lines, mut records): (Vec<u64>, Vec<T>) = piece.into_iter().unzip();
    let (mut since, mut pause) = (Instant::now(), PAUSE_MIN);
    loop {
        let outcomes = match to.deliver(node, &records).await {
            Ok(outcomes) => outcomes,
            Err(error) if is_worth_another_try(&error) && since.elapsed() < patience => {
                let after = error.retry_after_ms.map(|ms| Duration::from_millis(u64::from(ms)));
                tokio::time::sleep(after.unwrap_or(pause).min(PAUSE_MAX)).await;
                (node, pause) = (node + 1, (pause * 2).min(PAUSE_MAX));
                continue;
            }
            Err(error) => return Err(given_up(crate::client::failure(error))),
        };
        let sent = records.len();
        let mut left = Vec::new();
        let mut wait: Option<(Duration, String)> = None;
        for ((line, record), outcome) in lines.drain(..).zip(records.drain(..)).zip(outcomes) {
            match outcome {
                Outcome::Accepted => done.counts.accepted += 1,
                Outcome::Duplicate => done.counts.duplicate += 1,
                Outcome::NotCollected => done.counts.not_collected += 1,
                Outcome::Rejected(reason) => {
                    done.counts.rejected += 1;
                    done.rejected.push((line, reason));
                }
                Outcome::Again { after, why } => {
                    let after = after.unwrap_or(pause).min(PAUSE_MAX);
                    wait = Some(wait.filter(|(longest, _)| *longest >= after).unwrap_or((after, why)));
                    left.push((line, record));
                }
            }
        }
        let Some((after, why)) = wait else { return Ok(()) };
        // Progress renews patience.
        if left.len() < sent {
            since = Instant::now();
        }
        if since.elapsed() >= patience {
            return Err(given_up(Failure::unreachable(why)));
        }
        tokio::time::sleep(after).await;
        (lines, records) = left.into_iter().unzip();
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn is_worth_another_try(error: &Error) -> bool {
    error.kind.is_retryable() || matches!(error.kind, Kind::Unknown | Kind::DeadlineExceeded)
}

fn given_up(failure: Failure) -> Failure {
    let advice = failure.advice.clone().unwrap_or_else(|| "look at `docent status`".to_owned());
    failure.advise(format!("{advice}; then run the same import again: what is there is not added twice"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    /// A source of numbers of which every tenth is bad.
    struct Numbers {
        next: u64,
        end: u64,
        bad_every: u64,
    }

    impl Source for Numbers {
        type Record = u64;
        fn name(&self) -> &str {
            "numbers"
        }
        fn total(&self) -> u64 {
            self.end
        }
        fn position(&self) -> u64 {
            self.next
        }
        fn next_row(&mut self) -> Result<Option<Row<u64>>> {
            if self.next == self.end {
                return Ok(None);
            }
            self.next += 1;
            let record = match self.next % self.bad_every {
                0 => Err(Reason::of("n", "bad")),
                _ => Ok(self.next),
            };
            Ok(Some(Row { line: self.next, record }))
        }
    }

    /// A cluster that loses answers: it remembers what it has, fails every other call, and leaves some outcomes unknown.
    #[derive(Default)]
    struct Flaky {
        kept: Mutex<BTreeSet<u64>>,
        calls: Mutex<u64>,
        is_down: bool,
    }

    /// An error after which the next attempt may follow at once.
    fn soon(kind: Kind) -> Error {
        Error { retry_after_ms: Some(1), ..Error::new(kind, "down") }
    }

    impl Deliver<u64> for Flaky {
        fn deliver<'a>(&'a self, _: usize, batch: &'a [u64]) -> BoxFuture<'a, Result<Vec<Outcome>, Error>> {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            let call = *calls;
            let mut kept = self.kept.lock().unwrap();
            let answer = match call % 3 {
                _ if self.is_down => Err(soon(Kind::Unavailable)),
                0 => Err(Error::overloaded("busy", 1)),
                1 => {
                    kept.extend(batch);
                    Err(soon(Kind::Unknown))
                }
                _ => Ok(batch
                    .iter()
                    .map(|n| match n % 7 {
                        0 if call.is_multiple_of(2) => {
                            Outcome::Again { after: Some(Duration::ZERO), why: "unknown".to_owned() }
                        }
                        _ if kept.insert(*n) => Outcome::Accepted,
                        _ => Outcome::Duplicate,
                    })
                    .collect()),
            };
            async move { answer }.boxed()
        }

        fn bytes(&self, _: &u64) -> usize {
            BATCH_BYTES_MAX / 50
        }
    }

    fn options() -> Options {
        Options { batch: 70, parallel: 3, patience: Duration::from_secs(600) }
    }

    #[tokio::test]
    async fn every_record_arrives_through_lost_answers_and_back_pressure() {
        let to = Flaky::default();
        let mut report = Report::new(0, None).unwrap();
        run("numbers", Numbers { next: 0, end: 1_000, bad_every: 10 }, &to, options(), &mut report).await.unwrap();
        let kept = to.kept.lock().unwrap();
        assert_eq!(kept.len(), 900);
        assert!(report.finish(show::Output::Json).unwrap_err().to_string().contains("100 lines rejected"));
    }

    #[tokio::test]
    async fn patience_ends_with_the_way_to_resume() {
        let to = Flaky { is_down: true, ..Flaky::default() };
        let mut report = Report::new(0, None).unwrap();
        let source = Numbers { next: 0, end: 1_000, bad_every: 10 };
        let options = Options { patience: Duration::from_millis(20), ..options() };
        let failure = run("numbers", source, &to, options, &mut report).await.unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Unreachable);
        assert!(failure.to_string().contains("run the same import again"), "{failure}");
    }

    #[tokio::test]
    async fn a_source_of_bad_lines_alone_is_stopped_early() {
        let to = Flaky::default();
        let mut report = Report::new(u64::MAX, None).unwrap();
        let source = Numbers { next: 0, end: 1_000_000_000, bad_every: 1 };
        let failure = run("numbers", source, &to, options(), &mut report).await.unwrap_err();
        assert!(failure.to_string().contains("all rejected"), "{failure}");
    }
}
