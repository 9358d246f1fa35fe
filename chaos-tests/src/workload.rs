//! The clients of a trial: they carry out what [`docent_trial::Workload`] draws, through every node that is alive, in an open loop, and
//! write down every call and what came of it.
//!
//! | module | owns |
//! |---|---|
//! | [`call`] | one call as an HTTP request, and the answer as an outcome |
//! | [`pace`] | when which request is due |

pub mod call;
pub mod pace;

use crate::load;
use crate::run::gates::Gates;
use crate::run::tape::Tape;
use anyhow::{Context, Result, anyhow};
use docent_trial::history::{Answer, Call, EventOutcome, Operation, Outcome};
use docent_trial::{Group, Member, Workload};
use pace::Pace;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Requests of a kind that may wait at a time: three seconds without a leader for all shards at the usual rates, and room.
const WORKERS: usize = 320;
/// Between two tries of an event that was not acked.
const RETRY: Duration = Duration::from_millis(100);
/// After this an event stays unknown: an outage is over by then, or is one for the report.
const GIVE_UP: Duration = Duration::from_secs(45);
/// Events of one request of the seed.
const SEED_BATCH: usize = 200;

/// One client: it waits for an answer before it calls again.
#[derive(Debug)]
struct Seat {
    client: u32,
    /// Of its last answer.
    session: Option<String>,
}

/// All clients of a run.
#[derive(Debug)]
pub struct Clients<'a> {
    tape: &'a Tape,
    gates: &'a Gates,
    workload: &'a Workload,
    seed: u64,
    /// Stands before every user, item and event id, so that a drill touches nothing of anybody else.
    prefix: String,
    seats: Mutex<Vec<Seat>>,
    seats_made: AtomicU32,
    writes: Pace,
    reads: Pace,
    /// When an event of each group was acked last, in microseconds of the run.
    acked: Mutex<BTreeMap<Group, u64>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Clients<'a> {
    /// Clients that have not called yet.
    pub fn new(tape: &'a Tape, gates: &'a Gates, workload: &'a Workload, seed: u64, prefix: &str) -> Clients<'a> {
        Clients {
            tape,
            gates,
            workload,
            seed,
            prefix: prefix.to_owned(),
            seats: Mutex::default(),
            seats_made: AtomicU32::new(1),
            writes: Pace::new(workload.writes_per_s, workload),
            reads: Pace::new(workload.reads_per_s, workload),
            acked: Mutex::default(),
        }
    }

    /// Surges count from now.
    pub fn begin_chaos(&self) {
        [&self.writes, &self.reads].into_iter().for_each(Pace::begin_chaos);
    }

    /// No further requests; [`Clients::run`] ends when the last answers are there.
    pub fn stop(&self) {
        [&self.writes, &self.reads].into_iter().for_each(Pace::stop);
    }

    /// When an event of each group was acked last.
    pub fn acked(&self) -> BTreeMap<Group, u64> {
        locked(&self.acked).clone()
    }

    /// Gives every user `each` events, so that a model has something to learn and every item is known.
    ///
    /// # Errors
    /// An event was not acked in a minute.
    pub fn sow(&self, each: u32) -> Result<()> {
        let calls: Vec<Call> = (0..self.workload.users * each).map(|number| self.sown(number)).collect();
        for (number, batch) in calls.chunks(SEED_BATCH).enumerate() {
            let start = Instant::now();
            while !self.send(number, batch, None).iter().all(is_acked) {
                anyhow::ensure!(start.elapsed() < GIVE_UP, "the first events were not acked in {GIVE_UP:?}");
                std::thread::sleep(RETRY); // a client's pause before it tries again
            }
        }
        Ok(())
    }

    /// The first events: users of a kind like items of a kind, and every item is somebody's.
    fn sown(&self, number: u32) -> Call {
        const KINDS: u32 = 10;
        let (user, round) = (number % self.workload.users, number / self.workload.users);
        let item = (round.wrapping_mul(7) + user / KINDS) * KINDS + user % KINDS;
        self.named(Call::Event {
            event_id: format!("sown-{number}"),
            user: format!("u{user}"),
            item: format!("i{}", item % self.workload.items),
            event_type: "click".to_owned(),
        })
    }

    /// Calls until [`Clients::stop`].
    ///
    /// # Errors
    /// A worker panicked.
    pub fn run(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let writers = scope.spawn(|| load::drive(WORKERS, || self.writes.next(), |number| self.write(number)));
            let readers = load::drive(WORKERS, || self.reads.next(), |number| self.read(number));
            let writers = writers.join().map_err(|_| anyhow!("the writers panicked"))?;
            readers.and(writers).map(drop).context("the clients of the run")
        })
    }

    fn write(&self, number: usize) -> Result<()> {
        let call = self.named(self.workload.write(self.seed, "w", number as u64));
        if !matches!(call, Call::Event { .. }) {
            let outcome = self.one(number, &call);
            if matches!(outcome, Outcome::Ok(_)) {
                self.race(number, &call);
            }
            return Ok(());
        }
        let start = Instant::now();
        for attempt in 0.. {
            if is_acked(&self.one(number + attempt, &call)) || start.elapsed() > GIVE_UP || self.writes.is_over() {
                break;
            }
            std::thread::sleep(RETRY); // a client's pause before it tries again
        }
        if self.workload.repeats(self.seed, number as u64) {
            self.one(number + 1, &call);
        }
        Ok(())
    }

    /// What was just acked through one node is asked for through the next.
    fn race(&self, number: usize, acked: &Call) {
        let user = acked
            .user()
            .map(str::to_owned)
            .unwrap_or_else(|| format!("{}u{}", self.prefix, number as u32 % self.workload.users));
        self.one(number + 1, &Call::Recommend { user, n: self.workload.n, exclude: [].into(), session: None });
    }

    fn read(&self, number: usize) -> Result<()> {
        let call = self.named(self.workload.read(self.seed, number as u64));
        self.one(number, &call);
        Ok(())
    }

    /// One call through the `number`th gateway; what came of it.
    pub fn one(&self, number: usize, call: &Call) -> Outcome {
        let outcomes = self.send(number, std::slice::from_ref(call), None);
        outcomes
            .into_iter()
            .next()
            .unwrap_or_else(|| Outcome::Rejected(docent_trial::history::Refusal::new("none", "")))
    }

    /// As [`Clients::one`], through a member of the caller's choice where one is given; the calls of a batch are events.
    pub fn send(&self, number: usize, calls: &[Call], through: Option<Member>) -> Vec<Outcome> {
        let chosen = match through {
            Some(member) => self.gates.usable().into_iter().find(|(one, _)| *one == member),
            None => self.gates.pick(number).ok(),
        };
        let Some((member, gateway)) = chosen else {
            std::thread::sleep(RETRY); // nobody can be asked
            return Vec::new();
        };
        let mut seat = self.take_seat();
        let calls: Vec<Call> = calls.iter().map(|call| with_session(call, number, &seat)).collect();
        let called_us = self.tape.now_us();
        let outcomes = match calls.as_slice() {
            [call] => vec![call::make(&gateway.client, call)],
            batch => call::events(&gateway.client, batch),
        };
        for (call, outcome) in calls.into_iter().zip(&outcomes) {
            self.note(outcome, &mut seat);
            self.tape.operation(seat.client, member, call, called_us, outcome.clone());
        }
        locked(&self.seats).push(seat);
        outcomes
    }

    fn note(&self, outcome: &Outcome, seat: &mut Seat) {
        match outcome {
            Outcome::Ok(Answer::Event { outcome: EventOutcome::Accepted, position: Some(position) }) => {
                locked(&self.acked).insert(position.group, self.tape.now_us());
            }
            Outcome::Ok(Answer::Listing(listing)) => seat.session.clone_from(&listing.session),
            _ => {}
        }
    }

    fn take_seat(&self) -> Seat {
        let free = locked(&self.seats).pop();
        free.unwrap_or_else(|| Seat { client: self.seats_made.fetch_add(1, Ordering::Relaxed), session: None })
    }

    /// The call with this run's prefix before every id.
    pub fn named(&self, mut call: Call) -> Call {
        if self.prefix.is_empty() {
            return call;
        }
        let put = |id: &mut String| id.insert_str(0, &self.prefix);
        match &mut call {
            Call::Event { event_id, user, item, .. } => [event_id, user, item].into_iter().for_each(put),
            Call::SetBlocks { user, items } => {
                put(user);
                *items = items.iter().map(|item| format!("{}{item}", self.prefix)).collect();
            }
            Call::SetConsent { user, .. } | Call::ReadConsent { user } | Call::ReadBlocks { user } => put(user),
            Call::PutUser { user, .. } | Call::ReadUser { user } | Call::EraseUser { user } => put(user),
            Call::Recommend { user, .. } => put(user),
            Call::PutItem { item, .. } | Call::ReadItem { item } | Call::DeleteItem { item } => put(item),
            Call::TakeDown { item } | Call::Restore { item } | Call::Similar { item, .. } => put(item),
            Call::Popular { .. }
            | Call::ReadCatalog {}
            | Call::Activate { .. }
            | Call::RollBack {}
            | Call::Train {} => {}
        }
        call
    }
}

/// Every second query sends the token of its client's last answer.
fn with_session(call: &Call, number: usize, seat: &Seat) -> Call {
    let mut call = call.clone();
    if let Call::Recommend { session, .. } = &mut call
        && number.is_multiple_of(2)
    {
        session.clone_from(&seat.session);
    }
    call
}

/// Whether an event is kept, or need not be.
fn is_acked(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Ok(_))
}

/// Whether a call is a query that a living node must answer.
pub fn is_failed_query(operation: &Operation) -> bool {
    let is_failed = |refusal: &docent_trial::history::Refusal| !refusal.is_of_gateway;
    operation.call.is_query()
        && matches!(&operation.outcome, Outcome::Rejected(refusal) | Outcome::Unknown(refusal) if is_failed(refusal))
}
