//! How exactly rows of iALS are kept and sent.
use crate::wire;
use serde::{Deserialize, Serialize};

/// What a row's values are rounded to after each half pass, so that they travel without further loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits: not at all.
    #[default]
    F32,
    /// bfloat16, 16 bits: the upper half of an f32, 8 bits of significand. Half the bytes.
    Bf16,
}

impl Precision {
    /// Bytes of a row on the wire.
    pub(crate) fn row_bytes(self, dim: usize) -> usize {
        match self {
            Self::F32 => dim * 4,
            Self::Bf16 => dim * 2,
        }
    }

    /// Rounds values, which are finite, to the nearest that there is, ties to the even one.
    pub(crate) fn round(self, values: &mut [f32]) {
        if self == Self::Bf16 {
            values.iter_mut().for_each(|value| {
                let bits = value.to_bits();
                *value = f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000);
            });
        }
    }

    /// Appends a row of rounded values.
    pub(crate) fn push(self, row: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Self::F32 => wire::push_floats(row, bytes),
            Self::Bf16 => {
                let start = bytes.len();
                bytes.resize(start + row.len() * 2, 0);
                let pairs = bytes[start..].as_chunks_mut().0.iter_mut();
                pairs.zip(row).for_each(|(two, value)| *two = ((value.to_bits() >> 16) as u16).to_le_bytes());
            }
        }
    }

    /// Reads a row of as many bytes as it has.
    pub(crate) fn read(self, bytes: &[u8], row: &mut [f32]) {
        match self {
            Self::F32 => wire::read_floats(bytes, row),
            Self::Bf16 => row
                .iter_mut()
                .zip(bytes.as_chunks().0)
                .for_each(|(to, two)| *to = f32::from_bits(u32::from(u16::from_le_bytes(*two)) << 16)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_rounded_comes_back_as_it_was(row in prop::collection::vec(-1e30f32..1e30, 0..40)) {
            for precision in [Precision::F32, Precision::Bf16] {
                let mut rounded = row.clone();
                precision.round(&mut rounded);
                let mut bytes = vec![9];
                precision.push(&rounded, &mut bytes);
                prop_assert_eq!(bytes.len(), 1 + precision.row_bytes(row.len()));
                let mut read = vec![0.0; row.len()];
                precision.read(&bytes[1..], &mut read);
                prop_assert_eq!(&read, &rounded);
                let most = if precision == Precision::F32 { 0.0 } else { 1.0 / 256.0 };
                prop_assert!(row.iter().zip(&rounded).all(|(a, b)| (a - b).abs() <= a.abs() * most));
            }
        }
    }

    #[test]
    fn ties_go_to_the_even_one() {
        let mut values = [1.0f32, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -1.0 - 1.0 / 256.0, 1.0 + 1.1 / 256.0, 0.0];
        Precision::Bf16.round(&mut values);
        assert_eq!(values, [1.0, 1.0, 1.0 + 4.0 / 256.0, -1.0, 1.0 + 2.0 / 256.0, 0.0]);
    }
}
