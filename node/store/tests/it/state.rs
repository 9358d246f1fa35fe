//! Views, commits, restarts, flushes, removal.

use crate::support::{Ground, apply, batch, log, open, shard, state_of};
use docent_shard::conformance::{self, contents};
use docent_shard::{Batch, View};
use docent_store::{Error, ShardStore, Store, StoreOptions};

struct Subject(ShardStore);

impl conformance::Subject for Subject {
    fn commit(&mut self, batch: Batch) {
        self.0.commit(batch, b"mark").unwrap();
    }
    fn view(&self) -> Box<dyn View + '_> {
        Box::new(self.0.view().unwrap())
    }
}

#[test]
fn a_shard_is_a_view() {
    for ground in Ground::both() {
        let store = ground.open();
        // Neighbours on both sides must not show.
        let [before, subject, after] = [0, 1, 2].map(|index| store.shard(shard(index)).unwrap());
        for neighbour in [&before, &after] {
            neighbour.commit(batch(&[(b"\x00", b"n"), (b"\xff\xff", b"n")]), b"other").unwrap();
        }
        conformance::check(&mut Subject(subject));
        assert_eq!(contents(&before.view().unwrap()).len(), 2);
    }
}

#[test]
fn a_view_does_not_change_while_it_lives() {
    for ground in Ground::both() {
        let state = ground.open().shard(shard(0)).unwrap();
        state.commit(batch(&[(b"a", b"1")]), b"1").unwrap();
        let view = state.view().unwrap();
        state.commit(batch(&[(b"a", b"2"), (b"b", b"2")]), b"2").unwrap();
        assert_eq!(contents(&view), [(b"a".to_vec(), "1".into())]);
        assert_eq!(view.applied().unwrap().unwrap(), "1");
        assert_eq!(state.applied().unwrap(), "2");
    }
}

#[test]
fn after_a_restart_data_and_mark_are_there_and_agree() {
    for ground in Ground::both() {
        let log = log(40);
        let before = {
            let store = ground.open();
            let state = store.shard(shard(3)).unwrap();
            apply(&state, &log, 0, 25, 4);
            // fjall needs none where only the process ends; its twin does.
            if matches!(ground, Ground::Twin(_)) {
                store.flush().unwrap();
            }
            state_of(&state)
        };
        let store = ground.open();
        assert_eq!(store.shards().unwrap(), [shard(3)]);
        let state = store.shard(shard(3)).unwrap();
        assert_eq!(state_of(&state), before);
        assert_eq!(state.applied().unwrap(), 25u64.to_be_bytes()[..]);
        assert_eq!(state.flushed_mark(), state.applied(), "what an open finds is made durable");
        // The log goes on where it stopped, to where a replica without a restart is.
        apply(&state, &log, 25, 40, 3);
        let whole = store.shard(shard(4)).unwrap();
        apply(&whole, &log, 0, 40, 40);
        assert_eq!(state_of(&state), state_of(&whole));
    }
}

#[test]
fn a_mark_is_flushed_only_after_a_flush() {
    for ground in Ground::both() {
        let store = ground.open();
        let [a, b] = [0, 1].map(|index| store.shard(shard(index)).unwrap());
        assert_eq!((a.applied(), a.flushed_mark()), (None, None));
        a.commit(batch(&[(b"k", b"v")]), b"1").unwrap();
        b.commit(batch(&[]), b"7").unwrap();
        assert_eq!((a.flushed_mark(), b.flushed_mark()), (None, None));
        a.flush().unwrap();
        assert_eq!((a.flushed_mark().unwrap(), b.flushed_mark()), ("1".into(), None));
        a.commit(batch(&[]), b"2").unwrap();
        assert_eq!(a.flushed_mark().unwrap(), "1");
        store.flush().unwrap();
        assert_eq!((a.flushed_mark().unwrap(), b.flushed_mark().unwrap()), ("2".into(), "7".into()));
    }
}

#[test]
fn a_removed_shard_is_gone_and_comes_back_empty() {
    for ground in Ground::both() {
        let store = ground.open();
        let (state, other) = (store.shard(shard(0)).unwrap(), store.shard(shard(1)).unwrap());
        state.commit(batch(&[(b"k", b"v")]), b"1").unwrap();
        other.commit(batch(&[(b"k", b"other")]), b"1").unwrap();
        store.destroy(shard(0)).unwrap();
        store.destroy(shard(0)).unwrap();
        assert!(matches!(state.commit(batch(&[]), b"2"), Err(Error::Destroyed(_))));
        assert!(matches!(state.view(), Err(Error::Destroyed(_))));
        assert_eq!(store.shards().unwrap(), [shard(1)]);
        assert_eq!(state_of(&store.shard(shard(0)).unwrap()), (None, Vec::new()));
        drop((store, state, other));
        let store = ground.open();
        assert_eq!(state_of(&store.shard(shard(0)).unwrap()), (None, Vec::new()));
        assert_eq!(state_of(&store.shard(shard(1)).unwrap()).1.len(), 1);
    }
}

#[test]
fn a_store_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let error = Store::open(dir.path(), &StoreOptions::default()).err().unwrap();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn a_digest_is_of_the_state_at_its_entry_and_survives_later_writes() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(30);
    let [a, b] = [0, 1].map(|index| open(dir.path().join(index.to_string()).as_path()).shard(shard(index)).unwrap());
    apply(&a, &log, 0, 20, 7);
    apply(&b, &log, 0, 18, 1);
    let at_20 = docent_shard::digest::digest(&a.view().unwrap(), &|| false).unwrap();
    // The pin is of a batch at work: two entries that are not committed yet.
    let view = std::sync::Arc::new(b.view().unwrap());
    let batch = {
        let mut tx = docent_shard::Tx::new(&*view);
        let machine = docent_shard::UserShard::new(docent_placement::SlotHasher::new(&[1; 16]));
        for (index, command) in (19u64..).zip(&log[18..20]) {
            machine.apply(&mut tx, index, command.clone()).unwrap();
        }
        tx.into_batch()
    };
    b.digests().pin(20, view, batch);
    apply(&b, &log, 18, 30, 5);
    assert_eq!(b.digests().take(19, &|| false).unwrap(), None, "never pinned");
    assert_eq!(b.digests().take(20, &|| true).unwrap(), None, "broken off");
    assert_eq!(b.digests().take(20, &|| false).unwrap(), at_20);
    b.digests().expire(1_000_000);
    assert_eq!(b.digests().take(20, &|| true).unwrap(), at_20, "a digest once taken stays");
    let now = docent_shard::digest::digest(&b.view().unwrap(), &|| false).unwrap();
    assert_ne!(now, at_20);
    b.digests().pin(30, std::sync::Arc::new(b.view().unwrap()), Batch::default());
    b.digests().expire(1_000_000);
    assert_eq!(b.digests().take(30, &|| false).unwrap(), None, "a pin that nobody asked for goes");
}
