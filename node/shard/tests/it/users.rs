//! User shards: exactly once, consent, blocks, erasure, counts, independence of the log's order.

use crate::support::{ALL, any_event, apply_users, event, hasher, item_id, tenant, user_id, user_shard};
use docent_shard::history::{self, Kept};
use docent_shard::record::Sequence;
use docent_shard::training::{Pair, TrainingUser, training_users};
use docent_shard::{MemView, Positive, Positives, counts};
use docent_types::command::{UserCommand, UserOutcome};
use docent_types::event::{Event, EventOutcome};
use docent_types::user::{Consent, Profile};
use docent_types::{EventId, ItemId, Slot, TenantId, UserId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

#[derive(Clone, Default)]
struct ModelUser {
    attributes: BTreeMap<String, String>,
    consent: Consent,
    blocks: BTreeSet<ItemId>,
    events: BTreeMap<EventId, Kept>,
}

/// What a user shard is, said as simply as possible.
#[derive(Default)]
struct Model {
    users: BTreeMap<UserId, ModelUser>,
    /// When each item's count last changed.
    touched: BTreeMap<ItemId, u64>,
}

impl Model {
    fn count(&self, item_id: &ItemId) -> u64 {
        let events = self.users.values().flat_map(|user| user.events.values());
        events.filter(|kept| kept.event.item_id == *item_id).count() as u64
    }

    fn apply(&mut self, index: u64, command: UserCommand) -> UserOutcome {
        match command {
            UserCommand::Append { events, .. } => {
                let outcomes =
                    (0u32..).zip(events).map(|(offset, event)| self.append(Sequence { index, offset }, event));
                UserOutcome::Events(outcomes.collect())
            }
            UserCommand::PutProfiles { profiles, .. } => {
                for profile in profiles {
                    self.users.entry(profile.user_id).or_default().attributes = profile.attributes;
                }
                UserOutcome::Done
            }
            UserCommand::SetConsent { user_id, consent, .. } => {
                self.users.entry(user_id).or_default().consent = consent;
                UserOutcome::Done
            }
            UserCommand::SetBlocks { user_id, blocks, .. } => {
                self.users.entry(user_id).or_default().blocks = blocks.into_iter().collect();
                UserOutcome::Done
            }
            UserCommand::DeleteUser { user_id, .. } => match self.users.remove(&user_id) {
                None => UserOutcome::NotFound,
                Some(user) => {
                    user.events.into_values().for_each(|kept| _ = self.touched.insert(kept.event.item_id, index));
                    UserOutcome::Done
                }
            },
            UserCommand::Digest => UserOutcome::Done,
            UserCommand::Restore(_) | UserCommand::RestoreDone(_) => unreachable!("restore.rs has their tests"),
        }
    }

    fn append(&mut self, at: Sequence, event: Event) -> EventOutcome {
        let user = self.users.entry(event.user_id.clone()).or_default();
        if !user.consent.collect {
            return EventOutcome::NotCollected;
        }
        if user.events.contains_key(&event.event_id) {
            return EventOutcome::Duplicate;
        }
        self.touched.insert(event.item_id.clone(), at.index);
        user.events.insert(event.event_id.clone(), Kept { at, event });
        EventOutcome::Accepted
    }
}

fn any_command() -> impl Strategy<Value = UserCommand> {
    let append = proptest::collection::vec(any_event(), 0..8).prop_map(|events| UserCommand::Append {
        tenant: tenant(),
        events,
        received_ms: 0,
    });
    let profiles = proptest::collection::vec((any::<u8>(), "[ab]{0,2}"), 0..3).prop_map(|profiles| {
        let of = |(user, value): (u8, String)| Profile {
            user_id: user_id(user),
            attributes: BTreeMap::from([("k".to_owned(), value)]),
        };
        UserCommand::PutProfiles { tenant: tenant(), profiles: profiles.into_iter().map(of).collect() }
    });
    let consent = (any::<u8>(), any::<[bool; 3]>()).prop_map(|(user, [collect, recommend, train])| {
        let consent = Consent { collect, recommend, train };
        UserCommand::SetConsent { tenant: tenant(), user_id: user_id(user), consent }
    });
    let blocks = (any::<u8>(), proptest::collection::vec(0u8..8, 0..4)).prop_map(|(user, blocks)| {
        let blocks = blocks.into_iter().map(item_id).collect();
        UserCommand::SetBlocks { tenant: tenant(), user_id: user_id(user), blocks }
    });
    let delete = any::<u8>().prop_map(|user| UserCommand::DeleteUser { tenant: tenant(), user_id: user_id(user) });
    prop_oneof![6 => append, 1 => profiles, 1 => consent, 1 => blocks, 1 => delete]
}

/// Slot, user and positives of everybody who is trained on.
type Training = Vec<(Slot, UserId, Vec<Positive>)>;

/// Items are numbered as they come, so that numbers are in no order.
fn training(state: &MemView) -> Training {
    let (mut users, mut items) = (Vec::new(), Vec::new());
    let number = &mut |item: &str| {
        let known = items.iter().position(|known| *known == ItemId::new(item).unwrap());
        Ok(known.unwrap_or_else(|| {
            items.push(ItemId::new(item).unwrap());
            items.len() - 1
        }) as u32)
    };
    let visited = training_users(state, &tenant(), ALL, &Positives::default(), number, &mut |user| {
        assert!(user.positives.is_sorted_by(|a, b| a.item < b.item));
        users.push(user);
        Ok(ControlFlow::Continue(()))
    });
    assert_eq!(visited, Ok(()));
    let positive = |pair: &Pair| Positive {
        item_id: items[pair.item as usize].clone(),
        confidence: pair.confidence,
        last_ms: pair.last_ms,
    };
    let with_ids = |user: TrainingUser| {
        let mut positives: Vec<Positive> = user.positives.iter().map(positive).collect();
        positives.sort_by(|a, b| a.item_id.cmp(&b.item_id));
        (user.slot, user.user_id, positives)
    };
    users.into_iter().map(with_ids).collect()
}

fn changed(state: &MemView, since: u64) -> BTreeMap<ItemId, u64> {
    let mut items = BTreeMap::new();
    let visited = counts::changed(state, &tenant(), since, &mut |item_id, count| {
        items.insert(item_id, count);
        Ok(ControlFlow::Continue(()))
    });
    assert_eq!(visited, Ok(()));
    items
}

fn all_events(state: &MemView, bytes_max: usize) -> Vec<Kept> {
    let (mut kept, mut after) = (Vec::new(), None);
    loop {
        let page = history::events(state, &tenant(), ALL, after.as_ref(), bytes_max).unwrap();
        kept.extend(page.events);
        match page.next {
            None => return kept,
            next => after = next,
        }
    }
}

fn assert_same(state: &MemView, model: &Model, last_index: u64) {
    let shard = user_shard();
    let mut known = BTreeSet::new();
    let visited = history::users(state, &tenant(), ALL, &mut |user, consent| {
        assert_eq!(consent, model.users[&user].consent);
        known.insert(user);
        Ok(ControlFlow::Continue(()))
    });
    assert_eq!((visited, known), (Ok(()), model.users.keys().cloned().collect()));
    for user_id in (0..5).map(user_id) {
        let user = shard.user(state, &tenant(), &user_id).unwrap();
        let history = shard.history(state, &tenant(), &user_id, &Positives::default()).unwrap();
        let Some(expected) = model.users.get(&user_id) else {
            assert_eq!((user, history), (None, None));
            continue;
        };
        let (user, history) = (user.unwrap(), history.unwrap());
        let blocks: Vec<ItemId> = expected.blocks.iter().cloned().collect();
        assert_eq!((&user.attributes, user.consent), (&expected.attributes, expected.consent));
        assert_eq!((user.events, &user.blocks), (expected.events.len() as u64, &blocks));
        assert_eq!((history.consent, &history.blocks), (expected.consent, &blocks));
        let seen: BTreeSet<ItemId> = expected.events.values().map(|kept| kept.event.item_id.clone()).collect();
        assert_eq!(history.seen, seen.into_iter().collect::<Vec<_>>());
        assert_eq!(history.positives, positives(expected));
        let mut events: Vec<Kept> = expected.events.values().cloned().collect();
        events.sort_by_key(|kept| kept.at);
        assert_eq!(shard.user_events(state, &tenant(), &user_id).unwrap(), events);
        assert_eq!(shard.has_events(state, &tenant(), &user_id).unwrap(), !events.is_empty());
    }
    let training_users = model.users.iter().filter(|(_, user)| user.consent.train && !positives(user).is_empty());
    let slot = |user_id: &UserId| hasher().slot(&tenant(), user_id.as_str());
    let mut expected: Training = training_users.map(|(id, user)| (slot(id), id.clone(), positives(user))).collect();
    expected.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    assert_eq!(training(state), expected);
    for since in [0, last_index / 2, last_index] {
        let touched = model.touched.iter().filter(|(_, index)| **index > since);
        let expected = touched.map(|(item_id, _)| (item_id.clone(), model.count(item_id))).collect();
        assert_eq!(changed(state, since), expected, "changed since {since}");
    }
}

/// The default rules, said again: pairs with a view, a click or a rating from 3.5.
fn positives(user: &ModelUser) -> Vec<Positive> {
    let mut newest: BTreeMap<ItemId, i64> = BTreeMap::new();
    for Kept { event, .. } in user.events.values() {
        if &*event.event_type != "rating" || event.value.is_some_and(|value| value >= 3.5) {
            let last_ms = newest.entry(event.item_id.clone()).or_insert(event.timestamp_ms);
            *last_ms = event.timestamp_ms.max(*last_ms);
        }
    }
    newest.into_iter().map(|(item_id, last_ms)| Positive { item_id, confidence: 1.0, last_ms }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_user_shard_is_its_naive_model(commands in proptest::collection::vec(any_command(), 1..25), together in 1usize..6) {
        let mut model = Model::default();
        let expected: Vec<UserOutcome> =
            (1..).zip(&commands).map(|(index, command)| model.apply(index, command.clone())).collect();
        let mut state = MemView::default();
        let outcomes: Vec<UserOutcome> =
            apply_users(&mut state, 1, &commands, together).into_iter().map(|(outcome, _)| outcome).collect();
        prop_assert_eq!(outcomes, expected);
        assert_same(&state, &model, commands.len() as u64);
    }

    #[test]
    fn a_replay_from_any_snapshot_gives_the_same_bytes(
        commands in proptest::collection::vec(any_command(), 1..20), cut in any::<prop::sample::Index>(), together in 1usize..6,
    ) {
        let mut whole = MemView::default();
        apply_users(&mut whole, 1, &commands, commands.len());
        let cut = cut.index(commands.len());
        let mut resumed = MemView::default();
        apply_users(&mut resumed, 1, &commands[..cut], together);
        apply_users(&mut resumed, 1 + cut as u64, &commands[cut..], 1);
        prop_assert_eq!(resumed, whole);
    }

    #[test]
    fn training_input_does_not_depend_on_the_order_of_the_log(
        events in proptest::collection::vec(any_event(), 1..30), seed in any::<u64>(), together in 1usize..9,
    ) {
        // One event an id: which of two with one id is kept does depend on the order.
        let distinct: BTreeMap<_, _> = events.into_iter().map(|e| ((e.user_id.clone(), e.event_id.clone()), e)).collect();
        let distinct: Vec<Event> = distinct.into_values().collect();
        let mut shuffled = distinct.clone();
        shuffled.sort_by_key(|event| (event.timestamp_ms as u64).wrapping_mul(seed | 1) ^ event.event_id.as_str().len() as u64);
        let append = |events: &[Event]| UserCommand::Append { tenant: tenant(), events: events.to_vec(), received_ms: 1 };
        let (mut a, mut b) = (MemView::default(), MemView::default());
        apply_users(&mut a, 1, &[append(&distinct)], 1);
        apply_users(&mut b, 9, &shuffled.chunks(together).map(append).collect::<Vec<_>>(), 1);
        prop_assert_eq!(training(&a), training(&b));
        prop_assert_eq!(changed(&a, 0), changed(&b, 0));
    }

    #[test]
    fn pages_of_any_size_make_one_export(events in proptest::collection::vec(any_event(), 0..40), bytes_max in 1usize..400) {
        let mut state = MemView::default();
        apply_users(&mut state, 1, &[UserCommand::Append { tenant: tenant(), events, received_ms: 1 }], 1);
        prop_assert_eq!(all_events(&state, bytes_max), all_events(&state, usize::MAX));
    }
}

fn append(events: Vec<Event>) -> UserCommand {
    UserCommand::Append { tenant: tenant(), events, received_ms: 0 }
}

fn consent(user: u8, collect: bool, train: bool) -> UserCommand {
    let consent = Consent { collect, recommend: true, train };
    UserCommand::SetConsent { tenant: tenant(), user_id: user_id(user), consent }
}

#[test]
fn an_event_repeated_in_a_batch_or_later_counts_once() {
    let mut state = MemView::default();
    let one = event(0, 1, 1, 0, None, 1);
    let other_item = event(0, 1, 2, 0, None, 2);
    let done = apply_users(&mut state, 1, &[append(vec![one.clone(), one.clone()]), append(vec![one, other_item])], 2);
    use EventOutcome::{Accepted, Duplicate};
    assert_eq!(done[0].0, UserOutcome::Events(vec![Accepted, Duplicate]));
    assert_eq!(done[1].0, UserOutcome::Events(vec![Duplicate, Duplicate]));
    assert_eq!((done[0].1.users_changed.len(), done[1].1.users_changed.len()), (1, 0));
    assert_eq!(changed(&state, 0), BTreeMap::from([(item_id(1), 1)]));
}

#[test]
fn after_an_opt_out_nothing_is_collected_and_what_was_kept_stays() {
    let mut state = MemView::default();
    let events = |id| append(vec![event(0, id, id, 0, None, 1)]);
    let done = apply_users(&mut state, 1, &[events(1), consent(0, false, true), events(2)], 3);
    assert_eq!(done[2].0, UserOutcome::Events(vec![EventOutcome::NotCollected]));
    assert_eq!(user_shard().user(&state, &tenant(), &user_id(0)).unwrap().unwrap().events, 1);
}

#[test]
fn who_does_not_allow_training_is_no_training_input() {
    let mut state = MemView::default();
    let events = vec![event(0, 1, 1, 0, None, 1), event(1, 1, 1, 0, None, 1)];
    apply_users(&mut state, 1, &[append(events), consent(0, true, false)], 1);
    assert_eq!(training(&state).into_iter().map(|(_, user, _)| user).collect::<Vec<_>>(), [user_id(1)]);
    apply_users(&mut state, 3, &[consent(0, true, true)], 1);
    assert_eq!(training(&state).len(), 2);
}

#[test]
fn users_of_one_slot_are_told_apart_and_those_of_another_tenant_are_not_seen() {
    let slot = |user: u32| hasher().slot(&tenant(), &format!("u{user}"));
    let together: Vec<u32> = (0..100_000).filter(|user| slot(*user) == slot(0)).take(6).collect();
    let of = |user: &u32| Event { user_id: UserId::new(format!("u{user}")).unwrap(), ..event(0, 1, 1, 0, None, 1) };
    let mut commands = vec![append(together.iter().map(of).collect())];
    commands.push(UserCommand::Append {
        tenant: TenantId::new("another").unwrap(),
        events: together.iter().map(of).collect(),
        received_ms: 1,
    });
    for user in [&together[1], &together[2], &together[5]] {
        let user_id = of(user).user_id;
        let consent = Consent { train: false, ..Consent::default() };
        commands.push(UserCommand::SetConsent { tenant: tenant(), user_id, consent });
    }
    let mut state = MemView::default();
    apply_users(&mut state, 1, &commands, 1);
    let seen: BTreeSet<UserId> = training(&state).into_iter().map(|(_, user, _)| user).collect();
    let expected = [&together[0], &together[3], &together[4]].map(|user| of(user).user_id);
    assert_eq!(seen, BTreeSet::from(expected));
    assert_eq!(training(&state).len(), 3);
}

#[test]
fn an_erased_user_is_as_if_never_seen() {
    let mut state = MemView::default();
    let events = vec![event(0, 1, 1, 0, None, 1), event(1, 1, 1, 0, None, 1)];
    let blocks = UserCommand::SetBlocks { tenant: tenant(), user_id: user_id(0), blocks: vec![item_id(3)] };
    let delete = UserCommand::DeleteUser { tenant: tenant(), user_id: user_id(0) };
    let done =
        apply_users(&mut state, 1, &[append(events), blocks, consent(0, false, false), delete.clone(), delete], 2);
    assert_eq!((&done[3].0, &done[4].0), (&UserOutcome::Done, &UserOutcome::NotFound));
    assert_eq!(user_shard().history(&state, &tenant(), &user_id(0), &Positives::default()).unwrap(), None);
    assert_eq!(changed(&state, 3), BTreeMap::from([(item_id(1), 1)]));
    let again = apply_users(&mut state, 6, &[append(vec![event(0, 1, 1, 0, None, 1)])], 1);
    assert_eq!(again[0].0, UserOutcome::Events(vec![EventOutcome::Accepted]));
    assert_eq!(user_shard().user(&state, &tenant(), &user_id(0)).unwrap().unwrap().blocks, []);
}

#[test]
fn the_capped_sum_of_a_pair_is_its_confidence() {
    let mut state = MemView::default();
    let events = (0..5).map(|id| event(0, id, 1, 0, None, i64::from(id))).collect();
    apply_users(&mut state, 1, &[append(events)], 1);
    for (confidence_max, confidence) in [(1.0, 1.0), (3.5, 3.5), (100.0, 5.0)] {
        let settings = Positives { confidence_max, ..Positives::default() };
        let history = user_shard().history(&state, &tenant(), &user_id(0), &settings).unwrap().unwrap();
        assert_eq!(history.positives, [Positive { item_id: item_id(1), confidence, last_ms: 4 }]);
    }
}
