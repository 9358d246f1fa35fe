//! What this node has seen of the others: how much it is asking of each, who was late, and how many hedges it may still spend.

use docent_types::NodeId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A hedge costs one token, a call earns a twentieth: hedges stay within 5 % of the calls.
const TOKENS_A_CALL: f64 = 0.05;
/// Tokens that a quiet time can save up.
const TOKENS_MAX: f64 = 10.0;

/// Observations of the other nodes.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_flight: BTreeMap<NodeId, u32>,
    suspect_until: BTreeMap<NodeId, Duration>,
    tokens: f64,
}

impl Health {
    /// Counts a call to `node` until the guard is dropped.
    pub(crate) fn begin(&self, node: NodeId) -> InFlight<'_> {
        let mut state = self.locked();
        *state.in_flight.entry(node).or_default() += 1;
        state.tokens = (state.tokens + TOKENS_A_CALL).min(TOKENS_MAX);
        InFlight { health: self, node }
    }

    /// Calls in flight to each node.
    pub(crate) fn load(&self) -> BTreeMap<NodeId, u32> {
        self.locked().in_flight.clone()
    }

    /// `node` was late or unreachable: it is asked last until `until` (monotonic).
    pub(crate) fn suspect(&self, node: NodeId, until: Duration) {
        self.locked().suspect_until.insert(node, until);
    }

    /// `node` answered.
    pub(crate) fn trust(&self, node: NodeId) {
        self.locked().suspect_until.remove(&node);
    }

    /// Whether `node` is under suspicion at `now`.
    pub(crate) fn is_suspect(&self, node: NodeId, now: Duration) -> bool {
        self.locked().suspect_until.get(&node).is_some_and(|until| *until > now)
    }

    /// Takes the token for a hedge, if there is one.
    pub(crate) fn may_hedge(&self) -> bool {
        let mut state = self.locked();
        let may = state.tokens >= 1.0;
        state.tokens -= if may { 1.0 } else { 0.0 };
        may
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted call.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    health: &'a Health,
    node: NodeId,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.health.locked();
        if let Some(count) = state.in_flight.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                state.in_flight.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_stay_within_a_twentieth_of_the_calls() {
        let health = Health::default();
        let hedges = (0..1_000).filter(|_| {
            drop(health.begin(NodeId(1)));
            health.may_hedge()
        });
        assert!((45..=50).contains(&hedges.count()));
        assert!(health.load().is_empty());
    }

    #[test]
    fn suspicion_ends_with_time_or_with_an_answer() {
        let (health, node) = (Health::default(), NodeId(1));
        health.suspect(node, Duration::from_secs(2));
        assert!(health.is_suspect(node, Duration::from_secs(1)));
        assert!(!health.is_suspect(node, Duration::from_secs(2)));
        health.trust(node);
        assert!(!health.is_suspect(node, Duration::from_secs(1)));
    }
}
