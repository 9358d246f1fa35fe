//! Independent tasks on a given number of threads.
use crossbeam::queue::ArrayQueue;

/// Runs `work` on every task, on up to `threads` threads, each with scratch memory of its own. Which thread takes which task is
/// left to chance, so `work` must write only to its task.
///
/// # Panics
/// When `work` panics, with its panic.
pub fn for_each<T: Send, S>(
    threads: usize,
    tasks: Vec<T>,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) + Sync,
) {
    let threads = threads.clamp(1, tasks.len().max(1));
    if threads == 1 {
        let mut own = scratch();
        tasks.into_iter().for_each(|task| work(&mut own, task));
        return;
    }
    let queue = ArrayQueue::new(tasks.len());
    for task in tasks {
        // The queue holds exactly as many as there are tasks.
        let _ = queue.push(task);
    }
    let drain = || {
        let mut own = scratch();
        while let Some(task) = queue.pop() {
            work(&mut own, task);
        }
    };
    let outcome = crossbeam::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| drain());
        }
        drain();
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// What `work` makes of every task, in the order of the tasks; see [`for_each`].
///
/// # Panics
/// As [`for_each`].
pub fn map<T: Send, R: Send>(threads: usize, tasks: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut done: Vec<Option<R>> = tasks.iter().map(|_| None).collect();
    let both = tasks.into_iter().zip(&mut done).collect();
    for_each(threads, both, || (), |(), (task, place)| *place = Some(work(task)));
    // Every task is done once `for_each` returns.
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_their_tasks() {
        for threads in [1, 3] {
            assert_eq!(map(threads, (0..50).collect(), |task: u32| task * 2), (0..100).step_by(2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_task_is_done_once_on_any_number_of_threads() {
        for threads in [0, 1, 2, 7] {
            let mut out = vec![0u32; 100];
            for_each(threads, out.iter_mut().enumerate().collect(), || (), |(), (at, slot)| *slot += at as u32);
            assert!(out.iter().enumerate().all(|(at, v)| at as u32 == *v));
        }
    }
}
