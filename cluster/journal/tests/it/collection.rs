//! Old segments go away, and nothing that counts goes with them.

use bytes::Bytes;
use docent_runtime::disk::{Crash, MemDisk};

use crate::{append, entries, open, segments, wait};

fn purge(log: &docent_journal::GroupLog, through: u64) {
    wait(|done| log.purge_to(through, Bytes::from(through.to_string()), done)).unwrap();
}

#[test]
fn segments_whose_records_are_all_dead_are_unlinked() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(1);
    (0..15).for_each(|run| append(&log, 1 + run * 20, 20 + run * 20));
    let full = segments(&disk).len();
    assert!(full >= 8, "{full}");
    purge(&log, 299);
    append(&log, 301, 301);
    assert!(segments(&disk).len() <= 2, "{:?}", segments(&disk));
    disk.crash(Crash::DropUnsynced);
    drop((log, journal));
    let log = open(&disk).group(1);
    assert_eq!(log.read(300..302).unwrap(), entries(300, 301, 100));
    assert!(log.state().quarantined.is_none());
}

#[test]
fn a_laggard_group_cannot_pin_old_segments() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let (lazy, busy) = (journal.group(1), journal.group(2));
    append(&lazy, 5, 9);
    wait(|done| lazy.save_vote(Bytes::from_static(b"vote"), done)).unwrap();
    wait(|done| lazy.save_committed(Bytes::from_static(b"committed"), Some(done))).unwrap();
    purge(&lazy, 6);
    let before = lazy.state();
    for round in 0..60 {
        let from = 1 + round * 20;
        append(&busy, from, from + 19);
        purge(&busy, from + 18);
        assert!(segments(&disk).len() <= 7, "round {round}: {} segments", segments(&disk).len());
    }
    assert!(!segments(&disk)[0].ends_with("0000000000000001.journal"));
    assert_eq!(lazy.state(), before);
    assert_eq!(lazy.read(7..10).unwrap(), entries(7, 9, 100));
    append(&lazy, 10, 11);
    disk.crash(Crash::DropUnsynced);
    drop((lazy, busy, journal));
    let lazy = open(&disk).group(1);
    assert_eq!(
        (lazy.state().vote, lazy.state().purged, lazy.state().first),
        (before.vote, before.purged, before.first)
    );
    assert_eq!(lazy.read(7..12).unwrap(), entries(7, 11, 100));
}

#[test]
fn a_quarantined_group_keeps_its_segments_until_it_is_removed() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    append(&journal.group(1), 1, 3);
    append(&journal.group(2), 1, 1);
    journal.close();
    disk.corrupt(&segments(&disk)[0], 64 + 48 + 48 + 20, 1);
    let journal = open(&disk);
    assert!(journal.group(1).state().quarantined.is_some());
    let busy = journal.group(2);
    for round in 0..20 {
        append(&busy, 2 + round * 20, 21 + round * 20);
        purge(&busy, 20 + round * 20);
    }
    assert!(segments(&disk)[0].ends_with("0000000000000001.journal"));
    wait(|done| journal.remove_group(1, done)).unwrap();
    append(&busy, 402, 402);
    assert!(segments(&disk).len() <= 7);
    assert!(!segments(&disk)[0].ends_with("0000000000000001.journal"));
}
