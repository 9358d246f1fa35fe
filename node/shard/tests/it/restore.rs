//! Backups of a shard: what was saved comes back, into an empty shard alone, in order, once.

use crate::support::{
    ALL, any_event, apply_items, apply_users, event, item_id, item_shard, tenant, user_id, user_shard,
};
use docent_placement::SlotHasher;
use docent_shard::counts::changed;
use docent_shard::digest::digest;
use docent_shard::restore::{Standing, lineage, page, standing};
use docent_shard::{Batch, Digest, MemView, Tx, UserShard, View};
use docent_types::command::{
    ItemCommand, ItemOutcome, RestoreEnd, RestoreOutcome, RestorePart, UserCommand, UserOutcome,
};
use docent_types::item::Item;
use docent_types::user::{Consent, Profile};
use docent_types::{Keyspace, ShardId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

const BACKUP: [u8; 16] = [1; 16];
const OTHER: [u8; 16] = [2; 16];

fn digest_of(view: &dyn View) -> Digest {
    digest(view, &|| false).unwrap().unwrap()
}

/// The pages of a state.
fn pages(view: &dyn View, bytes_max: usize) -> Vec<Vec<u8>> {
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let next = page(view, after.as_deref(), bytes_max, &mut |_, _| Ok(())).unwrap();
        pages.push(next.records);
        match next.last_key {
            Some(last) => after = Some(last),
            None => return pages,
        }
    }
}

fn part(backup: [u8; 16], seq: u64, records: &[u8]) -> RestorePart {
    RestorePart { backup, seq, records: records.to_vec() }
}

fn end(backup: [u8; 16], seq: usize, stamp: u64, digest: Digest) -> RestoreEnd {
    RestoreEnd { backup, seq: seq as u64, stamp, records: digest.records, content: digest.content }
}

/// One command into a user shard at `index`.
fn user(state: &mut MemView, index: u64, command: UserCommand) -> UserOutcome {
    apply_users(state, index, &[command], 1).remove(0).0
}

fn step(state: &mut MemView, part: RestorePart) -> RestoreOutcome {
    match user(state, 1, UserCommand::Restore(part)) {
        UserOutcome::Restore(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

fn finish(state: &mut MemView, end: RestoreEnd) -> RestoreOutcome {
    match user(state, 1, UserCommand::RestoreDone(end)) {
        UserOutcome::Restore(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

/// A user shard restored from `pages`, every part twice and out of turn now and then.
fn restored(pages: &[Vec<u8>], end: RestoreEnd) -> MemView {
    let mut state = MemView::default();
    for (seq, page) in (0u64..).zip(pages) {
        assert_eq!(step(&mut state, part(BACKUP, seq + 1, page)), RestoreOutcome::OutOfOrder(seq));
        for _ in 0..2 {
            assert_eq!(step(&mut state, part(BACKUP, seq, page)), RestoreOutcome::Next(seq + 1));
        }
    }
    assert_eq!(finish(&mut state, end), RestoreOutcome::Whole);
    assert_eq!(finish(&mut state, end), RestoreOutcome::Whole, "a repeat changes nothing");
    state
}

fn appends(events: Vec<docent_types::event::Event>) -> UserCommand {
    UserCommand::Append { tenant: tenant(), events, received_ms: 0 }
}

fn some_users() -> MemView {
    let mut state = MemView::default();
    let consent = Consent { train: false, ..Consent::default() };
    let commands = [
        appends((0..40).map(|i| event(i, i, i, i, None, i64::from(i))).collect()),
        UserCommand::SetConsent { tenant: tenant(), user_id: user_id(1), consent },
        UserCommand::SetBlocks { tenant: tenant(), user_id: user_id(2), blocks: vec![item_id(3)] },
        UserCommand::DeleteUser { tenant: tenant(), user_id: user_id(4) },
    ];
    apply_users(&mut state, 100, &commands, 2);
    state
}

fn counts(state: &MemView, since: u64) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    changed(state, &tenant(), since, &mut |item, count| {
        found.insert(item.to_string(), count);
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    found
}

#[test]
fn while_a_shard_is_restored_every_other_write_is_refused() {
    let source = some_users();
    let mut state = MemView::default();
    assert_eq!(standing(&state, Keyspace::Users).unwrap(), Standing::Empty);
    assert_eq!(step(&mut state, part(BACKUP, 0, &[])), RestoreOutcome::Next(1));
    assert_eq!(standing(&state, Keyspace::Users).unwrap(), Standing::Restoring(BACKUP, 1));
    for command in [
        appends(vec![event(1, 1, 1, 1, None, 1)]),
        UserCommand::PutProfiles { tenant: tenant(), profiles: Vec::new() },
        UserCommand::SetBlocks { tenant: tenant(), user_id: user_id(1), blocks: Vec::new() },
        UserCommand::DeleteUser { tenant: tenant(), user_id: user_id(1) },
    ] {
        assert_eq!(user(&mut state, 2, command), UserOutcome::Restoring);
    }
    let records = pages(&source, 1 << 20).remove(0);
    assert_eq!(step(&mut state, part(BACKUP, 1, &records)), RestoreOutcome::Next(2));
    let digest = digest_of(&source);
    let wrong = RestoreEnd { content: [9; 32], ..end(BACKUP, 2, 103, digest) };
    assert_eq!(finish(&mut state, wrong), RestoreOutcome::WrongDigest);
    assert_eq!(finish(&mut state, end(BACKUP, 1, 103, digest)), RestoreOutcome::WrongDigest, "parts came after it");
    assert_eq!(finish(&mut state, end(BACKUP, 3, 103, digest)), RestoreOutcome::OutOfOrder(2));
    assert_eq!(user(&mut state, 9, appends(Vec::new())), UserOutcome::Restoring, "still closed");
    assert_eq!(finish(&mut state, end(BACKUP, 2, 103, digest)), RestoreOutcome::Whole);
    assert_eq!(standing(&state, Keyspace::Users).unwrap(), Standing::Restored(BACKUP));
    assert_eq!(user(&mut state, 10, appends(Vec::new())), UserOutcome::Events(Vec::new()), "alive");
}

#[test]
fn a_shard_with_records_or_with_another_backup_takes_none() {
    let mut live = some_users();
    let before = live.clone();
    assert_eq!(standing(&live, Keyspace::Users).unwrap(), Standing::Live);
    assert_eq!(step(&mut live, part(BACKUP, 0, &[])), RestoreOutcome::NotEmpty);
    assert_eq!(finish(&mut live, end(BACKUP, 0, 0, digest_of(&before))), RestoreOutcome::OutOfOrder(0));
    assert_eq!(live, before);

    let records = pages(&before, 1 << 20).remove(0);
    let mut state = MemView::default();
    assert_eq!(step(&mut state, part(BACKUP, 1, &records)), RestoreOutcome::OutOfOrder(0));
    assert_eq!(step(&mut state, part(OTHER, 0, &[])), RestoreOutcome::Next(1));
    assert_eq!(step(&mut state, part(BACKUP, 0, &records)), RestoreOutcome::Next(1), "the other put nothing in");
    assert_eq!(step(&mut state, part(OTHER, 0, &[])), RestoreOutcome::OtherBackup);
    assert_eq!(step(&mut state, part(OTHER, 1, &records)), RestoreOutcome::OtherBackup);
    assert_eq!(finish(&mut state, end(BACKUP, 1, 103, digest_of(&before))), RestoreOutcome::Whole);
    assert_eq!(step(&mut state, part(OTHER, 0, &[])), RestoreOutcome::NotEmpty, "a restored shard is a live one");
    assert_eq!(step(&mut state, part(BACKUP, 1, &records)), RestoreOutcome::Whole);
}

#[test]
fn what_is_written_after_a_restore_is_newer_than_everything_restored() {
    let source = some_users();
    let digest = digest_of(&source);
    let pages = pages(&source, 300);
    let mut state = restored(&pages, end(BACKUP, pages.len(), 103, digest));
    assert_eq!(counts(&state, 0), counts(&source, 0));
    assert_eq!(user_shard().user(&state, &tenant(), &user_id(2)).unwrap().unwrap().blocks, [item_id(3)]);
    // The new log begins low.
    let outcome = user(&mut state, 5, appends(vec![event(0, 200, 7, 0, None, 1), event(0, 0, 0, 0, None, 0)]));
    let expected = [docent_types::event::EventOutcome::Accepted, docent_types::event::EventOutcome::Duplicate];
    assert_eq!(outcome, UserOutcome::Events(expected.to_vec()), "dedupe holds over a restore");
    let events = user_shard().user_events(&state, &tenant(), &user_id(0)).unwrap();
    assert_eq!(events.last().unwrap().event.event_id.as_str(), "e200");
    assert_eq!(lineage(&state, Keyspace::Users).unwrap().unwrap().base, 103);
    assert_eq!(counts(&state, 103), BTreeMap::from([("i7".to_owned(), counts(&source, 0)["i7"] + 1)]));
}

#[test]
fn a_record_that_is_not_of_this_shard_is_refused_whole() {
    let source = some_users();
    let records = pages(&source, 1 << 20).remove(0);
    // Cut short, out of order, under another placement key, of the other keyspace, not a record at all.
    let foreign_key = |records: &[u8]| {
        let mut state = MemView::default();
        let batch: Batch = {
            let mut tx = Tx::new(&state);
            let shard = UserShard::new(SlotHasher::new(&[8; 16]));
            let command = UserCommand::Restore(part(BACKUP, 0, records));
            assert!(matches!(
                shard.apply(&mut tx, 1, command).unwrap().0,
                UserOutcome::Restore(RestoreOutcome::Damaged(0))
            ));
            tx.into_batch()
        };
        state.commit(batch);
        assert!(state.is_empty());
    };
    foreign_key(&records);
    let twice = [&records[..], &records].concat();
    for damaged in [&records[..records.len() - 1], &twice, b"\x01\0\0\0\0\0x", &[0xff; 40]] {
        let mut state = MemView::default();
        assert!(matches!(step(&mut state, part(BACKUP, 0, damaged)), RestoreOutcome::Damaged(_)), "{damaged:?}");
        assert!(state.is_empty(), "all of a part or nothing");
    }
    let mut items = MemView::default();
    let outcome = apply_items(&mut items, &[ItemCommand::Restore(part(BACKUP, 0, &records))], 1).remove(0).0;
    assert_eq!(outcome, ItemOutcome::Restore(RestoreOutcome::Damaged(0)));
}

#[test]
fn an_item_shard_comes_back_without_the_old_positions() {
    let from = ShardId { keyspace: Keyspace::Users, index: 0 };
    let put = |i: u8| Item { title: Some(format!("T{i}")), ..Item::stub(item_id(i)) };
    let mut source = MemView::default();
    let commands = [
        ItemCommand::Put { tenant: tenant(), items: (0..6).map(put).collect() },
        ItemCommand::SetTakenDown { tenant: tenant(), item_id: item_id(2), is_taken_down: true },
        ItemCommand::Counts { tenant: tenant(), from, at: 5_000, counts: vec![(item_id(1), 9)] },
    ];
    apply_items(&mut source, &commands, 3);
    let digest = digest_of(&source);
    let pages = pages(&source, 60);
    assert!(pages.len() > 3);
    let mut steps: Vec<ItemCommand> =
        (0..).zip(&pages).map(|(seq, page)| ItemCommand::Restore(part(BACKUP, seq, page))).collect();
    steps.insert(2, ItemCommand::Ensure { tenant: tenant(), item_ids: vec![item_id(7)] });
    steps.push(ItemCommand::RestoreDone(end(BACKUP, pages.len(), 77, digest)));
    let mut state = MemView::default();
    let outcomes = apply_items(&mut state, &steps, 2);
    assert_eq!(outcomes[2].0, ItemOutcome::Restoring);
    let (last, effects) = outcomes.last().unwrap();
    assert_eq!((last, effects.is_restored), (&ItemOutcome::Restore(RestoreOutcome::Whole), true));
    assert_eq!(digest_of(&state).content, digest.content);
    let item = |state: &MemView, i: u8| item_shard().item(state, &tenant(), &item_id(i)).unwrap();
    assert!(item(&state, 2).unwrap().is_taken_down);
    assert_eq!((item(&state, 1).unwrap().events, item(&state, 7)), (0, None));
    // The user shard's first publication in the new cluster counts although its position is lower than the old one.
    apply_items(&mut state, &[ItemCommand::Counts { tenant: tenant(), from, at: 3, counts: vec![(item_id(1), 8)] }], 1);
    assert_eq!(item(&state, 1).unwrap().events, 8);
    assert_eq!(digest_of(&state).content, digest.content, "counts are no content");
    assert_eq!(docent_shard::item::popularity(&state, &tenant(), ALL).unwrap().len(), 6);
}

proptest! {
    #[test]
    fn a_random_state_comes_back_with_the_same_digest(
        batches in proptest::collection::vec(proptest::collection::vec(any_event(), 0..12), 0..12),
        erased in any::<u8>(), bytes_max in 1usize..2_000,
    ) {
        let mut source = MemView::default();
        let mut commands: Vec<UserCommand> = batches.into_iter().map(appends).collect();
        commands.push(UserCommand::DeleteUser { tenant: tenant(), user_id: user_id(erased) });
        let profile = Profile { user_id: user_id(erased.wrapping_add(1)), attributes: BTreeMap::from([("k".into(), "v".into())]) };
        commands.push(UserCommand::PutProfiles { tenant: tenant(), profiles: vec![profile] });
        apply_users(&mut source, 10, &commands, 3);
        let digest = digest_of(&source);
        let stamp = 10 + commands.len() as u64;
        let pages = pages(&source, bytes_max);
        let state = restored(&pages, end(BACKUP, pages.len(), stamp, digest));
        let found = digest_of(&state);
        prop_assert_eq!((found.content, found.records), (digest.content, digest.records));
        prop_assert_eq!(counts(&state, 0), counts(&source, 0));
        // A backup of the restored shard is a backup of the first.
        prop_assert_eq!(self::pages(&state, bytes_max), pages);
    }

    #[test]
    fn the_digest_of_the_content_does_not_see_the_log_but_everything_else(
        events in proptest::collection::vec(any_event(), 1..20), at in 1u64..1_000_000, gone in any::<proptest::sample::Index>(),
    ) {
        let state_at = |first: u64, together: usize, events: &[docent_types::event::Event]| {
            let mut state = MemView::default();
            apply_users(&mut state, first, &events.chunks(together).map(|e| appends(e.to_vec())).collect::<Vec<_>>(), 2);
            state
        };
        let [a, b] = [state_at(1, 1, &events), state_at(at, 7, &events)];
        prop_assert_eq!(digest_of(&a).content, digest_of(&b).content);
        let mut batch = Batch::default();
        let mut keys = Vec::new();
        a.scan(b"", None, &mut |key, _| { keys.push(key.to_vec()); Ok(ControlFlow::Continue(())) }).unwrap();
        let key = keys[gone.index(keys.len())].clone();
        batch.delete(key.clone());
        let mut less = a.clone();
        less.commit(batch);
        prop_assert_ne!(digest_of(&less).state, digest_of(&a).state);
        let is_content = docent_shard::key::parts(&key).unwrap().slot != docent_shard::key::SHARD_WIDE;
        prop_assert_eq!(digest_of(&less).content != digest_of(&a).content, is_content);
    }

    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut state = MemView::default();
        let outcome = step(&mut state, part(BACKUP, 0, &bytes));
        prop_assert_eq!(matches!(outcome, RestoreOutcome::Damaged(_)), !bytes.is_empty());
    }
}
