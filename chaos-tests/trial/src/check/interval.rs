//! When which fault lasted, and for whom: from the marks of a history.

use crate::fault::{Fault, Kind, Layer};
use crate::history::{FaultMark, History};
use crate::name::Member;
use crate::target::Target;
use crate::world::{Applied, Phase};
use std::collections::BTreeSet;

/// A fault while it lasted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What.
    pub fault: Fault,
    /// Whom it hit; everybody where that is not known for certain.
    pub on: BTreeSet<Member>,
    /// When it began to be installed.
    pub from_us: u64,
    /// When it was undone; `None` where nothing says so.
    pub until_us: Option<u64>,
    /// Whether it was installed for certain.
    pub is_certain: bool,
}

impl Span {
    /// Whether it lasted at some moment of these.
    pub fn touches(&self, from_us: u64, until_us: u64) -> bool {
        self.from_us <= until_us && self.until_us.is_none_or(|until| from_us <= until)
    }
}

/// Every fault that was installed, or may have been, in the order of the marks. Ends are marks with `is_end`, faults that undo others, and
/// the end of the phase that heals.
pub fn spans(history: &History) -> Vec<Span> {
    let healed = history.began_us(Phase::Converge);
    let mut spans: Vec<(Option<usize>, Span)> = Vec::new();
    for mark in &history.faults {
        let (on, is_certain) = match &mark.applied {
            Applied::Installed { on, .. } => (on.clone(), true),
            Applied::Indeterminate { .. } => (BTreeSet::new(), false),
            Applied::Skipped { .. } => continue,
        };
        end_others(&mut spans, mark, &on, is_certain);
        if !mark.is_end && mark.fault.kind() != Kind::Heal && mark.fault.kind() != Kind::Continue {
            let fault = mark.fault.clone();
            let is_over = is_momentary(mark.fault.kind());
            let until_us = is_over.then_some(mark.at_us);
            spans.push((mark.step, Span { fault, on, from_us: mark.from_us, until_us, is_certain }));
        }
    }
    for (_, span) in &mut spans {
        span.until_us = span.until_us.or(healed.filter(|healed| *healed >= span.from_us));
    }
    spans.into_iter().map(|(_, span)| span).collect()
}

fn end_others(spans: &mut [(Option<usize>, Span)], mark: &FaultMark, on: &BTreeSet<Member>, is_certain: bool) {
    if !is_certain {
        return;
    }
    for (step, span) in spans.iter_mut().filter(|(_, span)| span.until_us.is_none()) {
        let is_same_step = mark.is_end && mark.step.is_some() && *step == mark.step;
        let is_everybody = matches!(&mark.fault, Fault::Heal { on: Target::All, .. });
        let covers = is_everybody || (!span.on.is_empty() && span.on.is_subset(on));
        if is_same_step || (covers && undoes(&mark.fault, span.fault.kind())) {
            span.until_us = Some(mark.at_us);
        }
    }
}

/// Whether it is over when it is done: what comes after is the cluster's own doing.
fn is_momentary(kind: Kind) -> bool {
    let is_once = matches!(kind, Kind::Reset | Kind::ClockJump | Kind::BitRot | Kind::TransferLeader | Kind::Activate);
    let is_start = matches!(kind, Kind::Restart | Kind::RestartWith | Kind::Wipe | Kind::Replace | Kind::Join);
    is_once || is_start || matches!(kind, Kind::RollBack | Kind::LoseForGood)
}

/// Whether one fault ends another of the same members.
fn undoes(fault: &Fault, kind: Kind) -> bool {
    match fault {
        Fault::Heal { layer: Layer::Everything, .. } => true,
        Fault::Heal { layer, .. } => *layer == kind.layer(),
        Fault::Continue(_) => kind == Kind::Pause,
        Fault::Restart(_) | Fault::RestartWith { .. } => matches!(kind, Kind::Kill | Kind::PowerLoss),
        Fault::Resume(_) => kind == Kind::Drain,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, end};
    use super::*;

    fn lasted(tell: impl FnOnce(&mut Story)) -> Vec<(u64, Option<u64>)> {
        let mut story = Story::new();
        tell(&mut story);
        spans(&story.history).into_iter().map(|span| (span.from_us, span.until_us)).collect()
    }

    #[test]
    fn a_fault_lasts_until_what_undoes_it_for_its_members() {
        let (one, two) = ([Member::node(1)], [Member::node(2)]);
        let both =
            |undo: &str, on: &[Member]| lasted(|story| end(story.fault(3, "pause node-1", &one).fault(8, undo, on)));
        assert_eq!(both("continue node-1", &one), [(3, Some(8))]);
        assert_eq!(both("continue node-2", &two), [(3, None)]);
        assert_eq!(both("heal node-1 network", &one), [(3, None)]);
        assert_eq!(both("heal node-1 process", &one), [(3, Some(8))]);
        assert_eq!(both("heal all everything", &[]), [(3, Some(8))]);
    }

    #[test]
    fn a_restart_excuses_nothing_after_it_is_done() {
        let one = [Member::node(1)];
        let spans = lasted(|story| end(story.fault(3, "kill node-1", &one).fault(8, "restart node-1", &one)));
        assert_eq!(spans, [(3, Some(8)), (8, Some(8))]);
    }

    #[test]
    fn what_nothing_ends_lasts_until_the_cluster_is_healed() {
        let spans =
            lasted(|story| end(story.fault(3, "delay node-1 5ms", &[Member::node(1)]).phase(50, Phase::Converge)));
        assert_eq!(spans, [(3, Some(50))]);
    }

    #[test]
    fn what_may_have_happened_lasts_and_what_was_skipped_does_not() {
        let mut story = Story::new();
        story.fault(3, "kill node-1", &[]).fault(4, "kill node-2", &[]);
        story.history.faults[0].applied = Applied::indeterminate("no answer");
        story.history.faults[1].applied = Applied::skipped("no such node");
        let spans = spans(&story.history);
        assert_eq!((spans.len(), spans[0].is_certain), (1, false));
    }
}
