//! The page around the drawings. maud escapes whatever the cluster has said.

use super::chart::SIZE;
use super::course::Figure;
use crate::commands::train;
use crate::json;
use crate::show;
use docent_proto::v1;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The style sheet's words for curves, by their place.
const KEYS: [&str; 3] = ["blue", "orange", "red"];

/// The whole page.
pub(super) fn render(job: &v1::Job, model: Option<&v1::Model>, drawn: &[(&Figure, String)]) -> Markup {
    let title = format!("Training job {}", job.id);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { (title) ": " (job.state) }
                @if !job.error.is_empty() { p class="fail" { (job.error) } }
                (summary(job, model))
                @if drawn.is_empty() {
                    p class="soft" { "The course of this job is not kept: only the latest ten jobs have one." }
                } @else {
                    h2 { "How it went" }
                    @for (at, (figure, svg)) in drawn.iter().enumerate() { (draw(at, figure, svg)) }
                }
                @if let Some(model) = model { (quality(model)) }
                (settings(job))
            }
        }
    }
}

fn summary(job: &v1::Job, model: Option<&v1::Model>) -> Markup {
    let progress = job.progress.clone().unwrap_or_default();
    let hosts = job.course.last().map_or(0, |step| step.hosts);
    let count = |name: &str| model.and_then(|model| model.metrics.get(name)).map(|value| show::count(*value as u64));
    let mut figures = vec![
        ("family", job.settings.clone().unwrap_or_default().algorithm.unwrap_or_default()),
        ("asked for", show::time(job.created_ms)),
        ("attempt", job.attempt.to_string()),
        ("seconds", format!("{:.1}", progress.seconds)),
        ("hosts", hosts.to_string()),
        ("exchanged", show::bytes(progress.bytes)),
        ("mode", "synchronous: staleness 0".to_owned()),
    ];
    if let Some(model) = model {
        figures.push(("version", format!("{}, {}", model.version, model.state)));
        figures.push(("size", show::bytes(model.parts.iter().chain(&model.global).map(|part| part.bytes).sum())));
    }
    let counts = ["users", "items", "positives"].into_iter().filter_map(|name| Some((name, count(name)?)));
    html! {
        dl class="figures" {
            @for (name, value) in figures.into_iter().chain(counts) { div { dt { (name) } dd { (value) } } }
        }
    }
}

fn draw(at: usize, figure: &Figure, svg: &str) -> Markup {
    let (title, desc) = (format!("title-{at}"), format!("desc-{at}"));
    html! {
        figure {
            figcaption {
                b { (figure.title) } " "
                @for (curve, key) in figure.curves.iter().zip(KEYS.iter().cycle()) {
                    span class={ "key " (key) } { i {} (curve.name) }
                }
            }
            svg viewBox=(format!("0 0 {} {}", SIZE.0, SIZE.1)) role="img" aria-labelledby={ (title) " " (desc) }
                xmlns="http://www.w3.org/2000/svg" {
                title id=(title) { (figure.title) }
                desc id=(desc) { (figure.says) }
                (PreEscaped(svg))
            }
            p class="soft" { (figure.says) }
            details { summary { "the same as a table" } div class="scroll" { (table(figure)) } }
        }
    }
}

fn table(figure: &Figure) -> Markup {
    html! {
        table {
            thead { tr { th { "curve" } th class="n" { (figure.x) } th class="n" { (figure.y) } } }
            tbody {
                @for curve in &figure.curves {
                    @for (x, y) in &curve.points {
                        tr { td { (curve.name) } td class="n" { (format!("{x:.3}")) } td class="n" { (format!("{y:.6}")) } }
                    }
                }
            }
        }
    }
}

/// Every figure that was measured, with its 95 % interval where it has one.
fn quality(model: &v1::Model) -> Markup {
    let is_end = |name: &str| name.ends_with(".low") || name.ends_with(".high");
    let mut names: Vec<&String> = model.metrics.keys().filter(|name| !is_end(name)).collect();
    names.sort();
    html! {
        h2 { "What was measured" }
        @if !model.held_back.is_empty() { p class="fail" { "Held back: " (model.held_back) } }
        div class="scroll" { table {
            thead { tr { th { "figure" } th class="n" { "value" } th { "95 % interval" } } }
            tbody {
                @for name in names {
                    tr {
                        td { (name) }
                        td class="n" { (number(model.metrics[name])) }
                        td { (train::interval(model, name)) }
                    }
                }
            }
        } }
    }
}

/// Counts without decimals.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value > 1.0 { format!("{value:.0}") } else { format!("{value:.6}") }
}

fn settings(job: &v1::Job) -> Markup {
    let settings = json::write::settings(job.settings.as_ref());
    let pairs = settings.as_object().into_iter().flatten();
    html! {
        h2 { "Settings" }
        div class="scroll" { table {
            thead { tr { th { "setting" } th { "value" } } }
            tbody {
                @for (name, value) in pairs { tr { td { (name) } td { (value.to_string().trim_matches('"')) } } }
            }
        } }
    }
}
