//! What is wrong with a process's wall clock and its syncs, told to the library that is preloaded into it (`shim/shim.c`).

use crate::lab::tool::{self, text};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Input and output error, as `errno` has it.
const EIO: i64 = 5;

/// Bytes of `struct controls`, and where in it the library counts syncs that it let fail.
const BYTES: u64 = 48;
const FAILED_AT: u64 = 40;

/// What the library of one process obeys, from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Added to the wall clock.
    pub clock_offset_ms: i64,
    /// Millionths by which it runs faster, or slower.
    pub clock_drift_ppm: i32,
    /// Added to each sync.
    pub sync_delay_ms: u32,
    /// Whether syncs fail with EIO.
    pub syncs_fail: bool,
}

/// The library for one process, and the file that it reads.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    controls: PathBuf,
    settings: Settings,
    /// When the clock began to drift as it does, in nanoseconds of the monotonic clock.
    drift_from_ns: i64,
}

/// Why nothing can be preloaded here; `None` where it can.
pub fn why_not() -> Option<String> {
    let tried = tempfile::tempdir().map_err(anyhow::Error::from).and_then(|dir| {
        let mut shim = Shim::build(dir.path(), "probe")?;
        shim.set(Settings { clock_offset_ms: -1_000_000_000_000, ..Settings::default() })?;
        let mut date = Command::new("date");
        shim.equip(&mut date);
        let year: i32 = String::from_utf8(date.arg("+%Y").output()?.stdout)?.trim().parse()?;
        // 10^12 ms are 31.7 years.
        ensure!(year < 2010, "the preloaded library does not reach the clock");
        Ok(())
    });
    tried.err().map(|error| format!("{error:#}"))
}

impl Shim {
    /// Compiles the library into `dir`, where it also keeps the controls of `name`.
    pub fn build(dir: &Path, name: &str) -> Result<Shim> {
        let library = tool::SHIM.build(dir)?;
        let mut shim = Shim {
            library,
            controls: dir.join(format!("{name}.controls")),
            settings: Settings::default(),
            drift_from_ns: 0,
        };
        text(&shim.controls)?;
        File::create(&shim.controls)?.set_len(BYTES)?;
        shim.set(Settings::default())?;
        Ok(shim)
    }

    /// Lets a command's process obey.
    pub fn equip(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("DOCENT_SHIM", &self.controls);
    }

    /// What is wrong now.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Syncs that failed because they were told to.
    pub fn syncs_failed(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        File::open(&self.controls)?.read_exact_at(&mut bytes, FAILED_AT)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// From now on this is wrong, and nothing else; also for a process that starts later. Another drift begins at the true time.
    pub fn set(&mut self, settings: Settings) -> Result<()> {
        if settings.clock_drift_ppm != self.settings.clock_drift_ppm {
            // What the monotonic clock shows, to 10 ms: the kernel counts both from its start.
            let uptime = std::fs::read_to_string("/proc/uptime")?;
            let seconds: f64 = uptime.split(' ').next().context("/proc/uptime is empty")?.parse()?;
            self.drift_from_ns = (seconds * 1e9) as i64;
        }
        // As `struct controls` has them.
        let words = [
            settings.clock_offset_ms * 1_000_000,
            i64::from(settings.clock_drift_ppm),
            self.drift_from_ns,
            i64::from(settings.sync_delay_ms) * 1_000,
            if settings.syncs_fail { EIO } else { 0 },
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let file = File::options().write(true).open(&self.controls);
        file.and_then(|file| file.write_all_at(&bytes, 0)).with_context(|| format!("{}", self.controls.display()))?;
        self.settings = settings;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_the_clock_and_meets_the_sync_that_it_was_told_to() {
        if let Some(why) = why_not() {
            println!("SKIPPED: {why}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut shim = Shim::build(dir.path(), "dd").unwrap();
        let written = |shim: &Shim| {
            let mut dd = Command::new("dd");
            shim.equip(&mut dd);
            let to = format!("of={}", dir.path().join("x").display());
            dd.args(["if=/dev/zero", &to, "bs=512", "count=1", "conv=fsync"]).output().unwrap().status.success()
        };
        assert!(written(&shim));
        shim.set(Settings { syncs_fail: true, ..Settings::default() }).unwrap();
        assert!(!written(&shim), "dd says so when its sync fails");
        assert_eq!(shim.syncs_failed().unwrap(), 1);
        shim.set(Settings::default()).unwrap();
        assert!(written(&shim));
    }
}
