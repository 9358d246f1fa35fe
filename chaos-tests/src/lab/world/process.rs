//! Faults of processes: ended, stopped, started again, robbed of their data.

use super::{Hit, LabWorld, list};
use crate::lab::disk::Loss;
use anyhow::{Context, Result, bail};
use docent_trial::history::Sight;
use docent_trial::{Applied, Fault, Member, Role, Target};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;

impl LabWorld {
    pub(super) fn apply_process(&mut self, fault: &Fault, hit: impl Fn(&Target) -> Hit) -> Result<Applied> {
        let on = match hit(fault.target().context("nobody is named")?) {
            Ok(on) => on,
            Err(nobody) => return Ok(nobody),
        };
        match fault {
            Fault::Kill(_) => self.end(&on, false),
            Fault::PowerLoss(_) => self.end(&on, true),
            Fault::Pause(_) => self.each(&on, "paused", |world, name| {
                world.paused.insert(name);
                world.member(name)?.signal(Signal::SIGSTOP)
            }),
            Fault::Continue(_) => self.each(&on, "continued", LabWorld::go_on),
            Fault::Restart(_) => self.each(&on, "restarted", LabWorld::restart),
            Fault::Wipe(_) => self.wipe(&on),
            other => bail!("{other} is no fault of a process"),
        }
    }

    /// One after another, those that run; told with their process ids.
    fn each(
        &mut self,
        on: &BTreeSet<Member>,
        what: &str,
        act: impl Fn(&mut LabWorld, Member) -> Result<()>,
    ) -> Result<Applied> {
        let mut told = Vec::new();
        for name in on {
            act(self, *name).with_context(|| name.to_string())?;
            let pid = self.member(*name)?.pid().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            told.push(format!("{name}{pid}"));
        }
        Ok(Applied::installed(format!("{what} {}", told.join(", ")), on.iter().copied()))
    }

    /// All at once: a cluster that loses its power does so everywhere before anybody comes back.
    pub(super) fn end(&mut self, on: &BTreeSet<Member>, is_power_lost: bool) -> Result<Applied> {
        let mut loss = Loss::default();
        for name in on {
            // All are hit before the first is waited for.
            if let Ok(member) = self.member(*name) {
                let _gone = member.signal(Signal::SIGKILL);
            }
        }
        for name in on {
            self.member_mut(*name)?.kill()?;
            self.paused.remove(name);
        }
        for name in on {
            let is_torn = self.tearing.remove(name);
            if self.forgetful.remove(name) || is_torn || is_power_lost {
                let disk =
                    self.member(*name)?.site.disk.as_ref().with_context(|| format!("{name} has no disk of its own"))?;
                loss += disk.lose_power(is_torn)?;
            }
        }
        self.watch.saw(Sight::LostUnsyncedWrites, loss.files);
        self.watch.saw(Sight::TornWrites, loss.torn);
        let told = match (is_power_lost || loss != Loss::default(), loss) {
            (false, _) => format!("killed {}", list(on)),
            (true, Loss { files, torn: 0 }) => {
                format!("{} lost power; {files} files lost what was not synced", list(on))
            }
            (true, Loss { files, torn }) => {
                format!("{} lost power; {files} files lost writes, {torn} were torn", list(on))
            }
        };
        Ok(Applied::installed(told, on.iter().copied()))
    }

    pub(super) fn go_on(&mut self, name: Member) -> Result<()> {
        if self.paused.remove(&name) && self.member(name)?.pid().is_some() {
            self.member(name)?.signal(Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// A dead one starts; a living one ends in order before.
    pub(super) fn restart(&mut self, name: Member) -> Result<()> {
        self.go_on(name)?;
        let member = self.member_mut(name)?;
        member.ended()?;
        if member.pid().is_some() {
            member.terminate()?;
        }
        member.start()?;
        self.watch.saw(Sight::Restarts, 1);
        Ok(())
    }

    fn wipe(&mut self, on: &BTreeSet<Member>) -> Result<Applied> {
        if let Some(coordinator) = on.iter().find(|name| name.role == Role::Coordinator) {
            return Ok(Applied::skipped(format!("docent cannot replace {coordinator} yet: coordinators are fixed")));
        }
        self.each(on, "wiped", |world, name| {
            world.member_mut(name)?.kill()?;
            world.paused.remove(&name);
            world.lab.wipe_node(name.number as usize - 1)?;
            world.member_mut(name)?.start()
        })
    }

    pub(super) fn heal_processes(&mut self, on: &BTreeSet<Member>) -> Result<()> {
        for name in on {
            self.go_on(*name)?;
            self.member_mut(*name)?.ended()?;
            if self.member(*name)?.pid().is_none() && !self.watch.is_removed(*name) {
                self.restart(*name)?;
            }
        }
        Ok(())
    }
}
