//! A shard as raft's state machine: commands in log order, one store batch a batch of entries, memory brought up after the commit.

use crate::sabotage;
use crate::shards::{ItemsRole, Role, Users};
use bytes::Bytes;
use docent_raft::{Applied, Command, LogMark, Machine, MachineError, SnapshotSource};
use docent_shard::view::{Tx, View};
use docent_shard::{Effects, ItemShard, UserShard};
use docent_store::{ShardStore, ShardView, Snapshot};
use docent_types::command::{ItemCommand, UserCommand};
use docent_types::sabotage::{Bug, is};
use docent_types::{Kind, codec};
use std::sync::Arc;

/// The state machine of one replica.
pub struct ShardMachine {
    store: ShardStore,
    role: Role,
}

type Done<T> = Result<T, MachineError>;

impl ShardMachine {
    /// A machine over `store` that keeps `role`'s memory up to date.
    pub fn new(store: ShardStore, role: Role) -> ShardMachine {
        ShardMachine { store, role }
    }

    /// Applies one command inside the batch.
    fn apply_one(
        &self,
        view: &Arc<ShardView>,
        tx: &mut Tx<'_>,
        command: &Command,
        applied: &Applied,
        effects: &mut Vec<Effects>,
    ) -> Done<Bytes> {
        let Some(payload) = &command.payload else { return Ok(Bytes::new()) };
        let index = sabotage::stamp(command.index, applied);
        let applied = match &self.role {
            Role::Users(users) => apply_users(&users.machine, tx, index, payload)?,
            Role::Items(items) => apply_items(&items.machine, tx, index, payload)?,
        };
        if applied.is_digest {
            // The state as of this very entry, whatever comes behind it in the batch.
            self.store.digests().pin(command.index, view.clone(), tx.batch().clone());
        }
        effects.push(applied.effects);
        Ok(applied.response)
    }

    /// Brings the memory of this replica up to what was committed.
    fn follow(&self, effects: &[Effects]) -> Done<()> {
        if effects.iter().any(|effect| effect.is_restored) {
            return self.reload();
        }
        match &self.role {
            Role::Users(users) => follow_users(users, effects),
            Role::Items(items) => items.serving.follow(effects),
        }
        Ok(())
    }

    /// Starts the memory of this replica anew from what is committed.
    fn reload(&self) -> Done<()> {
        match &self.role {
            Role::Users(users) => users.vectors.clear(),
            Role::Items(items) => {
                let view = self.store.view().map_err(store_error)?;
                items.serving.reload(&view as &dyn View).map_err(machine_error)?;
            }
        }
        Ok(())
    }
}

/// A command that was applied.
struct Applying {
    response: Bytes,
    effects: Effects,
    is_digest: bool,
}

fn apply_users(machine: &UserShard, tx: &mut Tx<'_>, index: u64, payload: &[u8]) -> Done<Applying> {
    let command: UserCommand = codec::decode("a command of a user shard", payload).map_err(machine_error)?;
    let is_digest = command == UserCommand::Digest;
    let (outcome, effects) = machine.apply(tx, index, command).map_err(machine_error)?;
    Ok(Applying { response: codec::encode(&outcome), effects, is_digest })
}

fn apply_items(machine: &ItemShard, tx: &mut Tx<'_>, index: u64, payload: &[u8]) -> Done<Applying> {
    let command: ItemCommand = codec::decode("a command of an item shard", payload).map_err(machine_error)?;
    let is_digest = command == ItemCommand::Digest;
    let (outcome, effects) = machine.apply(tx, index, command).map_err(machine_error)?;
    Ok(Applying { response: codec::encode(&outcome), effects, is_digest })
}

fn follow_users(users: &Users, effects: &[Effects]) {
    let changed: Vec<_> = effects.iter().flat_map(|effect| effect.users_changed.iter().cloned()).collect();
    if !is(Bug::StaleUserVector) {
        users.vectors.forget(&changed);
    }
}

fn machine_error(error: docent_types::Error) -> MachineError {
    match error.kind {
        Kind::Unsupported => MachineError::TooNew { message: error.message },
        Kind::Corrupt => MachineError::Corrupt { message: error.message },
        _ => MachineError::Storage { message: error.message },
    }
}

fn store_error(error: docent_store::Error) -> MachineError {
    machine_error(error.into())
}

/// The mark that is stored with the state.
fn encode_mark(applied: &Applied) -> Bytes {
    codec::encode(&(applied.last.map(|mark| (mark.term, mark.index)), applied.mark.to_vec()))
}

fn decode_mark(bytes: Option<Bytes>) -> Done<Applied> {
    let Some(bytes) = bytes else { return Ok(Applied::default()) };
    let (last, mark): (Option<(u64, u64)>, Vec<u8>) =
        codec::decode("a shard's applied mark", &bytes).map_err(machine_error)?;
    Ok(Applied { last: last.map(|(term, index)| LogMark { term, index }), mark: mark.into() })
}

/// The log index of a view's state.
pub fn applied_index(mark: Option<Bytes>) -> docent_types::Result<u64> {
    let applied = decode_mark(mark).map_err(|error| docent_types::Error::new(Kind::Corrupt, error.to_string()))?;
    Ok(applied.last.map_or(0, |mark| mark.index))
}

impl Machine for ShardMachine {
    fn applied(&self) -> Done<Applied> {
        decode_mark(self.store.applied())
    }

    fn apply(&self, batch: Vec<Command>, applied: Applied) -> Done<Vec<Bytes>> {
        let view = Arc::new(self.store.view().map_err(store_error)?);
        let mut tx = Tx::new(&*view);
        let mut effects = Vec::new();
        let responses: Done<Vec<Bytes>> =
            batch.iter().map(|command| self.apply_one(&view, &mut tx, command, &applied, &mut effects)).collect();
        let responses = responses?;
        let writes = tx.into_batch();
        // A view that nobody pinned holds nothing back while the state changes.
        drop(view);
        self.store.commit(writes, &encode_mark(&applied)).map_err(store_error)?;
        self.store.digests().expire(applied.last.map_or(0, |mark| mark.index));
        self.follow(&effects)?;
        Ok(responses)
    }

    fn snapshot(&self) -> Done<Box<dyn SnapshotSource>> {
        let snapshot = self.store.snapshot().map_err(store_error)?;
        let applied = decode_mark(snapshot.applied().cloned())?;
        Ok(Box::new(Source { snapshot, applied }))
    }

    fn install(&self, applied: Applied, chunks: Box<dyn Iterator<Item = Done<Bytes>> + Send>) -> Done<()> {
        let chunks =
            chunks.map(|chunk| chunk.map_err(|error| docent_types::Error::new(Kind::Unavailable, error.to_string())));
        self.store.install(&encode_mark(&applied), chunks).map_err(store_error)?;
        self.reload()
    }

    fn flushed(&self) -> Done<Option<u64>> {
        Ok(decode_mark(self.store.flushed_mark())?.last.map(|mark| mark.index))
    }

    fn flush(&self) -> Done<()> {
        self.store.flush().map_err(store_error)
    }
}

/// A point-in-time view on its way to another replica.
struct Source {
    snapshot: Snapshot,
    applied: Applied,
}

impl SnapshotSource for Source {
    fn applied(&self) -> &Applied {
        &self.applied
    }

    fn next_chunk(&mut self, bytes_max: usize) -> Done<Option<Bytes>> {
        self.snapshot.next_chunk(bytes_max).map_err(store_error)
    }
}

/// The role of a new replica of items.
pub fn items_role(machine: ItemShard, serving: crate::serving::items::Items) -> Role {
    Role::Items(Arc::new(ItemsRole { machine, serving }))
}
