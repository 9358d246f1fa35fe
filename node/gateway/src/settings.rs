//! The gateway's settings: the `[gateway]` table of a node.

use docent_types::{Error, Result};
use serde::{Deserialize, Serialize};

/// Numbers of a gateway. Units are in the keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySettings {
    /// A query's deadline when the client sets none.
    pub deadline_ms_default: u64,
    /// How long a write waits for its commit; spans an election.
    pub write_deadline_ms: u64,
    /// How long an export may take in all.
    pub export_deadline_ms: u64,
    /// Queries at work at once; one more is refused with a retry hint.
    pub in_flight_max: usize,
    /// Writes at work at once, counted apart from queries; one more is refused with a retry hint.
    pub writes_in_flight_max: usize,
    /// Exports at work at once.
    pub exports_max: usize,
    /// The retry hint of a refused request.
    pub retry_after_ms: u32,
    /// Calls that one request makes in a row, without a pause, to find a shard's leader; within its deadline it pauses and goes on.
    pub tries_max: u32,
    /// After this, a slow read is asked of another replica too, within a budget of 5 % of the calls.
    pub hedge_after_ms: u64,
    /// After this, it is asked of another replica whatever the budget, and the slow node is avoided for a while.
    pub late_after_ms: u64,
    /// How long a node that was late or unreachable is asked last.
    pub suspect_ms: u64,
    /// After this much time a replica that cannot be reached refuses to show its items by itself: a take-down waits no longer for it.
    /// At least the nodes' `serving.refuse_after_ms`, or an acknowledged take-down could still be shown.
    pub staleness_ms_max: u64,
    /// Item ids remembered as existing, so that their events need no stub.
    pub known_items_max: usize,
    /// How long an id is remembered at least; an item deleted through another node gets its stub back after at most twice this.
    pub known_items_ms: u64,
    /// Reasons of each item of an explained answer.
    pub reasons: u32,
    /// Users answered at once by an export of recommendations.
    pub export_concurrency: usize,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        GatewaySettings {
            deadline_ms_default: 2_000,
            write_deadline_ms: 10_000,
            export_deadline_ms: 3_600_000,
            in_flight_max: 256,
            writes_in_flight_max: 256,
            exports_max: 4,
            retry_after_ms: 100,
            tries_max: 64,
            hedge_after_ms: 50,
            late_after_ms: 300,
            suspect_ms: 2_000,
            staleness_ms_max: 6_000,
            known_items_max: 200_000,
            known_items_ms: 30_000,
            reasons: 3,
            export_concurrency: 16,
        }
    }
}

impl GatewaySettings {
    /// Checks what serde cannot. `refuse_after_ms` is the node's `serving.refuse_after_ms`, the same on every node.
    ///
    /// # Errors
    /// `Invalid` naming the key.
    pub fn validate(&self, refuse_after_ms: u64) -> Result<()> {
        if self.staleness_ms_max < refuse_after_ms {
            let message = format!(
                "gateway.staleness_ms_max is {}, less than serving.refuse_after_ms ({refuse_after_ms}): a replica could show an item \
                 after its take-down was acknowledged; raise it",
                self.staleness_ms_max
            );
            return Err(Error::invalid("gateway.staleness_ms_max", message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_take_down_never_waits_less_than_a_replica_shows_its_items() {
        let settings = GatewaySettings { staleness_ms_max: 6_000, ..GatewaySettings::default() };
        assert!(settings.validate(6_000).is_ok());
        let error = settings.validate(6_001).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("gateway.staleness_ms_max"));
    }
}
