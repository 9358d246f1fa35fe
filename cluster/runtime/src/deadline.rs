//! How long a caller still waits. Passed on with every call, because no transport does it for us.

use docent_types::{Error, Kind, Result};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// The longest deadline that a caller may set: an hour.
const LONGEST: Duration = Duration::from_secs(3_600);

/// A moment after which nobody waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `after` from now, an hour at most.
    pub fn after(after: Duration) -> Deadline {
        Deadline(Instant::now() + after.min(LONGEST))
    }

    /// What is left; zero once it is over.
    pub fn remaining(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether nobody waits any more.
    pub fn is_over(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of this deadline and `after` from now: a share of it for one step.
    #[must_use]
    pub fn at_most(&self, after: Duration) -> Deadline {
        Deadline(self.0.min(Instant::now() + after))
    }

    /// Runs `future` until the deadline; then `DeadlineExceeded` naming `what`.
    pub async fn bound<T>(&self, what: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout_at(self.0, future).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(Kind::DeadlineExceeded, format!("{what} took longer than the deadline allows"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_outlasts_the_deadline_is_named() {
        let deadline = Deadline::after(Duration::from_millis(10));
        let error = deadline.bound::<()>("the scan", std::future::pending()).await.unwrap_err();
        assert_eq!(error.kind, Kind::DeadlineExceeded);
        assert!(error.message.contains("the scan"));
        assert!(deadline.is_over());
    }

    #[tokio::test]
    async fn a_share_never_outlasts_the_whole() {
        let deadline = Deadline::after(Duration::from_secs(60));
        assert_eq!(deadline.at_most(Duration::from_secs(90)), deadline);
        assert!(deadline.at_most(Duration::from_secs(3)) < deadline);
    }
}
