//! The handle of one group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use docent_journal::{GroupLog, Journal};
use docent_runtime::disk::{Reserve, Room as Free};
use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, ForwardReason, InitializeError, RaftError};
use openraft::raft::ClientWriteResult;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::compaction::Compaction;
use crate::contact::Contact;
use crate::meters::Meters;
use crate::raft::{LogId, Payload, Peer, Raft, Reply, Room, TypeConfig, hint};
use crate::read::{self, ReadGuard};
use crate::{Error, Member, Options, ProposeError, ReadError, Status, record};

/// First and longest wait before a proposal that met an expired lease is submitted again.
const LEASE_RETRY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// What a caller is told to wait when the group is full: about one journal sync and one round trip.
const RETRY_AFTER_MS: u64 = 20;
/// What a caller is told to wait when the disk is full, and how often a full journal is asked again.
const FULL_RETRY_AFTER_MS: u64 = 1_000;
/// A transfer starts when the target lacks at most this many entries: it must have the rest before it may stand.
const TRANSFER_LAG_MAX: u64 = 64;

/// A proposal that is committed and applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its log index.
    pub index: u64,
    /// Term of its entry.
    pub term: u64,
    /// What the state machine answered.
    pub response: Bytes,
}

/// One group's replica in this process. Clones share it.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) group: u64,
    pub(crate) replica: u64,
    pub(crate) raft: Raft,
    pub(crate) options: Arc<Options>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) meters: Meters,
    pub(crate) compaction: Arc<Compaction>,
    pub(crate) proposals: Arc<Semaphore>,
    pub(crate) proposal_bytes: Arc<Semaphore>,
    /// The term in which this replica, as leader, last began to hand over.
    pub(crate) transferred_in: AtomicU64,
    /// When this replica last had all that its leader had committed.
    pub(crate) leader_contact: Mutex<Contact>,
    /// Until then this replica grants no votes; `None` in its first life.
    pub(crate) no_votes_until: Option<Instant>,
    pub(crate) room: JournalRoom,
    /// Replicas that say that their disk is full.
    pub(crate) full: Full,
    /// Set once; ends the group's tasks.
    pub(crate) closed: watch::Sender<bool>,
}

/// Replicas whose last answer said that their disk is full. A hint: it saves proposals and transfers that could not succeed.
#[derive(Clone, Default)]
pub(crate) struct Full(Arc<Mutex<BTreeSet<u64>>>);

impl Full {
    pub(crate) fn note(&self, replica: u64, is_full: bool) {
        let mut full = self.lock();
        if is_full {
            full.insert(replica);
        } else {
            full.remove(&replica);
        }
    }

    fn has(&self, replica: u64) -> bool {
        self.lock().contains(&replica)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room that the process keeps back on its disk, once somebody has said so.
pub(crate) type Kept = Arc<OnceLock<Reserve>>;

/// Whether this process should take no more data.
pub(crate) fn is_low(kept: &Kept) -> bool {
    kept.get().is_some_and(|reserve| reserve.room() <= Free::Low)
}

/// Whether the journal can take more, as one group sees it.
pub(crate) struct JournalRoom {
    pub(crate) journal: Journal,
    pub(crate) log: GroupLog,
    /// When any group of the process last asked the full journal again.
    pub(crate) asked: Arc<Mutex<Option<Instant>>>,
    pub(crate) kept: Kept,
}

impl JournalRoom {
    /// Whether the disk is full. Only a write finds out that it no longer is, and only writes are refused: so once in a while the
    /// committed position, a few bytes, is written again.
    fn is_full(&self) -> bool {
        let is_out = self.kept.get().is_some_and(|reserve| reserve.room() == Free::Out);
        if !self.journal.is_full() {
            return is_out;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_none_or(|at| at.elapsed() >= Duration::from_millis(FULL_RETRY_AFTER_MS)) {
            *asked = Some(Instant::now());
            // What raft writes meanwhile may be newer; an older position is safe too.
            let committed = self.log.state().committed.unwrap_or_else(|| record::encode(&None::<LogId>));
            self.log.save_committed(committed, None);
        }
        true
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("group", &self.shared.group).field("replica", &self.shared.replica).finish()
    }
}

/// How one submission ended.
enum Submitted {
    Done(Result<Committed, ProposeError>),
    LeaseExpired,
}

impl Group {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.shared.raft
    }

    pub(crate) fn lease_ms(&self) -> u64 {
        self.shared.options.election_timeout_max_ms
    }

    pub(crate) fn is_transferring(&self, term: u64) -> bool {
        self.shared.transferred_in.load(Ordering::Acquire) >= term
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The leader was accepted here at `at`, when it had committed `commit`.
    pub(crate) fn note_leader_contact(&self, at: Instant, commit: u64) {
        self.contact().note(at, commit, crate::status::applied_now(self.raft()));
    }

    /// What a leader knows of its own freshness stays known when it leads no more.
    pub(crate) fn note_own_leadership(&self) {
        if let Some((at, commit)) = crate::status::own_contact(self.raft()) {
            self.note_leader_contact(at, commit);
        }
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.shared.leader_contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this replica came back so lately that a leader which it acknowledged before may still count on it: openraft
    /// forgets over a restart that it promised to vote for no other.
    pub(crate) fn refuses_votes(&self) -> bool {
        self.shared.no_votes_until.is_some_and(|until| Instant::now() < until)
    }

    /// How far behind this replica can be: milliseconds since a leader reached it, or a quorum acknowledged it as the leader, with
    /// nothing committed that is not applied here by now. `None` before the first such contact. An isolated leader's figure grows, and
    /// so does that of replicas cut off with none, and of those that are heard but get no entries; a change of leaders forgets nothing.
    pub fn millis_since_leader_contact(&self) -> Option<u64> {
        self.note_own_leadership();
        let contact = self.contact().latest(crate::status::applied_now(self.raft()));
        let contact = contact.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        // Where every disk is full, a new leader commits nothing of its own, and is acknowledged all the same.
        crate::status::quorum_ack_now(self.raft()).into_iter().chain(contact).min()
    }

    /// The group's id.
    pub fn id(&self) -> u64 {
        self.shared.group
    }

    /// This replica's id.
    pub fn replica(&self) -> u64 {
        self.shared.replica
    }

    /// The status now.
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    /// The status and its changes. Only the last one is kept. The sender ends with the group.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.shared.status.clone()
    }

    /// Gives a new group its first voters. Every one of them calls this with the same set; calling it again, or on a
    /// group that has a log already, changes nothing and is `Ok`.
    ///
    /// # Errors
    /// [`Error::Membership`] if this replica is not among `members`, [`Error::Fatal`].
    pub async fn initialize(&self, members: Vec<Member>) -> Result<(), Error> {
        let members: BTreeMap<u64, Peer> = members.iter().map(|member| (member.replica, Peer::of(member))).collect();
        match self.raft().initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => Err(self.membership(&error)),
            Err(RaftError::Fatal(error)) => Err(self.fatal(&error)),
        }
    }

    /// Proposes a command and waits until it is committed and applied here. A write that meets the short time after an
    /// election in which the leader is not yet sure of itself waits it out, within `within`.
    ///
    /// # Errors
    /// See [`ProposeError`]; only some leave the outcome unknown. The in-flight limits hold until raft is done with
    /// the entry, even if the caller stopped waiting.
    pub async fn propose(&self, payload: Bytes, within: Duration) -> Result<Committed, ProposeError> {
        let started = Instant::now();
        let result = self.propose_until(payload, started + within).await;
        let outcome = match &result {
            Ok(_) => &self.shared.meters.committed,
            Err(error) if error.outcome_is_unknown() => &self.shared.meters.unknown,
            Err(_) => &self.shared.meters.rejected,
        };
        self.shared.meters.proposed(outcome, started.elapsed());
        result
    }

    async fn propose_until(&self, payload: Bytes, until: Instant) -> Result<Committed, ProposeError> {
        let room = Arc::new(self.room(payload.len())?);
        // Without a quorum the lease never comes back; better to say so than to hold the caller.
        let patience = Instant::now() + Duration::from_millis(2 * self.lease_ms());
        let mut wait = LEASE_RETRY.0;
        loop {
            match self.submit(payload.clone(), Arc::clone(&room), until).await {
                Submitted::Done(result) => return result,
                Submitted::LeaseExpired if Instant::now() + wait < until.min(patience) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LEASE_RETRY.1);
                }
                Submitted::LeaseExpired => return Err(ProposeError::NotLeader { group: self.id(), hint: None }),
            }
        }
    }

    /// Takes room for a proposal, or says that there is none.
    fn room(&self, bytes: usize) -> Result<Room, ProposeError> {
        let (group, bytes_max) = (self.id(), self.shared.options.payload_bytes_max);
        let too_large = || ProposeError::TooLarge { group, bytes, bytes_max };
        let overloaded = |_| ProposeError::Overloaded { group, retry_after_ms: RETRY_AFTER_MS };
        let size = u32::try_from(bytes).ok().filter(|_| bytes <= bytes_max).ok_or_else(too_large)?;
        // What room is left is for votes and for what is in flight; reads go on.
        if self.shared.room.is_full() || !self.has_quorum_with_room() {
            return Err(ProposeError::Overloaded { group, retry_after_ms: FULL_RETRY_AFTER_MS });
        }
        let count = Arc::clone(&self.shared.proposals).try_acquire_owned().map_err(overloaded)?;
        let bytes = Arc::clone(&self.shared.proposal_bytes).try_acquire_many_owned(size).map_err(overloaded)?;
        Ok(Room { _count: count, _bytes: bytes })
    }

    /// Whether this process should take no more data.
    pub(crate) fn is_low(&self) -> bool {
        is_low(&self.shared.room.kept)
    }

    /// Whether a replica can take data, as far as this leader has heard.
    pub fn has_room(&self, replica: u64) -> bool {
        !self.shared.full.has(replica)
    }

    /// A proposal that too few replicas would take is better refused than left without an outcome.
    fn has_quorum_with_room(&self) -> bool {
        if self.shared.full.lock().is_empty() {
            return true;
        }
        let status = self.shared.status.borrow();
        let voters = status.members.iter().filter(|member| member.is_voter);
        let able = voters.clone().filter(|member| self.has_room(member.member.replica)).count();
        2 * able > voters.count()
    }

    async fn submit(&self, payload: Bytes, room: Arc<Room>, until: Instant) -> Submitted {
        let group = self.id();
        let (sender, receiver) = oneshot::channel::<ClientWriteResult<TypeConfig>>();
        let write = self.raft().client_write_ff(Payload(payload), Some(Reply { sender, room }));
        match timeout_at(until, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Submitted::Done(Err(ProposeError::Fatal { group, message: error.to_string() }));
            }
            // openraft's own queue was full all the time: it never got the proposal.
            Err(_) => {
                return Submitted::Done(Err(ProposeError::Overloaded { group, retry_after_ms: RETRY_AFTER_MS }));
            }
        }
        let unknown = |reason| Submitted::Done(Err(ProposeError::Unknown { group, reason }));
        match timeout_at(until, receiver).await {
            Err(_) => unknown("no answer within the deadline"),
            Ok(Err(_)) => unknown("the group stopped"),
            Ok(Ok(Ok(written))) => Submitted::Done(Ok(Committed {
                index: written.log_id.index,
                term: written.log_id.leader_id.term,
                response: written.data.0,
            })),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) => match forward.reason {
                ForwardReason::LeaseExpired => Submitted::LeaseExpired,
                _ => Submitted::Done(Err(ProposeError::NotLeader { group, hint: hint(forward) })),
            },
            Ok(Ok(Err(ClientWriteError::LogEntryDiscarded(_)))) => unknown("leadership was lost"),
            // Neither is possible for a plain proposal; unknown is the answer that is never wrong.
            Ok(Ok(Err(_))) => unknown("raft gave an unexpected answer"),
        }
    }

    /// Waits until this replica, as leader, may read everything acknowledged before now.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self, within: Duration) -> Result<ReadGuard, ReadError> {
        read::barrier(self, within).await
    }

    /// Adds a replica without a vote, which then catches up (watch `Status::matched`). Adding it again is `Ok`.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::Membership`], [`Error::TimedOut`] (it may still happen), [`Error::Fatal`].
    pub async fn add_learner(&self, member: Member, within: Duration) -> Result<(), Error> {
        let nodes = BTreeMap::from([(member.replica, Peer::of(&member))]);
        self.change(ChangeMembers::AddNodes(nodes), true, "add a learner", within).await
    }

    /// Makes exactly these replicas the voters (joint consensus; each must be a member already) and forgets replicas
    /// that lost their vote. Asking again for the same set finishes a change that was interrupted half way.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub async fn change_replicas(&self, voters: BTreeSet<u64>, within: Duration) -> Result<(), Error> {
        self.change(ChangeMembers::ReplaceAllVoters(voters), false, "change its voters", within).await
    }

    /// Forgets a learner.
    ///
    /// # Errors
    /// As [`Group::add_learner`].
    pub async fn remove_learner(&self, replica: u64, within: Duration) -> Result<(), Error> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([replica])), false, "remove a learner", within).await
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, Peer>,
        retain: bool,
        what: &'static str,
        within: Duration,
    ) -> Result<(), Error> {
        let group = self.id();
        let until = Instant::now() + within;
        let mut wait = LEASE_RETRY.0;
        loop {
            let changed = timeout_at(until, self.raft().change_membership(change.clone(), retain)).await;
            let error = match changed {
                Err(_) => return Err(Error::TimedOut { group, what }),
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(RaftError::Fatal(error))) => return Err(self.fatal(&error)),
                Ok(Err(RaftError::APIError(error))) => error,
            };
            match error {
                ClientWriteError::ForwardToLeader(forward) if forward.reason == ForwardReason::LeaseExpired => {
                    if Instant::now() + wait >= until {
                        return Err(Error::NotLeader { group, hint: None });
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LEASE_RETRY.1);
                }
                ClientWriteError::ForwardToLeader(forward) => {
                    return Err(Error::NotLeader { group, hint: hint(forward) });
                }
                ClientWriteError::LogEntryDiscarded(_) => return Err(Error::TimedOut { group, what }),
                ClientWriteError::ChangeMembershipError(error) => return Err(self.membership(&error)),
                ClientWriteError::PreconditionFailed(error) => return Err(self.membership(&error)),
            }
        }
    }

    /// Hands leadership to another voter and waits until that one leads. It is first given time to catch up; from then
    /// until the new leader is there, this group takes no proposals.
    ///
    /// # Errors
    /// [`Error::NotLeader`] if this replica does not lead, [`Error::Membership`] if `to` has no vote,
    /// [`Error::TimedOut`] (somebody, maybe `to`, will lead after the next election), [`Error::Fatal`].
    pub async fn transfer_leader(&self, to: u64, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        let mut watch = self.watch();
        let ready = |status: &Status| {
            let lag = status.last_log.zip(status.matched.get(&to).copied().flatten());
            let is_near = lag.is_some_and(|(last, matched)| last.saturating_sub(matched) <= TRANSFER_LAG_MAX);
            !status.is_leader() || is_near || to == self.replica() || status.fatal.is_some()
        };
        let status = self.wait(&mut watch, until, "bring the new leader up to date", ready).await?;
        if status.leader.as_ref().is_some_and(|leader| leader.replica == to) {
            return Ok(());
        }
        if !status.is_leader() {
            return Err(Error::NotLeader { group: self.id(), hint: status.leader });
        }
        if !status.members.iter().any(|member| member.is_voter && member.member.replica == to) {
            return Err(self.membership(&format!("replica {to} has no vote")));
        }
        if !self.has_room(to) {
            return Err(self.membership(&format!("the disk of replica {to} is full")));
        }
        self.shared.transferred_in.fetch_max(status.term, Ordering::AcqRel);
        self.raft().trigger().transfer_leader(to).await.map_err(|error| self.fatal(&error))?;
        let done = |status: &Status| status.leader.as_ref().is_some_and(|leader| leader.replica == to);
        self.wait(&mut watch, until, "hand over its leadership", done).await.map(drop)
    }

    async fn wait(
        &self,
        watch: &mut watch::Receiver<Status>,
        until: Instant,
        what: &'static str,
        is_there: impl Fn(&Status) -> bool,
    ) -> Result<Status, Error> {
        let over = |status: &Status| is_there(status) || status.fatal.is_some() || status.is_closed;
        let found = timeout_at(until, watch.wait_for(over)).await;
        let status = match found {
            Err(_) => return Err(Error::TimedOut { group: self.id(), what }),
            Ok(Err(_)) => return Err(self.fatal(&"its tasks have ended")),
            Ok(Ok(status)) => status.clone(),
        };
        match &status.fatal {
            Some(message) => Err(self.fatal(message)),
            None if status.is_closed => Err(self.fatal(&"it is closed")),
            None => Ok(status),
        }
    }

    /// Makes a snapshot now and returns the index it reaches; `None` if nothing is applied yet. Also purges what the
    /// margin allows.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Machine`], [`Error::Fatal`]; the group goes on after the first two.
    pub async fn snapshot_now(&self) -> Result<Option<u64>, Error> {
        let index = self.shared.compaction.snapshot().await?;
        self.shared.compaction.purge().await?;
        Ok(index)
    }

    /// Stands for election now (with a pre-vote). For tests and for a start after an orderly stop.
    ///
    /// # Errors
    /// [`Error::Fatal`].
    pub async fn elect(&self) -> Result<(), Error> {
        self.raft().trigger().elect(true).await.map_err(|error| self.fatal(&error))
    }

    fn fatal(&self, error: &dyn fmt::Display) -> Error {
        Error::Fatal { group: self.id(), message: error.to_string() }
    }

    fn membership(&self, error: &dyn fmt::Display) -> Error {
        Error::Membership { group: self.id(), message: error.to_string() }
    }
}
