//! Which sessions are open, and which epochs are over.
use super::{blend::Shelf, session::Session};
use crate::{Error, message::Key};
use std::{collections::BTreeMap, sync::Arc};

/// Jobs whose newest epoch is remembered, open or not.
const FENCES_MAX: usize = 1024;

pub(super) struct Registry {
    sessions_max: usize,
    /// Oldest first.
    sessions: Vec<(Key, Arc<Session>)>,
    /// Per job, the newest (epoch, run) seen.
    fences: BTreeMap<u64, (u64, u8)>,
}

impl Registry {
    pub(super) fn new(sessions_max: usize) -> Self {
        Self { sessions_max: sessions_max.max(1), sessions: Vec::new(), fences: BTreeMap::new() }
    }

    /// Opens a session, or finds it open; ends the job's older ones.
    pub(super) fn open(&mut self, key: Key, make: impl FnOnce(Arc<Shelf>) -> Arc<Session>) -> Result<(), Error> {
        self.check(key)?;
        self.fences.insert(key.job, (key.epoch, key.run));
        if self.fences.len() > FENCES_MAX {
            self.fences.pop_first();
        }
        if self.sessions.iter().any(|(open, _)| *open == key) {
            return Ok(());
        }
        // What earlier runs of the attempt left for this one.
        let same = self.sessions.iter().find(|(open, _)| (open.job, open.epoch) == (key.job, key.epoch));
        let shelf = same.map(|(_, session)| session.shelf.clone()).unwrap_or_default();
        self.end(|open| open.job == key.job);
        while self.sessions.len() >= self.sessions_max {
            let (oldest, session) = self.sessions.remove(0);
            tracing::warn!(job = oldest.job, "a training session is ended to make room for another");
            session.stop();
        }
        self.sessions.push((key, make(shelf)));
        Ok(())
    }

    pub(super) fn get(&self, key: Key) -> Result<Arc<Session>, Error> {
        self.check(key)?;
        let session = self.sessions.iter().find(|(open, _)| *open == key);
        session.map(|(_, session)| session.clone()).ok_or(Error::NotOpen { job: key.job })
    }

    /// Ends the job's sessions up to `key`; a zombie's close leaves newer ones alone.
    pub(super) fn close(&mut self, key: Key) {
        self.end(|open| open.job == key.job && *open <= key);
    }

    fn end(&mut self, is_over: impl Fn(&Key) -> bool) {
        self.sessions.retain(|(open, session)| {
            let is_over = is_over(open);
            if is_over {
                session.stop();
            }
            !is_over
        });
    }

    fn check(&self, key: Key) -> Result<(), Error> {
        match self.fences.get(&key.job) {
            Some(&(epoch, run)) if (epoch, run) > (key.epoch, key.run) => {
                Err(Error::Stale { job: key.job, epoch, run })
            }
            _ => Ok(()),
        }
    }
}
