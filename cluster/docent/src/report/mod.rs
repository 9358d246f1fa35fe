//! A training job as a page that a person reads: what was trained, how good it is, and how the job went, drawn. One file without a single
//! outer resource, with a table behind each drawing; it follows the reader's light or dark.
//!
//! | module | owns |
//! |---|---|
//! | [`course`] | pure: curves of a job's course |
//! | [`chart`] | a drawing, as SVG |
//! | [`page`] | the page around them |

mod chart;
mod course;
mod page;

use docent_proto::v1;

/// The page of a job, and of the version that it made.
///
/// # Errors
/// A chart cannot be drawn.
pub fn page(job: &v1::Job, model: Option<&v1::Model>) -> Result<String, String> {
    let positives = model.and_then(|model| model.metrics.get("positives").copied());
    let figures = course::figures(&job.course, positives);
    let drawn = figures.iter().map(|figure| Ok((figure, chart::draw(figure)?))).collect::<Result<Vec<_>, String>>()?;
    Ok(page::render(job, model, &drawn).into_string())
}

#[cfg(test)]
mod tests;
