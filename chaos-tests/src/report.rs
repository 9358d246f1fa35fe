//! A run as a page that a person reads: what was done, the verdict first, then the timeline drawn, and everything that it takes to run it
//! again. One file without a single outer resource; it prints, follows the reader's light or dark, and has a table behind each chart.
//! Its size is bounded whatever the history's: curves are drawn from [`story::POINTS_MAX`] points, lists are cut and say so.
//!
//! | module | owns |
//! |---|---|
//! | [`story`] | pure: what is drawn, of a history |
//! | [`chart`] | the drawings, as SVG |
//! | [`figure`] | a drawing with its words and its table |
//! | [`page`] | the page around them |

mod chart;
mod figure;
mod page;
mod story;

use crate::run::Trial;
use anyhow::Result;

/// The page of a run.
///
/// # Errors
/// A chart cannot be drawn.
pub fn page(trial: &Trial) -> Result<String> {
    let story = story::Story::of(trial);
    let charts = chart::Charts::draw(&story)?;
    Ok(page::render(trial, &story, &charts).into_string())
}

#[cfg(test)]
mod tests;
