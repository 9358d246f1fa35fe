//! Writes a run's history down while it happens: one clock for everybody, one thread that writes, a bounded queue before it.

use crate::run::gates::Gates;
use anyhow::{Context, Result, ensure};
use docent_trial::History;
use docent_trial::history::{self, Call, Header, Observed, Operation, Outcome, PhaseMark, Record, Sighting};
use docent_trial::{Member, Phase};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Records that wait to be written: what clients do while a fault is carried out, with much room.
const QUEUE: usize = 65_536;
/// Records of a run; a history is judged in memory, and one takes about a kilobyte.
const RECORDS_MAX: usize = 4_000_000;

/// The side of the writers.
#[derive(Debug)]
pub struct Tape {
    start: Instant,
    next: AtomicU64,
    queue: Mutex<Option<SyncSender<Record>>>,
    is_full: Arc<AtomicBool>,
}

/// The side that keeps.
#[derive(Debug)]
pub struct Recorder {
    thread: std::thread::JoinHandle<Result<History>>,
}

/// A history that begins now. It is also written to `file`, a line a record, as it grows.
///
/// # Errors
/// The file cannot be written.
pub fn begin(header: Header, gates: Arc<Gates>, file: Option<&Path>) -> Result<(Arc<Tape>, Recorder)> {
    let create =
        |path: &Path| File::create(path).with_context(|| format!("cannot write the history {}", path.display()));
    let file = file.map(create).transpose()?.map(BufWriter::new);
    let (sender, receiver) = sync_channel(QUEUE);
    let is_full = Arc::new(AtomicBool::new(false));
    let tape = Tape {
        start: Instant::now(),
        next: AtomicU64::new(1),
        queue: Mutex::new(Some(sender)),
        is_full: is_full.clone(),
    };
    let thread = std::thread::spawn(move || keep(header, &gates, file, &receiver, &is_full));
    Ok((Arc::new(tape), Recorder { thread }))
}

impl Tape {
    /// Microseconds from the beginning.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether the run is too long to be kept: then it is no run.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Adds a record; waits while the queue is full.
    pub fn write(&self, record: Record) {
        let sender = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender {
            // The receiver ends before its senders only when the file cannot be written, which the recorder tells.
            let _ended = sender.send(record);
        }
    }

    /// Adds what a client did.
    pub fn operation(&self, client: u32, gateway: Member, call: Call, called_us: u64, outcome: Outcome) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let returned_us = Some(self.now_us());
        self.write(Record::Operation(Operation { id, client, gateway, call, called_us, returned_us, outcome }));
    }

    /// Adds what was seen now.
    pub fn see(&self, what: Observed) {
        self.write(Record::Observed(Sighting { at_us: self.now_us(), what }));
    }

    /// A phase begins now.
    pub fn phase(&self, phase: Phase) {
        self.write(Record::Phase(PhaseMark { at_us: self.now_us(), phase }));
    }

    /// Nothing is added any more.
    pub fn end(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Recorder {
    /// The whole history, once the tape has ended.
    ///
    /// # Errors
    /// The file could not be written, or there was too much to keep.
    pub fn history(self) -> Result<History> {
        self.thread.join().map_err(|_| anyhow::anyhow!("the recorder panicked"))?
    }
}

fn keep(
    header: Header,
    gates: &Gates,
    mut file: Option<BufWriter<File>>,
    records: &Receiver<Record>,
    is_full: &AtomicBool,
) -> Result<History> {
    let mut history = History::new(header.clone());
    let mut count = 0;
    let mut keep = |mut record: Record| -> Result<()> {
        count += 1;
        if count > RECORDS_MAX {
            is_full.store(true, Ordering::Relaxed);
            return Ok(());
        }
        if let Record::Operation(operation) = &mut record {
            gates.blame(operation);
        }
        if let Some(file) = &mut file {
            history::write(file, &record)?;
            if matches!(record, Record::Phase(_) | Record::Fault(_)) {
                file.flush()?; // a run that is cut off leaves what led to it
            }
        }
        history.push(record);
        Ok(())
    };
    keep(Record::Header(header))?;
    records.iter().try_for_each(&mut keep)?;
    if let Some(file) = &mut file {
        file.flush()?;
    }
    ensure!(
        !is_full.load(Ordering::Relaxed),
        "the run has more than {RECORDS_MAX} records: send less, or for a shorter time"
    );
    Ok(history)
}
