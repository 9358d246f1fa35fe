//! Snapshots: a replica that installed one is the same as one that applied everything, and an interrupted installation changes nothing.

use crate::support::{Ground, apply, batch, log, open, shard, state_of};
use bytes::Bytes;
use docent_store::{Error, ShardStore};
use docent_types::Kind;
use proptest::prelude::*;

fn chunks(state: &ShardStore, bytes_max: usize) -> Vec<docent_types::Result<Bytes>> {
    state.snapshot().unwrap().chunks(bytes_max).map(|chunk| chunk.map_err(Into::into)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_replica_from_a_snapshot_is_one_that_applied_everything(
        cut in 0usize..40, bytes_max in 1usize..20_000, together in 1usize..9,
    ) {
        for ground in Ground::both() {
            let store = ground.open();
            let [whole, leader, joined] = [0, 1, 2].map(|index| store.shard(shard(index)).unwrap());
            let log = log(40);
            apply(&whole, &log, 0, 40, 40);
            apply(&leader, &log, 0, cut, together);
            joined.commit(batch(&[(b"\x01stale", b"goes away")]), b"old").unwrap();
            let mark = leader.snapshot().unwrap().applied().cloned().unwrap_or_default();
            joined.install(&mark, chunks(&leader, bytes_max)).unwrap();
            prop_assert_eq!(joined.applied(), Some(mark.clone()));
            prop_assert_eq!(joined.flushed_mark(), Some(mark), "an installation is durable");
            apply(&joined, &log, cut, 40, together);
            prop_assert_eq!(state_of(&joined).1, state_of(&whole).1);
        }
    }
}

#[test]
fn a_snapshot_does_not_see_later_commits() {
    for ground in Ground::both() {
        let store = ground.open();
        let (a, b) = (store.shard(shard(0)).unwrap(), store.shard(shard(1)).unwrap());
        a.commit(batch(&[(b"\x01k", b"1")]), b"1").unwrap();
        let snapshot = a.snapshot().unwrap();
        a.commit(batch(&[(b"\x01k", b"2"), (b"\x01l", b"2")]), b"2").unwrap();
        assert_eq!(snapshot.applied().unwrap(), "1");
        b.install(b"1", snapshot.chunks(1).map(|chunk| chunk.map_err(Into::into))).unwrap();
        assert_eq!(state_of(&b), (Some("1".into()), vec![(b"\x01k".to_vec(), "1".into())]));
    }
}

#[test]
fn a_bad_stream_leaves_the_old_state() {
    for ground in Ground::both() {
        let store = ground.open();
        let (source, state) = (store.shard(shard(0)).unwrap(), store.shard(shard(1)).unwrap());
        apply(&source, &log(9), 0, 9, 1);
        state.commit(batch(&[(b"\x01k", b"v")]), b"old").unwrap();
        let before = state_of(&state);
        let good = chunks(&source, 500);
        assert!(good.len() > 5);
        let failing = Err(docent_types::Error::new(Kind::Unavailable, "the sender went away"));
        let mut flipped = good.clone();
        let mut bytes = flipped[2].clone().unwrap().to_vec();
        bytes[20] ^= 1;
        flipped[2] = Ok(bytes.into());
        let swapped = [&good[..1], &good[2..3], &good[1..2], &good[3..]].concat();
        for (stream, kind) in [
            (good[..good.len() - 1].to_vec(), Kind::Corrupt),
            ([&good[..3], &[failing]].concat(), Kind::Unavailable),
            (flipped, Kind::Corrupt),
            (swapped, Kind::Corrupt),
            (Vec::new(), Kind::Corrupt),
        ] {
            let error = state.install(b"new", stream).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert_eq!(state_of(&state), before);
        }
        drop((store, source, state));
        let store = ground.open();
        assert_eq!(state_of(&store.shard(shard(1)).unwrap()), before);
    }
}

/// A crash, as a copy of the directory taken in the middle: what another process would find.
#[test]
fn after_a_crash_in_an_installation_the_old_state_stands_and_the_new_one_is_removed() {
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path());
    let (source, state) = (store.shard(shard(0)).unwrap(), store.shard(shard(1)).unwrap());
    apply(&source, &log(9), 0, 9, 1);
    state.commit(batch(&[(b"\x01k", b"v")]), b"old").unwrap();
    let before = state_of(&state);
    let good = chunks(&source, 500);
    let middle = good.len() / 2;
    let stream = good.into_iter().enumerate().map(|(i, chunk)| {
        if i == middle {
            copy(dir.path(), &crashed.path().join("state"));
        }
        chunk
    });
    state.install(b"new", stream).unwrap();
    assert_eq!(state.applied().unwrap(), "new");
    assert_eq!(state_of(&state).1, state_of(&source).1);
    let of_source = state_of(&source);
    drop((store, source, state));

    for (path, expected) in [
        (crashed.path().join("state"), before),
        (dir.path().to_owned(), {
            let (_, data) = of_source.clone();
            (Some("new".into()), data)
        }),
    ] {
        let store = open(&path);
        let states = [0, 1].map(|index| state_of(&store.shard(shard(index)).unwrap()));
        assert_eq!(states, [of_source.clone(), expected], "in {path:?}");
        // Nothing is left of the state that lost: a fresh shard after the next id would otherwise meet it.
        let all: usize = states.iter().map(|(_, records)| records.len() + 1).sum();
        assert_eq!(store.records().unwrap(), all);
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => _ = std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap(),
        }
    }
}

#[test]
fn an_error_names_its_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path()).shard(shard(0)).unwrap();
    let error = state.install(b"m", [Ok(Bytes::from_static(b"\x02rest of a newer chunk"))]).unwrap_err();
    assert!(matches!(error, Error::TooNew { found: 2, .. }), "{error}");
    assert!(error.to_string().contains("snapshot chunk 0"), "{error}");
}
