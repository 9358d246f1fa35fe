//! Everything that a trial may do to a cluster: the one vocabulary of both worlds and of the drills.
//!
//! A fault is one line of text, `partition node-1 from rest`, and is read back from it; see [`Kind`] for every verb. What a fault does stays
//! until another undoes it ([`Fault::undone`], [`Fault::Heal`]) or its member ends.

mod line;

use crate::name::{Group, Member};
use crate::target::Target;
use crate::text::named;
use std::collections::BTreeSet;

named! {
    /// What a fault does, without whom and how much: its verb.
    "fault" Kind {
        /// Ends a process at once: SIGKILL. It stays dead until it is restarted.
        Kill = "kill",
        /// Stops a process where it stands: SIGSTOP.
        Pause = "pause",
        /// Lets a paused process go on: SIGCONT.
        Continue = "continue",
        /// Starts a dead process; a living one is asked to end in order (SIGTERM) and started again.
        Restart = "restart",
        /// Ends a process at once, removes all of its data, and starts it as a new member.
        Wipe = "wipe",
        /// Ends a process at once; what it had not synced is gone from its disk.
        PowerLoss = "power-loss",
        /// Nothing passes between two sides, in either direction.
        Partition = "partition",
        /// Nothing passes from one side to the other; back it does.
        OneWay = "one-way",
        /// Two sides hear only what is between them, not each other.
        Bridge = "bridge",
        /// Packets from and to a member are lost.
        Loss = "loss",
        /// Packets from and to a member come later.
        Delay = "delay",
        /// Packets come later by a random part of this.
        Jitter = "jitter",
        /// Packets overtake each other.
        Reorder = "reorder",
        /// Packets come twice.
        Duplicate = "duplicate",
        /// Every open connection of a member is reset, once.
        Reset = "reset",
        /// What a member may send in a second is bounded.
        Bandwidth = "bandwidth",
        /// No byte can be written any more: ENOSPC.
        DiskFull = "disk-full",
        /// No file can be changed: EROFS.
        DiskReadOnly = "disk-read-only",
        /// Syncs fail: EIO.
        SyncError = "sync-error",
        /// Syncs take longer.
        SlowSync = "slow-sync",
        /// When the member next ends without order, its last unsynced write is there in part.
        TornWrite = "torn-write",
        /// When the member next ends, all that it had not synced is gone.
        LostWrites = "lost-writes",
        /// Bits on its disk change, once.
        BitRot = "bit-rot",
        /// The wall clock jumps, once.
        ClockJump = "clock-jump",
        /// The clock runs faster or slower.
        ClockDrift = "clock-drift",
        /// The share of one processor that a member may use.
        Cpu = "cpu",
        /// The memory that a member may use.
        Memory = "memory",
        /// A new node joins.
        Join = "join",
        /// A node gives everything away.
        Drain = "drain",
        /// A draining node is taken back.
        Resume = "resume",
        /// A drained or dead node is removed from the cluster for good.
        Remove = "remove",
        /// A node is removed and a new one joins in its place.
        Replace = "replace",
        /// Nodes and their disks are gone for good. Shards that are left without a majority go on from the survivor that has most of their
        /// log, by an operator's order, and the nodes are removed. What else had been acked is lost, and said: `recovered`.
        LoseForGood = "lose-for-good",
        /// A replica moves from one node to another.
        MoveShard = "move-shard",
        /// A group gets another leader.
        TransferLeader = "transfer-leader",
        /// A training job begins.
        Train = "train",
        /// A staged version goes live.
        Activate = "activate",
        /// The version before goes live again.
        RollBack = "roll-back",
        /// A member is stopped in order and started with another version of the program.
        RestartWith = "restart-with",
        /// Undoes faults of a layer.
        Heal = "heal",
    }
}

named! {
    /// What kind of thing is broken, and what [`Fault::Heal`] mends.
    "layer" Layer {
        /// Dead and paused processes run again.
        Process = "process",
        /// Nothing is cut, lost, late, repeated or bounded any more.
        Network = "network",
        /// Disks have room, can be written and synced, and forget nothing. What is lost or rotten stays so.
        Disk = "disk",
        /// Clocks run right again, from the true time.
        Clock = "clock",
        /// Processor and memory are unbounded again.
        Resource = "resource",
        /// What an operator does; healing takes draining nodes back.
        Operator = "operator",
        /// All of it.
        Everything = "everything",
    }
}

impl Kind {
    /// Where it breaks things.
    pub fn layer(self) -> Layer {
        match self {
            Kind::Kill | Kind::Pause | Kind::Continue | Kind::Restart | Kind::Wipe | Kind::PowerLoss => Layer::Process,
            Kind::Partition | Kind::OneWay | Kind::Bridge | Kind::Loss | Kind::Delay => Layer::Network,
            Kind::Jitter | Kind::Reorder | Kind::Duplicate | Kind::Reset | Kind::Bandwidth => Layer::Network,
            Kind::DiskFull | Kind::DiskReadOnly | Kind::SyncError | Kind::SlowSync => Layer::Disk,
            Kind::TornWrite | Kind::LostWrites | Kind::BitRot => Layer::Disk,
            Kind::ClockJump | Kind::ClockDrift => Layer::Clock,
            Kind::Cpu | Kind::Memory => Layer::Resource,
            Kind::Join | Kind::Drain | Kind::Resume | Kind::Remove | Kind::Replace | Kind::MoveShard => Layer::Operator,
            Kind::LoseForGood
            | Kind::TransferLeader
            | Kind::Train
            | Kind::Activate
            | Kind::RollBack
            | Kind::RestartWith => Layer::Operator,
            Kind::Heal => Layer::Everything,
        }
    }

    /// Whether a member that it hits may be of no use to its cluster while it lasts: what counts against a minority.
    pub fn takes_down(self) -> bool {
        matches!(
            self,
            Kind::Kill
                | Kind::Pause
                | Kind::Wipe
                | Kind::PowerLoss
                | Kind::Partition
                | Kind::OneWay
                | Kind::Bridge
                | Kind::DiskFull
                | Kind::DiskReadOnly
                | Kind::SyncError
                | Kind::BitRot
                | Kind::RestartWith
                | Kind::Restart
                | Kind::Replace
                | Kind::LoseForGood
        )
    }
}

/// Something done to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// See [`Kind::Kill`].
    Kill(Target),
    /// See [`Kind::Pause`].
    Pause(Target),
    /// See [`Kind::Continue`].
    Continue(Target),
    /// See [`Kind::Restart`].
    Restart(Target),
    /// See [`Kind::Wipe`].
    Wipe(Target),
    /// See [`Kind::PowerLoss`].
    PowerLoss(Target),
    /// See [`Kind::Partition`].
    Partition {
        /// One side.
        side: Target,
        /// The other; [`Target::Rest`] for everybody else.
        from: Target,
    },
    /// See [`Kind::OneWay`].
    OneWay {
        /// Whose packets are dropped.
        from: Target,
        /// Who does not get them.
        to: Target,
    },
    /// See [`Kind::Bridge`].
    Bridge {
        /// One side.
        side: Target,
        /// The other.
        from: Target,
        /// Who hears both; may be [`Target::Rest`].
        through: Target,
    },
    /// See [`Kind::Loss`].
    Loss {
        /// Whose packets.
        on: Target,
        /// Of 100.
        percent: u8,
    },
    /// See [`Kind::Delay`].
    Delay {
        /// Whose packets.
        on: Target,
        /// Milliseconds, one way.
        ms: u32,
    },
    /// See [`Kind::Jitter`].
    Jitter {
        /// Whose packets.
        on: Target,
        /// Milliseconds at most.
        ms: u32,
    },
    /// See [`Kind::Reorder`].
    Reorder {
        /// Whose packets.
        on: Target,
        /// Of 100.
        percent: u8,
    },
    /// See [`Kind::Duplicate`].
    Duplicate {
        /// Whose packets.
        on: Target,
        /// Of 100.
        percent: u8,
    },
    /// See [`Kind::Reset`].
    Reset(Target),
    /// See [`Kind::Bandwidth`].
    Bandwidth {
        /// Whose.
        on: Target,
        /// Thousand bits a second.
        kbit: u32,
    },
    /// See [`Kind::DiskFull`].
    DiskFull(Target),
    /// See [`Kind::DiskReadOnly`].
    DiskReadOnly(Target),
    /// See [`Kind::SyncError`].
    SyncError(Target),
    /// See [`Kind::SlowSync`].
    SlowSync {
        /// Whose.
        on: Target,
        /// Milliseconds more for each sync.
        ms: u32,
    },
    /// See [`Kind::TornWrite`].
    TornWrite(Target),
    /// See [`Kind::LostWrites`].
    LostWrites(Target),
    /// See [`Kind::BitRot`].
    BitRot {
        /// Whose.
        on: Target,
        /// How many bits flip.
        bits: u32,
    },
    /// See [`Kind::ClockJump`].
    ClockJump {
        /// Whose.
        on: Target,
        /// Milliseconds, forward or back.
        ms: i64,
    },
    /// See [`Kind::ClockDrift`].
    ClockDrift {
        /// Whose.
        on: Target,
        /// Millionths faster, or slower.
        ppm: i32,
    },
    /// See [`Kind::Cpu`].
    Cpu {
        /// Whose.
        on: Target,
        /// Of one processor.
        percent: u8,
    },
    /// See [`Kind::Memory`].
    Memory {
        /// Whose.
        on: Target,
        /// MiB.
        mib: u32,
    },
    /// See [`Kind::Join`].
    Join {
        /// In which zone; `None` for the world's choice.
        zone: Option<String>,
    },
    /// See [`Kind::Drain`].
    Drain(Target),
    /// See [`Kind::Resume`].
    Resume(Target),
    /// See [`Kind::Remove`].
    Remove(Target),
    /// See [`Kind::Replace`].
    Replace(Target),
    /// See [`Kind::LoseForGood`].
    LoseForGood(Target),
    /// See [`Kind::MoveShard`].
    MoveShard {
        /// Which shard.
        shard: Group,
        /// Who gives its replica away.
        from: Target,
        /// Who gets one.
        to: Target,
    },
    /// See [`Kind::TransferLeader`].
    TransferLeader {
        /// Which group.
        group: Group,
        /// To whom.
        to: Target,
    },
    /// See [`Kind::Train`].
    Train,
    /// See [`Kind::Activate`].
    Activate {
        /// Which; the newest staged one where none is named.
        version: Option<u64>,
    },
    /// See [`Kind::RollBack`].
    RollBack,
    /// See [`Kind::RestartWith`].
    RestartWith {
        /// Whom.
        on: Target,
        /// What the world calls that program: `previous`, `current`, a path without blanks.
        version: String,
    },
    /// See [`Kind::Heal`].
    Heal {
        /// Whose.
        on: Target,
        /// What.
        layer: Layer,
    },
}

impl Fault {
    /// Its verb.
    pub fn kind(&self) -> Kind {
        match self {
            Fault::Kill(_) => Kind::Kill,
            Fault::Pause(_) => Kind::Pause,
            Fault::Continue(_) => Kind::Continue,
            Fault::Restart(_) => Kind::Restart,
            Fault::Wipe(_) => Kind::Wipe,
            Fault::PowerLoss(_) => Kind::PowerLoss,
            Fault::Partition { .. } => Kind::Partition,
            Fault::OneWay { .. } => Kind::OneWay,
            Fault::Bridge { .. } => Kind::Bridge,
            Fault::Loss { .. } => Kind::Loss,
            Fault::Delay { .. } => Kind::Delay,
            Fault::Jitter { .. } => Kind::Jitter,
            Fault::Reorder { .. } => Kind::Reorder,
            Fault::Duplicate { .. } => Kind::Duplicate,
            Fault::Reset(_) => Kind::Reset,
            Fault::Bandwidth { .. } => Kind::Bandwidth,
            Fault::DiskFull(_) => Kind::DiskFull,
            Fault::DiskReadOnly(_) => Kind::DiskReadOnly,
            Fault::SyncError(_) => Kind::SyncError,
            Fault::SlowSync { .. } => Kind::SlowSync,
            Fault::TornWrite(_) => Kind::TornWrite,
            Fault::LostWrites(_) => Kind::LostWrites,
            Fault::BitRot { .. } => Kind::BitRot,
            Fault::ClockJump { .. } => Kind::ClockJump,
            Fault::ClockDrift { .. } => Kind::ClockDrift,
            Fault::Cpu { .. } => Kind::Cpu,
            Fault::Memory { .. } => Kind::Memory,
            Fault::Join { .. } => Kind::Join,
            Fault::Drain(_) => Kind::Drain,
            Fault::Resume(_) => Kind::Resume,
            Fault::Remove(_) => Kind::Remove,
            Fault::Replace(_) => Kind::Replace,
            Fault::LoseForGood(_) => Kind::LoseForGood,
            Fault::MoveShard { .. } => Kind::MoveShard,
            Fault::TransferLeader { .. } => Kind::TransferLeader,
            Fault::Train => Kind::Train,
            Fault::Activate { .. } => Kind::Activate,
            Fault::RollBack => Kind::RollBack,
            Fault::RestartWith { .. } => Kind::RestartWith,
            Fault::Heal { .. } => Kind::Heal,
        }
    }

    /// Whom it hits in the first place; `None` where it is about nobody in particular.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Fault::Kill(on) | Fault::Pause(on) | Fault::Continue(on) | Fault::Restart(on) | Fault::Wipe(on) => Some(on),
            Fault::PowerLoss(on) | Fault::Reset(on) | Fault::DiskFull(on) | Fault::DiskReadOnly(on) => Some(on),
            Fault::SyncError(on) | Fault::TornWrite(on) | Fault::LostWrites(on) | Fault::Drain(on) => Some(on),
            Fault::Resume(on) | Fault::Remove(on) | Fault::Replace(on) | Fault::LoseForGood(on) => Some(on),
            Fault::Loss { on, .. } | Fault::Delay { on, .. } | Fault::Jitter { on, .. } => Some(on),
            Fault::Reorder { on, .. } | Fault::Duplicate { on, .. } | Fault::Bandwidth { on, .. } => Some(on),
            Fault::SlowSync { on, .. } | Fault::BitRot { on, .. } | Fault::ClockJump { on, .. } => Some(on),
            Fault::ClockDrift { on, .. } | Fault::Cpu { on, .. } | Fault::Memory { on, .. } => Some(on),
            Fault::RestartWith { on, .. } | Fault::Heal { on, .. } => Some(on),
            Fault::Partition { side: on, .. } | Fault::Bridge { side: on, .. } | Fault::OneWay { from: on, .. } => {
                Some(on)
            }
            Fault::MoveShard { from: on, .. } | Fault::TransferLeader { to: on, .. } => Some(on),
            Fault::Join { .. } | Fault::Train | Fault::Activate { .. } | Fault::RollBack => None,
        }
    }

    /// The same fault at another first target; itself where it has none.
    pub fn with_target(&self, target: Target) -> Fault {
        let mut fault = self.clone();
        match &mut fault {
            Fault::Kill(on) | Fault::Pause(on) | Fault::Continue(on) | Fault::Restart(on) | Fault::Wipe(on) => {
                *on = target
            }
            Fault::PowerLoss(on) | Fault::Reset(on) | Fault::DiskFull(on) | Fault::DiskReadOnly(on) => *on = target,
            Fault::SyncError(on) | Fault::TornWrite(on) | Fault::LostWrites(on) | Fault::Drain(on) => *on = target,
            Fault::Resume(on) | Fault::Remove(on) | Fault::Replace(on) | Fault::LoseForGood(on) => *on = target,
            Fault::Loss { on, .. } | Fault::Delay { on, .. } | Fault::Jitter { on, .. } => *on = target,
            Fault::Reorder { on, .. } | Fault::Duplicate { on, .. } | Fault::Bandwidth { on, .. } => *on = target,
            Fault::SlowSync { on, .. } | Fault::BitRot { on, .. } | Fault::ClockJump { on, .. } => *on = target,
            Fault::ClockDrift { on, .. } | Fault::Cpu { on, .. } | Fault::Memory { on, .. } => *on = target,
            Fault::RestartWith { on, .. } | Fault::Heal { on, .. } => *on = target,
            Fault::Partition { side: on, .. } | Fault::Bridge { side: on, .. } | Fault::OneWay { from: on, .. } => {
                *on = target
            }
            Fault::MoveShard { from: on, .. } | Fault::TransferLeader { to: on, .. } => *on = target,
            Fault::Join { .. } | Fault::Train | Fault::Activate { .. } | Fault::RollBack => {}
        }
        fault
    }

    /// What ends this fault after its time, for the members that it hit. `None` where it is over by itself or cannot be undone.
    ///
    /// The end of a network, disk, clock or resource fault heals that whole layer of these members, other faults of it included.
    pub fn undone(&self, hit: &BTreeSet<Member>) -> Option<Fault> {
        let on: Target = hit.iter().copied().collect();
        match self.kind() {
            Kind::Continue | Kind::Restart | Kind::Wipe | Kind::Reset | Kind::BitRot | Kind::Heal => None,
            Kind::Kill | Kind::PowerLoss => Some(Fault::Restart(on)),
            Kind::Pause => Some(Fault::Continue(on)),
            Kind::Drain => Some(Fault::Resume(on)),
            Kind::RestartWith => Some(Fault::RestartWith { on, version: "current".to_owned() }),
            kind if kind.layer() == Layer::Operator => None,
            kind => Some(Fault::Heal { on, layer: kind.layer() }),
        }
    }
}

#[cfg(test)]
mod tests;
