//! The handles: [`Journal`] for the node, [`GroupLog`] for one raft group.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use docent_runtime::disk::Disk;

use crate::{Error, Options};

/// A raft group's number on this node.
pub type GroupId = u64;
/// Called once, after the record and all before it are durable, or with the reason why they are not known to be.
pub type Done = Box<dyn FnOnce(Result<(), Error>) + Send + 'static>;

/// One raft log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    pub payload: Bytes,
}

/// How far a group's log was purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    pub index: u64,
    pub marker: Bytes,
}

/// A group as its owner finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<Purged>,
    pub last: Option<(u64, u64)>,
    pub first: Option<u64>,
    pub quarantined: Option<String>,
}

#[derive(Clone)]
pub struct Journal;

impl Journal {
    pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<Journal, Error> {
        options.check()?;
        drop(disk);
        Err(Error::Closed)
    }
    pub fn group(&self, id: GroupId) -> GroupLog {
        GroupLog { id }
    }
    pub fn groups(&self) -> Vec<GroupId> {
        Vec::new()
    }
    pub fn remove_group(&self, _id: GroupId, done: Done) {
        done(Err(Error::Closed));
    }
    pub fn close(&self) {}
}

#[derive(Clone)]
pub struct GroupLog {
    id: GroupId,
}

impl GroupLog {
    pub fn state(&self) -> GroupState {
        GroupState::default()
    }
    pub fn append(&self, _entries: Vec<Entry>, done: Done) {
        done(Err(Error::Closed));
    }
    pub fn save_vote(&self, _vote: Bytes, done: Done) {
        done(Err(Error::Closed));
    }
    pub fn save_committed(&self, _committed: Bytes, done: Option<Done>) {
        if let Some(done) = done {
            done(Err(Error::Closed));
        }
    }
    pub fn truncate_after(&self, _keep_through: u64, done: Done) {
        done(Err(Error::Closed));
    }
    pub fn purge_to(&self, _through: u64, _marker: Bytes, done: Done) {
        done(Err(Error::Closed));
    }
    pub fn read(&self, range: Range<u64>) -> Result<Vec<Entry>, Error> {
        Err(Error::Missing { group: self.id, index: range.start })
    }
}
