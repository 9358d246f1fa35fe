//! A user's vector at read time, and what its history adds to a score.
use super::Mlp;
use crate::{Error, Kernel, softmax};

/// What the user tower makes of a history: item-tower output (`dim` values) and confidence of each positive, one entry per item, in an order that is
/// the same everywhere, for the same bytes. An empty history gives the zero vector.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Value`] for rows and confidences that are not usable.
pub fn vector(kernel: Kernel, tower: Option<&Mlp>, dim: usize, history: &[(&[f32], f32)]) -> Result<Vec<f32>, Error> {
    let bag = softmax::user::vector(kernel, dim, history)?;
    match tower {
        Some(tower) if bag.iter().any(|value| *value != 0.0) => Ok(tower.apply(kernel, &bag)),
        _ => Ok(bag),
    }
}

/// What each entry of the history adds to the score of `item`. The layers are linear in the bag as long as the same hidden units are at work, so the
/// shares are exact for this history; they sum to the score less what the biases give.
///
/// # Errors
/// As [`vector`].
pub fn contributions(
    kernel: Kernel,
    tower: Option<&Mlp>,
    item: &[f32],
    history: &[(&[f32], f32)],
) -> Result<Vec<f32>, Error> {
    let Some(tower) = tower else { return softmax::user::contributions(kernel, item, history) };
    let bag = softmax::user::vector(kernel, item.len(), history)?;
    let (toward, inverse) = tower.linear(kernel, &bag, item);
    let mut shares = softmax::user::contributions(kernel, &toward, history)?;
    shares.iter_mut().for_each(|share| *share *= inverse);
    Ok(shares)
}
