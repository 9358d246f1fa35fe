//! Random numbers that are a function of (seed, purpose, epoch, step, virtual worker).
use blake3::OutputReader;

/// What random numbers are for. The number is part of what they are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Order of a virtual worker's users in an epoch.
    Order = 0,
    /// Parts of the histories of a step.
    Folds = 1,
    /// How many negatives each virtual worker of items draws in a step.
    Counts = 2,
    /// Negatives that a virtual worker of items draws in a step.
    Negatives = 3,
}

/// One stream of random numbers: blake3's extendable output.
#[derive(Debug)]
pub struct Random {
    output: OutputReader,
    bytes: [u8; 64],
    used: usize,
}

impl Random {
    /// Opens a stream.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, epoch: u32, step: u32, vworker: u16) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("docent 2026 sampled softmax random numbers v1");
        hasher.update(&seed.to_le_bytes()).update(&[purpose as u8]);
        hasher.update(&epoch.to_le_bytes()).update(&step.to_le_bytes()).update(&vworker.to_le_bytes());
        Self { output: hasher.finalize_xof(), bytes: [0; 64], used: 64 }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == self.bytes.len() {
            self.output.fill(&mut self.bytes);
            self.used = 0;
        }
        let mut four = [0; 4];
        four.copy_from_slice(&self.bytes[self.used..self.used + 4]);
        self.used += 4;
        u32::from_le_bytes(four)
    }

    /// A number below `n` (above 0). Its probability is off by at most `n / 2^32` of itself: multiply and shift, without rejection,
    /// so that a draw always takes one number of the stream.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.bits()) * u64::from(n)) >> 32) as u32
    }

    /// Puts `values` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for at in (1..values.len()).rev() {
            values.swap(at, self.below(at as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_its_own_and_frozen() {
        let first = |purpose, epoch, step, vworker| Random::new(7, purpose, epoch, step, vworker).bits();
        let streams = [
            first(Purpose::Order, 0, 0, 0),
            first(Purpose::Folds, 0, 0, 0),
            first(Purpose::Folds, 1, 0, 0),
            first(Purpose::Folds, 0, 1, 0),
            first(Purpose::Folds, 0, 0, 1),
        ];
        assert_eq!(streams, FROZEN);
    }

    const FROZEN: [u32; 5] = [3_699_280_681, 2_341_962_539, 2_416_560_125, 1_507_882_480, 3_307_997_390];

    #[test]
    fn a_shuffle_keeps_everything_and_every_place_is_as_likely() {
        let mut counts = [[0u32; 4]; 4];
        for step in 0..8000 {
            let mut values = [0, 1, 2, 3];
            Random::new(1, Purpose::Order, 0, step, 0).shuffle(&mut values);
            values.iter().enumerate().for_each(|(at, value)| counts[at][*value] += 1);
        }
        // 2000 each, standard deviation 39.
        assert!(counts.iter().flatten().all(|count| count.abs_diff(2000) < 200), "{counts:?}");
    }
}
