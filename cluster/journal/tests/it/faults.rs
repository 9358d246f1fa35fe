//! What a caller is promised when the disk misbehaves.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use docent_journal::{Error, Journal, Kind};
use docent_runtime::disk::{Crash, Disk, MemDisk};

use crate::{append, entries, open, options, segments, wait, waiting};

/// Where `needle` starts in the file.
fn find(disk: &MemDisk, path: &Path, needle: &[u8]) -> u64 {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes.windows(needle.len()).position(|window| window == needle).expect("the bytes are there") as u64
}

fn vote(journal: &Journal, group: u64, vote: &'static [u8]) -> Result<(), Error> {
    wait(|done| journal.group(group).save_vote(Bytes::from_static(vote), done))
}

#[test]
fn a_torn_tail_is_cut_and_what_was_answered_stays() {
    for seed in 0..50 {
        let disk = MemDisk::new();
        let journal = open(&disk);
        let log = journal.group(1);
        append(&log, 1, 5);
        disk.hold_syncs(true);
        let (done, answer) = waiting();
        let writes = disk.writes();
        log.append(entries(6, 20, 300), done);
        while disk.writes() == writes {
            std::thread::yield_now();
        }
        disk.crash(Crash::Tear(seed));
        assert!(answer.recv().unwrap().is_err());
        drop((log, journal));
        let journal = open(&disk);
        let log = journal.group(1);
        let (last, _) = log.state().last.unwrap();
        assert!(last >= 5 && log.state().quarantined.is_none(), "seed {seed}: {:?}", log.state());
        assert_eq!(log.read(1..6).unwrap(), entries(1, 5, 100));
        append(&log, last + 1, last + 3);
        disk.crash(Crash::DropUnsynced);
        drop((log, journal));
        assert_eq!(open(&disk).group(1).state().last, Some((last + 3, 1)));
    }
}

#[test]
fn what_was_cut_off_never_comes_back() {
    let mut aligned = 0;
    for seed in 0..100 {
        let disk = MemDisk::new();
        let journal = open(&disk);
        append(&journal.group(1), 1, 5);
        disk.hold_syncs(true);
        let (done, answer) = waiting();
        let writes = disk.writes();
        journal.group(1).append(entries(6, 9, 300), done);
        while disk.writes() == writes {
            std::thread::yield_now();
        }
        disk.crash(Crash::Tear(seed));
        answer.recv().unwrap().unwrap_err();
        drop(journal);
        let journal = open(&disk);
        if journal.group(1).state().last != Some((5, 1)) {
            continue;
        }
        aligned += 1;
        // With the sync-floor before it (48 bytes) it ends where the torn entry 6 ended and entry 7 may still lie.
        wait(|done| journal.group(1).append(entries(6, 6, 300 - 48), done)).unwrap();
        disk.crash(Crash::DropUnsynced);
        drop(journal);
        assert_eq!(open(&disk).group(1).state().last, Some((6, 1)), "seed {seed}");
    }
    assert!(aligned > 10, "the case was hardly met: {aligned}");
}

#[test]
fn a_damaged_payload_quarantines_its_group_alone() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    append(&journal.group(1), 1, 5);
    append(&journal.group(2), 1, 5);
    vote(&journal, 3, b"a precious vote").unwrap();
    journal.close();
    let path = segments(&disk).remove(0);
    disk.corrupt(&path, find(&disk, &path, b"a precious vote"), 0x40);
    let journal = open(&disk);
    assert!(journal.group(3).state().quarantined.unwrap().contains("0000000000000001.journal"));
    assert!(matches!(vote(&journal, 3, b"v"), Err(Error::Quarantined { group: 3, .. })));
    for sound in [1, 2] {
        assert_eq!(journal.group(sound).state().quarantined, None);
        append(&journal.group(sound), 6, 6);
    }
    wait(|done| journal.remove_group(3, done)).unwrap();
    vote(&journal, 3, b"a new life").unwrap();
    journal.close();
    let state = open(&disk).group(3).state();
    assert_eq!((state.quarantined, state.vote), (None, Some(Bytes::from_static(b"a new life"))));
}

#[test]
fn a_damaged_head_quarantines_every_group_that_cannot_prove_it_lost_nothing() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    append(&journal.group(1), 1, 3);
    append(&journal.group(4), 1, 1);
    vote(&journal, 2, b"the damaged one").unwrap();
    append(&journal.group(1), 4, 6);
    append(&journal.group(5), 1, 1);
    vote(&journal, 2, b"a later one").unwrap();
    journal.close();
    let path = segments(&disk).remove(0);
    // The group number in the head, 48 bytes before the payload.
    disk.corrupt(&path, find(&disk, &path, b"the damaged one") - 40, 1);
    let journal = open(&disk);
    let quarantined = |group| journal.group(group).state().quarantined.is_some();
    assert!(!quarantined(1), "its next record carried the next sequence");
    assert!(!quarantined(5), "it began after the damage");
    assert!(quarantined(2), "its next record shows the gap");
    assert!(quarantined(4), "the lost record could have been its");
    assert_eq!(journal.group(1).read(1..7).unwrap(), entries(1, 6, 100));
}

#[test]
fn damage_to_a_purged_entry_harms_nobody() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(1);
    append(&log, 1, 5);
    wait(|done| log.purge_to(3, Bytes::from_static(b"3"), done)).unwrap();
    drop(log);
    journal.close();
    let path = segments(&disk).remove(0);
    disk.corrupt(&path, find(&disk, &path, &[3; 100]) + 50, 2);
    let state = open(&disk).group(1).state();
    assert_eq!((state.quarantined, state.first), (None, Some(4)));
}

#[test]
fn damage_behind_the_sync_floor_is_not_taken_for_a_torn_tail() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    append(&journal.group(1), 1, 5);
    journal.close();
    let path = segments(&disk).remove(0);
    // The last record of the last segment, head and all: without the floor this looks torn.
    let at = find(&disk, &path, &[5; 100]);
    (at - 48..at + 100).for_each(|byte| disk.corrupt(&path, byte, 0xFF));
    assert!(open(&disk).group(1).state().quarantined.is_some());
}

#[test]
fn damage_found_while_reading_quarantines_then() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(1);
    append(&log, 1, 60);
    let path = segments(&disk).remove(0);
    disk.corrupt(&path, find(&disk, &path, &[5; 100]) + 10, 1);
    assert!(matches!(log.read(1..9), Err(Error::Quarantined { .. })));
    assert!(log.state().quarantined.is_some());
}

#[test]
fn a_missing_segment_quarantines() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    (0..10).for_each(|run| append(&journal.group(1), 1 + run * 20, 20 + run * 20));
    append(&journal.group(2), 1, 2);
    journal.close();
    let paths = segments(&disk);
    assert!(paths.len() >= 3);
    disk.remove(&paths[1]).unwrap();
    let journal = open(&disk);
    assert!(journal.group(1).state().quarantined.is_some());
    assert!(journal.group(2).state().quarantined.is_none(), "it began after the damage");
}

#[test]
fn a_failed_sync_fails_every_waiting_and_later_call() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(1);
    append(&log, 1, 2);
    disk.fail_syncs_after(0);
    let answers: Vec<_> = (3..10)
        .map(|index| {
            let (done, answer) = waiting();
            log.append(entries(index, index, 10), done);
            answer
        })
        .collect();
    assert!(answers.iter().all(|answer| answer.recv().unwrap().unwrap_err().kind() == Kind::Fatal));
    let error = vote(&journal, 2, b"v").unwrap_err();
    assert!(matches!(&error, Error::Poisoned { reason } if reason.contains("injected")), "{error}");
    assert!(journal.failure().is_some());
    assert_eq!(log.read(1..3).unwrap(), entries(1, 2, 100), "reads go on");
    journal.close();
    disk.crash(Crash::DropUnsynced);
    drop(log);
    drop(journal);
    assert_eq!(open(&disk).group(1).state().last, Some((2, 1)));
}

#[test]
fn a_full_disk_is_told_early_and_then_by_name() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    let log = journal.group(1);
    append(&log, 1, 1);
    assert!(!journal.is_full());
    disk.set_capacity(Some(disk.used_bytes()));
    let mut index = 2;
    while !journal.is_full() {
        append(&log, index, index);
        index += 1;
    }
    vote(&journal, 1, b"still fits").unwrap();
    disk.set_capacity(None);
    append(&log, index, index);
    assert!(!journal.is_full(), "room again");
    disk.set_capacity(Some(disk.used_bytes()));
    let error =
        (index + 1..).find_map(|index| wait(|done| log.append(entries(index, index, 100), done)).err()).unwrap();
    assert!(matches!(&error, Error::Full { path } if path.starts_with("/journal")), "{error}");
    let last = log.read(1..index + 1).unwrap();
    assert_eq!(last, entries(1, index, 100), "reads go on");
    journal.close();
    disk.set_capacity(None);
    drop((log, journal));
    let state = open(&disk).group(1).state();
    assert!(state.last.unwrap().0 >= index && state.quarantined.is_none());
}

#[test]
fn a_newer_format_is_refused_by_name_and_left_alone() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    append(&journal.group(1), 1, 100);
    append(&journal.group(1), 101, 110);
    journal.close();
    let path = segments(&disk).remove(1);
    disk.corrupt(&path, 8, 1 ^ 2);
    let writes = disk.writes();
    let error = Journal::open(options(), Arc::new(disk.process())).err().unwrap();
    assert!(matches!(&error, Error::TooNew { file, found: 2, supported: 1 } if file == &path), "{error}");
    assert!(error.to_string().contains("0000000000000002.journal"));
    assert_eq!(disk.writes(), writes);
}

#[test]
fn a_segment_whose_creation_was_cut_short_is_no_damage() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    append(&journal.group(1), 1, 3);
    journal.close();
    disk.create(&Path::new("/journal").join("0000000000000002.journal")).unwrap().write_at(&[0; 100], 0).unwrap();
    let journal = open(&disk);
    assert_eq!(journal.group(1).state().quarantined, None);
    append(&journal.group(1), 4, 100);
}

/// Found by the model: the name was durable only if the process that made it lived on.
#[test]
fn a_segment_named_just_before_a_kill_is_not_lost_with_its_name() {
    let disk = MemDisk::new();
    disk.fail_syncs_after(2);
    let error = Journal::open(options(), Arc::new(disk.process())).err().unwrap();
    assert!(error.to_string().contains("sync /journal"), "the directory's sync failed: {error}");
    disk.crash(Crash::KillProcess);
    let journal = open(&disk);
    append(&journal.group(1), 1, 3);
    disk.crash(Crash::DropUnsynced);
    drop(journal);
    assert_eq!(open(&disk).group(1).state().last, Some((3, 1)));
}

#[test]
fn no_bytes_on_disk_make_the_journal_panic() {
    let disk = MemDisk::new();
    let journal = open(&disk);
    (0..3).for_each(|run| append(&journal.group(1), 1 + run * 40, 40 + run * 40));
    vote(&journal, 2, b"vote").unwrap();
    journal.close();
    let paths = segments(&disk);
    let mut seed = 1u64;
    for _ in 0..300 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let path = &paths[(seed >> 60) as usize % paths.len()];
        let size = disk.open(path).unwrap().size().unwrap();
        disk.corrupt(path, (seed >> 20) % size, (seed >> 8) as u8 | 1);
        if let Ok(journal) = Journal::open(options(), Arc::new(disk.process())) {
            for group in journal.groups() {
                let state = journal.group(group).state();
                if let (Some(first), Some((last, _))) = (state.first, state.last) {
                    let _ = journal.group(group).read(first..last + 1);
                }
            }
        }
    }
}
