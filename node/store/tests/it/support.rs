//! A store in a temporary directory and a shard's log to apply.

use bytes::Bytes;
use docent_placement::SlotHasher;
use docent_runtime::disk::MemDisk;
use docent_shard::conformance::contents;
use docent_shard::{Batch, Tx, UserShard};
use docent_store::{ShardStore, Store, StoreOptions};
use docent_types::command::UserCommand;
use docent_types::event::Event;
use docent_types::user::Consent;
use docent_types::{EventId, ItemId, Keyspace, ShardId, TenantId, UserId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub(crate) fn shard(index: u16) -> ShardId {
    ShardId { keyspace: Keyspace::Users, index }
}

/// Where a store lies: fjall on real files, or its twin on a disk in memory.
pub(crate) enum Ground {
    Real(tempfile::TempDir),
    Twin(MemDisk),
}

impl Ground {
    /// One of each: what a test promises holds on both.
    pub(crate) fn both() -> [Ground; 2] {
        [Ground::Real(tempfile::tempdir().unwrap()), Ground::Twin(MemDisk::default())]
    }

    /// Opens the store, also again after all handles to it are gone.
    pub(crate) fn open(&self) -> Store {
        match self {
            Ground::Real(dir) => open(dir.path()),
            Ground::Twin(disk) => Store::open_twin(Arc::new(disk.clone()), "/data/state").unwrap(),
        }
    }
}

pub(crate) fn open(dir: &Path) -> Store {
    let options = StoreOptions { cache_bytes: 1 << 20, memtable_bytes: 1 << 20, ..StoreOptions::default() };
    Store::open(dir, &options).unwrap()
}

/// Everything in the shard with its mark: equal where two replicas are.
pub(crate) fn state_of(shard: &ShardStore) -> (Option<Bytes>, Vec<(Vec<u8>, Bytes)>) {
    let view = shard.view().unwrap();
    (view.applied().unwrap(), contents(&view))
}

pub(crate) fn batch(records: &[(&[u8], &[u8])]) -> Batch {
    let mut batch = Batch::default();
    records.iter().for_each(|(key, value)| batch.put(key.to_vec(), Bytes::copy_from_slice(value)));
    batch
}

/// A log of appends, opt-outs and erasures.
pub(crate) fn log(commands: u64) -> Vec<UserCommand> {
    let tenant = TenantId::default;
    let user_id = |i: u64| UserId::new(format!("u{}", i % 7)).unwrap();
    let event = |i: u64, j: u64| Event {
        event_id: EventId::new(format!("e{}", (i * 31 + j * 7) % 300)).unwrap(),
        user_id: user_id(i + j),
        item_id: ItemId::new(format!("i{}", (i * j) % 40)).unwrap(),
        event_type: "view".into(),
        value: None,
        timestamp_ms: i as i64,
        session_id: None,
        recommendation_id: None,
        position: None,
        context: BTreeMap::new(),
    };
    let command = |i: u64| match i % 9 {
        7 => UserCommand::DeleteUser { tenant: tenant(), user_id: user_id(i) },
        8 => {
            let consent = Consent { collect: i.is_multiple_of(2), ..Consent::default() };
            UserCommand::SetConsent { tenant: tenant(), user_id: user_id(i), consent }
        }
        _ => UserCommand::Append { tenant: tenant(), events: (0..20).map(|j| event(i, j)).collect(), received_ms: 0 },
    };
    (1..=commands).map(command).collect()
}

/// Applies `log[from..to]`, `together` commands a commit; the mark is the index.
pub(crate) fn apply(shard: &ShardStore, log: &[UserCommand], from: usize, to: usize, together: usize) {
    let machine = UserShard::new(SlotHasher::new(&[1; 16]));
    let mut index = from as u64;
    for commands in log[from..to].chunks(together) {
        let view = shard.view().unwrap();
        let mut tx = Tx::new(&view);
        for command in commands {
            index += 1;
            machine.apply(&mut tx, index, command.clone()).unwrap();
        }
        shard.commit(tx.into_batch(), &index.to_be_bytes()).unwrap();
    }
}
