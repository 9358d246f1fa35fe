//! Functions that are the same to the bit on every machine, while those of the C library are whatever it says.

/// `base^exponent` for an exponent from 0 on, used to the nearest 2^-20, from multiplications and square roots alone: IEEE rounds those the
/// same everywhere.
pub(crate) fn power(base: f64, exponent: f64) -> f64 {
    const BITS: u32 = 20;
    let scaled = (exponent * f64::from(1u32 << BITS)).round() as u64;
    let mut result = (0..scaled >> BITS).fold(1.0, |product, _| product * base);
    let mut root = base;
    for bit in (scaled.trailing_zeros().min(BITS)..BITS).rev() {
        root = root.sqrt();
        if scaled >> bit & 1 == 1 {
            result *= root;
        }
    }
    result
}

/// 1 / 21, 1 / 19, to 1.
const SERIES: [f64; 11] = {
    let (mut factors, mut k) = ([1.0; 11], 0);
    while k < factors.len() {
        factors[k] = 1.0 / (21 - 2 * k) as f64;
        k += 1;
    }
    factors
};

/// The natural logarithm of a finite number of at least 2^-1022: `2 artanh((m - 1) / (m + 1))` of the mantissa in [sqrt 1/2, sqrt 2], by its
/// series to 10^-16.
pub(crate) fn ln(x: f64) -> f64 {
    let exponent = (x.to_bits() >> 52) as i64 - 1023;
    let mantissa = f64::from_bits(x.to_bits() << 12 >> 12 | 1023 << 52);
    let (mantissa, exponent) =
        if mantissa > std::f64::consts::SQRT_2 { (mantissa / 2.0, exponent + 1) } else { (mantissa, exponent) };
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let mut series = 0.0;
    for factor in SERIES {
        series = series * t * t + factor;
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * t * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_agrees_with_powf() {
        let all =
            [(437.2, 1.0), (437.2, 0.5), (3.0, 0.3), (3.0, 1.75), (12.0, 0.0), (0.5, 2.0), (1e-9, 2.5), (7.0, 4.0)];
        for (base, exponent) in all {
            let (ours, theirs) = (power(base, exponent), f64::powf(base, exponent));
            assert!((ours - theirs).abs() < 3e-5 * theirs, "{base}^{exponent}: {ours} {theirs}");
        }
    }

    #[test]
    fn the_logarithm_is_the_logarithm() {
        for x in [1.0f64, 1.0 + 1e-9, 1.4, 1.5, 2.0, 7.3, 1e9, 3e30, 0.9, 0.05, 1e-20] {
            assert!((ln(x) - x.ln()).abs() <= 1e-15 * (1.0 + x.ln().abs()), "{x}");
        }
    }
}
