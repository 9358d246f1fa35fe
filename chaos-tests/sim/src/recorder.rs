//! The history while it is written: calls are there from the moment they are made, so that one that never returns is not forgotten.

use docent_trial::History;
use docent_trial::Member;
use docent_trial::history::{Call, FaultMark, Header, Observed, Operation, Outcome, PhaseMark, Refusal, Sighting};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Writes one history. Clones write to it.
#[derive(Clone)]
pub struct Recorder {
    history: Arc<Mutex<History>>,
}

/// Microseconds of a history.
pub fn us(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

impl Recorder {
    /// An empty history.
    pub fn new(header: Header) -> Recorder {
        Recorder { history: Arc::new(Mutex::new(History::new(header))) }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client calls now. The answer is told to [`Recorder::returned`] under the id that this gives.
    pub fn called(&self, client: u32, gateway: Member, call: Call) -> u64 {
        let mut history = self.history();
        let id = history.operations.len() as u64;
        let open = Outcome::Unknown(Refusal::new("open", "the run ended before the answer"));
        let called_us = us(turmoil::sim_elapsed().unwrap_or_default());
        history.operations.push(Operation { id, client, gateway, call, called_us, returned_us: None, outcome: open });
        id
    }

    /// The answer came, or the client gave up.
    pub fn returned(&self, id: u64, outcome: Outcome) {
        let at = us(turmoil::sim_elapsed().unwrap_or_default());
        if let Some(operation) = self.history().operations.get_mut(id as usize) {
            operation.returned_us = Some(at);
            operation.outcome = outcome;
        }
    }

    /// How many lines of a member's log are in it.
    pub fn log_lines(&self, member: Member) -> u64 {
        let history = self.history();
        let is_line =
            |sighting: &&Sighting| matches!(&sighting.what, Observed::Log { member: one, .. } if *one == member);
        history.observed.iter().filter(is_line).count() as u64
    }

    /// Adds an observation.
    pub fn see(&self, at: Duration, what: Observed) {
        self.history().see(us(at), what);
    }

    /// Adds a fault.
    pub fn fault(&self, mark: FaultMark) {
        self.history().faults.push(mark);
    }

    /// A phase begins.
    pub fn phase(&self, mark: PhaseMark) {
        self.history().phases.push(mark);
    }

    /// The history so far.
    pub fn finish(&self) -> History {
        self.history().clone()
    }
}
