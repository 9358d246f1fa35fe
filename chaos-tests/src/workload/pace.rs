//! When which request is due: an open loop whose rate has surges. Requests leave on their times whether or not earlier ones were answered.

use docent_trial::workload::Workload;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The times of one kind of requests.
#[derive(Debug)]
pub struct Pace {
    rate: f64,
    next: Mutex<(usize, Instant)>,
    surges: Workload,
    /// When the chaos phase began; surges count from then.
    chaos: OnceLock<Instant>,
    is_over: AtomicBool,
}

/// How long a pace that is to end may go on sleeping.
const SLICE: Duration = Duration::from_millis(20);

impl Pace {
    /// From now on, `rate` a second.
    pub fn new(rate: f64, workload: &Workload) -> Pace {
        let start = Instant::now() + Duration::from_millis(50);
        let next = Mutex::new((0, start));
        Pace { rate, next, surges: workload.clone(), chaos: OnceLock::new(), is_over: AtomicBool::new(false) }
    }

    /// The chaos phase begins.
    pub fn begin_chaos(&self) {
        let _again = self.chaos.set(Instant::now());
    }

    /// No further requests.
    pub fn stop(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Whether nothing more is wanted.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Waits for the next request: its number and when it was due; `None` at the end. One worker waits here for all, so that nobody holds a
    /// number whose time is far.
    pub fn next(&self) -> Option<(usize, Instant)> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (number, due) = *next;
            let ahead = due.saturating_duration_since(Instant::now());
            if self.is_over() {
                return None;
            }
            if !ahead.is_zero() {
                std::thread::sleep(ahead.min(SLICE)); // until it is due: an open loop
                continue;
            }
            let rate = self.rate * self.chaos.get().map_or(1.0, |chaos| self.surges.factor_at(ms_between(*chaos, due)));
            if rate > 0.0 {
                *next = (number + 1, due + Duration::from_secs_f64(1.0 / rate));
                return Some((number, due));
            }
            next.1 = due + SLICE;
        }
    }
}

fn ms_between(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_trial::workload::Surge;

    #[test]
    fn a_surge_brings_requests_closer_together_and_then_no_more() {
        let surge = Surge { at_ms: 0, for_ms: 100, factor: 10.0 };
        let pace = Pace::new(50.0, &Workload { surges: vec![surge], ..Workload::default() });
        pace.begin_chaos();
        let due: Vec<Instant> = (0..80).filter_map(|_| pace.next()).map(|(_, due)| due).collect();
        let gaps: Vec<u128> = due.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!((gaps.first(), gaps.last()), (Some(&2), Some(&20)));
        pace.stop();
        assert!(pace.next().is_none());
    }
}
