//! Model parts on disk: immutable files named by their blake3, verified whenever they come in.

use bytes::Bytes;
use docent_proto::internal::Service;
use docent_proto::internal::parts::Request;
use docent_rpc::caller::Chunks;
use docent_rpc::{Caller, Handler};
use docent_runtime::disk::{Disk, whole};
use docent_runtime::{Deadline, Platform, Threads};
use docent_types::{Error, Kind, NodeId, Result, codec};
use futures::StreamExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of one chunk on the wire.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of the largest part.
const PART_BYTES_MAX: u64 = 4 << 30;
/// How long a stream of chunks may stall.
const STALL: Duration = Duration::from_secs(10);

/// The parts of one node. Clones share them.
#[derive(Clone)]
pub struct Parts {
    disk: Arc<dyn Disk>,
    threads: Threads,
    dir: PathBuf,
    /// When a part came in; what is not there was found at the start.
    came: Arc<Mutex<BTreeMap<String, Instant>>>,
    opened: Instant,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("dir", &self.dir).finish_non_exhaustive()
    }
}

fn io(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::new(Kind::Internal, format!("cannot {what} {}: {error}", path.display()))
}

/// blake3 in hexadecimal.
pub fn name(hash: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}

impl Parts {
    /// Opens or creates the directory; leftovers of interrupted writes are removed.
    pub fn open(platform: &Platform, dir: &Path) -> Result<Parts> {
        let (disk, threads) = (platform.disk.clone(), platform.threads);
        disk.create_dir_all(dir).map_err(|error| io("create", dir, &error))?;
        let parts = Parts { disk, threads, dir: dir.to_owned(), came: Arc::default(), opened: Instant::now() };
        for name in parts.list()?.iter().filter(|name| name.contains('.')) {
            parts.remove_file(name)?;
        }
        Ok(parts)
    }

    fn list(&self) -> Result<Vec<String>> {
        self.disk.list(&self.dir).map_err(|error| io("list", &self.dir, &error))
    }

    fn remove_file(&self, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        self.disk.remove(&path).map_err(|error| io("remove", &path, &error))
    }

    fn path(&self, hash: &[u8; 32]) -> PathBuf {
        self.dir.join(name(hash))
    }

    /// Whether the part is here.
    pub fn has(&self, hash: &[u8; 32]) -> bool {
        self.disk.open(&self.path(hash)).is_ok()
    }

    /// Keeps `bytes` durably; returns their hash. A part that is here already is left alone.
    pub fn put(&self, bytes: &[u8]) -> Result<[u8; 32]> {
        let hash = *blake3::hash(bytes).as_bytes();
        if !self.has(&hash) {
            let path = self.path(&hash);
            whole::replace(self.disk.as_ref(), &path, bytes).map_err(|error| io("write", &path, &error))?;
            self.came.lock().unwrap_or_else(PoisonError::into_inner).insert(name(&hash), Instant::now());
        }
        Ok(hash)
    }

    /// The verified bytes of a part.
    pub fn get(&self, hash: &[u8; 32]) -> Result<Vec<u8>> {
        let path = self.path(hash);
        let bytes = whole::read(self.disk.as_ref(), &path, PART_BYTES_MAX);
        let bytes = bytes.map_err(|error| io("read model part", &path, &error))?;
        let bytes = bytes.ok_or_else(|| Error::new(Kind::NotFound, format!("no model part {}", path.display())))?;
        match blake3::hash(&bytes).as_bytes() == hash {
            true => Ok(bytes),
            false => Err(Error::new(Kind::Corrupt, format!("model part {} does not match its name", path.display()))),
        }
    }

    /// Removes a part.
    pub fn remove(&self, hash: &[u8; 32]) -> Result<()> {
        self.remove_file(&name(hash))
    }

    /// Removes every part that `keep` does not name and that came more than `grace` ago (where it was found at the start: since then): a new
    /// one may not be in this node's catalog yet.
    pub fn retain(&self, keep: impl Fn(&str) -> bool, grace: Duration) -> Result<()> {
        for name in self.list()?.iter().filter(|name| !keep(name) && !name.contains('.')) {
            let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
            if came.get(name).unwrap_or(&self.opened).elapsed() >= grace {
                came.remove(name);
                self.remove_file(name)?;
            }
        }
        Ok(())
    }

    /// The verified bytes of a part, brought here first from whoever has it. One that is damaged here is removed: the next call brings it anew.
    pub async fn fetch(&self, hash: &[u8; 32], bytes: u64, from: &[NodeId], caller: &dyn Caller) -> Result<Vec<u8>> {
        self.pull(hash, bytes, from, caller).await?;
        let (parts, wanted) = (self.clone(), *hash);
        let read = self.threads.blocking(move || parts.get(&wanted)).await;
        let read = read.map_err(|error| Error::new(Kind::Internal, error.to_string()))?;
        if read.as_ref().is_err_and(|error| error.kind == Kind::Corrupt) {
            self.remove(hash)?;
        }
        read
    }

    async fn pull(&self, hash: &[u8; 32], bytes: u64, from: &[NodeId], caller: &dyn Caller) -> Result<()> {
        if self.has(hash) {
            return Ok(());
        }
        let mut last = Error::new(Kind::Unavailable, format!("nobody has model part {}", name(hash)));
        for &node in from {
            match self.pull_from(hash, bytes, node, caller).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn pull_from(&self, hash: &[u8; 32], length: u64, node: NodeId, caller: &dyn Caller) -> Result<()> {
        if length > PART_BYTES_MAX {
            return Err(Error::new(Kind::Invalid, format!("model part of {length} bytes; at most {PART_BYTES_MAX}")));
        }
        let body = codec::encode(&Request { hash: *hash, offset: 0 });
        let mut chunks = caller.fetch(node, Service::Parts, body, Deadline::after(STALL)).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = tokio::time::timeout(STALL, chunks.next()).await.map_err(|_| {
            Error::new(Kind::DeadlineExceeded, format!("node {node} stalled while sending a model part"))
        })? {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > length {
                return Err(Error::new(Kind::Corrupt, format!("node {node} sends more of a model part than there is")));
            }
        }
        if blake3::hash(&bytes).as_bytes() != hash {
            return Err(Error::new(
                Kind::Corrupt,
                format!("model part {} from node {node} has another hash", name(hash)),
            ));
        }
        let parts = self.clone();
        let put = self.threads.blocking(move || parts.put(&bytes));
        put.await.map_err(|error| Error::new(Kind::Internal, error.to_string()))?.map(drop)
    }
}

/// Gives parts to other nodes.
#[derive(Debug)]
pub struct PartsHandler(pub Arc<Parts>);

impl Handler for PartsHandler {
    fn fetch(&self, body: Bytes, _deadline: Deadline) -> BoxFuture<'static, Result<Chunks>> {
        let parts = self.0.clone();
        Box::pin(async move {
            let request: Request = codec::decode("a request for a model part", &body)?;
            let path = parts.path(&request.hash);
            let missing = |_| Error::new(Kind::NotFound, format!("no model part {} here", name(&request.hash)));
            let file = parts.disk.open(&path).map_err(missing)?;
            let chunks = futures::stream::try_unfold((file, request.offset), move |(file, offset)| {
                let path = path.clone();
                async move {
                    let mut chunk = vec![0; CHUNK_BYTES];
                    let read = file.read_at(&mut chunk, offset).map_err(|error| io("read", &path, &error))?;
                    chunk.truncate(read);
                    Ok((read > 0).then(|| (Bytes::from(chunk), (file, offset + read as u64))))
                }
            });
            Ok(chunks.boxed())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_runtime::disk::MemDisk;

    fn parts() -> Parts {
        let platform = Platform { disk: Arc::new(MemDisk::default()), ..Platform::real() };
        Parts::open(&platform, Path::new("/data/parts")).unwrap()
    }

    #[test]
    fn a_changed_part_is_refused() {
        let parts = parts();
        let hash = parts.put(b"rows").unwrap();
        assert_eq!(parts.get(&hash).unwrap(), b"rows");
        parts.disk.open(&parts.path(&hash)).unwrap().write_at(b"r0ws", 0).unwrap();
        assert_eq!(parts.get(&hash).unwrap_err().kind, Kind::Corrupt);
    }

    #[test]
    fn only_what_is_named_is_retained() {
        let parts = parts();
        let (kept, dropped) = (parts.put(b"a").unwrap(), parts.put(b"b").unwrap());
        let keep = name(&kept);
        parts.retain(|name| name == keep, Duration::from_secs(600)).unwrap();
        assert!(parts.has(&dropped), "a new part is spared");
        parts.retain(|name| name == keep, Duration::ZERO).unwrap();
        assert!(parts.has(&kept) && !parts.has(&dropped));
    }

    #[test]
    fn what_an_interrupted_write_left_is_removed_at_the_next_start() {
        let disk = MemDisk::default();
        let platform = Platform { disk: Arc::new(disk.clone()), ..Platform::real() };
        let dir = Path::new("/data/parts");
        let hash = Parts::open(&platform, dir).unwrap().put(b"rows").unwrap();
        disk.create(&dir.join("half.new")).unwrap();
        let parts = Parts::open(&platform, dir).unwrap();
        assert_eq!(parts.list().unwrap(), [name(&hash)]);
        parts.retain(|_| false, Duration::from_secs(600)).unwrap();
        assert!(parts.has(&hash), "what was found counts as new at the start");
    }
}
