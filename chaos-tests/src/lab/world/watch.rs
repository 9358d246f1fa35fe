//! What the lab saw: new lines of every log, and counts that nobody else has.

use super::LabWorld;
use crate::lab::Lab;
use docent_trial::Member;
use docent_trial::history::{Level, Observed, Sight};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Where the lab's eyes are.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Bytes of each log that were read.
    read: BTreeMap<Member, u64>,
    /// What was not told yet, such as loud lines.
    untold: Vec<Observed>,
    counts: BTreeMap<Sight, u64>,
    /// What was told of counts that only grow.
    told: BTreeMap<Sight, u64>,
    /// Who said last that it leads the coordinators, and in which term.
    leading: Option<(u64, Member)>,
    /// The last change of each shard's group, by the name of its step.
    steps: BTreeMap<String, String>,
    /// Source and target of the move that was seen last.
    moving: Option<(Option<Member>, Option<Member>)>,
    removed: BTreeSet<Member>,
}

impl Watch {
    /// So many more of these.
    pub(super) fn saw(&mut self, what: Sight, count: u64) {
        if count > 0 {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// Tells this next time.
    pub(super) fn tell(&mut self, what: Observed) {
        self.untold.push(what);
    }

    /// A count that only grows stands at `total` now.
    fn stands_at(&mut self, what: Sight, total: u64) {
        let told = self.told.entry(what).or_default();
        let more = total.saturating_sub(*told);
        *told = (*told).max(total);
        self.saw(what, more);
    }

    /// Remembers a move; the last one where there is none now.
    pub(super) fn moving(
        &mut self,
        now: Option<(Option<Member>, Option<Member>)>,
    ) -> Option<(Option<Member>, Option<Member>)> {
        self.moving = now.or(self.moving);
        self.moving
    }

    pub(super) fn removed(&mut self, name: Member) {
        self.removed.insert(name);
    }

    pub(super) fn is_removed(&self, name: Member) -> bool {
        self.removed.contains(&name)
    }

    pub(super) fn leading_coordinator(&self) -> Option<Member> {
        self.leading.map(|(_, member)| member)
    }

    pub(super) fn last_step(&self, shard: &str) -> Option<&str> {
        self.steps.get(shard).map(String::as_str)
    }

    /// Whether a group took its new replicas in the last step that was seen of any.
    pub(super) fn has_swapped(&self) -> bool {
        self.steps.values().any(|step| step == "Swap" || step == "Finish")
    }

    /// Reads what is new in every log.
    pub(super) fn read(&mut self, lab: &Lab) {
        let coordinators =
            lab.coordinators.iter().zip(1..).map(|(member, number)| (Member::coordinator(number), member));
        let nodes = lab.nodes.iter().zip(1..).map(|(member, number)| (Member::node(number), member));
        for (name, member) in coordinators.chain(nodes) {
            let from = self.read.entry(name).or_default();
            let text = whole_lines(member.log(), from);
            text.lines().for_each(|line| self.take(name, line));
        }
    }

    fn take(&mut self, name: Member, line: &str) {
        let level = match line {
            panic if panic.contains("panicked") => Some(Level::Panic),
            error if error.contains(" ERROR ") => Some(Level::Error),
            warn if warn.contains(" WARN ") => Some(Level::Warn),
            _ => None,
        };
        if let Some(level) = level {
            self.untold.push(Observed::Log { member: name, level, line: line.to_owned() });
        }
        if line.contains("this coordinator leads") {
            let term = field(line, "term=").and_then(|term| term.parse().ok()).unwrap_or(0);
            self.leading = self.leading.max(Some((term, name)));
        }
        if line.contains("the group was changed")
            && let (Some(shard), Some(step)) = (field(line, "shard="), field(line, "step="))
        {
            let word = step.chars().take_while(char::is_ascii_alphabetic).collect();
            self.steps.insert(shard.to_owned(), word);
        }
        if line.contains("a replica moves")
            && let Some(shard) = field(line, "shard=")
        {
            self.steps.remove(shard);
        }
    }
}

/// The value of a field in a line of a log, up to the next blank.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split(key).nth(1)?.split(' ').next()
}

/// What is there behind `from`, up to the last end of a line, which `from` then is.
fn whole_lines(path: &Path, from: &mut u64) -> String {
    let mut bytes = Vec::new();
    // A log that is not there yet has no lines.
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(*from))?;
        file.read_to_end(&mut bytes)
    });
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    bytes.truncate(if read.is_ok() { end } else { 0 });
    *from += bytes.len() as u64;
    String::from_utf8_lossy(&bytes).into_owned()
}

impl LabWorld {
    /// What was seen since this was asked last.
    pub fn observe(&mut self) -> Vec<Observed> {
        self.watch.read(&self.lab);
        let mut seen = std::mem::take(&mut self.watch.untold);
        for name in self.members() {
            let ended = self.member_mut(name).and_then(|member| member.ended());
            if let Ok(Some(status)) = ended {
                seen.push(Observed::Note { text: format!("{name} ended by itself: {status}") });
            }
        }
        if let Some(network) = self.lab.network() {
            let (repeated, reordered) = network.repeated_and_reordered();
            let lost = network.lost().unwrap_or(0);
            self.watch.stands_at(Sight::MessagesLost, lost);
            self.watch.stands_at(Sight::MessagesDuplicated, repeated);
            self.watch.stands_at(Sight::MessagesReordered, reordered);
        }
        let shims = self.lab.members().filter_map(|member| member.site.shim.as_ref()?.syncs_failed().ok());
        let failed = shims.sum();
        self.watch.stands_at(Sight::SyncErrors, failed);
        let counts = std::mem::take(&mut self.watch.counts);
        seen.extend(counts.into_iter().map(|(what, count)| Observed::Seen { what, count }));
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_logs_are_read_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut from) = (dir.path().join("a.log"), 0);
        std::fs::write(&path, "one\ntw").unwrap();
        assert_eq!(whole_lines(&path, &mut from), "one\n");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!((whole_lines(&path, &mut from), whole_lines(&path, &mut from)), ("two\n".into(), String::new()));
    }

    #[test]
    fn logs_tell_who_leads_and_how_far_a_move_is() {
        let mut watch = Watch::default();
        watch.take(
            Member::coordinator(1),
            "x  INFO docent_coordinator::reconcile: this coordinator leads coordinator=1 term=4",
        );
        watch.take(
            Member::coordinator(2),
            "x  INFO docent_coordinator::reconcile: this coordinator leads coordinator=2 term=3",
        );
        watch.take(
            Member::node(1),
            "x  INFO docent_node::steward: the group was changed shard=users/3 step=Add(Replica { id: 7 }) took=1ms",
        );
        assert_eq!(
            (watch.leading_coordinator(), watch.last_step("users/3")),
            (Some(Member::coordinator(1)), Some("Add"))
        );
        watch.take(Member::node(1), "x  WARN docent_node::x: something");
        assert!(matches!(&watch.untold[..], [Observed::Log { level: Level::Warn, .. }]));
    }
}
