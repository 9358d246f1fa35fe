//! Faults of disks: full, read-only, forgetful, slow, failing, rotten.

use super::{Hit, LabWorld};
use crate::faults::{files, flip};
use crate::lab;
use crate::lab::disk::Disk;
use anyhow::{Context, Result, bail};
use docent_trial::{Applied, Fault, Member, Target};
use std::collections::BTreeSet;

impl LabWorld {
    pub(super) fn apply_disk(&mut self, fault: &Fault, seed: u64, hit: impl Fn(&Target) -> Hit) -> Result<Applied> {
        let on = match hit(fault.target().context("nobody is named")?) {
            Ok(on) => on,
            Err(nobody) => return Ok(nobody),
        };
        match fault {
            Fault::DiskFull(_) => on.iter().try_for_each(|name| disk(self.member(*name)?)?.fill())?,
            Fault::DiskReadOnly(_) => on.iter().try_for_each(|name| disk(self.member(*name)?)?.fail_read_only())?,
            Fault::LostWrites(_) => self.forgetful.extend(&on),
            Fault::TornWrite(_) => self.tearing.extend(&on),
            Fault::SyncError(_) => self.tune(&on, |settings| settings.syncs_fail = true)?,
            Fault::SlowSync { ms, .. } => self.tune(&on, |settings| settings.sync_delay_ms = *ms)?,
            Fault::BitRot { bits, .. } => return self.rot(on, *bits, seed),
            other => bail!("{other} is no fault of a disk"),
        }
        Ok(Applied::installed(fault.to_string(), on))
    }

    /// Changes what is wrong with the clocks and syncs of these.
    pub(super) fn tune(&mut self, on: &BTreeSet<Member>, change: impl Fn(&mut lab::shim::Settings)) -> Result<()> {
        for name in on {
            let shim = self.member_mut(*name)?.site.shim.as_mut();
            let shim = shim.with_context(|| format!("nothing is preloaded into {name}"))?;
            let mut settings = shim.settings();
            change(&mut settings);
            shim.set(settings)?;
        }
        Ok(())
    }

    /// One byte a bit, of files drawn with the seed.
    fn rot(&mut self, on: BTreeSet<Member>, bits: u32, seed: u64) -> Result<Applied> {
        let mut told = Vec::new();
        for name in &on {
            let mut kept = files(&self.member(*name)?.data, "")?;
            kept.retain(|path| path.metadata().is_ok_and(|meta| meta.len() > 0));
            if kept.is_empty() {
                return Ok(Applied::skipped(format!("{name} has no files that could rot")));
            }
            for bit in 0..bits as usize {
                // Fibonacci hashing: spread, and the same in every run of a seed.
                let drawn = seed.wrapping_add(bit as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
                let path = &kept[drawn as usize % kept.len()];
                let offset = drawn % path.metadata()?.len();
                flip(path, offset, 1)?;
                told.push(format!("{} of {name} at {offset}", path.file_name().unwrap_or_default().to_string_lossy()));
            }
        }
        Ok(Applied::installed(format!("rotten: {}", told.join(", ")), on))
    }

    /// What is read-only can be repaired only while nobody uses it: who runs there is ended and started again.
    pub(super) fn heal_disks(&mut self, on: &BTreeSet<Member>) -> Result<()> {
        for name in on {
            self.forgetful.remove(name);
            self.tearing.remove(name);
            let member = self.member_mut(*name)?;
            let has_run = member.pid().is_some();
            if let Some(disk) = &member.site.disk
                && disk.is_read_only()
            {
                member.kill()?;
                disk_of(&member.site)?.repair()?;
                if has_run {
                    self.restart(*name)?;
                }
            }
            let member = self.member(*name)?;
            member.site.disk.as_ref().map_or(Ok(()), Disk::clear)?;
            if member.site.shim.is_some() {
                self.tune(&[*name].into(), |settings| (settings.syncs_fail, settings.sync_delay_ms) = (false, 0))?;
            }
        }
        Ok(())
    }
}

fn disk(member: &lab::Member) -> Result<&Disk> {
    disk_of(&member.site).with_context(|| member.name.clone())
}

fn disk_of(site: &lab::Site) -> Result<&Disk> {
    site.disk.as_ref().context("it has no disk of its own")
}
