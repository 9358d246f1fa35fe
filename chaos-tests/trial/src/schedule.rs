//! Faults in time: what is done to a cluster, printable, replayable, shrinkable.
//!
//! ```text
//! seed 42
//! 2000ms for 5000ms kill leader-of-most-shards
//! 9000ms when training 90% kill training-driver
//! ```

mod conductor;
mod generate;
mod shrink;

pub use conductor::{Conductor, Done};
pub use generate::{Space, SpaceError};
pub use shrink::{Minimised, minimise};

use crate::fault::Fault;
use crate::text::{ParseError, Words, as_text, named};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

named! {
    /// How far the move of a replica is.
    "phase of a move" MovePhase {
        /// The new replica was allocated; it may be empty.
        Begun = "begun",
        /// It is a learner of the group and catches up.
        Learner = "learner",
        /// The membership is joint.
        Joint = "joint",
        /// The old replica is out and not destroyed yet.
        Leaving = "leaving",
    }
}

/// What a step waits for from its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trigger {
    /// `training 90%`: a job has done so much of its epochs.
    Training {
        /// Of 100.
        percent: u8,
    },
    /// `move joint`: a replica is on its way and so far.
    Move(MovePhase),
    /// `model staged`: a version waits for its activation.
    Staged,
}

impl fmt::Display for Trigger {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Training { percent } => write!(to, "training {percent}%"),
            Trigger::Move(phase) => write!(to, "move {phase}"),
            Trigger::Staged => to.write_str("model staged"),
        }
    }
}

impl Trigger {
    fn read(words: &mut Words<'_>) -> Result<Trigger, ParseError> {
        match words.word("what to wait for")? {
            "training" => Ok(Trigger::Training { percent: words.percent()? }),
            "move" => Ok(Trigger::Move(words.parsed("the phase of a move")?)),
            "model" => words.literal("staged").map(|()| Trigger::Staged),
            other => words
                .fail(format!("`{other}` is nothing to wait for; known are training 90%, move joint, model staged")),
        }
    }
}

impl FromStr for Trigger {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Trigger, ParseError> {
        let mut words = Words::of("trigger", text);
        let trigger = Trigger::read(&mut words)?;
        words.end()?;
        Ok(trigger)
    }
}

/// A fault at its time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// Milliseconds from the beginning of [`crate::Phase::Chaos`].
    pub at_ms: u64,
    /// After so many milliseconds it is undone; `None` until the phase ends.
    pub for_ms: Option<u64>,
    /// From its time on it waits for this; where that does not come before the phase ends, it is skipped.
    pub when: Option<Trigger>,
    /// What is done.
    pub fault: Fault,
}

impl Step {
    /// A fault that stays.
    pub fn at(at_ms: u64, fault: Fault) -> Step {
        Step { at_ms, for_ms: None, when: None, fault }
    }

    /// A fault that is undone after `for_ms`.
    pub fn during(at_ms: u64, for_ms: u64, fault: Fault) -> Step {
        Step { at_ms, for_ms: Some(for_ms), when: None, fault }
    }

    /// The same, once this is the case.
    pub fn once(self, trigger: Trigger) -> Step {
        Step { when: Some(trigger), ..self }
    }

    /// When it is over, were it not to wait; `None` where it stays.
    pub fn until_ms(&self) -> Option<u64> {
        self.for_ms.map(|length| self.at_ms.saturating_add(length))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}ms ", self.at_ms)?;
        if let Some(length) = self.for_ms {
            write!(to, "for {length}ms ")?;
        }
        if let Some(trigger) = self.when {
            write!(to, "when {trigger} ")?;
        }
        write!(to, "{}", self.fault)
    }
}

impl FromStr for Step {
    type Err = ParseError;
    fn from_str(line: &str) -> Result<Step, ParseError> {
        let mut words = Words::of("step", line);
        let at_ms = words.duration_ms()?;
        let for_ms = if words.take("for") { Some(words.duration_ms()?) } else { None };
        let when = if words.take("when") { Some(Trigger::read(&mut words)?) } else { None };
        Ok(Step { at_ms, for_ms, when, fault: words.rest().parse()? })
    }
}

as_text!(Trigger, Step);

/// What is done to a cluster, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Decides everything that is drawn while it is carried out.
    pub seed: u64,
    /// In the order of their times.
    pub steps: Vec<Step>,
}

impl Schedule {
    /// Steps in the order of their times; those of one time as they are given.
    pub fn new(seed: u64, mut steps: Vec<Step>) -> Schedule {
        steps.sort_by_key(|step| step.at_ms);
        Schedule { seed, steps }
    }

    /// The seed for what the step at this place draws: the same in every replay, also where steps before it were dropped.
    pub fn seed_of(&self, step: &Step) -> u64 {
        // FNV-1a over the text of the step: its place changes when a schedule shrinks, its text does not.
        let text = format!("{step}");
        text.bytes().fold(self.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// When the last step is over, were none to wait.
    pub fn length_ms(&self) -> u64 {
        self.steps.iter().map(|step| step.until_ms().unwrap_or(step.at_ms)).max().unwrap_or(0)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "seed {}", self.seed)?;
        self.steps.iter().try_for_each(|step| writeln!(to, "{step}"))
    }
}

impl FromStr for Schedule {
    type Err = ParseError;
    /// A step a line; empty lines and what follows `#` say nothing.
    fn from_str(text: &str) -> Result<Schedule, ParseError> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut lines = lines.filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let mut words = Words::of("schedule", first);
        words.literal("seed")?;
        let seed = words.number("")?;
        words.end()?;
        Ok(Schedule::new(seed, lines.map(str::parse).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests;
