//! One process of a named cluster: ended, paused and started by the engineer's commands, or by its process id on this machine.

use crate::drill::file::{Cluster, Commands, Named};
use anyhow::{Context, Result, bail, ensure};
use docent_trial::Member;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between looks at a process that is to end.
const POLL: Duration = Duration::from_millis(20);

/// What we did to it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runs,
    Dead,
    Paused,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Whose.
    pub member: Member,
    named: Named,
    cluster: Cluster,
    state: State,
    timeout: Duration,
}

impl Process {
    /// That of a member, which runs.
    pub fn of(cluster: &Cluster, named: &Named) -> Process {
        let timeout = Duration::from_millis(cluster.command_timeout_ms);
        Process { member: named.name, named: named.clone(), cluster: cluster.clone(), state: State::Runs, timeout }
    }

    /// Whether it runs, as far as we did not end or pause it.
    pub fn is_up(&self) -> bool {
        self.state == State::Runs
    }

    /// Whether there is a way to kill it.
    pub fn can_kill(&self) -> bool {
        self.has(|commands| &commands.kill)
    }

    /// Whether there is a way to end it in order.
    pub fn can_stop(&self) -> bool {
        self.has(|commands| &commands.stop)
    }

    /// Whether there is a way to pause it and to let it go on.
    pub fn can_pause(&self) -> bool {
        self.has(|commands| &commands.pause) && self.has(|commands| &commands.resume)
    }

    /// Whether there is a way to start it.
    pub fn can_start(&self) -> bool {
        self.cluster.command(&self.named, |commands| &commands.start).is_some()
    }

    fn has(&self, pick: fn(&Commands) -> &Option<String>) -> bool {
        self.named.pid_file.is_some() || self.cluster.command(&self.named, pick).is_some()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// The command failed, or the process is still there.
    pub fn kill(&mut self) -> Result<String> {
        let pid = self.named.pid().ok();
        self.signal(|commands| &commands.kill, Signal::SIGKILL)?;
        self.state = State::Dead;
        self.await_end(pid)?;
        Ok(format!("killed {}", self.told(pid)))
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// As [`Process::kill`].
    pub fn pause(&mut self) -> Result<String> {
        self.signal(|commands| &commands.pause, Signal::SIGSTOP)?;
        self.state = State::Paused;
        Ok(format!("paused {}", self.told(self.named.pid().ok())))
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// As [`Process::kill`].
    pub fn resume(&mut self) -> Result<String> {
        self.signal(|commands| &commands.resume, Signal::SIGCONT)?;
        self.state = State::Runs;
        Ok(format!("resumed {}", self.told(self.named.pid().ok())))
    }

    /// Starts a dead one; ends a living one in order before.
    ///
    /// # Errors
    /// As [`Process::kill`].
    pub fn restart(&mut self) -> Result<String> {
        if self.state == State::Paused {
            self.resume()?;
        }
        if self.state == State::Runs {
            let pid = self.named.pid().ok();
            self.signal(|commands| &commands.stop, Signal::SIGTERM)?;
            self.state = State::Dead;
            self.await_end(pid)?;
        }
        let start =
            self.cluster.command(&self.named, |commands| &commands.start).context("there is no `start` command")?;
        self.shell(&start)?;
        self.state = State::Runs;
        Ok(format!("started {}", self.told(self.named.pid().ok())))
    }

    /// What it takes that it runs again; `None` where nothing did. One that ended by itself is started too, where that can be seen.
    ///
    /// # Errors
    /// As [`Process::kill`].
    pub fn heal(&mut self) -> Result<Option<String>> {
        if self.state == State::Runs && self.has_ended() {
            self.state = State::Dead;
        }
        match self.state {
            State::Runs => Ok(None),
            State::Paused => self.resume().map(Some),
            State::Dead => self.restart().map(Some),
        }
    }

    /// Whether it is gone for certain.
    fn has_ended(&self) -> bool {
        if let Some(command) = self.cluster.command(&self.named, |commands| &commands.is_running) {
            return self.shell(&command).is_err();
        }
        self.named.pid().is_ok_and(|pid| !is_alive(pid))
    }

    fn signal(&self, pick: fn(&Commands) -> &Option<String>, signal: Signal) -> Result<()> {
        match self.cluster.command(&self.named, pick) {
            Some(command) => self.shell(&command),
            None => {
                let pid = self.named.pid()?;
                match kill(Pid::from_raw(pid), signal) {
                    Err(Errno::ESRCH) if signal == Signal::SIGKILL => Ok(()), // it is gone already
                    other => other.with_context(|| format!("{signal} to process {pid}")),
                }
            }
        }
    }

    /// Waits for the end of a process of this machine; of others their commands tell.
    fn await_end(&self, pid: Option<i32>) -> Result<()> {
        let start = Instant::now();
        while pid.is_some_and(is_alive) {
            ensure!(start.elapsed() < self.timeout, "it still runs after {:?}", self.timeout);
            std::thread::sleep(POLL); // between looks at another process
        }
        Ok(())
    }

    fn told(&self, pid: Option<i32>) -> String {
        pid.map_or_else(|| self.member.to_string(), |pid| format!("{} (pid {pid})", self.member))
    }

    /// Runs a command with nothing to read; its output is told where it fails.
    fn shell(&self, command: &str) -> Result<()> {
        let file = tempfile::tempfile()?;
        // A file and not a pipe: a process that the command leaves behind would keep a pipe open.
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file.try_clone()?)
            .spawn()
            .with_context(|| format!("`{command}` does not start"))?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "`{command}` ended with {status}: {}", said(file).trim());
                return Ok(());
            }
            if start.elapsed() > self.timeout {
                child.kill().and_then(|()| child.wait())?;
                bail!("`{command}` did not end in {:?}", self.timeout);
            }
            std::thread::sleep(POLL); // between looks at another process
        }
    }
}

fn said(mut file: std::fs::File) -> String {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    // What it said is only for the error that is told anyway.
    let _unread = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).chars().take(500).collect()
}

/// Whether a process of this machine runs; one that nobody has waited for has ended.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X'])))
}
