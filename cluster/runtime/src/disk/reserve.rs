//! Room kept back on a file system, so that a member stops taking data before its disk runs out, and never runs out half-way through
//! what it has taken.
//!
//! Two marks and a ballast. Below the first mark the member is [`Room::Low`]: it takes no more data and gives its leaderships away.
//! Below the second it is [`Room::Out`], and the ballast, a file that only takes room, is let go: what is in flight still fits. The
//! ballast also goes as soon as any write through [`Reserve::disk`] meets a full disk, however fast somebody else filled it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Disk, DiskFile, DiskLock, Space};

/// On a small disk the reserve is this part of it.
const SHARE_OF_DISK: u64 = 8;
/// How often somebody who waits for room looks again.
const LOOK: Duration = Duration::from_millis(100);
const BALLAST: &str = "ballast";

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Less than half of the reserve: nothing is taken.
    Out,
    /// Less than the reserve: nothing is taken from others, and leaderships are given away.
    Low,
    /// More.
    Enough,
}

/// Watches one file system. Clones share it.
#[derive(Clone)]
pub struct Reserve {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes: u64,
    room: watch::Sender<Room>,
    state: Mutex<State>,
    /// Notified when the wait for room is over for good.
    closed: Condvar,
}

#[derive(Default)]
struct State {
    has_ballast: bool,
    is_closed: bool,
}

impl Reserve {
    /// Keeps `bytes` back, an eighth of the disk at most, on the file system of `dir`; 0 keeps nothing. A disk that is full already is no
    /// error: it gets its ballast back.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, bytes: u64) -> io::Result<Reserve> {
        let bytes = bytes.min(disk.space(dir)?.total_bytes / SHARE_OF_DISK);
        // One that was left may be full of holes (a copied directory), and on a full disk its room is wanted now.
        if disk.list(dir)?.iter().any(|name| name == BALLAST) {
            disk.remove(&dir.join(BALLAST))?;
        }
        let state = Mutex::default();
        let room = watch::channel(Room::Enough).0;
        let reserve = Reserve {
            shared: Arc::new(Shared { disk, dir: dir.to_owned(), bytes, room, state, closed: Condvar::new() }),
        };
        reserve.look()?;
        Ok(reserve)
    }

    /// What is kept back.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes
    }

    /// The room as of the last look.
    pub fn room(&self) -> Room {
        *self.shared.room.borrow()
    }

    /// The room and its changes.
    pub fn watch(&self) -> watch::Receiver<Room> {
        self.shared.room.subscribe()
    }

    /// Looks how much room there is, and lets go of the ballast or takes it again. Blocks for moments.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn look(&self) -> io::Result<Space> {
        let mut state = self.shared.state();
        let space = self.shared.disk.space(&self.shared.dir)?;
        let room = next(*self.shared.room.borrow(), space.free_bytes, self.shared.bytes);
        match room {
            Room::Out => self.shared.drop_ballast(&mut state)?,
            Room::Enough => self.shared.take_ballast(&mut state, space.free_bytes)?,
            Room::Low => {}
        }
        self.shared.room.send_if_modified(|last| std::mem::replace(last, room) != room);
        Ok(space)
    }

    /// Waits until `bytes` and a little more fit, or [`Reserve::close`] is called. Blocks the thread.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn wait_for(&self, bytes: u64) -> io::Result<()> {
        let need = bytes + self.shared.bytes / 16;
        if self.shared.bytes == 0 || self.shared.disk.space(&self.shared.dir)?.free_bytes >= need {
            return Ok(());
        }
        // The ballast goes, and the wait starts only where that is not enough.
        while self.look()?.free_bytes < need && self.shared.disk.space(&self.shared.dir)?.free_bytes < need {
            let state = self.shared.state();
            if state.is_closed {
                return Ok(());
            }
            drop(self.shared.closed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner));
        }
        Ok(())
    }

    /// Ends every wait for room, now and from now on.
    pub fn close(&self) {
        self.shared.state().is_closed = true;
        self.shared.closed.notify_all();
    }

    /// The disk, except that a write that finds it full lets go of the ballast and is made again.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(Reserved(self.clone()))
    }

    /// The disk ran full under a write: whether there may be room now.
    fn ran_full(&self) -> bool {
        let mut state = self.shared.state();
        let had_ballast = state.has_ballast;
        if self.shared.bytes == 0 {
            return false;
        }
        self.shared.room.send_if_modified(|last| std::mem::replace(last, Room::Out) != Room::Out);
        self.shared.drop_ballast(&mut state).is_ok() && had_ballast
    }
}

/// The next room; what comes back must be more than what went, so that it does not go to and fro.
fn next(last: Room, free: u64, reserve: u64) -> Room {
    let (low, out) = match last {
        Room::Enough => (reserve, reserve / 2),
        Room::Low => (reserve + reserve / 2, reserve / 2),
        Room::Out => (reserve + reserve / 2, reserve),
    };
    match free {
        free if free < out => Room::Out,
        free if free < low => Room::Low,
        _ => Room::Enough,
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_ballast(&self, state: &mut State) -> io::Result<()> {
        if std::mem::take(&mut state.has_ballast) {
            self.disk.remove(&self.dir.join(BALLAST))?;
        }
        Ok(())
    }

    /// Takes a quarter of the reserve, where the rest stays above the first mark.
    fn take_ballast(&self, state: &mut State, free_bytes: u64) -> io::Result<()> {
        let bytes = self.bytes / 4;
        if state.has_ballast || bytes == 0 || free_bytes < self.bytes + 2 * bytes {
            return Ok(());
        }
        let path = self.dir.join(BALLAST);
        let file = self.disk.create(&path)?;
        match file.allocate(bytes) {
            Ok(()) => state.has_ballast = true,
            // Somebody else was faster: the next look tells.
            Err(_) => self.disk.remove(&path)?,
        }
        Ok(())
    }
}

struct Reserved(Reserve);

impl Reserved {
    fn disk(&self) -> &dyn Disk {
        &*self.0.shared.disk
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(ReservedFile { file, reserve: self.0.clone() })
    }
}

impl Disk for Reserved {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk().create_dir_all(dir)
    }

    fn create_private_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk().create_private_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk().list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk().create(path).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk().open(path).map(|file| self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk().remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk().sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk().lock(path)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk().space(dir)
    }
}

struct ReservedFile {
    file: Arc<dyn DiskFile>,
    reserve: Reserve,
}

impl DiskFile for ReservedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.file.write_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.reserve.ran_full() => {
                self.file.write_at(bytes, offset)
            }
            done => done,
        }
    }

    fn sync(&self) -> io::Result<Duration> {
        self.file.sync()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    const MIB: u64 = 1 << 20;

    fn disk() -> (MemDisk, Arc<dyn Disk>) {
        let disk = MemDisk::new();
        disk.set_capacity(Some(128 * MIB));
        (disk.clone(), Arc::new(disk))
    }

    fn fill(disk: &dyn Disk, name: &str, bytes: u64) {
        disk.create(Path::new(name)).unwrap().allocate(bytes).unwrap();
    }

    #[test]
    fn room_goes_step_by_step_and_comes_back_later_than_it_went() {
        let rooms = [
            (Room::Enough, 99),
            (Room::Low, 149),
            (Room::Low, 49),
            (Room::Out, 99),
            (Room::Out, 149),
            (Room::Out, 150),
        ];
        let next: Vec<Room> = rooms.iter().map(|(last, free)| next(*last, *free, 100)).collect();
        assert_eq!(next, [Room::Low, Room::Low, Room::Out, Room::Out, Room::Low, Room::Enough]);
        assert_eq!(super::next(Room::Enough, 0, 0), Room::Enough);
    }

    #[test]
    fn a_disk_that_runs_full_gets_its_ballast_and_takes_it_again_when_there_is_room() {
        let (fake, disk) = disk();
        let reserve = Reserve::open(Arc::clone(&disk), Path::new("/d"), 256 * MIB).unwrap();
        assert_eq!((reserve.bytes(), reserve.room(), fake.used_bytes()), (16 * MIB, Room::Enough, 4 * MIB));
        fill(&*disk, "/other", 110 * MIB);
        reserve.look().unwrap();
        assert_eq!((reserve.room(), fake.used_bytes()), (Room::Low, 114 * MIB));
        fill(&*disk, "/another", 10 * MIB);
        reserve.look().unwrap();
        assert_eq!((reserve.room(), fake.used_bytes()), (Room::Out, 120 * MIB), "the ballast is gone");
        disk.remove(Path::new("/other")).unwrap();
        reserve.look().unwrap();
        assert_eq!((reserve.room(), fake.used_bytes()), (Room::Enough, 14 * MIB));
    }

    #[test]
    fn a_write_that_meets_a_full_disk_is_made_in_the_place_of_the_ballast() {
        let (_, disk) = disk();
        let reserve = Reserve::open(Arc::clone(&disk), Path::new("/d"), 16 * MIB).unwrap();
        let file = reserve.disk().create(Path::new("/d/journal")).unwrap();
        fill(&*disk, "/other", 124 * MIB);
        file.write_at(b"a vote", 0).unwrap();
        assert_eq!(reserve.room(), Room::Out);
        fill(&*disk, "/more", 4 * MIB - 6);
        assert_eq!(file.write_at(b"more", 6).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn who_waits_for_room_goes_on_when_it_is_there_or_the_process_ends() {
        let (_, disk) = disk();
        let reserve = Reserve::open(Arc::clone(&disk), Path::new("/d"), 16 * MIB).unwrap();
        fill(&*disk, "/other", 124 * MIB);
        reserve.wait_for(MIB).unwrap();
        fill(&*disk, "/more", 4 * MIB);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| reserve.wait_for(MIB));
            disk.remove(Path::new("/more")).unwrap();
            waiting.join().unwrap().unwrap();
        });
        fill(&*disk, "/more", 4 * MIB);
        reserve.close();
        reserve.wait_for(MIB).unwrap();
    }
}
