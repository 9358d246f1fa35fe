//! Counter-based random streams: `(seed, purpose, number)` names a stream, whatever was drawn before.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// What a stream is for; part of its name, so that streams never share numbers.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// Metadata of an item.
    Item = 1,
    /// Cluster of an item.
    Cluster = 2,
    /// Profile and tastes of a user.
    User = 3,
    /// How active a user is.
    Activity = 4,
    /// Events of a user.
    Events = 5,
    /// The order of item numbers.
    Shuffle = 6,
}

/// A stream of random numbers.
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream `number` of `purpose` under `seed`.
    pub fn new(seed: u64, purpose: Purpose, number: u64) -> Draw {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8] = purpose as u8;
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(number);
        Draw(rng)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A whole number below `n` (1 and more), by multiply-shift: its bias of `n / 2^64` is far below what any data could show.
    pub fn below(&mut self, n: u64) -> u64 {
        #[allow(clippy::cast_possible_truncation, reason = "the product's high half is below n")]
        let high = ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64;
        high
    }

    /// Whether something of probability `percent` / 100 happens.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        #[allow(clippy::cast_possible_truncation, reason = "below the slice's length")]
        let i = self.below(of.len() as u64) as usize;
        &of[i]
    }
}
