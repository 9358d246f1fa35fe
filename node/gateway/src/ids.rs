//! Names that the gateway makes: event ids, recommendation ids. Unique without coordination, and not to be guessed in passing.

use docent_runtime::{Clock, entropy};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes 128-bit ids from a seed drawn at start and a counter.
#[derive(Debug)]
pub(crate) struct Ids {
    seed: u128,
    next: AtomicU64,
}

impl Ids {
    /// Draws the seed from the operating system; a machine without a generator falls back to its clock.
    pub(crate) fn new(clock: &dyn Clock) -> Ids {
        let seed = entropy::u128().unwrap_or_else(|_| (clock.now_ms() as u128) << 64 | clock.monotonic().as_nanos());
        Ids { seed, next: AtomicU64::new(0) }
    }

    /// 32 hexadecimal digits, never the same twice.
    pub(crate) fn next(&self) -> String {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let (high, low) = ((self.seed >> 64) as u64, self.seed as u64);
        // The low half is a bijection of the counter: no two ids of one process are equal.
        format!("{:016x}{:016x}", mix(high ^ mix(count)), mix(low.wrapping_add(count)))
    }

    /// A number to break ties with.
    pub(crate) fn salt(&self) -> u64 {
        mix(self.seed as u64 ^ self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), a bijection.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_runtime::SystemClock;
    use std::collections::BTreeSet;

    #[test]
    fn no_id_comes_twice() {
        let (a, b) = (Ids::new(&SystemClock::default()), Ids::new(&SystemClock::default()));
        let ids: BTreeSet<String> = (0..1_000).flat_map(|_| [a.next(), b.next()]).collect();
        assert_eq!(ids.len(), 2_000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
