//! openraft's runtime: tokio, with ticks that share their wake-ups.
//!
//! Every replica ticks each 50 ms (heartbeat * 13/64) at a phase of its own, so that a process with a dozen replicas would wake hundreds of
//! times a second to do nothing. The tick is the only thing that openraft sleeps *until*; rounding its deadline up to a grid lets all replicas of
//! a process tick in one wake-up. A tick comes at most one grid step late, a tenth of a heartbeat.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_tokio::{TokioInstant, TokioRuntime};
use tokio::runtime::{Handle, Id};

/// The grid's step.
const STEP: Duration = Duration::from_millis(25);

/// tokio, with sleeps until a moment rounded up to a grid that all replicas of the runtime share.
#[derive(Debug)]
pub(crate) struct SharedTicks(TokioRuntime);

/// Where the grid of the current runtime begins: at the first deadline that it has seen. Simulated hosts are runtimes of one process, each
/// with a clock of its own.
fn origin(first: TokioInstant) -> TokioInstant {
    static ORIGINS: Mutex<Vec<(Id, TokioInstant)>> = Mutex::new(Vec::new());
    let Ok(runtime) = Handle::try_current() else { return first };
    let mut origins = ORIGINS.lock().unwrap_or_else(PoisonError::into_inner);
    match origins.iter().find(|(id, _)| *id == runtime.id()) {
        Some((_, origin)) => *origin,
        None => {
            // Newest first: the runtimes that live are those that ask.
            origins.insert(0, (runtime.id(), first));
            first
        }
    }
}

/// The next moment of the grid at or after `deadline`.
fn on_grid(deadline: TokioInstant) -> TokioInstant {
    let origin = origin(deadline);
    if deadline <= origin {
        return deadline;
    }
    let since = deadline - origin;
    let past = Duration::from_nanos((since.as_nanos() % STEP.as_nanos()) as u64);
    if past.is_zero() { deadline } else { deadline + (STEP - past) }
}

impl AsyncRuntime for SharedTicks {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(on_grid(deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        SharedTicks(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft::async_runtime::Instant;

    use super::*;

    #[tokio::test]
    async fn a_deadline_moves_up_to_the_grid_and_by_less_than_a_step() {
        let start = on_grid(TokioInstant::now());
        for offset_ms in 0..200 {
            let deadline = start + Duration::from_millis(offset_ms);
            let rounded = on_grid(deadline);
            assert!(rounded >= deadline && rounded - deadline < STEP);
            assert_eq!(on_grid(rounded), rounded, "the grid is its own");
        }
        let distinct: std::collections::BTreeSet<_> =
            (0..200).map(|ms| on_grid(start + Duration::from_millis(ms))).collect();
        assert!(distinct.len() <= 9, "{} wake-ups in 200 ms", distinct.len());
    }
}
