//! The processes of a local cluster: our own executable as `docent coordinator` and `docent node`.
//!
//! Nobody is left behind: a child asks the kernel to be terminated when its parent dies (see [`follow_parent`]), whatever the parent
//! dies of; and children are killed when their handle is dropped.

use crate::failure::{Failure, Result};
use crate::local::layout::{Kind, Layout, Member};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

/// Tells a child whose child it is.
pub const PARENT_PID: &str = "DOCENT_PARENT_PID";
/// The part of a dead child's log that is shown.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 16 << 10;

/// Run by a child before anything else, while it has one thread: it gets SIGTERM when the thread that started it ends (`up` starts
/// its children from its main thread). The second look is for a parent that died in between.
pub fn follow_parent() -> Result<()> {
    let Ok(parent) = std::env::var(PARENT_PID) else { return Ok(()) };
    let failed = |why: String| Failure::failed(format!("cannot follow the parent process {parent}: {why}"));
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(|error| failed(error.to_string()))?;
    match parent.parse::<i32>() {
        Ok(pid) if Pid::parent().as_raw() == pid => Ok(()),
        _ => Err(failed("it is gone".to_owned())),
    }
}

/// A process that ended.
#[derive(Debug)]
pub struct Ended {
    /// Which.
    pub member: Member,
    /// How.
    pub status: std::io::Result<ExitStatus>,
}

impl Ended {
    /// `node-2 (pid ended with exit status: 1)`.
    pub fn describe(&self) -> String {
        match &self.status {
            Ok(status) => format!("{} ended: {status}", self.member.name()),
            Err(error) => format!("{} is lost: {error}", self.member.name()),
        }
    }
}

/// The running processes.
pub struct Children {
    waits: FuturesUnordered<BoxFuture<'static, Ended>>,
    alive: BTreeMap<Member, Pid>,
}

impl Children {
    /// Starts every member of `layout`. To be called on the process's main thread: see [`follow_parent`].
    pub fn start(layout: &Layout) -> Result<Children> {
        free_ports(layout)?;
        let mut children = Children { waits: FuturesUnordered::new(), alive: BTreeMap::new() };
        for member in layout.members() {
            children.spawn(layout, member)?;
        }
        Ok(children)
    }

    fn spawn(&mut self, layout: &Layout, member: Member) -> Result<()> {
        let path = layout.log(member);
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let log = log.map_err(|error| Failure::io("write", &path, &error))?;
        let failed = |error: std::io::Error| Failure::failed(format!("cannot start {}: {error}", member.name()));
        let mut child = tokio::process::Command::new(std::env::current_exe().map_err(failed)?)
            .arg(member.kind.command())
            .arg("--config")
            .arg(layout.config(member))
            .env(PARENT_PID, std::process::id().to_string())
            .current_dir(&layout.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            self.alive.insert(member, Pid::from_raw(pid));
        }
        self.waits.push(async move { Ended { member, status: child.wait().await } }.boxed());
        Ok(())
    }

    /// The processes that run.
    pub fn alive(&self) -> &BTreeMap<Member, Pid> {
        &self.alive
    }

    /// The next process that ends; none when all have. Nothing is lost if the future is dropped.
    pub async fn next_ended(&mut self) -> Option<Ended> {
        let ended = self.waits.next().await?;
        self.alive.remove(&ended.member);
        Some(ended)
    }

    /// Stops all: SIGTERM to the nodes, then to the coordinators, SIGKILL to what is left of each after `within`.
    pub async fn stop(&mut self, within: Duration) {
        for kind in [Kind::Node, Kind::Coordinator] {
            for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                self.signal(kind, signal);
                // The outcome is in `alive`; after SIGKILL the kernel leaves no choice.
                let _ = tokio::time::timeout(within, self.ended_all(kind)).await;
            }
        }
    }

    async fn ended_all(&mut self, kind: Kind) {
        while self.alive.keys().any(|member| member.kind == kind) && self.next_ended().await.is_some() {}
    }

    fn signal(&self, kind: Kind, signal: Signal) {
        for (_, pid) in self.alive.iter().filter(|(member, _)| member.kind == kind) {
            // Not yet waited for, so the pid is still its own; a process that has just ended is fine.
            let _ = kill(*pid, signal);
        }
    }
}

/// Refuses before anything starts if a port is taken: six logs with the same complaint help nobody.
fn free_ports(layout: &Layout) -> Result<()> {
    for member in layout.members() {
        let (internal, query) = layout.addrs(member);
        for addr in [internal, query].iter().filter(|addr| !addr.is_empty()) {
            if let Err(error) = std::net::TcpListener::bind(addr) {
                return Err(Failure::failed(format!("{} cannot listen on {addr}: {error}", member.name()))
                    .advise("stop what uses the port, or make a cluster elsewhere: --data-dir D --base-port P"));
            }
        }
    }
    Ok(())
}

/// The end of a member's log, indented.
pub fn log_tail(layout: &Layout, member: Member) -> String {
    let path = layout.log(member);
    let read = || -> std::io::Result<String> {
        let mut file = File::open(&path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_else(|error| format!("(cannot be read: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    let tail: String =
        lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| format!("    {line}\n")).collect();
    format!("  end of {}:\n{tail}", path.display())
}
