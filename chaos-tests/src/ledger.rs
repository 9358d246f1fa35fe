//! What was acked, kept by the test itself: the judge of "acked means kept".

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
            "accepted" | "duplicate" => {
                self.unknown.remove(event_id);
                self.acked.insert(event_id.to_owned());
            }
            _ if self.acked.contains(event_id) => {}
            _ => drop(self.unknown.insert(event_id.to_owned())),
        }
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
