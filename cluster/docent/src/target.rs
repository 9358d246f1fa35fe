//! Where a command writes data: a file that appears under its name only when it is complete, or stdout.

use crate::failure::{Failure, Result};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// An open output.
pub struct Target {
    out: BufWriter<Box<dyn Write + Send>>,
    /// The file that is being written, and its final name.
    partial: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// `path`, or stdout.
    pub fn open(path: Option<&Path>) -> Result<Target> {
        let Some(path) = path else {
            return Ok(Target { out: BufWriter::with_capacity(1 << 18, Box::new(std::io::stdout())), partial: None });
        };
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = std::fs::File::create(&partial).map_err(|error| Failure::io("write", &partial, &error))?;
        let out: Box<dyn Write + Send> = Box::new(file);
        Ok(Target { out: BufWriter::with_capacity(1 << 18, out), partial: Some((partial, path.to_owned())) })
    }

    /// For messages.
    pub fn name(&self) -> String {
        self.partial.as_ref().map_or_else(|| "stdout".to_owned(), |(_, path)| path.display().to_string())
    }

    /// Writes a part; the failure names the file.
    pub fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
        write(&mut self.out).map_err(|error| match error.kind() {
            // `docent export ... | head` has what it wants; there is nobody left to tell.
            std::io::ErrorKind::BrokenPipe if self.partial.is_none() => Failure::failed("the reader of stdout is gone"),
            _ => Failure::failed(format!("cannot write {}: {error}", self.name())),
        })
    }

    /// Gives the file its name.
    pub fn finish(mut self) -> Result<()> {
        self.write(|out| out.flush())?;
        match self.partial.take() {
            None => Ok(()),
            Some((partial, path)) => {
                std::fs::rename(&partial, &path).map_err(|error| Failure::io("write", &path, &error))
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some((partial, _)) = &self.partial {
            // The failure that brings us here is the one to tell.
            let _ = std::fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_only_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let mut target = Target::open(Some(&path)).unwrap();
        target.write(|out| out.write_all(b"half")).unwrap();
        drop(target);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut target = Target::open(Some(&path)).unwrap();
        target.write(|out| out.write_all(b"whole")).unwrap();
        target.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut target = Target::open(Some(&path)).unwrap();
        let failure = target.write(|_| Err(std::io::Error::other("disk full"))).unwrap_err();
        assert!(failure.to_string().contains("disk full") && failure.to_string().contains("out"), "{failure}");
        assert!(Target::open(Some(&dir.path().join("no/such/dir"))).is_err());
    }
}
