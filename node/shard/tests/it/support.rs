//! Shards over the in-memory view, and small vocabularies for random commands.

use docent_placement::SlotHasher;
use docent_shard::{Batch, Effects, ItemShard, MemView, Tx, UserShard};
use docent_types::command::{ItemCommand, ItemOutcome, UserCommand, UserOutcome};
use docent_types::event::Event;
use docent_types::{EventId, ItemId, SLOTS, SlotRange, TenantId, UserId};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(crate) const ALL: SlotRange = SlotRange { first: 0, end: SLOTS };

pub(crate) fn tenant() -> TenantId {
    TenantId::default()
}

pub(crate) fn user_id(i: u8) -> UserId {
    // Ids that are prefixes of each other, one with a zero byte.
    UserId::new(["u", "u1", "u11", "u\0", "\u{10ffff}"][usize::from(i) % 5]).unwrap()
}

pub(crate) fn item_id(i: u8) -> ItemId {
    ItemId::new(format!("i{}", i % 8)).unwrap()
}

pub(crate) fn event(user: u8, id: u8, item: u8, kind: u8, value: Option<f32>, timestamp_ms: i64) -> Event {
    Event {
        event_id: EventId::new(format!("e{id}")).unwrap(),
        user_id: user_id(user),
        item_id: item_id(item),
        event_type: ["view", "rating", "click"][usize::from(kind) % 3].into(),
        value,
        timestamp_ms,
        session_id: None,
        recommendation_id: None,
        position: None,
        context: BTreeMap::new(),
    }
}

pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    (any::<u8>(), 0u8..12, any::<u8>(), any::<u8>(), proptest::option::of(0u8..6), 0i64..9)
        .prop_map(|(user, id, item, kind, value, ms)| event(user, id, item, kind, value.map(f32::from), ms))
}

pub(crate) fn hasher() -> SlotHasher {
    SlotHasher::new(&[7; 16])
}

pub(crate) fn user_shard() -> UserShard {
    UserShard::new(hasher())
}

pub(crate) fn item_shard() -> ItemShard {
    ItemShard::new(hasher())
}

/// Applies commands, numbered from `first`, in batches of `together`.
pub(crate) fn apply_users(
    state: &mut MemView,
    first: u64,
    commands: &[UserCommand],
    together: usize,
) -> Vec<(UserOutcome, Effects)> {
    let mut done = Vec::new();
    let mut index = first;
    for commands in commands.chunks(together) {
        let batch: Batch = {
            let mut tx = Tx::new(state);
            for command in commands {
                done.push(user_shard().apply(&mut tx, index, command.clone()).unwrap());
                index += 1;
            }
            tx.into_batch()
        };
        state.commit(batch);
    }
    done
}

/// The same for items.
pub(crate) fn apply_items(
    state: &mut MemView,
    commands: &[ItemCommand],
    together: usize,
) -> Vec<(ItemOutcome, Effects)> {
    let mut done = Vec::new();
    let mut index = 0;
    for commands in commands.chunks(together) {
        let batch: Batch = {
            let mut tx = Tx::new(state);
            for command in commands {
                index += 1;
                done.push(item_shard().apply(&mut tx, index, command.clone()).unwrap());
            }
            tx.into_batch()
        };
        state.commit(batch);
    }
    done
}
