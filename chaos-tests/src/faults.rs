//! Faults of one node's disk, as the operating system would show them: syncs that fail, a file system that runs full, bytes that change.
//! What a machine does not allow (tracing, mounting) is told as a reason, so that a test can skip by name.

use crate::lab::Member;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Between polls of another process.
const POLL: Duration = Duration::from_millis(20);

/// Every sync of a running process fails with EIO, by `strace`, until this is dropped or the process ends.
#[derive(Debug)]
pub struct FailingSyncs {
    tracer: Child,
    trace: PathBuf,
}

/// Why syncs cannot be made to fail here; `None` where they can.
pub fn why_no_tracing() -> Option<String> {
    let mut subject = Command::new("sleep").arg("30").spawn().ok()?;
    let tried = Command::new("strace")
        .args(["-e", "trace=fsync", "-o", "/dev/null", "-p", &subject.id().to_string()])
        .stderr(Stdio::piped())
        .spawn();
    let why = match tried {
        Err(error) => Some(format!("strace does not start ({error}): install it")),
        Ok(mut tracer) => match attached(&mut tracer, subject.id()) {
            Ok(()) => None,
            Err(error) => Some(format!("strace may not trace here: {error:#}")),
        },
    };
    // A sleep that is gone already is what we want.
    let _gone = subject.kill().and_then(|()| subject.wait());
    why
}

/// Waits until `tracer` has hold of the process.
fn attached(tracer: &mut Child, pid: u32) -> Result<()> {
    let start = Instant::now();
    loop {
        if let Some(status) = tracer.try_wait()? {
            bail!("strace ended with {status}");
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let traced = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(str::trim);
        if traced == Some(tracer.id().to_string().as_str()) {
            return Ok(());
        }
        ensure!(start.elapsed() < Duration::from_secs(10), "strace did not attach");
        std::thread::sleep(POLL);
    }
}

impl FailingSyncs {
    /// From now on every `fsync` and `fdatasync` of the process fails. What it tried is written to `trace`.
    pub fn of(pid: i32, trace: PathBuf) -> Result<FailingSyncs> {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-o"]);
        let mut tracer = command.arg(&trace).args(["-p", &pid.to_string()]).stderr(Stdio::null()).spawn()?;
        attached(&mut tracer, u32::try_from(pid)?)?;
        Ok(FailingSyncs { tracer, trace })
    }

    /// The files whose sync was tried and failed, in order; one that was tried again is there again.
    pub fn failed(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.trace)?;
        let file = |line: &str| Some(line.split_once("sync(")?.1.split_once('<')?.1.split_once('>')?.0.to_owned());
        Ok(text.lines().filter_map(file).collect())
    }
}

impl Drop for FailingSyncs {
    fn drop(&mut self) {
        // It ends with the process that it traces; otherwise it is ended here.
        let _gone = self.tracer.kill().and_then(|()| self.tracer.wait());
    }
}

/// A small file system of its own over a directory, until this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    dir: PathBuf,
}

/// Why no file system can be mounted here; `None` where one can.
pub fn why_no_mounting() -> Option<String> {
    let dir = tempfile::tempdir().ok()?;
    SmallDisk::over(dir.path(), 1 << 20).err().map(|error| format!("no tmpfs can be mounted (root can): {error:#}"))
}

impl SmallDisk {
    /// Mounts a tmpfs of `bytes` over `dir`, with what lay there on it. Nobody may use the directory meanwhile.
    pub fn over(dir: &Path, bytes: u64) -> Result<SmallDisk> {
        let before = dir.with_extension("before");
        fs::rename(dir, &before)?;
        fs::create_dir(dir)?;
        let size = format!("size={bytes},mode=0700");
        let mounted = tool(
            "mount",
            &["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "none".as_ref(), dir.as_ref()],
        );
        if let Err(error) = mounted {
            fs::remove_dir(dir)?;
            fs::rename(&before, dir)?;
            return Err(error);
        }
        let disk = SmallDisk { dir: dir.to_owned() };
        let all = before.join(".");
        tool("cp", &["-a".as_ref(), all.as_ref(), dir.as_ref()])?;
        fs::remove_dir_all(&before)?;
        Ok(disk)
    }

    /// Bytes that a process may still write.
    pub fn free(&self) -> Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)?;
        Ok(stat.blocks_available() * stat.fragment_size())
    }

    /// Somebody else's file takes all room but `left` bytes, a little at a time.
    pub fn fill_but(&self, left: u64) -> Result<()> {
        let file = File::options().create(true).append(true).open(self.filler())?;
        let zeros = vec![0; 64 << 10];
        let mut length = file.metadata()?.len();
        loop {
            let over = usize::try_from(self.free()?.saturating_sub(left))?.min(zeros.len());
            match file.write_at(&zeros[..over], length) {
                Ok(0) => return Ok(()),
                Ok(written) => length += written as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// That file goes.
    pub fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("filler-of-somebody-else")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that a failed test left running lets go of it when it ends.
        let _unmounted = tool("umount", &["-l".as_ref(), self.dir.as_ref()]);
    }
}

fn tool(name: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let output = Command::new(name).args(arguments).output().with_context(|| format!("{name} does not start"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Waits until a member has ended by itself; how it did.
pub fn end_of(member: &mut Member, within: Duration) -> Result<ExitStatus> {
    let pid = member.pid().context("not running")?;
    let start = Instant::now();
    while !is_zombie(pid)? {
        ensure!(start.elapsed() < within, "{} still runs after {within:?}:\n{}", member.name, member.tail(20));
        std::thread::sleep(POLL);
    }
    // Its signal reaches nobody any more: this only collects the status.
    member.terminate()
}

fn is_zombie(pid: i32) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
}

/// Files under `dir` whose names end in `suffix`, by name.
pub fn files(dir: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, suffix)?);
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Flips bits of `count` bytes from `offset` on.
pub fn flip(path: &Path, offset: u64, count: usize) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset)?;
    bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
    Ok(file.write_all_at(&bytes, offset)?)
}

/// Cuts a file off.
pub fn cut(path: &Path, length: u64) -> Result<()> {
    Ok(File::options().write(true).open(path)?.set_len(length)?)
}

/// Where the bytes of a file that are not zero end: a journal keeps zeros ahead of its writer.
pub fn written(path: &Path) -> Result<u64> {
    let bytes = fs::read(path)?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_flipped_and_found_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a").join("x.part");
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(&path, [1, 2, 3, 0, 0]).unwrap();
        assert_eq!((files(dir.path(), ".part").unwrap(), written(&path).unwrap()), (vec![path.clone()], 3));
        flip(&path, 1, 1).unwrap();
        cut(&path, 2).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [1, 2 ^ 0x5a]);
    }
}
