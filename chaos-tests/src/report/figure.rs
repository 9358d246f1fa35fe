//! A drawing on the page: its name, its keys, what it says in words, and the table behind it.

use super::chart::{Charts, Svg, WIDTH};
use super::page::ROWS_MAX;
use super::story::{Point, Story};
use crate::run::Trial;
use maud::{Markup, PreEscaped, html};

/// A drawing with its name, what it says in words, its keys, and the table behind it.
struct Figure<'a> {
    id: &'static str,
    title: &'static str,
    says: String,
    keys: &'static [(&'static str, &'static str)],
    svg: &'a Svg,
    table: Markup,
}

impl Figure<'_> {
    fn render(&self) -> Markup {
        let (title, desc) = (format!("{}-title", self.id), format!("{}-desc", self.id));
        html! {
            figure {
                figcaption {
                    b { (self.title) } " "
                    @for (class, what) in self.keys { span class={ "key " (class) } { i {} (what) } }
                }
                svg viewBox=(format!("0 0 {WIDTH} {}", self.svg.height)) role="img" aria-labelledby={ (title) " " (desc) }
                    xmlns="http://www.w3.org/2000/svg" {
                    title id=(title) { (self.title) }
                    desc id=(desc) { (self.says) }
                    (PreEscaped(&self.svg.inside))
                }
                details { summary { "the same as a table" } div class="scroll" { (self.table) } }
            }
        }
    }
}

/// All drawings, one below the other.
pub(super) fn drawings(trial: &Trial, story: &Story, charts: &Charts) -> Markup {
    let figures = [
        timeline(story, &charts.timeline),
        queries(trial, story, &charts.queries),
        shares(story, &charts.shares),
        acked(trial, story, &charts.acked),
        latency(trial, story, &charts.latency),
    ];
    html! {
        section {
            h2 { "How it went" }
            p class="soft" {
                "Times are seconds of the run, the same on every drawing; shaded is where something was broken. A point stands for "
                (story.width_s) " s."
            }
            @for figure in &figures { (figure.render()) }
        }
    }
}

fn timeline<'a>(story: &Story, svg: &'a Svg) -> Figure<'a> {
    let table = html! {
        table {
            thead { tr { th class="n" { "from" } th class="n" { "until" } th { "who" } th { "what" } } }
            tbody {
                @for span in &story.phases {
                    tr { (time(span.from_s)) (time(span.until_s)) td { "phase" } td { (span.phase) } }
                }
                @for bar in story.bars.iter().take(ROWS_MAX) {
                    tr { (time(bar.from_s)) (time(bar.until_s)) td { (bar.member) } td { (bar.kind) } }
                }
                @for change in story.changes.iter().take(ROWS_MAX) {
                    tr { (time(change.at_s)) td {} td { (change.member) } td { "leads " (change.group) } }
                }
            }
        }
    };
    let says = format!(
        "{} phases; {} faults on {} members; {} times another leader was elected.",
        story.phases.len(),
        story.bars.len(),
        story.members.len(),
        story.changed
    );
    let title = "Phases, faults by member, and new leaders";
    Figure { id: "timeline", title, says, keys: &[("blue", "another leader")], svg, table }
}

fn time(at_s: f64) -> Markup {
    html! { td class="n" { (format!("{at_s:.1} s")) } }
}

/// What a column says of a point.
type Column = (&'static str, fn(&Point) -> Option<f64>);

/// A table of figures, a row a point.
fn table(story: &Story, columns: &[Column]) -> Markup {
    html! {
        table {
            thead { tr { th class="n" { "from" } @for (name, _) in columns { th class="n" { (name) } } } }
            tbody {
                @for point in &story.points {
                    tr {
                        (time(point.at_s))
                        @for (_, of) in columns {
                            td class="n" { (of(point).map_or_else(String::new, |value| format!("{value:.1}"))) }
                        }
                    }
                }
            }
        }
    }
}

fn queries<'a>(trial: &Trial, story: &Story, svg: &'a Svg) -> Figure<'a> {
    let figures = &trial.figures;
    let says = format!(
        "{} queries were answered, {} of the answers were not personal though they could have been, {} queries failed through living nodes.",
        figures.queries, figures.impersonal, figures.queries_failed
    );
    let keys = &[("blue", "answered"), ("orange", "not personal"), ("red", "failed through living nodes")];
    let table = table(
        story,
        &[
            ("answered a second", |point| Some(point.answered)),
            ("not personal a second", |point| Some(point.impersonal)),
            ("failed a second", |point| Some(point.failed)),
        ],
    );
    Figure { id: "queries", title: "Queries a second", says, keys, svg, table }
}

fn shares<'a>(story: &Story, svg: &'a Svg) -> Figure<'a> {
    let worst = |of: fn(&Point) -> f64| story.points.iter().map(of).fold(100.0, f64::min);
    let says = format!(
        "At worst {:.0} percent of the asked shards answered in a second, and {:.0} percent of the answers were personal.",
        worst(|point| point.coverage),
        worst(|point| point.personal)
    );
    let keys = &[("blue", "asked shards that answered"), ("orange", "answers that used the user's own state")];
    let columns: [Column; 2] =
        [("coverage %", |point| Some(point.coverage)), ("personal %", |point| Some(point.personal))];
    let table = table(story, &columns);
    Figure { id: "coverage", title: "Coverage, percent, the worst second of each point", says, keys, svg, table }
}

fn acked<'a>(trial: &Trial, story: &Story, svg: &'a Svg) -> Figure<'a> {
    let says = format!("{} events were acked in all.", trial.figures.events_acked);
    let table = table(story, &[("acked a second", |point| Some(point.acked))]);
    Figure { id: "acked", title: "Events acked a second", says, keys: &[("blue", "acked")], svg, table }
}

fn latency<'a>(trial: &Trial, story: &Story, svg: &'a Svg) -> Figure<'a> {
    let by_phase = trial.figures.latencies.iter();
    let by_phase: Vec<String> = by_phase
        .map(|one| {
            format!("{}: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms", one.phase, one.p50_ms, one.p99_ms, one.max_ms)
        })
        .collect();
    let table = table(story, &[("p50 ms", |point| point.p50_ms), ("p99 ms", |point| point.p99_ms)]);
    let title = "Latency of answered queries, milliseconds, logarithmic";
    let keys = &[("blue", "p50"), ("orange", "p99")];
    Figure { id: "latency", title, says: format!("By phase: {}.", by_phase.join("; ")), keys, svg, table }
}
