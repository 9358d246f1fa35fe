//! What was acked, kept by the test itself: the judge of "acked means kept".

use crate::client::Client;
use crate::lab::Lab;
use anyhow::{Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Event ids by what the cluster said of them.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    acked: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

impl Ledger {
    /// Notes the outcome of one event.
    pub fn note(&mut self, event_id: &str, outcome: &str) {
        match outcome {
            outcome if is_ack(outcome) => {
                self.unknown.remove(event_id);
                self.acked.insert(event_id.to_owned());
            }
            _ if self.acked.contains(event_id) => {}
            _ => drop(self.unknown.insert(event_id.to_owned())),
        }
    }

    /// Sends a batch and notes what was acked: of every event, or why of none. A failed request leaves every event of it unknown.
    pub fn send(&mut self, client: &Client, events: &[Value]) -> Result<()> {
        let answer = client.ingest(events);
        self.note_all(events, answer.as_ref().ok().map(Vec::as_slice));
        let outcomes = answer?;
        let unacked = outcomes.iter().find(|outcome| !is_ack(outcome));
        ensure!(unacked.is_none(), "an event's outcome is {unacked:?}");
        Ok(())
    }

    /// Notes the outcomes of a batch, `None` where the request had no answer. Whether all are acked.
    pub fn note_all(&mut self, events: &[Value], outcomes: Option<&[String]>) -> bool {
        let outcome = |place: usize| outcomes.and_then(|all| all.get(place)).map_or("unknown", String::as_str);
        for (place, event) in events.iter().enumerate() {
            self.note(event["event_id"].as_str().unwrap_or_default(), outcome(place));
        }
        (0..events.len()).all(|place| is_ack(outcome(place)))
    }

    /// Holds this ledger against everything that the cluster exports.
    ///
    /// # Errors
    /// Names the first events that are lost, doubled or were never sent.
    pub fn audit(&self, lab: &Lab) -> Result<()> {
        let exported = lab.docent(&["export", "events"])?;
        let mut malformed = 0;
        let events = exported.lines().filter_map(|line| {
            let event = serde_json::from_str::<Value>(line);
            malformed += usize::from(event.is_err());
            event.ok()
        });
        let violations = self.violations(events);
        ensure!(malformed == 0, "{malformed} lines of the export are not JSON");
        let first = &violations[..violations.len().min(10)];
        ensure!(violations.is_empty(), "{} of {} acked: {first:#?}", violations.len(), self.acked());
        Ok(())
    }

    /// As [`Ledger::audit`], over the events whose ids begin with `name`: the others belong to other ledgers.
    ///
    /// # Errors
    /// As [`Ledger::audit`].
    pub fn audit_of(&self, lab: &Lab, name: &str) -> Result<()> {
        let exported = lab.docent(&["export", "events"])?;
        let events = exported.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        let is_ours = |event: &Value| event["event_id"].as_str().is_some_and(|id| id.starts_with(name));
        let violations = self.violations(events.into_iter().filter(is_ours));
        let first = &violations[..violations.len().min(10)];
        ensure!(violations.is_empty(), "{} of {} acked: {first:#?}", violations.len(), self.acked());
        Ok(())
    }

    /// Takes in another ledger's notes.
    pub fn absorb(&mut self, other: Ledger) {
        self.acked.extend(other.acked);
        self.unknown.extend(other.unknown);
        self.unknown.retain(|id| !self.acked.contains(id));
    }

    /// How many events were acked.
    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// What is wrong with an export: acked events that are missing, any event that is there twice, events that nobody sent.
    pub fn violations(&self, exported: impl Iterator<Item = Value>) -> Vec<String> {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for event in exported {
            *counts.entry(event["event_id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        let lost = self.acked.iter().filter(|id| !counts.contains_key(*id)).map(|id| format!("lost: {id}"));
        let doubled = counts.iter().filter(|(_, count)| **count > 1).map(|(id, count)| format!("{count} times: {id}"));
        let phantom = counts.keys().filter(|id| !self.acked.contains(*id) && !self.unknown.contains(*id));
        lost.chain(doubled).chain(phantom.map(|id| format!("never sent: {id}"))).collect()
    }
}

/// Whether the event is kept.
fn is_ack(outcome: &str) -> bool {
    matches!(outcome, "accepted" | "duplicate")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_violation_is_found() {
        let mut ledger = Ledger::default();
        ledger.note("a", "accepted");
        ledger.note("b", "accepted");
        ledger.note("c", "unknown");
        ledger.note("b", "duplicate");
        let export = |ids: &[&str]| ids.iter().map(|id| json!({ "event_id": id })).collect::<Vec<_>>();
        assert!(ledger.violations(export(&["a", "b"]).into_iter()).is_empty());
        assert!(ledger.violations(export(&["a", "b", "c"]).into_iter()).is_empty());
        assert_eq!(ledger.violations(export(&["a"]).into_iter()), ["lost: b"]);
        assert_eq!(ledger.violations(export(&["a", "b", "b"]).into_iter()), ["2 times: b"]);
        assert_eq!(ledger.violations(export(&["a", "b", "x"]).into_iter()), ["never sent: x"]);
    }
}
