//! No log has a warning, an error or a panic that nothing explains: what each kind of fault explains is listed here, what a scenario
//! explains beyond that stands in its file.

use super::{Findings, Verdict};
use crate::fault::{Kind, Layer};
use crate::history::{History, Level, Observed};
use crate::scenario::Expect;

/// What may explain a line.
enum Cause {
    /// Any fault of these layers.
    Layers(&'static [Layer]),
    /// These faults.
    Kinds(&'static [Kind]),
}

const TROUBLE: Cause = Cause::Layers(&[Layer::Process, Layer::Network, Layer::Resource, Layer::Clock, Layer::Disk]);
const TROUBLE_OR_OPERATOR: Cause =
    Cause::Layers(&[Layer::Process, Layer::Network, Layer::Resource, Layer::Clock, Layer::Disk, Layer::Operator]);
const DISK: Cause = Cause::Layers(&[Layer::Disk]);
const NO_WRITES: Cause = Cause::Kinds(&[Kind::DiskFull, Kind::DiskReadOnly, Kind::SyncError]);
const DAMAGE: Cause = Cause::Kinds(&[Kind::BitRot, Kind::SyncError, Kind::DiskReadOnly, Kind::DiskFull]);

const UNSYNCED: Cause = Cause::Kinds(&[Kind::PowerLoss, Kind::LostWrites, Kind::TornWrite]);

/// Parts of lines, each with what explains it. Every one is a message of the product's sources.
const EXPLAINED: &[(&str, Cause)] = &[
    ("the coordinator does not answer; serving with the catalog of the last run", TROUBLE_OR_OPERATOR),
    ("did not end in order; nothing acknowledged is lost", TROUBLE),
    ("tasks did not end in time", TROUBLE),
    ("training attempt failed", TROUBLE_OR_OPERATOR),
    ("the end of a training job was not heard; telling it again", TROUBLE_OR_OPERATOR),
    ("a training session is ended to make room for another", TROUBLE_OR_OPERATOR),
    ("model version cannot be staged on this node", TROUBLE_OR_OPERATOR),
    ("replica was not destroyed yet", TROUBLE_OR_OPERATOR),
    ("no snapshot now; it is tried again", TROUBLE),
    ("no purge now; it is tried again", TROUBLE),
    ("the journal stops", NO_WRITES),
    ("cannot go on", DAMAGE),
    ("the disk is full: this node takes no writes and goes on reading", Cause::Kinds(&[Kind::DiskFull])),
    // sled's own: a store that was made and never flushed begins anew.
    ("sled::config: empty/corrupt configuration file found", UNSYNCED),
    ("no disk space for the journal: free space soon", Cause::Kinds(&[Kind::DiskFull])),
    ("cannot see how much room the disk has", DISK),
    ("state was not flushed; it is rebuilt from the journal", DISK),
    ("the catalog's file could not be written; the next start replays the journal", DISK),
    ("the state store has failed; it is rebuilt from snapshots and logs at the next start", DAMAGE),
    ("cannot note that the store is damaged", DAMAGE),
    (
        "the state store was damaged: it is removed and rebuilt from snapshots and logs",
        Cause::Kinds(&[
            Kind::BitRot,
            Kind::SyncError,
            Kind::DiskReadOnly,
            Kind::DiskFull,
            Kind::PowerLoss,
            Kind::LostWrites,
            Kind::TornWrite,
        ]),
    ),
    ("journal group quarantined: re-create its replica under a new id", Cause::Kinds(&[Kind::BitRot])),
    ("replica is lost and must be made anew", Cause::Kinds(&[Kind::BitRot, Kind::Wipe])),
    ("removing a damaged snapshot", Cause::Kinds(&[Kind::BitRot])),
    ("the catalog cannot be read", Cause::Kinds(&[Kind::RestartWith])),
];

/// Whether a fault that began by then explains a line. Whose fault it was does not matter: others suffer from it too.
fn is_explained(line: &str, at_us: u64, begun: &[(u64, Kind)]) -> bool {
    let has_cause = |cause: &Cause| {
        begun.iter().filter(|(from_us, _)| *from_us <= at_us).any(|(_, kind)| match cause {
            Cause::Layers(layers) => layers.contains(&kind.layer()),
            Cause::Kinds(kinds) => kinds.contains(kind),
        })
    };
    EXPLAINED.iter().filter(|(part, _)| line.contains(part)).any(|(_, cause)| has_cause(cause))
}

/// Checks it.
pub(super) fn check(history: &History, expect: &Expect) -> Verdict {
    let done = history.faults.iter().filter(|mark| !matches!(mark.applied, crate::world::Applied::Skipped { .. }));
    let begun: Vec<(u64, Kind)> = done.map(|mark| (mark.from_us, mark.fault.kind())).collect();
    let mut findings = Findings::default();
    for sighting in &history.observed {
        let (member, level, line) = match &sighting.what {
            Observed::Log { member, level, line } => (member, level, line),
            Observed::LogEnd { .. } => {
                findings.judged += 1;
                continue;
            }
            _ => continue,
        };
        findings.judged += 1;
        let is_allowed = match level {
            Level::Info => true,
            // A panic is a defect whatever was done; only a scenario that means it may say so.
            Level::Panic => expect.logs.iter().any(|part| line.contains(part)),
            Level::Warn | Level::Error => {
                is_explained(line, sighting.at_us, &begun) || expect.logs.iter().any(|part| line.contains(part))
            }
        };
        if !is_allowed {
            let what = format!("{member} logged {}: {}", level, line.chars().take(300).collect::<String>());
            findings.add(&format!("unexpected {level}"), what, Vec::new(), Some(sighting.at_us));
        }
    }
    findings.verdict("no log was read")
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, kinds};
    use super::*;
    use crate::name::Member;

    fn log(level: Level, line: &str) -> Observed {
        Observed::Log { member: Member::node(2), level, line: line.to_owned() }
    }

    #[test]
    fn a_line_that_a_fault_explains_passes_only_after_it() {
        let line = "WARN no snapshot now; it is tried again group=3";
        let mut story = Story::new();
        story.see(5, log(Level::Warn, line));
        assert_eq!(kinds(&check(&story.history, &Expect::default())), ["unexpected warn"]);
        story.fault(9, "kill node-1", &[Member::node(1)]);
        assert_eq!(kinds(&check(&story.history, &Expect::default())), ["unexpected warn"], "the fault came later");
        story.fault(4, "kill node-1", &[Member::node(1)]);
        assert!(check(&story.history, &Expect::default()).is_pass());
    }

    #[test]
    fn a_fault_explains_its_own_lines_alone() {
        let mut story = Story::new();
        story
            .fault(1, "kill node-1", &[Member::node(1)])
            .see(5, log(Level::Error, "journal group quarantined: re-create its replica under a new id"));
        assert_eq!(kinds(&check(&story.history, &Expect::default())), ["unexpected error"]);
    }

    #[test]
    fn a_panic_fails_unless_the_scenario_says_so() {
        let mut story = Story::new();
        story
            .fault(1, "kill all", &[])
            .see(5, log(Level::Panic, "thread 'x' panicked at y"))
            .see(6, log(Level::Info, "listening"));
        assert_eq!(kinds(&check(&story.history, &Expect::default())), ["unexpected panic"]);
        let expect = Expect { logs: vec!["panicked at y".to_owned()], ..Expect::default() };
        assert!(check(&story.history, &expect).is_pass());
    }

    #[test]
    fn logs_that_nobody_read_are_not_clean() {
        assert!(matches!(check(&Story::new().history, &Expect::default()), Verdict::NotApplicable { .. }));
        let mut story = Story::new();
        story.see(1, Observed::LogEnd { member: Member::node(1), lines: 7 });
        assert!(check(&story.history, &Expect::default()).is_pass());
    }
}
