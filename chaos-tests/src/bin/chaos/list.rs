//! `docent-chaos list`: the matrix, row by row, with what is missing counted as missing.

use crate::{Ending, Output};
use anyhow::Result;
use docent_chaos::scenarios;
use docent_trial::WorldKind;
use docent_trial::matrix::{Standing, State, standings};
use serde_json::json;

/// How every row stands in every world, by this program and the simulation's.
pub(crate) fn all() -> Result<Vec<Standing>> {
    let mut built = scenarios::built()?;
    if crate::sim::program().is_err() {
        built.retain(|(_, world)| *world != WorldKind::Sim);
    }
    let built: Vec<(&str, WorldKind)> = built.iter().map(|(name, world)| (name.as_str(), *world)).collect();
    Ok(standings(&built))
}

pub(crate) fn list(output: Output) -> Result<Ending> {
    let all = all()?;
    let missing = all.iter().filter(|one| one.state != State::Built).count();
    if output == Output::Json {
        let row = |one: &Standing| json!({ "scenario": one.row.name, "what": one.row.what, "world": one.world, "state": one.state, "why": one.why() });
        let rows: Vec<_> = all.iter().map(row).collect();
        println!("{:#}", json!({ "rows": rows, "missing": missing }));
        return Ok(Ending::Passed);
    }
    for one in &all {
        println!("{:<33} {:<6} {:<21} {}", one.row.name, one.world, one.state, one.row.what);
    }
    let ours = scenarios::all()?;
    for scenario in ours.iter().filter(|scenario| docent_trial::matrix::find(&scenario.name).is_none()) {
        println!("{:<33} {:<6} {:<21} {}", scenario.name, scenario.worlds[0], "beside the matrix", scenario.shows);
    }
    println!("\n{} of {} rows are there, {missing} are missing:", all.len() - missing, all.len());
    for one in all.iter().filter(|one| one.state != State::Built) {
        println!("  {} in the {}: {}", one.row.name, one.world, one.why());
    }
    Ok(Ending::Passed)
}
