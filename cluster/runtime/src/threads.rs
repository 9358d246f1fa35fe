//! The seam to threads: work that blocks or computes for long goes to one of its own, or, in a simulation, is done where it is asked for.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use thread_priority::ThreadPriority;
use thread_priority::unix::{
    NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// The niceness beyond all: a thread runs only while nothing else wants its processor, and is interrupted at once when something does
/// (SCHED_IDLE, see sched(7)).
pub const NICENESS_IDLE: u8 = 20;

/// Where blocking work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On threads of the operating system.
    Os,
    /// On the caller's: the process has one thread, and nothing happens at the same time as something else.
    Inline,
}

impl Threads {
    /// Does `work` without holding up other tasks, where there are threads for that.
    ///
    /// # Errors
    /// When the work panicked or the process is ending.
    pub fn blocking<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        // Started or done here, so that the future carries no more than the outcome.
        let started = match self {
            Threads::Os => Ok(tokio::task::spawn_blocking(work)),
            Threads::Inline => Err(work()),
        };
        async {
            match started {
                Ok(working) => working.await.map_err(|error| io::Error::other(format!("blocking work ended: {error}"))),
                Err(done) => Ok(done),
            }
        }
    }

    /// Lets everything else on the machine go first: this thread and those that it starts from now on, by `niceness` of 0 (nothing changes) to 19 (see
    /// nice(2), which on Linux is of a thread), or altogether ([`NICENESS_IDLE`] and above).
    ///
    /// # Errors
    /// The operating system's.
    pub fn step_back(self, niceness: u8) -> io::Result<()> {
        match niceness {
            _ if self != Threads::Os => Ok(()),
            0 => Ok(()),
            1..NICENESS_IDLE => Ok(rustix::process::nice(niceness.into()).map(drop)?),
            _ => {
                let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
                let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
                set.map_err(|error| io::Error::other(format!("SCHED_IDLE: {error}")))
            }
        }
    }

    /// How many threads may compute at the same time; at least 1.
    #[must_use]
    pub fn parallelism(self) -> usize {
        match self {
            Threads::Os => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Threads::Inline => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_steps_back_takes_its_children_along_and_nobody_else() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let of_child = std::thread::spawn(move || {
            Threads::Os.step_back(5).unwrap();
            std::thread::spawn(niceness).join().unwrap()
        });
        assert_eq!(of_child.join().unwrap(), (before + 5).min(19));
        Threads::Inline.step_back(5).unwrap();
        assert_eq!(niceness(), before, "the thread of a simulation is everybody's");
    }

    #[tokio::test]
    async fn blocking_work_stays_on_the_thread_only_where_there_is_but_one() {
        let here = std::thread::current().id();
        for (threads, is_here) in [(Threads::Os, false), (Threads::Inline, true)] {
            let at = threads.blocking(|| std::thread::current().id()).await.unwrap();
            assert_eq!(at == here, is_here, "{threads:?}");
            assert!(threads.parallelism() >= 1);
        }
    }
}
