//! Proves the provers: a build that carries known bugs is put before the worlds, and each bug must be caught.
//!
//! | module | owns |
//! |---|---|
//! | [`plan`] | which world and which checker owes the capture of which bug |
//! | [`drive`] | one run after another in child processes until the bug is caught, and the table |
//! | [`ground`] | what the probes do to a lab |
//! | [`writes`], [`reads`], [`replicas`] | the probes: small directed runs over the lab, which judge by themselves |
//!
//! A probe is told nothing of the bug: it does to a cluster what its promise must survive, and it must find nothing in a sound one.

pub mod drive;
mod ground;
pub mod plan;
mod reads;
mod replicas;
mod writes;

use anyhow::{Context, Result};
use docent_trial::check::Checker;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A broken promise that a run saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whose business it is.
    pub checker: Checker,
    /// In words.
    pub what: String,
}

impl Finding {
    pub(crate) fn new(checker: Checker, what: impl Into<String>) -> Finding {
        Finding { checker, what: what.into() }
    }
}

/// What a probe needs.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// What the members run; the binary beside this one where it is not given.
    pub binary: Option<PathBuf>,
    /// From 1; varies what a probe does.
    pub round: u64,
}

/// What it saw. An error means that it could not be told.
pub type Outcome = Result<Vec<Finding>>;

/// A small directed run.
pub type Probe = fn(&Subject) -> Outcome;

/// Every probe by its name.
pub const PROBES: &[(&str, Probe)] = &[
    ("leader-killed", writes::leader_killed),
    ("leader-paused", writes::leader_paused),
    ("restart", writes::restart),
    ("power-loss", writes::power_loss),
    ("power-loss-after-purge", writes::power_loss_after_purge),
    ("erasure", writes::erasure),
    ("stale-read", reads::stale_read),
    ("take-down", reads::take_down),
    ("paused-replica", reads::paused_replica),
    ("blocks", reads::blocks),
    ("lost-shard", reads::lost_shard),
    ("prefix", reads::prefix),
    ("cached-answers", reads::cached_answers),
    ("activation", reads::activation),
    ("digests", replicas::digests),
    ("snapshot", replicas::snapshot),
    ("move", replicas::moves),
    ("lagging-coordinator", replicas::lagging_coordinator),
];

/// The probe of a name.
///
/// # Errors
/// There is none.
pub fn probe(name: &str) -> Result<Probe> {
    let found = PROBES.iter().find(|(known, _)| *known == name).map(|(_, probe)| *probe);
    found.with_context(|| format!("there is no probe {name:?}"))
}

/// Runs a probe. A member that ends by itself, and a cluster that does not come up, are findings of any of them.
///
/// # Errors
/// Where nothing can be told.
pub fn carry_out(name: &str, subject: &Subject) -> Outcome {
    probe(name)?(subject).or_else(|error| {
        let text = format!("{error:#}");
        let is_dead = ["ended by itself", "the cluster is not ready after"].iter().any(|known| text.contains(known));
        if is_dead { Ok(vec![Finding::new(Checker::Liveness, briefly(&text))]) } else { Err(error) }
    })
}

/// What a person reads of a long error: its first line, and the loudest of those that follow.
pub(crate) fn briefly(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let loud = text.lines().skip(1).find(|line| line.contains(" ERROR ") || line.contains("panicked"));
    loud.map_or_else(|| first.to_owned(), |loud| format!("{first} {loud}"))
}
