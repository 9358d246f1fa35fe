//! A state machine that remembers every payload in order, and can lose what it did not flush.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use docent_raft::{Applied, Command, Machine, MachineError, SnapshotSource};

#[derive(Debug, Clone, Default)]
struct State {
    applied: Applied,
    payloads: Vec<Bytes>,
}

/// Answers each payload with `"<position in the list>:<payload>"`.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    live: Mutex<State>,
    durable: Mutex<State>,
    /// While set, `flush` does nothing.
    pub(crate) never_flush: AtomicBool,
    /// While set, `apply` fails.
    pub(crate) fail: AtomicBool,
    /// Calls of `install`.
    pub(crate) installs: AtomicU64,
}

impl Recorder {
    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).payloads.clone()
    }

    /// What a power loss leaves: the last flushed state.
    pub(crate) fn lose_power(&self) {
        *self.live.lock().unwrap() = self.durable.lock().unwrap().clone();
    }
}

impl Machine for Recorder {
    fn applied(&self) -> Result<Applied, MachineError> {
        Ok(self.live.lock().unwrap().applied.clone())
    }

    fn apply(&self, batch: Vec<Command>, applied: Applied) -> Result<Vec<Bytes>, MachineError> {
        if self.fail.load(Ordering::SeqCst) {
            return Err(MachineError::storage("told to fail"));
        }
        let mut state = self.live.lock().unwrap();
        let mut responses = Vec::new();
        for command in batch {
            responses.push(match command.payload {
                Some(payload) => {
                    let response = format!("{}:{}", state.payloads.len(), String::from_utf8_lossy(&payload));
                    state.payloads.push(payload);
                    response.into()
                }
                None => Bytes::new(),
            });
        }
        state.applied = applied;
        Ok(responses)
    }

    fn snapshot(&self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(Source { state: self.live.lock().unwrap().clone(), next: 0 }))
    }

    fn install(
        &self,
        applied: Applied,
        chunks: Box<dyn Iterator<Item = Result<Bytes, MachineError>> + Send>,
    ) -> Result<(), MachineError> {
        let mut payloads = Vec::new();
        for chunk in chunks {
            payloads.extend(split(&chunk?)?);
        }
        self.installs.fetch_add(1, Ordering::SeqCst);
        let state = State { applied, payloads };
        *self.durable.lock().unwrap() = state.clone();
        *self.live.lock().unwrap() = state;
        Ok(())
    }

    fn flushed(&self) -> Result<Option<u64>, MachineError> {
        Ok(self.durable.lock().unwrap().applied.last.map(|mark| mark.index))
    }

    fn flush(&self) -> Result<(), MachineError> {
        if !self.never_flush.load(Ordering::SeqCst) {
            *self.durable.lock().unwrap() = self.live.lock().unwrap().clone();
        }
        Ok(())
    }
}

struct Source {
    state: State,
    next: usize,
}

impl SnapshotSource for Source {
    fn applied(&self) -> &Applied {
        &self.state.applied
    }

    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        let mut chunk = Vec::new();
        while let Some(payload) = self.state.payloads.get(self.next) {
            chunk.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            chunk.extend_from_slice(payload);
            self.next += 1;
            if chunk.len() >= bytes_max {
                break;
            }
        }
        Ok(if chunk.is_empty() { None } else { Some(chunk.into()) })
    }
}

fn split(mut chunk: &[u8]) -> Result<Vec<Bytes>, MachineError> {
    let mut payloads = Vec::new();
    while let Some((length, rest)) = chunk.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let payload = rest.get(..length).ok_or_else(|| MachineError::corrupt("short payload"))?;
        payloads.push(Bytes::copy_from_slice(payload));
        chunk = &rest[length..];
    }
    Ok(payloads)
}

pub(crate) fn recorder() -> Arc<Recorder> {
    Arc::new(Recorder::default())
}
