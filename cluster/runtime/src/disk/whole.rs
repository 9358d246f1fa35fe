//! Files that are read and replaced as a whole.

use super::Disk;
use std::io;
use std::path::Path;

/// Extension of the file that is written beside before it takes the name. What is found with it is left of an interrupted [`replace`].
pub const BESIDE: &str = "new";

/// The file's bytes; `None` if there is no such file.
///
/// # Errors
/// What the operating system says; `FileTooLarge` beyond `bytes_max`.
pub fn read(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.size()?;
    let length = usize::try_from(size).ok().filter(|_| size <= bytes_max).ok_or(io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; length];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(Some(bytes))
}

/// Makes `bytes` the file's content; durable when this returns. A crash at any moment leaves the old content or the new.
///
/// # Errors
/// What the operating system says.
pub fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(BESIDE);
    remove_if_there(disk, &beside)?;
    let file = disk.create(&beside)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&beside, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("")))
}

/// Removes the file's name; no error if there is none.
///
/// # Errors
/// What the operating system says.
pub fn remove_if_there(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether there is a file of this name.
///
/// # Errors
/// What the operating system says.
pub fn is_there(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Crash, MemDisk};

    #[test]
    fn a_file_is_replaced_as_a_whole_and_durably() {
        let (disk, path) = (MemDisk::new(), Path::new("/d/f"));
        assert!(!is_there(&disk, path).unwrap());
        assert_eq!(read(&disk, path, 9).unwrap(), None);
        for content in [&b"longer"[..], b"short"] {
            disk.create(Path::new("/d/f.new")).unwrap().write_at(b"left of a crash", 0).unwrap();
            replace(&disk, path, content).unwrap();
            disk.crash(Crash::DropUnsynced);
            assert_eq!(read(&disk, path, 9).unwrap().unwrap(), content);
        }
        assert_eq!(read(&disk, path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(is_there(&disk, path).unwrap());
        remove_if_there(&disk, path).unwrap();
        remove_if_there(&disk, path).unwrap();
        assert!(!is_there(&disk, path).unwrap());
    }
}
