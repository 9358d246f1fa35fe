//! First rows of items.
//!
//! The row is a function of (seed, item id) alone, so an item that is there or not never shifts another's row, and any
//! host can make it. The random bytes are blake3's extendable output over (seed, id) with its own context. An element is the sum
//! of four 16-bit uniform numbers (Irwin-Hall, close to a normal distribution), which needs no logarithm or cosine:
//! those differ between C libraries in the last bit.

/// Standard deviation of the sum of four uniform 16-bit integers: `sqrt(4 (2^32 - 1) / 12)`.
const SUM_DEVIATION: f64 = 37_837.226_6;
const SUM_MEAN: f64 = 4.0 * 65_535.0 / 2.0;

/// Fills `row` for item `id`: elements of mean 0 and standard deviation `deviation / sqrt(row.len())`.
pub fn fill(seed: u64, id: &str, deviation: f32, row: &mut [f32]) {
    let mut hasher = blake3::Hasher::new_derive_key("docent 2026 iALS first item row v1");
    hasher.update(&seed.to_le_bytes()).update(id.as_bytes());
    let mut random = hasher.finalize_xof();
    let scale = f64::from(deviation) / (row.len().max(1) as f64).sqrt() / SUM_DEVIATION;
    let mut bytes = [0u8; 64];
    for elements in row.chunks_mut(8) {
        random.fill(&mut bytes);
        for (element, eight) in elements.iter_mut().zip(bytes.chunks_exact(8)) {
            let sum: u32 = eight.chunks_exact(2).map(|two| u32::from(u16::from_le_bytes([two[0], two[1]]))).sum();
            *element = ((f64::from(sum) - SUM_MEAN) * scale) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_depend_on_seed_and_id_only_and_have_the_deviation_asked_for() {
        let (mut a, mut b) = (vec![0.0; 4096], vec![0.0; 4096]);
        fill(7, "x", 0.1, &mut a);
        fill(7, "x", 0.1, &mut b);
        assert_eq!(a, b);
        fill(8, "x", 0.1, &mut b);
        assert_ne!(a, b);
        let variance = a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        assert!((variance.sqrt() - 0.1).abs() < 0.005, "{variance}");
        assert!(a.iter().map(|v| f64::from(*v)).sum::<f64>().abs() / 64.0 < 0.01);
    }

    #[test]
    fn the_first_row_is_frozen() {
        let mut row = [0.0; 3];
        fill(1, "42", 0.1, &mut row);
        assert_eq!(row.map(f32::to_bits), FROZEN, "{:?}", row.map(f32::to_bits));
    }

    const FROZEN: [u32; 3] = [987_365_376, 1_025_104_282, 1_034_003_252];
}
