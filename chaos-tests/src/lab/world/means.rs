//! Faults of what a process lives on: its wall clock, its processor, its memory.

use super::{Hit, LabWorld};
use crate::lab::cage::Cage;
use anyhow::{Context, Result, bail};
use docent_trial::{Applied, Fault, Member, Target};
use std::collections::BTreeSet;

impl LabWorld {
    pub(super) fn apply_means(&mut self, fault: &Fault, hit: impl Fn(&Target) -> Hit) -> Result<Applied> {
        let on = match hit(fault.target().context("nobody is named")?) {
            Ok(on) => on,
            Err(nobody) => return Ok(nobody),
        };
        match fault {
            Fault::ClockJump { ms, .. } => self.tune(&on, |settings| settings.clock_offset_ms += ms)?,
            Fault::ClockDrift { ppm, .. } => self.tune(&on, |settings| settings.clock_drift_ppm = *ppm)?,
            Fault::Cpu { percent, .. } => on.iter().try_for_each(|name| self.cage(*name)?.limit_cpu(Some(*percent)))?,
            Fault::Memory { mib, .. } => on.iter().try_for_each(|name| self.cage(*name)?.limit_memory(Some(*mib)))?,
            other => bail!("{other} is no fault of a clock, a processor or memory"),
        }
        Ok(Applied::installed(fault.to_string(), on))
    }

    /// Its cage, with the member in it.
    fn cage(&mut self, name: Member) -> Result<&Cage> {
        let member = self.member_mut(name)?;
        if member.site.cage.is_none() {
            let cage = Cage::build(&member.name)?;
            if let Some(pid) = member.pid() {
                cage.admit(pid)?;
            }
            member.site.cage = Some(cage);
        }
        member.site.cage.as_ref().with_context(|| format!("{name} has no cage"))
    }

    pub(super) fn heal_means(&mut self, on: &BTreeSet<Member>, clocks: bool, resources: bool) -> Result<()> {
        for name in on {
            if clocks && self.member(*name)?.site.shim.is_some() {
                self.tune(&[*name].into(), |settings| (settings.clock_offset_ms, settings.clock_drift_ppm) = (0, 0))?;
            }
            if let Some(cage) = self.member(*name)?.site.cage.as_ref().filter(|_| resources) {
                cage.limit_cpu(None)?;
                cage.limit_memory(None)?;
            }
        }
        Ok(())
    }
}
