//! What a run was and what came of it, as text.

use crate::Output;
use anyhow::{Context, Result};
use docent_chaos::run::Trial;
use docent_chaos::run::figures::{Felt, Figures};
use serde_json::json;
use std::path::Path;

/// Prints a trial.
pub(crate) fn trial(trial: &Trial, output: Output) -> Result<()> {
    if output == Output::Json {
        println!("{:#}", json!(trial));
        return Ok(());
    }
    let Trial { scenario, shows, world, seed, judgement, figures, .. } = trial;
    println!("\n{scenario} in the {world}, seed {seed}: {}", if trial.is_passed { "passed" } else { "FAILED" });
    println!("  {shows}");
    self::figures(figures);
    println!("verdicts:");
    for (checker, verdict) in &judgement.verdicts {
        println!("  {checker:<9} {verdict}");
    }
    Ok(())
}

fn figures(figures: &Figures) {
    for felt in figures.faults.iter().filter(|felt| !felt.is_end) {
        fault(felt);
    }
    let lost = figures.events_lost.map_or_else(|| "not audited".to_owned(), |lost| format!("{lost} lost"));
    println!(
        "events: {} acked, {lost}, {} unknown; {} tries failed through living nodes and were sent again",
        figures.events_acked, figures.events_unknown, figures.tries_failed
    );
    println!(
        "queries: {} answered, {} failed through living nodes, {} with their own node; {} answers were degraded and said so, {} of them not personal",
        figures.queries, figures.queries_failed, figures.queries_cut_off, figures.degraded, figures.impersonal
    );
    for latency in &figures.latencies {
        let docent_chaos::run::figures::Latency { phase, p50_ms, p99_ms, max_ms } = latency;
        println!("  {phase:<9} p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, max {max_ms:.1} ms");
    }
    let worst = figures.curve.iter().map(|second| second.coverage).fold(1.0, f64::min);
    println!(
        "coverage: at worst {:.0} % of the asked shards in a second; {:.1} s in all",
        worst * 100.0,
        figures.seconds
    );
    figures.notes.iter().for_each(|note| println!("note: {note}"));
}

fn fault(felt: &Felt) {
    print!("{:>7.1} s  {}: {}", felt.at_s, felt.fault, felt.applied);
    if felt.led > 0 {
        let seconds = |time: Option<f64>| time.map_or_else(|| "never".to_owned(), |time| format!("{time:.2} s"));
        print!(
            "; {} shards lost their leader, the first led again after {}, all took writes after {}",
            felt.led,
            seconds(felt.detected_s),
            seconds(felt.recovered_s)
        );
    }
    println!();
}

/// Writes the report's file: JSON by its name, a page for people otherwise.
pub(crate) fn report(trial: &Trial, path: &Path) -> Result<()> {
    let text = match path.extension().is_some_and(|extension| extension == "json") {
        true => format!("{:#}\n", json!(trial)),
        false => docent_chaos::report::page(trial)?,
    };
    std::fs::write(path, text).with_context(|| format!("cannot write the report {}", path.display()))
}
