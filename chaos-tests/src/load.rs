//! Open-loop load: requests leave on a fixed schedule whether or not earlier ones were answered, and waiting counts as latency.

use crate::spread::Spread;
use anyhow::{Context, Result, ensure};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Requests that may wait at a time; enough for a second of answers that take a second at 100/s.
const WORKERS: usize = 100;

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Latencies of the answers, ascending.
    pub latencies: Vec<Duration>,
    /// What went wrong, in no order.
    pub failures: Vec<String>,
    /// The longest that a request left after its time: the driver's own lateness, contained in its latency.
    pub late_max: Duration,
}

impl Outcome {
    /// The latency that `share` of the answers did not exceed, in milliseconds.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        Spread::of(self.latencies.iter().map(|latency| latency.as_secs_f64() * 1e3)).at(share)
    }
}

/// Sends request 0, 1, ... at `rate` a second for `time`; latency counts from when a request was due.
pub fn open_loop(rate: f64, time: Duration, send: impl Fn(usize) -> Result<()> + Sync) -> Result<Outcome> {
    let total = (rate * time.as_secs_f64()) as usize;
    open_loop_while(rate, WORKERS, |number| number < total, send)
}

/// As [`open_loop`], for as long as `is_wanted` says so of the next request; at most `workers` requests wait at a time.
pub fn open_loop_while(
    rate: f64,
    workers: usize,
    is_wanted: impl Fn(usize) -> bool + Sync,
    send: impl Fn(usize) -> Result<()> + Sync,
) -> Result<Outcome> {
    ensure!(rate > 0.0 && rate <= 100_000.0, "a rate of {rate}/s: must be above 0 and at most 100,000");
    let (next, start) = (AtomicUsize::new(0), Instant::now() + Duration::from_millis(50));
    let due = || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        is_wanted(number).then(|| (number, start + Duration::from_secs_f64(number as f64 / rate)))
    };
    drive(workers, due, send)
}

/// Sends what `next` says, a number and when it is due, until it says nothing; at most `workers` requests wait at a time.
pub fn drive(
    workers: usize,
    next: impl Fn() -> Option<(usize, Instant)> + Sync,
    send: impl Fn(usize) -> Result<()> + Sync,
) -> Result<Outcome> {
    let work = || {
        let mut mine = Outcome::default();
        loop {
            let Some((number, due)) = next() else { return mine };
            std::thread::sleep(due.saturating_duration_since(Instant::now())); // until it is due: an open loop
            mine.late_max = mine.late_max.max(due.elapsed());
            match send(number) {
                Ok(()) => mine.latencies.push(due.elapsed()),
                Err(error) => mine.failures.push(format!("{error:#}")),
            }
        }
    };
    let parts: Vec<Option<Outcome>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().ok()).collect()
    });
    let mut all = Outcome::default();
    for part in parts {
        let part = part.context("a worker of the load driver panicked")?;
        all.latencies.extend(part.latencies);
        all.failures.extend(part.failures);
        all.late_max = all.late_max.max(part.late_max);
    }
    all.latencies.sort_unstable();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn every_request_is_sent_once_and_failures_are_told() {
        let sent = AtomicUsize::new(0);
        let outcome = open_loop(2_000.0, Duration::from_millis(100), |number| {
            sent.fetch_add(1, Ordering::Relaxed);
            if number % 10 == 0 { bail!("no") } else { Ok(()) }
        });
        let outcome = outcome.unwrap();
        assert_eq!((sent.into_inner(), outcome.latencies.len(), outcome.failures.len()), (200, 180, 20));
        assert!(outcome.percentile_ms(0.99) >= outcome.percentile_ms(0.5));
        assert!(Outcome::default().percentile_ms(0.5).is_nan());
    }
}
