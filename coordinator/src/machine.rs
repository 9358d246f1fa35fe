//! The catalog as raft's state machine: applied in memory, written whole to one file when raft asks for it.
//!
//! The journal replays what the file lacks; [`Machine::flushed`] says what it has, so that nothing is purged that only memory knows.

use crate::catalog::{Command, State};
use crate::state_file;
use bytes::Bytes;
use docent_raft::{Applied, Command as Entry, LogMark, Machine, MachineError, SnapshotSource};
use docent_runtime::disk::Disk;
use docent_types::catalog::Catalog;
use docent_types::{Error, Kind, codec};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A larger snapshot is not one of a catalog.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Stored {
    last: Option<LogMark>,
    mark: Vec<u8>,
    state: State,
}

/// See the module.
pub struct CatalogMachine {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    now: Mutex<Now>,
    /// Held while the file is written: the index that the file reaches.
    written: Mutex<Option<u64>>,
    watch: watch::Sender<Arc<Catalog>>,
}

#[derive(Clone)]
struct Now {
    state: State,
    applied: Applied,
}

impl CatalogMachine {
    /// The machine as its file has it; a new one if there is no file.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<CatalogMachine, Error> {
        let stored = state_file::read::<Stored>(disk.as_ref(), &path, "the catalog's file")?;
        let (state, applied) = match stored {
            Some(stored) => (stored.state, Applied { last: stored.last, mark: stored.mark.into() }),
            None => (State::default(), Applied::default()),
        };
        let written = Mutex::new(applied.last.map(|last| last.index));
        let watch = watch::channel(state.catalog().clone()).0;
        Ok(CatalogMachine { disk, path, now: Mutex::new(Now { state, applied }), written, watch })
    }

    /// The applied catalog and its changes; the index only rises.
    pub fn watch(&self) -> watch::Receiver<Arc<Catalog>> {
        self.watch.subscribe()
    }

    /// The applied state, held for as long as `read` runs.
    pub fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.now().state)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, catalog: &Arc<Catalog>) {
        self.watch.send_if_modified(|shown| {
            let is_newer = catalog.index > shown.index;
            if is_newer {
                shown.clone_from(catalog);
            }
            is_newer
        });
        metrics::gauge!("docent_catalog_index").set(catalog.index as f64);
    }

    fn write(&self, written: &mut Option<u64>, now: Now) -> Result<(), MachineError> {
        let index = now.applied.last.map(|last| last.index);
        let format = now.state.catalog().format();
        let stored = Stored { last: now.applied.last, mark: now.applied.mark.to_vec(), state: now.state };
        state_file::write(self.disk.as_ref(), &self.path, format, &stored).map_err(MachineError::storage)?;
        *written = index;
        Ok(())
    }

    fn writing(&self) -> MutexGuard<'_, Option<u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine for CatalogMachine {
    fn applied(&self) -> Result<Applied, MachineError> {
        Ok(self.now().applied.clone())
    }

    fn apply(&self, batch: Vec<Entry>, applied: Applied) -> Result<Vec<Bytes>, MachineError> {
        let mut now = self.now();
        let mut answers = Vec::with_capacity(batch.len());
        for entry in batch {
            let Some(payload) = entry.payload else {
                answers.push(Bytes::new());
                continue;
            };
            let command: Command = codec::decode("a catalog command", &payload).map_err(unreadable)?;
            answers.push(codec::encode(&now.state.apply(entry.index, command)));
        }
        now.applied = applied;
        self.publish(now.state.catalog());
        Ok(answers)
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let now = self.now().clone();
        Ok(Box::new(View { rest: codec::encode_in(now.state.catalog().format(), &now.state), applied: now.applied }))
    }

    fn install(
        &self,
        applied: Applied,
        chunks: Box<dyn Iterator<Item = Result<Bytes, MachineError>> + Send>,
    ) -> Result<(), MachineError> {
        let mut bytes = Vec::new();
        for chunk in chunks {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() > SNAPSHOT_BYTES_MAX {
                return Err(MachineError::corrupt("a catalog's snapshot is over 256 MiB"));
            }
        }
        let state: State = codec::decode("a catalog's snapshot", &bytes).map_err(unreadable)?;
        let next = Now { state, applied };
        let mut written = self.writing();
        self.write(&mut written, next.clone())?;
        let mut now = self.now();
        *now = next;
        self.publish(now.state.catalog());
        Ok(())
    }

    fn flushed(&self) -> Result<Option<u64>, MachineError> {
        Ok(*self.writing())
    }

    fn flush(&self) -> Result<(), MachineError> {
        let mut written = self.writing();
        // Taken under the writer's lock, so that an older state never follows a newer one into the file.
        let now = self.now().clone();
        if now.applied.last.map(|last| last.index) == *written {
            return Ok(());
        }
        self.write(&mut written, now)
    }
}

fn unreadable(error: Error) -> MachineError {
    match error.kind {
        Kind::Unsupported => MachineError::TooNew { message: error.message },
        _ => MachineError::corrupt(error),
    }
}

struct View {
    applied: Applied,
    rest: Bytes,
}

impl SnapshotSource for View {
    fn applied(&self) -> &Applied {
        &self.applied
    }

    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.rest.split_to(bytes_max.clamp(1, self.rest.len()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::properties::{cluster, joining};
    use docent_runtime::disk::MemDisk;
    use std::path::Path;

    fn disk() -> Arc<MemDisk> {
        let disk = Arc::new(MemDisk::default());
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk
    }

    fn machine(disk: &Arc<MemDisk>) -> CatalogMachine {
        CatalogMachine::open(disk.clone(), "/d/catalog.bin".into()).unwrap()
    }

    fn at(index: u64) -> Applied {
        Applied { last: Some(LogMark { term: 1, index }), mark: Bytes::from_static(b"mark") }
    }

    fn entry(index: u64, command: Option<Command>) -> Entry {
        Entry { index, term: 1, payload: command.as_ref().map(|c| codec::encode_in(c.format(), c)) }
    }

    #[test]
    fn what_was_flushed_and_no_more_is_there_after_a_restart() {
        let disk = disk();
        let first = machine(&disk);
        first.apply(vec![entry(0, None), entry(1, Some(Command::Birth(cluster(1))))], at(1)).unwrap();
        assert_eq!(first.flushed().unwrap(), None);
        first.flush().unwrap();
        assert_eq!(first.flushed().unwrap(), Some(1));
        first.apply(vec![entry(2, Some(Command::Join(joining(1, 1))))], at(2)).unwrap();
        assert_eq!(first.flushed().unwrap(), Some(1));
        let second = machine(&disk);
        assert_eq!(second.applied().unwrap(), at(1));
        assert_eq!(second.watch().borrow().index, 1);
        // The journal replays the rest.
        second.apply(vec![entry(2, Some(Command::Join(joining(1, 1))))], at(2)).unwrap();
        assert_eq!(second.read(State::clone), first.read(State::clone));
    }

    #[test]
    fn a_snapshot_makes_an_equal_machine_whatever_the_chunks() {
        let source = machine(&disk());
        source.apply(vec![entry(1, Some(Command::Birth(cluster(1))))], at(1)).unwrap();
        let mut view = source.snapshot().unwrap();
        source.apply(vec![entry(2, Some(Command::Join(joining(1, 1))))], at(2)).unwrap();
        let mut chunks = Vec::new();
        while let Some(chunk) = view.next_chunk(5).unwrap() {
            chunks.push(Ok(chunk));
        }
        assert!(chunks.len() > 3);
        let disk = disk();
        let target = machine(&disk);
        target.install(view.applied().clone(), Box::new(chunks.into_iter())).unwrap();
        assert_eq!(target.flushed().unwrap(), Some(1), "durable at once");
        assert_eq!(machine(&disk).read(State::clone), target.read(State::clone));
        assert_eq!(target.watch().borrow().nodes.len(), 0, "later entries do not show in the view");
    }

    #[test]
    fn a_command_of_a_newer_binary_is_refused_by_name() {
        let machine = machine(&disk());
        let newer = Entry { index: 1, term: 1, payload: Some(Bytes::from_static(&[codec::VERSION + 1, 0])) };
        assert!(matches!(machine.apply(vec![newer], at(1)), Err(MachineError::TooNew { .. })));
        let unknown = Entry { index: 1, term: 1, payload: Some(Bytes::from_static(&[codec::VERSION, 120])) };
        assert!(matches!(machine.apply(vec![unknown], at(1)), Err(MachineError::TooNew { .. })), "a variant");
        let garbage = Entry { index: 1, term: 1, payload: Some(Bytes::from_static(&[codec::VERSION, 0xff])) };
        assert!(matches!(machine.apply(vec![garbage], at(1)), Err(MachineError::Corrupt { .. })));
    }

    #[test]
    fn a_refused_command_answers_and_wakes_no_watcher() {
        let machine = machine(&disk());
        let mut watch = machine.watch();
        let answers = machine.apply(vec![entry(1, Some(Command::Rollback))], at(1)).unwrap();
        let outcome: crate::catalog::Outcome = codec::decode("an outcome", &answers[0]).unwrap();
        assert_eq!(outcome.unwrap_err().kind, Kind::Conflict);
        assert!(!watch.has_changed().unwrap());
        machine.apply(vec![entry(2, Some(Command::Birth(cluster(1))))], at(2)).unwrap();
        assert!(watch.has_changed().unwrap());
        assert_eq!(watch.borrow_and_update().index, 2);
    }
}
