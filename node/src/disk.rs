//! What a node does about its disk: gives leaderships away while there is little room, ends when its store has failed, and says what to
//! do where a start cannot go on.

use crate::identity::Identity;
use crate::shards::{Hosted, Shards};
use docent_journal::Journal;
use docent_meta::Meta;
use docent_raft::{MemberStatus, Status};
use docent_runtime::disk::{Reserve, Room, Space};
use docent_runtime::{Engine, Platform, Threads};
use docent_store::Store;
use docent_types::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the room is looked at: what can be written in this time must be far less than the reserve.
const LOOK: Duration = Duration::from_millis(200);
/// How long handing over one shard may take before it is tried again.
const HAND_OVER: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;

/// Watches the disk for the life of a node.
pub(crate) struct Watch {
    pub(crate) dir: PathBuf,
    pub(crate) reserve: Reserve,
    pub(crate) store: Store,
    pub(crate) shards: Arc<Shards>,
    pub(crate) threads: Threads,
}

impl Watch {
    /// Looks again and again. An error ends the node.
    pub(crate) async fn run(self) -> Result<()> {
        let mut last = Room::Enough;
        loop {
            if let Some(reason) = self.store.failure() {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("{reason}; start the node again: it rebuilds its state by itself"),
                ));
            }
            let reserve = self.reserve.clone();
            // A network file system may hang.
            let looked = self.threads.blocking(move || reserve.look()).await;
            match looked.and_then(|space| space) {
                Ok(space) => self.tell(&mut last, space),
                Err(error) => {
                    tracing::warn!(dir = %self.dir.display(), %error, "cannot see how much room the disk has")
                }
            }
            if self.reserve.room() <= Room::Low {
                futures::future::join_all(self.shards.all().into_iter().map(hand_over)).await;
            }
            tokio::time::sleep(LOOK).await; // between looks
        }
    }

    fn tell(&self, last: &mut Room, space: Space) {
        let room = self.reserve.room();
        metrics::gauge!("docent_disk_free_bytes").set(space.free_bytes as f64);
        metrics::gauge!("docent_disk_is_full").set(f64::from(u8::from(room <= Room::Low)));
        let (free, reserve) = (space.free_bytes / MIB, self.reserve.bytes() / MIB);
        let dir = self.dir.display();
        if room != *last {
            match room {
                Room::Enough => {
                    tracing::info!(%dir, free_mib = free, "the disk has room again: this node takes writes")
                }
                _ => tracing::error!(
                    %dir,
                    free_mib = free,
                    reserve_mib = reserve,
                    "the disk is full: this node takes no writes and goes on reading; free space, it goes on by itself"
                ),
            }
        }
        *last = room;
    }
}

/// Gives the leadership of a shard to the voter that has most of its log and room for more.
async fn hand_over(hosted: Arc<Hosted>) {
    let status = hosted.group.status();
    let Some(to) = heir(&status, |replica| hosted.group.has_room(replica)) else { return };
    match hosted.group.transfer_leader(to, HAND_OVER).await {
        Ok(()) => tracing::info!(shard = %hosted.id, to, "gave the leadership away: the disk is full"),
        Err(error) => tracing::debug!(shard = %hosted.id, %error, "the leadership was not given away yet"),
    }
}

fn heir(status: &Status, has_room: impl Fn(u64) -> bool) -> Option<u64> {
    if !status.is_leader() {
        return None;
    }
    let id = |member: &MemberStatus| member.member.replica;
    let others = status.members.iter().filter(|member| member.is_voter && id(member) != status.replica);
    let able = others.map(id).filter(|replica| has_room(*replica));
    able.max_by_key(|replica| status.matched.get(replica).copied().flatten())
}

/// What to do about a data directory that has lost what cannot be rebuilt.
fn start_over(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "this node cannot be what it was: empty {dir}, `docent nodes remove` it, and let it join as a new node with a new token \
         (`docent token create`); what it held is on the other replicas"
    )
}

/// Opens the node's metadata.
pub(crate) fn open_meta(dir: &Path, platform: &Platform) -> Result<Meta> {
    let path = dir.join("meta");
    // sled's own checks of its files are assertions in places.
    let opened = match platform.engine {
        Engine::Embedded => std::panic::catch_unwind(|| Meta::open(&path)),
        Engine::Twin => Ok(Meta::open_twin(platform.disk.clone(), &path)),
    };
    let damaged = |what: &str| {
        Error::new(
            Kind::Corrupt,
            format!("the metadata in {} is damaged ({what}); {}", path.display(), start_over(dir)),
        )
    };
    match opened {
        Ok(Ok(meta)) => Ok(meta),
        Ok(Err(error)) => {
            let text = error.to_string();
            let is_damage = ["orrupt", "checksum", "crc", "Unsupported", "end of file", "fill whole buffer"]
                .iter()
                .any(|sign| text.contains(sign));
            Err(if is_damage { damaged(&text) } else { Error::new(Kind::Internal, text) })
        }
        Err(_) => Err(damaged("it cannot be read")),
    }
}

/// A node without a name but with logs has lost its metadata: as a new node it would not know what it has promised.
pub(crate) fn check_identity(dir: &Path, identity: &Identity, journal: &Journal) -> Result<()> {
    if identity.record.member.is_some() || journal.groups().is_empty() {
        return Ok(());
    }
    let message =
        format!("{} has logs of shards, but its metadata does not say whose; {}", dir.display(), start_over(dir));
    Err(Error::new(Kind::Corrupt, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_raft::{Member, Role};

    fn status(role: Role) -> Status {
        let member = |replica| MemberStatus {
            member: Member { replica, node: replica, addr: String::new() },
            is_voter: replica < 4,
        };
        let matched = [(2, Some(9)), (3, Some(8)), (4, Some(10))].into_iter().collect();
        Status { replica: 1, role, members: (1..=4).map(member).collect(), matched, ..Status::default() }
    }

    #[test]
    fn a_leadership_goes_to_the_voter_with_room_that_has_most_of_the_log() {
        assert_eq!(heir(&status(Role::Leader), |_| true), Some(2));
        assert_eq!(heir(&status(Role::Leader), |replica| replica != 2), Some(3));
        assert_eq!(heir(&status(Role::Leader), |_| false), None);
        assert_eq!(heir(&status(Role::Follower), |_| true), None);
    }
}
