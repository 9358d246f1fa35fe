//! A disk in memory that keeps apart what was written and what was synced, so that a test can take the difference away.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, DiskFile, DiskLock, Space};

/// Unit in which a torn write is kept or lost, as a device would (512-byte sectors).
const SECTOR_BYTES: usize = 512;

/// What a crash takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process died, the machine did not: everything written stays.
    KillProcess,
    /// Power loss at its cleanest: exactly what was synced stays.
    DropUnsynced,
    /// Power loss at its worst: of what was not synced, any subset of sectors and a prefix of the name changes stays,
    /// chosen by the seed.
    Tear(u64),
}

/// The fake disk. Clones share one state; files opened before a [`MemDisk::crash`] fail afterwards.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    shared: Arc<Shared>,
    /// Set in a handle given to a process: it ends with the crash.
    process: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    syncs_released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<NameChange>,
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    locks: Vec<PathBuf>,
    epoch: u64,
    capacity_bytes: Option<u64>,
    syncs_until_failure: Option<u64>,
    syncs_held: bool,
    syncs: u64,
    writes: u64,
}

#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, u64),
    Move(PathBuf, PathBuf, u64),
    Unset(PathBuf),
}

#[derive(Debug, Default)]
struct Node {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl MemDisk {
    /// An empty disk without a size limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle for one process: every call through it fails after the next crash, as if the process had died with it.
    #[must_use]
    pub fn process(&self) -> Self {
        let epoch = self.state().epoch;
        Self { shared: Arc::clone(&self.shared), process: Some(epoch) }
    }

    /// Ends every process, file and lock and takes away what `crash` says.
    pub fn crash(&self, crash: Crash) {
        let mut state = self.state();
        state.epoch += 1;
        state.locks.clear();
        state.syncs_until_failure = None;
        state.syncs_held = false;
        match crash {
            Crash::KillProcess => {}
            Crash::DropUnsynced => state.lose_power(&mut |_| false),
            Crash::Tear(seed) => {
                let mut seed = seed;
                state.lose_power(&mut |_| split_mix(&mut seed) & 1 == 1);
            }
        }
        self.shared.syncs_released.notify_all();
    }

    /// After `successes` more syncs (of files and directories) every sync fails, until the next crash.
    pub fn fail_syncs_after(&self, successes: u64) {
        self.state().syncs_until_failure = Some(successes);
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// While held, every file sync waits.
    pub fn hold_syncs(&self, held: bool) {
        self.state().syncs_held = held;
        self.shared.syncs_released.notify_all();
    }

    /// Successful file syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Successful file writes so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Bytes written and not yet synced, over all files.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.state().nodes.values().flat_map(|node| &node.unsynced).map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Flips bits behind everybody's back, durably: `mask` is xor-ed onto the byte at `offset`.
    ///
    /// # Panics
    /// If there is no such byte.
    pub fn corrupt(&self, path: &Path, offset: u64, mask: u8) {
        let mut state = self.state();
        let id = *state.names.get(path).expect("the file to corrupt exists");
        let node = state.nodes.get_mut(&id).expect("a named node exists");
        let at = usize::try_from(offset).expect("the offset fits memory");
        node.current[at] ^= mask;
        if let Some(byte) = node.durable.get_mut(at) {
            *byte ^= mask;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        match self.process {
            Some(epoch) if epoch != state.epoch => Err(io::Error::other("the process ended in the crash")),
            _ => Ok(state),
        }
    }

    fn handle(&self, state: &State, node: u64) -> Arc<dyn DiskFile> {
        Arc::new(MemFile { disk: self.clone(), node, epoch: state.epoch })
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.names.values().filter_map(|id| self.nodes.get(id)).map(|node| node.current.len() as u64).sum()
    }

    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.name_changes.push(change);
    }

    fn count_sync(&mut self) -> io::Result<()> {
        match &mut self.syncs_until_failure {
            Some(0) => Err(io::Error::other("injected sync failure")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// `survives` is asked once per unsynced sector and once per unsynced name change (the first no ends those:
    /// file systems journal names in order).
    fn lose_power(&mut self, survives: &mut dyn FnMut(usize) -> bool) {
        let changes = std::mem::take(&mut self.name_changes);
        for change in changes.iter().take_while(|_| survives(0)) {
            apply(&mut self.durable_names, change);
        }
        self.names = self.durable_names.clone();
        for node in self.nodes.values_mut() {
            for (offset, bytes) in std::mem::take(&mut node.unsynced) {
                tear(&mut node.durable, offset, &bytes, survives);
            }
            node.current.clone_from(&node.durable);
        }
        let live: Vec<u64> = self.names.values().copied().collect();
        self.nodes.retain(|id, _| live.contains(id));
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    match change {
        NameChange::Set(path, node) => {
            names.insert(path.clone(), *node);
        }
        NameChange::Move(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
        NameChange::Unset(path) => {
            names.remove(path);
        }
    }
}

fn parent_of(change: &NameChange) -> Option<&Path> {
    match change {
        NameChange::Set(path, _) | NameChange::Unset(path) | NameChange::Move(_, path, _) => path.parent(),
    }
}

/// Applies the sectors of one lost write that survive.
fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], survives: &mut dyn FnMut(usize) -> bool) {
    let mut at = 0;
    while at < bytes.len() {
        let room = SECTOR_BYTES - (offset + at) % SECTOR_BYTES;
        let end = bytes.len().min(at + room);
        if survives(offset + at) {
            put(content, offset + at, &bytes[at..end]);
        }
        at = end;
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// SplitMix64 (Steele, Lea, Flood 2014): all the randomness a reproducible tear needs.
fn split_mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Disk for MemDisk {
    /// Directories are implied by names.
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.alive().map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.alive()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.alive()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = state.next_node;
        state.next_node += 1;
        state.nodes.insert(node, Node::default());
        state.change(NameChange::Set(path.to_owned(), node));
        Ok(self.handle(&state, node))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.alive()?;
        let node = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&state, node))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        let node = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change(NameChange::Move(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Unset(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.alive()?;
        state.count_sync()?;
        let (synced, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.name_changes).into_iter().partition(|change| parent_of(change) == Some(dir));
        synced.iter().for_each(|change| apply(&mut state.durable_names, change));
        state.name_changes = rest;
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.alive()?;
        if state.locks.iter().any(|held| held == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks.push(path.to_owned());
        let epoch = state.epoch;
        Ok(Box::new(MemLock { disk: self.clone(), path: path.to_owned(), epoch }))
    }

    fn space(&self, _dir: &Path) -> io::Result<Space> {
        let state = self.alive()?;
        let total_bytes = state.capacity_bytes.unwrap_or(u64::MAX);
        Ok(Space { total_bytes, free_bytes: total_bytes.saturating_sub(state.used_bytes()) })
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    node: u64,
    epoch: u64,
}

impl MemFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.epoch == self.epoch { Ok(state) } else { Err(io::Error::other("the handle is from before the crash")) }
    }
}

fn node_of(state: &mut State, id: u64) -> io::Result<&mut Node> {
    state.nodes.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state()?;
        let content = &node_of(&mut state, self.node)?.current;
        let start = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
        let n = buf.len().min(content.len() - start);
        buf[..n].copy_from_slice(&content[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let (used, capacity) = (state.used_bytes(), state.capacity_bytes);
        let node = node_of(&mut state, self.node)?;
        let grows_by = (at + bytes.len()).saturating_sub(node.current.len()) as u64;
        if capacity.is_some_and(|limit| grows_by > 0 && used + grows_by > limit) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        put(&mut node.current, at, bytes);
        node.unsynced.push((at, bytes.to_vec()));
        state.writes += 1;
        Ok(())
    }

    fn sync(&self) -> io::Result<Duration> {
        let mut state = self.state()?;
        while state.syncs_held && state.epoch == self.epoch {
            state = self.disk.shared.syncs_released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.epoch != self.epoch {
            return Err(io::Error::other("the handle is from before the crash"));
        }
        state.count_sync()?;
        let node = node_of(&mut state, self.node)?;
        // Written sectors only: copying the whole file would make long tests quadratic.
        for (offset, bytes) in std::mem::take(&mut node.unsynced) {
            put(&mut node.durable, offset, &bytes);
        }
        state.syncs += 1;
        Ok(Duration::ZERO)
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.state()?;
        Ok(node_of(&mut state, self.node)?.current.len() as u64)
    }
}

#[derive(Debug)]
struct MemLock {
    disk: MemDisk,
    path: PathBuf,
    epoch: u64,
}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.epoch == self.epoch {
            state.locks.retain(|held| *held != self.path);
        }
    }
}

impl DiskLock for MemLock {}
