//! The scenarios that this program carries: every file of `chaos-tests/scenarios`, and those that an engineer writes.

use anyhow::{Context, Result, bail};
use docent_trial::{Scenario, WorldKind};
use std::path::Path;

/// The files, as they were when this was built.
const FILES: &[&str] = include!(concat!(env!("OUT_DIR"), "/scenarios.rs"));

/// Every scenario that came with this program, by name.
///
/// # Errors
/// One of them is wrong: a defect of this build.
pub fn all() -> Result<Vec<Scenario>> {
    let read =
        |text: &&str| Scenario::from_toml(text).with_context(|| text.lines().next().unwrap_or_default().to_owned());
    let mut all: Vec<Scenario> = FILES.iter().map(read).collect::<Result<_>>()?;
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// The scenario of a name, or of a file.
///
/// # Errors
/// There is no such name, or the file is no scenario: with the field that is wrong.
pub fn find(name_or_file: &str) -> Result<Scenario> {
    if let Some(scenario) = all()?.into_iter().find(|scenario| scenario.name == name_or_file) {
        return Ok(scenario);
    }
    let path = Path::new(name_or_file);
    if path.is_file() {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        return Scenario::from_toml(&text).with_context(|| format!("the scenario file {}", path.display()));
    }
    match docent_trial::matrix::find(name_or_file) {
        Some(row) => {
            let why = row.lacks.unwrap_or("nobody wrote it yet");
            bail!("scenario {name_or_file} is missing ({why}); `docent-chaos list` shows those that are there")
        }
        None => bail!(
            "there is no scenario `{name_or_file}`, and no file of that name; `docent-chaos list` shows all names"
        ),
    }
}

/// Names and worlds of what can be run.
///
/// # Errors
/// As [`all`].
pub fn built() -> Result<Vec<(String, WorldKind)>> {
    let worlds = |scenario: Scenario| {
        let Scenario { name, worlds, .. } = scenario;
        worlds.into_iter().map(move |world| (name.clone(), world))
    };
    Ok(all()?.into_iter().flat_map(worlds).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_file_is_a_scenario_and_names_are_unique() {
        let all = all().unwrap();
        assert!(all.windows(2).all(|pair| pair[0].name != pair[1].name));
        assert!(all.iter().any(|scenario| scenario.name == "leader-loss"));
    }

    #[test]
    fn what_is_not_there_is_told_with_the_way_to_what_is() {
        let error = |name: &str| format!("{:#}", find(name).unwrap_err());
        assert!(error("no-such-thing").contains("docent-chaos list"));
        assert!(error("training-duplicate-push").contains("is missing (no scenario"));
    }
}
