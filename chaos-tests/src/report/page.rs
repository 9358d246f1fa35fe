//! The page around the drawings. maud escapes whatever a cluster, a file or a log has said.

use super::chart::Charts;
use super::figure::drawings;
use super::story::Story;
use crate::run::Trial;
use crate::run::figures::Felt;
use docent_trial::check::{Checker, Verdict, Violation};
use docent_trial::{Applied, WorldKind};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Rows of a list at most; the rest is counted.
pub(super) const ROWS_MAX: usize = 200;
/// Characters of what somebody else has written, at most.
const TEXT_MAX: usize = 300;
const SCHEDULE_MAX: usize = 20_000;

/// A text that may be long, cut.
fn cut(text: &str, max: usize) -> String {
    let mut cut: String = text.chars().take(max).collect();
    if cut.len() < text.len() {
        cut.push_str(" [...]");
    }
    cut
}

fn seconds(time: Option<f64>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{time:.2} s"))
}

/// The whole page.
pub(super) fn render(trial: &Trial, story: &Story, charts: &Charts) -> Markup {
    let name = cut(&trial.scenario, TEXT_MAX);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (name) ": " (if trial.is_passed { "passed" } else { "failed" }) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                (summary(trial, &name))
                main {
                    (faults(trial))
                    (drawings(trial, story, charts))
                    (verdicts(trial))
                    (left_out(trial))
                    (again(trial))
                }
            }
        }
    }
}

fn summary(trial: &Trial, name: &str) -> Markup {
    let (class, verdict) = if trial.is_passed { ("pass", "Passed") } else { ("fail", "Failed") };
    let header = &trial.history.header;
    html! {
        header {
            p class={ "verdict " (class) } { (verdict) }
            h1 { (name) }
            p { (cut(&trial.shows, TEXT_MAX)) }
            p class="soft" {
                (place(trial.world)) ", seed " (trial.seed) ", " (format!("{:.1}", trial.figures.seconds)) " s: "
                (header.nodes) " nodes, " (header.coordinators) " coordinators, " (header.replication) " replicas of each of "
                (header.user_shards) " user and " (header.item_shards) " item shards."
            }
            (figures(trial))
        }
    }
}

fn place(world: WorldKind) -> &'static str {
    match world {
        WorldKind::Sim => "In the simulation",
        WorldKind::Lab => "In a lab of real processes",
        WorldKind::Drill => "On a cluster that an engineer named",
    }
}

fn figures(trial: &Trial) -> Markup {
    let figures = &trial.figures;
    let felt = || figures.faults.iter().filter(|felt| felt.led > 0);
    // The longest: what an operator has to reckon with.
    let longest = |of: fn(&Felt) -> Option<f64>| {
        let all: Option<Vec<f64>> = felt().map(of).collect();
        let longest = all.map(|all| all.into_iter().fold(0.0, f64::max));
        if felt().next().is_none() { "no leader was lost".to_owned() } else { seconds(longest) }
    };
    let lost = figures.events_lost.map_or_else(|| "not audited".to_owned(), |lost| lost.to_string());
    let failed = format!("{} of {}", figures.queries_failed, figures.queries + figures.queries_failed);
    let tiles = [
        ("until another leader led, at worst", longest(|felt| felt.detected_s)),
        ("until every shard took writes, at worst", longest(|felt| felt.recovered_s)),
        ("queries failed through living nodes", failed),
        ("events acked", figures.events_acked.to_string()),
        ("acked events lost", lost),
        ("events of unknown outcome", figures.events_unknown.to_string()),
        ("answers that missed something and said so", figures.degraded.to_string()),
        ("of these, not personal", figures.impersonal.to_string()),
    ];
    html! {
        dl class="figures" {
            @for (what, figure) in tiles { div { dt { (what) } dd { (figure) } } }
        }
    }
}

fn faults(trial: &Trial) -> Markup {
    let faults = &trial.figures.faults;
    html! {
        section {
            h2 { "What was done" }
            @if faults.is_empty() { p { "Nothing but load." } }
            @else {
                div class="scroll" { table {
                    thead { tr {
                        th class="n" { "at" } th { "fault" } th { "what came of it" } th class="n" { "leaders lost" }
                        th class="n" { "another led" } th class="n" { "all took writes" }
                    } }
                    tbody { @for felt in faults.iter().take(ROWS_MAX) { (fault(felt)) } }
                } }
                (more(faults.len()))
            }
            @for note in trial.figures.notes.iter().take(ROWS_MAX) { p { "Note: " (cut(note, TEXT_MAX)) } }
        }
    }
}

fn fault(felt: &Felt) -> Markup {
    let time = |time: Option<f64>| if felt.led == 0 { String::new() } else { seconds(time) };
    html! {
        tr {
            td class="n" { (format!("{:.2} s", felt.at_s)) }
            td { @if felt.is_end { "end of " } (cut(&felt.fault, TEXT_MAX)) }
            td { (cut(&felt.applied, TEXT_MAX)) }
            td class="n" { (felt.led) }
            td class="n" { (time(felt.detected_s)) }
            td class="n" { (time(felt.recovered_s)) }
        }
    }
}

fn more(count: usize) -> Markup {
    html! { @if count > ROWS_MAX { p class="soft" { "and " (count - ROWS_MAX) " more, which the history has" } } }
}

fn verdicts(trial: &Trial) -> Markup {
    html! {
        section {
            h2 { "Verdicts" }
            div class="scroll" { table {
                thead { tr { th { "judge" } th { "verdict" } th { "evidence" } } }
                tbody { @for (checker, verdict) in &trial.judgement.verdicts { (self::verdict(*checker, verdict)) } }
            } }
        }
    }
}

fn verdict(checker: Checker, verdict: &Verdict) -> Markup {
    let (class, word) = match verdict {
        Verdict::Pass { .. } => ("pass", "pass"),
        Verdict::Fail { .. } => ("fail", "FAIL"),
        Verdict::Unknown { .. } => ("open", "UNKNOWN: no pass"),
        Verdict::NotApplicable { .. } => ("soft", "nothing to judge"),
    };
    html! {
        tr {
            td { (checker) }
            td class=(class) { (word) }
            td {
                @match verdict {
                    Verdict::Pass { judged } => { (judged) " judged" }
                    Verdict::Fail { count, evidence } => {
                        (count) " violations"
                        ul { @for one in evidence { (violation(one)) } }
                    }
                    Verdict::Unknown { why } | Verdict::NotApplicable { why } => (cut(why, TEXT_MAX)),
                }
            }
        }
    }
}

fn violation(one: &Violation) -> Markup {
    let operations: Vec<String> = one.operations.iter().take(8).map(u64::to_string).collect();
    html! {
        li {
            b { (cut(&one.kind, TEXT_MAX)) } ": " (cut(&one.what, TEXT_MAX))
            @if let Some(at_us) = one.at_us { " (at " (format!("{:.3}", at_us as f64 / 1e6)) " s)" }
            @if !operations.is_empty() { span class="soft" { " operations " (operations.join(", ")) } }
        }
    }
}

/// What was not done, and what was not judged.
fn left_out(trial: &Trial) -> Markup {
    let faults: Vec<(String, &'static str, &str)> = trial
        .history
        .faults
        .iter()
        .filter_map(|mark| {
            let (word, why) = match &mark.applied {
                Applied::Installed { .. } => return None,
                Applied::Skipped { why } => ("skipped", why),
                Applied::Indeterminate { why } => ("may have happened or not", why),
            };
            Some((mark.fault.to_string(), word, why.as_str()))
        })
        .collect();
    let verdicts = trial.judgement.verdicts.iter().filter_map(|(checker, verdict)| match verdict {
        Verdict::Unknown { why } => Some((checker, "could not tell", why)),
        Verdict::NotApplicable { why } => Some((checker, "had nothing to judge", why)),
        _ => None,
    });
    let verdicts: Vec<_> = verdicts.collect();
    html! {
        section {
            h2 { "What was skipped, and why" }
            @if faults.is_empty() && verdicts.is_empty() { p { "Nothing: every fault was done, and every judge judged." } }
            ul {
                @for (fault, word, why) in faults.iter().take(ROWS_MAX) {
                    li { (cut(fault, TEXT_MAX)) " " b { (word) } ": " (cut(why, TEXT_MAX)) }
                }
                @for (checker, word, why) in verdicts { li { "judge " (checker) " " b { (word) } ": " (cut(why, TEXT_MAX)) } }
            }
            (more(faults.len()))
        }
    }
}

fn again(trial: &Trial) -> Markup {
    html! {
        section {
            h2 { "To run it again" }
            pre { (command(trial)) }
            p { "The schedule as it was planned; `docent-chaos replay --history FILE` does the same to another cluster." }
            pre { (cut(&trial.history.header.schedule, SCHEDULE_MAX)) }
        }
    }
}

/// A word of a shell.
fn quoted(word: &str) -> String {
    let is_plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn command(trial: &Trial) -> String {
    let (name, seed) = (quoted(&cut(&trial.scenario, TEXT_MAX)), trial.seed);
    match trial.world {
        WorldKind::Sim => format!("docent-sim run --seed {seed}"),
        WorldKind::Lab => format!("docent-chaos run --scenario {name} --seed {seed}"),
        WorldKind::Drill => {
            format!("docent-chaos run --scenario {name} --seed {seed} --cluster FILE --yes-break-this-cluster")
        }
    }
}
