//! Item shards: stubs, metadata, take-down, counts that arrive late, twice or out of order.

use crate::support::{ALL, apply_items, item_id, item_shard, tenant};
use docent_shard::{Effects, MemView, item};
use docent_types::command::{ItemCommand, ItemOutcome};
use docent_types::item::{Item, ItemState};
use docent_types::{ItemId, Keyspace, ShardId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

#[derive(Default)]
struct ModelItem {
    title: Option<String>,
    is_taken_down: bool,
    counts: BTreeMap<ShardId, (u64, u64)>,
}

impl ModelItem {
    fn events(&self) -> u64 {
        self.counts.values().map(|(_, count)| count).sum()
    }
}

fn titled(item_id: ItemId, title: Option<String>) -> Item {
    Item { title, ..Item::stub(item_id) }
}

/// What an item shard is, said as simply as possible.
fn model(items: &mut BTreeMap<ItemId, ModelItem>, command: ItemCommand) -> ItemOutcome {
    match command {
        ItemCommand::Ensure { item_ids, .. } => {
            item_ids.into_iter().for_each(|item_id| _ = items.entry(item_id).or_default());
        }
        ItemCommand::Put { items: put, .. } => {
            put.into_iter().for_each(|item| items.entry(item.item_id).or_default().title = item.title);
        }
        ItemCommand::SetTakenDown { item_id, is_taken_down, .. } => match items.get_mut(&item_id) {
            Some(item) => item.is_taken_down = is_taken_down,
            None => return ItemOutcome::NotFound,
        },
        ItemCommand::Delete { item_id, .. } => {
            if items.remove(&item_id).is_none() {
                return ItemOutcome::NotFound;
            }
        }
        ItemCommand::Counts { from, at, counts, .. } => {
            for (item_id, count) in counts {
                if let Some(item) = items.get_mut(&item_id) {
                    let known = item.counts.entry(from).or_insert((at, count));
                    if known.0 < at {
                        *known = (at, count);
                    }
                }
            }
        }
        ItemCommand::Digest => {}
        ItemCommand::Restore(_) | ItemCommand::RestoreDone(_) => unreachable!("restore.rs has their tests"),
    }
    ItemOutcome::Done
}

fn from(index: u16) -> ShardId {
    ShardId { keyspace: Keyspace::Users, index }
}

fn any_command() -> impl Strategy<Value = ItemCommand> {
    let id = || any::<u8>().prop_map(item_id);
    prop_oneof![
        proptest::collection::vec(id(), 0..4).prop_map(|item_ids| ItemCommand::Ensure { tenant: tenant(), item_ids }),
        proptest::collection::vec((id(), proptest::option::of("[ab]{1,2}")), 0..4).prop_map(|items| {
            let items = items.into_iter().map(|(item_id, title)| titled(item_id, title)).collect();
            ItemCommand::Put { tenant: tenant(), items }
        }),
        (id(), any::<bool>()).prop_map(|(item_id, is_taken_down)| ItemCommand::SetTakenDown {
            tenant: tenant(),
            item_id,
            is_taken_down
        }),
        id().prop_map(|item_id| ItemCommand::Delete { tenant: tenant(), item_id }),
        (0u16..3, 0u64..9, proptest::collection::vec((id(), 0u64..9), 0..4)).prop_map(|(shard, at, counts)| {
            ItemCommand::Counts { tenant: tenant(), from: from(shard), at, counts }
        }),
    ]
}

fn all(state: &MemView) -> BTreeMap<ItemId, ItemState> {
    let mut found = BTreeMap::new();
    let visited = item::items(state, &tenant(), ALL, &mut |item| {
        found.insert(item.item.item_id.clone(), item);
        Ok(ControlFlow::Continue(()))
    });
    assert_eq!(visited, Ok(()));
    found
}

/// Follows effects as a node's index and popularity list do.
fn follow(items: &mut BTreeMap<ItemId, ItemState>, effects: Effects) {
    items.extend(effects.items_upserted.into_iter().map(|item| (item.item.item_id.clone(), item)));
    effects.items_deleted.iter().for_each(|item_id| _ = items.remove(item_id));
    effects.items_taken_down.iter().for_each(|item_id| items.get_mut(item_id).unwrap().is_taken_down = true);
    effects.items_restored.iter().for_each(|item_id| items.get_mut(item_id).unwrap().is_taken_down = false);
    effects.counts_changed.iter().for_each(|(item_id, events)| items.get_mut(item_id).unwrap().events = *events);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_item_shard_is_its_naive_model(commands in proptest::collection::vec(any_command(), 1..30), together in 1usize..6) {
        let mut expected = BTreeMap::new();
        let outcomes: Vec<ItemOutcome> = commands.iter().map(|c| model(&mut expected, c.clone())).collect();
        let (mut state, mut whole) = (MemView::default(), MemView::default());
        let done = apply_items(&mut state, &commands, together);
        apply_items(&mut whole, &commands, commands.len());
        prop_assert_eq!(&state, &whole);
        prop_assert_eq!(done.iter().map(|(outcome, _)| *outcome).collect::<Vec<_>>(), outcomes);
        let expected: BTreeMap<ItemId, ItemState> = expected.into_iter().map(|(item_id, item)| {
            let (events, is_taken_down) = (item.events(), item.is_taken_down);
            (item_id.clone(), ItemState { item: titled(item_id, item.title), is_taken_down, events })
        }).collect();
        prop_assert_eq!(&all(&state), &expected);
        for id in (0..8).map(item_id) {
            let item = item_shard().item(&state, &tenant(), &id).unwrap();
            prop_assert_eq!(item.as_ref(), expected.get(&id));
        }
        let mut followed = BTreeMap::new();
        done.into_iter().for_each(|(_, effects)| follow(&mut followed, effects));
        prop_assert_eq!(followed, expected, "effects tell everything");
    }
}

#[test]
fn repeated_and_reordered_counts_change_nothing() {
    let mut state = MemView::default();
    let counts = |shard, at, count| ItemCommand::Counts {
        tenant: tenant(),
        from: from(shard),
        at,
        counts: vec![(item_id(1), count), (item_id(2), 9)],
    };
    let ensure = ItemCommand::Ensure { tenant: tenant(), item_ids: vec![item_id(1)] };
    let commands = [counts(0, 1, 1), ensure, counts(0, 5, 3), counts(1, 2, 4), counts(0, 4, 2), counts(0, 5, 3)];
    let done = apply_items(&mut state, &commands, 1);
    assert_eq!(item::popularity(&state, &tenant(), ALL).unwrap(), [(item_id(1), true, 7)]);
    let changes: Vec<u64> = done.into_iter().flat_map(|(_, e)| e.counts_changed).map(|(_, count)| count).collect();
    assert_eq!(changes, [3, 7]);
}

#[test]
fn new_metadata_leaves_take_down_and_counts_alone() {
    let mut state = MemView::default();
    let put = |title: &str| ItemCommand::Put { tenant: tenant(), items: vec![titled(item_id(1), Some(title.into()))] };
    let down = ItemCommand::SetTakenDown { tenant: tenant(), item_id: item_id(1), is_taken_down: true };
    let counts = ItemCommand::Counts { tenant: tenant(), from: from(0), at: 1, counts: vec![(item_id(1), 4)] };
    let done = apply_items(&mut state, &[put("a"), down, counts, put("b")], 1);
    let expected = ItemState { item: titled(item_id(1), Some("b".into())), is_taken_down: true, events: 4 };
    assert_eq!(all(&state)[&item_id(1)], expected);
    assert_eq!(done[3].1.items_upserted, [expected]);
}
