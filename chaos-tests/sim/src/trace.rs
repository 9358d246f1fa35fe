//! What happened, in order: messages, faults, applied entries, operations of clients. Two runs are the same if their digests are.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The trace of a run. Clones write to one.
#[derive(Clone)]
pub struct Trace {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    hasher: blake3::Hasher,
    lines: u64,
    file: Option<std::io::BufWriter<std::fs::File>>,
}

impl Trace {
    /// An empty trace, written to `file` too where one is given.
    pub fn new(file: Option<std::fs::File>) -> Trace {
        let shared = Shared { hasher: blake3::Hasher::new(), lines: 0, file: file.map(std::io::BufWriter::new) };
        Trace { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Notes one thing: when (simulated), what kind, and the words that tell it.
    pub fn note(&self, at: Duration, kind: &str, words: std::fmt::Arguments<'_>) {
        let line = format!("{:>9.3} {kind} {words}\n", at.as_secs_f64());
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.hasher.update(line.as_bytes());
        shared.lines += 1;
        if let Some(file) = &mut shared.file {
            // A full disk loses the text, not the verdict.
            let _lost = file.write_all(line.as_bytes());
        }
    }

    /// How many things were noted, and the digest over all of them in 16 hexadecimal digits.
    pub fn digest(&self) -> (u64, String) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &mut shared.file {
            let _lost = file.flush();
        }
        (shared.lines, shared.hasher.finalize().to_hex()[..16].to_owned())
    }
}
