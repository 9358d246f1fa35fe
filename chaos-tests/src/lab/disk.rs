//! A file system of a member's own: ext4 on a loop device whose image lies in memory. It can lose power (what was neither synced nor
//! written back is gone, and the kernel's own recovery runs at the next mount), run full, and fall back to read-only.
//!
//! The kernel writes back by itself what is older than 30 s (`vm.dirty_expire_centisecs`), as on any machine: a loss reaches back so far
//! at most. The log of the file system itself is committed at each sync of any file, so that a forgotten sync of a *directory* is seldom
//! seen.

use crate::faults::files;
use crate::lab::tool::{self, lives, run, text};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Room of a member's disk, taken only where it is written.
const BYTES: u64 = 1 << 30;
/// In the name of every mount point, before the process id.
pub(crate) const PREFIX: &str = "docent-lab-";

/// A mounted file system.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    cut: PathBuf,
}

/// Images of a lab's disks, in memory: a sync costs nothing but what the member itself does.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
}

/// Why there can be no file system of our own here; `None` where there can.
pub fn why_not() -> Option<String> {
    if !tool::is_root() {
        return Some("mounting needs root".to_owned());
    }
    let tried = workshop().and_then(|dir| {
        let shelf = Shelf::build(&dir.path().join("images"))?;
        let disk = shelf.disk(dir.path(), "probe")?;
        fs::write(disk.root().join("unsynced"), "x")?;
        let loss = disk.lose_power(false)?;
        ensure!(loss.files == 1, "what was not synced is there after the power was lost");
        Ok(())
    });
    tried.err().map(|error| format!("{error:#}"))
}

/// A temporary directory whose name tells whose it is.
pub fn workshop() -> Result<tempfile::TempDir> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

impl Shelf {
    /// Mounts it at `dir`, which is created.
    pub fn build(dir: &Path) -> Result<Shelf> {
        sweep();
        fs::create_dir_all(dir)?;
        run("mount", &["-t", "tmpfs", "-o", "mode=0700", "docent-lab", text(dir)?])?;
        Ok(Shelf { dir: dir.to_owned() })
    }

    /// A new disk, mounted at `name` below `dir`.
    pub fn disk(&self, dir: &Path, name: &str) -> Result<Disk> {
        let image = self.dir.join(name);
        let at = dir.join(format!("{name}.disk"));
        let disk = Disk { image, at, cut: tool::CUT.build(&self.dir)? };
        fs::create_dir_all(&disk.at)?;
        disk.format()?;
        disk.mount()?;
        Ok(disk)
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let _gone = run("umount", &["-l", &self.dir.to_string_lossy()]);
    }
}

impl Disk {
    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.at
    }

    fn format(&self) -> Result<()> {
        File::create(&self.image)?.set_len(BYTES)?;
        let options = ["-q", "-F", "-m", "0", "-J", "size=16", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
        run("mkfs.ext4", &[&options[..], &[text(&self.image)?]].concat())?;
        Ok(())
    }

    fn mount(&self) -> Result<()> {
        // Its log is written when somebody syncs, not every five seconds; an error inside makes it read-only.
        let options = "loop,noatime,commit=600,errors=remount-ro";
        run("mount", &["-t", "ext4", "-o", options, text(&self.image)?, text(&self.at)?])?;
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        run("umount", &[text(&self.at)?])?;
        Ok(())
    }

    /// Ends it as a power cut does, and mounts it again. Nobody may use it. With `is_torn`, the journal has half of what was not synced.
    pub fn lose_power(&self, is_torn: bool) -> Result<Loss> {
        let before = Contents::of(&self.at)?;
        run(text(&self.cut)?, &[text(&self.at)?])?;
        self.unmount()?;
        self.mount()?;
        before.compare(is_torn)
    }

    /// An empty one in its place. Nobody may use it.
    pub fn replace(&self) -> Result<()> {
        self.unmount()?;
        self.format()?;
        self.mount()
    }

    /// Somebody else's file takes all room.
    pub fn fill(&self) -> Result<()> {
        let file = File::options().create(true).append(true).open(self.filler())?;
        let (mut length, mut step) = (i64::try_from(file.metadata()?.len())?, 64 << 20);
        while step >= 4096 {
            match nix::fcntl::posix_fallocate(&file, length, step) {
                Ok(()) => length += step,
                Err(nix::errno::Errno::ENOSPC) => step /= 4,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Falls back to read-only, as ext4 does when it finds an error in itself.
    pub fn fail_read_only(&self) -> Result<()> {
        let source = run("findmnt", &["-n", "-o", "SOURCE", text(&self.at)?])?;
        let device = Path::new(source.trim()).file_name().context("the disk has no device")?.to_owned();
        let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
        fs::write(&trigger, "1").with_context(|| format!("cannot write {}", trigger.display()))?;
        let probe = File::create(self.at.join("probe"));
        ensure!(
            probe.is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem),
            "it can be written still"
        );
        Ok(())
    }

    /// Whether it has fallen back to read-only.
    pub fn is_read_only(&self) -> bool {
        nix::sys::statvfs::statvfs(&self.at)
            .is_ok_and(|stat| stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
            || File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .open(self.at.join("probe"))
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem)
    }

    /// Repairs it and mounts it again. Nobody may use it.
    pub fn repair(&self) -> Result<()> {
        self.unmount()?;
        // 1: errors were found and mended.
        let checked = std::process::Command::new("fsck.ext4").args(["-p", text(&self.image)?]).output()?;
        ensure!(checked.status.code().is_some_and(|code| code <= 1), "fsck.ext4: {checked:?}");
        self.mount()
    }

    /// That file goes.
    pub fn clear(&self) -> Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler-of-somebody-else")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a member that a failed test left running lets go of it when it ends.
        let _gone = run("umount", &["-l", &self.at.to_string_lossy()]);
    }
}

/// What a loss of power took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Files that are not what their writer last saw.
    pub files: u64,
    /// Files of which half of the unsynced write is there.
    pub torn: u64,
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, more: Loss) {
        self.files += more.files;
        self.torn += more.torn;
    }
}

/// The files of a disk as their writers see them.
#[derive(Debug)]
struct Contents {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Contents {
    fn of(dir: &Path) -> Result<Contents> {
        let read = |path: PathBuf| Ok((path.clone(), fs::read(&path).with_context(|| path.display().to_string())?));
        Ok(Contents { files: files(dir, "")?.into_iter().map(read).collect::<Result<_>>()? })
    }

    /// After the power came back. A crash in the middle of a write leaves its first half: a torn file gets it.
    fn compare(self, is_torn: bool) -> Result<Loss> {
        let mut loss = Loss::default();
        for (path, written) in self.files {
            let kept = fs::read(&path).unwrap_or_default();
            loss.files += u64::from(kept != written);
            if is_torn && path.extension().is_some_and(|suffix| suffix == "journal") && tear(&path, &written, &kept)? {
                loss.torn += 1;
            }
        }
        Ok(loss)
    }
}

/// Writes the first half of what differs; whether anything did.
fn tear(path: &Path, written: &[u8], kept: &[u8]) -> Result<bool> {
    let differs = |(at, byte): (usize, &u8)| (kept.get(at) != Some(byte)).then_some(at);
    let mut places = written.iter().enumerate().filter_map(differs);
    let Some(first) = places.next().filter(|_| !kept.is_empty()) else { return Ok(false) };
    let last = places.next_back().unwrap_or(first);
    let half = (last + 1 - first).div_ceil(2);
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&written[first..first + half], first as u64)?;
    file.sync_all()?;
    Ok(true)
}

/// Mount points of labs, innermost first, with their processes' ids.
fn mounts() -> Vec<(String, u32)> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of = |line: &str| {
        let at = line.split(' ').nth(1)?;
        let pid = at.split(PREFIX).nth(1)?.split('-').next()?.parse().ok()?;
        Some((at.to_owned(), pid))
    };
    let mut found: Vec<_> = table.lines().filter_map(of).collect();
    found.sort_by_key(|(at, _)| std::cmp::Reverse(at.len()));
    found
}

/// Mount points that carry the name of process `pid`.
pub fn left_by(pid: u32) -> Vec<String> {
    mounts().into_iter().filter(|(_, owner)| *owner == pid).map(|(at, _)| at).collect()
}

/// Unmounts what labs left whose process is gone.
pub fn sweep() {
    for (at, _) in mounts().into_iter().filter(|(_, pid)| !lives(*pid)) {
        let _gone = run("umount", &["-l", &at]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_was_not_synced_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.journal");
        fs::write(&path, [1, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        let (kept, written) = ([1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 2, 0, 2, 2, 0, 0]);
        assert!(tear(&path, &written, &kept).unwrap());
        assert_eq!(fs::read(&path).unwrap(), [1, 1, 2, 0, 0, 0, 0, 0]);
        assert!(!tear(&path, &kept, &kept).unwrap());
    }
}
