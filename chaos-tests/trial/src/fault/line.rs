//! A fault as one line, and back: `<verb> <target> ...`, the numbers with their units.

use super::{Fault, Kind};
use crate::target::is_zone;
use crate::text::{ParseError, Words, as_text};
use std::fmt;
use std::str::FromStr;

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = self.kind();
        match self {
            Fault::Partition { side, from } => write!(to, "{verb} {side} from {from}"),
            Fault::OneWay { from, to: other } => write!(to, "{verb} {from} to {other}"),
            Fault::Bridge { side, from, through } => write!(to, "{verb} {side} from {from} through {through}"),
            Fault::Loss { on, percent } | Fault::Reorder { on, percent } | Fault::Duplicate { on, percent } => {
                write!(to, "{verb} {on} {percent}%")
            }
            Fault::Cpu { on, percent } => write!(to, "{verb} {on} {percent}%"),
            Fault::Delay { on, ms } | Fault::Jitter { on, ms } | Fault::SlowSync { on, ms } => {
                write!(to, "{verb} {on} {ms}ms")
            }
            Fault::Bandwidth { on, kbit } => write!(to, "{verb} {on} {kbit}kbit"),
            Fault::BitRot { on, bits } => write!(to, "{verb} {on} {bits}bits"),
            Fault::ClockJump { on, ms } => write!(to, "{verb} {on} {ms:+}ms"),
            Fault::ClockDrift { on, ppm } => write!(to, "{verb} {on} {ppm:+}ppm"),
            Fault::Memory { on, mib } => write!(to, "{verb} {on} {mib}MiB"),
            Fault::Join { zone: None } | Fault::Train | Fault::RollBack | Fault::Activate { version: None } => {
                write!(to, "{verb}")
            }
            Fault::Join { zone: Some(zone) } => write!(to, "{verb} {zone}"),
            Fault::Activate { version: Some(version) } => write!(to, "{verb} {version}"),
            Fault::MoveShard { shard, from, to: other } => write!(to, "{verb} {shard} from {from} to {other}"),
            Fault::TransferLeader { group, to: other } => write!(to, "{verb} {group} to {other}"),
            Fault::RestartWith { on, version } => write!(to, "{verb} {on} {version}"),
            Fault::Heal { on, layer } => write!(to, "{verb} {on} {layer}"),
            // All others have a target alone.
            other => match other.target() {
                Some(target) => write!(to, "{verb} {target}"),
                None => write!(to, "{verb}"),
            },
        }
    }
}

impl FromStr for Fault {
    type Err = ParseError;
    fn from_str(line: &str) -> Result<Fault, ParseError> {
        let mut words = Words::of("fault", line);
        let kind: Kind = words.parsed("a fault, such as kill,")?;
        let fault = match kind {
            Kind::Kill => Fault::Kill(words.target()?),
            Kind::Pause => Fault::Pause(words.target()?),
            Kind::Continue => Fault::Continue(words.target()?),
            Kind::Restart => Fault::Restart(words.target()?),
            Kind::Wipe => Fault::Wipe(words.target()?),
            Kind::PowerLoss => Fault::PowerLoss(words.target()?),
            Kind::Reset => Fault::Reset(words.target()?),
            Kind::DiskFull => Fault::DiskFull(words.target()?),
            Kind::DiskReadOnly => Fault::DiskReadOnly(words.target()?),
            Kind::SyncError => Fault::SyncError(words.target()?),
            Kind::TornWrite => Fault::TornWrite(words.target()?),
            Kind::LostWrites => Fault::LostWrites(words.target()?),
            Kind::Drain => Fault::Drain(words.target()?),
            Kind::Resume => Fault::Resume(words.target()?),
            Kind::Remove => Fault::Remove(words.target()?),
            Kind::Replace => Fault::Replace(words.target()?),
            Kind::LoseForGood => Fault::LoseForGood(words.target()?),
            Kind::Train => Fault::Train,
            Kind::RollBack => Fault::RollBack,
            Kind::Partition | Kind::OneWay | Kind::Bridge | Kind::MoveShard | Kind::TransferLeader => {
                between(kind, &mut words)?
            }
            Kind::Join | Kind::Activate | Kind::RestartWith | Kind::Heal => named(kind, &mut words)?,
            _ => measured(kind, &mut words)?,
        };
        words.end()?;
        Ok(fault)
    }
}

/// Faults between sides.
fn between(kind: Kind, words: &mut Words<'_>) -> Result<Fault, ParseError> {
    if kind == Kind::MoveShard {
        let shard = words.group()?;
        words.literal("from")?;
        let from = words.target()?;
        words.literal("to")?;
        return Ok(Fault::MoveShard { shard, from, to: words.target()? });
    }
    if kind == Kind::TransferLeader {
        let group = words.group()?;
        words.literal("to")?;
        return Ok(Fault::TransferLeader { group, to: words.target()? });
    }
    let side = words.target()?;
    words.literal(if kind == Kind::OneWay { "to" } else { "from" })?;
    let other = words.target()?;
    Ok(match kind {
        Kind::OneWay => Fault::OneWay { from: side, to: other },
        Kind::Partition => Fault::Partition { side, from: other },
        _ => {
            words.literal("through")?;
            Fault::Bridge { side, from: other, through: words.target()? }
        }
    })
}

/// Faults with a name of something.
fn named(kind: Kind, words: &mut Words<'_>) -> Result<Fault, ParseError> {
    let mut rest = words.clone();
    let next = rest.word("").ok();
    Ok(match (kind, next) {
        (Kind::Join, None) => Fault::Join { zone: None },
        (Kind::Join, Some(zone)) if is_zone(zone) => Fault::Join { zone: words.word("a zone").ok().map(str::to_owned) },
        (Kind::Join, Some(zone)) => {
            return words.fail(format!("`{zone}` is not the name of a zone: letters, digits, - and _"));
        }
        (Kind::Activate, None) => Fault::Activate { version: None },
        (Kind::Activate, Some(_)) => Fault::Activate { version: Some(words.number("")?) },
        (Kind::RestartWith, _) => {
            Fault::RestartWith { on: words.target()?, version: words.word("the name of a version")?.to_owned() }
        }
        _ => Fault::Heal { on: words.target()?, layer: words.parsed("a layer, such as network,")? },
    })
}

/// Faults of a target and an amount.
fn measured(kind: Kind, words: &mut Words<'_>) -> Result<Fault, ParseError> {
    let on = words.target()?;
    Ok(match kind {
        Kind::Loss => Fault::Loss { on, percent: words.percent()? },
        Kind::Reorder => Fault::Reorder { on, percent: words.percent()? },
        Kind::Duplicate => Fault::Duplicate { on, percent: words.percent()? },
        Kind::Cpu => Fault::Cpu { on, percent: words.percent()? },
        Kind::Delay => Fault::Delay { on, ms: words.number("ms")? },
        Kind::Jitter => Fault::Jitter { on, ms: words.number("ms")? },
        Kind::SlowSync => Fault::SlowSync { on, ms: words.number("ms")? },
        Kind::Bandwidth => Fault::Bandwidth { on, kbit: words.number("kbit")? },
        Kind::BitRot => Fault::BitRot { on, bits: words.number("bits")? },
        Kind::ClockJump => Fault::ClockJump { on, ms: words.number("ms")? },
        Kind::ClockDrift => Fault::ClockDrift { on, ppm: words.number("ppm")? },
        Kind::Memory => Fault::Memory { on, mib: words.number("MiB")? },
        other => return words.fail(format!("{other} has no amount")),
    })
}

as_text!(Fault);
