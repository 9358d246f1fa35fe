//! One process of a lab, and what it stands on: a namespace, a disk, a preloaded library, a cage, each where the lab has it.

use crate::lab::cage::Cage;
use crate::lab::disk::Disk;
use crate::lab::net::Home;
use crate::lab::shim::Shim;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a process stands on beside its directory.
#[derive(Debug, Default)]
pub struct Site {
    /// Its network.
    pub home: Option<Home>,
    /// Its disk.
    pub disk: Option<Disk>,
    /// Its clock and its syncs.
    pub shim: Option<Shim>,
    /// Its processor and its memory.
    pub cage: Option<Cage>,
}

/// A process of a lab.
#[derive(Debug)]
pub struct Member {
    /// `coordinator-1`, `node-1`, ...
    pub name: String,
    pub(super) kind: &'static str,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    pub(super) child: Option<Child>,
    /// What its next start runs.
    pub binary: PathBuf,
    /// Where clients reach it; empty for a coordinator.
    pub query_addr: String,
    /// What it writes.
    pub data: PathBuf,
    /// What it stands on.
    pub site: Site,
}

impl Member {
    /// Its settings are on disk; it does not run.
    pub(super) fn write(
        dir: &Path,
        (name, kind): (String, &'static str),
        text: &str,
        binary: PathBuf,
        (query_addr, data, site): (String, PathBuf, Site),
    ) -> Result<Member> {
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, text)?;
        let log = dir.join(format!("{name}.log"));
        Ok(Member { name, kind, config, log, child: None, binary, query_addr, data, site })
    }

    /// Starts the process. It ends with the *thread* that called this: call it from one that lives as long as the lab.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut words = self.site.home.as_ref().map(Home::wrap).unwrap_or_default();
        words.push(self.binary.to_str().context("the binary's path is not UTF-8")?.to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(self.kind).arg("--config").arg(&self.config).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).env("DOCENT_PARENT_PID", std::process::id().to_string());
        if let Some(shim) = &self.site.shim {
            shim.equip(&mut command);
        }
        self.child = Some(command.spawn().with_context(|| format!("{} does not start", words[0]))?);
        match (&self.site.cage, self.pid()) {
            (Some(cage), Some(pid)) => cage.admit(pid),
            _ => Ok(()),
        }
    }

    /// Its process id while it runs. The process was not waited for, so the id is nobody else's.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        let mut child = self.child.take().context("not running")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        Ok(child.wait()?)
    }

    /// How it ended by itself, once; `None` while it runs or where it was ended.
    pub fn ended(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().context("not running")?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A process that is gone already is what we want.
        let _gone = self.kill();
    }
}
