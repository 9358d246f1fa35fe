//! What carries a schedule out: the simulation, the lab, or a cluster that an engineer named.

use crate::fault::{Fault, Kind};
use crate::name::Member;
use crate::schedule::Trigger;
use crate::target::Scene;
use crate::text::named;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

named! {
    /// Where a trial runs.
    "world" WorldKind {
        /// A whole cluster in one process, time and chance included: the same seed gives the same run.
        Sim = "sim",
        /// Real processes on one machine.
        Lab = "lab",
        /// A cluster that an engineer named.
        Drill = "drill",
    }
}

named! {
    /// The parts of a run, in order.
    "phase" Phase {
        /// Load alone: what is right without faults.
        Baseline = "baseline",
        /// The schedule, under load.
        Chaos = "chaos",
        /// Everything is undone.
        Heal = "heal",
        /// Load goes on; what must come back does.
        Converge = "converge",
        /// No load; everything is read and exported.
        Audit = "audit",
    }
}

/// What came of a fault. Anything else voids a run: a world that cannot say which of the three it was has to end it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "applied", rename_all = "snake_case")]
pub enum Applied {
    /// It is so now.
    Installed {
        /// In words, for a report: `killed node-2 (pid 4711)`.
        what: String,
        /// Whom it hit; what [`Fault::undone`] needs.
        on: BTreeSet<Member>,
    },
    /// Nothing was done, on purpose: nobody plays the role, or this world cannot do it.
    Skipped {
        /// Why.
        why: String,
    },
    /// It may be so or not; checkers take it for either.
    Indeterminate {
        /// Why.
        why: String,
    },
}

impl Applied {
    /// It is so now, for these members.
    pub fn installed(what: impl Into<String>, on: impl IntoIterator<Item = Member>) -> Applied {
        Applied::Installed { what: what.into(), on: on.into_iter().collect() }
    }

    /// Nothing was done.
    pub fn skipped(why: impl Into<String>) -> Applied {
        Applied::Skipped { why: why.into() }
    }

    /// It may be so or not.
    pub fn indeterminate(why: impl Into<String>) -> Applied {
        Applied::Indeterminate { why: why.into() }
    }

    /// Whether it is so for certain.
    pub fn is_installed(&self) -> bool {
        matches!(self, Applied::Installed { .. })
    }
}

impl std::fmt::Display for Applied {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Applied::Installed { what, .. } => to.write_str(what),
            Applied::Skipped { why } => write!(to, "skipped: {why}"),
            Applied::Indeterminate { why } => write!(to, "indeterminate: {why}"),
        }
    }
}

/// A cluster to which faults can be done.
///
/// Everything that a world does is told in what it returns; an error inside is [`Applied::Indeterminate`] where the fault may have happened,
/// and [`Applied::Skipped`] where it surely did not.
pub trait World {
    /// Which of them it is.
    fn kind(&self) -> WorldKind;

    /// Whether it can do such a fault at all, and why not.
    ///
    /// # Errors
    /// The reason, for a person: `needs root`, `tc is missing`.
    fn can(&self, kind: Kind) -> Result<(), String>;

    /// The cluster as it is now, for [`crate::Target::resolve`].
    fn scene(&mut self) -> Scene;

    /// Whether what a step waits for is the case now; `Err` where this world cannot tell.
    ///
    /// # Errors
    /// The reason, for a person.
    fn holds(&mut self, trigger: &Trigger) -> Result<bool, String>;

    /// Does it. `seed` is for `random(n)` and everything else that is drawn.
    fn apply(&mut self, fault: &Fault, seed: u64) -> Applied;
}
