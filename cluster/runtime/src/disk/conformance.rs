//! What every [`Disk`] must do, the real one and the fake alike; and what the fake alone must do.

use std::path::{Path, PathBuf};
use std::{env, fs, io, process};

use super::{Crash, Disk, MemDisk, RealDisk};

/// A directory of the real disk that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(env::temp_dir().join(format!("docent-disk-{}-{name}", process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn on_each(name: &str, promise: impl Fn(&dyn Disk, &Path)) {
    let scratch = Scratch::new(name);
    for (disk, dir) in [(&RealDisk as &dyn Disk, scratch.0.join("a/b")), (&MemDisk::new(), PathBuf::from("/d"))] {
        disk.create_dir_all(&dir).unwrap();
        disk.create_dir_all(&dir).unwrap();
        promise(disk, &dir);
    }
}

#[test]
fn what_is_written_is_read_back_and_gaps_are_zeros() {
    on_each("read", |disk, dir| {
        let file = disk.create(&dir.join("f")).unwrap();
        file.write_at(b"tail", 8).unwrap();
        file.write_at(b"he", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(file.size().unwrap(), 12);
        let mut bytes = [9; 20];
        assert_eq!(disk.open(&dir.join("f")).unwrap().read_at(&mut bytes, 0).unwrap(), 12);
        assert_eq!(&bytes[..12], b"he\0\0\0\0\0\0tail");
        assert_eq!(file.read_at(&mut bytes, 12).unwrap(), 0);
        assert_eq!(file.read_at(&mut bytes, 1000).unwrap(), 0);
    });
}

#[test]
fn names_are_created_renamed_listed_and_removed() {
    on_each("names", |disk, dir| {
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.join(name));
        disk.create(&b).unwrap().write_at(b"b", 0).unwrap();
        disk.create(&a).unwrap();
        assert_eq!(disk.create(&a).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.list(dir).unwrap(), ["a", "b"]);
        let open = disk.open(&b).unwrap();
        disk.rename(&b, &a).unwrap();
        disk.rename(&a, &c).unwrap();
        disk.sync_dir(dir).unwrap();
        assert_eq!(disk.list(dir).unwrap(), ["c"]);
        disk.remove(&c).unwrap();
        assert_eq!(open.read_at(&mut [0], 0).unwrap(), 1, "an open file outlives its name");
        for gone in [disk.remove(&c), disk.open(&c).map(drop), disk.rename(&c, &a)] {
            assert_eq!(gone.err().unwrap().kind(), io::ErrorKind::NotFound);
        }
    });
}

#[test]
fn a_lock_has_one_holder_until_it_is_dropped() {
    on_each("lock", |disk, dir| {
        let path = dir.join("lock");
        let held = disk.lock(&path).unwrap();
        assert_eq!(disk.lock(&path).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        disk.lock(&path).unwrap();
    });
}

#[test]
fn the_fake_loses_what_was_not_synced() {
    let (disk, dir) = (MemDisk::new(), Path::new("/d"));
    let process = disk.process();
    let file = process.create(&dir.join("f")).unwrap();
    file.write_at(b"kept", 0).unwrap();
    file.sync().unwrap();
    process.sync_dir(dir).unwrap();
    file.write_at(b"lost", 2).unwrap();
    process.create(&dir.join("g")).unwrap().sync().unwrap();
    disk.crash(Crash::DropUnsynced);
    assert!(file.sync().is_err() && process.list(dir).is_err(), "the process is dead");
    assert_eq!(disk.list(dir).unwrap(), ["f"]);
    let mut bytes = [0; 6];
    assert_eq!(disk.open(&dir.join("f")).unwrap().read_at(&mut bytes, 0).unwrap(), 4);
    assert_eq!(&bytes[..4], b"kept");
}

#[test]
fn the_fake_tears_an_unsynced_write_at_sectors_and_the_same_way_each_time() {
    let torn = |seed| {
        let disk = MemDisk::new();
        let file = disk.create(Path::new("/f")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(&[1; 512 * 64], 0).unwrap();
        disk.crash(Crash::Tear(seed));
        let file = disk.open(Path::new("/f")).unwrap();
        let mut bytes = vec![0; 512 * 64];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    let bytes = torn(1);
    assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
    assert!(bytes.contains(&0) && bytes.contains(&1));
    assert_eq!(bytes, torn(1));
    assert_ne!(bytes, torn(2));
}

#[test]
fn the_fake_runs_full_and_fails_syncs_on_command() {
    let disk = MemDisk::new();
    let file = disk.create(Path::new("/f")).unwrap();
    disk.set_capacity(Some(10));
    file.write_at(&[1; 10], 0).unwrap();
    assert_eq!(file.write_at(&[1; 2], 9).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(&[2; 10], 0).unwrap();
    disk.fail_syncs_after(1);
    file.sync().unwrap();
    assert!(file.sync().is_err() && disk.sync_dir(Path::new("/")).is_err());
}
