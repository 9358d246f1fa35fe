//! What a caller is promised when nothing goes wrong but the power.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use docent_journal::{Entry, Error, Journal, Options, Purged};
use docent_runtime::disk::{Crash, MemDisk, RealDisk};

use crate::{append, entries, entry, open, options, wait, waiting};

#[test]
fn everything_answered_survives_on_the_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes_max: 16 * 1024, ..Options::new(dir.path().join("deep/journal")) };
    let journal = Journal::open(options.clone(), Arc::new(RealDisk)).unwrap();
    for id in [1, 7] {
        let log = journal.group(id);
        wait(|done| log.append(entries(0, 99, 512), done)).unwrap();
        wait(|done| log.save_vote(Bytes::from_static(b"vote"), done)).unwrap();
        wait(|done| log.truncate_after(89, done)).unwrap();
        wait(|done| log.purge_to(9, Bytes::from_static(b"marker"), done)).unwrap();
        wait(|done| log.save_committed(Bytes::from_static(b"committed"), Some(done))).unwrap();
    }
    let before = journal.group(7).state();
    journal.close();
    let journal = Journal::open(options, Arc::new(RealDisk)).unwrap();
    assert_eq!(journal.groups(), [1, 7]);
    let log = journal.group(7);
    assert_eq!(log.state(), before);
    assert_eq!((before.first, before.last), (Some(10), Some((89, 1))));
    assert_eq!(before.purged, Some(Purged { index: 9, marker: Bytes::from_static(b"marker") }));
    assert_eq!(log.read(10..90).unwrap(), entries(10, 89, 512));
}

#[test]
fn a_call_is_answered_only_after_the_sync() {
    let disk = MemDisk::new();
    let log = open(&disk).group(1);
    disk.hold_syncs(true);
    let (syncs, seen) = (disk.syncs(), Arc::new(AtomicU64::new(0)));
    let (done, answer) = waiting();
    let (at_answer, observed) = (disk.clone(), Arc::clone(&seen));
    log.append(
        vec![entry(1, 10)],
        Box::new(move |result| {
            assert_eq!(at_answer.unsynced_bytes(), 0);
            observed.store(at_answer.syncs(), Ordering::SeqCst);
            done(result);
        }),
    );
    assert_eq!(log.read(1..2).unwrap(), [entry(1, 10)], "visible before it is durable");
    assert!(answer.is_empty());
    disk.hold_syncs(false);
    answer.recv().unwrap().unwrap();
    assert!(seen.load(Ordering::SeqCst) > syncs);
}

#[test]
fn calls_that_wait_together_share_a_sync_and_are_answered_in_order() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    disk.hold_syncs(true);
    let before = disk.syncs();
    let (sender, order) = crossbeam::channel::bounded(64);
    for number in 0..40u64 {
        let sender = sender.clone();
        let log = journal.group(number % 4);
        log.append(vec![entry(number / 4, 8)], Box::new(move |result| sender.send((number, result.is_ok())).unwrap()));
    }
    disk.hold_syncs(false);
    let answered: Vec<_> = order.iter().take(40).collect();
    assert_eq!(answered, (0..40).map(|number| (number, true)).collect::<Vec<_>>());
    // How many calls the first batch caught depends on the scheduler; the rest is at most one batch per segment's end.
    assert!(disk.syncs() - before <= 8, "{} syncs for 40 calls", disk.syncs() - before);
}

#[test]
fn committed_without_a_waiter_rides_on_the_next_sync_and_keeps_its_order() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(1);
    log.save_committed(Bytes::from_static(b"1"), None);
    log.save_committed(Bytes::from_static(b"2"), None);
    append(&log, 1, 1);
    disk.crash(Crash::DropUnsynced);
    drop((log, journal));
    assert_eq!(open(&disk).group(1).state().committed, Some(Bytes::from_static(b"2")));
}

#[test]
fn closing_answers_everybody_and_keeps_what_was_queued() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(3);
    let (done, answer) = waiting();
    log.append(entries(1, 30, 100), done);
    log.save_committed(Bytes::from_static(b"c"), None);
    journal.close();
    journal.close();
    answer.recv().unwrap().unwrap();
    assert!(matches!(wait(|done| log.append(entries(31, 31, 1), done)), Err(Error::Closed)));
    disk.crash(Crash::DropUnsynced);
    let state = open(&disk).group(3).state();
    assert_eq!((state.last, state.committed), (Some((30, 1)), Some(Bytes::from_static(b"c"))));
}

#[test]
fn the_journal_closes_with_its_last_handle() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(1);
    drop(journal);
    append(&log, 1, 3);
    drop(log);
    assert_eq!(open(&disk).group(1).state().last, Some((3, 1)));
}

#[test]
fn a_second_open_is_refused_by_name() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let error = Journal::open(options(), Arc::new(disk.process())).err().unwrap();
    assert!(matches!(&error, Error::Locked { dir } if dir == &options().dir));
    assert!(error.to_string().contains("/journal"), "{error}");
    journal.close();
    open(&disk);
}

#[test]
fn a_removed_group_stays_gone_and_can_begin_again() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    append(&journal.group(1), 1, 50);
    append(&journal.group(2), 1, 5);
    wait(|done| journal.remove_group(1, done)).unwrap();
    assert_eq!(journal.groups(), [2]);
    append(&journal.group(1), 9, 10);
    disk.crash(Crash::DropUnsynced);
    drop(journal);
    let journal = open(&disk);
    assert_eq!(journal.groups(), [1, 2]);
    assert_eq!((journal.group(1).state().first, journal.group(1).state().quarantined), (Some(9), None));
}

#[test]
fn calls_that_break_the_rules_change_nothing() {
    let disk = MemDisk::new();
    let log = open(&disk).group(1);
    append(&log, 1, 10);
    wait(|done| log.purge_to(4, Bytes::from_static(b"4"), done)).unwrap();
    let before = log.state();
    let refused = [
        wait(|done| log.append(entries(12, 12, 1), done)),
        wait(|done| log.append(vec![entry(11, 1), entry(13, 1)], done)),
        wait(|done| log.append(vec![entry(11, 17 << 20)], done)),
        wait(|done| log.truncate_after(3, done)),
        wait(|done| log.purge_to(u64::MAX, Bytes::new(), done)),
        wait(|done| open(&MemDisk::new()).group(1).append(vec![Entry { index: u64::MAX, ..entry(0, 1) }], done)),
    ];
    assert!(refused.iter().all(|result| matches!(result, Err(Error::Refused { .. }))), "{refused:?}");
    wait(|done| log.purge_to(2, Bytes::from_static(b"2"), done)).unwrap();
    assert_eq!(log.state(), before);
    for absent in [4..6, 10..12, 11..12, 0..u64::MAX] {
        assert!(matches!(log.read(absent), Err(Error::Missing { .. })));
    }
    assert_eq!(log.read(7..7).unwrap(), []);
}

#[test]
fn an_append_after_a_truncation_is_never_mixed_up_with_what_was_there() {
    let disk = MemDisk::new();
    let log = open(&disk).group(1);
    disk.hold_syncs(true);
    let mut answers = Vec::new();
    for term in 1..=5 {
        let (done, answer) = waiting();
        log.truncate_after(0, done);
        answers.push(answer);
        let (done, answer) = waiting();
        let run = entries(1, 3, 600).into_iter().map(|entry| Entry { term, ..entry }).collect();
        log.append(run, done);
        answers.push(answer);
    }
    disk.hold_syncs(false);
    answers.iter().for_each(|answer| answer.recv().unwrap().unwrap());
    // The cache is smaller than the log: some come from disk.
    assert!(log.read(1..4).unwrap().iter().all(|entry| entry.term == 5));
    wait(|done| log.truncate_all(done)).unwrap();
    assert_eq!(log.state().last, None);
    append(&log, 0, 2);
}

#[test]
fn a_snapshot_may_purge_beyond_the_end() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(1);
    append(&log, 1, 5);
    wait(|done| log.purge_to(100, Bytes::from_static(b"100"), done)).unwrap();
    assert_eq!((log.state().first, log.state().last), (None, None));
    assert!(wait(|done| log.append(entries(6, 6, 1), done)).is_err());
    append(&log, 101, 102);
    disk.crash(Crash::DropUnsynced);
    drop((log, journal));
    assert_eq!(open(&disk).group(1).read(101..103).unwrap(), entries(101, 102, 100));
}
