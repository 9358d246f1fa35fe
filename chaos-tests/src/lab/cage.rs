//! How much processor and memory a member may use: control groups of our own, below the group that we run in (version 1), or below the
//! root (version 2). They are removed with this value; what a killed run left is empty by then and removed by [`sweep`].

use crate::lab::tool::{self, lives};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Before the process id in the name of a group.
const PREFIX: &str = "docent-lab-";
const ROOT: &str = "/sys/fs/cgroup";
/// The scheduler's period, in microseconds: what both versions have by default.
const PERIOD_US: u64 = 100_000;
const CONTROLLERS: [&str; 2] = ["cpu", "memory"];

/// The groups of one member: one directory a controller (version 1), or one for all (version 2).
#[derive(Debug)]
pub struct Cage {
    cpu: PathBuf,
    memory: PathBuf,
    is_unified: bool,
}

/// Why there can be no groups of our own here; `None` where there can.
pub fn why_not() -> Option<String> {
    if !tool::is_root() {
        return Some("control groups need root".to_owned());
    }
    let tried = Cage::build("probe").and_then(|cage| cage.limit_cpu(Some(50)));
    tried.err().map(|error| format!("{error:#}"))
}

fn is_unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The directory below which groups for `controller` go.
fn parent(controller: &str) -> Result<PathBuf> {
    if is_unified() {
        let offered = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))?;
        if !offered.split_whitespace().any(|name| name == controller) {
            bail!("the machine's control groups do not offer {controller}");
        }
        return Ok(PathBuf::from(ROOT));
    }
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let is_it = fields.next()?.split(',').any(|name| name == controller);
        is_it.then(|| fields.next().map(str::to_owned))?
    };
    let path = own.lines().find_map(of).with_context(|| format!("there is no control group for {controller}"))?;
    Ok(Path::new(ROOT).join(controller).join(path.trim_start_matches('/')))
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}

impl Cage {
    /// Groups without limits; nobody is in them yet.
    pub fn build(name: &str) -> Result<Cage> {
        sweep();
        let own = format!("{PREFIX}{}-{name}-{}", std::process::id(), tool::serial());
        let [cpu, memory] = CONTROLLERS.map(|controller| {
            let dir = parent(controller)?.join(&own);
            fs::create_dir_all(&dir).with_context(|| format!("cannot create the control group {}", dir.display()))?;
            Ok::<_, anyhow::Error>(dir)
        });
        let cage = Cage { cpu: cpu?, memory: memory?, is_unified: is_unified() };
        if cage.is_unified {
            write(&Path::new(ROOT).join("cgroup.subtree_control"), "+cpu +memory")?;
        }
        Ok(cage)
    }

    /// A process and all of its threads move in.
    pub fn admit(&self, pid: i32) -> Result<()> {
        [&self.cpu, &self.memory].iter().try_for_each(|dir| write(&dir.join("cgroup.procs"), &pid.to_string()))
    }

    /// So much of one processor; all of them without a number.
    pub fn limit_cpu(&self, percent: Option<u8>) -> Result<()> {
        let quota = percent.map(|percent| PERIOD_US * u64::from(percent.max(1)) / 100);
        if self.is_unified {
            let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            return write(&self.cpu.join("cpu.max"), &format!("{quota} {PERIOD_US}"));
        }
        write(&self.cpu.join("cpu.cfs_quota_us"), &quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string()))
    }

    /// So many MiB, above which the kernel ends it; as many as there are without a number.
    pub fn limit_memory(&self, mib: Option<u32>) -> Result<()> {
        let bytes = mib.map(|mib| (u64::from(mib) << 20).to_string());
        let (file, unlimited) = if self.is_unified { ("memory.max", "max") } else { ("memory.limit_in_bytes", "-1") };
        write(&self.memory.join(file), bytes.as_deref().unwrap_or(unlimited))
    }

    /// Times that a member was held back since the cage was built.
    pub fn throttled(&self) -> Result<u64> {
        let stat = fs::read_to_string(self.cpu.join("cpu.stat"))?;
        let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(count.context("cpu.stat has no nr_throttled")?.trim().parse()?)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        for dir in [&self.cpu, &self.memory] {
            // Who is still inside goes to the parent: a member outlives its cage only in a test that failed.
            let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines() {
                let _moved = dir.parent().map(|parent| fs::write(parent.join("cgroup.procs"), pid));
            }
            let _gone = fs::remove_dir(dir);
        }
    }
}

/// Groups of labs, with their processes' ids.
fn labs() -> Vec<(PathBuf, u32)> {
    let parents = CONTROLLERS.iter().filter_map(|controller| parent(controller).ok());
    let entries = parents.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let of = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()?;
        Some((entry.path(), pid))
    };
    entries.filter_map(of).collect()
}

/// Groups that carry the name of process `pid`.
pub fn left_by(pid: u32) -> Vec<PathBuf> {
    labs().into_iter().filter(|(_, owner)| *owner == pid).map(|(path, _)| path).collect()
}

/// Removes the groups of labs whose process is gone.
pub fn sweep() {
    for (path, _) in labs().into_iter().filter(|(_, pid)| !lives(*pid)) {
        // One with a process in it stays until that has ended.
        let _gone = fs::remove_dir(path);
    }
}
