//! Ambient randomness, for identities, tokens and tie-breaks. Training and `apply` never use it: theirs is counter-based or in the command.

use std::io;

/// Fills an array from the operating system's generator.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut out = [0; N];
    getrandom::fill(&mut out)?;
    Ok(out)
}

/// 128 random bits.
pub fn u128() -> io::Result<u128> {
    bytes().map(u128::from_le_bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        assert_ne!(super::u128().unwrap(), super::u128().unwrap());
    }
}
