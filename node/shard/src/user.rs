//! The user shard's state machine: profiles, consent, blocks, events, each at most once.

use crate::counts;
use crate::key::{self, Kind};
use crate::record::{EventRecord, Sequence, UserRecord, decode, encode};
use crate::view::{Tx, View};
use crate::{Effects, record, restore};
use docent_placement::SlotHasher;
use docent_types::command::{UserCommand, UserOutcome};
use docent_types::error::Result;
use docent_types::event::{Event, EventOutcome};
use docent_types::sabotage::{Bug, is};
use docent_types::user::Profile;
use docent_types::{ItemId, Keyspace, Slot, TenantId, UserId};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

/// A user shard. Holds no state: that is in the [`View`].
///
/// **Invariant:** a user with any record has a [`Kind::User`] record. It is what "known" means, and it lets an event of a new
/// user skip the dedupe's read.
#[derive(Clone, Copy, Debug)]
pub struct UserShard {
    hasher: SlotHasher,
}

/// What an append knows about one of its users.
struct Writer {
    /// The prefix of the user's events.
    events: Vec<u8>,
    collects: bool,
    /// Whether the committed state may have events of this user.
    is_in_base: bool,
    is_changed: bool,
}

impl UserShard {
    /// A shard that finds slots with `hasher`, which is fixed at the cluster's birth.
    pub fn new(hasher: SlotHasher) -> UserShard {
        UserShard { hasher }
    }

    /// Applies the command at log index `index`, which must rise from call to call. Errors are the store's and stop the replica;
    /// what is refused is an outcome.
    pub fn apply(&self, tx: &mut Tx<'_>, index: u64, command: UserCommand) -> Result<(UserOutcome, Effects)> {
        let lineage = restore::lineage(tx, Keyspace::Users)?;
        let is_restore = matches!(command, UserCommand::Digest | UserCommand::Restore(_) | UserCommand::RestoreDone(_));
        if lineage.as_ref().is_some_and(|lineage| !lineage.is_whole) && !is_restore {
            return Ok((UserOutcome::Restoring, Effects::default()));
        }
        // The stamp of what this command writes: above everything that came with a backup.
        let index = lineage.map_or(0, |lineage| lineage.base).saturating_add(index);
        match command {
            UserCommand::Append { tenant, events, received_ms: _ } => self.append(tx, index, tenant, &events),
            UserCommand::PutProfiles { tenant, profiles } => self.put_profiles(tx, tenant, profiles),
            UserCommand::SetConsent { tenant, user_id, consent } => {
                self.update(tx, &tenant, &user_id, |user| user.consent = consent)?;
                Ok((UserOutcome::Done, Effects { users_changed: vec![user_id], ..Effects::of(tenant) }))
            }
            UserCommand::SetBlocks { tenant, user_id, blocks } => self.set_blocks(tx, tenant, user_id, blocks),
            UserCommand::DeleteUser { tenant, user_id } => self.delete(tx, index, tenant, user_id),
            UserCommand::Digest => Ok((UserOutcome::Done, Effects::default())),
            UserCommand::Restore(part) => {
                let outcome = restore::part(tx, Keyspace::Users, self.hasher, &part)?;
                Ok((UserOutcome::Restore(outcome), Effects::default()))
            }
            UserCommand::RestoreDone(end) => {
                let outcome = restore::done(tx, Keyspace::Users, &end)?;
                Ok((UserOutcome::Restore(outcome), Effects::restored(outcome)))
            }
        }
    }

    pub(crate) fn slot(&self, tenant: &TenantId, user_id: &UserId) -> Slot {
        self.hasher.slot(tenant, user_id.as_str())
    }

    pub(crate) fn key(&self, tenant: &TenantId, kind: Kind, user_id: &UserId) -> Vec<u8> {
        key::user(self.slot(tenant, user_id), tenant, kind, user_id)
    }

    fn append(
        &self,
        tx: &mut Tx<'_>,
        index: u64,
        tenant: TenantId,
        events: &[Event],
    ) -> Result<(UserOutcome, Effects)> {
        let mut writers: BTreeMap<UserId, Writer> = BTreeMap::new();
        let mut delta: BTreeMap<ItemId, i64> = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(events.len());
        for (offset, event) in (0u32..).zip(events) {
            let writer = match writers.entry(event.user_id.clone()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let writer = self.open_writer(tx, &tenant, entry.key())?;
                    entry.insert(writer)
                }
            };
            if !writer.collects {
                outcomes.push(EventOutcome::NotCollected);
                continue;
            }
            let at = Sequence { index, offset };
            let key = key::event(&writer.events, &event.event_id);
            match tx.put_new(key, writer.is_in_base, || encode(&EventRecord::of(event, at)))? {
                false => outcomes.push(EventOutcome::Duplicate),
                true => {
                    outcomes.push(EventOutcome::Accepted);
                    writer.is_changed = true;
                    *delta.entry(event.item_id.clone()).or_default() += 1;
                }
            }
        }
        counts::record(tx, &tenant, index, &delta)?;
        let users_changed = writers.into_iter().filter(|(_, writer)| writer.is_changed).map(|(id, _)| id).collect();
        Ok((UserOutcome::Events(outcomes), Effects { users_changed, ..Effects::of(tenant) }))
    }

    fn open_writer(&self, tx: &mut Tx<'_>, tenant: &TenantId, user_id: &UserId) -> Result<Writer> {
        let slot = self.slot(tenant, user_id);
        let key = key::user(slot, tenant, Kind::User, user_id);
        let events = key::user(slot, tenant, Kind::Event, user_id);
        // Without a record in the base there are no events in it: the dedupe need not look there.
        let (record, is_in_base) = tx.get_both(&key)?;
        let collects = match record {
            Some(bytes) => decode::<UserRecord>("user", &bytes)?.consent.collect,
            None => {
                tx.put(key, encode(&UserRecord::default()));
                true
            }
        };
        Ok(Writer { events, collects, is_in_base, is_changed: false })
    }

    fn put_profiles(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        profiles: Vec<Profile>,
    ) -> Result<(UserOutcome, Effects)> {
        let mut users_changed = Vec::with_capacity(profiles.len());
        for Profile { user_id, attributes } in profiles {
            self.update(tx, &tenant, &user_id, |user| user.attributes = attributes)?;
            users_changed.push(user_id);
        }
        users_changed.sort();
        users_changed.dedup();
        Ok((UserOutcome::Done, Effects { users_changed, ..Effects::of(tenant) }))
    }

    fn set_blocks(
        &self,
        tx: &mut Tx<'_>,
        tenant: TenantId,
        user_id: UserId,
        mut blocks: Vec<ItemId>,
    ) -> Result<(UserOutcome, Effects)> {
        self.update(tx, &tenant, &user_id, |_| ())?;
        blocks.sort();
        blocks.dedup();
        let key = self.key(&tenant, Kind::Blocks, &user_id);
        match blocks.is_empty() {
            true => tx.delete(key),
            false => tx.put(key, encode(&blocks.iter().map(ItemId::as_str).collect::<Vec<_>>())),
        }
        Ok((UserOutcome::Done, Effects { users_changed: vec![user_id], ..Effects::of(tenant) }))
    }

    /// Erases the user as if never seen: the next event of the same `event_id` is a new one.
    fn delete(&self, tx: &mut Tx<'_>, index: u64, tenant: TenantId, user_id: UserId) -> Result<(UserOutcome, Effects)> {
        let user_key = self.key(&tenant, Kind::User, &user_id);
        if !tx.contains(&user_key)? {
            return Ok((UserOutcome::NotFound, Effects::of(tenant)));
        }
        let mut delta: BTreeMap<ItemId, i64> = BTreeMap::new();
        let mut keys = vec![user_key, self.key(&tenant, Kind::Blocks, &user_id)];
        tx.scan_prefix(&self.key(&tenant, Kind::Event, &user_id), &mut |key, value| {
            let event: EventRecord<'_> = decode("event", value)?;
            *delta.entry(record::stored(ItemId::new(event.item_id))?).or_default() -= 1;
            if !is(Bug::EraseKeepsHistory) {
                keys.push(key.to_vec());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        keys.into_iter().for_each(|key| tx.delete(key));
        counts::record(tx, &tenant, index, &delta)?;
        Ok((UserOutcome::Done, Effects { users_changed: vec![user_id], ..Effects::of(tenant) }))
    }

    /// Changes the user's record, which is made where there is none.
    fn update(
        &self,
        tx: &mut Tx<'_>,
        tenant: &TenantId,
        user_id: &UserId,
        change: impl FnOnce(&mut UserRecord),
    ) -> Result<()> {
        let key = self.key(tenant, Kind::User, user_id);
        let mut user = match tx.get(&key)? {
            Some(bytes) => decode("user", &bytes)?,
            None => UserRecord::default(),
        };
        change(&mut user);
        tx.put(key, encode(&user));
        Ok(())
    }
}
