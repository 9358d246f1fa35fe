//! openraft's own test suite, run on our log store over a real journal and on our state machine adapter.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use docent_journal::Journal;
use docent_runtime::Threads;
use docent_runtime::disk::RealDisk;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::log::Log;
use crate::meters::Meters;
use crate::raft::TypeConfig;
use crate::snapshot::{self, Snapshots};
use crate::state::StateMachine;
use crate::{Applied, Command, Machine, MachineError, Options, SnapshotSource};

/// A machine that keeps nothing but its position.
#[derive(Default)]
struct Position(Mutex<Applied>);

struct PositionSource(Applied, bool);

impl SnapshotSource for PositionSource {
    fn applied(&self) -> &Applied {
        &self.0
    }

    fn next_chunk(&mut self, _bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        Ok(std::mem::take(&mut self.1).then(|| Bytes::from_static(b"chunk")))
    }
}

impl Machine for Position {
    fn applied(&self) -> Result<Applied, MachineError> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn apply(&self, batch: Vec<Command>, applied: Applied) -> Result<Vec<Bytes>, MachineError> {
        *self.0.lock().unwrap() = applied;
        Ok(vec![Bytes::new(); batch.len()])
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(PositionSource(self.applied()?, true)))
    }

    fn install(
        &self,
        applied: Applied,
        chunks: Box<dyn Iterator<Item = Result<Bytes, MachineError>> + Send>,
    ) -> Result<(), MachineError> {
        let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
        assert_eq!(chunks, [Bytes::from_static(b"chunk")]);
        *self.0.lock().unwrap() = applied;
        Ok(())
    }

    fn flushed(&self) -> Result<Option<u64>, MachineError> {
        Ok(self.0.lock().unwrap().last.map(|mark| mark.index))
    }

    fn flush(&self) -> Result<(), MachineError> {
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, Log, StateMachine, (TempDir, Journal)> for Builder {
    async fn build(&self) -> Result<((TempDir, Journal), Log, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk);
        let journal = docent_journal::Options::new(dir.path().join("journal"));
        let journal = Journal::open(journal, disk.clone()).unwrap();
        let options = Arc::new(Options::fast());
        let log = Log::open(1, 1, journal.group(1), options.append_bytes_max).unwrap();
        let snapshot_dir = dir.path().join("snapshots");
        snapshot::prepare(disk.as_ref(), &snapshot_dir).unwrap();
        let snapshots = Arc::new(Snapshots::open(1, 1, disk, snapshot_dir).unwrap());
        let machine = Arc::new(Position::default());
        let state = StateMachine::open(1, machine, snapshots, options, Threads::Os, Meters::of(1)).unwrap();
        Ok(((dir, journal), log, state))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_stores_pass_the_suite_of_openraft() {
    Suite::test_all(Builder).await.unwrap();
}
