//! The journal's promises, over the fake disk that takes back what was not synced, and once over the real one.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

mod collection;
mod faults;
mod model;
mod promises;
mod steps;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::channel::{Receiver, bounded};
use docent_journal::{Done, Entry, Error, GroupLog, Journal, Options};
use docent_runtime::disk::{Disk, MemDisk};

pub(crate) const DIR: &str = "/journal";

/// Small segments, so that a test has many.
pub(crate) fn options() -> Options {
    Options { segment_bytes_max: 4096, cache_bytes_max: 2048, queue_records_max: 64, ..Options::new(DIR) }
}

pub(crate) fn open(disk: &MemDisk) -> Journal {
    Journal::open(options(), Arc::new(disk.process())).unwrap()
}

pub(crate) fn entries(from: u64, through: u64, payload_bytes: usize) -> Vec<Entry> {
    (from..=through).map(|index| entry(index, payload_bytes)).collect()
}

pub(crate) fn entry(index: u64, payload_bytes: usize) -> Entry {
    Entry { index, term: 1, payload: Bytes::from(vec![index as u8 | 1; payload_bytes]) }
}

pub(crate) fn waiting() -> (Done, Receiver<Result<(), Error>>) {
    let (sender, receiver) = bounded(1);
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

/// Makes the call and waits for its answer.
pub(crate) fn wait(call: impl FnOnce(Done)) -> Result<(), Error> {
    let (done, answer) = waiting();
    call(done);
    answer.recv().expect("every call is answered")
}

pub(crate) fn append(log: &GroupLog, from: u64, through: u64) {
    wait(|done| log.append(entries(from, through, 100), done)).unwrap();
}

pub(crate) fn segments(disk: &MemDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(DIR)).unwrap();
    names.into_iter().filter(|name| name.ends_with(".journal")).map(|name| Path::new(DIR).join(name)).collect()
}
