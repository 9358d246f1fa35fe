//! The simulation is deterministic, and Docent keeps its promises in it: a few seeds here, hundreds in `make chaos`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use docent_sim::batch::{batch, one, twice};
use std::path::Path;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_docent-sim"))
}

fn passes(seeds: &[u64]) {
    let said = std::sync::Mutex::new(String::new());
    let say = |line: &str| {
        let mut said = said.lock().unwrap();
        said.push_str(line);
        said.push('\n');
    };
    let summary = batch(program(), seeds, 2, &say).unwrap();
    assert!(summary.is_pass(), "{}", said.lock().unwrap());
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let report = twice(program(), 7).unwrap();
    assert!(report.trace_lines > 10_000, "{} lines are too few to compare", report.trace_lines);
    assert_ne!(one(program(), 15, None).unwrap().trace, report.trace);
}

#[test]
fn promises_hold_through_deaths_power_loss_and_cuts() {
    passes(&[8, 9, 10]);
}

#[test]
fn what_failed_once_does_not_fail_again() {
    let text = include_str!("../../regressions.txt");
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let seeds: Vec<u64> = lines.filter(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect();
    if !seeds.is_empty() {
        passes(&seeds);
    }
}
