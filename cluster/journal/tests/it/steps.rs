//! The writer driven in steps: what is written and not synced is not acknowledged, and goes with the power.

use std::sync::Arc;

use docent_journal::{Error, Journal, Steps};
use docent_runtime::disk::{Crash, MemDisk};

use crate::{entries, options, waiting};

fn open(disk: &MemDisk) -> (Journal, Steps) {
    Journal::open_in_steps(options(), Arc::new(disk.process())).unwrap()
}

#[test]
fn between_write_and_sync_nothing_is_acknowledged_and_a_power_loss_takes_it() {
    let disk = MemDisk::new();
    for (is_synced, left) in [(false, None), (true, Some((1, 1)))] {
        let (journal, mut steps) = open(&disk);
        assert_eq!(journal.group(1).state().last, None);
        let (done, acks) = waiting();
        journal.group(1).append(entries(1, 1, 100), done);
        steps.write();
        assert!(disk.unsynced_bytes() > 0 && acks.try_recv().is_err());
        if is_synced {
            assert!(steps.sync());
            acks.try_recv().unwrap().unwrap();
        }
        disk.crash(Crash::DropUnsynced);
        drop(steps);
        if !is_synced {
            assert!(matches!(acks.try_recv(), Ok(Err(Error::Closed))));
        }
        assert_eq!(open(&disk).0.group(1).state().last, left);
        disk.crash(Crash::KillProcess);
    }
}

#[test]
fn a_close_is_the_last_step_and_answers_what_came_before_it() {
    let disk = MemDisk::new();
    let (journal, mut steps) = open(&disk);
    let (done, acks) = waiting();
    journal.group(1).append(entries(1, 1, 100), done);
    journal.close();
    steps.write();
    assert!(!steps.sync());
    acks.try_recv().unwrap().unwrap();
    assert_eq!(disk.unsynced_bytes(), 0);
}
