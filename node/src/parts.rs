//! Model parts on disk: immutable files named by their blake3, verified whenever they come in.

use bytes::Bytes;
use docent_proto::internal::Service;
use docent_proto::internal::parts::Request;
use docent_rpc::caller::Chunks;
use docent_rpc::{Caller, Handler};
use docent_runtime::Deadline;
use docent_types::catalog::ModelPart;
use docent_types::{Error, Kind, NodeId, Result, codec};
use futures::StreamExt;
use futures::future::BoxFuture;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one chunk on the wire.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of the largest part.
const PART_BYTES_MAX: u64 = 4 << 30;
/// How long a stream of chunks may stall.
const STALL: Duration = Duration::from_secs(10);

/// The parts of one node.
#[derive(Clone, Debug)]
pub struct Parts {
    dir: PathBuf,
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
    pub fn open(dir: &Path) -> Result<Parts> {
        std::fs::create_dir_all(dir).map_err(|error| io("create", dir, &error))?;
        for entry in std::fs::read_dir(dir).map_err(|error| io("list", dir, &error))? {
            let path = entry.map_err(|error| io("list", dir, &error))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                std::fs::remove_file(&path).map_err(|error| io("remove", &path, &error))?;
            }
        }
        Ok(Parts { dir: dir.to_owned() })
    }

    fn path(&self, hash: &[u8; 32]) -> PathBuf {
        self.dir.join(name(hash))
    }

    /// Whether the part is here.
    pub fn has(&self, hash: &[u8; 32]) -> bool {
        self.path(hash).exists()
    }

    /// Keeps `bytes` durably; returns their hash. A part that is here already is left alone.
    pub fn put(&self, bytes: &[u8]) -> Result<[u8; 32]> {
        let hash = *blake3::hash(bytes).as_bytes();
        let path = self.path(&hash);
        if path.exists() {
            return Ok(hash);
        }
        let temporary = path.with_extension("tmp");
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&temporary, &path))
            .and_then(|()| File::open(&self.dir)?.sync_all());
        written.map_err(|error| io("write", &path, &error))?;
        Ok(hash)
    }

    /// The verified bytes of a part.
    pub fn get(&self, hash: &[u8; 32]) -> Result<Vec<u8>> {
        let path = self.path(hash);
        let bytes = std::fs::read(&path).map_err(|error| io("read model part", &path, &error))?;
        match blake3::hash(&bytes).as_bytes() == hash {
            true => Ok(bytes),
            false => Err(Error::new(Kind::Corrupt, format!("model part {} does not match its name", path.display()))),
        }
    }

    /// Removes a part.
    pub fn remove(&self, hash: &[u8; 32]) -> Result<()> {
        let path = self.path(hash);
        std::fs::remove_file(&path).map_err(|error| io("remove", &path, &error))
    }

    /// Removes every part that `keep` does not name and that is older than `grace`: a new one may not be in this node's catalog yet.
    pub fn retain(&self, keep: impl Fn(&str) -> bool, grace: Duration) -> Result<()> {
        for entry in std::fs::read_dir(&self.dir).map_err(|error| io("list", &self.dir, &error))? {
            let path = entry.map_err(|error| io("list", &self.dir, &error))?.path();
            let is_kept = path.file_name().and_then(|name| name.to_str()).is_some_and(&keep);
            let modified = path.metadata().and_then(|meta| meta.modified());
            // A file from the future counts as new.
            let is_new = modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < grace) || at.elapsed().is_err());
            if !is_kept && !is_new && path.extension().is_none() {
                std::fs::remove_file(&path).map_err(|error| io("remove", &path, &error))?;
            }
        }
        Ok(())
    }

    /// Brings a part here from whoever has it.
    pub async fn pull(&self, part: &ModelPart, from: &[NodeId], caller: &dyn Caller) -> Result<()> {
        if self.has(&part.hash) {
            return Ok(());
        }
        let mut last = Error::new(Kind::Unavailable, format!("nobody has model part {}", name(&part.hash)));
        for &node in from {
            match self.pull_from(part, node, caller).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn pull_from(&self, part: &ModelPart, node: NodeId, caller: &dyn Caller) -> Result<()> {
        if part.bytes > PART_BYTES_MAX {
            return Err(Error::new(
                Kind::Invalid,
                format!("model part of {} bytes; at most {PART_BYTES_MAX}", part.bytes),
            ));
        }
        let body = codec::encode(&Request { hash: part.hash, offset: 0 });
        let mut chunks = caller.fetch(node, Service::Parts, body, Deadline::after(STALL)).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = tokio::time::timeout(STALL, chunks.next()).await.map_err(|_| {
            Error::new(Kind::DeadlineExceeded, format!("node {node} stalled while sending a model part"))
        })? {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > part.bytes {
                return Err(Error::new(Kind::Corrupt, format!("node {node} sends more of a model part than there is")));
            }
        }
        if *blake3::hash(&bytes).as_bytes() != part.hash {
            return Err(Error::new(
                Kind::Corrupt,
                format!("model part {} from node {node} has another hash", name(&part.hash)),
            ));
        }
        let parts = self.clone();
        let put = tokio::task::spawn_blocking(move || parts.put(&bytes));
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
            let mut file = File::open(&path).map_err(missing)?;
            file.seek(SeekFrom::Start(request.offset)).map_err(|error| io("seek", &path, &error))?;
            let chunks = futures::stream::try_unfold(file, move |mut file| {
                let path = path.clone();
                async move {
                    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                    let read = Read::by_ref(&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
                    match read.map_err(|error| io("read", &path, &error))? {
                        0 => Ok(None),
                        _ => Ok(Some((Bytes::from(chunk), file))),
                    }
                }
            });
            Ok(chunks.boxed())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_part_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::open(dir.path()).unwrap();
        let hash = parts.put(b"rows").unwrap();
        assert_eq!(parts.get(&hash).unwrap(), b"rows");
        std::fs::write(parts.path(&hash), b"r0ws").unwrap();
        assert_eq!(parts.get(&hash).unwrap_err().kind, Kind::Corrupt);
    }

    #[test]
    fn only_what_is_named_is_retained() {
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::open(dir.path()).unwrap();
        let (kept, dropped) = (parts.put(b"a").unwrap(), parts.put(b"b").unwrap());
        let keep = name(&kept);
        parts.retain(|name| name == keep, Duration::from_secs(600)).unwrap();
        assert!(parts.has(&dropped), "a new part is spared");
        parts.retain(|name| name == keep, Duration::ZERO).unwrap();
        assert!(parts.has(&kept) && !parts.has(&dropped));
    }
}
